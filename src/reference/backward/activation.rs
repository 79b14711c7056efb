//! Derivatives of the activation functions.

use crate::cell::Activation;
use crate::reference::{Real, activate};

/// The derivative of an activation with respect to its argument. At a corner it is PyTorch's: the left derivative of `Relu`,
/// `LeakyRelu`, `ThresholdedRelu` and `Elu`, and zero at both corners of `HardSigmoid`. A NaN stays a NaN.
///
/// ```
/// use gatewise::{cell::Activation, reference::activate_derivative};
/// assert_eq!(activate_derivative(Activation::Sigmoid, 0.0_f64), 0.25);
/// assert_eq!(activate_derivative(Activation::Relu, 0.0_f32), 0.0);
/// ```
pub fn activate_derivative<F: Real>(activation: Activation, x: F) -> F {
    if x.is_nan() {
        return x;
    }
    let (zero, one) = (F::zero(), F::one());
    let y = activate(activation, x);
    match activation {
        Activation::Identity => one,
        Activation::Tanh => one - y * y,
        Activation::Sigmoid => y * (one - y),
        Activation::Relu => step(x > zero, one, zero),
        Activation::LeakyRelu { alpha } => step(x > zero, one, F::of(alpha)),
        Activation::ThresholdedRelu { alpha } => step(x > F::of(alpha), one, zero),
        Activation::ScaledTanh { alpha, beta } => {
            let tanh = (F::of(beta) * x).tanh();
            F::of(alpha) * F::of(beta) * (one - tanh * tanh)
        }
        Activation::HardSigmoid { alpha, .. } => step(y > zero && y < one, F::of(alpha), zero),
        Activation::Elu { alpha } => step(x > zero, one, F::of(alpha) * x.exp()),
        Activation::Softsign => {
            let scale = one + x.abs();
            one / (scale * scale)
        }
        Activation::Softplus => activate(Activation::Sigmoid, x),
        Activation::Affine { alpha, .. } => F::of(alpha),
    }
}

fn step<F>(above: bool, yes: F, no: F) -> F {
    if above { yes } else { no }
}

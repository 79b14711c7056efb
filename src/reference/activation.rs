//! Activation functions (ONNX `Operators.md`, LSTM).

use super::Real;
use crate::cell::Activation;

/// Applies an activation to one number. A NaN stays a NaN.
///
/// ```
/// use gatewise::{cell::Activation, reference::activate};
/// assert_eq!(activate(Activation::Sigmoid, 0.0_f64), 0.5);
/// assert_eq!(activate(Activation::HARD_SIGMOID_KERAS3, 3.0_f32), 1.0);
/// ```
pub fn activate<F: Real>(activation: Activation, x: F) -> F {
    if x.is_nan() {
        return x;
    }
    let (zero, one) = (F::zero(), F::one());
    match activation {
        Activation::Identity => x,
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => one / (one + (-x).exp()),
        Activation::Relu => x.max(zero),
        Activation::LeakyRelu { alpha } => {
            if x >= zero {
                x
            } else {
                F::of(alpha) * x
            }
        }
        Activation::ThresholdedRelu { alpha } => {
            if x >= F::of(alpha) {
                x
            } else {
                zero
            }
        }
        Activation::ScaledTanh { alpha, beta } => F::of(alpha) * (F::of(beta) * x).tanh(),
        Activation::HardSigmoid { alpha, beta } => (F::of(alpha) * x + F::of(beta)).max(zero).min(one),
        Activation::Elu { alpha } => {
            if x >= zero {
                x
            } else {
                F::of(alpha) * x.exp_m1()
            }
        }
        Activation::Softsign => x / (one + x.abs()),
        // ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|): no overflow on either side.
        Activation::Softplus => x.max(zero) + (-x.abs()).exp().ln_1p(),
        Activation::Affine { alpha, beta } => F::of(alpha) * x + F::of(beta),
    }
}

//! The specification: plain loops over `ndarray`, one function per equation, generic over `f32` and `f64`. Nothing here is
//! fast; everything else in the crate is compared with it.
//!
//! # Examples
//! ```
//! use gatewise::{cell::LstmCell, reference::lstm_update};
//!
//! let cell = LstmCell::default();
//! let pre_activations = [0.0, 0.0, 1.0, 0.0]; // of i, f, g, o
//! let (h, s) = lstm_update(&cell, &pre_activations, [0.0; 3], 0.0);
//! assert_eq!(s, 0.5 * 1.0_f64.tanh()); // f s + i g
//! assert_eq!(h, 0.5 * s.tanh()); // o tanh(s)
//! ```

mod activation;
mod backward;
mod gates;
mod gradient;
mod gru;
mod layout;
mod loss;
mod lstm;
mod ops;
mod optimizer;
mod rnn;
mod sequence;
mod stack;

pub use activation::activate;
pub use backward::{
    LayerGradient, LstmUnitGradient, StepGradient, Training, activate_derivative, gru_step_backward,
    gru_update_backward, layer_backward, layer_backward_with_noise, lstm_step_backward, lstm_update_backward,
    rnn_step_backward, step_backward,
};
pub use gates::{UnitGates, layer_gates, unit_gates};
pub use gradient::{
    conv1d_grad_input, conv1d_grad_weight, dropout, gather_rows_grad, mean_steps, mean_steps_grad, sum_columns,
    unary_grad,
};
pub use gru::{gru_gate, gru_step, gru_update};
pub use layout::{gather_rows, strided_copy};
pub use loss::{point_loss, point_loss_grad, softmax_cross_entropy, softmax_cross_entropy_grad, target_class};
pub use lstm::{LstmGates, lstm_gates, lstm_step, lstm_update};
pub use ops::{argmax_rows, binary, conv1d, math, matmul, pad1d, reduce_rows, unary};
pub use optimizer::clip_coefficient;
pub use rnn::{rnn_step, rnn_update};
pub use sequence::{LayerState, RowState, layer, layer_with_noise, step};
pub(crate) use stack::{LayerPass, Stack, StackGradient, StackState, StackTape};

use ndarray::ArrayView1;
use num_traits::Float;

/// The number types the reference computes in.
pub trait Real: Float + std::iter::Sum + Send + Sync + std::fmt::Debug + 'static {
    /// The nearest value to a 32-bit float.
    fn of(x: f32) -> Self;
    /// The nearest value to a 64-bit float.
    fn near(x: f64) -> Self;
}

impl Real for f32 {
    fn of(x: f32) -> Self {
        x
    }

    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    fn near(x: f64) -> Self {
        x as f32
    }
}

impl Real for f64 {
    fn of(x: f32) -> Self {
        f64::from(x)
    }

    fn near(x: f64) -> Self {
        x
    }
}

fn dot<F: Real>(a: ArrayView1<'_, F>, b: &[F]) -> F {
    a.iter().zip(b).map(|(&a, &b)| a * b).sum()
}

fn clip<F: Real>(x: F, limit: Option<f32>) -> F {
    match limit {
        Some(limit) if !x.is_nan() => x.max(F::of(-limit)).min(F::of(limit)),
        _ => x,
    }
}

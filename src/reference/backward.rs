//! Gradients: back-propagation through time, one function per equation.
//!
//! `d` before a name is the gradient of the loss with respect to it. A step's backward pass computes its gates again from the
//! state that the step started from, so only the states are kept.

mod activation;
mod gru;
mod lstm;
mod sequence;

pub use activation::activate_derivative;
pub use gru::{gru_step_backward, gru_update_backward};
pub use lstm::{LstmUnitGradient, lstm_step_backward, lstm_update_backward};
pub use sequence::{LayerGradient, Training, layer_backward, layer_backward_with_noise, step_backward};

use super::rnn::{input, recurrent};
use super::{Real, clip};
use crate::cell::{Activation, Parameters, RnnCell};

/// The gradients with respect to everything that a step read.
#[derive(Clone, Debug, PartialEq)]
pub struct StepGradient<F> {
    /// With respect to the input, `[input]`.
    pub x: Vec<F>,
    /// With respect to the hidden state before the step, `[O]`.
    pub h: Vec<F>,
    /// With respect to the cell state before the step, `[hidden]`; empty unless the cell is an LSTM.
    pub s: Vec<F>,
    /// With respect to the cell state after the step, including the path through the step's output; empty unless the cell is an
    /// LSTM.
    pub s_next: Vec<F>,
}

/// The derivative of `act(clip(x))`. Beyond the clip it is zero; at the clip it is the derivative of the activation,
/// as in `torch.clamp`.
fn derivative<F: Real>(activation: Activation, limit: Option<f32>, x: F) -> F {
    match limit {
        Some(limit) if x.abs() > F::of(limit) => F::zero(),
        _ => activate_derivative(activation, clip(x, limit)),
    }
}

/// One step of an Elman layer backwards: `da = dh' act'(a)`, then the gradients of the unit's gate row.
///
/// # Shapes
/// As [`rnn_step`](super::rnn_step); `dh_next [hidden]`. The parameters' gradients are added to `dp`.
pub fn rnn_step_backward<F: Real>(
    cell: &RnnCell,
    p: &Parameters<F>,
    x: &[F],
    h: &[F],
    dh_next: &[F],
    dp: &mut Parameters<F>,
) -> StepGradient<F> {
    let mut d =
        StepGradient { x: vec![F::zero(); x.len()], h: vec![F::zero(); h.len()], s: Vec::new(), s_next: Vec::new() };
    for (u, &dh_next) in dh_next.iter().enumerate() {
        let a = input(p, u, x) + recurrent(p, u, h);
        let da = dh_next * derivative(cell.activation, cell.gate_clip, a);
        gate_row(p, u, (x, h), (da, da), (&mut d.x, &mut d.h), dp);
    }
    d
}

/// One gate row `a = (U x + b_ih) + (W h + b_hh)` backwards. The gradients with respect to its two sums, `d_input` and
/// `d_state`, may differ:
///
/// ```text
/// dx += U^T d_input    dU += d_input x^T    db_ih += d_input
/// dh += W^T d_state    dW += d_state h^T    db_hh += d_state
/// ```
fn gate_row<F: Real>(
    p: &Parameters<F>,
    row: usize,
    (x, h): (&[F], &[F]),
    (d_input, d_state): (F, F),
    (dx, dh): (&mut [F], &mut [F]),
    dp: &mut Parameters<F>,
) {
    for i in 0..x.len() {
        dx[i] = dx[i] + d_input * p.weight_ih[[row, i]];
        dp.weight_ih[[row, i]] = dp.weight_ih[[row, i]] + d_input * x[i];
    }
    for j in 0..h.len() {
        dh[j] = dh[j] + d_state * p.weight_hh[[row, j]];
        dp.weight_hh[[row, j]] = dp.weight_hh[[row, j]] + d_state * h[j];
    }
    if let Some(bias) = &mut dp.bias_ih {
        bias[row] = bias[row] + d_input;
    }
    if let Some(bias) = &mut dp.bias_hh {
        bias[row] = bias[row] + d_state;
    }
}

//! Elman's recurrent network.

use super::{Real, activate, clip, dot};
use crate::cell::{Parameters, RnnCell};

/// The new state of one unit from its pre-activation: `h' = act(a)`.
pub fn rnn_update<F: Real>(cell: &RnnCell, a: F) -> F {
    activate(cell.activation, clip(a, cell.gate_clip))
}

/// One step of one row: `h' = act(U x + b_ih + W h + b_hh)` (Elman 1990; the lectures' `h_t = sigma(W h + U x + b)`;
/// `torch.nn.RNN`).
///
/// # Shapes
/// `x [input]`, `h [hidden]`; parameters as [`Cell::parameters`](crate::cell::Cell::parameters) says.
pub fn rnn_step<F: Real>(cell: &RnnCell, p: &Parameters<F>, x: &[F], h: &[F]) -> Vec<F> {
    (0..h.len()).map(|u| rnn_update(cell, input(p, u, x) + recurrent(p, u, h))).collect()
}

/// The input's part of one gate row: `U x + b_ih`.
pub(super) fn input<F: Real>(p: &Parameters<F>, row: usize, x: &[F]) -> F {
    dot(p.weight_ih.row(row), x) + p.bias_ih.as_ref().map_or(F::zero(), |b| b[row])
}

/// The state's part of one gate row: `W h + b_hh`.
pub(super) fn recurrent<F: Real>(p: &Parameters<F>, row: usize, h: &[F]) -> F {
    dot(p.weight_hh.row(row), h) + p.bias_hh.as_ref().map_or(F::zero(), |b| b[row])
}

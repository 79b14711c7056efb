//! Gated recurrent unit.

use super::rnn::{input, recurrent};
use super::{Real, activate, clip};
use crate::cell::{GruCell, Mix, Parameters, Reset};

/// An `r` or `z` gate from its pre-activation.
pub fn gru_gate<F: Real>(cell: &GruCell, a: F) -> F {
    activate(cell.gate, clip(a, cell.gate_clip))
}

/// The new state of one unit from its update gate, its candidate's pre-activation and its old state.
///
/// ```text
/// n  = candidate(a_n)
/// h' = (1 - z) n + z h          z keeps the old state (PyTorch, Keras, ONNX)
/// h' = (1 - z) h + z n          z takes the new one (the lectures)
/// ```
pub fn gru_update<F: Real>(cell: &GruCell, z: F, a_n: F, h: F) -> F {
    let n = activate(cell.candidate, clip(a_n, cell.gate_clip));
    match cell.mix {
        Mix::KeepsOld => (F::one() - z) * n + z * h,
        Mix::TakesNew => (F::one() - z) * h + z * n,
    }
}

/// One step of one row.
///
/// ```text
/// r   = gate(U_r x + W_r h + b_r)
/// z   = gate(U_z x + W_z h + b_z)
/// a_n = U_n x + b_in + W_n (r h) + b_hn      reset before (Cho et al. 2014, the lectures, ONNX default)
/// a_n = U_n x + b_in + r (W_n h + b_hn)      reset after (cuDNN, torch.nn.GRU, Keras default)
/// h'  = gru_update(z, a_n, h)
/// ```
///
/// # Shapes
/// `x [input]`, `h [hidden]`.
pub fn gru_step<F: Real>(cell: &GruCell, p: &Parameters<F>, x: &[F], h: &[F]) -> Vec<F> {
    gru_step_masked(cell, p, x, h, h)
}

/// [`gru_step`] in which the products read `masked` and the mix reads `h`, as recurrent dropout needs.
pub(super) fn gru_step_masked<F: Real>(cell: &GruCell, p: &Parameters<F>, x: &[F], h: &[F], masked: &[F]) -> Vec<F> {
    let hidden = h.len();
    let gate = |block: usize, u: usize| {
        let row = block * hidden + u;
        gru_gate(cell, input(p, row, x) + recurrent(p, row, masked))
    };
    let r: Vec<F> = (0..hidden).map(|u| gate(0, u)).collect();
    let rh: Vec<F> = r.iter().zip(masked).map(|(&r, &h)| r * h).collect();
    (0..hidden)
        .map(|u| {
            let row = 2 * hidden + u;
            let state_part = match cell.reset {
                Reset::Before => recurrent(p, row, &rh),
                Reset::After => r[u] * recurrent(p, row, masked),
            };
            gru_update(cell, gate(1, u), input(p, row, x) + state_part, h[u])
        })
        .collect()
}

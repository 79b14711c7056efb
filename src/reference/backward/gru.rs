//! Gradients of the gated recurrent unit.

use super::{StepGradient, derivative, gate_row};
use crate::cell::{GruCell, Mix, Parameters, Reset};
use crate::reference::rnn::{input, recurrent};
use crate::reference::{Real, activate, clip, gru_gate};

/// [`gru_update`](super::super::gru_update) backwards; returns `(dz, da_n, dh)`.
///
/// ```text
/// keeps old:  dz = dh' (h - n)    da_n = dh' (1 - z) n'    dh = dh' z
/// takes new:  dz = dh' (n - h)    da_n = dh' z n'          dh = dh' (1 - z)
/// ```
pub fn gru_update_backward<F: Real>(cell: &GruCell, z: F, a_n: F, h: F, dh_next: F) -> (F, F, F) {
    let n = activate(cell.candidate, clip(a_n, cell.gate_clip));
    let slope = derivative(cell.candidate, cell.gate_clip, a_n);
    let one = F::one();
    match cell.mix {
        Mix::KeepsOld => (dh_next * (h - n), dh_next * (one - z) * slope, dh_next * z),
        Mix::TakesNew => (dh_next * (n - h), dh_next * z * slope, dh_next * (one - z)),
    }
}

/// [`gru_step`](super::super::gru_step) backwards.
///
/// ```text
/// reset after:   the candidate's state part is r (W_n h + b_hn): it gets r da_n, and dr = da_n (W_n h + b_hn)
/// reset before:  the candidate's state part is W_n (r h) + b_hn: d(r h) = W_n^T da_n, dr = d(r h) h, dh += d(r h) r
/// ```
///
/// # Shapes
/// `dh_next [hidden]`. The parameters' gradients are added to `dp`.
pub fn gru_step_backward<F: Real>(
    cell: &GruCell,
    p: &Parameters<F>,
    x: &[F],
    h: &[F],
    dh_next: &[F],
    dp: &mut Parameters<F>,
) -> StepGradient<F> {
    let (mut d, dh_mix) = gru_step_backward_masked(cell, p, x, (h, h), dh_next, dp);
    d.h.iter_mut().zip(dh_mix).for_each(|(d, mix)| *d = *d + mix);
    d
}

/// [`gru_step_backward`] of a step in which the products read `h` and the mix reads `h_mix`. The second result is the
/// gradient with respect to `h_mix`.
pub(super) fn gru_step_backward_masked<F: Real>(
    cell: &GruCell,
    p: &Parameters<F>,
    x: &[F],
    (h_mix, h): (&[F], &[F]),
    dh_next: &[F],
    dp: &mut Parameters<F>,
) -> (StepGradient<F>, Vec<F>) {
    let hidden = h.len();
    let before_gate = |block: usize, u: usize| {
        let row = block * hidden + u;
        input(p, row, x) + recurrent(p, row, h)
    };
    let r: Vec<F> = (0..hidden).map(|u| gru_gate(cell, before_gate(0, u))).collect();
    let rh: Vec<F> = r.iter().zip(h).map(|(&r, &h)| r * h).collect();
    let mut d =
        StepGradient { x: vec![F::zero(); x.len()], h: vec![F::zero(); hidden], s: Vec::new(), s_next: Vec::new() };
    let mut dh_mix = vec![F::zero(); hidden];
    let mut dr = vec![F::zero(); hidden];
    let mut d_rh = vec![F::zero(); hidden];
    for u in 0..hidden {
        let row = 2 * hidden + u;
        let z = gru_gate(cell, before_gate(1, u));
        let state_part = match cell.reset {
            Reset::Before => recurrent(p, row, &rh),
            Reset::After => r[u] * recurrent(p, row, h),
        };
        let (dz, da_n, dh) = gru_update_backward(cell, z, input(p, row, x) + state_part, h_mix[u], dh_next[u]);
        dh_mix[u] = dh;
        match cell.reset {
            Reset::Before => gate_row(p, row, (x, &rh), (da_n, da_n), (&mut d.x, &mut d_rh), dp),
            Reset::After => {
                dr[u] = da_n * recurrent(p, row, h);
                gate_row(p, row, (x, h), (da_n, r[u] * da_n), (&mut d.x, &mut d.h), dp);
            }
        }
        let da_z = dz * derivative(cell.gate, cell.gate_clip, before_gate(1, u));
        gate_row(p, hidden + u, (x, h), (da_z, da_z), (&mut d.x, &mut d.h), dp);
    }
    for u in 0..hidden {
        if cell.reset == Reset::Before {
            dr[u] = d_rh[u] * h[u];
            d.h[u] = d.h[u] + d_rh[u] * r[u];
        }
        let da_r = dr[u] * derivative(cell.gate, cell.gate_clip, before_gate(0, u));
        gate_row(p, u, (x, h), (da_r, da_r), (&mut d.x, &mut d.h), dp);
    }
    (d, dh_mix)
}

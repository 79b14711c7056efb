//! Gradients of the long short-term memory.

use super::{StepGradient, derivative, gate_row};
use crate::cell::{Forget, LstmCell, Parameters};
use crate::reference::lstm::lstm_unit;
use crate::reference::{Real, activate, clip, dot, lstm_update};

/// Gradients of [`lstm_update`] for one unit.
#[derive(Clone, Debug, PartialEq)]
pub struct LstmUnitGradient<F> {
    /// With respect to the pre-activations, in the order of [`Cell::gates`](crate::cell::Cell::gates).
    pub a: Vec<F>,
    /// With respect to the peephole weights of `i`, `f`, `o`.
    pub p: [F; 3],
    /// With respect to the cell state before the step.
    pub s: F,
    /// With respect to the cell state after the step, including the path through `m`: the `ds'` of [`lstm_update_backward`].
    pub s_next: F,
}

/// [`lstm_update`] backwards, from the gradients with respect to its results `m = o output(s')` and `s'`.
///
/// ```text
/// da_o = dm output(s') gate'(a_o)          ds' += dm o output'(s') + da_o p_o
/// di = ds' g    df = ds' s    dg = ds' i    ds = ds' f          ds' is 0 here beyond the cell clip
/// coupled: di -= df                         ds += da_i p_i + da_f p_f
/// ```
pub fn lstm_update_backward<F: Real>(
    cell: &LstmCell,
    a: &[F],
    p: [F; 3],
    s: F,
    dm: F,
    ds_next: F,
) -> LstmUnitGradient<F> {
    let gate = |x: F| activate(cell.gate, clip(x, cell.gate_clip));
    let slope = |x: F| derivative(cell.gate, cell.gate_clip, x);
    let (a_g, a_o) = match cell.forget {
        Forget::Gate => (a[2], a[3]),
        Forget::Never | Forget::Coupled => (a[1], a[2]),
    };
    let x_i = a[0] + p[0] * s;
    let i = gate(x_i);
    let x_f = match cell.forget {
        Forget::Gate => a[1] + p[1] * s,
        Forget::Never | Forget::Coupled => F::zero(),
    };
    let f = match cell.forget {
        Forget::Gate => gate(x_f),
        Forget::Never => F::one(),
        Forget::Coupled => F::one() - i,
    };
    let g = activate(cell.candidate, clip(a_g, cell.gate_clip));
    let unclipped = f * s + i * g;
    let (_, s_next) = lstm_update(cell, a, p, s);
    let x_o = a_o + p[2] * s_next;

    let da_o = dm * activate(cell.output, s_next) * slope(x_o);
    let ds_next = ds_next + dm * gate(x_o) * super::activate_derivative(cell.output, s_next) + da_o * p[2];
    let clipped = cell.cell_clip.is_some_and(|limit| unclipped.abs() > F::of(limit));
    let ds_next_in = if clipped { F::zero() } else { ds_next };
    let df = ds_next_in * s;
    let di = match cell.forget {
        Forget::Coupled => ds_next_in * g - df,
        Forget::Gate | Forget::Never => ds_next_in * g,
    };
    let da_i = di * slope(x_i);
    let da_g = ds_next_in * i * derivative(cell.candidate, cell.gate_clip, a_g);
    let (da, da_f) = match cell.forget {
        Forget::Gate => {
            let da_f = df * slope(x_f);
            (vec![da_i, da_f, da_g, da_o], da_f)
        }
        Forget::Never | Forget::Coupled => (vec![da_i, da_g, da_o], F::zero()),
    };
    LstmUnitGradient {
        a: da,
        p: [da_i * s, da_f * s, da_o * s_next],
        s: ds_next_in * f + da_i * p[0] + da_f * p[1],
        s_next: ds_next,
    }
}

/// [`lstm_step`](super::super::lstm_step) backwards: with a projection `dm = W_hr^T dh'` and `dW_hr += dh' m^T`, then
/// [`lstm_update_backward`] and a gate row for every unit.
///
/// # Shapes
/// `dh_next [O]`, `ds_next [hidden]`. The parameters' gradients are added to `dp`.
pub fn lstm_step_backward<F: Real>(
    cell: &LstmCell,
    p: &Parameters<F>,
    x: &[F],
    (h, s): (&[F], &[F]),
    (dh_next, ds_next): (&[F], &[F]),
    dp: &mut Parameters<F>,
) -> StepGradient<F> {
    let hidden = s.len();
    let of_unit = |u: usize| lstm_unit(p, x, h, (u, hidden));
    let dm: Vec<F> = match (&p.weight_hr, &mut dp.weight_hr) {
        (Some(weight), Some(d_weight)) => {
            for u in 0..hidden {
                let (a, peephole) = of_unit(u);
                let (m, _) = lstm_update(cell, &a, peephole, s[u]);
                for (row, &dh_next) in dh_next.iter().enumerate() {
                    d_weight[[row, u]] = d_weight[[row, u]] + dh_next * m;
                }
            }
            (0..hidden).map(|u| dot(weight.column(u), dh_next)).collect()
        }
        _ => dh_next.to_vec(),
    };
    let mut d =
        StepGradient { x: vec![F::zero(); x.len()], h: vec![F::zero(); h.len()], s: Vec::new(), s_next: Vec::new() };
    for u in 0..hidden {
        let (a, peephole) = of_unit(u);
        let unit = lstm_update_backward(cell, &a, peephole, s[u], dm[u], ds_next[u]);
        for (g, &da) in unit.a.iter().enumerate() {
            gate_row(p, g * hidden + u, (x, h), (da, da), (&mut d.x, &mut d.h), dp);
        }
        if let Some(d_peephole) = &mut dp.peephole {
            for (row, &dp) in unit.p.iter().enumerate() {
                d_peephole[[row, u]] = d_peephole[[row, u]] + dp;
            }
        }
        d.s.push(unit.s);
        d.s_next.push(unit.s_next);
    }
    d
}

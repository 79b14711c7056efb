//! Long short-term memory.

use super::rnn::{input, recurrent};
use super::{Real, activate, clip, dot};
use crate::cell::{Forget, LstmCell, Parameters};

/// The state update of one unit from its gates' pre-activations; returns `(o output(s'), s')`.
///
/// `a` holds the pre-activations in the order of [`Cell::gates`](crate::cell::Cell::gates): three, if the cell has no
/// forget gate of its own. `p` holds the peephole weights of `i`, `f`, `o`: zeros without peepholes.
///
/// ```text
/// i  = gate(a_i + p_i s)
/// f  = gate(a_f + p_f s)            1 without forget gate, 1 - i when coupled
/// g  = candidate(a_g)               the lectures' s~
/// s' = f s + i g
/// o  = gate(a_o + p_o s')
/// ```
pub fn lstm_update<F: Real>(cell: &LstmCell, a: &[F], p: [F; 3], s: F) -> (F, F) {
    let gates = lstm_gates(cell, a, p, s);
    (gates.o * activate(cell.output, gates.s_next), gates.s_next)
}

/// The gates of one unit, and the cell state that they lead to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LstmGates<F> {
    /// How much of the candidate is written.
    pub i: F,
    /// How much of the cell state is kept.
    pub f: F,
    /// How much of the cell state is read.
    pub o: F,
    /// The new cell state before the cell clip.
    pub unclipped: F,
    /// The new cell state.
    pub s_next: F,
}

/// The gates of [`lstm_update`], from the same arguments.
pub fn lstm_gates<F: Real>(cell: &LstmCell, a: &[F], p: [F; 3], s: F) -> LstmGates<F> {
    let gate = |x: F| activate(cell.gate, clip(x, cell.gate_clip));
    let (g_in, o_in) = match cell.forget {
        Forget::Gate => (a[2], a[3]),
        Forget::Never | Forget::Coupled => (a[1], a[2]),
    };
    let i = gate(a[0] + p[0] * s);
    let f = match cell.forget {
        Forget::Gate => gate(a[1] + p[1] * s),
        Forget::Never => F::one(),
        Forget::Coupled => F::one() - i,
    };
    let g = activate(cell.candidate, clip(g_in, cell.gate_clip));
    let unclipped = f * s + i * g;
    let s_next = clip(unclipped, cell.cell_clip);
    let o = gate(o_in + p[2] * s_next);
    LstmGates { i, f, o, unclipped, s_next }
}

/// One step of one row; returns `(h', s')`.
///
/// ```text
/// a  = U x + b_ih + W h + b_hh
/// m, s' = lstm_update(a, p, s)
/// h' = W_hr m                       m itself without projection
/// ```
///
/// Hochreiter & Schmidhuber 1997, Gers et al. 2000 (forget gate), Gers & Schmidhuber 2000 (peepholes, `p`),
/// Sak et al. 2014 (projection); `torch.nn.LSTM`; ONNX LSTM.
///
/// # Shapes
/// `x [input]`, `h [O]`, `s [hidden]`.
pub fn lstm_step<F: Real>(cell: &LstmCell, p: &Parameters<F>, x: &[F], h: &[F], s: &[F]) -> (Vec<F>, Vec<F>) {
    let hidden = s.len();
    let mut m = vec![F::zero(); hidden];
    let mut s_next = vec![F::zero(); hidden];
    for u in 0..hidden {
        let (a, peephole) = lstm_unit(p, x, h, (u, hidden));
        (m[u], s_next[u]) = lstm_update(cell, &a, peephole, s[u]);
    }
    match &p.weight_hr {
        Some(weight_hr) => (weight_hr.rows().into_iter().map(|row| dot(row, &m)).collect(), s_next),
        None => (m, s_next),
    }
}

/// The pre-activations of one of `hidden` units, and its peephole weights.
pub(super) fn lstm_unit<F: Real>(p: &Parameters<F>, x: &[F], h: &[F], (u, hidden): (usize, usize)) -> (Vec<F>, [F; 3]) {
    let gates = p.weight_hh.nrows() / hidden.max(1);
    let a = (0..gates).map(|g| input(p, g * hidden + u, x) + recurrent(p, g * hidden + u, h)).collect();
    (a, p.peephole.as_ref().map_or([F::zero(); 3], |w| [w[[0, u]], w[[1, u]], w[[2, u]]]))
}

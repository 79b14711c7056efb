//! The forward equations of a cell on one register of units: gates, activations and the new state, as the reference writes
//! them ([`lstm_update`](crate::reference::lstm_update) and its siblings).
//!
//! Inference and training share these equations. A [`UnitRegister`] says where the numbers of either pass lie, and what the
//! pass keeps.

use super::math::{activate, clip, sigmoid, tanh};
use super::simd::Simd;
use crate::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Reset, Stage};

/// The activations of a cell. The gates' and the candidate's arguments are clipped first if the cell says so.
pub(super) trait Activations: Copy {
    fn gate<S: Simd>(self, v: S, x: S::F) -> S::F;
    fn candidate<S: Simd>(self, v: S, x: S::F) -> S::F;
    fn output<S: Simd>(self, v: S, x: S::F) -> S::F;
}

/// Sigmoid gates, tanh elsewhere and no clip: the activations of nearly every model, known at compile time.
#[derive(Clone, Copy)]
pub(super) struct SigmoidTanh;

impl Activations for SigmoidTanh {
    #[inline(always)]
    fn gate<S: Simd>(self, v: S, x: S::F) -> S::F {
        sigmoid(v, x)
    }
    #[inline(always)]
    fn candidate<S: Simd>(self, v: S, x: S::F) -> S::F {
        tanh(v, x)
    }
    #[inline(always)]
    fn output<S: Simd>(self, v: S, x: S::F) -> S::F {
        tanh(v, x)
    }
}

/// Activations known at run time.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct AnyActivations {
    gate: Activation,
    candidate: Activation,
    output: Activation,
    clip: Option<f32>,
}

impl Activations for AnyActivations {
    #[inline(always)]
    fn gate<S: Simd>(self, v: S, x: S::F) -> S::F {
        activate(v, self.gate, clip(v, x, self.clip))
    }
    #[inline(always)]
    fn candidate<S: Simd>(self, v: S, x: S::F) -> S::F {
        activate(v, self.candidate, clip(v, x, self.clip))
    }
    #[inline(always)]
    fn output<S: Simd>(self, v: S, x: S::F) -> S::F {
        activate(v, self.output, x)
    }
}

impl AnyActivations {
    /// The activations that [`SigmoidTanh`] knows at compile time.
    pub(super) const SIGMOID_TANH: Self =
        Self { gate: Activation::Sigmoid, candidate: Activation::Tanh, output: Activation::Tanh, clip: None };

    /// The activations of a cell. An activation that the cell lacks is that of [`SigmoidTanh`].
    pub(super) fn of(cell: &Cell) -> Self {
        match *cell {
            Cell::Rnn(cell) => Self { candidate: cell.activation, clip: cell.gate_clip, ..Self::SIGMOID_TANH },
            Cell::Lstm(LstmCell { gate, candidate, output, gate_clip: clip, .. }) => {
                Self { gate, candidate, output, clip }
            }
            Cell::Gru(GruCell { gate, candidate, gate_clip: clip, .. }) => {
                Self { gate, candidate, clip, ..Self::SIGMOID_TANH }
            }
        }
    }
}

/// One register of units of one row in one stage of a step. Gates are counted within the stage.
pub(super) trait UnitRegister<S: Simd> {
    /// `U x + b_ih` of a gate.
    fn input_part(&self, v: S, gate: usize) -> S::F;
    /// `W h + b_hh` of a gate.
    fn state_part(&self, v: S, gate: usize) -> S::F;
    /// A row of the peephole weights; `None` if the cell has none.
    fn peephole(&self, v: S, row: usize) -> Option<S::F>;
    /// `h` before the step.
    fn h(&self, v: S) -> S::F;
    /// `h` before the step as the products read it.
    fn product_h(&self, v: S) -> S::F;
    /// The cell state before the step.
    fn s(&self, v: S) -> S::F;
    /// The pre-activation of `z` that the stage `Reset` has kept.
    fn kept_z(&self, v: S) -> S::F;

    /// `x y + a` in a pre-activation.
    #[inline(always)]
    fn multiply_add(&self, v: S, x: S::F, y: S::F, a: S::F) -> S::F {
        v.fma(x, y, a)
    }
    /// Keeps a gate's complete pre-activation for the backward pass; inference keeps nothing.
    #[inline(always)]
    fn keep_preactivation(&mut self, v: S, gate: usize, a: S::F) {
        let _ = (v, gate, a);
    }
    /// Keeps `W_n h + b_hn` of a GRU that resets after the product for the backward pass; inference keeps nothing.
    #[inline(always)]
    fn keep_candidate_state_part(&mut self, v: S, x: S::F) {
        let _ = (v, x);
    }

    /// Stores the pre-activation of `z`, and the state `r h`, which the candidate's product reads.
    fn put_reset(&mut self, v: S, a_z: S::F, r_h: S::F);
    /// Stores the cell state after the step; `s` is the one before it.
    fn put_s(&mut self, v: S, s: S::F, s_next: S::F);
    /// Stores the new `h`, or the state that its projection reads.
    fn put_output(&mut self, v: S, out: S::F);
}

/// Runs one stage of a cell on one register of units.
#[inline(always)]
pub(super) fn update<S: Simd>(
    v: S,
    (cell, stage): (&Cell, Stage),
    activations: impl Activations,
    unit: &mut impl UnitRegister<S>,
) {
    match (stage, cell) {
        (Stage::Project, _) => unit.put_output(v, unit.state_part(v, 0)),
        (_, Cell::Rnn(_)) => {
            let a = preactivation(v, unit, 0);
            unit.put_output(v, activations.candidate(v, a));
        }
        (_, Cell::Lstm(cell)) => lstm(v, cell, activations, unit),
        (Stage::Reset, Cell::Gru(_)) => gru_reset(v, activations, unit),
        (_, Cell::Gru(cell)) => gru(v, cell, activations, unit),
    }
}

/// `a = U x + b_ih + W h + b_hh` of a gate.
#[inline(always)]
fn preactivation<S: Simd>(v: S, unit: &mut impl UnitRegister<S>, gate: usize) -> S::F {
    let a = v.add(unit.input_part(v, gate), unit.state_part(v, gate));
    unit.keep_preactivation(v, gate, a);
    a
}

/// `a + p s` of a gate, `p` the peephole weights' row `row`.
#[inline(always)]
fn peephole_preactivation<S: Simd>(
    v: S,
    unit: &mut impl UnitRegister<S>,
    gate: usize,
    (row, s): (usize, S::F),
) -> S::F {
    let mut a = v.add(unit.input_part(v, gate), unit.state_part(v, gate));
    if let Some(p) = unit.peephole(v, row) {
        a = unit.multiply_add(v, p, s, a);
    }
    unit.keep_preactivation(v, gate, a);
    a
}

/// The gates, the new cell state and the output of an LSTM.
///
/// ```text
/// s' = f s + i g
/// m  = o output(s')
/// ```
#[inline(always)]
fn lstm<S: Simd>(v: S, cell: &LstmCell, activations: impl Activations, unit: &mut impl UnitRegister<S>) {
    let s = unit.s(v);
    let i = activations.gate(v, peephole_preactivation(v, unit, 0, (0, s)));
    let (f, g_at) = match cell.forget {
        Forget::Gate => (activations.gate(v, peephole_preactivation(v, unit, 1, (1, s))), 2),
        Forget::Never => (v.splat(1.0), 1),
        Forget::Coupled => (v.sub(v.splat(1.0), i), 1),
    };
    let g = activations.candidate(v, preactivation(v, unit, g_at));
    let s_next = clip(v, v.fma(f, s, v.mul(i, g)), cell.cell_clip);
    let o = activations.gate(v, peephole_preactivation(v, unit, g_at + 1, (2, s_next)));
    let m = v.mul(o, activations.output(v, s_next));
    unit.put_s(v, s, s_next);
    unit.put_output(v, m);
}

/// `r h` and the pre-activation of `z`, of a GRU that resets before the product.
#[inline(always)]
fn gru_reset<S: Simd>(v: S, activations: impl Activations, unit: &mut impl UnitRegister<S>) {
    let r = activations.gate(v, preactivation(v, unit, 0));
    let a_z = preactivation(v, unit, 1);
    let h = unit.product_h(v);
    unit.put_reset(v, a_z, v.mul(r, h));
}

/// The candidate `n` and the new state of a GRU.
#[inline(always)]
fn gru<S: Simd>(v: S, cell: &GruCell, activations: impl Activations, unit: &mut impl UnitRegister<S>) {
    let (a_z, a_n) = match cell.reset {
        Reset::After => {
            let r = activations.gate(v, preactivation(v, unit, 0));
            let a_z = preactivation(v, unit, 1);
            let state_part = unit.state_part(v, 2);
            unit.keep_candidate_state_part(v, state_part);
            let a_n = unit.multiply_add(v, r, state_part, unit.input_part(v, 2));
            unit.keep_preactivation(v, 2, a_n);
            (a_z, a_n)
        }
        Reset::Before => (unit.kept_z(v), preactivation(v, unit, 0)),
    };
    let (z, n) = (activations.gate(v, a_z), activations.candidate(v, a_n));
    let h = unit.h(v);
    let rest = v.sub(v.splat(1.0), z);
    let h_next = match cell.mix {
        Mix::KeepsOld => v.fma(rest, n, v.mul(z, h)),
        Mix::TakesNew => v.fma(rest, h, v.mul(z, n)),
    };
    unit.put_output(v, h_next);
}

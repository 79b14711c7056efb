//! The element-wise parts of a training step of one row. The forward pass runs the shared [`equations`](crate::cpu::equations)
//! and keeps the gates' pre-activations, in which the backward pass finds both the gates and their slopes.
//!
//! CPU twin of `reference::{rnn, lstm, gru}_step` and their `_backward`.

use crate::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Reset, RnnCell, Stage};
use crate::cpu::equations::{Activations, AnyActivations, SigmoidTanh, UnitRegister, update};
use crate::cpu::math::{activate, clip, load_part, map_lanes, store_part};
use crate::cpu::simd::{Kernel, Simd};
use crate::reference::activate_derivative;

/// One stage of the forward step of one row.
pub(super) struct StepForward<'a> {
    pub(super) cell: &'a Cell,
    pub(super) stage: Stage,
    pub(super) hidden: usize,
    /// `U x + b_ih` of all gates on entry, the stage's pre-activations on return.
    pub(super) gates: &'a mut [f32],
    /// `W h + b_hh` of the stage's gates.
    pub(super) state_part: &'a [f32],
    /// Peephole weights, `[3, hidden]`; empty without peepholes.
    pub(super) peephole: &'a [f32],
    /// `h` before the step.
    pub(super) h: &'a [f32],
    /// `h` before the step, times the mask of the recurrent dropout.
    pub(super) masked_h: &'a [f32],
    /// The cell state before the step.
    pub(super) s: &'a [f32],
    /// The cell state after the step.
    pub(super) s_next: &'a mut [f32],
    /// `W_n h + b_hn` or `r h` of a GRU.
    pub(super) second: &'a mut [f32],
    /// The new `h`, or the state that its projection reads.
    pub(super) out: &'a mut [f32],
}

/// One stage of the backward step of one row.
pub(super) struct StepBackward<'a> {
    pub(super) cell: &'a Cell,
    pub(super) stage: Stage,
    pub(super) hidden: usize,
    /// Pre-activations.
    pub(super) gates: &'a [f32],
    pub(super) peephole: &'a [f32],
    pub(super) h: &'a [f32],
    pub(super) masked_h: &'a [f32],
    pub(super) s: &'a [f32],
    pub(super) s_next: &'a [f32],
    pub(super) second: &'a [f32],
    /// Gradient with respect to `out`; in the stage `Reset` with respect to `r h`.
    pub(super) d_out: &'a [f32],
    /// Gradient with respect to the cell state: after the step on entry, before it on return.
    pub(super) ds: &'a mut [f32],
    /// Gradient with respect to the pre-activations.
    pub(super) d_gates: &'a mut [f32],
    /// Gradient with respect to `W_n h + b_hn`, of a GRU that resets after the product.
    pub(super) d_second: &'a mut [f32],
    /// Gradient with respect to `h` that bypasses the products: through the mix, or in the stage `Reset` through `r h`.
    pub(super) dh: &'a mut [f32],
}

/// The units of one register in a row of `hidden` units.
#[derive(Clone, Copy)]
struct UnitRange {
    first: usize,
    count: usize,
    hidden: usize,
}

impl UnitRange {
    #[inline(always)]
    fn load<S: Simd>(self, v: S, from: &[f32], block: usize) -> S::F {
        load_part(v, &from[block * self.hidden + self.first..][..self.count])
    }

    #[inline(always)]
    fn store<S: Simd>(self, v: S, to: &mut [f32], block: usize, x: S::F) {
        store_part(v, &mut to[block * self.hidden + self.first..][..self.count], x);
    }
}

/// The registers of a row.
#[inline(always)]
fn unit_ranges(hidden: usize, lanes: usize) -> impl Iterator<Item = UnitRange> {
    (0..hidden).step_by(lanes).map(move |first| UnitRange { first, count: lanes.min(hidden - first), hidden })
}

impl Kernel for StepForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match AnyActivations::of(self.cell) {
            AnyActivations::SIGMOID_TANH => self.all(v, SigmoidTanh),
            activations => self.all(v, activations),
        }
    }
}

impl StepForward<'_> {
    #[inline(always)]
    fn all<S: Simd>(mut self, v: S, activations: impl Activations) {
        let (cell, stage) = (self.cell, self.stage);
        for at in unit_ranges(self.hidden, S::LANES) {
            update(v, (cell, stage), activations, &mut TrainingRegister { step: &mut self, at });
        }
    }

    /// Position in `gates` of the stage's first gate.
    #[inline(always)]
    fn first_gate(&self) -> usize {
        if self.stage == Stage::Candidate { 2 } else { 0 }
    }
}

/// One register of units of one row, in the buffers of a training step.
struct TrainingRegister<'a, 'b> {
    step: &'a mut StepForward<'b>,
    at: UnitRange,
}

impl<S: Simd> UnitRegister<S> for TrainingRegister<'_, '_> {
    #[inline(always)]
    fn input_part(&self, v: S, gate: usize) -> S::F {
        self.at.load(v, self.step.gates, self.step.first_gate() + gate)
    }

    #[inline(always)]
    fn state_part(&self, v: S, gate: usize) -> S::F {
        self.at.load(v, self.step.state_part, gate)
    }

    #[inline(always)]
    fn peephole(&self, v: S, row: usize) -> Option<S::F> {
        let weights = self.step.peephole;
        if weights.is_empty() { None } else { Some(self.at.load(v, weights, row)) }
    }

    #[inline(always)]
    fn h(&self, v: S) -> S::F {
        self.at.load(v, self.step.h, 0)
    }

    #[inline(always)]
    fn product_h(&self, v: S) -> S::F {
        self.at.load(v, self.step.masked_h, 0)
    }

    #[inline(always)]
    fn s(&self, v: S) -> S::F {
        self.at.load(v, self.step.s, 0)
    }

    #[inline(always)]
    fn kept_z(&self, v: S) -> S::F {
        self.at.load(v, self.step.gates, 1)
    }

    /// Rounds the product before the sum. Inference fuses the two, so the passes may differ in the last bit.
    #[inline(always)]
    fn multiply_add(&self, v: S, x: S::F, y: S::F, a: S::F) -> S::F {
        v.add(a, v.mul(x, y))
    }

    #[inline(always)]
    fn keep_preactivation(&mut self, v: S, gate: usize, a: S::F) {
        let gate = self.step.first_gate() + gate;
        self.at.store(v, self.step.gates, gate, a);
    }

    #[inline(always)]
    fn keep_candidate_state_part(&mut self, v: S, x: S::F) {
        self.at.store(v, self.step.second, 0, x);
    }

    #[inline(always)]
    fn put_reset(&mut self, v: S, _: S::F, r_h: S::F) {
        self.at.store(v, self.step.second, 0, r_h);
    }

    #[inline(always)]
    fn put_s(&mut self, v: S, _: S::F, s_next: S::F) {
        self.at.store(v, self.step.s_next, 0, s_next);
    }

    #[inline(always)]
    fn put_output(&mut self, v: S, out: S::F) {
        self.at.store(v, self.step.out, 0, out);
    }
}

/// An activation's value and slope at a pre-activation.
#[inline(always)]
fn value_and_slope<S: Simd>(v: S, activation: Activation, limit: Option<f32>, x: S::F) -> (S::F, S::F) {
    let y = activate(v, activation, clip(v, x, limit));
    let one = v.splat(1.0);
    let dy = match (activation, limit) {
        (Activation::Tanh, None) => v.sub(one, v.mul(y, y)),
        (Activation::Sigmoid, None) => v.mul(y, v.sub(one, y)),
        (Activation::Identity, None) => one,
        (Activation::Affine { alpha, .. }, None) => v.splat(alpha),
        _ => map_lanes(v, x, |x| match limit {
            Some(limit) if x.abs() > limit => 0.0,
            _ => activate_derivative(activation, x),
        }),
    };
    (y, dy)
}

/// The peephole weight of a gate, or zero.
#[inline(always)]
fn peephole<S: Simd>(v: S, at: UnitRange, weights: &[f32], gate: usize) -> S::F {
    if weights.is_empty() { v.splat(0.0) } else { at.load(v, weights, gate) }
}

impl Kernel for StepBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, v: S) {
        for at in unit_ranges(self.hidden, S::LANES) {
            match (self.cell, self.stage) {
                (Cell::Rnn(cell), _) => self.rnn(v, cell, at),
                (Cell::Lstm(cell), _) => self.lstm(v, cell, at),
                (Cell::Gru(cell), Stage::Reset) => self.gru_reset(v, cell, at),
                (Cell::Gru(cell), _) => self.gru(v, cell, at),
            }
        }
    }
}

impl StepBackward<'_> {
    #[inline(always)]
    fn rnn<S: Simd>(&mut self, v: S, cell: &RnnCell, at: UnitRange) {
        let (_, da) = value_and_slope(v, cell.activation, cell.gate_clip, at.load(v, self.gates, 0));
        at.store(v, self.d_gates, 0, v.mul(at.load(v, self.d_out, 0), da));
    }

    #[inline(always)]
    fn lstm<S: Simd>(&mut self, v: S, cell: &LstmCell, at: UnitRange) {
        let (s, s_next) = (at.load(v, self.s, 0), at.load(v, self.s_next, 0));
        let (zero, one) = (v.splat(0.0), v.splat(1.0));
        let g_at = if cell.forget == Forget::Gate { 2 } else { 1 };
        let (i, di_da) = value_and_slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 0));
        let (f, df_da) = match cell.forget {
            Forget::Gate => value_and_slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 1)),
            Forget::Never => (one, zero),
            Forget::Coupled => (v.sub(one, i), zero),
        };
        let (g, dg_da) = value_and_slope(v, cell.candidate, cell.gate_clip, at.load(v, self.gates, g_at));
        let (o, do_da) = value_and_slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, g_at + 1));
        let (y, dy_ds) = value_and_slope(v, cell.output, None, s_next);

        let dm = at.load(v, self.d_out, 0);
        let da_o = v.mul(v.mul(dm, y), do_da);
        let mut ds = v.fma(v.mul(dm, o), dy_ds, at.load(v, self.ds, 0));
        ds = v.fma(da_o, peephole(v, at, self.peephole, 2), ds);
        if let Some(limit) = cell.cell_clip {
            let inside = map_lanes(v, v.fma(f, s, v.mul(i, g)), |s| if s.abs() > limit { 0.0 } else { 1.0 });
            ds = v.mul(ds, inside);
        }
        let df = v.mul(ds, s);
        let mut di = v.mul(ds, g);
        if cell.forget == Forget::Coupled {
            di = v.sub(di, df);
        }
        let da_i = v.mul(di, di_da);
        let da_f = v.mul(df, df_da);
        let mut ds_before = v.fma(da_i, peephole(v, at, self.peephole, 0), v.mul(ds, f));
        if cell.forget == Forget::Gate {
            ds_before = v.fma(da_f, peephole(v, at, self.peephole, 1), ds_before);
            at.store(v, self.d_gates, 1, da_f);
        }
        at.store(v, self.d_gates, 0, da_i);
        at.store(v, self.d_gates, g_at, v.mul(v.mul(ds, i), dg_da));
        at.store(v, self.d_gates, g_at + 1, da_o);
        at.store(v, self.ds, 0, ds_before);
    }

    /// Gradients with respect to the pre-activations of `z` and `n`, and of `r` if the GRU resets after the product.
    #[inline(always)]
    fn gru<S: Simd>(&mut self, v: S, cell: &GruCell, at: UnitRange) {
        let (z, dz_da) = value_and_slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 1));
        let (n, dn_da) = value_and_slope(v, cell.candidate, cell.gate_clip, at.load(v, self.gates, 2));
        let (h, d) = (at.load(v, self.h, 0), at.load(v, self.d_out, 0));
        let rest = v.sub(v.splat(1.0), z);
        let (dz, dn, dh) = match cell.mix {
            Mix::KeepsOld => (v.mul(d, v.sub(h, n)), v.mul(d, rest), v.mul(d, z)),
            Mix::TakesNew => (v.mul(d, v.sub(n, h)), v.mul(d, z), v.mul(d, rest)),
        };
        let da_n = v.mul(dn, dn_da);
        at.store(v, self.d_gates, 1, v.mul(dz, dz_da));
        at.store(v, self.d_gates, 2, da_n);
        at.store(v, self.dh, 0, dh);
        if cell.reset == Reset::After {
            let (r, dr_da) = value_and_slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 0));
            let dr = v.mul(da_n, at.load(v, self.second, 0));
            at.store(v, self.d_gates, 0, v.mul(dr, dr_da));
            at.store(v, self.d_second, 0, v.mul(r, da_n));
        }
    }

    /// Gradients with respect to the pre-activation of `r` and to `h`, from the one with respect to `r h`.
    #[inline(always)]
    fn gru_reset<S: Simd>(&mut self, v: S, cell: &GruCell, at: UnitRange) {
        let (r, dr_da) = value_and_slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 0));
        let d = at.load(v, self.d_out, 0);
        at.store(v, self.d_gates, 0, v.mul(v.mul(d, at.load(v, self.masked_h, 0)), dr_da));
        at.store(v, self.dh, 0, v.mul(d, r));
    }
}

//! Element-wise parts of a training step of one row, forward and backward, over vector registers. The forward pass keeps
//! the gates' pre-activations: the backward pass finds both their values and their slopes in them, clips included.
//!
//! Twins: `reference::{rnn, lstm, gru}_step` and their `_backward`.

use crate::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Reset, RnnCell, Stage};
use crate::cpu::math::{activate, clip, load_part, map_lanes, store_part};
use crate::cpu::simd::{Kernel, Simd};
use crate::reference::activate_derivative;

/// A row of one step, forward.
pub(super) struct StepForward<'a> {
    pub(super) cell: &'a Cell,
    pub(super) stage: Stage,
    pub(super) hidden: usize,
    /// Pre-activations, the input's side on entry.
    pub(super) gates: &'a mut [f32],
    /// The state's side of the stage's gates.
    pub(super) state_side: &'a [f32],
    pub(super) peephole: &'a [f32],
    /// `h` before the step, as it enters the mix and as it enters the products.
    pub(super) h: &'a [f32],
    pub(super) h_masked: &'a [f32],
    pub(super) s: &'a [f32],
    pub(super) s_next: &'a mut [f32],
    /// What the candidate's state side is made of: `W_n h + b_hn`, or `r h`.
    pub(super) second: &'a mut [f32],
    /// The new `h`, or what its projection reads.
    pub(super) out: &'a mut [f32],
}

/// A row of one step, backward.
pub(super) struct StepBackward<'a> {
    pub(super) cell: &'a Cell,
    pub(super) stage: Stage,
    pub(super) hidden: usize,
    pub(super) gates: &'a [f32],
    pub(super) peephole: &'a [f32],
    pub(super) h: &'a [f32],
    pub(super) h_masked: &'a [f32],
    pub(super) s: &'a [f32],
    pub(super) s_next: &'a [f32],
    pub(super) second: &'a [f32],
    /// Gradient by `out`; in the stage `Reset` by `r h`.
    pub(super) d_out: &'a [f32],
    /// Gradient by the cell state after the step on entry, before it on return.
    pub(super) ds: &'a mut [f32],
    /// Gradients by the pre-activations.
    pub(super) d_gates: &'a mut [f32],
    /// Gradient by `W_n h + b_hn` of a GRU that resets after.
    pub(super) d_second: &'a mut [f32],
    /// Gradient by `h` past the products: through the mix, or in the stage `Reset` through `r h`.
    pub(super) dh: &'a mut [f32],
}

/// A register's worth of units.
#[derive(Clone, Copy)]
struct Units {
    first: usize,
    count: usize,
    hidden: usize,
}

impl Units {
    #[inline(always)]
    fn load<S: Simd>(self, v: S, from: &[f32], block: usize) -> S::F {
        load_part(v, &from[block * self.hidden + self.first..][..self.count])
    }

    #[inline(always)]
    fn store<S: Simd>(self, v: S, to: &mut [f32], block: usize, x: S::F) {
        store_part(v, &mut to[block * self.hidden + self.first..][..self.count], x);
    }

    /// Adds to what is there and returns the sum.
    #[inline(always)]
    fn accumulate<S: Simd>(self, v: S, to: &mut [f32], block: usize, x: S::F) -> S::F {
        let sum = v.add(self.load(v, to, block), x);
        self.store(v, to, block, sum);
        sum
    }
}

#[inline(always)]
fn units(hidden: usize, lanes: usize) -> impl Iterator<Item = Units> {
    (0..hidden).step_by(lanes).map(move |first| Units { first, count: lanes.min(hidden - first), hidden })
}

/// An activation's value and slope at a pre-activation.
#[inline(always)]
fn slope<S: Simd>(v: S, activation: Activation, limit: Option<f32>, x: S::F) -> (S::F, S::F) {
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

/// An activation's value alone. No closure: what is not inlined would lose the instruction set.
#[inline(always)]
fn value<S: Simd>(v: S, activation: Activation, limit: Option<f32>, x: S::F) -> S::F {
    activate(v, activation, clip(v, x, limit))
}

/// The peephole weight of a gate, or zero.
#[inline(always)]
fn peephole<S: Simd>(v: S, at: Units, weights: &[f32], gate: usize) -> S::F {
    if weights.is_empty() { v.splat(0.0) } else { at.load(v, weights, gate) }
}

impl Kernel for StepForward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, v: S) {
        for at in units(self.hidden, S::LANES) {
            match (self.cell, self.stage) {
                (Cell::Rnn(cell), _) => self.rnn(v, cell, at),
                (Cell::Lstm(cell), _) => self.lstm(v, cell, at),
                (Cell::Gru(cell), Stage::Reset) => self.gru_reset(v, cell, at),
                (Cell::Gru(cell), _) => self.gru(v, cell, at),
            }
        }
    }
}

impl StepForward<'_> {
    /// A gate's pre-activation, completed.
    #[inline(always)]
    fn complete<S: Simd>(&mut self, v: S, at: Units, gate: usize) -> S::F {
        let state_side = at.load(v, self.state_side, gate);
        at.accumulate(v, self.gates, gate, state_side)
    }

    /// [`StepForward::complete`], with what the gate sees of the cell state.
    #[inline(always)]
    fn see<S: Simd>(&mut self, v: S, at: Units, gate: usize, row: usize, s: S::F) -> S::F {
        let a = self.complete(v, at, gate);
        if self.peephole.is_empty() {
            return a;
        }
        let seen = v.mul(at.load(v, self.peephole, row), s);
        at.accumulate(v, self.gates, gate, seen)
    }

    #[inline(always)]
    fn rnn<S: Simd>(&mut self, v: S, cell: &RnnCell, at: Units) {
        let a = self.complete(v, at, 0);
        at.store(v, self.out, 0, value(v, cell.activation, cell.gate_clip, a));
    }

    #[inline(always)]
    fn lstm<S: Simd>(&mut self, v: S, cell: &LstmCell, at: Units) {
        let s = at.load(v, self.s, 0);
        let limit = cell.gate_clip;
        let i = value(v, cell.gate, limit, self.see(v, at, 0, 0, s));
        let (f, g_at) = match cell.forget {
            Forget::Gate => (value(v, cell.gate, limit, self.see(v, at, 1, 1, s)), 2),
            Forget::Never => (v.splat(1.0), 1),
            Forget::Coupled => (v.sub(v.splat(1.0), i), 1),
        };
        let g = value(v, cell.candidate, limit, self.complete(v, at, g_at));
        let s_next = clip(v, v.fma(f, s, v.mul(i, g)), cell.cell_clip);
        let o = value(v, cell.gate, limit, self.see(v, at, g_at + 1, 2, s_next));
        at.store(v, self.s_next, 0, s_next);
        at.store(v, self.out, 0, v.mul(o, activate(v, cell.output, s_next)));
    }

    #[inline(always)]
    fn gru_reset<S: Simd>(&mut self, v: S, cell: &GruCell, at: Units) {
        let a_r = self.complete(v, at, 0);
        self.complete(v, at, 1);
        let r = value(v, cell.gate, cell.gate_clip, a_r);
        at.store(v, self.second, 0, v.mul(r, at.load(v, self.h_masked, 0)));
    }

    #[inline(always)]
    fn gru<S: Simd>(&mut self, v: S, cell: &GruCell, at: Units) {
        let limit = cell.gate_clip;
        let (z, a_n) = match cell.reset {
            Reset::After => {
                let (a_r, a_z) = (self.complete(v, at, 0), self.complete(v, at, 1));
                let state_side = at.load(v, self.state_side, 2);
                at.store(v, self.second, 0, state_side);
                let r = value(v, cell.gate, limit, a_r);
                (value(v, cell.gate, limit, a_z), at.accumulate(v, self.gates, 2, v.mul(r, state_side)))
            }
            Reset::Before => {
                let state_side = at.load(v, self.state_side, 0);
                (value(v, cell.gate, limit, at.load(v, self.gates, 1)), at.accumulate(v, self.gates, 2, state_side))
            }
        };
        let n = value(v, cell.candidate, limit, a_n);
        let h = at.load(v, self.h, 0);
        let rest = v.sub(v.splat(1.0), z);
        let new = match cell.mix {
            Mix::KeepsOld => v.fma(rest, n, v.mul(z, h)),
            Mix::TakesNew => v.fma(rest, h, v.mul(z, n)),
        };
        at.store(v, self.out, 0, new);
    }
}

impl Kernel for StepBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, v: S) {
        for at in units(self.hidden, S::LANES) {
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
    fn rnn<S: Simd>(&mut self, v: S, cell: &RnnCell, at: Units) {
        let (_, da) = slope(v, cell.activation, cell.gate_clip, at.load(v, self.gates, 0));
        at.store(v, self.d_gates, 0, v.mul(at.load(v, self.d_out, 0), da));
    }

    #[inline(always)]
    fn lstm<S: Simd>(&mut self, v: S, cell: &LstmCell, at: Units) {
        let (s, s_next) = (at.load(v, self.s, 0), at.load(v, self.s_next, 0));
        let (zero, one) = (v.splat(0.0), v.splat(1.0));
        let g_at = if cell.forget == Forget::Gate { 2 } else { 1 };
        let (i, di_da) = slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 0));
        let (f, df_da) = match cell.forget {
            Forget::Gate => slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 1)),
            Forget::Never => (one, zero),
            Forget::Coupled => (v.sub(one, i), zero),
        };
        let (g, dg_da) = slope(v, cell.candidate, cell.gate_clip, at.load(v, self.gates, g_at));
        let (o, do_da) = slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, g_at + 1));
        let (y, dy_ds) = slope(v, cell.output, None, s_next);

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

    /// From `dh'` to `z` and the candidate; after the reset also to `r`.
    #[inline(always)]
    fn gru<S: Simd>(&mut self, v: S, cell: &GruCell, at: Units) {
        let (z, dz_da) = slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 1));
        let (n, dn_da) = slope(v, cell.candidate, cell.gate_clip, at.load(v, self.gates, 2));
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
            let (r, dr_da) = slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 0));
            let dr = v.mul(da_n, at.load(v, self.second, 0));
            at.store(v, self.d_gates, 0, v.mul(dr, dr_da));
            at.store(v, self.d_second, 0, v.mul(r, da_n));
        }
    }

    /// From `d(r h)` to `r` and to `h`.
    #[inline(always)]
    fn gru_reset<S: Simd>(&mut self, v: S, cell: &GruCell, at: Units) {
        let (r, dr_da) = slope(v, cell.gate, cell.gate_clip, at.load(v, self.gates, 0));
        let d = at.load(v, self.d_out, 0);
        at.store(v, self.d_gates, 0, v.mul(v.mul(d, at.load(v, self.h_masked, 0)), dr_da));
        at.store(v, self.dh, 0, v.mul(d, r));
    }
}

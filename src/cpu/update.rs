//! The element-wise part of an inference step: [`equations`](super::equations) on the products of some panels, while
//! these are in the first-level cache.
#![allow(unsafe_code)]

use std::ops::Range;

use super::active::StepRows;
use super::equations::{Activations, AnyActivations, SigmoidTanh, UnitRegister, update};
use super::math::{load_part, store_part};
use super::memory::SharedSlice;
use super::pack::PanelLayout;
use super::simd::{Kernel, Simd};
use crate::cell::{Cell, RESET, Stage};

/// The rows of a state of one layer and direction in a working buffer, each padded to whole registers.
#[derive(Clone, Copy)]
pub(super) struct PaddedRows<'a> {
    pub(super) rows: SharedSlice<'a>,
    pub(super) stride: usize,
}

impl<'a> PaddedRows<'a> {
    /// # Safety
    /// No thread writes these units while this function reads them.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, v: S, row: usize, unit: usize) -> S::F {
        // SAFETY: no thread writes these units now, by this function's contract.
        load_part(v, unsafe { self.rows.read(row * self.stride + unit, S::LANES) })
    }

    /// # Safety
    /// No other thread reads or writes these units while this function writes them.
    #[inline(always)]
    unsafe fn store<S: Simd>(self, v: S, row: usize, unit: usize, x: S::F) {
        // SAFETY: no other thread touches these units now, by this function's contract.
        store_part(v, unsafe { self.rows.write(row * self.stride + unit, S::LANES) }, x);
    }
}

/// The state to which a reset returns, as the caller holds it: `[B, width]`, or zero if absent.
#[derive(Clone, Copy)]
pub(super) struct InitialRows<'a> {
    pub(super) rows: Option<&'a [f32]>,
    pub(super) width: usize,
}

impl InitialRows<'_> {
    #[inline(always)]
    fn load<S: Simd>(self, v: S, row: usize, unit: usize) -> S::F {
        match self.rows {
            Some(rows) => load_part(v, &rows[row * self.width + unit..][..S::LANES.min(self.width - unit)]),
            None => v.splat(0.0),
        }
    }
}

/// The flags of the next step, one word per row; `None` if no row is reset before it.
#[derive(Clone, Copy)]
pub(super) struct NextFlags<'a>(pub(super) Option<&'a [u32]>);

impl NextFlags<'_> {
    /// Whether the row's state returns to its initial value before the next step.
    #[inline(always)]
    pub(super) fn resets(self, row: usize) -> bool {
        self.0.is_some_and(|flags| flags[row] & RESET != 0)
    }
}

/// The place of one step's output.
#[derive(Clone, Copy)]
pub(super) struct StepOutput<'a> {
    pub(super) y: SharedSlice<'a>,
    /// Index of the first row's first number.
    pub(super) at: usize,
    pub(super) stride: usize,
    /// The index `at` of the step before, whose output a skipped row repeats; `None` if a skipped row's output is zero.
    pub(super) held: Option<usize>,
}

/// The state around one step of one layer and direction.
#[derive(Clone, Copy)]
pub(super) struct StepState<'a> {
    pub(super) h: PaddedRows<'a>,
    pub(super) h_next: PaddedRows<'a>,
    pub(super) s: PaddedRows<'a>,
    /// The operand of a step's second product: `r h`, or the state before its projection. It holds the rows of the step
    /// alone, one after the other, as does `a_z`.
    pub(super) m: PaddedRows<'a>,
    /// The pre-activation of the update gate, of a GRU that resets before the product.
    pub(super) a_z: PaddedRows<'a>,
    pub(super) initial_h: InitialRows<'a>,
    pub(super) initial_s: InitialRows<'a>,
    pub(super) next: NextFlags<'a>,
    pub(super) output: StepOutput<'a>,
}

/// The update of some panels' units in some rows.
///
/// `LayerCall::step` upholds the invariant of all accesses to `state`: a thread has claimed its panels, and a stage begins when all
/// panels of the one before are done. So during a stage only this thread touches the units of `h_next`, `s`, `a_z` and `y` in `panels`,
/// and the units of `m` if the stage writes `m`. No thread writes `h`, nor `m` if the stage's product reads `m`.
pub(super) struct Update<'a> {
    pub(super) cell: &'a Cell,
    pub(super) stage: Stage,
    pub(super) layout: PanelLayout,
    pub(super) panels: Range<usize>,
    /// The rows that take part in the step, and those among them that are updated, as positions.
    pub(super) step_rows: StepRows<'a>,
    pub(super) rows: Range<usize>,
    /// `U x + b_ih` from the first of `rows` and of `panels` on; empty if the stage has no input.
    pub(super) input: &'a [f32],
    /// Strides of [`Update::input`] from row to row and from panel to panel.
    pub(super) input_strides: [usize; 2],
    /// `W h + b_hh`, `[rows, panels, width]`.
    pub(super) product: &'a [f32],
    /// Peephole weights, `[3, padded units]`; empty without peepholes.
    pub(super) peephole: &'a [f32],
    pub(super) state: &'a StepState<'a>,
}

impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match AnyActivations::of(self.cell) {
            AnyActivations::SIGMOID_TANH => self.all(v, SigmoidTanh),
            activations => self.all(v, activations),
        }
    }
}

impl Update<'_> {
    #[inline(always)]
    fn all<S: Simd>(self, v: S, activations: impl Activations) {
        let (gates, width) = (self.layout.gates.len(), self.layout.width());
        let [row_stride, panel_stride] = self.input_strides;
        for (panel, number) in self.panels.clone().enumerate() {
            for (at, position) in self.rows.clone().enumerate() {
                let row = self.step_rows.row(position);
                for slot in 0..self.layout.blocks {
                    let unit = (number * self.layout.blocks + slot) * S::LANES;
                    if unit >= self.layout.units {
                        break;
                    }
                    let column = slot * gates * S::LANES;
                    let input = at * row_stride + panel * panel_stride + column;
                    let product = (at * self.panels.len() + panel) * width + column;
                    let mut register = InferenceRegister { update: &self, row, position, unit, input, product };
                    update(v, (self.cell, self.stage), activations, &mut register);
                }
            }
        }
    }
}

/// One register of units of one row, in the buffers of an inference step.
struct InferenceRegister<'a> {
    update: &'a Update<'a>,
    row: usize,
    /// The row's position among those that take part in the step.
    position: usize,
    unit: usize,
    /// Index of the first gate in [`Update::input`].
    input: usize,
    /// Index of the first gate in [`Update::product`].
    product: usize,
}

impl InferenceRegister<'_> {
    /// Writes a row's new `h` and its output.
    #[inline(always)]
    fn put_h<S: Simd>(&self, v: S, new: S::F) {
        let Self { update, row, unit, .. } = *self;
        let StepState { h_next, initial_h, next, output, .. } = *update.state;
        let lanes = S::LANES.min(update.layout.units - unit);
        let kept = if next.resets(row) { initial_h.load(v, row, unit) } else { new };
        // SAFETY: only this thread touches these units of `h_next` and `y`: see `Update`.
        unsafe {
            store_part(v, output.y.write(output.at + row * output.stride + unit, lanes), new);
            h_next.store(v, row, unit, kept);
        }
    }
}

impl<S: Simd> UnitRegister<S> for InferenceRegister<'_> {
    #[inline(always)]
    fn input_part(&self, v: S, gate: usize) -> S::F {
        load_part(v, &self.update.input[self.input + gate * S::LANES..][..S::LANES])
    }

    #[inline(always)]
    fn state_part(&self, v: S, gate: usize) -> S::F {
        load_part(v, &self.update.product[self.product + gate * S::LANES..][..S::LANES])
    }

    #[inline(always)]
    fn peephole(&self, v: S, row: usize) -> Option<S::F> {
        let weights = self.update.peephole;
        if weights.is_empty() {
            return None;
        }
        Some(load_part(v, &weights[row * (weights.len() / 3) + self.unit..][..S::LANES]))
    }

    #[inline(always)]
    fn h(&self, v: S) -> S::F {
        // SAFETY: no thread writes `h` in this step, whose new state has a buffer of its own: see `Update`.
        unsafe { self.update.state.h.load(v, self.row, self.unit) }
    }

    #[inline(always)]
    fn product_h(&self, v: S) -> S::F {
        self.h(v)
    }

    #[inline(always)]
    fn s(&self, v: S) -> S::F {
        // SAFETY: only this thread touches these units of `s`: see `Update`.
        unsafe { self.update.state.s.load(v, self.row, self.unit) }
    }

    #[inline(always)]
    fn kept_z(&self, v: S) -> S::F {
        // SAFETY: the stage `Reset` wrote `a_z` in an earlier phase, and nobody writes it in this stage.
        unsafe { self.update.state.a_z.load(v, self.position, self.unit) }
    }

    #[inline(always)]
    fn put_reset(&mut self, v: S, a_z: S::F, r_h: S::F) {
        let state = self.update.state;
        // SAFETY: only this thread touches these units of `m` and `a_z` in this stage: see `Update`.
        unsafe {
            state.m.store(v, self.position, self.unit, r_h);
            state.a_z.store(v, self.position, self.unit, a_z);
        }
    }

    #[inline(always)]
    fn put_s(&mut self, v: S, _: S::F, s_next: S::F) {
        let StepState { s: rows, initial_s, next, .. } = *self.update.state;
        let kept = if next.resets(self.row) { initial_s.load(v, self.row, self.unit) } else { s_next };
        // SAFETY: only this thread touches these units of `s`: see `Update`.
        unsafe { rows.store(v, self.row, self.unit, kept) };
    }

    #[inline(always)]
    fn put_output(&mut self, v: S, out: S::F) {
        let Update { cell, stage, state, .. } = self.update;
        if *stage == Stage::Whole && cell.projection().is_some() {
            // SAFETY: only this thread touches these units of `m` in this stage: see `Update`.
            unsafe { state.m.store(v, self.position, self.unit, out) };
        } else {
            self.put_h(v, out);
        }
    }
}

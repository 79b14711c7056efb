//! What follows a product: gates, activations and the new state, register by register, as the reference's equations
//! ([`lstm_update`](crate::reference::lstm_update) and its like) write them.
#![allow(unsafe_code)]

use super::math::{activate, clip, load_part, sigmoid, store_part, tanh};
use super::memory::SharedSlice;
use super::pack::PanelLayout;
use super::simd::{Kernel, Simd};
use crate::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, RESET, Reset, Stage, VALID};

/// Rows of a state of one layer and direction in a working buffer, each padded to whole registers.
#[derive(Clone, Copy)]
pub(super) struct PaddedRows<'a> {
    pub(super) rows: SharedSlice<'a>,
    pub(super) stride: usize,
}

impl<'a> PaddedRows<'a> {
    /// # Safety
    /// No thread writes these units while the register is read.
    #[inline(always)]
    unsafe fn load<S: Simd>(self, v: S, row: usize, unit: usize) -> S::F {
        // SAFETY: no thread writes these units meanwhile, by this function's contract.
        load_part(v, unsafe { self.rows.read(row * self.stride + unit, S::LANES) })
    }

    /// # Safety
    /// The units are this thread's.
    #[inline(always)]
    unsafe fn store<S: Simd>(self, v: S, row: usize, unit: usize, x: S::F) {
        // SAFETY: the units are this thread's, by this function's contract.
        store_part(v, unsafe { self.rows.write(row * self.stride + unit, S::LANES) }, x);
    }
}

/// A state as the caller holds it, `[B, width]`; absent where it is zero.
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

/// The flags of one step.
#[derive(Clone, Copy)]
pub(super) struct StepFlags<'a> {
    /// One word a row; absent where every row takes part.
    pub(super) now: Option<&'a [u32]>,
    /// Those of the step that follows.
    pub(super) next: Option<&'a [u32]>,
}

impl StepFlags<'_> {
    #[inline(always)]
    fn valid(self, row: usize) -> bool {
        self.now.is_none_or(|flags| flags[row] & VALID != 0)
    }

    /// Whether the row's state returns to its initial value before the next step.
    #[inline(always)]
    fn resets(self, row: usize) -> bool {
        self.next.is_some_and(|flags| flags[row] & RESET != 0)
    }
}

/// Where the output of one step goes.
#[derive(Clone, Copy)]
pub(super) struct StepOutput<'a> {
    pub(super) y: SharedSlice<'a>,
    /// The first row's place.
    pub(super) at: usize,
    pub(super) stride: usize,
    /// The place of the step before, which a skipped row repeats; absent where it is zero.
    pub(super) held: Option<usize>,
}

/// The state around one step of one layer and direction.
#[derive(Clone, Copy)]
pub(super) struct StepState<'a> {
    pub(super) h: PaddedRows<'a>,
    pub(super) h_next: PaddedRows<'a>,
    pub(super) s: PaddedRows<'a>,
    /// What a second product of the step reads: the reset state, or the state before its projection.
    pub(super) m: PaddedRows<'a>,
    /// The update gate of a GRU that resets before the product.
    pub(super) a_z: PaddedRows<'a>,
    pub(super) initial_h: InitialRows<'a>,
    pub(super) initial_s: InitialRows<'a>,
    pub(super) flags: StepFlags<'a>,
    pub(super) output: StepOutput<'a>,
}

/// The update of some panels' units for some rows. One thread owns the units; the others read its `h` and `m` only after
/// the step's barrier.
pub(super) struct Update<'a> {
    pub(super) cell: &'a Cell,
    pub(super) stage: Stage,
    pub(super) layout: PanelLayout,
    pub(super) panels: std::ops::Range<usize>,
    pub(super) rows: std::ops::Range<usize>,
    /// The input's side from the first of `rows` and of `panels` on; empty where the stage has none.
    pub(super) input: &'a [f32],
    pub(super) input_stride: usize,
    /// The state's side, `[panels, rows, width]`.
    pub(super) product: &'a [f32],
    /// Peephole weights `[3, padded units]`, or nothing.
    pub(super) peephole: &'a [f32],
    pub(super) state: &'a StepState<'a>,
}

/// The activations of a cell, clips of their arguments included.
trait Functions: Copy {
    fn gate<S: Simd>(self, v: S, x: S::F) -> S::F;
    fn candidate<S: Simd>(self, v: S, x: S::F) -> S::F;
    fn output<S: Simd>(self, v: S, x: S::F) -> S::F;
}

/// Those of nearly every model, known when the kernel is compiled: sigmoid gates, tanh elsewhere, nothing clipped.
#[derive(Clone, Copy)]
struct Usual;

impl Functions for Usual {
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

/// Any others.
#[derive(Clone, Copy, PartialEq)]
struct Described {
    gate: Activation,
    candidate: Activation,
    output: Activation,
    clip: Option<f32>,
}

impl Functions for Described {
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

impl Described {
    const USUAL: Self =
        Self { gate: Activation::Sigmoid, candidate: Activation::Tanh, output: Activation::Tanh, clip: None };

    /// What a cell lacks counts as usual.
    fn of(cell: &Cell) -> Self {
        match *cell {
            Cell::Rnn(cell) => Self { candidate: cell.activation, clip: cell.gate_clip, ..Self::USUAL },
            Cell::Lstm(LstmCell { gate, candidate, output, gate_clip: clip, .. }) => {
                Self { gate, candidate, output, clip }
            }
            Cell::Gru(GruCell { gate, candidate, gate_clip: clip, .. }) => {
                Self { gate, candidate, clip, ..Self::USUAL }
            }
        }
    }
}

/// One register of units of one row.
#[derive(Clone, Copy)]
struct UnitPlace {
    row: usize,
    unit: usize,
    input: usize,
    product: usize,
}

impl Kernel for Update<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match Described::of(self.cell) {
            Described::USUAL => self.all(v, Usual),
            described => self.all(v, described),
        }
    }
}

impl Update<'_> {
    #[inline(always)]
    fn all<S: Simd>(self, v: S, functions: impl Functions) {
        let (gates, width) = (self.layout.gates.len(), self.layout.width());
        for (panel, number) in self.panels.clone().enumerate() {
            for (at, row) in self.rows.clone().enumerate() {
                for slot in 0..self.layout.blocks {
                    let unit = (number * self.layout.blocks + slot) * S::LANES;
                    if unit >= self.layout.units {
                        break;
                    }
                    let column = slot * gates * S::LANES;
                    let input = at * self.input_stride + panel * width + column;
                    let product = (panel * self.rows.len() + at) * width + column;
                    self.one(v, functions, UnitPlace { row, unit, input, product });
                }
            }
        }
    }

    #[inline(always)]
    fn one<S: Simd>(&self, v: S, functions: impl Functions, place: UnitPlace) {
        match (self.stage, self.cell) {
            (Stage::Project, _) => self.emit(v, place, self.state_side(v, place, 0)),
            (_, Cell::Rnn(_)) => self.emit(v, place, functions.candidate(v, self.sum(v, place, 0))),
            (_, Cell::Lstm(cell)) => self.lstm(v, functions, cell, place),
            (Stage::Reset, Cell::Gru(_)) => self.gru_gates(v, functions, place),
            (_, Cell::Gru(cell)) => self.gru(v, functions, cell, place),
        }
    }

    #[inline(always)]
    fn input_side<S: Simd>(&self, v: S, place: UnitPlace, gate: usize) -> S::F {
        load_part(v, &self.input[place.input + gate * S::LANES..][..S::LANES])
    }

    #[inline(always)]
    fn state_side<S: Simd>(&self, v: S, place: UnitPlace, gate: usize) -> S::F {
        load_part(v, &self.product[place.product + gate * S::LANES..][..S::LANES])
    }

    /// A gate's pre-activation.
    #[inline(always)]
    fn sum<S: Simd>(&self, v: S, place: UnitPlace, gate: usize) -> S::F {
        v.add(self.input_side(v, place, gate), self.state_side(v, place, gate))
    }

    #[inline(always)]
    fn peep<S: Simd>(&self, v: S, place: UnitPlace, gate: usize, a: S::F, s: S::F) -> S::F {
        if self.peephole.is_empty() {
            return a;
        }
        let p = load_part(v, &self.peephole[gate * (self.peephole.len() / 3) + place.unit..][..S::LANES]);
        v.fma(p, s, a)
    }

    #[inline(always)]
    fn lstm<S: Simd>(&self, v: S, functions: impl Functions, cell: &LstmCell, place: UnitPlace) {
        let state = self.state;
        // SAFETY: the units of `s` are this thread's.
        let s = unsafe { state.s.load(v, place.row, place.unit) };
        let i = functions.gate(v, self.peep(v, place, 0, self.sum(v, place, 0), s));
        let (f, g_at) = match cell.forget {
            Forget::Gate => (functions.gate(v, self.peep(v, place, 1, self.sum(v, place, 1), s)), 2),
            Forget::Never => (v.splat(1.0), 1),
            Forget::Coupled => (v.sub(v.splat(1.0), i), 1),
        };
        let g = functions.candidate(v, self.sum(v, place, g_at));
        let s_new = clip(v, v.fma(f, s, v.mul(i, g)), cell.cell_clip);
        let o = functions.gate(v, self.peep(v, place, 2, self.sum(v, place, g_at + 1), s_new));
        let m = v.mul(o, functions.output(v, s_new));

        let kept = if state.flags.valid(place.row) { s_new } else { s };
        let resets = state.flags.resets(place.row);
        let s_next = if resets { state.initial_s.load(v, place.row, place.unit) } else { kept };
        // SAFETY: the units of `s` are this thread's.
        unsafe { state.s.store(v, place.row, place.unit, s_next) };
        if cell.projection.is_some() {
            // SAFETY: the units of `m` are this thread's.
            unsafe { state.m.store(v, place.row, place.unit, m) };
        } else {
            self.emit(v, place, m);
        }
    }

    /// The gates of a GRU that resets before the product: `r h` and `z`.
    #[inline(always)]
    fn gru_gates<S: Simd>(&self, v: S, functions: impl Functions, place: UnitPlace) {
        let r = functions.gate(v, self.sum(v, place, 0));
        let z = functions.gate(v, self.sum(v, place, 1));
        let UnitPlace { row, unit, .. } = place;
        // SAFETY: nobody writes `h` in this stage; the units of `m` and `z` are this thread's.
        unsafe {
            let h = self.state.h.load(v, row, unit);
            self.state.m.store(v, row, unit, v.mul(r, h));
            self.state.a_z.store(v, row, unit, z);
        }
    }

    /// The candidate and the new state of a GRU.
    #[inline(always)]
    fn gru<S: Simd>(&self, v: S, functions: impl Functions, cell: &GruCell, place: UnitPlace) {
        let UnitPlace { row, unit, .. } = place;
        let (z, a_n) = match cell.reset {
            Reset::After => {
                let r = functions.gate(v, self.sum(v, place, 0));
                let z = functions.gate(v, self.sum(v, place, 1));
                (z, v.fma(r, self.state_side(v, place, 2), self.input_side(v, place, 2)))
            }
            // SAFETY: what was written before the barrier between the stages is only read now.
            Reset::Before => (unsafe { self.state.a_z.load(v, row, unit) }, self.sum(v, place, 0)),
        };
        let n = functions.candidate(v, a_n);
        // SAFETY: nobody writes `h` in this step: the new state has a buffer of its own.
        let h = unsafe { self.state.h.load(v, row, unit) };
        let rest = v.sub(v.splat(1.0), z);
        let h_new = match cell.mix {
            Mix::KeepsOld => v.fma(rest, n, v.mul(z, h)),
            Mix::TakesNew => v.fma(rest, h, v.mul(z, n)),
        };
        self.emit(v, place, h_new);
    }

    /// Writes a row's new `h` and its output, or what a skipped step leaves there.
    #[inline(always)]
    fn emit<S: Simd>(&self, v: S, place: UnitPlace, new: S::F) {
        let UnitPlace { row, unit, .. } = place;
        let StepState { h, h_next, initial_h, flags, output, .. } = *self.state;
        let lanes = S::LANES.min(self.layout.units - unit);
        let valid = flags.valid(row);
        // SAFETY: `h` is only read in this step; these units of `h_next` and `y` are this thread's.
        unsafe {
            let place_of = |at: usize| at + row * output.stride + unit;
            let y = output.y.write(place_of(output.at), lanes);
            if valid {
                store_part(v, y, new);
            } else {
                match output.held {
                    Some(held) => y.copy_from_slice(output.y.read(place_of(held), lanes)),
                    None => y.fill(0.0),
                }
            }
            let kept = if valid { new } else { h.load(v, row, unit) };
            let next = if flags.resets(row) { initial_h.load(v, row, unit) } else { kept };
            h_next.store(v, row, unit, next);
        }
    }
}

//! One time step of a layer, or of all layers in a wave.

use std::ops::Range;

use gatewise::cell::{Cell, LstmCell, Stage, WeightType};
use gatewise::reference::{gru_gate, gru_update, lstm_update, rnn_update};

use super::super::{Case, POISON, Slot, dims, n, wide};
use super::{Layer, Tile, product, product_constants, row_of};
use crate::support::{Tolerance, uniform};

/// Bits of a flag word.
const VALID: u32 = 1;
const RESET: u32 = 2;

/// The layers and directions that a dispatch covers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cover {
    /// `count` of a layer's `of` directions, from `first` on.
    Directions { first: usize, count: usize, of: usize },
    /// This many layers, each one step behind the layer below.
    Wave { layers: usize },
}

/// One dispatch of one stage.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) cell: Cell,
    pub(super) stage: Stage,
    pub(super) kind: WeightType,
    pub(super) tile: Tile,
    pub(super) hidden: usize,
    pub(super) batch: usize,
    pub(super) time: usize,
    /// Steps that the lowest layer has done.
    pub(super) step: usize,
    /// The chunk of time whose projected input is at hand.
    pub(super) chunk: (usize, usize),
    pub(super) cover: Cover,
    /// Bit d: direction d runs from the last step to the first.
    pub(super) reverse: u32,
    pub(super) flags: bool,
    pub(super) hold: bool,
}

/// Offsets of the parts of the state in a buffer: one after another with gaps, each for all layers or directions of the dispatch.
struct Regions {
    len: usize,
    /// Whole words of 16 bytes, where rows must begin at one.
    unit: usize,
}

impl Regions {
    fn take(&mut self, len: usize) -> usize {
        let at = self.len + self.unit;
        self.len = at + len;
        at
    }
}

/// The numbers that a step reads, and where they lie.
struct StepBuffers {
    h: usize,
    h_initial: usize,
    scratch: usize,
    s: usize,
    s_initial: usize,
    update: usize,
    current: Vec<f32>,
    next: Vec<f32>,
    own: Vec<f32>,
    y: Vec<f32>,
    gates_x: Vec<f32>,
    flags: Vec<u32>,
}

/// The buffers that a step writes, as they must be afterwards.
struct After {
    next: Slot,
    own: Slot,
    y: Slot,
}

/// A row of a layer or direction at its step.
#[derive(Clone, Copy)]
struct At {
    z: usize,
    row: usize,
    time: usize,
    reset: bool,
}

impl Step {
    fn out(&self) -> usize {
        self.cell.output_size(self.hidden)
    }

    fn gates(&self) -> usize {
        self.cell.gates().len()
    }

    /// Layers or directions of the dispatch.
    fn zs(&self) -> usize {
        match self.cover {
            Cover::Directions { count, .. } => count,
            Cover::Wave { layers } => layers,
        }
    }

    fn directions(&self) -> usize {
        match self.cover {
            Cover::Directions { of, .. } => of,
            Cover::Wave { .. } => 1,
        }
    }

    fn direction(&self, z: usize) -> usize {
        match self.cover {
            Cover::Directions { first, .. } => first + z,
            Cover::Wave { .. } => 0,
        }
    }

    fn is_reverse(&self, z: usize) -> bool {
        (self.reverse >> self.direction(z)) & 1 == 1
    }

    /// The step of the sequence that `z` computes, if any.
    fn time_of(&self, z: usize) -> Option<usize> {
        let done = match self.cover {
            Cover::Directions { .. } => self.step,
            Cover::Wave { .. } => self.step.checked_sub(z)?,
        };
        (done < self.time).then(|| if self.is_reverse(z) { self.time - 1 - done } else { done })
    }

    /// Whether the second dispatch of a step, for which `current` and `next` have changed places.
    fn is_second(&self) -> bool {
        matches!(self.stage, Stage::Candidate | Stage::Project)
    }

    fn memory(&self) -> StepBuffers {
        let (out, rows) = (self.out(), self.zs() * self.batch);
        let numbers = |seed, len| uniform(seed, len, 1.0);
        // The rows that a product reads begin at whole words unless they straddle them.
        let width = if self.is_second() { self.hidden } else { out };
        let whole = if width.is_multiple_of(4) { 4 } else { 3 };
        let padded = |len: usize| if width.is_multiple_of(4) { len.next_multiple_of(4) } else { len };
        let mut state = Regions { len: 0, unit: whole };
        let [h, h_initial, scratch] = [out, out, self.hidden].map(|width| state.take(padded(rows * width)));
        let mut cells = Regions { len: 0, unit: 5 };
        let [s, s_initial, update] = [(); 3].map(|()| cells.take(rows * self.hidden));
        let stored = if self.gates() == 1 { 1 } else { 4 };
        let projected = self.directions() * self.chunk.1 * self.batch * self.hidden * stored;
        let mut current = vec![POISON; state.len];
        for (seed, (at, width)) in (210..).zip([(h, out), (h_initial, out), (scratch, self.hidden)]) {
            current[at..at + rows * width].copy_from_slice(&numbers(seed, rows * width));
        }
        let mut gates_x = numbers(25, projected);
        if self.hold {
            // A wrong number is seen in its own unit and nowhere else.
            gates_x.iter_mut().step_by(97).for_each(|x| *x = f32::NAN);
        }
        let flag = |at: usize| [VALID, 0, VALID | RESET, VALID, RESET, VALID, 0, VALID | RESET][(at + at / 8 * 3) % 8];
        StepBuffers {
            h,
            h_initial,
            scratch,
            s,
            s_initial,
            update,
            current,
            next: numbers(22, state.len),
            // Update gates are between 0 and 1.
            own: numbers(23, cells.len).iter().map(|x| x.abs()).collect(),
            y: numbers(24, self.time * self.batch * self.directions() * out),
            gates_x,
            flags: (0..self.time * self.batch).map(flag).collect(),
        }
    }

    /// The input's side of a unit's gates.
    fn input_side(&self, memory: &StepBuffers, layer: &Layer, at: At, unit: usize) -> Vec<f64> {
        let gates = self.gates();
        if let (Cover::Wave { .. }, 1..) = (self.cover, at.z) {
            let below = wide(&memory.current[self.places(memory.h, self.out(), At { z: at.z - 1, ..at })]);
            let sums = product(&layer.exact.weight_ih, gates, unit, &below);
            let bias = |g| super::project::bias(&self.cell, &layer.exact, g, self.hidden, unit);
            return sums.into_iter().enumerate().map(|(g, sum)| sum + bias(g)).collect();
        }
        let (first, steps) = self.chunk;
        let place = if self.is_reverse(at.z) { steps - 1 - (self.step - first) } else { self.step - first };
        let stored = if gates == 1 { 1 } else { 4 };
        let direction = self.direction(at.z);
        let unit_at = ((direction * steps + place) * self.batch + at.row) * self.hidden + unit;
        memory.gates_x[unit_at * stored..][..gates].iter().map(|&x| f64::from(x)).collect()
    }

    /// Computes the buffers after the step of a layer or direction.
    fn apply(&self, memory: &StepBuffers, layer: &Layer, (z, time): (usize, usize), last: bool, after: &mut After) {
        for row in 0..self.batch {
            let flag = if self.flags { memory.flags[time * self.batch + row] } else { VALID };
            let at = At { z, row, time, reset: flag & RESET != 0 };
            if flag & VALID == 0 {
                self.skip(memory, at, last, after);
            } else {
                self.advance(memory, layer, at, last, after);
            }
        }
    }

    /// Places of a row in a region of the given width.
    fn places(&self, region: usize, width: usize, at: At) -> Range<usize> {
        let first = region + (at.z * self.batch + at.row) * width;
        first..first + width
    }

    fn h_before<'a>(&self, memory: &'a StepBuffers, at: At) -> &'a [f32] {
        let from = if self.is_second() { &memory.next } else { &memory.current };
        &from[self.places(if at.reset { memory.h_initial } else { memory.h }, self.out(), at)]
    }

    fn s_before<'a>(&self, memory: &'a StepBuffers, at: At) -> &'a [f32] {
        &memory.own[self.places(if at.reset { memory.s_initial } else { memory.s }, self.hidden, at)]
    }

    fn y_at(&self, at: At, time: usize) -> usize {
        ((time * self.batch + at.row) * self.directions() + self.direction(at.z)) * self.out()
    }

    /// A skipped step: the state stays, or returns to its initial value where the row is reset; the output is padding.
    fn skip(&self, memory: &StepBuffers, at: At, last: bool, after: &mut After) {
        if self.cell.has_cell_state() && self.stage == Stage::Whole {
            after.own.expect_bits(self.places(memory.s, self.hidden, at).start, self.s_before(memory, at));
        }
        let writes_h = self.is_second() || (self.stage == Stage::Whole && self.cell.projection().is_none());
        if !writes_h {
            return;
        }
        after.next.expect_bits(self.places(memory.h, self.out(), at).start, self.h_before(memory, at));
        if last {
            let first = if self.is_reverse(at.z) { at.time + 1 == self.time } else { at.time == 0 };
            let padding = if self.hold && !first {
                let before = if self.is_reverse(at.z) { at.time + 1 } else { at.time - 1 };
                memory.y[self.y_at(at, before)..][..self.out()].to_vec()
            } else {
                vec![0.0; self.out()]
            };
            after.y.expect_bits(self.y_at(at, at.time), &padding);
        }
    }

    /// A step of one row by the reference's equations.
    fn advance(&self, memory: &StepBuffers, layer: &Layer, at: At, last: bool, after: &mut After) {
        let (hidden, gates, p) = (self.hidden, self.gates(), &layer.exact);
        let h = wide(self.h_before(memory, at));
        let scratch = wide(&memory.current[self.places(memory.scratch, hidden, at)]);
        let emit = |after: &mut After, unit: usize, value: f64| {
            after.next.expect_near(self.places(memory.h, self.out(), at).start + unit, value);
            if last {
                after.y.expect_near(self.y_at(at, at.time) + unit, value);
            }
        };
        if self.stage == Stage::Project {
            let weight = p.weight_hr.as_ref().expect("a projection");
            (0..self.out()).for_each(|unit| emit(after, unit, product(weight, 1, unit, &scratch)[0]));
            return;
        }
        let source = if self.stage == Stage::Candidate { &scratch } else { &h };
        for unit in 0..hidden {
            let x = self.input_side(memory, layer, at, unit);
            let a = product(&p.weight_hh, gates, unit, source);
            let place = |region| self.places(region, hidden, at).start + unit;
            match (&self.cell, self.stage) {
                (Cell::Rnn(cell), _) => emit(after, unit, rnn_update(cell, x[0] + a[0])),
                (Cell::Gru(cell), Stage::Whole) => {
                    let bias = p.bias_hh.as_ref().map_or(0.0, |bias| bias[2 * hidden + unit]);
                    let (r, z) = (gru_gate(cell, x[0] + a[0]), gru_gate(cell, x[1] + a[1]));
                    emit(after, unit, gru_update(cell, z, x[2] + r * (a[2] + bias), h[unit]));
                }
                (Cell::Gru(cell), Stage::Reset) => {
                    after.next.expect_near(place(memory.scratch), gru_gate(cell, x[0] + a[0]) * h[unit]);
                    after.own.expect_near(place(memory.update), gru_gate(cell, x[1] + a[1]));
                }
                (Cell::Gru(cell), _) => {
                    let z = memory.own[place(memory.update)];
                    emit(after, unit, gru_update(cell, z.into(), x[2] + a[2], h[unit]));
                }
                (Cell::Lstm(cell), _) => {
                    let a: Vec<f64> = x.iter().zip(&a).map(|(x, a)| x + a).collect();
                    let peephole = p.peephole.as_ref().map_or([0.0; 3], |w| [0, 1, 2].map(|gate| w[[gate, unit]]));
                    let (m, s) = lstm_update(cell, &a, peephole, self.s_before(memory, at)[unit].into());
                    after.own.expect_near(place(memory.s), s);
                    if cell.projection.is_some() {
                        after.next.expect_near(place(memory.scratch), m);
                    } else {
                        emit(after, unit, m);
                    }
                }
                (cell, _) => panic!("a cell without a test: {cell:?}"),
            }
        }
    }

    pub(super) fn case(mut self, kernel: &str) -> Case {
        // A projection is narrower than the units; the case chooses its width.
        if let Cell::Lstm(LstmCell { projection: Some(width), .. }) = &mut self.cell {
            *width = (self.hidden * 2 / 3).max(1);
        }
        let (hidden, batch, out, gates, zs) = (self.hidden, self.batch, self.out(), self.gates(), self.zs());
        let input = if matches!(self.cover, Cover::Wave { .. }) { out } else { 1 };
        let layers: Vec<Layer> =
            (1..=zs as u64).map(|seed| Layer::new(&self.cell, input, hidden, self.kind, seed)).collect();
        let memory = self.memory();
        let mut after = After {
            next: Slot::in_place(&memory.next),
            own: Slot::in_place(&memory.own),
            y: Slot::in_place(&memory.y),
        };
        for (z, layer) in layers.iter().enumerate() {
            let last = z + 1 == zs || self.cover != (Cover::Wave { layers: zs });
            if let Some(time) = self.time_of(z) {
                self.apply(&memory, layer, (z, time), last, &mut after);
            }
        }

        let projects = self.stage == Stage::Project;
        let part =
            |layer: &Layer| if projects { layer.packed.projection.clone() } else { layer.packed.recurrent.clone() };
        let matrices: Vec<Vec<u32>> =
            layers.iter().map(part).chain(layers.iter().map(|l| l.packed.input.clone())).collect();
        let (recurrent, inputs) = matrices.split_at(zs);
        let (mut weights, weights_at, weights_stride) = row_of(recurrent, 2, 1);
        // The lowest layer's input weights are not here: its input is projected beforehand.
        let (input_words, input_at, input_stride) = row_of(&inputs[1..], weights.len() / 4 + 3, 2);
        weights.extend(&input_words[weights.len()..]);
        let vectors_at = 7;
        let vectors = layers.iter().flat_map(|layer| layer.packed.vectors.clone());
        let vectors: Vec<f32> = std::iter::repeat_n(POISON, vectors_at).chain(vectors).collect();
        let gates_used = match self.stage {
            Stage::Reset => 0b011,
            Stage::Candidate => 0b100,
            Stage::Project => 1,
            Stage::Whole => (1 << gates) - 1,
        };
        let (units, depth) = (if projects { out } else { hidden }, if self.is_second() { hidden } else { out });
        let mut constants = layers[0].packed.constants.clone();
        let gates = if projects { 1 } else { gates };
        constants.extend(product_constants(kernel, self.tile, self.kind, gates, depth));
        constants.extend([
            ("USED", gates_used),
            ("STAGE", self.stage as u32),
            ("FLAGS", u32::from(self.flags)),
            ("HOLD", u32::from(self.hold)),
            ("REVERSE", self.reverse),
            ("WAVE", u32::from(matches!(self.cover, Cover::Wave { .. }))),
        ]);
        if kernel.contains("matrix") {
            constants.push(("PRODUCTS", if matches!(self.cover, Cover::Wave { .. }) { 2 } else { 1 }));
        }
        if kernel == "recurrent_step" {
            let Tile { rows, units, slices } = self.tile;
            let partial = if slices > 1 { rows * slices * units } else { 1 };
            constants.extend([("SLICES", n(slices)), ("PARTIAL", n(partial))]);
        }
        let scalars = layers[0].scalars();
        let fields = [
            ("step", self.step),
            ("time", self.time),
            ("batch", batch),
            ("hidden", hidden),
            ("out", out),
            ("directions", self.directions()),
            ("direction", self.direction(0)),
            ("first_step", self.chunk.0),
            ("steps", self.chunk.1),
            ("weights", weights_at),
            ("weights_stride", weights_stride),
            ("input_weights", input_at),
            ("input_stride", input_stride),
            ("vectors", vectors_at),
            ("h", memory.h),
            ("h_initial", memory.h_initial),
            ("scratch", memory.scratch),
            ("s", memory.s),
            ("s_initial", memory.s_initial),
            ("update", memory.update),
        ]
        .map(|(name, value)| (name, n(value)));
        let fields: Vec<(&str, u32)> =
            scalars.iter().map(|(name, bits)| (name.as_str(), *bits)).chain(fields).collect();
        Case {
            name: format!("{self:?}"),
            constants,
            dims: dims(kernel, &fields),
            buffers: vec![
                Slot::floats(&memory.gates_x),
                Slot::words(weights),
                Slot::floats(&vectors),
                Slot::words(memory.flags),
                Slot::floats(&memory.current),
                after.next,
                after.own,
                after.y,
            ],
            grid: [n(units.div_ceil(self.tile.units)), n(batch.div_ceil(self.tile.rows)), n(zs)],
            tolerance: Tolerance { abs: 4e-6 + Tolerance::sum(depth, 0.5).abs, rel: 0.0 },
        }
    }
}

//! One time step of a layer backwards.

use gatewise::cell::{Activation, Cell, LstmCell, Stage, WeightType};
use gatewise::reference::{activate_derivative, gru_gate, gru_update_backward, lstm_update, lstm_update_backward};

use super::super::{Case, POISON, Slot, dims, n, wide};
use super::{Layer, Tile, cells, tile, two_stage_cells};
use crate::support::{Tolerance, uniform};

/// Bits of a flag word.
const VALID: u32 = 1;
const RESET: u32 = 2;
const DIRECTIONS: usize = 2;
/// The second direction runs from the last step to the first.
const REVERSE: u32 = 0b10;
const TIME: usize = 5;

/// One dispatch of one stage, both directions.
#[derive(Clone, Copy, Debug)]
struct Back {
    cell: Cell,
    stage: Stage,
    tile: Tile,
    /// Units per invocation.
    columns: usize,
    hidden: usize,
    batch: usize,
    /// The step that the product comes from; `TIME` if there is none.
    later: usize,
    chunk: (usize, usize),
    flags: bool,
    hold: bool,
    clip: Option<f32>,
}

/// A region of the buffers that gradients move between: where it begins, and the width of its rows.
#[derive(Clone, Copy)]
struct Region {
    at: usize,
    width: usize,
}

impl Region {
    fn place(self, batch: usize, (direction, row): (usize, usize), unit: usize) -> usize {
        self.at + (direction * batch + row) * self.width + unit
    }
}

/// The numbers that a step reads, and their places in the buffers.
struct BackwardBuffers {
    gates: Region,
    between: Region,
    carry_h: Region,
    carry_s: Region,
    held: Region,
    initial_h: Region,
    initial_s: Region,
    current: Vec<f32>,
    next: Vec<f32>,
    pre: Vec<f32>,
    history: Vec<f32>,
    history_s: usize,
    dy: Vec<f32>,
    flags: Vec<u32>,
}

/// The buffers that a step writes, as they must be afterwards.
struct After {
    next: Slot,
    d_gates: Slot,
}

fn slope(activation: Activation, clip: Option<f32>, x: f64) -> f64 {
    match clip {
        Some(limit) if x.abs() > limit.into() => 0.0,
        _ => activate_derivative(activation, x),
    }
}

impl Back {
    fn out(&self) -> usize {
        self.cell.output_size(self.hidden)
    }

    fn gates(&self) -> usize {
        self.cell.gates().len()
    }

    fn projects(&self) -> bool {
        self.cell.projection().is_some()
    }

    /// Whether a step takes two dispatches, and whether this is the one that begins it.
    fn two_stages(&self) -> bool {
        self.cell.stages().len() > 1
    }

    fn begins(&self) -> bool {
        matches!(self.stage, Stage::Candidate | Stage::Project) || !self.two_stages()
    }

    fn units(&self) -> usize {
        if self.begins() { self.out() } else { self.hidden }
    }

    /// The source of the product: its region, the first column of its rows, and the depth.
    fn source(&self, memory: &BackwardBuffers) -> (Region, usize, usize) {
        match self.stage {
            Stage::Reset => (memory.gates, 2 * self.hidden, self.hidden),
            Stage::Candidate => (memory.gates, 0, 2 * self.hidden),
            Stage::Whole if self.projects() => (memory.between, 0, self.out()),
            _ => (memory.gates, 0, self.gates() * self.hidden),
        }
    }

    /// Rows of `hidden` elements of `d_gates`: the second side's, the peepholes' and all of them.
    fn rows(&self) -> (usize, usize, usize) {
        let second = self.gates();
        let after = matches!(self.cell, Cell::Gru(_)) && !self.two_stages();
        let peephole = second + usize::from(after || self.projects());
        (second, peephole, peephole + if self.cell.peephole() { 3 } else { 0 })
    }

    fn time_of(&self, direction: usize, step: usize) -> usize {
        if direction == 1 { TIME - 1 - step } else { step }
    }

    fn memory(&self) -> BackwardBuffers {
        let (out, hidden, batch) = (self.out(), self.hidden, self.batch);
        let mut len = 4;
        let mut region = |width: usize| {
            let at = len;
            len += (DIRECTIONS * batch * width).next_multiple_of(4) + 4;
            Region { at, width }
        };
        let gates = region(self.gates() * hidden);
        let between = region(if self.projects() { out } else { hidden });
        let [carry_h, held, initial_h] = [(); 3].map(|()| region(out));
        let [carry_s, initial_s] = [(); 2].map(|()| region(hidden));
        let steps = self.chunk.1;
        let stored = if self.gates() == 1 { 1 } else { 4 };
        let history_s = DIRECTIONS * (steps + 1) * batch * out;
        let flag = |at: usize| [VALID, 0, VALID | RESET, VALID, RESET, VALID, 0, VALID | RESET][(at * 5 + at / 8) % 8];
        BackwardBuffers {
            gates,
            between,
            carry_h,
            carry_s,
            held,
            initial_h,
            initial_s,
            current: uniform(301, len, 1.0),
            next: uniform(302, len, 1.0),
            pre: uniform(303, DIRECTIONS * steps * batch * hidden * stored, 1.0),
            history: uniform(304, history_s + DIRECTIONS * (steps + 1) * batch * hidden, 1.0),
            history_s,
            dy: uniform(305, TIME * batch * DIRECTIONS * out, 1.0),
            flags: (0..TIME * batch).map(flag).collect(),
        }
    }

    fn flag(&self, memory: &BackwardBuffers, direction: usize, row: usize, step: usize) -> u32 {
        if self.flags { memory.flags[self.time_of(direction, step) * self.batch + row] } else { VALID }
    }

    /// Index of a row of a direction's step within the chunk.
    fn chunk_row(&self, direction: usize, row: usize, step: usize) -> usize {
        let done = step - self.chunk.0;
        let place = if direction == 1 { self.chunk.1 - 1 - done } else { done };
        (direction * self.chunk.1 + place) * self.batch + row
    }

    fn before(
        &self,
        memory: &BackwardBuffers,
        (region, width): (usize, usize),
        at: (usize, usize),
        step: usize,
    ) -> Vec<f64> {
        let done = step - self.chunk.0;
        let place = if at.0 == 1 { self.chunk.1 - done } else { done };
        let first = region + ((at.0 * (self.chunk.1 + 1) + place) * self.batch + at.1) * width;
        wide(&memory.history[first..first + width])
    }

    fn pre_activations(&self, memory: &BackwardBuffers, at: (usize, usize), step: usize, unit: usize) -> [f64; 4] {
        let i = self.chunk_row(at.0, at.1, step) * self.hidden + unit;
        match self.cell {
            Cell::Rnn(_) => [memory.history[memory.history_s + i].into(), 0.0, 0.0, 0.0],
            _ => [0, 1, 2, 3].map(|gate| memory.pre[4 * i + gate].into()),
        }
    }

    fn limit(&self, x: f64) -> f64 {
        self.clip.map_or(x, |clip| x.clamp(-f64::from(clip), clip.into()))
    }

    fn carried(&self, memory: &BackwardBuffers, place: usize) -> f64 {
        if self.two_stages() { memory.next[place].into() } else { memory.current[place].into() }
    }

    fn leave_gate(
        &self,
        memory: &BackwardBuffers,
        at: (usize, usize),
        (gate, unit): (usize, usize),
        value: f64,
        after: &mut After,
    ) {
        let place = memory.gates.place(self.batch, at, gate * self.hidden + unit);
        after.next.expect_near(place, value);
        self.store(at, gate, unit, value, after);
    }

    fn store(&self, at: (usize, usize), row: usize, unit: usize, value: f64, after: &mut After) {
        let (_, _, rows) = self.rows();
        let row = self.chunk_row(at.0, at.1, self.later - 1) * rows + row;
        after.d_gates.expect_near(row * self.hidden + unit, value);
    }

    fn leave_s(&self, memory: &BackwardBuffers, at: (usize, usize), unit: usize, ds: f64, after: &mut After) {
        let place = |region: Region| region.place(self.batch, at, unit);
        let mut handed = ds;
        if self.flags {
            let mut initial = self.carried(memory, place(memory.initial_s));
            if self.flag(memory, at.0, at.1, self.later - 1) & RESET != 0 {
                initial += ds;
                handed = 0.0;
            }
            after.next.expect_near(place(memory.initial_s), initial);
        }
        after.next.expect_near(place(memory.carry_s), handed);
    }

    fn skip(&self, memory: &BackwardBuffers, at: (usize, usize), unit: usize, after: &mut After) {
        (0..self.rows().2).for_each(|row| self.store(at, row, unit, 0.0, after));
        (0..self.gates()).for_each(|gate| self.leave_gate(memory, at, (gate, unit), 0.0, after));
        if self.cell.has_cell_state() {
            let ds = self.carried(memory, memory.carry_s.place(self.batch, at, unit));
            self.leave_s(memory, at, unit, ds, after);
        }
    }

    fn lstm(
        &self,
        memory: &BackwardBuffers,
        layer: &Layer,
        at: (usize, usize),
        (unit, dm): (usize, f64),
        after: &mut After,
    ) {
        let Cell::Lstm(cell) = &self.cell else { unreachable!("an LSTM's") };
        let a = &self.pre_activations(memory, at, self.later - 1, unit)[..self.gates()];
        let p = layer.exact.peephole.as_ref().map_or([0.0; 3], |w| [0, 1, 2].map(|gate| w[[gate, unit]]));
        let s = self.before(memory, (memory.history_s, self.hidden), at, self.later - 1)[unit];
        let ds = self.carried(memory, memory.carry_s.place(self.batch, at, unit));
        let d = lstm_update_backward(cell, a, p, s, dm, ds);
        d.a.iter().enumerate().for_each(|(gate, &da)| self.leave_gate(memory, at, (gate, unit), da, after));
        let (second, peephole, _) = self.rows();
        if self.projects() {
            self.store(at, second, unit, lstm_update(cell, a, p, s).0, after);
        }
        if cell.peephole {
            (0..3).for_each(|row| self.store(at, peephole + row, unit, d.p[row], after));
        }
        self.leave_s(memory, at, unit, self.limit(d.s), after);
    }

    /// The first dispatch of a step.
    fn begin(
        &self,
        memory: &BackwardBuffers,
        layer: &Layer,
        at: (usize, usize),
        (unit, sum): (usize, f64),
        after: &mut After,
    ) {
        let place = |region: Region| region.place(self.batch, at, unit);
        let mut dh = self.carried(memory, place(memory.carry_h));
        let later = (self.later < TIME).then(|| self.flag(memory, at.0, at.1, self.later));
        if later.is_some_and(|flag| flag & VALID != 0) {
            let through =
                if self.stage == Stage::Candidate { memory.current[place(memory.between)].into() } else { 0.0 };
            dh = self.limit(dh + sum + through);
        }
        if self.flags {
            let mut initial = self.carried(memory, place(memory.initial_h));
            if later.is_some_and(|flag| flag & RESET != 0) {
                initial += dh;
                dh = 0.0;
            }
            after.next.expect_near(place(memory.initial_h), initial);
        }
        let Some(step) = self.later.checked_sub(1) else {
            after.next.expect_near(place(memory.carry_h), dh);
            if self.cell.has_cell_state() && !self.two_stages() {
                after.next.expect_near(place(memory.carry_s), memory.current[place(memory.carry_s)].into());
                if self.flags {
                    after.next.expect_near(place(memory.initial_s), memory.current[place(memory.initial_s)].into());
                }
            }
            return;
        };
        let (time, out) = (self.time_of(at.0, step), self.out());
        let dy = f64::from(memory.dy[((time * self.batch + at.1) * DIRECTIONS + at.0) * out + unit]);
        let held = if self.hold { self.carried(memory, place(memory.held)) } else { 0.0 };
        let valid = self.flag(memory, at.0, at.1, step) & VALID != 0;
        if self.hold {
            after.next.expect_near(place(memory.held), if valid { 0.0 } else { held + dy });
        }
        let projected = self.d_gates().0 + self.chunk_row(at.0, at.1, step) * out + unit;
        if !valid {
            after.next.expect_near(place(memory.carry_h), dh);
            if self.stage == Stage::Project {
                after.next.expect_near(place(memory.between), 0.0);
                after.d_gates.expect_near(projected, 0.0);
            } else {
                self.skip(memory, at, unit, after);
            }
            return;
        }
        dh += dy + held;
        let mut past = 0.0;
        match &self.cell {
            _ if self.stage == Stage::Project => {
                after.next.expect_near(place(memory.between), dh);
                after.d_gates.expect_near(projected, dh);
            }
            Cell::Rnn(cell) => {
                let a = self.pre_activations(memory, at, step, unit)[0];
                self.leave_gate(memory, at, (0, unit), dh * slope(cell.activation, cell.gate_clip, a), after);
            }
            Cell::Lstm(_) => self.lstm(memory, layer, at, (unit, dh), after),
            Cell::Gru(cell) => {
                let [a_r, a_z, n, second] = self.pre_activations(memory, at, step, unit);
                let h = self.before(memory, (0, out), at, step)[unit];
                let before = self.stage == Stage::Candidate;
                let r = gru_gate(cell, a_r);
                let a_n = if before { n } else { n + r * second };
                let (dz, da_n, dh_mix) = gru_update_backward(cell, gru_gate(cell, a_z), a_n, h, dh);
                let gate_slope = |a| slope(cell.gate, cell.gate_clip, a);
                self.leave_gate(memory, at, (1, unit), dz * gate_slope(a_z), after);
                self.leave_gate(memory, at, (2, unit), if before { da_n } else { r * da_n }, after);
                if !before {
                    self.leave_gate(memory, at, (0, unit), da_n * second * gate_slope(a_r), after);
                    self.store(at, self.rows().0, unit, da_n, after);
                }
                past = dh_mix;
            }
            cell => panic!("a cell without a test: {cell:?}"),
        }
        after.next.expect_near(place(memory.carry_h), past);
    }

    /// The second dispatch of a step.
    fn end(
        &self,
        memory: &BackwardBuffers,
        layer: &Layer,
        at: (usize, usize),
        (unit, sum): (usize, f64),
        after: &mut After,
    ) {
        let step = self.later - 1;
        let valid = self.flag(memory, at.0, at.1, step) & VALID != 0;
        let Cell::Gru(cell) = &self.cell else {
            match valid {
                true => self.lstm(memory, layer, at, (unit, sum), after),
                false => self.skip(memory, at, unit, after),
            }
            return;
        };
        let z = memory.gates.place(self.batch, at, self.hidden + unit);
        after.next.expect_near(z, memory.current[z].into());
        if !valid {
            return self.leave_gate(memory, at, (0, unit), 0.0, after);
        }
        let a_r = self.pre_activations(memory, at, step, unit)[0];
        let h = self.before(memory, (0, self.out()), at, step)[unit];
        self.leave_gate(memory, at, (0, unit), sum * h * slope(cell.gate, cell.gate_clip, a_r), after);
        after.next.expect_near(memory.between.place(self.batch, at, unit), sum * gru_gate(cell, a_r));
    }

    /// The offset in `d_gates` of the gradients with respect to the projection's result, and the length of `d_gates`.
    fn d_gates(&self) -> (usize, usize) {
        let all = DIRECTIONS * self.chunk.1 * self.batch;
        let projected = all * self.rows().2 * self.hidden;
        (projected, projected + if self.projects() { all * self.out() } else { 0 })
    }

    fn case(mut self, kernel: &str) -> Case {
        if let Cell::Lstm(LstmCell { projection: Some(width), .. }) = &mut self.cell {
            *width = (self.hidden * 2 / 3).max(1);
        }
        let (hidden, batch, out, columns) = (self.hidden, self.batch, self.out(), self.columns);
        let memory = self.memory();
        let layers = [1, 2].map(|seed| Layer::new(&self.cell, 1, hidden, WeightType::F32, seed));
        let (source, first, depth) = self.source(&memory);
        let units = self.units();
        let matrices = [311, 312].map(|seed| uniform(seed, depth * units, 0.5));
        let mut after =
            After { next: Slot::in_place(&memory.next), d_gates: Slot::in_place(&vec![POISON; self.d_gates().1]) };
        for direction in 0..DIRECTIONS {
            for row in 0..batch {
                let at = (direction, row);
                let from = source.place(batch, at, first);
                let x = wide(&memory.current[from..from + depth]);
                for unit in 0..units {
                    let w = |k: usize| f64::from(matrices[direction][k * units + unit]);
                    let sum = x.iter().enumerate().map(|(k, x)| x * w(k)).sum();
                    let layer = &layers[direction];
                    match self.begins() {
                        true => self.begin(&memory, layer, at, (unit, sum), &mut after),
                        false => self.end(&memory, layer, at, (unit, sum), &mut after),
                    }
                }
            }
        }

        let packed = matrices.each_ref().map(|matrix| packed(matrix, columns, units, depth));
        let mut weights = vec![POISON.to_bits(); 8];
        packed.iter().for_each(|matrix| weights.extend(matrix));
        let peepholes = weights.len();
        for layer in &layers {
            let peephole = &layer.packed.vectors[12 * hidden..15 * hidden];
            weights.extend(peephole.iter().map(|x| x.to_bits()));
        }
        let mut constants = layers[0].packed.constants.clone();
        let flag = |set: bool| u32::from(set);
        constants.extend([
            ("ROWS", n(self.tile.rows)),
            ("UNITS", n(self.tile.units)),
            ("GATES", n(columns)),
            ("USED", (1 << columns) - 1),
            ("STRADDLE", flag(!(source.width.is_multiple_of(4) && first.is_multiple_of(4)))),
            ("TAIL", flag(!depth.is_multiple_of(if columns == 1 { 16 } else { 8 }))),
            ("STAGE", self.stage as u32),
            ("TWO_STAGES", flag(self.two_stages())),
            ("FLAGS", flag(self.flags)),
            ("RESETS", flag(self.flags)),
            ("HOLD", flag(self.hold)),
            ("CLIP", flag(self.clip.is_some())),
            ("REVERSE", REVERSE),
        ]);
        if kernel == "recurrent_step_grad" {
            let Tile { rows, units, slices } = self.tile;
            let partial = if slices > 1 { rows * slices * units } else { 1 };
            constants.extend([("SLICES", n(slices)), ("PARTIAL", n(partial))]);
        }
        let scalars = layers[0].scalars();
        let (second_row, peephole_row, rows) = self.rows();
        let fields = [
            ("later", self.later),
            ("time", TIME),
            ("batch", batch),
            ("hidden", hidden),
            ("out", out),
            ("first_step", self.chunk.0),
            ("steps", self.chunk.1),
            ("weights", 2),
            ("weights_stride", packed[0].len() / 4),
            ("peepholes", peepholes),
            ("history_s", memory.history_s),
            ("rows", rows),
            ("second_row", second_row),
            ("peephole_row", peephole_row),
            ("projected", self.d_gates().0),
            ("source", source.at),
            ("source_width", source.width),
            ("source_first", first),
            ("depth", depth),
            ("gates", memory.gates.at),
            ("scratch", memory.between.at),
            ("through_reset", memory.between.at),
            ("carry_h", memory.carry_h.at),
            ("carry_s", memory.carry_s.at),
            ("held", memory.held.at),
            ("initial_h", memory.initial_h.at),
            ("initial_s", memory.initial_s.at),
            ("dy_direction", out),
            ("dy_width", DIRECTIONS * out),
        ]
        .map(|(name, value)| (name, n(value)));
        let clip = [("clip", self.clip.unwrap_or(0.0).to_bits())];
        let scalars = scalars.iter().map(|(name, bits)| (name.as_str(), *bits));
        let fields: Vec<(&str, u32)> = scalars.chain(fields).chain(clip).collect();
        let blocks = units.div_ceil(columns);
        Case {
            name: format!("{self:?}"),
            constants,
            dims: dims(kernel, &fields),
            buffers: vec![
                Slot::floats(&memory.pre),
                Slot::words(weights),
                Slot::words(memory.flags),
                Slot::floats(&memory.history),
                Slot::floats(&memory.dy),
                Slot::floats(&memory.current),
                after.next,
                after.d_gates,
            ],
            grid: [n(blocks.div_ceil(self.tile.units)), n(batch.div_ceil(self.tile.rows)), n(DIRECTIONS)],
            tolerance: Tolerance { abs: 1e-5 + Tolerance::sum(depth, 2.0).abs, rel: 0.0 },
        }
    }
}

/// `matrix [depth, units]` as a product of `columns` units an invocation reads it.
fn packed(matrix: &[f32], columns: usize, units: usize, depth: usize) -> Vec<u32> {
    let (words, step_depth) = if columns == 1 { (4, 16) } else { (columns, 4) };
    let mut packed = Vec::new();
    for block in (0..units.div_ceil(columns)).step_by(8) {
        for step in 0..depth.next_multiple_of(16) / step_depth {
            for word in 0..words {
                for invocation in block..block + 8 {
                    for element in 0..4 {
                        let (column, k) =
                            if columns == 1 { (0, step * 16 + word * 4 + element) } else { (word, step * 4 + element) };
                        let unit = invocation * columns + column;
                        let there = unit < units && k < depth;
                        packed.push(if there { matrix[k * units + unit].to_bits() } else { 0 });
                    }
                }
            }
        }
    }
    packed
}

fn cases(kernel: &str, tiles: &[Tile], every: usize) -> Vec<Case> {
    let staged = |cell: Cell| cell.stages().iter().map(move |&stage| (cell, stage));
    let all = cells().into_iter().chain(two_stage_cells()).flat_map(staged);
    let mut cases = Vec::new();
    for (at, (cell, stage)) in all.cycle().take(34).step_by(every).enumerate() {
        let tile = tiles[at % tiles.len()];
        let mut rng = fastrand::Rng::with_seed(at as u64);
        let mut one_of = |sizes: &[usize]| sizes[rng.usize(0..sizes.len())];
        let columns = one_of(&[1, 4]);
        let hidden = one_of(&[3, 7, columns * tile.units, columns * tile.units + 1, 20]);
        let batch = one_of(&[tile.rows, tile.rows + 1, 3]);
        let chunk = [(1, 3), (0, 5), (3, 2), (2, 1)][one_of(&[0, 1, 2, 3])];
        // A dispatch belongs to the chunk of the step that it goes through.
        let step = chunk.0 + one_of(&[0, chunk.1 - 1]);
        let begins = matches!(stage, Stage::Candidate | Stage::Project) || cell.stages().len() == 1;
        let later = if begins && chunk.0 == 0 && at % 3 == 0 { 0 } else { step + 1 };
        let (flags, hold) = (one_of(&[0, 1]) == 1, one_of(&[0, 1]) == 1);
        let clip = [None, Some(0.7)][one_of(&[0, 1])];
        cases.push(Back { cell, stage, tile, columns, hidden, batch, later, chunk, flags, hold, clip }.case(kernel));
    }
    cases
}

/// Mostly small tiles, which drivers compile faster.
pub(crate) fn recurrent_step_grad() -> Vec<Case> {
    let tiles = [tile(1, 8, 1), tile(2, 8, 4), tile(4, 8, 1), tile(1, 8, 2), tile(2, 16, 1), tile(8, 8, 1)];
    cases("recurrent_step_grad", &tiles, 1)
}

pub(crate) fn recurrent_step_grad_lanes() -> Vec<Case> {
    cases("recurrent_step_grad_lanes", &[tile(1, 16, 1), tile(2, 16, 1), tile(8, 16, 1), tile(4, 16, 1)], 3)
}

//! A chunk of time over several workgroups: their exchange, and the second attempt if they do not run concurrently.

use gatewise::cell::{Cell, Direction, GruCell, LstmCell, Pad, RnnCell, Sequence, WeightType};
use gatewise::reference::{LayerState, layer};
use ndarray::{Array2, Array3, s};

use super::super::{Case, GUARD, POISON, Slot, dims, n};
use super::{CANDIDATE, GATE, Layer, OUTPUT, product, row_of};
use crate::support::{Tolerance, uniform};

/// Bits of a flag word.
const VALID: u32 = 1;
const RESET: u32 = 2;
/// The first word of the exchange after a workgroup has waited in vain.
const TIRED: u32 = 1;
/// Words before the exchanged h.
const HEADER: usize = 8;
const INPUT: usize = 3;

/// The workgroup that runs, and the words that are there already.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    /// One workgroup that has all units.
    Whole,
    /// The first of two workgroups. The words of the second are there for two steps.
    First,
    /// The first of two workgroups. The words of the second are two steps old.
    Stale,
    /// A workgroup that runs after another one has given up.
    Left,
    /// The second attempt: it scans an aborted chunk again, or stays idle if nothing was aborted.
    Redo,
    Idle,
}

#[derive(Clone, Copy, Debug)]
struct CooperativeSetup {
    part: Part,
    cell: Cell,
    kind: WeightType,
    /// Rows, units, slices and kept parts of a workgroup.
    shape: [usize; 4],
    hidden: usize,
    batch: usize,
    /// First step and number of steps, of six.
    chunk: (usize, usize),
    /// The first direction of two, and how many.
    directions: (usize, usize),
    reverse: u32,
    flags: bool,
    hold: bool,
}

const TIME: usize = 6;

impl CooperativeSetup {
    fn is_reverse(&self, z: usize) -> bool {
        (self.reverse >> (self.directions.0 + z)) & 1 == 1
    }

    /// The places in the sequence of the chunk's first `steps` steps, in the order of time.
    fn times(&self, z: usize, steps: usize) -> std::ops::Range<usize> {
        let first = if self.is_reverse(z) { TIME - self.chunk.0 - steps } else { self.chunk.0 };
        first..first + steps
    }

    fn case(self) -> Case {
        let Self { part, cell, hidden, batch, chunk: (first, steps), directions: (direction, zs), .. } = self;
        let [rows, units, slices, kept] = self.shape;
        let gates = cell.gates().len();
        let redo = matches!(part, Part::Redo | Part::Idle);
        let packed: Vec<Layer> = (0..zs).map(|z| Layer::new(&cell, INPUT, hidden, self.kind, z as u64 + 1)).collect();
        let numbers = |seed, len| uniform(seed, len, 1.0);
        let region = zs * batch * hidden;
        let state = |seed: u64, there: bool| {
            let (before, initial) = (numbers(seed, region), numbers(seed + 1, region));
            let middle = vec![GUARD; region];
            if there { [before, middle, initial].concat() } else { vec![GUARD] }
        };
        let (h, cells) = (state(41, true), state(43, cell.has_cell_state()));
        let flag = |at: usize| [VALID, 0, VALID | RESET, VALID, RESET, VALID, 0, VALID | RESET][(at * 5 + at / 8) % 8];
        let flags: Vec<u32> = (0..TIME * batch).map(flag).collect();
        let x = Array3::from_shape_vec((TIME, batch, INPUT), numbers(33, TIME * batch * INPUT)).expect("as many");
        let x = x.mapv(f64::from);

        let pitch = hidden.next_multiple_of(16).max(16 * kept * slices);
        let stored = if gates == 1 { 1 } else { 4 };
        let mut gates_x = vec![POISON; 2 * steps * batch * hidden * stored];
        let (mut h_after, mut s_after) = (Slot::in_place(&h), Slot::in_place(&cells));
        let mut y_after = Slot::output(TIME * batch * 2 * hidden);
        let slot = |z: usize, row: usize, done: usize| HEADER + ((2 * z + done % 2) * batch + row) * pitch;
        let phase = |done: usize| u32::from(done % 4 == 1 || done % 4 == 2);
        let mut words = vec![0; HEADER + zs * 2 * batch * pitch];
        let mut expected = Vec::new();
        // The units that run, the number of their steps, and whether they come to the end.
        let (own, walked) = match part {
            Part::First => (units.min(hidden), steps),
            Part::Stale => (units.min(hidden), 1),
            Part::Left | Part::Idle => (0, 0),
            Part::Whole | Part::Redo => (hidden, steps),
        };
        for (z, of) in packed.iter().enumerate() {
            let input = x.slice(s![self.times(z, steps), .., ..]).to_owned();
            for ((step, row), unit) in (0..steps)
                .flat_map(|t| (0..batch).map(move |b| (t, b)))
                .flat_map(|at| (0..hidden).map(move |unit| (at, unit)))
            {
                let features = input.slice(s![step, row, ..]).to_vec();
                let at = (((direction + z) * steps + step) * batch + row) * hidden + unit;
                for (gate, sum) in product(&of.exact.weight_ih, gates, unit, &features).into_iter().enumerate() {
                    let bias = super::project::bias(&cell, &of.exact, gate, hidden, unit);
                    gates_x[at * stored + gate] = (sum + bias) as f32;
                }
            }
            // The reference runs the chunk's first steps as a sequence.
            let walk = |steps: usize| {
                let times = self.times(z, steps);
                let flagged = |bit: u32| {
                    Array2::from_shape_fn((steps, batch), |(t, b)| flags[(times.start + t) * batch + b] & bit != 0)
                };
                let sequence = Sequence::new().pad(if self.hold { Pad::Hold } else { Pad::Zero });
                let sequence = if self.flags { sequence.mask(flagged(VALID)).reset(flagged(RESET)) } else { sequence };
                let of_rows = |from: &[f32], at: usize| {
                    let width = if from.len() == 1 { 0 } else { hidden };
                    let begin = at * region + z * batch * hidden;
                    let part = from.get(begin..begin + batch * width).unwrap_or_default().to_vec();
                    Array2::from_shape_vec((batch, width), part).expect("rows").mapv(f64::from)
                };
                let mut state = LayerState {
                    h: of_rows(&h, 0),
                    s: of_rows(&cells, 0),
                    initial_h: of_rows(&h, 2),
                    initial_s: of_rows(&cells, 2),
                };
                let way = if self.is_reverse(z) { Direction::Reverse } else { Direction::Forward };
                let x = x.slice(s![times, .., ..]);
                let y = layer(&cell, &of.exact, way, &sequence, x, &mut state).expect("fits");
                (y, state)
            };
            let states: Vec<LayerState<f64>> = (0..=steps).map(|steps| walk(steps).1).collect();
            // The h that a unit publishes after `done` steps. In the second attempt, a reset has already replaced it.
            let told = |done: usize, row: usize, unit: usize| {
                let next = if self.is_reverse(z) { TIME.wrapping_sub(1 + done) } else { done };
                let replaced =
                    redo && self.flags && done + 1 == first + steps && flags[next * batch + row] & RESET != 0;
                if replaced {
                    f64::from(h[2 * region + (z * batch + row) * hidden + unit])
                } else {
                    states[done - first].h[[row, unit]]
                }
            };
            for (row, unit) in (0..batch).flat_map(|row| (0..hidden).map(move |unit| (row, unit))) {
                for done in [first + 1, first + 2] {
                    let stale = u32::from(part == Part::Stale);
                    if unit >= own && matches!(part, Part::First | Part::Stale) {
                        let bits = (states[done - first].h[[row, unit]] as f32).to_bits();
                        words[slot(z, row, done) + unit] = (bits & !1) | (phase(done) ^ stale);
                    }
                }
                if unit < own && walked == steps {
                    let at = region + (z * batch + row) * hidden + unit;
                    h_after.expect_near(at, states[steps].h[[row, unit]]);
                    if cell.has_cell_state() {
                        s_after.expect_near(at, states[steps].s[[row, unit]]);
                    }
                }
                // The second attempt also publishes the state before the chunk.
                let least = if redo { first } else { first + 1 };
                for done in (first + walked).saturating_sub(1).max(least)..=first + walked {
                    if unit < own {
                        let bit = (!redo).then(|| phase(done));
                        expected.push((slot(z, row, done) + unit, told(done, row, unit), bit));
                    }
                }
            }
            let (result, _) = walk(steps);
            let times = self.times(z, steps);
            let seen = self.times(z, walked);
            for ((t, row, unit), &value) in result.indexed_iter() {
                if unit < own && seen.contains(&(times.start + t)) {
                    y_after.expect_near((((times.start + t) * batch + row) * 2 + direction + z) * hidden + unit, value);
                }
            }
        }
        words[0] = if matches!(part, Part::Left | Part::Redo) { TIRED } else { 0 };
        let mut exchange = Slot::in_place(&words.iter().map(|&word| f32::from_bits(word)).collect::<Vec<f32>>());
        if part == Part::Stale {
            exchange.expect_bits(0, &[f32::from_bits(TIRED)]);
        }
        for (at, value, bit) in expected {
            exchange.expect_tagged(at, value, bit);
        }
        let recurrent: Vec<Vec<u32>> = packed.iter().map(|layer| layer.packed.recurrent.clone()).collect();
        let (weights, weights_at, weights_stride) = row_of(&recurrent, 2, 1);
        let vectors_at = 7;
        let vectors: Vec<f32> = std::iter::repeat_n(POISON, vectors_at)
            .chain(packed.iter().flat_map(|layer| layer.packed.vectors.clone()))
            .collect();
        let mut constants = packed[0].packed.constants.clone();
        constants.extend([
            ("REDO", u32::from(redo)),
            ("BLOCKS", if redo { n(hidden.div_ceil(units)) } else { 1 }),
            ("ROWS", n(rows)),
            ("UNITS", n(units)),
            ("SLICES", n(slices)),
            ("PARTIAL", if slices > 1 { n(rows * slices * units) } else { 1 }),
            ("GATES", n(gates)),
            ("USED", (1 << gates) - 1),
            ("WEIGHT_TYPE", self.kind as u32),
            ("KEPT", if redo { 0 } else { n(kept) }),
            ("PITCH", n(pitch)),
            ("STATE", if redo { 1 } else { n(rows * pitch) }),
            ("RESETS", u32::from(self.flags)),
            ("FLAGS", u32::from(self.flags)),
            ("HOLD", u32::from(self.hold)),
            ("REVERSE", self.reverse),
        ]);
        let scalars = packed[0].scalars();
        let fields = [
            ("time", TIME),
            ("batch", batch),
            ("hidden", hidden),
            ("out", hidden),
            ("directions", 2),
            ("direction", direction),
            ("first_step", first),
            ("steps", steps),
            ("weights", weights_at),
            ("weights_stride", weights_stride),
            ("vectors", vectors_at),
            ("h", 0),
            ("h_after", region),
            ("h_initial", 2 * region),
            ("s", 0),
            ("s_after", region),
            ("s_initial", 2 * region),
            ("exchange", HEADER),
            ("polls", 5),
        ]
        .map(|(name, value)| (name, n(value)));
        let fields: Vec<(&str, u32)> =
            scalars.iter().map(|(name, bits)| (name.as_str(), *bits)).chain(fields).collect();
        Case {
            name: format!("{self:?}"),
            constants,
            dims: dims("scan_cooperative", &fields),
            buffers: vec![
                Slot::floats(&gates_x),
                Slot::words(weights),
                Slot::floats(&vectors),
                Slot::words(flags),
                h_after,
                s_after,
                y_after,
                exchange,
            ],
            grid: [1, n(batch.div_ceil(rows)), n(zs)],
            tolerance: Tolerance { abs: 2e-5 + 4.0 * Tolerance::sum(hidden, 0.5).abs, rel: 0.0 },
        }
    }
}

/// Workgroups run one after another on a software adapter, so each case has what one of them does by itself.
pub(crate) fn scan_cooperative() -> Vec<Case> {
    use Part::{First, Idle, Left, Redo, Stale, Whole};
    let (lstm, gru) = (LstmCell::default(), GruCell::default());
    let peephole: Cell = LstmCell { gate: GATE, candidate: CANDIDATE, output: OUTPUT, peephole: true, ..lstm }.into();
    let (lstm, gru, rnn): (Cell, Cell, Cell) = (lstm.into(), gru.into(), RnnCell::default().into());
    let run = |part, cell, at: usize, shape: [usize; 4], hidden, chunk, directions, flags| {
        let batch = if matches!(part, First | Stale) { shape[0] } else { shape[0] + 1 };
        let kind = WeightType::ALL[at % 4];
        let (reverse, hold) = ([0b10, 0b01, 0b00][at % 3], at.is_multiple_of(2));
        CooperativeSetup { part, cell, kind, shape, hidden, batch, chunk, directions, reverse, flags, hold }.case()
    };
    vec![
        run(Whole, lstm, 0, [2, 24, 2, 1], 19, (0, 6), (0, 2), true),
        run(Whole, gru, 1, [1, 40, 1, 0], 33, (2, 4), (0, 2), true),
        run(Whole, rnn, 2, [4, 24, 4, 1], 24, (0, 6), (1, 1), false),
        run(Whole, peephole, 3, [1, 16, 2, 0], 15, (1, 3), (0, 2), true),
        run(First, lstm, 1, [2, 8, 2, 1], 17, (0, 3), (0, 1), false),
        run(First, gru, 0, [1, 16, 2, 1], 29, (2, 3), (1, 1), false),
        run(Stale, lstm, 1, [2, 8, 2, 1], 17, (0, 3), (0, 1), false),
        run(Stale, rnn, 0, [1, 8, 2, 1], 11, (3, 3), (1, 1), false),
        run(Left, lstm, 1, [2, 8, 2, 1], 17, (0, 3), (0, 1), false),
        run(Redo, lstm, 0, [2, 8, 2, 1], 19, (0, 6), (0, 2), true),
        run(Redo, gru, 3, [1, 16, 2, 1], 33, (2, 4), (0, 2), true),
        run(Redo, rnn, 1, [4, 8, 4, 1], 20, (1, 3), (1, 1), false),
        run(Idle, lstm, 1, [2, 8, 2, 1], 19, (0, 3), (0, 1), false),
    ]
}

//! A chunk of time in one dispatch.

use gatewise::cell::{Cell, Direction, LstmCell, Pad, Sequence, WeightType};
use gatewise::reference::{LayerState, layer};
use ndarray::{Array2, Array3, s};

use super::super::{Case, POISON, Slot, dims, n};
use super::{Layer, cells, product, row_of, two_stage_cells};
use crate::support::{Tolerance, uniform};

/// Bits of a flag word.
const VALID: u32 = 1;
const RESET: u32 = 2;
/// Features below the lowest layer.
const INPUT: usize = 3;

/// The shape of a workgroup.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    units: usize,
    slices: usize,
    kept: usize,
}

/// One dispatch: some of a layer's two directions, or a stack of layers.
#[derive(Clone, Copy, Debug)]
struct ScanSetup {
    cell: Cell,
    kind: WeightType,
    shape: Shape,
    hidden: usize,
    batch: usize,
    time: usize,
    /// First step and number of steps.
    chunk: (usize, usize),
    layers: usize,
    /// The first direction and their number, of two; (0, 1) if there are several layers.
    directions: (usize, usize),
    reverse: u32,
    flags: bool,
    hold: bool,
}

impl ScanSetup {
    fn zs(&self) -> usize {
        if self.layers > 1 { self.layers } else { self.directions.1 }
    }

    /// Directions of the layer, and the one of `z`.
    fn direction(&self, z: usize) -> (usize, usize) {
        if self.layers > 1 { (1, 0) } else { (2, self.directions.0 + z) }
    }

    fn is_reverse(&self, z: usize) -> bool {
        (self.reverse >> self.direction(z).1) & 1 == 1
    }

    /// The places in the sequence of the chunk's steps, in the order of time.
    fn times(&self, z: usize) -> std::ops::Range<usize> {
        let (first, steps) = self.chunk;
        let first = if self.is_reverse(z) { self.time - first - steps } else { first };
        first..first + steps
    }

    fn case(mut self, kernel: &str) -> Case {
        // A projection is narrower than the units; the case chooses its width.
        if let Cell::Lstm(LstmCell { projection: Some(width), .. }) = &mut self.cell {
            *width = (self.hidden * 2 / 3).max(1);
        }
        let Self { cell, hidden, batch, time, shape, .. } = self;
        let (out, gates, zs) = (cell.output_size(hidden), cell.gates().len(), self.zs());
        let (of, _) = self.direction(0);
        let own = cell.has_cell_state() || cell.stages().len() > 1;
        let packed: Vec<Layer> = (0..zs)
            .map(|z| {
                Layer::new(&cell, if self.layers > 1 && z > 0 { out } else { INPUT }, hidden, self.kind, z as u64 + 1)
            })
            .collect();
        let numbers = |seed, len| uniform(seed, len, 1.0);
        let h = numbers(31, 2 * zs * batch * out);
        let cells = numbers(32, if cell.has_cell_state() { 2 * zs * batch * hidden } else { 1 });
        let flag = |at: usize| [VALID, 0, VALID | RESET, VALID, RESET, VALID, 0, VALID | RESET][(at * 5 + at / 8) % 8];
        let flags: Vec<u32> = (0..time * batch).map(flag).collect();
        let x = Array3::from_shape_vec((time, batch, INPUT), numbers(33, time * batch * INPUT)).expect("as many");
        let x = x.mapv(f64::from);

        // The reference runs the chunk as a sequence.
        let places = |at: usize, width: usize| at * batch * width..(at + 1) * batch * width;
        let rows = |from: &[f32], at: usize, width: usize| {
            let part = from.get(places(at, width)).unwrap_or_default();
            Array2::from_shape_vec((batch, part.len() / batch), part.to_vec()).expect("rows").mapv(f64::from)
        };
        let has_s = if cell.has_cell_state() { hidden } else { 0 };
        let stored = if gates == 1 { 1 } else { 4 };
        let mut gates_x = vec![POISON; of * self.chunk.1 * batch * hidden * stored];
        let mut h_after = Slot::in_place(&h);
        let mut s_after = Slot::in_place(&cells);
        let mut y_after = Slot::output(time * batch * of * out);
        let mut below = x;
        for (z, layer_of) in packed.iter().enumerate() {
            let (_, direction) = self.direction(z);
            let times = self.times(z);
            let input = if z > 0 && self.layers > 1 {
                below.clone()
            } else {
                below.slice(s![times.clone(), .., ..]).to_owned()
            };
            if z == 0 || self.layers == 1 {
                for ((step, row), features) in (0..input.dim().0)
                    .flat_map(|t| (0..batch).map(move |b| (t, b)))
                    .map(|at| (at, input.slice(s![at.0, at.1, ..])))
                {
                    let features = features.to_vec();
                    for unit in 0..hidden {
                        let at = ((direction * self.chunk.1 + step) * batch + row) * hidden + unit;
                        for (gate, sum) in
                            product(&layer_of.exact.weight_ih, gates, unit, &features).into_iter().enumerate()
                        {
                            let bias = super::project::bias(&cell, &layer_of.exact, gate, hidden, unit);
                            gates_x[at * stored + gate] = (sum + bias) as f32;
                        }
                    }
                }
            }
            let of_flags = |bit: u32| {
                Array2::from_shape_fn((times.len(), batch), |(t, b)| flags[(times.start + t) * batch + b] & bit != 0)
            };
            let pad = if self.hold { Pad::Hold } else { Pad::Zero };
            let sequence = Sequence::new().pad(pad);
            let sequence = if self.flags { sequence.mask(of_flags(VALID)).reset(of_flags(RESET)) } else { sequence };
            let mut state = LayerState {
                h: rows(&h, z, out),
                s: rows(&cells, z, has_s),
                initial_h: rows(&h, zs + z, out),
                initial_s: rows(&cells, zs + z, has_s),
            };
            let way = if self.is_reverse(z) { Direction::Reverse } else { Direction::Forward };
            let result = layer(&cell, &layer_of.exact, way, &sequence, input.view(), &mut state).expect("fits");
            state.h.iter().enumerate().for_each(|(at, &value)| h_after.expect_near(places(z, out).start + at, value));
            state
                .s
                .iter()
                .enumerate()
                .for_each(|(at, &value)| s_after.expect_near(places(z, hidden).start + at, value));
            if self.layers == 1 || z + 1 == self.layers {
                for ((t, row, unit), &value) in result.indexed_iter() {
                    let at = (((times.start + t) * batch + row) * of + direction) * out + unit;
                    y_after.expect_near(at, value);
                }
            }
            if self.layers > 1 {
                below = result;
            }
        }

        let words = |part: fn(&Layer) -> &Vec<u32>, skip: usize| {
            packed.iter().skip(skip).map(|l| part(l).clone()).collect::<Vec<_>>()
        };
        let (mut weights, weights_at, weights_stride) = row_of(&words(|l| &l.packed.recurrent, 0), 2, 1);
        let inputs = if self.layers > 1 { words(|l| &l.packed.input, 1) } else { Vec::new() };
        let (more, input_at, input_stride) = row_of(&inputs, weights.len() / 4 + 3, 2);
        weights.extend(&more[weights.len()..]);
        let (more, projection_at, projection_stride) =
            row_of(&words(|l| &l.packed.projection, 0), weights.len() / 4 + 1, 1);
        weights.extend(&more[weights.len()..]);
        let vectors_at = 7;
        let vectors: Vec<f32> = std::iter::repeat_n(POISON, vectors_at)
            .chain(packed.iter().flat_map(|layer| layer.packed.vectors.clone()))
            .collect();
        let Shape { rows: tile_rows, units, slices, kept } = shape;
        let stages = cell.stages().len();
        let pitch = hidden.max(out).next_multiple_of(16).max(16 * kept * slices);
        let sides = if self.layers > 1 { 2 } else { 1 };
        let mut constants = packed[0].packed.constants.clone();
        constants.extend([
            ("ROWS", n(tile_rows)),
            ("UNITS", n(units)),
            ("GATES", n(gates)),
            ("USED", (1 << gates) - 1),
            ("WEIGHT_TYPE", self.kind as u32),
            ("KEPT", n(kept)),
            ("LAYERS", n(self.layers)),
            ("STAGES", n(stages)),
            ("RESETS", u32::from(self.flags)),
            ("PITCH", n(pitch)),
            ("STATE", n(3 * self.layers * tile_rows * pitch)),
            ("OWN", n(if own { self.layers * tile_rows * hidden } else { 1 })),
            ("FLAGS", u32::from(self.flags)),
            ("HOLD", u32::from(self.hold)),
            ("REVERSE", self.reverse),
        ]);
        if kernel == "scan_rows" {
            let partial = if slices > 1 { sides * self.layers * tile_rows * slices * units } else { 1 };
            constants.extend([("SLICES", n(slices)), ("PARTIAL", n(partial))]);
        }
        let scalars = packed[0].scalars();
        let fields = [
            ("time", time),
            ("batch", batch),
            ("hidden", hidden),
            ("out", out),
            ("directions", of),
            ("direction", self.direction(0).1),
            ("first_step", self.chunk.0),
            ("steps", self.chunk.1),
            ("weights", weights_at),
            ("weights_stride", weights_stride),
            ("input_weights", input_at),
            ("input_stride", input_stride),
            ("projection", projection_at),
            ("projection_stride", projection_stride),
            ("vectors", vectors_at),
            ("h", 0),
            ("h_initial", zs * batch * out),
            ("s", 0),
            ("s_initial", zs * batch * hidden),
        ]
        .map(|(name, value)| (name, n(value)));
        let fields: Vec<(&str, u32)> =
            scalars.iter().map(|(name, bits)| (name.as_str(), *bits)).chain(fields).collect();
        let groups = if self.layers > 1 { 1 } else { zs };
        Case {
            name: format!("{self:?}"),
            constants,
            dims: dims(kernel, &fields),
            buffers: vec![
                Slot::floats(&gates_x),
                Slot::words(weights),
                Slot::floats(&vectors),
                Slot::words(flags),
                h_after,
                s_after,
                y_after,
            ],
            grid: [1, n(batch.div_ceil(tile_rows)), n(groups)],
            // Rounding of a step enters the next ones; gates of slope 1 at most hardly magnify it.
            tolerance: Tolerance { abs: 2e-5 + 4.0 * Tolerance::sum(hidden, 0.5).abs, rel: 0.0 },
        }
    }
}

/// Every cell with every set of directions or layers, at sizes around the edges of the workgroup.
fn cases(kernel: &str, shapes: &[Shape], every: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, cell) in cells().into_iter().chain(two_stage_cells()).enumerate().step_by(every) {
        let shape = shapes[at % shapes.len()];
        let kind = WeightType::ALL[(at / every) % 4];
        // Depths that fill the kept parts and the slices, and depths that end within them.
        let most = if shape.kept > 0 { 16 * shape.kept * shape.slices } else { shape.units };
        let hidden = [most, most - 1, most / 2 + 1, most - 5][(at / every) % 4].min(shape.units);
        let (layers, directions, reverse) =
            [(1, (0, 2), 0b10), (3, (0, 1), 0), (1, (1, 1), 0b10), (2, (0, 1), 1)][at / every % 4];
        let (flags, hold) = ([true, false, true][at % 3], at % 2 == 0);
        let chunk = if hold { (0, 6) } else { [(0, 6), (2, 3), (3, 3)][at % 3] };
        let batch = shape.rows + 1;
        let run =
            ScanSetup { cell, kind, shape, hidden, batch, time: 6, chunk, layers, directions, reverse, flags, hold };
        cases.push(run.case(kernel));
    }
    cases
}

/// Two cases that the covers above never reach: (1) a projection of several layers whose weights are kept; (2) a reverse
/// direction in the midst of time that has fewer steps before the chunk than behind it.
fn covers(kernel: &str, shape: Shape) -> [Case; 2] {
    let run = ScanSetup {
        cell: two_stage_cells()[2],
        kind: WeightType::F32,
        shape,
        hidden: shape.units - 3,
        batch: shape.rows + 1,
        time: 6,
        chunk: (1, 3),
        layers: 2,
        directions: (0, 1),
        reverse: 0,
        flags: false,
        hold: false,
    };
    let reverse = ScanSetup { cell: two_stage_cells()[1], layers: 1, directions: (0, 2), reverse: 0b10, ..run };
    [run.case(kernel), reverse.case(kernel)]
}

const fn shape(rows: usize, units: usize, slices: usize, kept: usize) -> Shape {
    Shape { rows, units, slices, kept }
}

pub(crate) fn scan_rows() -> Vec<Case> {
    let shapes = [
        shape(1, 16, 1, 1),
        shape(2, 32, 2, 1),
        shape(1, 40, 2, 0),
        shape(2, 20, 4, 0),
        shape(1, 24, 2, 1),
        shape(4, 16, 4, 1),
        shape(2, 8, 8, 0),
    ];
    let mut cases = cases("scan_rows", &shapes, 2);
    cases.extend(covers("scan_rows", shape(2, 20, 2, 1)));
    cases
}

pub(crate) fn scan_lanes() -> Vec<Case> {
    let shapes = [shape(1, 16, 1, 1), shape(2, 32, 1, 2), shape(4, 24, 1, 0), shape(2, 56, 1, 3), shape(1, 128, 1, 8)];
    let mut cases = cases("scan_lanes", &shapes, 2);
    cases.extend(covers("scan_lanes", shape(2, 24, 1, 2)));
    cases
}

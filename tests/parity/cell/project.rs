//! The input's side of the gates.

use gatewise::cell::{Cell, Forget, GruCell, LstmCell, Parameters, Reset, RnnCell, WeightType};
use gatewise::plan::Matrices;

use super::super::{Case, POISON, Slot, dims, n, wide};
use super::{Layer, Tile, product, product_constants, row_of, tile};
use crate::support::{Tolerance, uniform};

/// A projection of `steps` steps from `first` on, out of `time`.
#[derive(Clone, Copy, Debug)]
struct Projection {
    cell: Cell,
    kind: WeightType,
    tile: Tile,
    depth: usize,
    hidden: usize,
    batch: usize,
    time: usize,
    first: usize,
    steps: usize,
    directions: usize,
    /// Bit d: direction d runs from the last step to the first.
    reverse: u32,
    /// The magnitude of the last of every four elements of a row of `x`; of all others 1.
    large: f32,
}

impl Projection {
    /// `x` of a direction at a row of the chunk, rows being steps times batch in the order of time.
    fn row_of_x(&self, direction: usize, row: usize) -> usize {
        let first = match (self.reverse >> direction) & 1 {
            0 => self.first,
            _ => self.time - self.first - self.steps,
        };
        first * self.batch + row
    }

    fn case(self, kernel: &str) -> Case {
        let Self { cell, kind, tile, depth, hidden, batch, time, first, steps, directions, reverse, large } = self;
        let gates = cell.gates().len();
        let (rows, stored) = (steps * batch, if gates == 1 { 1 } else { 4 });
        let layers: Vec<Layer> =
            (1..=directions as u64).map(|seed| Layer::new(&cell, depth, hidden, kind, seed)).collect();
        let mut x = uniform(9, time * batch * depth, 1.0);
        let is_large = |at: usize| depth < 4 || at % depth % 4 == 3;
        x.iter_mut().enumerate().filter(|(at, _)| is_large(*at)).for_each(|(_, x)| *x *= large);
        let x64 = wide(&x);

        let mut expected = Vec::new();
        for (direction, layer) in layers.iter().enumerate() {
            for row in 0..rows {
                let x = &x64[self.row_of_x(direction, row) * depth..][..depth];
                for unit in 0..hidden {
                    let sums = product(&layer.exact.weight_ih, gates, unit, x);
                    let sums = sums.iter().enumerate().map(|(g, sum)| sum + bias(&cell, &layer.exact, g, hidden, unit));
                    expected.extend(sums.chain(std::iter::repeat_n(0.0, stored - gates)));
                }
            }
        }

        let inputs: Vec<Vec<u32>> = layers.iter().map(|layer| layer.packed.input.clone()).collect();
        let (weights, weights_at, weights_stride) = row_of(&inputs, 3, 2);
        let vectors_at = 5;
        let vectors = layers.iter().flat_map(|layer| layer.packed.vectors.clone());
        let vectors: Vec<f32> = std::iter::repeat_n(POISON, vectors_at).chain(vectors).collect();
        let mut constants = product_constants(kernel, tile, kind, gates, depth);
        constants.extend([("USED", (1 << gates) - 1), ("REVERSE", reverse)]);
        Case {
            name: format!("{self:?}"),
            constants,
            dims: dims(
                kernel,
                &[
                    ("rows", n(rows)),
                    ("depth", n(depth)),
                    ("hidden", n(hidden)),
                    ("weights", n(weights_at)),
                    ("weights_stride", n(weights_stride)),
                    ("vectors", n(vectors_at)),
                    ("first_forward", n(first * batch)),
                    ("first_reverse", n((time - first - steps) * batch)),
                ],
            ),
            buffers: vec![
                Slot::floats(&x),
                Slot::words(weights),
                Slot::floats(&vectors),
                Slot::output(expected.len()).near(0, expected),
            ],
            grid: [n(hidden.div_ceil(tile.units)), n(rows.div_ceil(tile.rows)), n(directions)],
            tolerance: Tolerance::sum(depth, f64::from(large).max(1.0)),
        }
    }
}

/// The bias that can be added to a gate beforehand: both biases, but only the input's if the candidate is reset afterwards.
pub(super) fn bias(cell: &Cell, p: &Parameters<f64>, gate: usize, hidden: usize, unit: usize) -> f64 {
    let of = |bias: &Option<ndarray::Array1<f64>>| bias.as_ref().map_or(0.0, |bias| bias[gate * hidden + unit]);
    let apart = gate == 2 && matches!(cell, Cell::Gru(GruCell { reset: Reset::After, .. }));
    of(&p.bias_ih) + if apart { 0.0 } else { of(&p.bias_hh) }
}

fn cases(kernel: &str, tiles: &[Tile]) -> Vec<Case> {
    let cells: [Cell; 4] = [
        LstmCell::default().into(),
        GruCell::default().into(),
        RnnCell::default().into(),
        LstmCell { forget: Forget::Never, ..LstmCell::default() }.into(),
    ];
    let mut cases = Vec::new();
    for at in 0..16 {
        let tile = tiles[at % tiles.len()];
        let mut rng = fastrand::Rng::with_seed(at as u64);
        let mut one_of = |sizes: &[usize]| sizes[rng.usize(0..sizes.len())];
        let (directions, first) = (one_of(&[1, 2]), one_of(&[0, 1, 2]));
        let projection = Projection {
            cell: cells[(at / 4 + at) % 4],
            kind: WeightType::ALL[at / 4],
            tile,
            // Sizes around a word, a depth slice, and the padding of the weights.
            depth: one_of(&[1, 3, 4, 5, 7, 8, 15, 16, 17, 20, 33]),
            hidden: one_of(&[tile.units - 1, tile.units, tile.units + 1, 3, 9]),
            batch: one_of(&[2, 3, 5]),
            time: 7,
            first,
            steps: one_of(&[1, 3, 5]),
            directions,
            reverse: one_of(&[0, 1, 2, 3]) as u32 & ((1 << directions) - 1),
            large: 1.0,
        };
        cases.push(projection.case(kernel));
    }
    // Cells of one gate take the depth in longer slices, and rows that straddle words take four code paths.
    for (at, tile) in tiles.iter().enumerate().filter(|(_, tile)| tile.rows != 1) {
        let plain = Projection {
            cell: cells[if at % 2 == 0 { 2 } else { 0 }],
            kind: WeightType::F32,
            tile: *tile,
            depth: 21,
            hidden: 9,
            batch: tile.rows + 1,
            time: 2,
            first: 1,
            steps: 1,
            directions: 2,
            reverse: 1,
            large: 1.0,
        };
        cases.push(plain.case(kernel));
    }
    cases
}

/// Products by matrices of a size, for weight types that the matrices hold exactly. Sizes lie around the edges of a tile in rows,
/// units and depth; some inputs are beyond f16.
fn matrix_cases(kernel: &str, kind: Matrices, types: &[WeightType]) -> Vec<Case> {
    let (side, tall) = (kind.size(), kind.rows());
    let cells: [Cell; 4] = [
        LstmCell::default().into(),
        GruCell::default().into(),
        RnnCell::default().into(),
        LstmCell { forget: Forget::Coupled, ..LstmCell::default() }.into(),
    ];
    let shapes = [
        (side, side, tall, 1.0),
        (2 * side + 1, side + 1, 2 * tall + 1, 1.0),
        (side - 1, side - 3, tall - 1, 1e6),
        (3 * side + 4, 3, side + 1, 1e-6),
        (5, 9, 3, 3e30),
        (2 * side, 2 * side, side, 1e-3),
        (1, 3, 2, f32::INFINITY),
    ];
    let mut cases = Vec::new();
    for (at, (depth, hidden, rows, large)) in shapes.into_iter().enumerate() {
        for (turn, kind) in types.iter().enumerate() {
            let directions = 1 + (at + turn) % 2;
            let projection = Projection {
                cell: cells[(at + turn) % 4],
                kind: *kind,
                tile: tile(tall, side, 1),
                depth,
                hidden,
                batch: rows,
                time: 3,
                first: at % 3,
                steps: 1,
                directions,
                reverse: (1 + turn as u32 % 3) & ((1 << directions) - 1),
                large,
            };
            cases.push(projection.case(kernel));
        }
    }
    cases
}

pub(crate) fn project_matrix_half() -> Vec<Case> {
    matrix_cases("project_matrix_half", Matrices::Half, &[WeightType::F16, WeightType::Int8])
}

pub(crate) fn project_matrix_float() -> Vec<Case> {
    matrix_cases("project_matrix_float", Matrices::Float, &WeightType::ALL)
}

/// Mostly small tiles, which drivers compile faster.
pub(crate) fn project_rows() -> Vec<Case> {
    let small = [tile(1, 8, 1), tile(2, 16, 1), tile(4, 8, 1), tile(1, 64, 1), tile(2, 8, 1)];
    cases("project_rows", &[&small[..], &[tile(16, 8, 1), tile(8, 16, 1)]].concat())
}

pub(crate) fn project_lanes() -> Vec<Case> {
    let small = [tile(4, 16, 1), tile(2, 32, 1), tile(4, 64, 1), tile(1, 16, 1)];
    cases("project_lanes", &[&small[..], &[tile(16, 16, 1), tile(8, 16, 1)]].concat())
}

//! The cases of the kernels of one time step.

use gatewise::cell::{Cell, GruCell, LstmCell, RnnCell, Stage, WeightType};
use gatewise::plan::Matrices;

use super::super::Case;
use super::step::{Cover, Step};
use super::{Tile, cells, tile, two_stage_cells};

/// Every cell with every set of layers or directions, at sizes around the edges of every tile; takes one case in `every`.
fn cases(kernel: &str, tiles: &[Tile], types: &[WeightType], every: usize) -> Vec<Case> {
    let both = Cover::Directions { first: 0, count: 2, of: 2 };
    // Cover, reversed directions, steps done, chunk.
    let directions = [
        (both, 0b10, 3, (1, 3)),
        (Cover::Directions { first: 1, count: 1, of: 2 }, 0b10, 4, (3, 2)),
        (Cover::Directions { first: 0, count: 1, of: 1 }, 0, 2, (0, 5)),
        (both, 0b10, 0, (0, 5)),
        (Cover::Directions { first: 0, count: 1, of: 1 }, 1, 3, (2, 2)),
    ];
    let waves = [
        (Cover::Wave { layers: 3 }, 0, 3, (2, 3)),
        (Cover::Wave { layers: 3 }, 1, 4, (0, 5)),
        (Cover::Wave { layers: 3 }, 0, 1, (0, 5)),
        (Cover::Wave { layers: 3 }, 0, 6, (3, 2)),
    ];
    let mut runs = Vec::new();
    for (at, cell) in cells().into_iter().enumerate() {
        for turn in 0..2 {
            runs.push((cell, directions[(2 * at + turn) % directions.len()]));
            runs.push((cell, waves[(2 * at + turn) % waves.len()]));
        }
    }
    for (at, cell) in two_stage_cells().into_iter().enumerate() {
        runs.extend((0..3).map(|turn| (cell, directions[(2 * at + turn) % directions.len()])));
    }
    let staged = |(cell, run): (Cell, _)| cell.stages().iter().map(move |&stage| (cell, run, stage));
    let mut cases = Vec::new();
    for (at, (cell, (cover, reverse, step, chunk), stage)) in
        runs.into_iter().flat_map(staged).step_by(every).enumerate()
    {
        let tile = tiles[at % tiles.len()];
        let mut rng = fastrand::Rng::with_seed(at as u64);
        let mut one_of = |sizes: &[usize]| sizes[rng.usize(0..sizes.len())];
        // Depths that fill every slice, and depths that leave the last slices empty.
        let hidden = if tile.slices > 1 && tile.slices <= 4 {
            one_of(&[16 * tile.slices, 16 * tile.slices + 1, 16 * tile.slices + 4, tile.units + 1])
        } else {
            one_of(&[tile.units + 1, tile.units, tile.units - 1, 3, 20])
        };
        let batch = one_of(&[tile.rows, tile.rows + 1, (tile.rows - 1).max(2), 3]);
        let kind = types[one_of(&[0, 1, 2, 3]) % types.len()];
        // Before a row's first output there is none to hold.
        let (flags, hold) = (step == 0 || one_of(&[0, 1]) == 1, step == 0 || one_of(&[0, 1]) == 1);
        let run = Step { cell, stage, kind, tile, hidden, batch, time: 5, step, chunk, cover, reverse, flags, hold };
        cases.push(run.case(kernel));
    }
    cases
}

/// Batches of many tiles, the last one full or not.
fn large_batches(kernel: &str, tile: Tile) -> Vec<Case> {
    let (lstm, gru, rnn) = (LstmCell::default().into(), GruCell::default().into(), RnnCell::default().into());
    let case = |(batch, cell, kind): (usize, Cell, WeightType)| {
        let run = Step {
            cell,
            stage: Stage::Whole,
            kind,
            tile,
            hidden: tile.units + 3,
            batch,
            time: 3,
            step: 1,
            chunk: (0, 3),
            cover: Cover::Directions { first: 0, count: 2, of: 2 },
            reverse: 0b10,
            flags: batch == 64,
            hold: false,
        };
        run.case(kernel)
    };
    [(33, lstm, WeightType::F32), (64, gru, WeightType::F16), (65, lstm, WeightType::Int8), (65, rnn, WeightType::F32)]
        .map(case)
        .into()
}

/// Mostly small tiles, which drivers compile faster.
pub(crate) fn recurrent_step() -> Vec<Case> {
    let tiles = [
        tile(1, 8, 1),
        tile(2, 8, 4),
        tile(4, 16, 1),
        tile(1, 8, 2),
        tile(2, 32, 2),
        tile(4, 8, 8),
        tile(1, 64, 1),
        tile(2, 16, 4),
        tile(8, 8, 16),
        tile(1, 16, 1),
        tile(16, 8, 1),
        tile(2, 16, 1),
        tile(4, 8, 4),
    ];
    let mut cases = cases("recurrent_step", &tiles, &WeightType::ALL, 1);
    cases.extend(large_batches("recurrent_step", tile(8, 8, 16)));
    cases
}

pub(crate) fn recurrent_step_lanes() -> Vec<Case> {
    let tiles = [tile(1, 16, 1), tile(2, 16, 1), tile(8, 16, 1), tile(4, 64, 1), tile(2, 32, 1)];
    let mut cases = cases("recurrent_step_lanes", &tiles, &WeightType::ALL, 3);
    cases.extend(large_batches("recurrent_step_lanes", tile(16, 16, 1)));
    cases
}

/// Steps by matrices, with as many rows as a workgroup has, one row more or less, and only a few.
fn by_matrices(kernel: &str, kind: Matrices, types: &[WeightType], every: usize) -> Vec<Case> {
    cases(kernel, &[tile(kind.rows(), kind.size(), 1)], types, every)
}

pub(crate) fn recurrent_step_matrix_half() -> Vec<Case> {
    by_matrices("recurrent_step_matrix_half", Matrices::Half, &[WeightType::F16, WeightType::Int8], 5)
}

pub(crate) fn recurrent_step_matrix_float() -> Vec<Case> {
    by_matrices("recurrent_step_matrix_float", Matrices::Float, &WeightType::ALL, 3)
}

//! The dispatches of a plan in the order of recording: their grids, and their work.

use std::iter;
use std::time::Duration;

use super::TrainingPlan;
use super::tile::packed_words;
use super::watchdog::{Bounds, Cut, Grid, Overlong, Submissions, Work};
use super::{Chunk, CooperativeScan, Plan, PlanKind, Problem, ProductTiles, Scan, Schedule};
use crate::cell::Stage;

/// Invocations of a workgroup of an elementwise operation.
const WORKGROUP_SIZE: usize = 64;

/// Consecutive dispatches: a list of grids, repeated `times` times.
struct Repeated {
    times: usize,
    grids: Vec<Grid>,
}

/// The estimated times of a plan's longest dispatch and submission on the slow GPU of [`Watchdog`](super::Watchdog).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Longest {
    /// The longest dispatch.
    pub dispatch: Duration,
    /// The longest submission.
    pub submission: Duration,
}

/// The sizes of a product of rows and packed weights.
struct Product {
    /// Rows of a workgroup.
    tile_rows: usize,
    rows: usize,
    gates: usize,
    units: usize,
    depth: usize,
    /// Slices of the depth, each computed by another invocation.
    slices: usize,
    /// Number of products of these sizes.
    times: usize,
    /// Bytes read and written per row and unit, without those of the operands.
    unit_bytes: usize,
}

impl Product {
    fn work(&self, problem: &Problem) -> Work {
        let tile_rows = self.tile_rows.max(1);
        let tiles = self.rows.div_ceil(tile_rows) as u64;
        let [rows, gates, units, depth, times] =
            [self.rows.next_multiple_of(tile_rows), self.gates, self.units, self.depth, self.times].map(|n| n as u64);
        let products = [gates, units, depth, times].into_iter().fold(rows, u64::saturating_mul);
        let words = packed_words(problem.weight_type, self.gates, self.units, self.depth) as u64;
        let weights = tiles.saturating_mul(words.saturating_mul(16));
        let row = units.saturating_mul(self.unit_bytes as u64).saturating_add(4 * depth);
        let bytes = weights.saturating_add(rows.saturating_mul(row)).saturating_mul(times);
        Work::of(products, bytes).iterations(self.depth.div_ceil(4).div_ceil(self.slices.max(1)))
    }
}

impl Plan {
    /// The grid of the input projection of a chunk of a layer.
    pub(crate) fn project_grid(&self, layer: usize, chunk: Chunk) -> Cut {
        let p = &self.problem;
        let (tile_rows, tile_units) = (self.project.rows(), self.project.units());
        let rows = chunk.steps.saturating_mul(p.batch);
        let product = Product {
            tile_rows,
            rows,
            gates: p.gates(),
            units: p.hidden,
            depth: p.layer_input(layer),
            slices: 1,
            times: p.cells.len(),
            unit_bytes: 4 * p.projected_gates(),
        };
        let whole = [p.hidden.div_ceil(tile_units), rows.div_ceil(tile_rows), p.cells.len()];
        Grid::of(self.bounds, whole, product.work(p))
    }

    /// The grid of a stage of a step, for a group of directions or in a wave for all layers.
    pub(crate) fn step_grid(&self, tiles: &ProductTiles, stage: Stage) -> Cut {
        let p = &self.problem;
        let (tile_rows, tile_units) = (tiles.rows(), tiles.units());
        let wave = self.kind() == PlanKind::Wave;
        let z = if wave { p.layers } else { self.group_len() };
        let [gates, units, depth] = match stage {
            Stage::Project => [1, p.out(), p.hidden],
            Stage::Candidate => [p.gates(), p.hidden, p.hidden],
            Stage::Whole | Stage::Reset => [p.gates(), p.hidden, p.out()],
        };
        let products = if wave && p.layers > 1 { 2 } else { 1 };
        let (slices, times) = (tiles.tile.slices, z.saturating_mul(products));
        // A unit has its projected input, and its state before and after the step.
        let unit_bytes = 4 * (p.projected_gates() + 6);
        let product = Product { tile_rows, rows: p.batch, gates, units, depth, slices, times, unit_bytes };
        Grid::of(self.bounds, [units.div_ceil(tile_units), p.batch.div_ceil(tile_rows), z], product.work(p))
    }

    /// The grid of a scan of a chunk, for a group of directions.
    pub(crate) fn scan_grid(&self, scan: &Scan, chunk: Chunk) -> Cut {
        let z = if scan.layers > 1 { 1 } else { self.group_len() };
        Grid::of(self.bounds, [1, self.problem.batch.div_ceil(scan.rows), z], scan.work(chunk.steps))
    }

    /// The grid of a cooperative scan of a chunk, for a group of directions.
    pub(crate) fn cooperative_grid(&self, scan: &CooperativeScan, chunk: Chunk) -> Cut {
        let whole = [scan.workgroups, self.problem.batch.div_ceil(scan.rows), self.group_len()];
        Grid::cooperative(self.bounds, whole, scan.work(chunk.steps))
    }

    /// The grid of the dispatch that computes a chunk again, by one workgroup for all units, if a cooperative scan was aborted.
    pub(crate) fn redo_grid(&self, scan: &CooperativeScan, chunk: Chunk) -> Cut {
        let whole = [1, self.problem.batch.div_ceil(scan.rows), self.group_len()];
        Grid::of(self.bounds, whole, scan.work(chunk.steps))
    }

    /// The grid of the merge of a layer's directions.
    fn merge_grid(&self) -> Cut {
        let len = self.problem.time.saturating_mul(self.problem.batch).saturating_mul(self.problem.out());
        Grid::each(self.bounds, len, Work::each(len, 2))
    }

    /// Number of directions that share a dispatch.
    fn group_len(&self) -> usize {
        self.groups.first().map_or(0, ExactSizeIterator::len)
    }

    /// The stages of one step of a layer, one per dispatch.
    fn stages(&self) -> impl Iterator<Item = Stage> {
        self.groups.iter().flat_map(|group| self.problem.cells[group.start].stages()).copied()
    }

    /// The dispatches that compute the steps of a chunk, for one layer or for all layers that share their dispatches.
    fn of_steps(&self, chunk: Chunk) -> Result<Repeated, Overlong> {
        let groups = self.groups.len();
        let steps = |tiles: &ProductTiles, times: usize| {
            let grids = self.stages().map(|stage| self.step_grid(tiles, stage)).collect::<Result<_, _>>()?;
            Ok(Repeated { times, grids })
        };
        match &self.schedule {
            Schedule::Steps(tiles) => steps(tiles, chunk.steps),
            Schedule::Wave(tiles) => {
                let last = chunk.first + chunk.steps == self.problem.time;
                steps(tiles, chunk.steps + if last { self.problem.layers - 1 } else { 0 })
            }
            Schedule::Scan(scan) => Ok(Repeated { times: groups, grids: vec![self.scan_grid(scan, chunk)?] }),
            Schedule::CooperativeScan(scan) => {
                let grids = vec![self.cooperative_grid(scan, chunk)?, self.redo_grid(scan, chunk)?];
                Ok(Repeated { times: groups, grids })
            }
        }
    }

    /// All dispatches in the order of recording. The first entry has those of the first layer; a second entry has those of one other layer.
    /// Each entry begins with the number of its layers.
    fn layers(&self) -> Result<Vec<(usize, Vec<Repeated>)>, Overlong> {
        let p = &self.problem;
        if p.time == 0 || p.batch == 0 {
            return Ok(Vec::new());
        }
        let count = p.layers / self.schedule.layers_at_once(p);
        let once = |grid| Repeated { times: 1, grids: vec![grid] };
        let one = |layer: usize| -> Result<Vec<Repeated>, Overlong> {
            let mut dispatches = Vec::with_capacity(2 * self.chunks.len() + 1);
            for &chunk in &self.chunks {
                dispatches.push(once(self.project_grid(layer, chunk)?));
                dispatches.push(self.of_steps(chunk)?);
            }
            if p.merges() > 0 {
                dispatches.push(once(self.merge_grid()?));
            }
            Ok(dispatches)
        };
        let mut layers = vec![(1, one(0)?)];
        if count > 1 {
            layers.push((count - 1, one(1)?));
        }
        Ok(layers)
    }

    /// Refuses a plan if even one workgroup of a dispatch takes too long. Only the first chunk is checked, as it is the longest one.
    pub(super) fn check_work(&self) -> Result<(), Overlong> {
        let Some(&chunk) = self.chunks.first() else { return Ok(()) };
        for layer in 0..self.problem.layers.min(2) {
            self.project_grid(layer, chunk)?;
        }
        self.of_steps(chunk)?;
        self.merge_grid().map(|_| ())
    }

    /// Number of dispatches of the whole call.
    pub fn dispatches(&self) -> usize {
        let of = |one: &Repeated| one.times.saturating_mul(one.grids.iter().map(Grid::count).sum());
        let layers = self.layers().unwrap_or_default();
        layers.iter().map(|(times, dispatches)| times.saturating_mul(dispatches.iter().map(of).sum())).sum()
    }

    /// Number of submissions of the whole call: 0 if there is nothing to run, several if one would take too long on a slow GPU
    /// ([`Watchdog`](super::Watchdog)), else 1. Calls that share a recorder share submissions.
    pub fn submits(&self) -> usize {
        self.submissions().0.count()
    }

    /// The submissions of the call, and the nanoseconds of its longest dispatch.
    pub(super) fn submissions(&self) -> (Submissions, u64) {
        let mut submissions = Submissions::new(&self.bounds.watchdog);
        let mut longest = 0;
        for (times, dispatches) in self.layers().unwrap_or_default() {
            for Repeated { times, grids } in iter::repeat_n(&dispatches, times).flatten() {
                let same = grids.windows(2).all(|pair| pair[0].nanos() == pair[1].nanos());
                let [rounds, at_once] = if same { [1, *times] } else { [*times, 1] };
                for _ in 0..rounds {
                    let mut add = |count: usize, nanos| submissions.add(count, nanos);
                    match grids.first() {
                        Some(grid) if same => add(at_once * grids.iter().map(Grid::count).sum::<usize>(), grid.nanos()),
                        _ => grids.iter().for_each(|grid| add(grid.count(), grid.nanos())),
                    }
                }
                longest = grids.iter().map(Grid::nanos).fold(longest, u64::max);
            }
        }
        (submissions, longest)
    }

    /// Bytes that the call reads and writes, if nothing but the tiles saves reads within a dispatch: weights once per tile of rows;
    /// projected input, state and output once.
    pub fn bytes(&self) -> u64 {
        if self.dispatches() == 0 {
            return 0;
        }
        (0..self.problem.layers).map(|layer| self.layer_bytes(layer)).sum()
    }

    /// Bytes that one layer reads and writes, all directions, counted as in [`Plan::bytes`].
    fn layer_bytes(&self, layer: usize) -> u64 {
        let p = &self.problem;
        let (time, directions, chunks) = (p.time as u64, p.cells.len() as u64, self.chunks.len() as u64);
        let words = |gates, units, depth| 16 * packed_words(p.weight_type, gates, units, depth) as u64;
        let gates = p.cells.first().map_or(0, |cell| cell.gates().len());
        let (input, recurrent) = (words(gates, p.hidden, p.layer_input(layer)), words(gates, p.hidden, p.out()));
        let projection = p.projection_words() as u64 * 16;
        let state = (p.batch * (2 * p.out() + 2 * p.hidden) * size_of::<f32>()) as u64;
        let y = (p.time * p.batch * p.out() * size_of::<f32>()) as u64;
        let projected = time * p.step_bytes();
        let tiles = |rows: usize| p.batch.div_ceil(rows) as u64;
        let project_tiles = (p.time * p.batch).div_ceil(self.project.rows()) as u64;
        let x = project_tiles * input + 2 * projected / directions.max(1);
        let steps = |tiles: u64| directions * (time * (tiles * (recurrent + projection) + state) + y);
        match &self.schedule {
            Schedule::Scan(scan) => {
                // The state is read and written once per chunk; weights that are kept are read as often.
                let reads = if scan.kept > 0 { chunks } else { time };
                let weights = tiles(scan.rows) * (reads * recurrent + time * projection);
                let x = if layer.is_multiple_of(scan.layers) { x } else { tiles(scan.rows) * reads * input };
                directions * (x + weights + chunks * state + y)
            }
            Schedule::CooperativeScan(scan) => {
                // Counted as for a scan. In addition, h is written once per step and read by every workgroup.
                let reads = if scan.kept > 0 { chunks } else { time };
                let exchanged = time * (1 + scan.workgroups as u64) * (p.batch * p.out() * 4) as u64;
                directions * (x + tiles(scan.rows) * reads * recurrent + exchanged + chunks * state + y)
            }
            Schedule::Wave(step) if layer > 0 => time * tiles(step.rows()) * input + steps(tiles(step.rows())),
            Schedule::Steps(step) | Schedule::Wave(step) => {
                directions * project_tiles * input + 2 * projected + steps(tiles(step.rows()))
            }
        }
    }
}

impl TrainingPlan {
    /// The grid of a step of the backward pass: a product of depth `depth` for `units` units per direction.
    pub(crate) fn back_grid(&self, units: usize, depth: usize, directions: usize) -> Cut {
        let (p, tile) = (self.forward.problem(), &self.back);
        let (tile_rows, gates, slices, units) = (tile.rows, self.columns, tile.slices, units.div_ceil(self.columns));
        // A unit has its gates, states and gradients.
        let unit_bytes = 4 * 24 * gates;
        let product = Product { tile_rows, rows: p.batch, gates, units, depth, slices, times: directions, unit_bytes };
        let whole = [units.div_ceil(tile.units), p.batch.div_ceil(tile_rows), directions];
        Grid::of(self.forward.bounds, whole, product.work(p))
    }
}

impl Grid {
    /// The grid of an operation on `len` elements, one per invocation, folded as by [`Grid::folded`].
    pub(crate) fn each(bounds: Bounds, len: usize, work: Work) -> Cut {
        Self::folded(bounds, len.div_ceil(WORKGROUP_SIZE), work)
    }

    /// The grid of `count` workgroups. If one axis is too short for them, they are folded into two.
    pub(crate) fn folded(bounds: Bounds, count: usize, work: Work) -> Cut {
        let widest = bounds.workgroups.max(1);
        let whole = if count <= widest { [count, 1, 1] } else { [widest, count.div_ceil(widest), 1] };
        Self::of(bounds, whole, work)
    }
}

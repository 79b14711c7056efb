//! The dispatches of a plan in the order of recording: their grids, and their work.

use std::iter;
use std::time::Duration;

use super::TrainingPlan;
use super::tile::packed_words;
use super::watchdog::{Bounds, Cut, Grid, Overlong, Submissions, Work};
use super::{Chunk, Plan, PlanKind, Problem};
use crate::cell::Stage;

/// Invocations of a workgroup of an operation on every element.
const WORKGROUP_SIZE: usize = 64;

/// Dispatches in a row: so many times the same ones.
struct Run {
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

/// A product of rows with packed weights.
struct Product {
    /// Rows of a workgroup.
    tall: usize,
    rows: usize,
    gates: usize,
    units: usize,
    depth: usize,
    /// Parts that an invocation has of the depth.
    slices: usize,
    /// Products of these sizes.
    times: usize,
    /// Bytes of a row and unit beside the product.
    beside: usize,
}

impl Product {
    fn work(&self, problem: &Problem) -> Work {
        let tiles = self.rows.div_ceil(self.tall.max(1)) as u64;
        let [rows, gates, units, depth, times] =
            [self.rows.next_multiple_of(self.tall.max(1)), self.gates, self.units, self.depth, self.times]
                .map(|n| n as u64);
        let products = [gates, units, depth, times].into_iter().fold(rows, u64::saturating_mul);
        let words = packed_words(problem.weight_type, self.gates, self.units, self.depth) as u64;
        let weights = tiles.saturating_mul(words.saturating_mul(16));
        let row = units.saturating_mul(self.beside as u64).saturating_add(4 * depth);
        let bytes = weights.saturating_add(rows.saturating_mul(row)).saturating_mul(times);
        Work::of(products, bytes).turns(self.depth.div_ceil(4).div_ceil(self.slices.max(1)))
    }
}

impl Plan {
    /// The input projection of a chunk of a layer.
    pub(crate) fn project_grid(&self, layer: usize, chunk: Chunk) -> Cut {
        let p = &self.problem;
        let [tall, wide] = self.project_part();
        let rows = chunk.steps.saturating_mul(p.batch);
        let product = Product {
            tall,
            rows,
            gates: p.gates(),
            units: p.hidden,
            depth: p.layer_input(layer),
            slices: 1,
            times: p.cells.len(),
            beside: 4 * p.projected_gates(),
        };
        let whole = [p.hidden.div_ceil(wide), rows.div_ceil(tall), p.cells.len()];
        Grid::of(self.bounds, whole, product.work(p))
    }

    /// A stage of a step: of a group of directions, or in a wave of all layers.
    pub(crate) fn step_grid(&self, stage: Stage) -> Cut {
        let p = &self.problem;
        let [tall, wide] = self.step_part();
        let wave = self.kind == PlanKind::Wave;
        let z = if wave { p.layers } else { self.group_len() };
        let [gates, units, depth] = match stage {
            Stage::Project => [1, p.out(), p.hidden],
            Stage::Candidate => [p.gates(), p.hidden, p.hidden],
            Stage::Whole | Stage::Reset => [p.gates(), p.hidden, p.out()],
        };
        let sides = if wave && p.layers > 1 { 2 } else { 1 };
        let (slices, times) = (self.step.slices, z.saturating_mul(sides));
        // The projected input, and the state before and after.
        let beside = 4 * (p.projected_gates() + 6);
        let product = Product { tall, rows: p.batch, gates, units, depth, slices, times, beside };
        Grid::of(self.bounds, [units.div_ceil(wide), p.batch.div_ceil(tall), z], product.work(p))
    }

    /// The walk of a group of directions through a chunk.
    pub(crate) fn walk_grid(&self, chunk: Chunk) -> Cut {
        let rows = |rows: usize| self.problem.batch.div_ceil(rows);
        let z = self.group_len();
        if let Some(scan) = &self.scan {
            let z = if scan.layers > 1 { 1 } else { z };
            return Grid::of(self.bounds, [1, rows(scan.rows), z], scan.work(chunk.steps));
        }
        let Some(wide) = &self.wide else { return Grid::of(self.bounds, [0; 3], Work::default()) };
        Grid::together(self.bounds, [wide.workgroups, rows(wide.rows), z], wide.work(chunk.steps))
    }

    /// The second walk through a chunk, by one workgroup, in case the workgroups of the first did not run at once.
    pub(crate) fn redo_grid(&self, chunk: Chunk) -> Cut {
        let Some(wide) = &self.wide else { return self.walk_grid(chunk) };
        let whole = [1, self.problem.batch.div_ceil(wide.rows), self.group_len()];
        Grid::of(self.bounds, whole, wide.work(chunk.steps))
    }

    /// The merge of a layer's directions.
    fn merge_grid(&self) -> Cut {
        let len = self.problem.time.saturating_mul(self.problem.batch).saturating_mul(self.problem.out());
        Grid::each(self.bounds, len, Work::each(len, 2))
    }

    /// Directions that share a dispatch.
    fn group_len(&self) -> usize {
        self.groups.first().map_or(0, ExactSizeIterator::len)
    }

    /// The stages of one step of a layer.
    fn stages(&self) -> impl Iterator<Item = Stage> {
        self.groups.iter().flat_map(|group| self.problem.cells[group.start].stages()).copied()
    }

    /// The dispatches of a chunk of a layer, or of all layers that share them.
    fn of_chunk(&self, layer: usize, chunk: Chunk) -> Result<[Run; 2], Overlong> {
        let once = |grids| Run { times: 1, grids };
        let project = once(vec![self.project_grid(layer, chunk)?]);
        let groups = self.groups.len();
        let last = chunk.first + chunk.steps == self.problem.time;
        let drain = if self.kind == PlanKind::Wave && last { self.problem.layers - 1 } else { 0 };
        let walk = match self.kind {
            PlanKind::Step | PlanKind::Wave => Run {
                times: chunk.steps + drain,
                grids: self.stages().map(|stage| self.step_grid(stage)).collect::<Result<_, _>>()?,
            },
            PlanKind::Scan => Run { times: groups, grids: vec![self.walk_grid(chunk)?] },
            PlanKind::Wide => Run { times: groups, grids: vec![self.walk_grid(chunk)?, self.redo_grid(chunk)?] },
        };
        Ok([project, walk])
    }

    /// All dispatches in the order of recording: those of the first layer, then those of all other layers, which are alike.
    fn layers(&self) -> Result<Vec<(usize, Vec<Run>)>, Overlong> {
        let p = &self.problem;
        if p.time == 0 || p.batch == 0 {
            return Ok(Vec::new());
        }
        let at_once = match self.kind {
            PlanKind::Wave => p.layers,
            _ => self.scan.map_or(1, |scan| scan.layers),
        };
        let count = p.layers / at_once;
        let one = |layer: usize| -> Result<Vec<Run>, Overlong> {
            let mut runs = Vec::with_capacity(2 * self.chunks.len() + 1);
            for &chunk in &self.chunks {
                runs.extend(self.of_chunk(layer, chunk)?);
            }
            if p.merges() > 0 {
                runs.push(Run { times: 1, grids: vec![self.merge_grid()?] });
            }
            Ok(runs)
        };
        let mut layers = vec![(1, one(0)?)];
        if count > 1 {
            layers.push((count - 1, one(1)?));
        }
        Ok(layers)
    }

    /// Refuses dispatches of which not even a workgroup is short enough. Those of the first chunk, the longest, tell of all.
    pub(super) fn check_work(&self) -> Result<(), Overlong> {
        let Some(&chunk) = self.chunks.first() else { return Ok(()) };
        for layer in 0..self.problem.layers.min(2) {
            self.project_grid(layer, chunk)?;
        }
        if self.kind.takes_steps() {
            self.stages().try_for_each(|stage| self.step_grid(stage).map(|_| ()))?;
        } else {
            self.walk_grid(chunk)?;
            self.redo_grid(chunk)?;
        }
        self.merge_grid().map(|_| ())
    }

    /// Dispatches of the whole call.
    pub fn dispatches(&self) -> usize {
        let of = |run: &Run| run.times.saturating_mul(run.grids.iter().map(Grid::count).sum());
        let layers = self.layers().unwrap_or_default();
        layers.iter().map(|(times, runs)| times.saturating_mul(runs.iter().map(of).sum())).sum()
    }

    /// Submissions of the whole call: none if there is nothing to run, several if one would keep a slow GPU too long
    /// ([`Watchdog`](super::Watchdog)), else one. Calls that share a recorder share submissions.
    pub fn submits(&self) -> usize {
        self.submissions().0.count()
    }

    /// The estimated times of the longest dispatch and submission on a slow GPU. None is above the limits'
    /// [`Watchdog`](super::Watchdog).
    pub fn longest(&self) -> Longest {
        let (submissions, dispatch) = self.submissions();
        Longest { dispatch: Duration::from_nanos(dispatch), submission: submissions.longest() }
    }

    /// The call's submissions, and the nanoseconds of its longest dispatch.
    fn submissions(&self) -> (Submissions, u64) {
        let mut submissions = Submissions::new(&self.bounds.watchdog);
        let mut longest = 0;
        for (times, runs) in self.layers().unwrap_or_default() {
            for run in iter::repeat_n(&runs, times).flatten() {
                let same = run.grids.windows(2).all(|pair| pair[0].nanos() == pair[1].nanos());
                let [rounds, at_once] = if same { [1, run.times] } else { [run.times, 1] };
                for _ in 0..rounds {
                    let mut add = |count: usize, nanos| submissions.add(count, nanos);
                    match run.grids.first() {
                        Some(grid) if same => {
                            add(at_once * run.grids.iter().map(Grid::count).sum::<usize>(), grid.nanos())
                        }
                        _ => run.grids.iter().for_each(|grid| add(grid.count(), grid.nanos())),
                    }
                }
                longest = run.grids.iter().map(Grid::nanos).fold(longest, u64::max);
            }
        }
        (submissions, longest)
    }

    /// Bytes that the call reads and writes, were no cache to help within a dispatch but the tiles themselves: weights once
    /// for the rows of a tile, projected input, state and output once.
    pub fn bytes(&self) -> u64 {
        let p = &self.problem;
        if self.dispatches() == 0 {
            return 0;
        }
        let directions = p.cells.len();
        let words = |gates, units, depth| 16 * packed_words(p.weight_type, gates, units, depth) as u64;
        let gates = p.cells.first().map_or(0, |cell| cell.gates().len());
        let projected = (p.time as u64) * p.step_bytes();
        let recurrent = words(gates, p.hidden, p.out()) + p.projection_words() as u64 * 16;
        let state = (p.batch * (2 * p.out() + 2 * p.hidden) * size_of::<f32>()) as u64;
        let [[project_rows, _], [step_rows, _]] = [self.project_part(), self.step_part()];
        let step_tiles = p.batch.div_ceil(step_rows) as u64;
        let project_tiles = (p.time * p.batch).div_ceil(project_rows) as u64;
        let directions = directions as u64;
        let chunks = self.chunks.len() as u64;
        let layer = |layer: usize| {
            let input = words(gates, p.hidden, p.layer_input(layer));
            let y = (p.time * p.batch * p.out() * size_of::<f32>()) as u64;
            if let Some(scan) = &self.scan {
                // The state is read and written once a chunk; weights that are kept are read as often.
                let groups = p.batch.div_ceil(scan.rows) as u64;
                let turns = if scan.kept > 0 { chunks } else { p.time as u64 };
                let projection = p.time as u64 * p.projection_words() as u64 * 16;
                let weights = groups * (turns * words(gates, p.hidden, p.out()) + projection);
                let x = match layer % scan.layers {
                    0 => project_tiles * input + 2 * projected / directions.max(1),
                    _ => groups * turns * input,
                };
                return directions * (x + weights + chunks * state + y);
            }
            if let Some(wide) = &self.wide {
                // As for a scan; h is written once a step and read by every workgroup.
                let tiles = p.batch.div_ceil(wide.rows) as u64;
                let turns = if wide.kept > 0 { chunks } else { p.time as u64 };
                let exchanged = p.time as u64 * (1 + wide.workgroups as u64) * (p.batch * p.out() * 4) as u64;
                let x = project_tiles * input + 2 * projected / directions.max(1);
                return directions
                    * (x + tiles * turns * words(gates, p.hidden, p.out()) + exchanged + chunks * state + y);
            }
            let x = match self.kind {
                PlanKind::Wave if layer > 0 => p.time as u64 * step_tiles * input,
                _ => directions * project_tiles * input + 2 * projected,
            };
            x + directions * (p.time as u64 * (step_tiles * recurrent + state) + y)
        };
        (0..p.layers).map(layer).sum()
    }
}

impl TrainingPlan {
    /// A dispatch of a step back: a product of this depth for so many units of each direction.
    pub(crate) fn back_grid(&self, units: usize, depth: usize, directions: usize) -> Cut {
        let (p, tile) = (self.forward.problem(), &self.back);
        let (tall, gates, slices, units) = (tile.rows, self.columns, tile.slices, units.div_ceil(self.columns));
        // A unit's gates, states and gradients.
        let beside = 4 * 24 * gates;
        let product = Product { tall, rows: p.batch, gates, units, depth, slices, times: directions, beside };
        let whole = [units.div_ceil(tile.units), p.batch.div_ceil(tall), directions];
        Grid::of(self.forward.bounds, whole, product.work(p))
    }
}

impl Grid {
    /// Of an operation on `len` elements, one an invocation. Workgroups are folded into two axes where one is too short.
    pub(crate) fn each(bounds: Bounds, len: usize, work: Work) -> Cut {
        Self::folded(bounds, len.div_ceil(WORKGROUP_SIZE), work)
    }

    /// Of so many workgroups, folded into two axes where one is too short.
    pub(crate) fn folded(bounds: Bounds, count: usize, work: Work) -> Cut {
        let widest = bounds.workgroups.max(1);
        let whole = if count <= widest { [count, 1, 1] } else { [widest, count.div_ceil(widest), 1] };
        Self::of(bounds, whole, work)
    }
}

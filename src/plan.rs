//! From shape and limits to a schedule. Pure: no GPU is needed to compute, print or test a plan.

mod limits;
mod tile;

use std::fmt;
use std::str::FromStr;

pub use limits::{AdapterClass, Limits};
pub(crate) use tile::packed_words;
pub use tile::{Method, Tile};
#[cfg(feature = "gpu")]
pub(crate) use tile::{step_depth, step_words};

use crate::cell::{Cell, GruCell, Reset, WeightType};
use crate::error::{Error, Result};

/// What is to be run: a stack of layers over a batch of sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// One cell a direction.
    pub cells: Vec<Cell>,
    /// Features of the input.
    pub input: usize,
    /// Units of a layer and direction.
    pub hidden: usize,
    /// Layers of the stack.
    pub layers: usize,
    /// Whether both directions' outputs are merged into one of the same width rather than concatenated.
    pub merged: bool,
    /// How the weights are stored.
    pub weight_type: WeightType,
    /// Time steps.
    pub time: usize,
    /// Rows of the batch.
    pub batch: usize,
}

/// How the steps of a call become dispatches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlanKind {
    /// A layer at a time, a dispatch a step.
    Step,
    /// All layers at once, each a step behind the one below: a dispatch for every diagonal of layers and steps. One
    /// direction, and cells whose state passes through one product.
    Wave,
}

impl PlanKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Step, Self::Wave];

    /// `"step"` or `"wave"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Wave => "wave",
        }
    }
}

impl fmt::Display for PlanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PlanKind {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| Error::Value {
            op: OP,
            what: "kind",
            expected: "step or wave",
            found: name.to_owned(),
        })
    }
}

/// One dispatch of a time step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Product, gates and state update at once.
    Whole = 0,
    /// The gates of a GRU that resets before the matmul.
    Reset = 1,
    /// Its candidate and state update.
    Candidate = 2,
    /// The projection of an LSTM's hidden state.
    Project = 3,
}

impl Cell {
    /// The dispatches of one time step, in order.
    pub fn stages(&self) -> &'static [Stage] {
        match self {
            Self::Gru(GruCell { reset: Reset::Before, .. }) => &[Stage::Reset, Stage::Candidate],
            cell if cell.projection().is_some() => &[Stage::Whole, Stage::Project],
            _ => &[Stage::Whole],
        }
    }
}

/// A run of time steps whose input projection is computed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Steps done before it.
    pub first: usize,
    /// Steps it covers.
    pub steps: usize,
}

/// The schedule of one call: which projections and steps become which dispatches, and how a kernel's invocations share the
/// work of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    problem: Problem,
    /// How the steps become dispatches.
    pub kind: PlanKind,
    /// Chunks of time, in processing order; the same for every layer.
    pub chunks: Vec<Chunk>,
    /// Directions that share their dispatches: all of them where their cells are the same.
    pub groups: Vec<std::ops::Range<usize>>,
    /// How the input projection is tiled.
    pub project: Tile,
    /// How a step is tiled.
    pub step: Tile,
}

const OP: &str = "plan";

impl Plan {
    /// Plans a call, as `kind` where one is asked for.
    ///
    /// # Errors
    /// [`Error::Limit`] where not even a single step fits the device; [`Error::Unsupported`] for a kind that cannot run the
    /// problem.
    pub fn new(problem: Problem, limits: &Limits, kind: Option<PlanKind>) -> Result<Self> {
        let step_bytes = problem.step_bytes();
        limits.check(OP, "one step's input projection in bytes", step_bytes, limits.binding_bytes)?;
        let turns = problem.depth().div_ceil(4) as u64 + MAX_ROWS as u64;
        limits.check(OP, "loop iterations of one invocation", turns, limits.loop_cap.unwrap_or(u64::MAX))?;
        let kind = match (kind, problem.why_no_wave(limits)) {
            (Some(PlanKind::Wave), Some(reason)) => {
                return Err(Error::Unsupported { op: OP, option: format!("the kind wave with {reason}"), by: "plans" });
            }
            (Some(kind), _) => kind,
            (None, None) if problem.layers > 1 => PlanKind::Wave,
            (None, _) => PlanKind::Step,
        };
        let longest = usize::try_from(limits.binding_bytes / step_bytes.max(1)).unwrap_or(usize::MAX).max(1);
        let chunks: Vec<Chunk> = (0..problem.time)
            .step_by(longest)
            .map(|first| Chunk { first, steps: longest.min(problem.time - first) })
            .collect();
        let directions = problem.cells.len();
        let same = problem.cells.windows(2).all(|pair| pair[0] == pair[1]);
        let groups =
            if same { std::iter::once(0..directions).collect() } else { (0..directions).map(|d| d..d + 1).collect() };
        let rows = chunks.first().map_or(0, |chunk| chunk.steps) * problem.batch;
        let project = Tile::of_projection(limits, rows, problem.hidden, directions);
        let z = if kind == PlanKind::Wave { problem.layers } else { directions };
        let step = Tile::of_step(limits, problem.batch, problem.hidden, z, problem.out());
        Ok(Self { problem, kind, chunks, groups, project, step })
    }

    /// What is to be run.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Dispatches of the whole call.
    pub fn dispatches(&self) -> usize {
        let Problem { cells, layers, time, .. } = &self.problem;
        if *time == 0 || self.problem.batch == 0 {
            return 0;
        }
        let step: usize = self.groups.iter().map(|group| cells[group.start].stages().len()).sum();
        let merge = usize::from(self.problem.merged && cells.len() == 2);
        match self.kind {
            PlanKind::Wave => self.chunks.len() + time + layers - 1,
            PlanKind::Step => layers * (self.chunks.len() + time * step + merge),
        }
    }

    /// Submissions of the whole call: one, or none where there is nothing to run.
    pub fn submits(&self) -> usize {
        usize::from(self.dispatches() > 0)
    }

    /// Bytes that the call reads and writes, were no cache to help within a dispatch but the tiles themselves: weights once
    /// for the rows of a tile, projected input, state and output once.
    pub fn bytes(&self) -> u64 {
        let p = &self.problem;
        let directions = p.cells.len();
        let words = |gates, units, depth| 16 * packed_words(p.weight_type, gates, units, depth) as u64;
        let gates = p.cells.first().map_or(0, |cell| cell.gates().len());
        let projected = (p.time as u64) * p.step_bytes();
        let recurrent = words(gates, p.hidden, p.out()) + p.projection_words() as u64 * 16;
        let state = (p.batch * (2 * p.out() + 2 * p.hidden) * size_of::<f32>()) as u64;
        let step_tiles = p.batch.div_ceil(self.step.rows) as u64;
        let project_tiles = (p.time * p.batch).div_ceil(self.project.rows) as u64;
        let directions = directions as u64;
        let layer = |layer: usize| {
            let input = words(gates, p.hidden, p.layer_input(layer));
            let x = match self.kind {
                PlanKind::Wave if layer > 0 => p.time as u64 * step_tiles * input,
                _ => directions * project_tiles * input + 2 * projected,
            };
            let y = (p.time * p.batch * p.out() * size_of::<f32>()) as u64;
            x + directions * (p.time as u64 * (step_tiles * recurrent + state) + y)
        };
        (0..p.layers).map(layer).sum()
    }

    /// Workgroup memory of the step kernel in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        self.step.workgroup_bytes()
    }
}

/// Rows of a tile at the most.
pub(crate) const MAX_ROWS: usize = 16;

impl Problem {
    /// Width of one direction's output.
    pub(crate) fn out(&self) -> usize {
        self.cells.first().map_or(self.hidden, |cell| cell.output_size(self.hidden))
    }

    /// Gates of a unit.
    pub(crate) fn gates(&self) -> usize {
        self.cells.first().map_or(0, |cell| cell.gates().len())
    }

    /// Features that a layer reads.
    pub fn layer_input(&self, layer: usize) -> usize {
        match layer {
            0 => self.input,
            _ if self.merged => self.out(),
            _ => self.out() * self.cells.len(),
        }
    }

    /// Elements of a unit in the projected input: its gates, padded to a whole word where there are several.
    pub(crate) fn projected_gates(&self) -> usize {
        if self.gates() > 1 { 4 } else { 1 }
    }

    /// Bytes of the input projection of one step, all directions.
    fn step_bytes(&self) -> u64 {
        (self.batch * self.hidden * self.projected_gates() * self.cells.len() * size_of::<f32>()) as u64
    }

    /// The longest dot product of the call.
    fn depth(&self) -> usize {
        (0..self.layers).map(|layer| self.layer_input(layer)).max().unwrap_or(0).max(self.hidden)
    }

    /// Words of 16 bytes of the weights that project h, of one layer and direction.
    pub(crate) fn projection_words(&self) -> usize {
        let projects = self.cells.first().is_some_and(|cell| cell.projection().is_some());
        if projects { packed_words(self.weight_type, 1, self.out(), self.hidden) } else { 0 }
    }

    /// Words of 16 bytes of all packed weights.
    pub(crate) fn weight_words(&self) -> usize {
        let words = |depth| packed_words(self.weight_type, self.gates(), self.hidden, depth);
        let layer = |layer| words(self.layer_input(layer)) + words(self.out()) + self.projection_words();
        self.cells.len() * (0..self.layers).map(layer).sum::<usize>()
    }

    fn why_no_wave(&self, limits: &Limits) -> Option<&'static str> {
        if self.cells.len() != 1 {
            return Some("two directions");
        }
        if self.cells[0].stages().len() != 1 {
            return Some("two dependent products a step");
        }
        if self.weight_words() as u64 * 16 > limits.binding_bytes {
            return Some("weights beyond one binding");
        }
        None
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { cells, input, hidden, layers, time, batch, weight_type, .. } = &self.problem;
        let cell = cells.first().map_or("none", Cell::name);
        let directions = cells.len();
        writeln!(
            f,
            "{cell} {weight_type} I={input} H={hidden} layers={layers} directions={directions} T={time} B={batch}"
        )?;
        writeln!(f, "{}: {} chunk(s), projection {}, step {}", self.kind, self.chunks.len(), self.project, self.step)?;
        write!(
            f,
            "{} dispatches, {} submit, {} bytes moved, {} bytes of workgroup memory",
            self.dispatches(),
            self.submits(),
            self.bytes(),
            self.workgroup_bytes()
        )
    }
}

//! From shape and limits to a schedule. Pure: no GPU is needed to compute, print or test a plan.

use std::fmt;

use crate::cell::{Cell, GruCell, Reset};
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
    /// Time steps.
    pub time: usize,
    /// Rows of the batch.
    pub batch: usize,
}

/// The limits of a device that shape a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The device's name, for messages.
    pub adapter: String,
    /// Largest storage binding in bytes.
    pub binding_bytes: u64,
    /// Loop iterations after which the driver silently leaves a shader, if it does.
    pub loop_cap: Option<u64>,
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

/// The schedule of one call: for every layer and chunk of time one projection a direction, then the steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    problem: Problem,
    /// Chunks of time, in processing order; the same for every layer.
    pub chunks: Vec<Chunk>,
    /// Directions that share their dispatches: all of them where their cells are the same.
    pub groups: Vec<std::ops::Range<usize>>,
}

impl Plan {
    /// Plans a call.
    ///
    /// # Errors
    /// [`Error::Limit`] where not even a single step fits the device.
    pub fn new(problem: Problem, limits: &Limits) -> Result<Self> {
        let too_large = |what: &'static str, needed: u64, limit: u64| Error::Limit {
            op: "plan",
            what,
            needed,
            limit,
            adapter: limits.adapter.clone(),
        };
        let step_bytes = problem.step_bytes();
        if step_bytes > limits.binding_bytes {
            return Err(too_large("one step's input projection in bytes", step_bytes, limits.binding_bytes));
        }
        if let Some(cap) = limits.loop_cap {
            // The matrix product walks its depth twice over: tiles, and elements within a tile.
            let needed = 2 * problem.depth() as u64;
            if needed > cap {
                return Err(too_large("loop iterations of one invocation", needed, cap));
            }
        }
        let longest = usize::try_from(limits.binding_bytes / step_bytes.max(1)).unwrap_or(usize::MAX).max(1);
        let chunks = (0..problem.time)
            .step_by(longest)
            .map(|first| Chunk { first, steps: longest.min(problem.time - first) })
            .collect();
        let directions = problem.cells.len();
        let same = problem.cells.windows(2).all(|pair| pair[0] == pair[1]);
        let groups =
            if same { std::iter::once(0..directions).collect() } else { (0..directions).map(|d| d..d + 1).collect() };
        Ok(Self { problem, chunks, groups })
    }

    /// Dispatches of the whole call.
    pub fn dispatches(&self) -> usize {
        let directions = self.problem.cells.len();
        let step: usize = self.groups.iter().map(|group| self.problem.cells[group.start].stages().len()).sum();
        let merge = usize::from(self.problem.merged && directions == 2 && self.problem.time > 0);
        self.problem.layers * (self.chunks.len() * directions + self.problem.time * step + merge)
    }

    /// Submissions of the whole call.
    pub fn submits(&self) -> usize {
        1
    }
}

impl Problem {
    /// Width of one direction's output.
    fn out(&self) -> usize {
        self.cells.first().map_or(self.hidden, |cell| cell.output_size(self.hidden))
    }

    /// Features that a layer reads.
    pub fn layer_input(&self, layer: usize) -> usize {
        match layer {
            0 => self.input,
            _ if self.merged => self.out(),
            _ => self.out() * self.cells.len(),
        }
    }

    /// Bytes of the input projection of one step, all directions.
    fn step_bytes(&self) -> u64 {
        let gates = self.cells.first().map_or(0, |cell| cell.gates().len());
        (self.batch * self.hidden * gates * self.cells.len() * size_of::<f32>()) as u64
    }

    /// The longest dot product of the call.
    fn depth(&self) -> usize {
        (0..self.layers).map(|layer| self.layer_input(layer)).max().unwrap_or(0).max(self.hidden)
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { cells, input, hidden, layers, time, batch, .. } = &self.problem;
        let cell = cells.first().map_or("none", Cell::name);
        writeln!(f, "{cell} I={input} H={hidden} layers={layers} directions={} T={time} B={batch}", cells.len())?;
        let steps: Vec<_> = self.groups.iter().flat_map(|group| cells[group.start].stages()).collect();
        writeln!(f, "a layer: {} projection(s), {time} x {steps:?}", self.chunks.len() * cells.len())?;
        write!(f, "{} dispatches, {} submit", self.dispatches(), self.submits())
    }
}

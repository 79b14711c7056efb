//! From shape and limits to a schedule. Pure: no GPU is needed to compute, print or test a plan.

mod kind;
mod limits;
mod problem;
mod scan;
mod show;
mod tile;
#[cfg(feature = "gpu")]
mod training;
mod tuning;

pub use kind::PlanKind;
pub use limits::{AdapterClass, Limits};
pub use problem::{Problem, Stage};
pub use scan::Scan;
pub(crate) use tile::packed_words;
pub use tile::{Method, Tile};
#[cfg(feature = "gpu")]
pub(crate) use tile::{step_depth, step_words};
#[cfg(feature = "gpu")]
pub(crate) use training::{TrainingPlan, resets_after};
pub use tuning::Choice;

use crate::error::{Error, Result};

const OP: &str = "plan";

/// Units of a layer that a workgroup walks by itself unless another plan is asked for.
const SCANNED: usize = 128;

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
    why: String,
    /// Chunks of time, in processing order; the same for every layer.
    pub chunks: Vec<Chunk>,
    /// Directions that share their dispatches: all of them where their cells are the same.
    pub groups: Vec<std::ops::Range<usize>>,
    /// How the input projection is tiled.
    pub project: Tile,
    /// How a step is tiled.
    pub step: Tile,
    /// The workgroup that walks through time, if one does.
    pub scan: Option<Scan>,
}

impl Plan {
    /// Plans a call, as `kind` where one is asked for.
    ///
    /// # Errors
    /// [`Error::Limit`] where the call, or not even a single step of it, fits the device; [`Error::Unsupported`] for a kind
    /// that cannot run the problem.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{cell::{LstmCell, WeightType}, plan::{Limits, Plan, Problem}};
    ///
    /// let problem = Problem {
    ///     cells: vec![LstmCell::default().into()],
    ///     input: 64,
    ///     hidden: 128,
    ///     layers: 1,
    ///     merged: false,
    ///     weight_type: WeightType::F32,
    ///     time: 100,
    ///     batch: 1,
    /// };
    /// let plan = Plan::new(problem, &Limits::portable(), None)?;
    /// println!("{plan}");
    /// assert_eq!(plan.submits(), 1);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn new(problem: Problem, limits: &Limits, kind: Option<PlanKind>) -> Result<Self> {
        problem.check(limits)?;
        let (kind, why, scan) = Self::choose(&problem, limits, kind)?;
        let binding = usize::try_from(limits.binding_bytes / problem.step_bytes().max(1)).unwrap_or(usize::MAX);
        let longest = scan.map_or(binding, |scan| scan.longest_chunk(limits).min(binding)).max(1);
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
        for tile in [&project, &step] {
            let invocations = (tile.units * tile.slices) as u64;
            limits.check(OP, "workgroup memory in bytes", tile.workgroup_bytes(), limits.workgroup_bytes)?;
            limits.check(OP, "invocations of a workgroup", invocations, limits.workgroup_invocations as u64)?;
        }
        Ok(Self { problem, kind, why, chunks, groups, project, step, scan })
    }

    /// The kind of plan, and why: a scan for small layers, a wave for several, else steps.
    fn choose(problem: &Problem, limits: &Limits, asked: Option<PlanKind>) -> Result<(PlanKind, String, Option<Scan>)> {
        let (scan, no_wave) = (Scan::of(limits, problem), problem.why_no_wave(limits));
        let refused = |kind: PlanKind, reason: &str| {
            Err(Error::Unsupported { op: OP, option: format!("the kind {kind} with {reason}"), by: "by any plan" })
        };
        let for_it = "asked for".to_owned();
        match (asked, scan, no_wave) {
            (Some(PlanKind::Scan), Err(reason), _) => refused(PlanKind::Scan, reason),
            (Some(PlanKind::Scan), Ok(scan), _) => Ok((PlanKind::Scan, for_it, Some(scan))),
            (Some(PlanKind::Wave), _, Some(reason)) => refused(PlanKind::Wave, reason),
            (Some(kind), ..) => Ok((kind, for_it, None)),
            (None, Ok(scan), _) if problem.hidden <= SCANNED && scan.method == Method::Lanes => {
                Ok((PlanKind::Scan, format!("at most {SCANNED} units"), Some(scan)))
            }
            (None, scan, no_wave) => {
                let no_scan = match scan {
                    Err(reason) if problem.hidden <= SCANNED => format!("no scan with {reason}"),
                    // Not before its times on hardware are known.
                    Ok(_) if problem.hidden <= SCANNED => "a scan without shared lanes only where asked for".to_owned(),
                    _ => format!("more than {SCANNED} units"),
                };
                match no_wave {
                    None if problem.layers > 1 => Ok((PlanKind::Wave, format!("{no_scan}, several layers"), None)),
                    Some(reason) if problem.layers > 1 => {
                        Ok((PlanKind::Step, format!("{no_scan}, no wave with {reason}"), None))
                    }
                    _ => Ok((PlanKind::Step, no_scan, None)),
                }
            }
        }
    }

    /// Why it is of this kind.
    pub fn why(&self) -> &str {
        &self.why
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
        let scanned = self.scan.map_or(1, |scan| scan.layers);
        match self.kind {
            PlanKind::Scan => layers / scanned * (self.chunks.len() * (1 + self.groups.len()) + merge),
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
            let x = match self.kind {
                PlanKind::Wave if layer > 0 => p.time as u64 * step_tiles * input,
                _ => directions * project_tiles * input + 2 * projected,
            };
            x + directions * (p.time as u64 * (step_tiles * recurrent + state) + y)
        };
        (0..p.layers).map(layer).sum()
    }

    /// Workgroup memory of the kernel that walks through time, in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        self.scan.map_or_else(|| self.step.workgroup_bytes(), |scan| scan.workgroup_bytes())
    }
}

/// Rows of a tile at the most.
pub(crate) const MAX_ROWS: usize = 16;

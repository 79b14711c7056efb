//! From shape and limits to a schedule. Pure: no GPU is needed to compute, print or test a plan.

mod invocation;
mod kind;
mod limits;
mod matrices;
mod problem;
mod scan;
mod show;
mod tile;
mod training;
mod tuning;
mod watchdog;
mod wide;
mod work;

pub use kind::PlanKind;
pub use limits::{AdapterClass, Limits, Together};
pub use matrices::Matrices;
pub use problem::Problem;
pub use scan::Scan;
pub(crate) use tile::{BLOCK, packed_words, step_depth, step_words};
pub use tile::{Method, Tile};
pub(crate) use training::TrainingPlan;
pub use tuning::Choice;
pub use watchdog::Watchdog;
pub(crate) use watchdog::{Cut, Grid, Submissions, Work};
pub(crate) use wide::HEADER;
pub use wide::Wide;
pub use work::Longest;

use watchdog::Bounds;

use crate::error::{Error, Result};

const OP: &str = "plan";

/// A way to run a problem, or why it does not fit.
type Fit<T> = std::result::Result<T, &'static str>;

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

impl Chunk {
    /// `time` steps in chunks of `longest` at the most.
    fn all(time: usize, longest: usize) -> Vec<Self> {
        (0..time).step_by(longest).map(|first| Self { first, steps: longest.min(time - first) }).collect()
    }
}

/// The schedule of one call: which projections and steps become which dispatches, and how a kernel's invocations share the
/// work of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    problem: Problem,
    /// The device's bounds of a dispatch.
    bounds: Bounds,
    /// How the steps become dispatches.
    pub kind: PlanKind,
    why: String,
    /// Chunks of time, in processing order; the same for every layer.
    pub chunks: Vec<Chunk>,
    /// Directions that share their dispatches: all of them where their cells are the same.
    pub groups: Vec<std::ops::Range<usize>>,
    /// How the input projection is tiled.
    pub project: Tile,
    /// The adapter's own matrices that it is computed by instead, if they suit.
    pub project_matrices: Option<Matrices>,
    /// How a step is tiled.
    pub step: Tile,
    /// The adapter's own matrices that it is computed by instead, if they suit.
    pub step_matrices: Option<Matrices>,
    /// The workgroup that walks through time, if one does.
    pub scan: Option<Scan>,
    /// The workgroups that walk through time together, if several do.
    pub wide: Option<Wide>,
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
        let (scan, wide) = (Scan::of(limits, &problem), Wide::of(limits, &problem));
        let (kind, why) = Self::choose(&problem, limits, kind, &scan, &wide)?;
        let scan = scan.ok().filter(|_| kind == PlanKind::Scan);
        let wide = wide.ok().filter(|_| kind == PlanKind::Wide);
        let binding = usize::try_from(limits.binding_bytes / problem.step_bytes().max(1)).unwrap_or(usize::MAX);
        let walked = scan.map(|scan| scan.longest_chunk(limits)).or(wide.map(|wide| wide.longest_chunk(limits)));
        let longest = walked.unwrap_or(usize::MAX).min(binding).clamp(1, problem.time.max(1));
        if let Some(wide) = &wide {
            let words = 4 * wide.exchange_words(&problem) as u64;
            limits.check(OP, "what workgroups exchange in bytes", words, limits.binding_bytes)?;
        }
        let (directions, groups) = (problem.cells.len(), problem.groups());
        let rows = longest.saturating_mul(problem.batch);
        let project = Tile::of_projection(limits, rows, problem.hidden, directions);
        let project_matrices = Matrices::of_projection(limits, &problem, rows).ok();
        // Every step of a chunk has its workgroups in the dispatch of the projection.
        let project_rows = project_matrices.map_or(project.rows, Matrices::rows);
        let longest = longest.min(limits.workgroups * project_rows / problem.batch.max(1)).max(1);
        let chunks = Chunk::all(if problem.batch == 0 { 0 } else { problem.time }, longest);
        let z = if kind == PlanKind::Wave { problem.layers } else { directions };
        let step = Tile::of_step(limits, problem.batch, problem.hidden, z, problem.out());
        let step_matrices = Matrices::of_step(limits, &problem, kind.sides()).ok().filter(|_| kind.takes_steps());
        let bounds = limits.bounds();
        let plan = Self {
            problem,
            bounds,
            kind,
            why,
            chunks,
            groups,
            project,
            project_matrices,
            step,
            step_matrices,
            scan,
            wide,
        };
        plan.check(limits)?;
        Ok(plan)
    }

    /// Rows and units of a workgroup of the projection.
    fn project_part(&self) -> [usize; 2] {
        self.project_matrices.map_or([self.project.rows, self.project.units], |kind| [kind.rows(), kind.side()])
    }

    /// Rows and units of a workgroup of a step.
    fn step_part(&self) -> [usize; 2] {
        self.step_matrices.map_or([self.step.rows, self.step.units], |kind| [kind.rows(), kind.side()])
    }

    /// Refuses workgroups that the device does not have, loops that the driver would cut short, and dispatches that a watchdog would.
    fn check(&self, limits: &Limits) -> Result<()> {
        self.check_work().map_err(|overlong| overlong.error(OP, &limits.adapter))?;
        let turns = self.problem.turns(&self.project, self.kind.takes_steps().then_some(&self.step));
        limits.check(OP, "loop iterations of one invocation", turns, limits.loop_cap.unwrap_or(u64::MAX))?;
        for tile in [&self.project, &self.step] {
            let invocations = (tile.units * tile.slices) as u64;
            limits.check(OP, "workgroup memory in bytes", tile.workgroup_bytes(), limits.workgroup_bytes)?;
            limits.check(OP, "invocations of a workgroup", invocations, limits.workgroup_invocations as u64)?;
        }
        Ok(())
    }

    /// The kind of plan, and why: a scan for small layers where there is more than a step to walk, and where lanes share rows and
    /// no wave can run, for all whose steps would be many dispatches, more than T + L + 2 and than its own; a scan over several
    /// workgroups for wide layers where the caller lets them wait for each other; a wave for several layers, else steps.
    fn choose(
        problem: &Problem,
        limits: &Limits,
        asked: Option<PlanKind>,
        scan: &Fit<Scan>,
        wide: &Fit<Wide>,
    ) -> Result<(PlanKind, String)> {
        let no_wave = problem.why_no_wave(limits);
        if let Some(kind) = asked {
            let reason = match kind {
                PlanKind::Step => None,
                PlanKind::Wave => no_wave,
                PlanKind::Scan => scan.err(),
                PlanKind::Wide => wide.err(),
            };
            return match reason {
                None => Ok((kind, "asked for".to_owned())),
                Some(reason) => {
                    let option = format!("the kind {kind} with {reason}");
                    Err(Error::Unsupported { op: OP, option, by: "by any plan" })
                }
            };
        }
        let small = problem.hidden <= SCANNED;
        let single = problem.time == 1;
        // A software adapter without lanes to share gains nothing.
        let gains = limits.class == AdapterClass::Hardware || limits.shares_lanes();
        if let Ok(scan) = scan
            && gains
        {
            if small && !single {
                return Ok((PlanKind::Scan, format!("at most {SCANNED} units")));
            }
            let steps = problem.step_dispatches();
            let promised = problem.time.saturating_add(problem.layers).saturating_add(2);
            let few = promised.max(problem.scan_dispatches(scan.layers));
            // On a GPU the workgroups of a wide layer are too few.
            if limits.shares_lanes() && no_wave.is_some() && steps > few {
                return Ok((PlanKind::Scan, format!("steps would take {steps} dispatches")));
            }
        }
        let mut why = match scan {
            Err(reason) if small => format!("no scan with {reason}"),
            Ok(_) if small && single => "a single step".to_owned(),
            Ok(_) if small => "a scan without shared lanes only where asked for".to_owned(),
            _ => format!("more than {SCANNED} units"),
        };
        if limits.together_unasked && !small {
            match wide {
                Ok(wide) if wide.workgroups > 1 && wide.kept > 0 => {
                    return Ok((PlanKind::Wide, format!("{why}, workgroups may wait for each other")));
                }
                Ok(_) => why.push_str(", too many weights for registers"),
                Err(reason) => why = format!("{why}, not over several workgroups with {reason}"),
            }
        }
        Ok(match no_wave {
            None if problem.layers > 1 => (PlanKind::Wave, format!("{why}, several layers")),
            Some(reason) if problem.layers > 1 => (PlanKind::Step, format!("{why}, no wave with {reason}")),
            _ => (PlanKind::Step, why),
        })
    }

    /// What this device knows a plan of [`PlanKind::Wide`] by: what must run at once, and as which kernel.
    pub(crate) fn together(&self) -> Option<String> {
        let cell = self.problem.cells.first().map_or("none", crate::cell::Cell::name);
        let Problem { cells, hidden, weight_type, batch, .. } = &self.problem;
        let wide = self.wide?;
        let waiting = wide.workgroups * batch.div_ceil(wide.rows) * cells.len();
        Some(format!("{cell} {weight_type} H={hidden} {wide} of {waiting}"))
    }

    /// The same call by a dispatch a step, or a wave of them.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn by_steps(self, limits: &Limits, why: &str) -> Result<Self> {
        let wave = self.problem.layers > 1 && self.problem.why_no_wave(limits).is_none();
        let kind = if wave { PlanKind::Wave } else { PlanKind::Step };
        Ok(Self { why: why.to_owned(), ..Self::new(self.problem, limits, Some(kind))? })
    }

    /// Why it is of this kind.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What is to be run.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Workgroup memory of the kernel that walks through time, in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        match (&self.scan, &self.wide, self.step_matrices) {
            (Some(scan), ..) => scan.workgroup_bytes(),
            (_, Some(wide), _) => wide.workgroup_bytes(),
            (.., Some(matrices)) => matrices.workgroup_bytes(self.kind.sides()),
            _ => self.step.workgroup_bytes(),
        }
    }
}

/// Rows of a tile at the most.
pub(crate) const MAX_ROWS: usize = 16;

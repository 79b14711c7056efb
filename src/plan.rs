//! Turns a shape and a device's limits into a schedule. No GPU is needed to compute, print or test a plan.
//!
//! ```
//! use gatewise::{Device, nn::Lstm, plan::PlanKind};
//!
//! let config = Lstm::config(64, 128).layers(2).plan(PlanKind::Wave);
//! let plan = config.random(&Device::Cpu, 7)?.plan(100, 1)?; // 100 steps of one row
//! println!("{plan}");
//! assert_eq!((plan.kind(), plan.submits()), (PlanKind::Wave, 1));
//! # Ok::<(), gatewise::Error>(())
//! ```

mod cooperative;
#[cfg(feature = "unstable-internals")]
mod internals;
mod invocation;
mod limits;
mod matrices;
mod problem;
mod scan;
mod schedule;
mod show;
mod tile;
mod training;
mod tuning;
mod watchdog;
mod work;

pub use limits::CooperativeScans;
pub use schedule::PlanKind;
pub use tuning::Choice;
pub use watchdog::Watchdog;

#[cfg(not(feature = "unstable-internals"))]
pub(crate) use self::{
    cooperative::CooperativeScan,
    limits::{AdapterClass, Limits},
    matrices::Matrices,
    problem::Problem,
    scan::Scan,
    schedule::Schedule,
    tile::{Method, ProductTiles, Tile},
};
#[cfg(feature = "unstable-internals")]
pub use self::{
    cooperative::CooperativeScan,
    limits::{AdapterClass, Limits},
    matrices::Matrices,
    problem::Problem,
    scan::Scan,
    schedule::Schedule,
    tile::{Method, ProductTiles, Tile},
    work::Longest,
};

pub(crate) use cooperative::HEADER;
pub(crate) use tile::{BLOCK, BUSY, packed_words, step_depth, step_words};
pub(crate) use training::TrainingPlan;
pub(crate) use watchdog::{Cut, Grid, Submissions, Work};

use watchdog::Bounds;

use crate::error::Result;

const OP: &str = "plan";

/// A way to run a problem, or the reason why it does not fit.
type Fit<T> = std::result::Result<T, &'static str>;

/// Consecutive time steps whose input projection is computed at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Steps before the chunk, in processing order.
    pub first: usize,
    /// Steps of the chunk.
    pub steps: usize,
}

impl Chunk {
    /// Divides `time` steps into chunks of at most `longest` steps.
    fn all(time: usize, longest: usize) -> Vec<Self> {
        (0..time).step_by(longest).map(|first| Self { first, steps: longest.min(time - first) }).collect()
    }
}

/// The schedule of one call: which projections and steps become which dispatches, and how a kernel's invocations share the
/// work of a dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    problem: Problem,
    /// The device's bounds of a dispatch.
    bounds: Bounds,
    /// How the steps become dispatches.
    pub(crate) schedule: Schedule,
    why: String,
    /// Chunks of time in processing order; every layer has the same ones.
    pub(crate) chunks: Vec<Chunk>,
    /// Directions that share their dispatches: all of them if their cells are the same.
    pub(crate) groups: Vec<std::ops::Range<usize>>,
    /// How the input projection is divided among workgroups.
    pub(crate) project: ProductTiles,
}

impl Plan {
    unstable! {
        /// Plans a call by the kind of schedule that is asked for, or by the one that suits the call.
        ///
        /// # Errors
        /// [`Error::Limit`](crate::Error::Limit) if the device cannot hold the call or a single step of it;
        /// [`Error::Unsupported`](crate::Error::Unsupported) if the kind that is asked for cannot run the problem.
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
            let (schedule, why) = Schedule::choose(&problem, limits, kind)?;
            Self::scheduled(problem, limits, schedule, why)
        }
    }

    /// Plans a problem that [`Problem::check`] accepts by a schedule that fits it.
    fn scheduled(problem: Problem, limits: &Limits, schedule: Schedule, why: String) -> Result<Self> {
        if let Schedule::CooperativeScan(scan) = &schedule {
            let bytes = 4 * scan.exchange_words(&problem) as u64;
            limits.check(OP, "the exchange of workgroups in bytes", bytes, limits.binding_bytes)?;
        }
        let binding = usize::try_from(limits.binding_bytes / problem.step_bytes().max(1)).unwrap_or(usize::MAX);
        let longest = schedule.longest_chunk(limits).min(binding).clamp(1, problem.time.max(1));
        let project = ProductTiles::of_projection(limits, &problem, longest.saturating_mul(problem.batch));
        // One dispatch projects all steps of a chunk.
        let longest = longest.min(limits.workgroups * project.rows() / problem.batch.max(1)).max(1);
        let chunks = Chunk::all(if problem.batch == 0 { 0 } else { problem.time }, longest);
        let (bounds, groups) = (limits.bounds(), problem.groups());
        let plan = Self { problem, bounds, schedule, why, chunks, groups, project };
        plan.check(limits)?;
        Ok(plan)
    }

    /// Refuses workgroups that are too large for the device, loops that the driver would cut short, and dispatches that are
    /// longer than the watchdog allows.
    fn check(&self, limits: &Limits) -> Result<()> {
        self.check_work().map_err(|overlong| overlong.error(OP, &limits.adapter))?;
        let step = self.schedule.step().map(|tiles| &tiles.tile);
        let iterations = self.problem.loop_iterations(&self.project.tile, step);
        limits.check(OP, "loop iterations of one invocation", iterations, limits.loop_cap.unwrap_or(u64::MAX))?;
        for tile in std::iter::once(&self.project.tile).chain(step) {
            let invocations = (tile.units * tile.slices) as u64;
            limits.check(OP, "workgroup memory in bytes", tile.workgroup_bytes(), limits.workgroup_bytes)?;
            limits.check(OP, "invocations of a workgroup", invocations, limits.workgroup_invocations as u64)?;
        }
        Ok(())
    }

    /// The name under which a device remembers that the workgroups of a cooperative scan did not run concurrently: the number of
    /// workgroups and their kernel. `None` for other schedules.
    pub(crate) fn cooperative_name(&self) -> Option<String> {
        let Schedule::CooperativeScan(scan) = &self.schedule else { return None };
        let cell = self.problem.cells.first().map_or("none", crate::cell::Cell::name);
        let Problem { cells, hidden, weight_type, batch, .. } = &self.problem;
        let concurrent = scan.workgroups * batch.div_ceil(scan.rows) * cells.len();
        Some(format!("{cell} {weight_type} H={hidden} {scan} of {concurrent}"))
    }

    /// Plans the same call as a wave if it can be one, else by steps.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn by_steps(self, limits: &Limits, why: &str) -> Result<Self> {
        let wave = self.problem.layers > 1 && self.problem.why_no_wave(limits).is_none();
        let kind = if wave { PlanKind::Wave } else { PlanKind::Step };
        Ok(Self { why: why.to_owned(), ..Self::new(self.problem, limits, Some(kind))? })
    }

    /// The kind of the plan's schedule.
    pub const fn kind(&self) -> PlanKind {
        self.schedule.kind()
    }

    /// The reason for the plan's schedule.
    pub fn why(&self) -> &str {
        &self.why
    }

    unstable! {
        /// The problem that the plan runs.
        pub fn problem(&self) -> &Problem {
            &self.problem
        }
    }

    /// Workgroup memory of the kernel that computes the steps, in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        self.schedule.workgroup_bytes()
    }
}

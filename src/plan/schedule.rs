//! The schedules: how the time steps of a call become dispatches, and which schedule suits a problem.

use std::fmt;
use std::str::FromStr;

use super::{AdapterClass, CooperativeScan, Fit, Limits, OP, Problem, ProductTiles, Scan};
use crate::error::{Error, Result};

/// Largest number of units for which a scan is chosen unless another kind is asked for.
const SCANNED: usize = 128;

/// How the time steps of a call become dispatches, with the sizes of the workgroups that run them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Schedule {
    /// The schedule of [`PlanKind::Step`].
    Steps(ProductTiles),
    /// The schedule of [`PlanKind::Wave`].
    Wave(ProductTiles),
    /// The schedule of [`PlanKind::Scan`].
    Scan(Scan),
    /// The schedule of [`PlanKind::CooperativeScan`].
    CooperativeScan(CooperativeScan),
}

/// The kinds of schedule, by how the time steps of a call become dispatches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PlanKind {
    /// One layer at a time, one dispatch per step (two if the state passes through two products per step).
    Step,
    /// All layers at once, each one step behind the layer below: one dispatch per diagonal of layers and steps.
    ///
    /// It can run stacks of one direction whose cells pass the state through one product per step.
    Wave,
    /// One dispatch per chunk of time: each workgroup computes all steps of its rows of a direction. If a stack of one
    /// direction fits, the workgroup computes all of its layers.
    ///
    /// It can run layers of at most as many units as a workgroup has invocations.
    Scan,
    /// A scan across workgroups, for layers that are too large for one workgroup: each workgroup has some of a direction's
    /// units, and passes its part of h to the others after every step.
    ///
    /// Its workgroups must run concurrently, which no API promises. If they did not, a dispatch behind the scan computes the
    /// chunk again with one workgroup. It can run cells that pass the state through one product per step.
    CooperativeScan,
}

impl Schedule {
    /// The kind of the schedule.
    pub const fn kind(&self) -> PlanKind {
        match self {
            Self::Steps(_) => PlanKind::Step,
            Self::Wave(_) => PlanKind::Wave,
            Self::Scan(_) => PlanKind::Scan,
            Self::CooperativeScan(_) => PlanKind::CooperativeScan,
        }
    }

    /// The tiles of a time step, if a step is a dispatch of its own.
    pub const fn step(&self) -> Option<&ProductTiles> {
        match self {
            Self::Steps(tiles) | Self::Wave(tiles) => Some(tiles),
            Self::Scan(_) | Self::CooperativeScan(_) => None,
        }
    }

    /// Whether registers keep recurrent weights for a whole chunk of time.
    pub const fn keeps_weights(&self) -> bool {
        match self {
            Self::Steps(_) | Self::Wave(_) => false,
            Self::Scan(scan) => scan.kept > 0,
            Self::CooperativeScan(scan) => scan.kept > 0,
        }
    }

    /// Workgroup memory of the kernel that computes the steps, in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        match self {
            Self::Steps(tiles) | Self::Wave(tiles) => tiles.workgroup_bytes(self.kind().products()),
            Self::Scan(scan) => scan.workgroup_bytes(),
            Self::CooperativeScan(scan) => scan.workgroup_bytes(),
        }
    }

    /// Layers that share their dispatches.
    pub(crate) fn layers_at_once(&self, problem: &Problem) -> usize {
        match self {
            Self::Steps(_) | Self::CooperativeScan(_) => 1,
            Self::Wave(_) => problem.layers,
            Self::Scan(scan) => scan.layers,
        }
    }

    /// Longest chunk of time that one dispatch may compute; 0 if the driver would cut even a single step short.
    pub(super) fn longest_chunk(&self, limits: &Limits) -> usize {
        match self {
            Self::Steps(_) | Self::Wave(_) => usize::MAX,
            Self::Scan(scan) => scan.longest_chunk(limits),
            Self::CooperativeScan(scan) => scan.longest_chunk(limits),
        }
    }

    /// The schedule of a kind, or the reason why that kind cannot run the problem.
    pub(super) fn of(kind: PlanKind, problem: &Problem, limits: &Limits) -> Fit<Self> {
        Ok(match kind {
            PlanKind::Step => Self::Steps(ProductTiles::of_step(limits, problem, kind)),
            PlanKind::Wave => match problem.why_no_wave(limits) {
                Some(reason) => return Err(reason),
                None => Self::Wave(ProductTiles::of_step(limits, problem, kind)),
            },
            PlanKind::Scan => Self::Scan(Scan::of(limits, problem)?),
            PlanKind::CooperativeScan => Self::CooperativeScan(CooperativeScan::of(limits, problem)?),
        })
    }

    /// The schedule of the kind that is asked for, or the one that suits the problem, and the reason for it.
    pub(super) fn choose(problem: &Problem, limits: &Limits, asked: Option<PlanKind>) -> Result<(Self, String)> {
        let Some(kind) = asked else { return Ok(Self::suited(problem, limits)) };
        match Self::of(kind, problem, limits) {
            Ok(schedule) => Ok((schedule, "asked for".to_owned())),
            Err(reason) => {
                let option = format!("the kind {kind} with {reason}");
                Err(Error::Unsupported { op: OP, option, by: "by any plan" })
            }
        }
    }

    /// The schedule that suits a problem, and the reason for it:
    ///
    /// 1. A scan, if it pays ([`why_scan`]).
    /// 2. A cooperative scan for layers of more than 128 units, if the caller allows it and registers hold the weights.
    /// 3. A wave, if there are several layers and it can run.
    /// 4. Steps.
    fn suited(problem: &Problem, limits: &Limits) -> (Self, String) {
        let (small, single) = (problem.hidden <= SCANNED, problem.time == 1);
        let scan = Scan::of(limits, problem);
        if let Ok(scan) = scan
            && let Some(why) = why_scan(&scan, problem, limits)
        {
            return (Self::Scan(scan), why);
        }
        let mut why = match scan {
            Err(reason) if small => format!("no scan with {reason}"),
            Ok(_) if small && single => "a single step".to_owned(),
            Ok(_) if small => "a scan without shared lanes only where asked for".to_owned(),
            _ => format!("more than {SCANNED} units"),
        };
        if limits.cooperative_by_default && !small {
            match CooperativeScan::of(limits, problem) {
                Ok(scan) if scan.workgroups > 1 && scan.kept > 0 => {
                    return (Self::CooperativeScan(scan), format!("{why}, workgroups may wait for each other"));
                }
                Ok(_) => why.push_str(", too many weights for registers"),
                Err(reason) => why = format!("{why}, not over several workgroups with {reason}"),
            }
        }
        let steps = |kind| ProductTiles::of_step(limits, problem, kind);
        if problem.layers == 1 {
            return (Self::Steps(steps(PlanKind::Step)), why);
        }
        match problem.why_no_wave(limits) {
            None => (Self::Wave(steps(PlanKind::Wave)), format!("{why}, several layers")),
            Some(reason) => (Self::Steps(steps(PlanKind::Step)), format!("{why}, no wave with {reason}")),
        }
    }
}

/// The reason to choose a scan that fits, or `None` if another schedule suits the problem better:
///
/// 1. If the layer has at most 128 units and there are several steps.
/// 2. If lanes share rows, no wave can run, and steps would take more dispatches than T + L + 2 and than the scan.
fn why_scan(scan: &Scan, problem: &Problem, limits: &Limits) -> Option<String> {
    // A software adapter whose lanes cannot share rows gains nothing from a scan.
    if limits.class == AdapterClass::Software && !limits.shares_lanes() {
        return None;
    }
    if problem.hidden <= SCANNED && problem.time != 1 {
        return Some(format!("at most {SCANNED} units"));
    }
    let steps = problem.step_dispatches();
    let promised = problem.time.saturating_add(problem.layers).saturating_add(2);
    let few = promised.max(problem.scan_dispatches(scan.layers));
    // On a GPU, a scan of a large layer has too few workgroups.
    let pays = limits.shares_lanes() && problem.why_no_wave(limits).is_some() && steps > few;
    pays.then(|| format!("steps would take {steps} dispatches"))
}

impl PlanKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Step, Self::Wave, Self::Scan, Self::CooperativeScan];

    /// The name of the kind: `"step"`, `"wave"`, `"scan"` or `"cooperative"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Wave => "wave",
            Self::Scan => "scan",
            Self::CooperativeScan => "cooperative",
        }
    }

    /// Number of products whose sums a dispatch of a step keeps apart for every unit: the product of h, and in a wave that of the input.
    pub(crate) const fn products(self) -> usize {
        if matches!(self, Self::Wave) { 2 } else { 1 }
    }

    /// A word with one bit set, which no other kind sets.
    pub(crate) const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for PlanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PlanKind {
    type Err = Error;

    /// Parses a [`PlanKind::name`]; `"wide"`, the former name of `"cooperative"`, is accepted, too.
    fn from_str(name: &str) -> Result<Self> {
        let current = if name == "wide" { Self::CooperativeScan.name() } else { name };
        Self::ALL.into_iter().find(|known| known.name() == current).ok_or_else(|| Error::Value {
            op: OP,
            what: "kind",
            expected: "step, wave, scan or cooperative",
            found: name.to_owned(),
        })
    }
}

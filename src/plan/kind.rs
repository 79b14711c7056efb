//! The kinds of schedule.

use std::fmt;
use std::str::FromStr;

use super::OP;
use crate::error::{Error, Result};

/// How the steps of a call become dispatches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PlanKind {
    /// A layer at a time, a dispatch a step.
    Step,
    /// All layers at once, each a step behind the one below: a dispatch for every diagonal of layers and steps. One
    /// direction, and cells whose state passes through one product.
    Wave,
    /// A dispatch for a whole chunk of time: a workgroup walks its rows of a direction by itself, all layers of a stack of
    /// one direction where they fit. Layers of as many units as a workgroup has invocations at the most.
    Scan,
    /// A scan over several workgroups, for wider layers: each has some of a direction's units, and after every step tells the
    /// others its part of h. It needs workgroups that run at once, which no API promises: a dispatch behind it walks the chunk
    /// again, alone, where that was not so. Cells whose state passes through one product.
    Wide,
}

impl PlanKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Step, Self::Wave, Self::Scan, Self::Wide];

    /// `"step"`, `"wave"`, `"scan"` or `"wide"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Wave => "wave",
            Self::Scan => "scan",
            Self::Wide => "wide",
        }
    }

    /// Whether a step is a dispatch of its own.
    pub(super) const fn takes_steps(self) -> bool {
        matches!(self, Self::Step | Self::Wave)
    }

    /// Sides of a unit's sums in one dispatch: the state's, and in a wave the input's, too.
    pub(crate) const fn sides(self) -> usize {
        if matches!(self, Self::Wave) { 2 } else { 1 }
    }

    /// A bit of its own.
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

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|known| known.name() == name).ok_or_else(|| Error::Value {
            op: OP,
            what: "kind",
            expected: "step, wave, scan or wide",
            found: name.to_owned(),
        })
    }
}

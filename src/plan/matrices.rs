//! The adapter's own matrices, which the invocations of a subgroup multiply together.

use std::fmt;
use std::str::FromStr;

use super::limits::{AdapterClass, Limits};
use super::problem::Problem;
use super::{Fit, OP};
use crate::cell::WeightType;
use crate::error::{Error, Result};

/// A kind of cooperative matrices that the input projection, and a step of many rows, can be computed by. An adapter lists what it
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matrices {
    /// 16 by 16, operands in f16, sums in f32: for weights that are exact in f16. An element of the input is the sum of two
    /// operands, so it keeps its precision.
    Half,
    /// 8 by 8, all in f32: for every type of weights.
    Float,
}

/// Matrices of rows that a workgroup has.
const STRIPES: usize = 2;
/// Gates that a workgroup has room for.
const GATES: usize = 4;

impl Matrices {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Half, Self::Float];

    /// `"half"` or `"float"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Float => "float",
        }
    }

    /// Rows and columns of a matrix, and the depth of a product: the units of a workgroup.
    pub const fn side(self) -> usize {
        match self {
            Self::Half => 16,
            Self::Float => 8,
        }
    }

    /// Rows of a workgroup.
    pub const fn rows(self) -> usize {
        STRIPES * self.side()
    }

    /// Workgroup memory in bytes: both operands, and for each of the `sides` that a unit's sums have apart from each other the sums
    /// and the rows' largest magnitudes.
    pub const fn workgroup_bytes(self, sides: usize) -> u64 {
        let area = self.side() * self.side();
        let (bytes, parts) = match self {
            Self::Half => (2, 2),
            Self::Float => (4, 1),
        };
        (bytes * area * (parts * STRIPES + GATES) + sides * 4 * (area * GATES + self.rows())) as u64
    }

    /// Whether weights of a type are exact in the operands.
    fn holds(self, kind: WeightType) -> bool {
        self == Self::Float || matches!(kind, WeightType::F16 | WeightType::Int8)
    }

    /// Invocations of a workgroup: a subgroup for every gate.
    pub(crate) fn invocations(limits: &Limits, gates: usize) -> usize {
        limits.subgroup_most * gates
    }

    /// The kind that suits a projection of `rows` rows, or why there is none.
    pub(super) fn of_projection(limits: &Limits, problem: &Problem, rows: usize) -> Fit<Self> {
        let found = Self::of(limits, problem, 1)?;
        // Fewer would mostly be padding.
        if 2 * rows < found.rows() { Err("few rows") } else { Ok(found) }
    }

    /// The kind that suits a step whose units' sums have so many sides, or why there is none. Less than a workgroup's rows are
    /// left to smaller tiles: a step waits for the one before, and a tile of many rows makes few workgroups.
    pub(super) fn of_step(limits: &Limits, problem: &Problem, sides: usize) -> Fit<Self> {
        let found = Self::of(limits, problem, sides)?;
        if problem.batch < found.rows() { Err("few rows") } else { Ok(found) }
    }

    fn of(limits: &Limits, problem: &Problem, sides: usize) -> Fit<Self> {
        if limits.matrices.is_empty() {
            return Err("no cooperative matrices");
        }
        if limits.class == AdapterClass::Software {
            return Err("a software adapter");
        }
        let invocations = Self::invocations(limits, problem.gates());
        if invocations == 0 || invocations > limits.workgroup_invocations.min(256) {
            return Err("subgroups that no workgroup has one a gate of");
        }
        let Some(found) =
            Self::ALL.into_iter().find(|kind| limits.matrices.contains(kind) && kind.holds(problem.weight_type))
        else {
            return Err("weights that the adapter's matrices do not hold exactly");
        };
        if found.workgroup_bytes(sides) > limits.workgroup_bytes {
            return Err("matrices beyond the workgroup memory");
        }
        Ok(found)
    }
}

impl fmt::Display for Matrices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = if *self == Self::Half { "f16" } else { "f32" };
        write!(f, "{} rows x {} units by matrices of {element}", self.rows(), self.side())
    }
}

impl FromStr for Matrices {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == name);
        known.ok_or_else(|| Error::Value {
            op: OP,
            what: "matrices",
            expected: "half or float",
            found: name.to_owned(),
        })
    }
}

//! Cooperative matrices: small matrices that an adapter multiplies by all invocations of a subgroup together.

use std::fmt;
use std::str::FromStr;

use super::limits::{AdapterClass, Limits};
use super::problem::Problem;
use super::{Fit, OP};
use crate::cell::WeightType;
use crate::error::{Error, Result};

/// A kind of cooperative matrices that can compute the input projection, and a step of many rows. An adapter lists the kinds that
/// it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Matrices {
    /// Matrices of 16 by 16, operands in f16, sums in f32: for weights that are exact in f16. An element of the input is split
    /// into the sum of two operands, so it keeps its precision.
    Half,
    /// Matrices of 8 by 8, all in f32: for every type of weights.
    Float,
}

/// Number of matrices along the rows of a workgroup.
const STRIPES: usize = 2;
/// Largest number of gates of a workgroup.
const GATES: usize = 4;

impl Matrices {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Half, Self::Float];

    /// The name of the kind: `"half"` or `"float"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Float => "float",
        }
    }

    /// Rows, columns and depth of one matrix product, and the units of a workgroup.
    pub const fn size(self) -> usize {
        match self {
            Self::Half => 16,
            Self::Float => 8,
        }
    }

    /// Rows of a workgroup.
    pub const fn rows(self) -> usize {
        STRIPES * self.size()
    }

    /// Workgroup memory in bytes: both operands, and for each of the `products` of a unit its sums and the rows' largest
    /// magnitudes.
    pub const fn workgroup_bytes(self, products: usize) -> u64 {
        let area = self.size() * self.size();
        let (bytes, parts) = match self {
            Self::Half => (2, 2),
            Self::Float => (4, 1),
        };
        (bytes * area * (parts * STRIPES + GATES) + products * 4 * (area * GATES + self.rows())) as u64
    }

    /// Whether the operands hold weights of this type exactly.
    fn holds(self, kind: WeightType) -> bool {
        self == Self::Float || matches!(kind, WeightType::F16 | WeightType::Int8)
    }

    /// Invocations of a workgroup: one subgroup per gate.
    pub(crate) fn invocations(limits: &Limits, gates: usize) -> usize {
        limits.subgroup_most * gates
    }

    /// The kind that suits a projection of `rows` rows, or the reason why none does.
    pub(super) fn of_projection(limits: &Limits, problem: &Problem, rows: usize) -> Fit<Self> {
        let found = Self::of(limits, problem, 1)?;
        // Most of a tile of fewer rows would be padding.
        if 2 * rows < found.rows() { Err("few rows") } else { Ok(found) }
    }

    /// The kind that suits a step of `products` products per unit, or the reason why none does. If the batch has fewer rows than a
    /// workgroup, smaller tiles suit it better: a step waits for the one before, and tiles of many rows make few workgroups.
    pub(super) fn of_step(limits: &Limits, problem: &Problem, products: usize) -> Fit<Self> {
        let found = Self::of(limits, problem, products)?;
        if problem.batch < found.rows() { Err("few rows") } else { Ok(found) }
    }

    fn of(limits: &Limits, problem: &Problem, products: usize) -> Fit<Self> {
        if limits.matrices.is_empty() {
            return Err("no cooperative matrices");
        }
        if limits.class == AdapterClass::Software {
            return Err("a software adapter");
        }
        let invocations = Self::invocations(limits, problem.gates());
        if invocations == 0 || invocations > limits.workgroup_invocations.min(256) {
            return Err("no workgroup with one subgroup per gate");
        }
        let Some(found) =
            Self::ALL.into_iter().find(|kind| limits.matrices.contains(kind) && kind.holds(problem.weight_type))
        else {
            return Err("weights that the adapter's matrices do not hold exactly");
        };
        if found.workgroup_bytes(products) > limits.workgroup_bytes {
            return Err("matrices beyond the workgroup memory");
        }
        Ok(found)
    }
}

impl fmt::Display for Matrices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = if *self == Self::Half { "f16" } else { "f32" };
        write!(f, "{} rows x {} units by matrices of {element}", self.rows(), self.size())
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

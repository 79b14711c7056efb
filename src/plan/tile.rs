//! How the invocations of a dispatch share a product of rows and packed weights.

use super::limits::{AdapterClass, Limits};
use super::matrices::Matrices;
use super::problem::Problem;
use super::schedule::PlanKind;
use crate::cell::WeightType;

/// How invocations read the rows of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Every invocation reads all rows of its tile.
    Rows,
    /// Eight lanes of a subgroup read each row once and pass it to each other.
    Lanes,
}

/// The part of a product that one workgroup computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// How invocations read the rows.
    pub method: Method,
    /// Rows of an invocation: 1, 2, 4, 8 or 16. It reads each weight once for all of them.
    pub rows: usize,
    /// Units of a workgroup.
    pub units: usize,
    /// Slices of the depth; an invocation computes one slice of one unit.
    pub slices: usize,
}

/// How a product of rows and packed weights is divided among workgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProductTiles {
    /// The part of the product that one workgroup computes.
    pub tile: Tile,
    /// The adapter's cooperative matrices, if they compute the product in place of the tile.
    pub matrices: Option<Matrices>,
}

/// Workgroups that keep every core of a large GPU busy.
pub(crate) const BUSY: usize = 128;
/// Workgroups that keep the threads of a software adapter evenly busy.
const BUSY_THREADS: usize = 16;
/// Largest number of rows of a tile.
pub(crate) const MAX_ROWS: usize = 16;
/// Largest number of slices of a tile's depth.
pub(super) const MOST_SLICES: usize = 32;
/// Invocations that keep a large GPU busy: several subgroups of 32 for each of its schedulers.
const FULL: usize = 1 << 15;
/// Units of the smallest workgroup: a block of packed weights.
pub(crate) const BLOCK: usize = 8;

impl ProductTiles {
    /// Chooses the tiles of the input projection of `rows` rows.
    pub(super) fn of_projection(limits: &Limits, problem: &Problem, rows: usize) -> Self {
        Self {
            tile: Tile::of_projection(limits, rows, problem.hidden, problem.cells.len()),
            matrices: Matrices::of_projection(limits, problem, rows).ok(),
        }
    }

    /// Chooses the tiles of a time step, in a schedule of steps or in a wave.
    pub(super) fn of_step(limits: &Limits, problem: &Problem, kind: PlanKind) -> Self {
        let z = if kind == PlanKind::Wave { problem.layers } else { problem.cells.len() };
        Self {
            tile: Tile::of_step(limits, problem.batch, problem.hidden, z, problem.out()),
            matrices: Matrices::of_step(limits, problem, kind.products()).ok(),
        }
    }

    /// Rows of a workgroup.
    pub(super) fn rows(&self) -> usize {
        self.matrices.map_or(self.tile.rows, Matrices::rows)
    }

    /// Units of a workgroup.
    pub(super) fn units(&self) -> usize {
        self.matrices.map_or(self.tile.units, Matrices::size)
    }

    /// Workgroup memory in bytes, if a unit has the sums of `products` products.
    pub(super) fn workgroup_bytes(&self, products: usize) -> u64 {
        self.matrices.map_or(self.tile.workgroup_bytes(), |matrices| matrices.workgroup_bytes(products))
    }
}

impl Tile {
    /// Chooses a tile of `y [rows, units]`, if all rows are known beforehand.
    pub(super) fn of_projection(limits: &Limits, rows: usize, units: usize, z: usize) -> Self {
        Self::whole_depth(limits, rows, units, z)
    }

    /// Chooses a tile of `y [batch, units]` in a chain of products, each of which waits for the one before.
    pub(super) fn of_step(limits: &Limits, batch: usize, units: usize, z: usize, depth: usize) -> Self {
        if limits.class == AdapterClass::Software {
            return Self::whole_depth(limits, batch, units, z);
        }
        // Few rows leave most of a GPU idle unless many invocations share a unit's depth. Many rows fill it; then each invocation
        // completes its own sums in registers.
        let invocations = limits.workgroup_invocations.min(256);
        let mut tile = Self { method: Method::Rows, rows: fitting_rows(batch).min(8), units: 32, slices: 1 };
        while tile.units > BLOCK && tile.workgroups(batch, units, z) < BUSY {
            tile.units /= 2;
        }
        let parts = depth.div_ceil(16).next_power_of_two();
        // Fewer slices than rows would take rows from the tile, which then reads its weights more often.
        let idle = FULL / (tile.workgroups(batch, units, z) * tile.units).max(1);
        let idle = if idle < tile.rows { 1 } else { idle.next_power_of_two() };
        let slices = (invocations / tile.units).min(parts).min(MOST_SLICES).min(idle).max(1);
        // Every slice completes the sum of one row, so there must be as many slices as rows.
        let fits = |rows| rows <= slices && bytes(rows, slices, tile.units) <= limits.workgroup_bytes;
        while slices > 1 && tile.rows > 1 && !fits(tile.rows) {
            tile.rows /= 2;
        }
        tile.slices = slices;
        tile
    }

    /// A tile whose invocations compute a unit's whole depth.
    fn whole_depth(limits: &Limits, rows: usize, units: usize, z: usize) -> Self {
        let lanes = limits.shares_lanes();
        let (method, most, busy) = match limits.class {
            AdapterClass::Software if lanes => (Method::Lanes, MAX_ROWS, BUSY_THREADS),
            AdapterClass::Software => (Method::Rows, 8, BUSY_THREADS),
            AdapterClass::Hardware => (Method::Rows, 8, BUSY),
        };
        let least = if lanes { limits.subgroup_most.max(BLOCK) } else { BLOCK };
        let widest = limits.workgroup_invocations.min(64).max(least);
        let mut tile = Self { method, rows: fitting_rows(rows).min(most), units: widest, slices: 1 };
        while tile.units > least && tile.workgroups(rows, units, z) < busy {
            tile.units /= 2;
        }
        tile
    }

    /// Number of workgroups that compute `z` products of `rows` rows and `units` units.
    pub(super) fn workgroups(&self, rows: usize, units: usize, z: usize) -> usize {
        units.div_ceil(self.units) * rows.div_ceil(self.rows) * z
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        if self.slices > 1 { bytes(self.rows, self.slices, self.units) } else { 16 }
    }
}

/// Bytes of the partial sums of all gates, for every row, slice and unit.
fn bytes(rows: usize, slices: usize, units: usize) -> u64 {
    (rows * slices * units * 16) as u64
}

/// Number of rows of the smallest tile that holds all rows, or of the largest tile.
pub(super) fn fitting_rows(rows: usize) -> usize {
    rows.clamp(1, MAX_ROWS).next_power_of_two()
}

/// Elements of the depth that one group of packed weights covers.
pub(crate) fn step_depth(gates: usize) -> usize {
    if gates == 1 { 16 } else { 4 }
}

/// Words of 16 bytes that one group of packed weights takes per unit.
pub(crate) fn step_words(kind: WeightType, gates: usize) -> usize {
    match kind {
        WeightType::F32 if gates == 1 => 4,
        WeightType::F32 => gates,
        WeightType::F16 | WeightType::Bf16 => 2,
        WeightType::Int8 => 1,
    }
}

/// Words of 16 bytes of a matrix of packed weights, `gates * units` by `depth`; `usize::MAX` if the number overflows.
pub(crate) fn packed_words(kind: WeightType, gates: usize, units: usize, depth: usize) -> usize {
    let [units, depth] =
        [(units, BLOCK), (depth, 16)].map(|(size, whole)| (size as u128).next_multiple_of(whole as u128));
    let words = units.saturating_mul(depth / step_depth(gates) as u128).saturating_mul(step_words(kind, gates) as u128);
    usize::try_from(words).unwrap_or(usize::MAX)
}

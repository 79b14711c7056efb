//! How the invocations of a dispatch share a product of rows and packed weights.

use super::MAX_ROWS;
use super::limits::{AdapterClass, Limits};
use crate::cell::WeightType;

/// Who reads the rows of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Every invocation by itself.
    Rows,
    /// Eight lanes of a subgroup, which pass them round.
    Lanes,
}

/// The part of a product that one workgroup computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Who reads the rows.
    pub method: Method,
    /// Rows of an invocation, which read a weight once: 1, 2, 4, 8 or 16.
    pub rows: usize,
    /// Units of a workgroup.
    pub units: usize,
    /// Parts that the depth is cut into; an invocation has a unit's part.
    pub slices: usize,
}

/// Workgroups that keep every core of a large GPU busy.
const BUSY: usize = 128;
/// Workgroups that keep the threads of a software adapter evenly busy.
const BUSY_THREADS: usize = 16;
/// Parts of a tile's depth at the most.
pub(super) const MOST_SLICES: usize = 32;
/// Invocations that keep a large GPU busy: a subgroup of 32 for every one of its schedulers, several times.
const FULL: usize = 1 << 15;
/// Units of the smallest workgroup: a block of packed weights.
pub(crate) const BLOCK: usize = 8;

impl Tile {
    /// `y [rows, units]`, all rows at hand.
    pub(super) fn of_projection(limits: &Limits, rows: usize, units: usize, z: usize) -> Self {
        Self::whole_depth(limits, rows, units, z)
    }

    /// `y [batch, units]` in the middle of a chain of such products.
    pub(super) fn of_step(limits: &Limits, batch: usize, units: usize, z: usize, depth: usize) -> Self {
        if limits.class == AdapterClass::Software {
            return Self::whole_depth(limits, batch, units, z);
        }
        // Few rows leave most of a GPU idle unless many invocations share a unit's depth. Many rows fill it, and then every
        // invocation ends its own sums, in registers.
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
        // Every slice ends with the sum of one row, so there must be as many of them.
        let fits = |rows| rows <= slices && bytes(rows, slices, tile.units) <= limits.workgroup_bytes;
        while slices > 1 && tile.rows > 1 && !fits(tile.rows) {
            tile.rows /= 2;
        }
        tile.slices = slices;
        tile
    }

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

    pub(super) fn workgroups(&self, rows: usize, units: usize, z: usize) -> usize {
        units.div_ceil(self.units) * rows.div_ceil(self.rows) * z
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        if self.slices > 1 { bytes(self.rows, self.slices, self.units) } else { 16 }
    }
}

/// A partial sum of all gates for every row, slice and unit.
fn bytes(rows: usize, slices: usize, units: usize) -> u64 {
    (rows * slices * units * 16) as u64
}

pub(super) fn fitting_rows(rows: usize) -> usize {
    rows.clamp(1, MAX_ROWS).next_power_of_two()
}

/// Elements of the depth that one step of packed weights covers.
pub(crate) fn step_depth(gates: usize) -> usize {
    if gates == 1 { 16 } else { 4 }
}

/// Words of 16 bytes of a unit in one step of packed weights.
pub(crate) fn step_words(kind: WeightType, gates: usize) -> usize {
    match kind {
        WeightType::F32 if gates == 1 => 4,
        WeightType::F32 => gates,
        WeightType::F16 | WeightType::Bf16 => 2,
        WeightType::Int8 => 1,
    }
}

/// Words of 16 bytes of a matrix of packed weights, `gates * units` by `depth`; the largest number where they cannot be counted.
pub(crate) fn packed_words(kind: WeightType, gates: usize, units: usize, depth: usize) -> usize {
    let [units, depth] =
        [(units, BLOCK), (depth, 16)].map(|(size, whole)| (size as u128).next_multiple_of(whole as u128));
    let words = units.saturating_mul(depth / step_depth(gates) as u128).saturating_mul(step_words(kind, gates) as u128);
    usize::try_from(words).unwrap_or(usize::MAX)
}

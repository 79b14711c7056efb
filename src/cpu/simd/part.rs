//! Registers whose lanes may reach beyond the end of a slice.

use super::{MOST_LANES, Simd};

/// Loads at most a register's lanes from a slice; the other lanes are zero.
#[inline(always)]
pub(in crate::cpu) fn load_part<S: Simd>(v: S, from: &[f32]) -> S::F {
    if from.len() >= S::LANES {
        // SAFETY: the slice has at least `LANES` numbers.
        return unsafe { v.load(from.as_ptr()) };
    }
    let mut lanes = [0.0; MOST_LANES];
    lanes[..from.len()].copy_from_slice(from);
    // SAFETY: no register has more than `MOST_LANES` lanes.
    unsafe { v.load(lanes.as_ptr()) }
}

/// Stores the first lanes of a register in a slice of at most as many numbers.
#[inline(always)]
pub(in crate::cpu) fn store_part<S: Simd>(v: S, to: &mut [f32], x: S::F) {
    if to.len() >= S::LANES {
        // SAFETY: the slice has at least `LANES` numbers.
        return unsafe { v.store(to.as_mut_ptr(), x) };
    }
    let mut lanes = [0.0; MOST_LANES];
    // SAFETY: no register has more than `MOST_LANES` lanes.
    unsafe { v.store(lanes.as_mut_ptr(), x) };
    to.copy_from_slice(&lanes[..to.len()]);
}

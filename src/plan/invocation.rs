//! Limits of a single invocation: loop iterations, and registers that hold weights.

use super::tile::{step_depth, step_words};
use crate::cell::WeightType;

/// Largest number of parts, 16 elements of the depth each, whose weights a kernel can keep in registers.
pub(super) const MOST_KEPT: usize = 8;
/// Registers that weights may fill, in words of 16 bytes.
const KEPT_WORDS: usize = 32;

/// Loop iterations that a driver with a cap counts for a loop of `n` iterations.
pub(super) const fn loops(n: usize) -> u64 {
    n as u64 + 2
}

/// Registers that `parts` parts of a unit's weights take, in words of 16 bytes.
pub(super) fn kept_words(parts: usize, kind: WeightType, gates: usize) -> usize {
    parts * step_words(kind, gates) * (16 / step_depth(gates))
}

/// Whether an invocation can keep `parts` parts that take `words` words of 16 bytes.
pub(super) const fn can_keep(parts: usize, words: usize) -> bool {
    parts <= MOST_KEPT && words <= KEPT_WORDS
}

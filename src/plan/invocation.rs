//! What a single invocation has: turns of its loops, and registers for weights.

use super::tile::{step_depth, step_words};
use crate::cell::WeightType;

/// Parts of 16 elements of the depth whose weights the kernels can keep.
pub(super) const MOST_KEPT: usize = 8;
/// Registers that weights may fill, in words of 16 bytes.
const KEPT_WORDS: usize = 32;

/// What a driver that caps an invocation's loops counts for a loop of `n` iterations.
pub(super) const fn loops(n: usize) -> u64 {
    n as u64 + 2
}

/// Registers that the weights of so many parts of a unit take, in words of 16 bytes.
pub(super) fn kept_words(parts: usize, kind: WeightType, gates: usize) -> usize {
    parts * step_words(kind, gates) * (16 / step_depth(gates))
}

/// Whether an invocation can keep so many parts, which take so many words.
pub(super) const fn can_keep(parts: usize, words: usize) -> bool {
    parts <= MOST_KEPT && words <= KEPT_WORDS
}

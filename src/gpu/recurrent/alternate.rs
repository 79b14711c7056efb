//! Dispatches of a step whose two buffers change places.

use crate::error::Result;
use crate::gpu::recorder::{BoundId, Recorder};
use crate::gpu::uniform::Uniform;
use crate::plan::Grid;

/// One dispatch of a step, bound to its buffers both ways.
pub(super) struct Alternating<D> {
    /// For even and for odd numbers of steps done.
    bound: [BoundId; 2],
    dims: D,
    grid: Grid,
}

/// Which dispatch of a step it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The only one: what it writes is what the next step's reads.
    Only,
    /// The first of two, which reads one buffer and writes the other at every step.
    First,
    /// The second of two, which does so the other way round.
    Second,
}

impl<D: Uniform + Copy> Alternating<D> {
    pub(super) fn new(turn: Turn, [there, back]: [BoundId; 2], dims: D, grid: Grid) -> Self {
        let bound = match turn {
            Turn::Only => [there, back],
            Turn::First => [there; 2],
            Turn::Second => [back; 2],
        };
        Self { bound, dims, grid }
    }

    /// Records it, `done` steps after the buffers were filled, with what `of_step` puts into the uniform.
    pub(super) fn record(&self, recorder: &mut Recorder, done: usize, of_step: impl FnOnce(&mut D)) -> Result<()> {
        let mut dims = self.dims;
        of_step(&mut dims);
        recorder.dispatch(self.bound[done % 2], &dims, &self.grid)
    }
}

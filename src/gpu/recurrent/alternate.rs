//! Dispatches of a step that are bound to two buffers in both orders.

use crate::error::Result;
use crate::gpu::kept::uniform::Uniform;
use crate::gpu::submit::list::BoundId;
use crate::gpu::submit::recorder::Recorder;
use crate::plan::Grid;

/// One dispatch of a step, bound to its two buffers in both orders.
pub(super) struct Alternating<D> {
    /// The bindings for even and for odd numbers of steps done.
    bound: [BoundId; 2],
    dims: D,
    grid: Grid,
}

/// The buffers that a dispatch of a step reads and writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StageBuffers {
    /// The only dispatch of a step: at every step the two buffers change places.
    Alternate,
    /// The first of two dispatches: at every step it reads the first buffer and writes the second.
    FirstToSecond,
    /// The second of two dispatches: at every step it reads the second buffer and writes the first.
    SecondToFirst,
}

impl<D: Uniform + Copy> Alternating<D> {
    pub(super) fn new(
        buffers: StageBuffers,
        [first_to_second, second_to_first]: [BoundId; 2],
        dims: D,
        grid: Grid,
    ) -> Self {
        let bound = match buffers {
            StageBuffers::Alternate => [first_to_second, second_to_first],
            StageBuffers::FirstToSecond => [first_to_second; 2],
            StageBuffers::SecondToFirst => [second_to_first; 2],
        };
        Self { bound, dims, grid }
    }

    /// Records the dispatch, `done` steps after the buffers were filled. `of_step` sets the step's own fields of the uniform.
    pub(super) fn record(&self, recorder: &mut Recorder, done: usize, of_step: impl FnOnce(&mut D)) -> Result<()> {
        let mut dims = self.dims;
        of_step(&mut dims);
        recorder.dispatch(self.bound[done % 2], &dims, &self.grid)
    }
}

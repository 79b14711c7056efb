//! The uniform of the kernels of all schedules, and the `override`s that they share.

use std::ops::Range;

use super::RecurrentCall;
use super::pack::VECTOR_ROWS;
use super::special::{CellScalars, NoiseDims, Specialization};
use crate::cell::Pad;
use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::uniform::uniform;
use crate::gpu::ops::word;
use crate::gpu::submit::GpuDevice;
use crate::plan::Chunk;

uniform! {
    /// Mirrors the struct in `shaders/cell/memory.wgsl`, which describes the fields.
    pub(super) struct RecurrentDims {
        pub(super) scalars: CellScalars,
        pub(super) noise: NoiseDims,
        pub(super) time: u32,
        pub(super) batch: u32,
        pub(super) hidden: u32,
        pub(super) out: u32,
        pub(super) directions: u32,
        pub(super) direction: u32,
        pub(super) first_step: u32,
        pub(super) steps: u32,
        pub(super) step: u32,
        pub(super) weights: u32,
        pub(super) weights_stride: u32,
        pub(super) input_weights: u32,
        pub(super) input_stride: u32,
        pub(super) projection: u32,
        pub(super) projection_stride: u32,
        pub(super) vectors: u32,
        pub(super) h: u32,
        pub(super) h_after: u32,
        pub(super) h_initial: u32,
        pub(super) s: u32,
        pub(super) s_after: u32,
        pub(super) s_initial: u32,
        pub(super) scratch: u32,
        pub(super) update: u32,
        pub(super) history_h: u32,
        pub(super) history_s: u32,
        pub(super) history_initial: u32,
        pub(super) exchange: u32,
        pub(super) polls: u32,
    }
}

impl RecurrentCall<'_> {
    /// The fields that every schedule sets, for a group of directions of a layer; all other fields are 0. `op` names the kernel in
    /// errors.
    pub(super) fn dims(
        &self,
        device: &GpuDevice,
        op: &'static str,
        (layer, group, chunk): (usize, &Range<usize>, Chunk),
    ) -> Result<RecurrentDims> {
        let problem = self.plan.problem();
        let (hidden, directions) = (problem.hidden, problem.cells.len());
        let n = |size: usize| word(device, op, size);
        n(self.input.time * self.input.batch * directions * self.out)?;
        Ok(RecurrentDims {
            scalars: Specialization::of(&problem.cells[group.start]).scalars,
            time: n(self.input.time)?,
            batch: n(self.input.batch)?,
            hidden: n(hidden)?,
            out: n(self.out)?,
            directions: n(directions)?,
            direction: n(group.start)?,
            first_step: n(chunk.first)?,
            steps: n(chunk.steps)?,
            vectors: n((layer * directions + group.start) * VECTOR_ROWS * hidden)?,
            ..bytemuck::Zeroable::zeroed()
        })
    }

    /// The `override`s that say how a call reads its sequence.
    pub(super) fn sequence_constants(&self) -> [(&'static str, u32); 3] {
        [
            ("FLAGS", u32::from(self.input.flags.is_some())),
            ("HOLD", u32::from(self.input.pad == Pad::Hold)),
            ("REVERSE", self.stack.reverse),
        ]
    }

    /// The buffer that is bound as flags. Without flags it is any buffer: a binding must hold something, and `FLAGS` says that it is
    /// not read.
    pub(super) fn flags(&self) -> &Buffer {
        self.input.flags.as_ref().unwrap_or(&self.stack.packed.vectors)
    }
}

//! The input projection of a layer: one product for a chunk of steps, all directions.

use super::Call;
use super::pack::VECTOR_ROWS;
use super::product::Product;
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::context::GpuDevice;
use crate::gpu::ops::{cut, word};
use crate::gpu::recorder::Recorder;
use crate::gpu::uniform::uniform;
use crate::plan::Chunk;

uniform! {
    /// Mirrors the struct in `shaders/cell/project_input.wgsl`.
    struct ProjectDims {
        rows: u32,
        depth: u32,
        hidden: u32,
        weights: u32,
        weights_stride: u32,
        vectors: u32,
        first_forward: u32,
        first_reverse: u32,
    }
}

/// Room for the input's side of all gates of a chunk of steps. A call needs it once: by the time that the next chunk or layer is
/// projected, the one before has been read.
pub(super) fn room(device: &GpuDevice, call: &Call<'_>) -> Result<Buffer> {
    let problem = call.plan.problem();
    let longest = call.plan.chunks.first().map_or(0, |chunk| chunk.steps);
    let of_step = call.run.batch * problem.hidden * problem.projected_gates();
    Buffer::new(device, "gates_x", problem.cells.len() * longest * of_step)
}

/// The input's side of all gates for a chunk of steps of a layer, `[directions, steps, batch, hidden, 1 or 4 gates]`.
pub(super) fn input(
    recorder: &mut Recorder,
    call: &Call<'_>,
    layer: usize,
    x: &Buffer,
    chunk: Chunk,
    to: &Buffer,
) -> Result<()> {
    let Call { stack, run, plan, .. } = *call;
    let problem = plan.problem();
    let device = recorder.device().clone();
    let (rows, depth, directions) = (chunk.steps * run.batch, problem.layer_input(layer), problem.cells.len());
    let product = Product::of_projection(device.plan_limits(), plan, depth);
    let Product { kernel, mut constants } = product;
    let n = |size: usize| word(&device, kernel.name, size);
    n((run.time * run.batch) * depth)?;
    n(directions * rows * problem.hidden * problem.projected_gates())?;
    let part = &stack.packed.layers[layer].input;
    let dims = ProjectDims {
        rows: n(rows)?,
        depth: n(depth)?,
        hidden: n(problem.hidden)?,
        weights: n(part.at)?,
        weights_stride: n(part.stride)?,
        vectors: n(layer * directions * VECTOR_ROWS * problem.hidden)?,
        first_forward: n(chunk.first * run.batch)?,
        first_reverse: n((run.time - chunk.first - chunk.steps) * run.batch)?,
    };
    constants.push(("REVERSE", stack.reverse));
    let buffers = [x, &part.buffer, &stack.packed.vectors, to].map(Buffer::clone);
    let bound = recorder.bind(kernel, &constants, buffers)?;
    recorder.dispatch(bound, &dims, &cut(&device, kernel.name, plan.project_grid(layer, chunk))?)
}

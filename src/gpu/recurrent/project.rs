//! The input projection of a layer: one product per chunk of steps, for all directions.

use super::RecurrentCall;
use super::pack::VECTOR_ROWS;
use super::product::Product;
use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::uniform::uniform;
use crate::gpu::ops::{cut, word};
use crate::gpu::submit::GpuDevice;
use crate::gpu::submit::recorder::Recorder;
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

/// Allocates the projected input of all gates of a chunk. A call needs one such buffer: the steps of a chunk have read it before the next
/// chunk or layer is projected.
pub(super) fn room(device: &GpuDevice, call: &RecurrentCall<'_>) -> Result<Buffer> {
    let problem = call.plan.problem();
    let longest = call.plan.chunks.first().map_or(0, |chunk| chunk.steps);
    let of_step = call.input.batch * problem.hidden * problem.projected_gates();
    Buffer::new(device, "gates_x", problem.cells.len() * longest * of_step)
}

/// Projects the input of a chunk of a layer for all gates, to `[directions, steps, batch, hidden, 1 or 4 gates]`.
pub(super) fn input(
    recorder: &mut Recorder,
    call: &RecurrentCall<'_>,
    layer: usize,
    x: &Buffer,
    chunk: Chunk,
    to: &Buffer,
) -> Result<()> {
    let RecurrentCall { stack, input, plan, .. } = *call;
    let problem = plan.problem();
    let device = recorder.device().clone();
    let (rows, depth, directions) = (chunk.steps * input.batch, problem.layer_input(layer), problem.cells.len());
    let product = Product::of_projection(device.plan_limits(), plan, depth);
    let Product { kernel, mut constants } = product;
    let n = |size: usize| word(&device, kernel.name, size);
    n((input.time * input.batch) * depth)?;
    n(directions * rows * problem.hidden * problem.projected_gates())?;
    let part = &stack.packed.layers[layer].input;
    let dims = ProjectDims {
        rows: n(rows)?,
        depth: n(depth)?,
        hidden: n(problem.hidden)?,
        weights: n(part.at)?,
        weights_stride: n(part.stride)?,
        vectors: n(layer * directions * VECTOR_ROWS * problem.hidden)?,
        first_forward: n(chunk.first * input.batch)?,
        first_reverse: n((input.time - chunk.first - chunk.steps) * input.batch)?,
    };
    constants.push(("REVERSE", stack.reverse));
    let buffers = [x, &part.buffer, &stack.packed.vectors, to].map(Buffer::clone);
    let bound = recorder.bind(kernel, &constants, buffers)?;
    recorder.dispatch(bound, &dims, &cut(&device, kernel.name, plan.project_grid(layer, chunk))?)
}

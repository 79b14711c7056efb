//! The input projection of a layer: one product for a chunk of steps, all directions.

use super::Call;
use super::pack::VECTOR_ROWS;
use crate::cell::WeightType;
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::context::GpuDevice;
use crate::gpu::kernel::{Constants, Kernel, PROJECT_LANES, PROJECT_MATRIX_FLOAT, PROJECT_MATRIX_HALF, PROJECT_ROWS};
use crate::gpu::ops::word;
use crate::gpu::recorder::Recorder;
use crate::gpu::uniform::uniform;
use crate::plan::{Chunk, Matrices, Method, Tile};

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

/// The `override`s of a tile's product: `shaders/common/tile.wgsl`.
pub(super) fn tile_constants(tile: &Tile, kind: WeightType, gates: usize, depth: usize) -> Constants {
    let mut constants = product_constants(kind, gates, depth, if gates == 1 { 16 } else { 8 });
    constants.extend([("ROWS", small(tile.rows)), ("UNITS", small(tile.units))]);
    constants
}

/// The same where a step's product may be cut along its depth: `shaders/common/tile_slices.wgsl`.
pub(super) fn sliced_constants(tile: &Tile, kind: WeightType, gates: usize, depth: usize) -> Constants {
    let mut constants = tile_constants(tile, kind, gates, depth);
    if tile.method == Method::Rows {
        let partial = if tile.slices > 1 { tile.rows * tile.slices * tile.units } else { 1 };
        constants.extend([("SLICES", small(tile.slices)), ("PARTIAL", small(partial))]);
    }
    constants
}

/// Those of any product whose loop covers `turn` elements of the depth at a time.
fn product_constants(kind: WeightType, gates: usize, depth: usize, turn: usize) -> Constants {
    vec![
        ("GATES", small(gates)),
        ("USED", (1 << gates) - 1),
        ("WEIGHT_TYPE", kind as u32),
        ("STRADDLE", u32::from(!depth.is_multiple_of(4))),
        ("TAIL", u32::from(!depth.is_multiple_of(turn))),
    ]
}

fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// A kernel of the projection for one call.
struct Shape {
    kernel: &'static Kernel,
    constants: Constants,
    /// Rows and units of a workgroup.
    rows: usize,
    units: usize,
}

impl Shape {
    fn of(device: &GpuDevice, call: &Call<'_>, depth: usize) -> Self {
        let (plan, problem) = (call.plan, call.plan.problem());
        let (kind, gates) = (problem.weight_type, problem.gates());
        let Some(matrices) = plan.matrices else {
            let Tile { method, rows, units, .. } = plan.project;
            let kernel = match method {
                Method::Rows => &PROJECT_ROWS,
                Method::Lanes => &PROJECT_LANES,
            };
            return Self { kernel, constants: tile_constants(&plan.project, kind, gates, depth), rows, units };
        };
        let kernel = match matrices {
            Matrices::Half => &PROJECT_MATRIX_HALF,
            Matrices::Float => &PROJECT_MATRIX_FLOAT,
        };
        let mut constants = product_constants(kind, gates, depth, matrices.side());
        constants.push(("WORKGROUP_SIZE", small(Matrices::invocations(device.plan_limits(), problem))));
        Self { kernel, constants, rows: matrices.rows(), units: matrices.side() }
    }
}

/// The input's side of all gates for a chunk of steps of a layer, `[directions, steps, batch, hidden, 1 or 4 gates]`.
pub(super) fn input(
    recorder: &mut Recorder,
    call: &Call<'_>,
    layer: usize,
    x: &Buffer,
    chunk: Chunk,
) -> Result<Buffer> {
    let problem = call.plan.problem();
    let of_step = call.run.batch * problem.hidden * problem.projected_gates();
    let to = Buffer::new(recorder.device(), "gates_x", problem.cells.len() * chunk.steps * of_step)?;
    input_into(recorder, call, layer, x, chunk, &to)?;
    Ok(to)
}

/// [`input`] to memory that is there already.
pub(super) fn input_into(
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
    let Shape { kernel, mut constants, rows: tall, units } = Shape::of(&device, call, depth);
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
    let grid = [n(problem.hidden.div_ceil(units))?, n(rows.div_ceil(tall))?, n(directions)?];
    recorder.dispatch(bound, &dims, grid)
}

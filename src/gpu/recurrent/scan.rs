//! A dispatch a chunk of time: every workgroup walks its rows by itself.

use super::Call;
use super::pack::VECTOR_ROWS;
use super::project;
use super::special::{CellScalars, Specialization};
use super::state::{self, LABEL, RunState};
use crate::cell::Pad;
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::kernel::{Constants, Kernel, SCAN_LANES, SCAN_ROWS};
use crate::gpu::ops::{cut, word};
use crate::gpu::recorder::Recorder;
use crate::gpu::uniform::uniform;
use crate::plan::{Chunk, Method, Scan};

uniform! {
    /// Mirrors `ScanDims` in `shaders/cell/scan_memory.wgsl`.
    struct ScanDims {
        scalars: CellScalars,
        time: u32,
        batch: u32,
        hidden: u32,
        out: u32,
        directions: u32,
        direction: u32,
        first_step: u32,
        steps: u32,
        weights: u32,
        weights_stride: u32,
        input_weights: u32,
        input_stride: u32,
        projection: u32,
        projection_stride: u32,
        vectors: u32,
        h: u32,
        h_initial: u32,
        s: u32,
        s_initial: u32,
    }
}

/// The state's buffers, with what a reset returns it to behind it where there are resets.
struct Memory {
    h: Buffer,
    s: Buffer,
    h_len: usize,
    s_len: usize,
}

impl Memory {
    /// Works on the state in place, unless a reset needs the state's initial value beside it.
    fn new(recorder: &mut Recorder, call: &Call<'_>, state: &RunState<'_>) -> Result<Self> {
        let device = recorder.device().clone();
        let problem = call.plan.problem();
        let rows = problem.layers * problem.cells.len() * call.run.batch;
        let h_len = rows * call.out;
        let s_len = if state.s.is_some() { rows * problem.hidden } else { 0 };
        let h = state::in_place(recorder, call, state.h, state.initial_h(), h_len)?;
        let s = match state.s {
            Some(s) => state::in_place(recorder, call, s, state.initial_s(), s_len)?,
            None => Buffer::new(&device, LABEL, 1)?,
        };
        Ok(Self { h, s, h_len, s_len })
    }

    /// Copies the state back to where the call found it.
    fn leave(&self, recorder: &mut Recorder, state: &RunState<'_>) {
        state::leave(recorder, &self.h, state.h, self.h_len);
        if let Some(s) = state.s {
            state::leave(recorder, &self.s, s, self.s_len);
        }
    }
}

/// Records a call: a layer at a time, or all of them at once where a workgroup has them all.
pub(super) fn layers(recorder: &mut Recorder, call: &Call<'_>, state: &RunState<'_>, x: Buffer) -> Result<Buffer> {
    let device = recorder.device().clone();
    let Some(scan) = call.plan.scan else { return Buffer::new(&device, "y", 0) };
    let memory = Memory::new(recorder, call, state)?;
    let gates_x = project::room(&device, call)?;
    let mut x = x;
    for layer in (0..call.plan.problem().layers).step_by(scan.layers) {
        let y = call.output(&device)?;
        for &chunk in &call.plan.chunks {
            project::input(recorder, call, layer, &x, chunk, &gates_x)?;
            walk(recorder, call, &scan, &memory, layer, chunk, [&gates_x, &y])?;
        }
        x = call.merged(recorder, y)?;
    }
    memory.leave(recorder, state);
    Ok(x)
}

/// Records the scans of a chunk, from `layer` on: one a group of directions.
fn walk(
    recorder: &mut Recorder,
    call: &Call<'_>,
    scan: &Scan,
    memory: &Memory,
    layer: usize,
    chunk: Chunk,
    [gates_x, y]: [&Buffer; 2],
) -> Result<()> {
    let Call { stack, run, plan, out } = *call;
    let problem = plan.problem();
    let device = recorder.device().clone();
    let (hidden, directions) = (problem.hidden, problem.cells.len());
    let kernel: &'static Kernel = match scan.method {
        Method::Rows => &SCAN_ROWS,
        Method::Lanes => &SCAN_LANES,
    };
    let n = |size: usize| word(&device, kernel.name, size);
    n(run.time * run.batch * directions * out)?;
    n(memory.h_len * 2)?;
    n(memory.s_len * 2)?;
    let packed = &stack.packed.layers[layer];
    let above = stack.packed.layers.get(layer + 1).unwrap_or(packed);
    let stacked = scan.layers > 1;
    let stride = |own: usize, of_layers: usize| n(if stacked { of_layers } else { own });
    // The binding must hold something; `FLAGS` says that it is not read.
    let flags = run.flags.as_ref().unwrap_or(&stack.packed.vectors);
    for group in &plan.groups {
        let special = Specialization::of(&problem.cells[group.start]);
        let first = layer * directions + group.start;
        let rows_of = |width: usize| first * run.batch * width;
        let dims = ScanDims {
            scalars: special.scalars,
            time: n(run.time)?,
            batch: n(run.batch)?,
            hidden: n(hidden)?,
            out: n(out)?,
            directions: n(directions)?,
            direction: n(group.start)?,
            first_step: n(chunk.first)?,
            steps: n(chunk.steps)?,
            weights: n(packed.recurrent.at + group.start * packed.recurrent.stride)?,
            weights_stride: stride(packed.recurrent.stride, stack.packed.stride(0, |layer| &layer.recurrent))?,
            input_weights: n(above.input.at)?,
            input_stride: n(stack.packed.stride(1, |layer| &layer.input))?,
            projection: n(packed.projection.at + group.start * packed.projection.stride)?,
            projection_stride: stride(packed.projection.stride, stack.packed.stride(0, |layer| &layer.projection))?,
            vectors: n(first * VECTOR_ROWS * hidden)?,
            h: n(rows_of(out))?,
            h_initial: n(memory.h_len + rows_of(out))?,
            s: n(rows_of(hidden))?,
            s_initial: n(memory.s_len + rows_of(hidden))?,
        };
        let mut constants = special.constants;
        constants.extend(layout(call, scan, n)?);
        let buffers = [gates_x, &packed.recurrent.buffer, &stack.packed.vectors, flags, &memory.h, &memory.s, y];
        let bound = recorder.bind(kernel, &constants, buffers.map(Buffer::clone))?;
        recorder.dispatch(bound, &dims, &cut(&device, kernel.name, plan.walk_grid(chunk))?)?;
    }
    Ok(())
}

/// The `override`s beside the cell's own.
fn layout(call: &Call<'_>, scan: &Scan, n: impl Fn(usize) -> Result<u32>) -> Result<Constants> {
    let Call { stack, run, plan, .. } = *call;
    let problem = plan.problem();
    let gates = problem.gates();
    let mut constants = vec![
        ("ROWS", n(scan.rows)?),
        ("UNITS", n(scan.units)?),
        ("GATES", n(gates)?),
        ("USED", (1 << gates) - 1),
        ("WEIGHT_TYPE", problem.weight_type as u32),
        ("KEPT", n(scan.kept)?),
        ("LAYERS", n(scan.layers)?),
        ("STAGES", n(problem.stages())?),
        ("RESETS", u32::from(run.resets)),
        ("PITCH", n(scan.pitch)?),
        ("STATE", n(scan.state_elements())?),
        ("OWN", n(scan.own_elements())?),
        ("FLAGS", u32::from(run.flags.is_some())),
        ("HOLD", u32::from(run.pad == Pad::Hold)),
        ("REVERSE", stack.reverse),
    ];
    if scan.method == Method::Rows {
        constants.extend([("SLICES", n(scan.slices)?), ("PARTIAL", n(scan.partial_elements())?)]);
    }
    Ok(constants)
}

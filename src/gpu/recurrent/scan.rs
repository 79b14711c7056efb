//! The scan: one dispatch per chunk of time and group of directions.

use super::dims::RecurrentDims;
use super::special::Specialization;
use super::state::{self, LABEL};
use super::{ProjectedChunk, RecurrentCall};
use crate::error::Result;
use crate::gpu::arguments::StateBuffers;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{Constants, Kernel, SCAN_LANES, SCAN_ROWS};
use crate::gpu::ops::{cut, word};
use crate::gpu::submit::recorder::Recorder;
use crate::plan::{Method, Scan};

/// The buffers of the state. If rows may be reset, the initial values lie behind the current ones.
struct ScanBuffers {
    h: Buffer,
    s: Buffer,
    h_len: usize,
    s_len: usize,
}

impl ScanBuffers {
    /// Works on the state in place, unless a reset needs the initial values behind it.
    fn new(recorder: &mut Recorder, call: &RecurrentCall<'_>, state: &StateBuffers<'_>) -> Result<Self> {
        let device = recorder.device().clone();
        let problem = call.plan.problem();
        let rows = problem.layers * problem.cells.len() * call.input.batch;
        let h_len = rows * call.out;
        let s_len = if state.s.is_some() { rows * problem.hidden } else { 0 };
        let h = state::in_place(recorder, call, state.h, state.initial_h(), h_len)?;
        let s = match state.s {
            Some(s) => state::in_place(recorder, call, s, state.initial_s(), s_len)?,
            None => Buffer::new(&device, LABEL, 1)?,
        };
        Ok(Self { h, s, h_len, s_len })
    }

    /// Copies the state back to the buffers that the call was given, if the scan worked on copies.
    fn leave(&self, recorder: &mut Recorder, state: &StateBuffers<'_>) {
        state::leave(recorder, &self.h, state.h, self.h_len);
        if let Some(s) = state.s {
            state::leave(recorder, &self.s, s, self.s_len);
        }
    }
}

/// Records a call by scans.
pub(super) fn layers(
    recorder: &mut Recorder,
    call: &RecurrentCall<'_>,
    scan: &Scan,
    state: &StateBuffers<'_>,
    x: Buffer,
) -> Result<Buffer> {
    let buffers = ScanBuffers::new(recorder, call, state)?;
    let y = call.each_chunk(recorder, x, |recorder, at| scan_chunk(recorder, call, scan, &buffers, at))?;
    buffers.leave(recorder, state);
    Ok(y)
}

/// Records the scans of a chunk: one per group of directions.
fn scan_chunk(
    recorder: &mut Recorder,
    call: &RecurrentCall<'_>,
    scan: &Scan,
    state: &ScanBuffers,
    at: &ProjectedChunk<'_>,
) -> Result<()> {
    let RecurrentCall { stack, input, plan, out, .. } = *call;
    let problem = plan.problem();
    let device = recorder.device().clone();
    let kernel: &'static Kernel = match scan.method {
        Method::Rows => &SCAN_ROWS,
        Method::Lanes => &SCAN_LANES,
    };
    let n = |size: usize| word(&device, kernel.name, size);
    n(state.h_len * 2)?;
    n(state.s_len * 2)?;
    let packed = &stack.packed.layers[at.layer];
    let above = stack.packed.layers.get(at.layer + 1).unwrap_or(packed);
    let stride = |own: usize, of_layers: usize| n(if scan.layers > 1 { of_layers } else { own });
    for group in &plan.groups {
        let rows = (at.layer * problem.cells.len() + group.start) * input.batch;
        let dims = RecurrentDims {
            weights: n(packed.recurrent.at + group.start * packed.recurrent.stride)?,
            weights_stride: stride(packed.recurrent.stride, stack.packed.stride(0, |layer| &layer.recurrent))?,
            input_weights: n(above.input.at)?,
            input_stride: n(stack.packed.stride(1, |layer| &layer.input))?,
            projection: n(packed.projection.at + group.start * packed.projection.stride)?,
            projection_stride: stride(packed.projection.stride, stack.packed.stride(0, |layer| &layer.projection))?,
            h: n(rows * out)?,
            h_initial: n(state.h_len + rows * out)?,
            s: n(rows * problem.hidden)?,
            s_initial: n(state.s_len + rows * problem.hidden)?,
            ..call.dims(&device, kernel.name, (at.layer, group, at.chunk))?
        };
        let mut constants = Specialization::of(&problem.cells[group.start]).constants;
        constants.extend(layout(call, scan, n)?);
        let (weights, vectors) = (&packed.recurrent.buffer, &stack.packed.vectors);
        let buffers = [at.gates_x, weights, vectors, call.flags(), &state.h, &state.s, at.y];
        let bound = recorder.bind(kernel, &constants, buffers.map(Buffer::clone))?;
        recorder.dispatch(bound, &dims, &cut(&device, kernel.name, plan.scan_grid(scan, at.chunk))?)?;
    }
    Ok(())
}

/// The `override`s of the scan, without those of the cell.
fn layout(call: &RecurrentCall<'_>, scan: &Scan, n: impl Fn(usize) -> Result<u32>) -> Result<Constants> {
    let problem = call.plan.problem();
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
        ("RESETS", u32::from(call.input.resets)),
        ("PITCH", n(scan.pitch)?),
        ("STATE", n(scan.state_elements())?),
        ("OWN", n(scan.own_elements())?),
    ];
    constants.extend(call.sequence_constants());
    if scan.method == Method::Rows {
        constants.extend([("SLICES", n(scan.slices)?), ("PARTIAL", n(scan.partial_elements())?)]);
    }
    Ok(constants)
}

//! The cooperative scan: one dispatch of several workgroups per chunk of time and group of directions. If its workgroups did not run
//! concurrently, a second dispatch computes the chunk again with one workgroup.

use super::dims::RecurrentDims;
use super::special::Specialization;
use super::state::{LABEL, put_initial};
use super::{ProjectedChunk, RecurrentCall};
use crate::error::Result;
use crate::gpu::arguments::StateBuffers;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{Constants, SCAN_COOPERATIVE};
use crate::gpu::ops::{cut, word};
use crate::gpu::submit::recorder::Recorder;
use crate::plan::{CooperativeScan, HEADER};

/// A part of the state in three regions: two that chunks alternate between, and one for the values after a reset.
struct StateRegions {
    buffer: Buffer,
    len: usize,
}

impl StateRegions {
    fn new(
        recorder: &mut Recorder,
        call: &RecurrentCall<'_>,
        now: Option<&Buffer>,
        initial: Option<&Buffer>,
        width: usize,
    ) -> Result<Self> {
        let device = recorder.device().clone();
        let problem = call.plan.problem();
        let Some(now) = now else { return Ok(Self { buffer: Buffer::new(&device, LABEL, 1)?, len: 0 }) };
        let len = problem.layers * problem.cells.len() * call.input.batch * width;
        let buffer = Buffer::new(&device, LABEL, if call.input.resets { 3 } else { 2 } * len)?;
        recorder.copy((now, 0), (&buffer, 0), len);
        if call.input.resets {
            put_initial(recorder, initial, &buffer, 2 * len, len);
        }
        Ok(Self { buffer, len })
    }

    /// The first elements of three regions: the state before chunk `index`, the state after it, and the initial state.
    fn around(&self, index: usize) -> [usize; 3] {
        [index % 2 * self.len, (index + 1) % 2 * self.len, 2 * self.len]
    }
}

/// The buffers that the dispatches of a call share.
struct CooperativeBuffers {
    h: StateRegions,
    s: StateRegions,
    /// The flag that the scan was aborted, then the values of h that workgroups pass to each other.
    exchange: Buffer,
}

/// Records a call by cooperative scans.
pub(super) fn layers(
    recorder: &mut Recorder,
    call: &RecurrentCall<'_>,
    scan: &CooperativeScan,
    state: &StateBuffers<'_>,
    x: Buffer,
) -> Result<Buffer> {
    let device = recorder.device().clone();
    let problem = call.plan.problem();
    let words = scan.exchange_words(problem);
    let buffers = CooperativeBuffers {
        h: StateRegions::new(recorder, call, Some(state.h), state.initial_h(), call.out)?,
        s: StateRegions::new(recorder, call, state.s, state.initial_s(), problem.hidden)?,
        exchange: Buffer::new(&device, "exchange", words)?,
    };
    recorder.clear(&buffers.exchange, 0, words);
    let y = call.each_chunk(recorder, x, |recorder, at| scan_chunk(recorder, call, scan, &buffers, at))?;
    for (part, to) in [(&buffers.h, Some(state.h)), (&buffers.s, state.s)] {
        if let Some(to) = to {
            let [last, ..] = part.around(call.plan.chunks.len());
            recorder.copy((&part.buffer, last), (to, 0), part.len);
        }
    }
    if let Some(name) = call.plan.cooperative_name() {
        recorder.watch(&buffers.exchange, name);
    }
    Ok(y)
}

/// Records a chunk, for each group of directions: the cooperative scan, then the dispatch that may compute it again.
fn scan_chunk(
    recorder: &mut Recorder,
    call: &RecurrentCall<'_>,
    scan: &CooperativeScan,
    state: &CooperativeBuffers,
    at: &ProjectedChunk<'_>,
) -> Result<()> {
    let RecurrentCall { stack, input, plan, .. } = *call;
    let problem = plan.problem();
    let device = recorder.device().clone();
    let n = |size: usize| word(&device, SCAN_COOPERATIVE.name, size);
    n(state.h.len * 3)?;
    n(state.s.len * 3)?;
    n(scan.exchange_words(problem))?;
    let packed = &stack.packed.layers[at.layer];
    let ([h, h_after, h_initial], [s, s_after, s_initial]) = (state.h.around(at.index), state.s.around(at.index));
    for group in &plan.groups {
        let first = at.layer * problem.cells.len() + group.start;
        let rows = first * input.batch * problem.hidden;
        let dims = RecurrentDims {
            weights: n(packed.recurrent.at + group.start * packed.recurrent.stride)?,
            weights_stride: n(packed.recurrent.stride)?,
            h: n(h + rows)?,
            h_after: n(h_after + rows)?,
            h_initial: n(h_initial + rows)?,
            s: n(s + rows)?,
            s_after: n(s_after + rows)?,
            s_initial: n(s_initial + rows)?,
            exchange: n(HEADER + first * 2 * input.batch * scan.pitch)?,
            polls: scan.polls,
            ..call.dims(&device, SCAN_COOPERATIVE.name, (at.layer, group, at.chunk))?
        };
        let special = Specialization::of(&problem.cells[group.start]);
        let (weights, vectors) = (&packed.recurrent.buffer, &stack.packed.vectors);
        let (h, s) = (&state.h.buffer, &state.s.buffer);
        let buffers = [at.gates_x, weights, vectors, call.flags(), h, s, at.y, &state.exchange];
        for redo in [false, true] {
            let mut constants = special.constants.clone();
            constants.extend(layout(call, scan, redo, n)?);
            let bound = recorder.bind(&SCAN_COOPERATIVE, &constants, buffers.map(Buffer::clone))?;
            let grid = if redo { plan.redo_grid(scan, at.chunk) } else { plan.cooperative_grid(scan, at.chunk) };
            recorder.dispatch(bound, &dims, &cut(&device, SCAN_COOPERATIVE.name, grid)?)?;
        }
    }
    Ok(())
}

/// The `override`s of the scan, without those of the cell.
fn layout(
    call: &RecurrentCall<'_>,
    scan: &CooperativeScan,
    redo: bool,
    n: impl Fn(usize) -> Result<u32>,
) -> Result<Constants> {
    let problem = call.plan.problem();
    let gates = problem.gates();
    let [blocks, kept, state] = match redo {
        true => [scan.workgroups, 0, 1],
        false => [1, scan.kept, scan.rows * scan.pitch],
    };
    let mut constants = vec![
        ("REDO", u32::from(redo)),
        ("BLOCKS", n(blocks)?),
        ("ROWS", n(scan.rows)?),
        ("UNITS", n(scan.units)?),
        ("SLICES", n(scan.slices)?),
        ("PARTIAL", n(scan.partial_elements())?),
        ("GATES", n(gates)?),
        ("USED", (1 << gates) - 1),
        ("WEIGHT_TYPE", problem.weight_type as u32),
        ("KEPT", n(kept)?),
        ("PITCH", n(scan.pitch)?),
        ("STATE", n(state)?),
        ("RESETS", u32::from(call.input.resets)),
    ];
    constants.extend(call.sequence_constants());
    Ok(constants)
}

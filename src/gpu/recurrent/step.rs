//! Schedules whose steps are dispatches: one layer after another, or a wave of all layers at once, each one step behind the layer below.

use std::ops::Range;

use super::alternate::{Alternating, StageBuffers};
use super::dims::RecurrentDims;
use super::product::Product;
use super::special::{NoiseDims, Specialization};
use super::state::{self, LABEL};
use super::{ProjectedChunk, RecurrentCall};
use crate::cell::Stage;
use crate::error::Result;
use crate::gpu::arguments::StateBuffers;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{Constants, RECURRENT_STEP};
use crate::gpu::ops::{cut, word};
use crate::gpu::submit::recorder::Recorder;
use crate::plan::{PlanKind, ProductTiles};

/// The buffers that the state moves through, and the offsets of its parts in them.
pub(super) struct StepBuffers {
    /// h of all layers. With one dispatch per step it alternates between the two buffers.
    pub(super) h: [Buffer; 2],
    pub(super) h_initial: usize,
    /// Cell states, or the update gates of a GRU between the two dispatches of a step, or the values for a backward pass.
    pub(super) own: Buffer,
    pub(super) s_initial: usize,
    pub(super) h_len: usize,
    pub(super) s_len: usize,
    pub(super) two_stages: bool,
    /// The layer whose state comes first in the buffers.
    pub(super) first_layer: usize,
    pub(super) saved: Option<SavedForBackward>,
}

/// The offsets in [`StepBuffers::own`] of the values that a pass saves for its gradients, and the noise of the pass.
#[derive(Clone)]
pub(super) struct SavedForBackward {
    pub(super) h: usize,
    pub(super) s: usize,
    pub(super) initial: usize,
    pub(super) update: usize,
    pub(super) noise: NoiseDims,
    pub(super) constants: Constants,
}

impl StepBuffers {
    /// Works on the state in place, unless a reset needs the initial values behind it.
    fn new(recorder: &mut Recorder, call: &RecurrentCall<'_>, state: &StateBuffers<'_>) -> Result<Self> {
        let device = recorder.device().clone();
        let problem = call.plan.problem();
        let rows = problem.cells.len() * call.input.batch;
        let h_len = problem.layers * rows * call.out;
        let s_len = if state.s.is_some() { problem.layers * rows * problem.hidden } else { 0 };
        let two_stages = problem.cells[0].stages().len() > 1;
        let resets = call.input.resets;
        let (h_initial, s_initial) = (h_len, s_len);
        let h0 = state::in_place(recorder, call, state.h, state.initial_h(), h_len)?;
        let other = match (two_stages, resets) {
            (true, _) => rows * problem.hidden,
            (false, true) => 2 * h_len,
            (false, false) => h_len,
        };
        let h1 = Buffer::new(&device, LABEL, other)?;
        if resets && !two_stages {
            state::put_initial(recorder, state.initial_h(), &h1, h_initial, h_len);
        }
        let own = match state.s {
            Some(s) => state::in_place(recorder, call, s, state.initial_s(), s_len)?,
            None if two_stages => Buffer::new(&device, LABEL, rows * problem.hidden)?,
            None => Buffer::new(&device, LABEL, 1)?,
        };
        let h = [h0, h1];
        Ok(Self { h, h_initial, own, s_initial, h_len, s_len, two_stages, first_layer: 0, saved: None })
    }

    /// Copies h of some of the `of` layers from buffer `at` back to the state.
    fn leave(&self, recorder: &mut Recorder, state: &StateBuffers<'_>, at: usize, layers: Range<usize>, of: usize) {
        let len = self.h_len / of;
        if !self.h[at].is_same(state.h) {
            let first = layers.start * len;
            recorder.copy((&self.h[at], first), (state.h, first), layers.len() * len);
        }
    }

    /// Copies the cell states back to the state.
    fn leave_cells(&self, recorder: &mut Recorder, state: &StateBuffers<'_>) {
        if let Some(s) = state.s {
            state::leave(recorder, &self.own, s, self.s_len);
        }
    }
}

/// Records a call layer by layer.
pub(super) fn layers(
    recorder: &mut Recorder,
    call: &RecurrentCall<'_>,
    tiles: &ProductTiles,
    state: &StateBuffers<'_>,
    x: Buffer,
) -> Result<Buffer> {
    let buffers = StepBuffers::new(recorder, call, state)?;
    let y = call.each_chunk(recorder, x, |recorder, at| {
        let steps = Steps::new(recorder, call, tiles, &buffers, at)?;
        (at.chunk.first..at.chunk.first + at.chunk.steps).try_for_each(|step| steps.record(recorder, step, step))
    })?;
    let layers = call.plan.problem().layers;
    let at = if buffers.two_stages { 0 } else { call.input.time % 2 };
    buffers.leave(recorder, state, at, 0..layers, layers);
    buffers.leave_cells(recorder, state);
    Ok(y)
}

/// Records a call diagonal by diagonal: dispatch `d` computes step `d - l` of every layer `l` that has such a step.
pub(super) fn wave(
    recorder: &mut Recorder,
    call: &RecurrentCall<'_>,
    tiles: &ProductTiles,
    state: &StateBuffers<'_>,
    x: Buffer,
) -> Result<Buffer> {
    let buffers = StepBuffers::new(recorder, call, state)?;
    let (layers, time) = (call.plan.problem().layers, call.input.time);
    let len = buffers.h_len / layers;
    for layer in (1..layers).step_by(2) {
        // Dispatch `l` is the first one to read layer `l`. If `l` is odd, it reads the second buffer.
        recorder.copy((&buffers.h[0], layer * len), (&buffers.h[1], layer * len), len);
    }
    let y = call.each_chunk(recorder, x, |recorder, at| {
        let steps = Steps::new(recorder, call, tiles, &buffers, at)?;
        let end = at.chunk.first + at.chunk.steps;
        let drain = if end == time { layers - 1 } else { 0 };
        (at.chunk.first..end + drain).try_for_each(|step| steps.record(recorder, step, step))
    })?;
    for layer in 0..layers {
        buffers.leave(recorder, state, (time + layer) % 2, layer..layer + 1, layers);
    }
    buffers.leave_cells(recorder, state);
    Ok(y)
}

/// The dispatches of a step, bound to their buffers.
pub(super) struct Steps {
    dispatches: Vec<Alternating<RecurrentDims>>,
}

impl Steps {
    pub(super) fn new(
        recorder: &mut Recorder,
        call: &RecurrentCall<'_>,
        tiles: &ProductTiles,
        buffers: &StepBuffers,
        at: &ProjectedChunk<'_>,
    ) -> Result<Self> {
        let mut dispatches = Vec::new();
        for group in &call.plan.groups {
            for &stage in call.plan.problem().cells[group.start].stages() {
                dispatches.push(Self::stage(recorder, call, tiles, buffers, at, (group, stage))?);
            }
        }
        Ok(Self { dispatches })
    }

    /// The dispatch of a stage of a step, for a group of directions or in a wave for all layers.
    fn stage(
        recorder: &mut Recorder,
        call: &RecurrentCall<'_>,
        tiles: &ProductTiles,
        buffers: &StepBuffers,
        at: &ProjectedChunk<'_>,
        (group, stage): (&Range<usize>, Stage),
    ) -> Result<Alternating<RecurrentDims>> {
        let RecurrentCall { stack, plan, out, .. } = *call;
        let problem = plan.problem();
        let device = recorder.device().clone();
        let packed = &stack.packed.layers[at.layer];
        let projects = stage == Stage::Project;
        let gates = if projects { 1 } else { problem.gates() };
        let part = if projects { &packed.projection } else { &packed.recurrent };
        let second = matches!(stage, Stage::Candidate | Stage::Project);
        let depth = if second { problem.hidden } else { out };
        let used = match stage {
            Stage::Reset => 0b011,
            Stage::Candidate => 0b100,
            _ => (1 << gates) - 1,
        };
        let wave = plan.kind() == PlanKind::Wave;
        let product = Product::of_step(device.plan_limits(), plan, tiles, gates, depth);
        let mut constants = Specialization::of(&problem.cells[group.start]).constants;
        constants.extend(product.constants);
        constants.retain(|(name, _)| *name != "USED");
        constants.extend([("USED", used), ("STAGE", stage as u32), ("WAVE", u32::from(wave))]);
        constants.extend(call.sequence_constants());
        constants.extend(buffers.saved.iter().flat_map(|saved| saved.constants.iter().copied()));
        let mut bind = |[current, next]: [&Buffer; 2]| {
            let (weights, vectors) = (&part.buffer, &stack.packed.vectors);
            let bound = [at.gates_x, weights, vectors, call.flags(), current, next, &buffers.own, at.y];
            recorder.bind(product.kernel, &constants, bound.map(Buffer::clone))
        };
        let bound = [bind([&buffers.h[0], &buffers.h[1]])?, bind([&buffers.h[1], &buffers.h[0]])?];
        let alternation = match (buffers.two_stages, second) {
            (false, _) => StageBuffers::Alternate,
            (true, false) => StageBuffers::FirstToSecond,
            (true, true) => StageBuffers::SecondToFirst,
        };
        let mut dims = step_dims(recorder, call, buffers, at, group)?;
        let n = |size: usize| word(&device, RECURRENT_STEP.name, size);
        let below = if wave && problem.layers > 1 { &stack.packed.layers[1].input } else { &packed.input };
        dims.weights = n(part.at + group.start * part.stride)?;
        dims.weights_stride = n(if wave { stack.packed.stride(0, |layer| &layer.recurrent) } else { part.stride })?;
        dims.input_weights = n(below.at)?;
        dims.input_stride = n(if wave { stack.packed.stride(1, |layer| &layer.input) } else { 0 })?;
        let grid = cut(&device, product.kernel.name, plan.step_grid(tiles, stage))?;
        Ok(Alternating::new(alternation, bound, dims, grid))
    }

    /// Records step `step`, `done` steps after the buffers were filled.
    pub(super) fn record(&self, recorder: &mut Recorder, step: usize, done: usize) -> Result<()> {
        let step = word(recorder.device(), RECURRENT_STEP.name, step)?;
        for dispatch in &self.dispatches {
            dispatch.record(recorder, done, |dims| dims.step = step)?;
        }
        Ok(())
    }
}

/// The uniform of a step, with the fields that all of its stages share.
fn step_dims(
    recorder: &Recorder,
    call: &RecurrentCall<'_>,
    buffers: &StepBuffers,
    at: &ProjectedChunk<'_>,
    group: &Range<usize>,
) -> Result<RecurrentDims> {
    let problem = call.plan.problem();
    let (directions, hidden) = (problem.cells.len(), problem.hidden);
    let n = |size: usize| word(recorder.device(), RECURRENT_STEP.name, size);
    n(buffers.h_len * 2 + buffers.s_len * 2)?;
    let rows = (at.layer * directions + group.start - buffers.first_layer * directions) * call.input.batch;
    let own_rows = group.start * call.input.batch;
    let mut dims = RecurrentDims {
        h: n(rows * call.out)?,
        h_initial: n(buffers.h_initial + rows * call.out)?,
        scratch: n(own_rows * hidden)?,
        s: n(rows * hidden)?,
        s_initial: n(buffers.s_initial + rows * hidden)?,
        update: n(own_rows * hidden)?,
        history_initial: n(rows * call.out)?,
        ..call.dims(recorder.device(), RECURRENT_STEP.name, (at.layer, group, at.chunk))?
    };
    if let Some(saved) = &buffers.saved {
        dims.noise = saved.noise;
        dims.update = n(saved.update + own_rows * hidden)?;
        dims.history_h = n(saved.h)?;
        dims.history_s = n(saved.s)?;
        dims.history_initial = n(saved.initial + rows * call.out)?;
    }
    Ok(dims)
}

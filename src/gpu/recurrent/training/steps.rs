//! The steps of the backward pass: dispatches and their uniforms.

use super::backward::{OutputGradient, Workspace};
use super::pack::{BackMatrices, BackWeights};
use super::{ChunkTape, TrainingPass};
use crate::cell::{Pad, Stage, WeightType};
use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{Constants, Kernel, RECURRENT_STEP_GRAD, RECURRENT_STEP_GRAD_LANES};
use crate::gpu::kept::uniform::uniform;
use crate::gpu::ops::{cut, word};
use crate::gpu::recurrent::alternate::{Alternating, StageBuffers};
use crate::gpu::recurrent::product::sliced_constants;
use crate::gpu::recurrent::special::{CellScalars, NoiseDims, Specialization, noise_of};
use crate::gpu::submit::recorder::Recorder;
use crate::plan::{Chunk, Method};

uniform! {
    /// Mirrors `RecurrentGradDims` in `shaders/cell/recurrent_grad.wgsl`.
    struct RecurrentGradDims {
        scalars: CellScalars,
        noise: NoiseDims,
        later: u32,
        time: u32,
        batch: u32,
        hidden: u32,
        out: u32,
        direction: u32,
        first_step: u32,
        steps: u32,
        weights: u32,
        weights_stride: u32,
        peepholes: u32,
        history_h: u32,
        history_s: u32,
        rows: u32,
        second_row: u32,
        peephole_row: u32,
        projected: u32,
        source: u32,
        source_width: u32,
        source_first: u32,
        depth: u32,
        gates: u32,
        scratch: u32,
        through_reset: u32,
        carry_h: u32,
        carry_s: u32,
        held: u32,
        initial_h: u32,
        initial_s: u32,
        dy: u32,
        dy_direction: u32,
        dy_width: u32,
        clip: f32,
    }
}

/// The backward pass of a layer.
pub(super) struct LayerBackward<'a> {
    pub(super) pass: &'a TrainingPass,
    pub(super) layer: usize,
    pub(super) share: &'a OutputGradient,
    pub(super) packed: &'a BackWeights,
    pub(super) workspace: &'a Workspace,
    pub(super) clip: Option<f32>,
}

/// The dispatches of a backward step, bound to their buffers.
pub(super) struct BackwardSteps {
    /// Each dispatch, and whether it begins a step.
    dispatches: Vec<(bool, Alternating<RecurrentGradDims>)>,
}

impl BackwardSteps {
    pub(super) fn new(
        recorder: &mut Recorder,
        back: &LayerBackward<'_>,
        chunk: Chunk,
        tape: &ChunkTape,
    ) -> Result<Self> {
        let LayerBackward { pass, layer, share, packed, workspace, clip } = *back;
        let problem = pass.problem();
        let regions = workspace.regions;
        let device = recorder.device().clone();
        let (tile, columns, rows) = (&pass.plan.back, pass.plan.columns, pass.plan.rows);
        let kernel: &'static Kernel = match tile.method {
            Method::Rows => &RECURRENT_STEP_GRAD,
            Method::Lanes => &RECURRENT_STEP_GRAD_LANES,
        };
        let n = |size: usize| word(&device, kernel.name, size);
        let (hidden, out, gates) = (problem.hidden, problem.out(), problem.gates());
        let two_stages = pass.two_stages();
        let layout = pass.history(chunk.steps);
        let (projected, d_gates_len) = pass.d_gates(chunk.steps);
        let (noise, noise_constants) = noise_of(recorder, &pass.noise, layer * pass.directions());
        n(d_gates_len)?;
        n(layout.len)?;
        n(problem.time * problem.batch * share.width.max(2 * out))?;
        let flags = pass.flags.as_ref().unwrap_or(&tape.history);
        let [a, b] = &workspace.between_steps;

        let mut dispatches = Vec::new();
        for group in &pass.plan.forward.groups {
            let cell = &problem.cells[group.start];
            let special = Specialization::of(cell);
            for &stage in cell.stages().iter().rev() {
                let first = match stage {
                    Stage::Candidate | Stage::Project => true,
                    Stage::Reset => false,
                    Stage::Whole => !two_stages,
                };
                let BackMatrices { at, stride, depth } = match (first, packed.second) {
                    (false, Some(second)) => second,
                    _ => packed.first,
                };
                let units = if first { out } else { hidden };
                let (source, width, from) = match (first, stage) {
                    (false, Stage::Whole) => (regions.between, out, 0),
                    (false, _) => (regions.gates, gates * hidden, 2 * hidden),
                    _ => (regions.gates, gates * hidden, 0),
                };
                let mut constants: Constants = special.constants.clone();
                constants.extend(noise_constants.iter().copied());
                constants.extend(sliced_constants(tile, WeightType::F32, columns, depth));
                constants.retain(|(name, _)| *name != "STRADDLE");
                constants.extend([
                    ("STRADDLE", u32::from(!(width.is_multiple_of(4) && from.is_multiple_of(4)))),
                    ("STAGE", stage as u32),
                    ("TWO_STAGES", u32::from(two_stages)),
                    ("FLAGS", u32::from(pass.flags.is_some())),
                    ("RESETS", u32::from(pass.resets)),
                    ("HOLD", u32::from(pass.pad == Pad::Hold)),
                    ("CLIP", u32::from(clip.is_some())),
                    ("REVERSE", pass.stack.reverse),
                ]);
                let mut bind = |[current, next]: [&Buffer; 2]| {
                    let (dy, d_gates) = (&share.buffer, &workspace.d_gates);
                    let buffers = [&tape.gates, &packed.buffer, flags, &tape.history, dy, current, next, d_gates];
                    recorder.bind(kernel, &constants, buffers.map(Buffer::clone))
                };
                let bound = [bind([a, b])?, bind([b, a])?];
                let alternation = match (two_stages, first) {
                    (false, _) => StageBuffers::Alternate,
                    (true, true) => StageBuffers::Forth,
                    (true, false) => StageBuffers::Back,
                };
                let dims = RecurrentGradDims {
                    scalars: special.scalars,
                    noise,
                    later: 0,
                    time: n(problem.time)?,
                    batch: n(problem.batch)?,
                    hidden: n(hidden)?,
                    out: n(out)?,
                    direction: n(group.start)?,
                    first_step: n(chunk.first)?,
                    steps: n(chunk.steps)?,
                    weights: n(at)?,
                    weights_stride: n(stride)?,
                    peepholes: n(packed.peepholes)?,
                    history_h: n(layout.h)?,
                    history_s: n(layout.s)?,
                    rows: n(rows.count)?,
                    second_row: n(rows.second)?,
                    peephole_row: n(rows.peephole)?,
                    projected: n(projected)?,
                    source: n(source)?,
                    source_width: n(width)?,
                    source_first: n(from)?,
                    depth: n(depth)?,
                    gates: n(regions.gates)?,
                    scratch: n(regions.between)?,
                    through_reset: n(regions.between)?,
                    carry_h: n(regions.carry_h)?,
                    carry_s: n(regions.carry_s)?,
                    held: n(regions.held)?,
                    initial_h: n(regions.initial_h)?,
                    initial_s: n(regions.initial_s)?,
                    dy: 0,
                    dy_direction: n(share.direction)?,
                    dy_width: n(share.width)?,
                    clip: clip.unwrap_or(0.0),
                };
                let grid = cut(&device, kernel.name, pass.plan.back_grid(units, depth, group.len()))?;
                dispatches.push((first, Alternating::new(alternation, bound, dims, grid)));
            }
        }
        Ok(Self { dispatches })
    }

    /// Records the step before `later`; `done` steps have been recorded since the buffers were filled.
    pub(super) fn record(&self, recorder: &mut Recorder, later: usize, done: usize) -> Result<()> {
        self.dispatch(recorder, later, done, false)
    }

    /// Records the product that is left after the first step.
    pub(super) fn finish(&self, recorder: &mut Recorder, done: usize) -> Result<()> {
        self.dispatch(recorder, 0, done, true)
    }

    fn dispatch(&self, recorder: &mut Recorder, later: usize, done: usize, only_first: bool) -> Result<()> {
        let later = word(recorder.device(), RECURRENT_STEP_GRAD.name, later)?;
        for (first, dispatch) in &self.dispatches {
            if *first || !only_first {
                dispatch.record(recorder, done, |dims| dims.later = later)?;
            }
        }
        Ok(())
    }
}

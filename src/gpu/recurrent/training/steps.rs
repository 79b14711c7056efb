//! The steps of the backward pass: dispatches and their uniforms.

use std::ops::Range;

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
use crate::gpu::submit::GpuDevice;
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

/// The product of a dispatch of a backward step.
struct BackwardProduct {
    stage: Stage,
    /// Whether the dispatch begins a step.
    first: bool,
    weights: BackMatrices,
    units: usize,
    /// The offset of the rows that the product reads, their width, and the first element that it reads of a row.
    source: (usize, usize, usize),
}

impl BackwardProduct {
    fn of(back: &LayerBackward<'_>, stage: Stage) -> Self {
        let (problem, regions) = (back.pass.problem(), back.workspace.regions);
        let (hidden, out, gates) = (problem.hidden, problem.out(), problem.gates());
        let first = match stage {
            Stage::Candidate | Stage::Project => true,
            Stage::Reset => false,
            Stage::Whole => !back.pass.two_stages(),
        };
        let weights = match (first, back.packed.second) {
            (false, Some(second)) => second,
            _ => back.packed.first,
        };
        let source = match (first, stage) {
            (false, Stage::Whole) => (regions.between, out, 0),
            (false, _) => (regions.gates, gates * hidden, 2 * hidden),
            _ => (regions.gates, gates * hidden, 0),
        };
        Self { stage, first, weights, units: if first { out } else { hidden }, source }
    }
}

impl LayerBackward<'_> {
    fn kernel(&self) -> &'static Kernel {
        match self.pass.plan.back.method {
            Method::Rows => &RECURRENT_STEP_GRAD,
            Method::Lanes => &RECURRENT_STEP_GRAD_LANES,
        }
    }

    /// One dispatch of a backward step, for a group of directions.
    fn stage(
        &self,
        recorder: &mut Recorder,
        (chunk, tape): (Chunk, &ChunkTape),
        group: &Range<usize>,
        product: &BackwardProduct,
    ) -> Result<Alternating<RecurrentGradDims>> {
        let Self { pass, share, packed, workspace, .. } = *self;
        let kernel = self.kernel();
        let (noise, noise_constants) = noise_of(recorder, &pass.noise, self.layer * pass.directions());
        let mut constants = self.constants(group, product);
        constants.extend(noise_constants);
        let flags = pass.flags.as_ref().unwrap_or(&tape.history);
        let mut bind = |[current, next]: [&Buffer; 2]| {
            let (dy, d_gates) = (&share.buffer, &workspace.d_gates);
            let buffers = [&tape.gates, &packed.buffer, flags, &tape.history, dy, current, next, d_gates];
            recorder.bind(kernel, &constants, buffers.map(Buffer::clone))
        };
        let [a, b] = &workspace.between_steps;
        let bound = [bind([a, b])?, bind([b, a])?];
        let alternation = match (pass.two_stages(), product.first) {
            (false, _) => StageBuffers::Alternate,
            (true, true) => StageBuffers::FirstToSecond,
            (true, false) => StageBuffers::SecondToFirst,
        };
        let device = recorder.device();
        let dims = RecurrentGradDims { noise, ..self.dims(device, chunk, group, product)? };
        let grid = pass.plan.back_grid(product.units, product.weights.depth, group.len());
        Ok(Alternating::new(alternation, bound, dims, cut(device, kernel.name, grid)?))
    }

    /// The `override`s of a dispatch, without those of the noise.
    fn constants(&self, group: &Range<usize>, product: &BackwardProduct) -> Constants {
        let pass = self.pass;
        let (_, width, from) = product.source;
        let mut constants = Specialization::of(&pass.problem().cells[group.start]).constants;
        let (tile, columns) = (&pass.plan.back, pass.plan.columns);
        constants.extend(sliced_constants(tile, WeightType::F32, columns, product.weights.depth));
        constants.retain(|(name, _)| *name != "STRADDLE");
        constants.extend([
            ("STRADDLE", u32::from(!(width.is_multiple_of(4) && from.is_multiple_of(4)))),
            ("STAGE", product.stage as u32),
            ("TWO_STAGES", u32::from(pass.two_stages())),
            ("FLAGS", u32::from(pass.flags.is_some())),
            ("RESETS", u32::from(pass.resets)),
            ("HOLD", u32::from(pass.pad == Pad::Hold)),
            ("CLIP", u32::from(self.clip.is_some())),
            ("REVERSE", pass.stack.reverse),
        ]);
        constants
    }

    /// The uniform of a dispatch, without its noise.
    fn dims(
        &self,
        device: &GpuDevice,
        chunk: Chunk,
        group: &Range<usize>,
        product: &BackwardProduct,
    ) -> Result<RecurrentGradDims> {
        let Self { pass, share, packed, workspace, clip, .. } = *self;
        let (problem, regions, rows) = (pass.problem(), workspace.regions, pass.plan.rows);
        let layout = pass.history(chunk.steps);
        let (source, width, from) = product.source;
        let n = |size: usize| word(device, self.kernel().name, size);
        Ok(RecurrentGradDims {
            scalars: Specialization::of(&problem.cells[group.start]).scalars,
            noise: bytemuck::Zeroable::zeroed(),
            later: 0,
            time: n(problem.time)?,
            batch: n(problem.batch)?,
            hidden: n(problem.hidden)?,
            out: n(problem.out())?,
            direction: n(group.start)?,
            first_step: n(chunk.first)?,
            steps: n(chunk.steps)?,
            weights: n(product.weights.at)?,
            weights_stride: n(product.weights.stride)?,
            peepholes: n(packed.peepholes)?,
            history_h: n(layout.h)?,
            history_s: n(layout.s)?,
            rows: n(rows.count)?,
            second_row: n(rows.second)?,
            peephole_row: n(rows.peephole)?,
            projected: n(pass.d_gates(chunk.steps).0)?,
            source: n(source)?,
            source_width: n(width)?,
            source_first: n(from)?,
            depth: n(product.weights.depth)?,
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
        })
    }
}

impl BackwardSteps {
    pub(super) fn new(
        recorder: &mut Recorder,
        back: &LayerBackward<'_>,
        chunk: Chunk,
        tape: &ChunkTape,
    ) -> Result<Self> {
        let pass = back.pass;
        let layout = pass.history(chunk.steps);
        let n = |size: usize| word(recorder.device(), back.kernel().name, size);
        n(pass.d_gates(chunk.steps).1)?;
        n(layout.len)?;
        n(pass.problem().time * pass.problem().batch * back.share.width.max(2 * pass.problem().out()))?;
        let mut dispatches = Vec::new();
        for group in &pass.plan.forward.groups {
            for &stage in pass.problem().cells[group.start].stages().iter().rev() {
                let product = BackwardProduct::of(back, stage);
                let dispatch = back.stage(recorder, (chunk, tape), group, &product)?;
                dispatches.push((product.first, dispatch));
            }
        }
        Ok(Self { dispatches })
    }

    /// Records the step before `later`; `done` steps have been recorded since the buffers were filled.
    pub(super) fn record(&self, recorder: &mut Recorder, later: usize, done: usize) -> Result<()> {
        self.dispatch(recorder, later, done, false)
    }

    /// Records the last product, which is left once all steps are recorded.
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

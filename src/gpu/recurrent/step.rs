//! A dispatch a step: one layer after another, or all layers at once, each a step behind the one below.

use super::Call;
use super::alternate::{Alternating, Turn};
use super::pack::VECTOR_ROWS;
use super::product::Product;
use super::project;
use super::special::{CellScalars, NoiseDims, Specialization};
use super::state::{self, LABEL, RunState};
use crate::cell::{Pad, Stage};
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::kernel::{Constants, RECURRENT_STEP};
use crate::gpu::ops::{cut, word};
use crate::gpu::recorder::Recorder;
use crate::gpu::uniform::uniform;
use crate::plan::{Chunk, PlanKind};

uniform! {
    /// Mirrors the struct in `shaders/cell/step_memory.wgsl`.
    struct RecurrentDims {
        scalars: CellScalars,
        noise: NoiseDims,
        step: u32,
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
        vectors: u32,
        h: u32,
        h_initial: u32,
        scratch: u32,
        s: u32,
        s_initial: u32,
        update: u32,
        history_h: u32,
        history_s: u32,
        history_initial: u32,
    }
}

/// The buffers that the state moves through, and where its parts lie in them.
pub(super) struct Memory {
    /// h of all layers; with one dispatch a step it moves to the other one and back.
    pub(super) h: [Buffer; 2],
    pub(super) h_initial: usize,
    /// Cell states, or a GRU's update gates between two dispatches; what a backward pass needs.
    pub(super) own: Buffer,
    pub(super) s_initial: usize,
    pub(super) h_len: usize,
    pub(super) s_len: usize,
    pub(super) two_stages: bool,
    /// The layer that the buffers begin with.
    pub(super) first_layer: usize,
    pub(super) saved: Option<Saved>,
}

/// What a pass leaves for its gradients: where it lies in [`Memory::own`], and the noise of the pass.
#[derive(Clone)]
pub(super) struct Saved {
    pub(super) h: usize,
    pub(super) s: usize,
    pub(super) initial: usize,
    pub(super) update: usize,
    pub(super) noise: NoiseDims,
    pub(super) constants: Constants,
}

impl Memory {
    /// Works on the state in place, unless a reset needs the state's initial value beside it.
    fn new(recorder: &mut Recorder, call: &Call<'_>, state: &RunState<'_>) -> Result<Self> {
        let device = recorder.device().clone();
        let problem = call.plan.problem();
        let rows = problem.cells.len() * call.run.batch;
        let h_len = problem.layers * rows * call.out;
        let s_len = if state.s.is_some() { problem.layers * rows * problem.hidden } else { 0 };
        let two_stages = problem.cells[0].stages().len() > 1;
        let resets = call.run.resets;
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

    /// Copies what `layers` leave in buffer `at` back to the state.
    fn leave(
        &self,
        recorder: &mut Recorder,
        state: &RunState<'_>,
        at: usize,
        layers: std::ops::Range<usize>,
        of: usize,
    ) {
        let len = self.h_len / of;
        if !self.h[at].is_same(state.h) {
            let first = layers.start * len;
            recorder.copy((&self.h[at], first), (state.h, first), layers.len() * len);
        }
    }

    fn leave_cells(&self, recorder: &mut Recorder, state: &RunState<'_>) {
        if let Some(s) = state.s {
            state::leave(recorder, &self.own, s, self.s_len);
        }
    }
}

/// Records a call layer by layer.
pub(super) fn layers(recorder: &mut Recorder, call: &Call<'_>, state: &RunState<'_>, x: Buffer) -> Result<Buffer> {
    let device = recorder.device().clone();
    let memory = Memory::new(recorder, call, state)?;
    let layers = call.plan.problem().layers;
    let gates_x = project::room(&device, call)?;
    let mut x = x;
    for layer in 0..layers {
        let y = call.output(&device)?;
        for &chunk in &call.plan.chunks {
            project::input(recorder, call, layer, &x, chunk, &gates_x)?;
            let steps = Steps::new(recorder, call, &memory, layer, chunk, [&gates_x, &y])?;
            for step in chunk.first..chunk.first + chunk.steps {
                steps.record(recorder, step, step)?;
            }
        }
        x = call.merged(recorder, y)?;
    }
    let at = if memory.two_stages { 0 } else { call.run.time % 2 };
    memory.leave(recorder, state, at, 0..layers, layers);
    memory.leave_cells(recorder, state);
    Ok(x)
}

/// Records a call diagonal by diagonal: dispatch `d` does step `d - l` of every layer `l` that has one.
pub(super) fn wave(recorder: &mut Recorder, call: &Call<'_>, state: &RunState<'_>, x: &Buffer) -> Result<Buffer> {
    let device = recorder.device().clone();
    let memory = Memory::new(recorder, call, state)?;
    let (layers, time) = (call.plan.problem().layers, call.run.time);
    let len = memory.h_len / layers;
    for layer in (1..layers).step_by(2) {
        // Dispatch `l` is the first one to read layer `l`.
        recorder.copy((&memory.h[0], layer * len), (&memory.h[1], layer * len), len);
    }
    let y = call.output(&device)?;
    let gates_x = project::room(&device, call)?;
    for &chunk in &call.plan.chunks {
        project::input(recorder, call, 0, x, chunk, &gates_x)?;
        let steps = Steps::new(recorder, call, &memory, 0, chunk, [&gates_x, &y])?;
        let end = chunk.first + chunk.steps;
        let drain = if end == time { layers - 1 } else { 0 };
        for step in chunk.first..end + drain {
            steps.record(recorder, step, step)?;
        }
    }
    for layer in 0..layers {
        memory.leave(recorder, state, (time + layer) % 2, layer..layer + 1, layers);
    }
    memory.leave_cells(recorder, state);
    Ok(y)
}

/// The dispatches of a step, bound to their buffers.
pub(super) struct Steps {
    dispatches: Vec<Alternating<RecurrentDims>>,
}

impl Steps {
    pub(super) fn new(
        recorder: &mut Recorder,
        call: &Call<'_>,
        memory: &Memory,
        layer: usize,
        chunk: Chunk,
        [gates_x, y]: [&Buffer; 2],
    ) -> Result<Self> {
        let Call { stack, run, plan, out } = *call;
        let problem = plan.problem();
        let device = recorder.device().clone();
        let (hidden, directions) = (problem.hidden, problem.cells.len());
        let n = |size: usize| word(&device, RECURRENT_STEP.name, size);
        let wave = plan.kind == PlanKind::Wave;
        let packed = &stack.packed.layers[layer];
        // The binding must hold something; `FLAGS` says that it is not read.
        let flags = run.flags.as_ref().unwrap_or(&stack.packed.vectors);
        n(run.time * run.batch * directions * out)?;
        n(memory.h_len * 2 + memory.s_len * 2)?;

        let mut dispatches = Vec::new();
        for group in &plan.groups {
            let cell = &problem.cells[group.start];
            let special = Specialization::of(cell);
            let first = layer * directions + group.start;
            let row = first - memory.first_layer * directions;
            let saved = memory.saved.as_ref();
            for &stage in cell.stages() {
                let projects = stage == Stage::Project;
                let gates = if projects { 1 } else { problem.gates() };
                let part = if projects { &packed.projection } else { &packed.recurrent };
                let second = matches!(stage, Stage::Candidate | Stage::Project);
                let depth = if second { hidden } else { out };
                let used = match stage {
                    Stage::Reset => 0b011,
                    Stage::Candidate => 0b100,
                    _ => (1 << gates) - 1,
                };
                let product = Product::of_step(device.plan_limits(), plan, gates, depth);
                let mut constants = special.constants.clone();
                constants.extend(product.constants);
                constants.retain(|(name, _)| *name != "USED");
                constants.extend([
                    ("USED", used),
                    ("STAGE", stage as u32),
                    ("FLAGS", u32::from(run.flags.is_some())),
                    ("HOLD", u32::from(run.pad == Pad::Hold)),
                    ("REVERSE", stack.reverse),
                    ("WAVE", u32::from(wave)),
                ]);
                constants.extend(saved.iter().flat_map(|saved| saved.constants.iter().copied()));
                let mut bind = |[current, next]: [&Buffer; 2]| {
                    let buffers = [gates_x, &part.buffer, &stack.packed.vectors, flags, current, next, &memory.own, y];
                    recorder.bind(product.kernel, &constants, buffers.map(Buffer::clone))
                };
                let bound = [bind([&memory.h[0], &memory.h[1]])?, bind([&memory.h[1], &memory.h[0]])?];
                let turn = match (memory.two_stages, second) {
                    (false, _) => Turn::Only,
                    (true, false) => Turn::First,
                    (true, true) => Turn::Second,
                };
                let below = if wave && problem.layers > 1 { &stack.packed.layers[1].input } else { &packed.input };
                let layer_stride = if wave { stack.packed.stride(0, |layer| &layer.recurrent) } else { part.stride };
                let input_stride = if wave { stack.packed.stride(1, |layer| &layer.input) } else { 0 };
                let dims = RecurrentDims {
                    scalars: special.scalars,
                    noise: saved.map_or_else(bytemuck::Zeroable::zeroed, |saved| saved.noise),
                    step: 0,
                    time: n(run.time)?,
                    batch: n(run.batch)?,
                    hidden: n(hidden)?,
                    out: n(out)?,
                    directions: n(directions)?,
                    direction: n(group.start)?,
                    first_step: n(chunk.first)?,
                    steps: n(chunk.steps)?,
                    weights: n(part.at + group.start * part.stride)?,
                    weights_stride: n(layer_stride)?,
                    input_weights: n(below.at)?,
                    input_stride: n(input_stride)?,
                    vectors: n(first * VECTOR_ROWS * hidden)?,
                    h: n(row * run.batch * out)?,
                    h_initial: n(memory.h_initial + row * run.batch * out)?,
                    scratch: n(group.start * run.batch * hidden)?,
                    s: n(row * run.batch * hidden)?,
                    s_initial: n(memory.s_initial + row * run.batch * hidden)?,
                    update: n(saved.map_or(0, |saved| saved.update) + group.start * run.batch * hidden)?,
                    history_h: n(saved.map_or(0, |saved| saved.h))?,
                    history_s: n(saved.map_or(0, |saved| saved.s))?,
                    history_initial: n(saved.map_or(0, |saved| saved.initial) + row * run.batch * out)?,
                };
                let grid = cut(&device, product.kernel.name, plan.step_grid(stage))?;
                dispatches.push(Alternating::new(turn, bound, dims, grid));
            }
        }
        Ok(Self { dispatches })
    }

    /// Records step `step`. `parity` of the steps done since the buffers were filled says where h lies.
    pub(super) fn record(&self, recorder: &mut Recorder, step: usize, parity: usize) -> Result<()> {
        let step = word(recorder.device(), RECURRENT_STEP.name, step)?;
        for dispatch in &self.dispatches {
            dispatch.record(recorder, parity, |dims| dims.step = step)?;
        }
        Ok(())
    }
}

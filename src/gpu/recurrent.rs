//! Recurrent layers on the GPU: weights packed for the step kernel, and one call recorded as a list of dispatches.

use bytemuck::{Pod, Zeroable};
use ndarray::{Array2, ArrayView2};

use super::buffer::Buffer;
use super::context::GpuDevice;
use super::kernel::{Constants, RECURRENT_STEP};
use super::ops::{MatmulSize, Operand, WORKGROUP_SIZE, binary, matmul_into, word};
use super::recorder::Recorder;
use crate::cell::{Activation, Cell, Forget, Mix, Pad, Parameters};
use crate::error::Result;
use crate::plan::{Chunk, Limits, Plan, Problem, Stage};
use crate::reference::{Binary, Direction};

/// Mirrors `CellScalars` in `shaders/common/cell.wgsl`; a test compares the layouts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct CellScalars {
    gate_alpha: f32,
    gate_beta: f32,
    candidate_alpha: f32,
    candidate_beta: f32,
    output_alpha: f32,
    output_beta: f32,
    gate_clip: f32,
    cell_clip: f32,
}

/// Mirrors `RecurrentDims` in `shaders/cell/recurrent_step.wgsl`; a test compares the layouts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct RecurrentDims {
    scalars: CellScalars,
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
    h: u32,
    h_next: u32,
    s: u32,
    h_initial: u32,
    s_initial: u32,
    scratch: u32,
    update: u32,
}

/// What a cell asks of the step kernel: its `override`s and its scalars.
struct Specialization {
    constants: Constants,
    scalars: CellScalars,
}

impl Specialization {
    fn of(cell: &Cell) -> Self {
        struct Options {
            kind: u32,
            gate: Activation,
            candidate: Activation,
            output: Activation,
            gate_clip: Option<f32>,
            cell_clip: Option<f32>,
            forget: Forget,
            takes_new: bool,
        }
        let plain = Options {
            kind: 0,
            gate: Activation::Identity,
            candidate: Activation::Identity,
            output: Activation::Identity,
            gate_clip: None,
            cell_clip: None,
            forget: Forget::Gate,
            takes_new: false,
        };
        let options = match *cell {
            Cell::Rnn(c) => Options { kind: 0, candidate: c.activation, gate_clip: c.gate_clip, ..plain },
            Cell::Lstm(c) => Options {
                kind: 1,
                gate: c.gate,
                candidate: c.candidate,
                output: c.output,
                gate_clip: c.gate_clip,
                cell_clip: c.cell_clip,
                forget: c.forget,
                ..plain
            },
            Cell::Gru(c) => Options {
                kind: 2,
                gate: c.gate,
                candidate: c.candidate,
                gate_clip: c.gate_clip,
                takes_new: c.mix == Mix::TakesNew,
                ..plain
            },
        };
        let (gate, gate_alpha, gate_beta) = options.gate.code();
        let (candidate, candidate_alpha, candidate_beta) = options.candidate.code();
        let (output, output_alpha, output_beta) = options.output.code();
        let forget = match options.forget {
            Forget::Gate => 0,
            Forget::Never => 1,
            Forget::Coupled => 2,
        };
        Self {
            constants: vec![
                ("CELL", options.kind),
                ("GATE_ACTIVATION", gate),
                ("CANDIDATE_ACTIVATION", candidate),
                ("OUTPUT_ACTIVATION", output),
                ("GATE_CLIP", u32::from(options.gate_clip.is_some())),
                ("CELL_CLIP", u32::from(options.cell_clip.is_some())),
                ("FORGET", forget),
                ("PEEPHOLE", u32::from(cell.peephole())),
                ("TAKES_NEW", u32::from(options.takes_new)),
                ("PROJECTED", u32::from(cell.projection().is_some())),
            ],
            scalars: CellScalars {
                gate_alpha,
                gate_beta,
                candidate_alpha,
                candidate_beta,
                output_alpha,
                output_beta,
                gate_clip: options.gate_clip.unwrap_or(0.0),
                cell_clip: options.cell_clip.unwrap_or(0.0),
            },
        }
    }
}

/// One layer's weights on the device, all directions.
struct PackedLayer {
    /// A direction's input weights `[input, hidden, gates]` and bias `[hidden, gates]`.
    input_side: Vec<(Buffer, Buffer)>,
    /// `weights` of the step kernel.
    weights: Buffer,
    /// `vectors` of the step kernel.
    vectors: Buffer,
}

/// A stack of layers on the device.
pub(crate) struct LayerStack {
    cells: Vec<Cell>,
    /// Bit d: direction d runs in reverse.
    reverse: u32,
    merge: Option<Binary>,
    input: usize,
    hidden: usize,
    layers: Vec<PackedLayer>,
}

/// Rows of four along the depth, zero-padded: `[depth / 4, gates, units]` words of four.
fn pack_depth(weight: ArrayView2<'_, f32>, gates: usize) -> Vec<f32> {
    let (rows, depth) = weight.dim();
    let units = rows / gates.max(1);
    let mut packed = Vec::with_capacity(rows * depth.next_multiple_of(4));
    for k in (0..depth).step_by(4) {
        for row in 0..gates * units {
            packed.extend((k..k + 4).map(|k| if k < depth { weight[[row, k]] } else { 0.0 }));
        }
    }
    packed
}

/// `[gates hidden, n]` to `[n, hidden, gates]`: a unit's gates side by side.
fn interleave(weight: ArrayView2<'_, f32>, gates: usize) -> Vec<f32> {
    let (rows, columns) = weight.dim();
    let hidden = rows / gates.max(1);
    let mut packed = Vec::with_capacity(rows * columns);
    for column in 0..columns {
        for unit in 0..hidden {
            packed.extend((0..gates).map(|gate| weight[[gate * hidden + unit, column]]));
        }
    }
    packed
}

impl LayerStack {
    /// Uploads a stack. `parameters[layer][direction]` fit the cells: [`nn`](crate::nn) has checked them.
    pub(crate) fn new(
        device: &GpuDevice,
        cells: &[Cell],
        directions: &[Direction],
        merge: Option<Binary>,
        (input, hidden): (usize, usize),
        parameters: &[Vec<Parameters>],
    ) -> Result<Self> {
        let layers =
            parameters.iter().map(|layer| PackedLayer::new(device, cells, hidden, layer)).collect::<Result<_>>()?;
        let reverse = (0..).zip(directions).map(|(bit, d): (u32, _)| u32::from(*d == Direction::Reverse) << bit).sum();
        Ok(Self { cells: cells.to_vec(), reverse, merge, input, hidden, layers })
    }

    fn problem(&self, time: usize, batch: usize) -> Problem {
        Problem {
            cells: self.cells.clone(),
            input: self.input,
            hidden: self.hidden,
            layers: self.layers.len(),
            merged: self.merge.is_some(),
            time,
            batch,
        }
    }

    /// The schedule of a call.
    pub(crate) fn plan(&self, limits: &Limits, time: usize, batch: usize) -> Result<Plan> {
        Plan::new(self.problem(time, batch), limits)
    }
}

impl PackedLayer {
    fn new(device: &GpuDevice, cells: &[Cell], hidden: usize, parameters: &[Parameters]) -> Result<Self> {
        let op = "weights";
        let mut input_side = Vec::new();
        let mut weights = Vec::new();
        let mut vectors = Vec::new();
        for (cell, p) in cells.iter().zip(parameters) {
            let gates = cell.gates().len();
            let rows = gates * hidden;
            let column = |bias: &Option<ndarray::Array1<f32>>| match bias {
                Some(bias) => bias.clone(),
                None => ndarray::Array1::zeros(rows),
            };
            let bias_ih = column(&p.bias_ih).insert_axis(ndarray::Axis(1));
            input_side.push((
                Buffer::from_slice(device, op, &interleave(p.weight_ih.view(), gates))?,
                Buffer::from_slice(device, op, &interleave(bias_ih.view(), gates))?,
            ));
            weights.extend(pack_depth(p.weight_hh.view(), gates));
            if let Some(weight_hr) = &p.weight_hr {
                weights.extend(pack_depth(weight_hr.view(), 1));
            }
            vectors.extend(column(&p.bias_hh));
            vectors.extend(p.peephole.clone().unwrap_or_else(|| Array2::zeros((3, hidden))));
        }
        Ok(Self {
            input_side,
            weights: Buffer::from_slice(device, op, &weights)?,
            vectors: Buffer::from_slice(device, op, &vectors)?,
        })
    }
}

/// The state that a call starts from and leaves behind, `[layers, directions, batch, ..]`.
pub(crate) struct RunState<'a> {
    pub(crate) h: &'a Buffer,
    pub(crate) s: Option<&'a Buffer>,
    /// What a reset returns to; zeros if absent.
    pub(crate) initial: Option<(&'a Buffer, Option<&'a Buffer>)>,
}

/// One call.
pub(crate) struct Run<'a> {
    /// `[time, batch, input]`
    pub(crate) x: &'a Buffer,
    pub(crate) time: usize,
    pub(crate) batch: usize,
    /// Flag words `[time, batch]`.
    pub(crate) flags: Option<Buffer>,
    pub(crate) resets: bool,
    pub(crate) pad: Pad,
}

/// Where the parts of all layers' state lie in the working buffer.
struct Regions {
    /// `h` before a step and after it, in turn.
    h: [usize; 2],
    s: usize,
    h_initial: usize,
    s_initial: usize,
    scratch: usize,
    update: usize,
    len: usize,
}

impl Regions {
    fn new(h_len: usize, s_len: usize, scratch_len: usize, resets: bool) -> Self {
        let mut len = 0;
        let mut take = |size: usize| {
            let at = len;
            len += size;
            at
        };
        let initial = usize::from(resets);
        Self {
            h: [take(h_len), take(h_len)],
            s: take(s_len),
            h_initial: take(initial * h_len),
            s_initial: take(initial * s_len),
            scratch: take(scratch_len),
            update: take(scratch_len),
            len,
        }
    }
}

/// Records one call over the whole stack; returns `y [time, batch, width]`.
pub(crate) fn forward(
    recorder: &mut Recorder,
    stack: &LayerStack,
    run: &Run<'_>,
    state: &RunState<'_>,
) -> Result<Buffer> {
    let op = RECURRENT_STEP.name;
    let device = recorder.device().clone();
    let plan = stack.plan(&device.plan_limits(), run.time, run.batch)?;
    let directions = stack.cells.len();
    let out = stack.cells[0].output_size(stack.hidden);
    let rows = directions * run.batch;
    let h_len = stack.layers.len() * rows * out;
    let s_len = if state.s.is_some() { stack.layers.len() * rows * stack.hidden } else { 0 };
    let scratch_len = if stack.cells[0].stages().len() > 1 { rows * stack.hidden } else { 0 };
    let regions = Regions::new(h_len, s_len, scratch_len, run.resets);
    word(&device, op, regions.len)?;

    let work = Buffer::new(&device, "recurrent state", regions.len)?;
    recorder.copy((state.h, 0), (&work, regions.h[0]), h_len);
    if let Some(s) = state.s {
        recorder.copy((s, 0), (&work, regions.s), s_len);
    }
    if run.resets {
        match state.initial {
            Some((h, s)) => {
                recorder.copy((h, 0), (&work, regions.h_initial), h_len);
                if let Some(s) = s {
                    recorder.copy((s, 0), (&work, regions.s_initial), s_len);
                }
            }
            None => recorder.clear(&work, regions.h_initial, h_len + s_len),
        }
    }

    let mut x = run.x.clone();
    for layer in 0..stack.layers.len() {
        let call = LayerCall { stack, run, plan: &plan, regions: &regions, work: &work, layer, out };
        x = call.record(recorder, &x)?;
    }
    recorder.copy((&work, regions.h[run.time % 2]), (state.h, 0), h_len);
    if let Some(s) = state.s {
        recorder.copy((&work, regions.s), (s, 0), s_len);
    }
    Ok(x)
}

/// One layer of one call.
struct LayerCall<'a> {
    stack: &'a LayerStack,
    run: &'a Run<'a>,
    plan: &'a Plan,
    regions: &'a Regions,
    work: &'a Buffer,
    layer: usize,
    out: usize,
}

impl LayerCall<'_> {
    fn record(&self, recorder: &mut Recorder, x: &Buffer) -> Result<Buffer> {
        let Self { stack, run, .. } = self;
        let device = recorder.device().clone();
        let directions = stack.cells.len();
        let rows = run.time * run.batch;
        let width = directions * self.out;
        let y = Buffer::new(&device, "y", rows * width)?;
        for chunk in &self.plan.chunks {
            let gates_x = self.project_input(recorder, x, *chunk)?;
            self.steps(recorder, &gates_x, &y, *chunk)?;
        }
        match stack.merge {
            Some(op) if directions == 2 => {
                let half = |offset| Operand { buffer: &y, stride: width, offset };
                binary(recorder, op, half(0), half(self.out), [rows, self.out])
            }
            _ => Ok(y),
        }
    }

    /// The input's side of all gates for a chunk of steps, `[directions, steps, batch, hidden, gates]`.
    fn project_input(&self, recorder: &mut Recorder, x: &Buffer, chunk: Chunk) -> Result<Buffer> {
        let Self { stack, run, .. } = self;
        let device = recorder.device().clone();
        let columns = stack.hidden * stack.cells[0].gates().len();
        let rows = chunk.steps * run.batch;
        let depth = stack.problem(run.time, run.batch).layer_input(self.layer);
        let gates_x = Buffer::new(&device, "gates_x", stack.cells.len() * rows * columns)?;
        for (direction, (weight, bias)) in stack.layers[self.layer].input_side.iter().enumerate() {
            let first_time =
                if (stack.reverse >> direction) & 1 == 1 { run.time - chunk.first - chunk.steps } else { chunk.first };
            let size = MatmulSize { rows, depth, columns };
            let to = (&gates_x, direction * rows * columns);
            matmul_into(recorder, (x, first_time * run.batch), weight, Some(bias), size, to)?;
        }
        Ok(gates_x)
    }

    fn steps(&self, recorder: &mut Recorder, gates_x: &Buffer, y: &Buffer, chunk: Chunk) -> Result<()> {
        let Self { stack, run, layer, .. } = self;
        let device = recorder.device().clone();
        let n = |size: usize| word(&device, RECURRENT_STEP.name, size);
        let packed = &stack.layers[*layer];
        let directions = stack.cells.len();
        let rows = directions * run.batch;
        // The binding must hold something; `FLAGS` says that it is not read.
        let flags = run.flags.as_ref().unwrap_or(&packed.vectors);
        let buffers = [gates_x, &packed.weights, &packed.vectors, flags, self.work, y].map(Buffer::clone);

        let mut dispatches = Vec::new();
        for group in &self.plan.groups {
            let cell = &stack.cells[group.start];
            let special = Specialization::of(cell);
            let gates = cell.gates().len();
            let recurrent_words = self.out.div_ceil(4) * gates * stack.hidden;
            let projection_words = if cell.projection().is_some() { stack.hidden.div_ceil(4) * self.out } else { 0 };
            for &stage in cell.stages() {
                let projects = stage == Stage::Project;
                let mut constants = special.constants.clone();
                constants.extend([
                    ("STAGE", stage as u32),
                    ("GATES", if projects { 1 } else { u32::try_from(gates).unwrap_or(u32::MAX) }),
                    ("FLAGS", u32::from(run.flags.is_some())),
                    ("HOLD", u32::from(run.pad == Pad::Hold)),
                    ("REVERSE", stack.reverse),
                ]);
                let bound = recorder.bind(&RECURRENT_STEP, &constants, buffers.clone())?;
                let units = if projects { self.out } else { stack.hidden };
                let tallest = device.context().limits.max_compute_workgroups_per_dimension;
                let grid = [n(units.div_ceil(WORKGROUP_SIZE))?, n(run.batch)?.min(tallest), n(group.len())?];
                let dims = RecurrentDims {
                    scalars: special.scalars,
                    step: 0,
                    time: n(run.time)?,
                    batch: n(run.batch)?,
                    hidden: n(stack.hidden)?,
                    out: n(self.out)?,
                    directions: n(directions)?,
                    direction: n(group.start)?,
                    first_step: n(chunk.first)?,
                    steps: n(chunk.steps)?,
                    weights: n(if projects { recurrent_words } else { 0 })?,
                    weights_stride: n(recurrent_words + projection_words)?,
                    h: 0,
                    h_next: 0,
                    s: n(self.regions.s + layer * rows * stack.hidden)?,
                    h_initial: n(self.regions.h_initial + layer * rows * self.out)?,
                    s_initial: n(self.regions.s_initial + layer * rows * stack.hidden)?,
                    scratch: n(self.regions.scratch)?,
                    update: n(self.regions.update)?,
                };
                dispatches.push((bound, dims, grid));
            }
        }
        for step in chunk.first..chunk.first + chunk.steps {
            let h = |at: usize| n(self.regions.h[at % 2] + layer * rows * self.out);
            for (bound, dims, grid) in &dispatches {
                let dims = RecurrentDims { step: n(step)?, h: h(step)?, h_next: h(step + 1)?, ..*dims };
                recorder.dispatch(*bound, &dims, *grid)?;
            }
        }
        Ok(())
    }
}

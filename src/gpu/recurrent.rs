//! Recurrent layers on the GPU: weights packed for the kernels, and one call recorded as a list of dispatches.

mod alternate;
mod cooperative;
mod dims;
mod flags;
#[cfg(feature = "unstable-internals")]
mod kernel_cell;
mod pack;
mod product;
mod project;
mod scan;
mod special;
mod state;
mod step;
mod training;

pub(crate) use self::training::{TrainingTape, forward_training};

pub(crate) use self::flags::sequence_flags;
#[cfg(feature = "unstable-internals")]
pub use self::kernel_cell::KernelCell;
use self::pack::PackedStack;
use super::arguments::{Operand, SequenceInput, StateBuffers};
use super::ops::binary_into;
use crate::cell::{Direction, Parameters};
use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::submit::GpuDevice;
use crate::gpu::submit::recorder::Recorder;
use crate::op::Binary;
use crate::plan::{Chunk, Limits, Plan, PlanKind, Problem, Schedule};

/// A stack of layers on the device.
pub(crate) struct LayerStack {
    device: GpuDevice,
    /// The stack's sizes; its `time` and `batch` are 0.
    problem: Problem,
    /// Bit d is set if direction d runs in reverse.
    reverse: u32,
    merge: Option<Binary>,
    kind: Option<PlanKind>,
    packed: PackedStack,
}

impl LayerStack {
    /// Uploads a stack. `parameters[layer][direction]` must fit the cells; [`nn`](crate::nn) has checked them.
    pub(crate) fn new(
        device: &GpuDevice,
        problem: Problem,
        directions: &[Direction],
        merge: Option<Binary>,
        kind: Option<PlanKind>,
        parameters: &[Vec<Parameters>],
    ) -> Result<Self> {
        let reverse = reverse_bits(directions);
        let packed = PackedStack::new(device, &problem, parameters)?;
        Ok(Self { device: device.clone(), problem, reverse, merge, kind, packed })
    }

    /// Reads the weights back: `[layer][direction]`.
    pub(crate) fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        self.packed.parameters(&self.device, &self.problem)
    }

    /// Plans a call.
    pub(crate) fn plan(&self, limits: &Limits, time: usize, batch: usize) -> Result<Plan> {
        Plan::new(Problem { time, batch, ..self.problem.clone() }, limits, self.kind)
    }
}

/// A word whose bit d is set if direction d runs in reverse.
fn reverse_bits(directions: &[Direction]) -> u32 {
    (0..).zip(directions).map(|(bit, d): (u32, _)| u32::from(*d == Direction::Reverse) << bit).sum()
}

/// A call with its plan.
struct RecurrentCall<'a> {
    stack: &'a LayerStack,
    input: &'a SequenceInput<'a>,
    plan: &'a Plan,
    /// Width of one direction's output.
    out: usize,
    /// The buffer of the topmost layer's output, if the caller gives one.
    into: Option<&'a Buffer>,
}

/// A chunk of a layer whose input has been projected, so that its steps can be recorded.
struct ProjectedChunk<'a> {
    /// The layer, or the lowest of the layers that share their dispatches.
    layer: usize,
    /// The index of the chunk.
    index: usize,
    chunk: Chunk,
    /// The projected input of all gates.
    gates_x: &'a Buffer,
    /// The layer's output.
    y: &'a Buffer,
}

/// Records one call over the whole stack; returns `y [time, batch, width]`, in the buffer `into` if it is given.
pub(crate) fn forward(
    recorder: &mut Recorder,
    stack: &LayerStack,
    input: &SequenceInput<'_>,
    state: &StateBuffers<'_>,
    into: Option<&Buffer>,
) -> Result<Buffer> {
    let device = recorder.device().clone();
    let plan = device.tuned(stack.plan(device.plan_limits(), input.time, input.batch)?, stack.kind.is_some());
    let problem = plan.problem();
    let call = RecurrentCall { stack, input, plan: &plan, out: problem.out(), into };
    if input.time == 0 || input.batch == 0 {
        return Buffer::new(&device, "y", 0);
    }
    device.note_plan(plan.kind());
    state.keep(recorder);
    let x = in_whole_words(recorder, input.x, input.time * input.batch * problem.input)?;
    match &plan.schedule {
        Schedule::Steps(tiles) => step::layers(recorder, &call, tiles, state, x),
        Schedule::Wave(tiles) => step::wave(recorder, &call, tiles, state, x),
        Schedule::Scan(scan) => scan::layers(recorder, &call, scan, state, x),
        Schedule::CooperativeScan(scan) => cooperative::layers(recorder, &call, scan, state, x),
    }
}

/// Kernels read words of four elements. If a caller's own buffer ends within such a word, returns a copy that does not.
fn in_whole_words(recorder: &mut Recorder, x: &Buffer, len: usize) -> Result<Buffer> {
    if x.in_whole_words() {
        return Ok(x.clone());
    }
    let copy = Buffer::new(recorder.device(), "x", len)?;
    recorder.copy((x, 0), (&copy, 0), len);
    Ok(copy)
}

impl RecurrentCall<'_> {
    /// Records all layers, from the lowest up: for every chunk the input projection, then the steps by `record_steps`. Returns the
    /// output of the topmost layer.
    fn each_chunk(
        &self,
        recorder: &mut Recorder,
        x: Buffer,
        mut record_steps: impl FnMut(&mut Recorder, &ProjectedChunk<'_>) -> Result<()>,
    ) -> Result<Buffer> {
        let device = recorder.device().clone();
        let problem = self.plan.problem();
        let gates_x = project::room(&device, self)?;
        let mut x = x;
        let at_once = self.plan.schedule.layers_at_once(problem);
        for layer in (0..problem.layers).step_by(at_once) {
            let into = self.into.filter(|_| layer + at_once >= problem.layers);
            let y = match into {
                Some(into) if self.merge().is_none() => into.clone(),
                _ => self.output(&device)?,
            };
            for (index, &chunk) in self.plan.chunks.iter().enumerate() {
                project::input(recorder, self, layer, &x, chunk, &gates_x)?;
                record_steps(recorder, &ProjectedChunk { layer, index, chunk, gates_x: &gates_x, y: &y })?;
            }
            x = self.merged(recorder, y, into)?;
        }
        Ok(x)
    }

    /// Allocates the output of one layer. In every step and row, it holds the directions one behind the other.
    fn output(&self, device: &GpuDevice) -> Result<Buffer> {
        Buffer::new(device, "y", self.input.time * self.input.batch * self.width())
    }

    fn width(&self) -> usize {
        self.stack.problem.cells.len() * self.out
    }

    /// The operation that merges the outputs of two directions, if the stack does so.
    fn merge(&self) -> Option<Binary> {
        self.stack.merge.filter(|_| self.stack.problem.cells.len() == 2)
    }

    /// Merges the directions' outputs into one, if the stack does so: into the buffer `into`, if it is given.
    fn merged(&self, recorder: &mut Recorder, y: Buffer, into: Option<&Buffer>) -> Result<Buffer> {
        let Some(op) = self.merge() else { return Ok(y) };
        let half = |offset| Operand { buffer: &y, stride: self.width(), offset };
        let size = [self.input.time * self.input.batch, self.out];
        binary_into(recorder, op, half(0), half(self.out), size, into)
    }
}

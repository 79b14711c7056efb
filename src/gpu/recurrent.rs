//! Recurrent layers on the GPU: weights packed for the kernels, and one call recorded as a list of dispatches.

mod alternate;
mod kernel_cell;
mod pack;
mod product;
mod project;
mod scan;
mod special;
mod state;
mod step;
mod training;
mod wide;

pub(crate) use self::training::{
    Incoming, ParameterBuffers, TrainingGradient, TrainingRun, TrainingStack, TrainingTape, forward_training,
};

pub use self::kernel_cell::KernelCell;
use self::pack::PackedStack;
pub(crate) use self::state::RunState;
use super::buffer::Buffer;
use super::context::GpuDevice;
use super::ops::{Operand, binary};
use super::recorder::Recorder;
use crate::cell::{Direction, Pad, Parameters};
use crate::error::Result;
use crate::op::Binary;
use crate::plan::{Limits, Plan, PlanKind, Problem};

/// A stack of layers on the device.
pub(crate) struct LayerStack {
    /// The stack itself: no time, no batch.
    problem: Problem,
    /// Bit d: direction d runs in reverse.
    reverse: u32,
    merge: Option<Binary>,
    kind: Option<PlanKind>,
    packed: PackedStack,
}

impl LayerStack {
    /// Uploads a stack. `parameters[layer][direction]` fit the cells: [`nn`](crate::nn) has checked them.
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
        Ok(Self { problem, reverse, merge, kind, packed })
    }

    /// The weights, read back: `[layer][direction]`.
    pub(crate) fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        self.packed.parameters(&self.problem)
    }

    /// The schedule of a call.
    pub(crate) fn plan(&self, limits: &Limits, time: usize, batch: usize) -> Result<Plan> {
        Plan::new(Problem { time, batch, ..self.problem.clone() }, limits, self.kind)
    }
}

/// Bit d: direction d runs in reverse.
fn reverse_bits(directions: &[Direction]) -> u32 {
    (0..).zip(directions).map(|(bit, d): (u32, _)| u32::from(*d == Direction::Reverse) << bit).sum()
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

/// A call with its schedule.
struct Call<'a> {
    stack: &'a LayerStack,
    run: &'a Run<'a>,
    plan: &'a Plan,
    /// Width of one direction's output.
    out: usize,
}

/// Records one call over the whole stack; returns `y [time, batch, width]`.
pub(crate) fn forward(
    recorder: &mut Recorder,
    stack: &LayerStack,
    run: &Run<'_>,
    state: &RunState<'_>,
) -> Result<Buffer> {
    let device = recorder.device().clone();
    let plan = device.tuned(stack.plan(device.plan_limits(), run.time, run.batch)?, stack.kind.is_some());
    let problem = plan.problem();
    let call = Call { stack, run, plan: &plan, out: problem.out() };
    if run.time == 0 || run.batch == 0 {
        return Buffer::new(&device, "y", 0);
    }
    device.note_plan(plan.kind);
    state.keep(recorder);
    let x = in_whole_words(recorder, run.x, run.time * run.batch * problem.input)?;
    match plan.kind {
        PlanKind::Step => step::layers(recorder, &call, state, x),
        PlanKind::Wave => step::wave(recorder, &call, state, &x),
        PlanKind::Scan => scan::layers(recorder, &call, state, x),
        PlanKind::Wide => wide::layers(recorder, &call, state, x),
    }
}

/// Kernels read words of four elements; a caller's own buffer may end within one.
fn in_whole_words(recorder: &mut Recorder, x: &Buffer, len: usize) -> Result<Buffer> {
    if x.in_whole_words() {
        return Ok(x.clone());
    }
    let copy = Buffer::new(recorder.device(), "x", len)?;
    recorder.copy((x, 0), (&copy, 0), len);
    Ok(copy)
}

impl Call<'_> {
    /// Room for the output of one layer, its directions side by side.
    fn output(&self, device: &GpuDevice) -> Result<Buffer> {
        Buffer::new(device, "y", self.run.time * self.run.batch * self.width())
    }

    fn width(&self) -> usize {
        self.stack.problem.cells.len() * self.out
    }

    /// The directions' outputs as one, where the stack merges them.
    fn merged(&self, recorder: &mut Recorder, y: Buffer) -> Result<Buffer> {
        match self.stack.merge {
            Some(op) if self.stack.problem.cells.len() == 2 => {
                let half = |offset| Operand { buffer: &y, stride: self.width(), offset };
                binary(recorder, op, half(0), half(self.out), [self.run.time * self.run.batch, self.out])
            }
            _ => Ok(y),
        }
    }
}

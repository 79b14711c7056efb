//! Recurrent stacks for inference, packed for the path of their device.

mod replayed;

use std::sync::Arc;

use ndarray::Dim;

use std::borrow::Cow;
use std::iter;

use super::{Device, DeviceSequence, Recorder, StateTensors};
use crate::cell::{Direction, Parameters, Sequence};
use crate::cpu;
use crate::error::{Error, Result, elements};
use crate::gpu;
use crate::memory;
use crate::op::Binary;
use crate::plan::{Limits, Plan, PlanKind, Problem};
use crate::reference;
use crate::tensor::{Tensor, view};

const OP: &str = "Recurrent";

/// The weights of a stack as its path reads them.
pub(crate) enum PackedStack {
    Reference(reference::Stack),
    Cpu(cpu::Stack),
    Gpu(gpu::LayerStack),
}

/// One call of a stack, whose shapes have been checked.
pub(crate) struct StackCall<'a> {
    /// `[T, B, input]`
    pub(crate) x: &'a Tensor,
    pub(crate) sequence: DeviceSequence<'a>,
    /// Width of the output.
    pub(crate) width: usize,
}

impl StackCall<'_> {
    /// `[T, B, input]`
    pub(super) fn shape(&self) -> [usize; 3] {
        self.x.shape().try_into().unwrap_or_default()
    }

    /// `[T, B, width]`
    pub(super) fn output_shape(&self) -> [usize; 3] {
        let [time, batch, _] = self.shape();
        [time, batch, self.width]
    }

    /// The instructions for a path that computes on the host.
    pub(super) fn host_sequence(&self) -> Result<Cow<'_, Sequence>> {
        let [time, batch, _] = self.shape();
        self.sequence.on_host(time, batch)
    }

    /// Refuses a buffer for the output that the call reads from.
    fn check_apart(&self, y: &gpu::Buffer, state: &StateTensors<'_>) -> Result<()> {
        let initial = state.initial.into_iter().flatten().map(|tensor| ("the state's initial value", tensor));
        for (what, read) in iter::once(("x", self.x)).chain(self.sequence.tensors()).chain(initial) {
            if read.buffer(OP, what)?.overlaps(y) {
                let (expected, found) = ("memory that the call does not read", format!("the buffer of {what}"));
                return Err(Error::Value { op: OP, what: "y", expected, found });
            }
        }
        Ok(())
    }

    /// The call's buffers and sizes for a GPU.
    pub(super) fn gpu_input(&self, recorder: &mut gpu::Recorder) -> Result<gpu::SequenceInput<'_>> {
        let [time, batch, _] = self.shape();
        self.sequence.on_gpu(recorder, self.x.buffer(OP, "x")?, [time, batch])
    }
}

impl PackedStack {
    /// Packs `parameters[layer][direction]`, which fit the cells. Time and batch of `problem` are 0.
    pub(crate) fn new(
        device: &Device,
        problem: Problem,
        directions: &[Direction],
        merge: Option<Binary>,
        kind: Option<PlanKind>,
        parameters: &[Vec<Parameters>],
    ) -> Result<Self> {
        Ok(match device {
            Device::Reference => Self::Reference(reference::Stack::new(problem.cells, directions, merge, parameters)?),
            Device::Cpu | Device::CpuWith(_) => {
                let Problem { cells, input, hidden, weight_type, .. } = problem;
                let sizes = (input, hidden);
                let cpu = device.cpu_or_shared();
                Self::Cpu(cpu::Stack::new(&cpu, &cells, directions, merge, sizes, parameters, weight_type)?)
            }
            Device::Gpu(gpu) => {
                let kind = kind.or(gpu.plan_kind());
                Self::Gpu(gpu::LayerStack::new(gpu, problem, directions, merge, kind, parameters)?)
            }
        })
    }

    /// Copies the weights to the host, `[layer][direction]`.
    pub(crate) fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        match self {
            Self::Reference(stack) => stack.parameters(),
            Self::Cpu(stack) => stack.parameters(),
            Self::Gpu(stack) => stack.parameters(),
        }
    }

    /// The stack of the CPU path, which computes in a caller's memory.
    pub(crate) fn cpu(&self) -> Option<&cpu::Stack> {
        match self {
            Self::Cpu(stack) => Some(stack),
            _ => None,
        }
    }

    /// Runs all layers. On a GPU the state advances when the recorder is submitted, on the host at once.
    pub(crate) fn record(
        self: &Arc<Self>,
        recorder: &mut Recorder,
        call: &StackCall<'_>,
        state: StateTensors<'_>,
    ) -> Result<Tensor> {
        let (device, shape) = (call.x.device(), call.output_shape());
        match &**self {
            Self::Reference(stack) => {
                let mut arrays = state.arrays()?;
                let x = view(OP, call.x.host(OP, "x")?, Dim(call.shape()))?;
                let y = stack.forward(x, &*call.host_sequence()?, &mut arrays)?;
                let y = Tensor::from_array(device, &y)?;
                state.set_arrays(&arrays)?;
                Ok(y)
            }
            Self::Cpu(_) if recorder.recording().is_some() => replayed::record(self, recorder, call, state),
            Self::Cpu(stack) => {
                let mut y = memory::zeros(OP, elements(OP, "y", &shape)?)?;
                let [time, batch, _] = shape;
                let sequence = call.host_sequence()?;
                forward_on_cpu(stack, [time, batch], call.x.host(OP, "x")?, (&mut y, true), state, &sequence)?;
                Tensor::from_vec(device, &shape, y)
            }
            Self::Gpu(stack) => {
                let recorder = gpu_recorder(OP, recorder, device)?;
                let gpu = recorder.device().clone();
                let input = call.gpu_input(recorder)?;
                let y = gpu::forward(recorder, stack, &input, &state.buffers()?, None)?;
                Ok(Tensor::from_buffer(&gpu, &shape, y))
            }
        }
    }
}

impl PackedStack {
    /// [`PackedStack::record`] into the memory of `y`, whose shape and device have been checked.
    pub(crate) fn record_into(
        self: &Arc<Self>,
        recorder: &mut Recorder,
        call: &StackCall<'_>,
        state: StateTensors<'_>,
        y: &mut Tensor,
    ) -> Result<()> {
        if let Some(recording) = recorder.recording() {
            // A replay writes its own memory, never a caller's.
            recording.refuse();
        }
        match &**self {
            Self::Reference(_) => *y = self.record(recorder, call, state)?,
            Self::Cpu(stack) => {
                let [time, batch, _] = call.shape();
                let (x, sequence) = (call.x.host(OP, "x")?, call.host_sequence()?);
                forward_on_cpu(stack, [time, batch], x, (y.host_mut(OP, "y")?, false), state, &sequence)?;
            }
            Self::Gpu(stack) => {
                let recorder = gpu_recorder(OP, recorder, call.x.device())?;
                let into = y.output_buffer(OP, "y")?.clone();
                call.check_apart(&into, &state)?;
                let input = call.gpu_input(recorder)?;
                gpu::forward(recorder, stack, &input, &state.buffers()?, Some(&into))?;
            }
        }
        Ok(())
    }
}

/// Runs all layers of a stack on the CPU in the caller's memory, and advances the state. `y_is_zero` says whether `y` holds
/// zeros.
pub(crate) fn forward_on_cpu(
    stack: &cpu::Stack,
    [time, batch]: [usize; 2],
    x: &[f32],
    (y, y_is_zero): (&mut [f32], bool),
    state: StateTensors<'_>,
    sequence: &Sequence,
) -> Result<()> {
    let flags = sequence.flags(time, batch)?;
    let StateTensors { h, s, initial: [initial_h, initial_s], workspace } = state;
    let initial_h = initial_h.map(|h| h.host(OP, "state")).transpose()?;
    let initial_s = initial_s.map(|s| s.host(OP, "state")).transpose()?;
    let h = h.host_mut(OP, "state")?;
    let s = match s {
        Some(s) => s.host_mut(OP, "state")?,
        None => &mut [],
    };
    let flags = flags.as_ref().and_then(|flags| flags.as_slice());
    let pad = sequence.padding();
    stack.forward(cpu::StackCall { time, batch, x, y, y_is_zero, flags, pad, h, s, initial_h, initial_s }, workspace)
}

/// The GPU's part of a recorder.
pub(super) fn gpu_recorder<'a>(
    op: &'static str,
    recorder: &'a mut Recorder,
    device: &Device,
) -> Result<&'a mut gpu::Recorder> {
    recorder.gpu().ok_or_else(|| Error::DeviceMismatch {
        op,
        what: "recorder",
        expected: device.to_string(),
        found: "the host".to_owned(),
    })
}

/// The schedule of a call on a device. `kind` is the kind of plan that the caller asks for.
pub(crate) fn plan(device: &Device, problem: Problem, kind: Option<PlanKind>) -> Result<Plan> {
    match device {
        Device::Gpu(gpu) => {
            let kind = kind.or(gpu.plan_kind());
            let plan = Plan::new(problem, gpu.plan_limits(), kind)?;
            Ok(gpu.tuned(plan, kind.is_some()))
        }
        host => {
            let limits = Limits { adapter: host.to_string(), binding_bytes: isize::MAX as u64, ..Limits::portable() };
            Plan::new(problem, &limits, kind)
        }
    }
}

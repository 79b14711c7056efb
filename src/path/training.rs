//! Training passes of a stack: forward passes that keep values for the backward pass, and back-propagation through time.

use std::sync::Arc;

use ndarray::{Array3, Ix3};

use super::stack::gpu_recorder;
use super::{Device, ParameterTensors, Recorder, StackCall, StateTensors};
use crate::cell::{Direction, Noise, Parameters};
use crate::cpu;
use crate::error::Result;
use crate::gpu::{self, GpuDevice};
use crate::op::Binary;
use crate::plan::Problem;
use crate::reference;
use crate::tensor::Tensor;

const OP: &str = "TrainableRecurrent";

/// The forward pass of a trainable stack.
pub(crate) struct TrainingPass<'a> {
    /// Its time and batch are 0.
    pub(crate) problem: Problem,
    pub(crate) directions: &'a [Direction],
    pub(crate) merge: Option<Binary>,
    /// `[layer][direction]`
    pub(crate) parameters: &'a [Vec<ParameterTensors>],
    pub(crate) noise: Noise,
    /// With gradient checkpointing, the most steps between two kept states. The backward pass runs these steps again.
    pub(crate) checkpoint: Option<usize>,
}

/// The values that a forward pass kept.
pub(crate) enum PathTape {
    Reference(Box<reference::StackTape>),
    Cpu(cpu::TrainingTape),
    Gpu(Box<GpuTape>),
}

/// The tape of a GPU, and the parameters that the pass read.
pub(crate) struct GpuTape {
    device: GpuDevice,
    tape: gpu::TrainingTape,
    /// `[layer][direction]`
    parameters: Vec<Vec<ParameterTensors>>,
}

/// The shapes of a pass.
#[derive(Clone, Copy)]
pub(crate) struct PassShapes {
    /// `[T, B, input]`
    pub(crate) x: [usize; 3],
    /// `[layers directions, B, O]`
    pub(crate) h: [usize; 3],
    /// `[layers directions, B, hidden]`
    pub(crate) s: Option<[usize; 3]>,
}

/// Gradients with respect to everything that a pass read.
pub(crate) struct PassGradient {
    pub(crate) x: Tensor,
    pub(crate) h: Tensor,
    pub(crate) s: Option<Tensor>,
    pub(crate) initial_h: Tensor,
    pub(crate) initial_s: Option<Tensor>,
    /// `[layer][direction]`
    pub(crate) parameters: Vec<Vec<ParameterTensors>>,
}

impl TrainingPass<'_> {
    /// Runs all layers, advances the state and keeps the values that the backward pass needs. On a GPU this happens when the
    /// recorder is submitted.
    pub(crate) fn record(
        self,
        recorder: &mut Recorder,
        call: &StackCall<'_>,
        state: StateTensors<'_>,
    ) -> Result<(Tensor, PathTape)> {
        match call.x.device() {
            Device::Reference => {
                let (y, tape) = self.on_reference(call, state)?;
                Ok((y, PathTape::Reference(Box::new(tape))))
            }
            Device::Cpu | Device::CpuWith(_) => {
                let (y, tape) = self.on_cpu(call, state)?;
                Ok((y, PathTape::Cpu(tape)))
            }
            Device::Gpu(gpu) => {
                let (y, tape) = self.on_gpu(gpu, recorder, call, &state)?;
                Ok((y, PathTape::Gpu(Box::new(tape))))
            }
        }
    }

    fn on_reference(self, call: &StackCall<'_>, state: StateTensors<'_>) -> Result<(Tensor, reference::StackTape)> {
        let stack = reference_stack(self.problem, self.directions, self.merge, self.parameters)?;
        let mut arrays = state.arrays()?;
        let x: Array3<f32> = call.x.to_array()?;
        let (y, tape) = stack.forward_training(x.view(), &*call.host_sequence()?, self.noise, &mut arrays)?;
        let y = Tensor::from_array(call.x.device(), &y)?;
        state.set_arrays(&arrays)?;
        Ok((y, tape))
    }

    fn on_cpu(self, call: &StackCall<'_>, state: StateTensors<'_>) -> Result<(Tensor, cpu::TrainingTape)> {
        let device = call.x.device();
        let mut parameters = Vec::with_capacity(self.parameters.len());
        for layer in self.parameters {
            parameters.push(layer.iter().map(ParameterTensors::on_host).collect::<Result<Vec<_>>>()?);
        }
        let Problem { cells, input, hidden, .. } = self.problem;
        let (cpu, sizes) = (device.cpu_or_shared(), [input, hidden]);
        let stack = cpu::TrainingStack::new(&cpu, &cells, self.directions, self.merge, sizes, &parameters)?;
        let read = |tensor: Option<&Tensor>| -> Result<Option<Vec<f32>>> { tensor.map(Tensor::to_vec).transpose() };
        let (initial_h, initial_s) = (read(state.initial[0])?, read(state.initial[1])?);
        let tensors = cpu::TrainingCall {
            x: call.x.host(OP, "x")?,
            h: state.h.host(OP, "state")?,
            s: state.s.as_ref().map_or(Ok(&[][..]), |s| s.host(OP, "state"))?,
            initial_h: initial_h.as_deref(),
            initial_s: initial_s.as_deref(),
        };
        let [time, batch, _] = call.shape();
        let sequence = call.host_sequence()?;
        let flags = sequence.flags(time, batch)?.map(|flags| flags.into_raw_vec_and_offset().0);
        let (pad, noise, checkpoint) = (sequence.padding(), self.noise, self.checkpoint);
        let steps = cpu::TrainingSteps { time, batch, flags, pad, noise, checkpoint };
        let (output, tape) = Arc::new(stack).forward(&tensors, steps)?;
        let y = Tensor::from_vec(device, &call.output_shape(), output.y)?;
        let h = Tensor::from_vec(device, state.h.shape(), output.h)?;
        if let Some(s) = state.s {
            *s = Tensor::from_vec(device, s.shape(), output.s)?;
        }
        *state.h = h;
        Ok((y, tape))
    }

    fn on_gpu(
        self,
        device: &GpuDevice,
        recorder: &mut Recorder,
        call: &StackCall<'_>,
        state: &StateTensors<'_>,
    ) -> Result<(Tensor, GpuTape)> {
        let recorder = gpu_recorder(OP, recorder, call.x.device())?;
        let sequence = call.gpu_input(recorder)?;
        let buffers = |layer: &Vec<ParameterTensors>| layer.iter().map(ParameterTensors::buffers).collect();
        let stack = gpu::TrainingStack {
            problem: self.problem,
            directions: self.directions,
            merge: self.merge,
            parameters: self.parameters.iter().map(buffers).collect::<Result<_>>()?,
        };
        let training = gpu::TrainingInput { sequence, noise: self.noise, checkpoint: self.checkpoint };
        let (y, tape) = gpu::forward_training(recorder, stack, training, &state.buffers()?)?;
        let y = Tensor::from_buffer(device, &call.output_shape(), y);
        Ok((y, GpuTape { device: device.clone(), tape, parameters: self.parameters.to_vec() }))
    }
}

/// A stack of the reference with a copy of the parameters.
pub(crate) fn reference_stack(
    problem: Problem,
    directions: &[Direction],
    merge: Option<Binary>,
    parameters: &[Vec<ParameterTensors>],
) -> Result<reference::Stack> {
    let read = |layer: &Vec<ParameterTensors>| layer.iter().map(ParameterTensors::to_host).collect();
    let parameters = parameters.iter().map(read).collect::<Result<Vec<Vec<Parameters>>>>()?;
    reference::Stack::new(problem.cells, directions, merge, &parameters)
}

impl PathTape {
    /// Back-propagation through time, from the gradients with respect to the output and to `h` and `s` after the last step; the
    /// latter are zero if absent. `clip` clamps the gradient with respect to the state between two steps.
    pub(crate) fn backward(
        &self,
        recorder: &mut Recorder,
        shapes: PassShapes,
        dy: &Tensor,
        d_state: [Option<&Tensor>; 2],
        clip: Option<f32>,
    ) -> Result<PassGradient> {
        match self {
            Self::Reference(tape) => {
                let read = |tensor: Option<&Tensor>| tensor.map(Tensor::to_array::<Ix3>).transpose();
                let (d_h, d_s) = (read(d_state[0])?, read(d_state[1])?);
                let d = tape.backward(&dy.to_array()?, [d_h.as_ref(), d_s.as_ref()], clip, |_| Ok(()))?;
                let reference::StackGradient { x, h, s, initial_h, initial_s, parameters } = d;
                uploaded(dy.device(), shapes, x, [(h, s), (initial_h, initial_s)], parameters)
            }
            Self::Cpu(tape) => {
                let d_h = d_state[0].map(|h| h.host(OP, "the gradient with respect to h")).transpose()?;
                let d_s = d_state[1].map(|s| s.host(OP, "the gradient with respect to s")).transpose()?;
                let d = tape.backward(dy.host(OP, "dy")?, d_h, d_s, clip)?;
                let cpu::TrainingGradient { x, h, s, initial_h, initial_s, parameters } = d;
                uploaded(dy.device(), shapes, x, [(h, s), (initial_h, initial_s)], parameters)
            }
            Self::Gpu(tape) => tape.backward(recorder, shapes, dy, d_state, clip),
        }
    }
}

impl GpuTape {
    fn backward(
        &self,
        recorder: &mut Recorder,
        shapes: PassShapes,
        dy: &Tensor,
        [d_h, d_s]: [Option<&Tensor>; 2],
        clip: Option<f32>,
    ) -> Result<PassGradient> {
        let incoming = gpu::IncomingGradient {
            dy: dy.buffer(OP, "dy")?,
            d_h: d_h.map(|h| h.buffer(OP, "the gradient with respect to h")).transpose()?,
            d_s: d_s.map(|s| s.buffer(OP, "the gradient with respect to s")).transpose()?,
            clip,
        };
        let gpu::TrainingGradient { x, h, s, initial_h, initial_s, parameters } =
            self.tape.backward(gpu_recorder(OP, recorder, dy.device())?, &incoming)?;
        let tensor = |shape: &[usize], buffer| Tensor::from_buffer(&self.device, shape, buffer);
        let cell_state = |s: Option<gpu::Buffer>| shapes.s.zip(s).map(|(shape, s)| tensor(&shape, s));
        let named = |(like, buffers): (&Vec<ParameterTensors>, &Vec<gpu::ParameterBuffers>)| {
            like.iter().zip(buffers).map(|(like, buffers)| like.of_buffers(&self.device, buffers)).collect()
        };
        Ok(PassGradient {
            x: tensor(&shapes.x, x),
            h: tensor(&shapes.h, h),
            s: cell_state(s),
            initial_h: tensor(&shapes.h, initial_h),
            initial_s: cell_state(initial_s),
            parameters: self.parameters.iter().zip(&parameters).map(named).collect(),
        })
    }
}

/// Gradients that a host path computed, as tensors.
fn uploaded(
    device: &Device,
    shapes: PassShapes,
    x: Vec<f32>,
    [(h, s), (initial_h, initial_s)]: [(Vec<f32>, Vec<f32>); 2],
    parameters: Vec<Vec<Parameters>>,
) -> Result<PassGradient> {
    let cell_state = |s: Vec<f32>| shapes.s.map(|shape| Tensor::from_vec(device, &shape, s)).transpose();
    let upload =
        |layer: Vec<Parameters>| layer.into_iter().map(|p| ParameterTensors::moved(device, p)).collect::<Result<_>>();
    Ok(PassGradient {
        x: Tensor::from_vec(device, &shapes.x, x)?,
        h: Tensor::from_vec(device, &shapes.h, h)?,
        s: cell_state(s)?,
        initial_h: Tensor::from_vec(device, &shapes.h, initial_h)?,
        initial_s: cell_state(initial_s)?,
        parameters: parameters.into_iter().map(upload).collect::<Result<_>>()?,
    })
}

//! Training passes on a GPU: tensors in, tensors out, nothing read back.

use super::tape::{RecurrentGradient, StateGradient, Tape};
use super::{OP, ParameterTensors, TrainableRecurrent, TrainingOptions};
use crate::cell::{Cell, Sequence};
use crate::error::{Error, Result, axes};
use crate::gpu::{self, GpuDevice};
use crate::nn::state::State;
use crate::ops::{Recorder, resident};
use crate::tensor::Tensor;

fn recording<'a>(recorder: &'a mut Recorder, device: &GpuDevice) -> Result<&'a mut gpu::Recorder> {
    recorder.gpu().ok_or_else(|| Error::DeviceMismatch {
        op: OP,
        what: "recorder",
        expected: device.adapter().name.clone(),
        found: "the host".to_owned(),
    })
}

fn optional<'a>(what: &'static str, tensor: Option<&'a Tensor>) -> Result<Option<&'a gpu::Buffer>> {
    tensor.map(|tensor| resident(OP, what, tensor)).transpose()
}

impl ParameterTensors {
    fn buffers(&self) -> Result<gpu::ParameterBuffers> {
        let get = |name: &'static str| -> Result<Option<gpu::Buffer>> { Ok(optional(name, self.get(name))?.cloned()) };
        let needed = |name: &'static str| {
            get(name)?.ok_or_else(|| Error::Shape {
                op: OP,
                what: name,
                expected: "present".to_owned(),
                found: Vec::new(),
            })
        };
        Ok(gpu::ParameterBuffers {
            weight_ih: needed("weight_ih")?,
            weight_hh: needed("weight_hh")?,
            bias: get("bias_ih")?.zip(get("bias_hh")?).map(|(ih, hh)| [ih, hh]),
            weight_hr: get("weight_hr")?,
            peephole: get("peephole")?,
        })
    }

    /// Buffers in the shapes of these parameters, by their names.
    fn of_buffers(&self, device: &GpuDevice, buffers: &gpu::ParameterBuffers) -> Self {
        let gpu::ParameterBuffers { weight_ih, weight_hh, bias, weight_hr, peephole } = buffers;
        let [bias_ih, bias_hh] = bias.as_ref().map_or([None; 2], |[ih, hh]| [Some(ih), Some(hh)]);
        let buffer = |name: &str| match name {
            "weight_ih" => Some(weight_ih),
            "weight_hh" => Some(weight_hh),
            "bias_ih" => bias_ih,
            "bias_hh" => bias_hh,
            "weight_hr" => weight_hr.as_ref(),
            _ => peephole.as_ref(),
        };
        let named = self
            .named
            .iter()
            .filter_map(|(name, like)| Some((*name, Tensor::from_buffer(device, like.shape(), buffer(name)?.clone()))));
        Self { named: named.collect() }
    }
}

/// What a pass on a GPU kept, and the parameters it read.
pub(super) struct GpuTape {
    device: GpuDevice,
    tape: gpu::TrainingTape,
    /// `[layer][direction]`
    parameters: Vec<Vec<ParameterTensors>>,
}

impl<C: Clone + Into<Cell>> TrainableRecurrent<C> {
    pub(super) fn on_gpu(
        &self,
        device: &GpuDevice,
        recorder: &mut Recorder,
        x: &Tensor,
        state: &State,
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<(Tensor, GpuTape)> {
        let [time, batch, _] = axes(OP, "x", "[T, B, input]", x.shape())?;
        let flags = match sequence.flags(time, batch)? {
            Some(flags) => Some(gpu::Buffer::from_slice(device, "flags", &flags.into_raw_vec_and_offset().0)?),
            None => None,
        };
        let buffers = |layer: &Vec<ParameterTensors>| layer.iter().map(ParameterTensors::buffers).collect();
        let stack = gpu::TrainingStack {
            problem: self.config.problem(0, 0),
            directions: &self.config.directions,
            merge: self.config.merge.op(),
            parameters: self.parameters.iter().map(buffers).collect::<Result<_>>()?,
        };
        let x = resident(OP, "x", x)?;
        let run = gpu::SequenceInput { x, time, batch, flags, resets: sequence.resets(), pad: sequence.padding() };
        let (initial_h, initial_s) = state.initial();
        let (initial_h, initial_s) = (optional("state", initial_h)?, optional("state", initial_s)?);
        let run_state = gpu::StateBuffers {
            h: resident(OP, "state", &state.h)?,
            s: optional("state", state.s.as_ref())?,
            initial: initial_h.map(|h| (h, initial_s)),
        };
        let training = gpu::TrainingInput { sequence: run, noise: options.noise, checkpoint: options.checkpoint };
        let (y, tape) = gpu::forward_training(recording(recorder, device)?, stack, training, &run_state)?;
        let y = Tensor::from_buffer(device, &[time, batch, self.output_size()], y);
        Ok((y, GpuTape { device: device.clone(), tape, parameters: self.parameters.clone() }))
    }
}

impl GpuTape {
    pub(super) fn backward(
        &self,
        of: &Tape,
        recorder: &mut Recorder,
        dy: &Tensor,
        d_state: Option<&StateGradient>,
    ) -> Result<RecurrentGradient> {
        let incoming = gpu::IncomingGradient {
            dy: resident(OP, "dy", dy)?,
            d_h: optional("the gradient by h", d_state.map(|d| &d.h))?,
            d_s: optional("the gradient by s", d_state.and_then(|d| d.s.as_ref()))?,
            clip: of.recurrent_clip,
        };
        let d = self.tape.backward(recording(recorder, &self.device)?, &incoming)?;
        let gpu::TrainingGradient { x, h, s, initial_h, initial_s, parameters } = d;
        let tensor = |shape: &[usize], buffer| Tensor::from_buffer(&self.device, shape, buffer);
        let state = |h, s: Option<gpu::Buffer>| StateGradient {
            h: tensor(&of.state.0, h),
            s: of.state.1.zip(s).map(|(shape, s)| tensor(&shape, s)),
        };
        let named = |(like, buffers): (&Vec<ParameterTensors>, &Vec<gpu::ParameterBuffers>)| {
            like.iter().zip(buffers).map(|(like, buffers)| like.of_buffers(&self.device, buffers)).collect()
        };
        Ok(RecurrentGradient {
            x: tensor(&of.x, x),
            state: state(h, s),
            initial: state(initial_h, initial_s),
            parameters: self.parameters.iter().zip(&parameters).map(named).collect(),
        })
    }
}

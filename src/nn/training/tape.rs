//! What a forward pass keeps, and the gradients that come of it.

use ndarray::Array3;

use super::reference::ReferenceTape;
use super::{OP, ParameterTensors};
use crate::cell::Parameters;
use crate::cpu;
use crate::error::{Result, check_shape};
use crate::ops::{Recorder, host};
use crate::tensor::{Device, Tensor};

/// What a forward pass kept for its backward pass. The pass may be run more than once, for several losses.
pub struct Tape {
    pub(super) device: Device,
    pub(super) kept: Kept,
    pub(super) state: ([usize; 3], Option<[usize; 3]>),
    pub(super) x: [usize; 3],
    pub(super) width: usize,
    pub(super) recurrent_clip: Option<f32>,
}

pub(super) enum Kept {
    /// A call without rows: all gradients are zeros. The stack's parameters.
    Nothing(Vec<Vec<ParameterTensors>>),
    Reference(Box<ReferenceTape>),
    Cpu(cpu::TrainingTape),
    Gpu(Box<super::gpu::GpuTape>),
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape").field("device", &self.device).field("x", &self.x).finish_non_exhaustive()
    }
}

/// Gradients by a stack's state: by `h`, and by the cell state of an LSTM.
#[derive(Clone, Debug)]
pub struct StateGradient {
    /// `[layers directions, B, O]`
    pub h: Tensor,
    /// `[layers directions, B, hidden]`, present exactly for an LSTM.
    pub s: Option<Tensor>,
}

/// Gradients by everything that a call of a recurrent stack read.
#[derive(Clone, Debug)]
pub struct RecurrentGradient {
    /// By the input, `[T, B, input]`.
    pub x: Tensor,
    /// By the state before the first step.
    pub state: StateGradient,
    /// By the value that a reset inside the sequence returns to. If the state still stands at its initial value, the gradient with
    /// respect to that value is the sum of the two.
    pub initial: StateGradient,
    /// By the parameters, `[layer][direction]`.
    pub parameters: Vec<Vec<ParameterTensors>>,
}

impl RecurrentGradient {
    /// The parameters' gradients in the order of [`TrainableRecurrent::tensors`](super::TrainableRecurrent::tensors).
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.parameters.iter().flatten().flat_map(|p| p.named().iter().map(|(_, tensor)| tensor))
    }

    /// Copies the parameters' gradients to the host, `[layer][direction]`.
    ///
    /// # Errors
    /// What a read-back may meet.
    pub fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        self.parameters.iter().map(|layer| layer.iter().map(ParameterTensors::to_host).collect()).collect()
    }
}

/// Gradients on the host, before they become tensors.
pub(super) struct HostGradient {
    pub(super) x: Vec<f32>,
    pub(super) h: Vec<f32>,
    pub(super) s: Vec<f32>,
    pub(super) initial_h: Vec<f32>,
    pub(super) initial_s: Vec<f32>,
    pub(super) parameters: Vec<Vec<Parameters>>,
}

impl Tape {
    /// Back-propagation through time: the gradients by everything the forward pass read, from that by its output and, where
    /// the loss depends on it, that by the state it left.
    ///
    /// # Shapes
    /// `dy [T, B, output_size]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) or [`Error::DeviceMismatch`](crate::Error::DeviceMismatch) where a gradient
    /// does not fit the forward pass.
    pub fn backward(&self, dy: &Tensor, d_state: Option<&StateGradient>) -> Result<RecurrentGradient> {
        let mut recorder = self.device.recorder();
        let gradient = self.record_backward(&mut recorder, dy, d_state)?;
        recorder.submit()?;
        Ok(gradient)
    }

    /// Records [`Tape::backward`] beside other operations.
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn record_backward(
        &self,
        recorder: &mut Recorder,
        dy: &Tensor,
        d_state: Option<&StateGradient>,
    ) -> Result<RecurrentGradient> {
        let [time, batch, _] = self.x;
        dy.check_device(OP, "dy", &self.device)?;
        dy.check_device(OP, "recorder", recorder.device())?;
        check_shape(OP, "dy", &[time, batch, self.width], dy.shape())?;
        if let Some(d) = d_state {
            d.h.check_device(OP, "the gradient by h", &self.device)?;
            check_shape(OP, "the gradient by h", &self.state.0, d.h.shape())?;
            let (expected, found) = (self.state.1.as_ref(), d.s.as_ref());
            let found = found.map_or(&[][..], Tensor::shape);
            check_shape(OP, "the gradient by s", expected.map_or(&[][..], |s| s), found)?;
        }
        match &self.kept {
            Kept::Nothing(parameters) => self.zeros(parameters),
            Kept::Reference(tape) => {
                let read = |tensor: Option<&Tensor>| tensor.map(Tensor::to_array::<ndarray::Ix3>).transpose();
                let d_h: Option<Array3<f32>> = read(d_state.map(|d| &d.h))?;
                let d_s = read(d_state.and_then(|d| d.s.as_ref()))?;
                self.uploaded(tape.backward(&dy.to_array()?, d_h.as_ref(), d_s.as_ref(), self.recurrent_clip)?)
            }
            Kept::Cpu(tape) => {
                let d_h = d_state.map(|d| host(OP, "the gradient by h", &d.h)).transpose()?;
                let d_s = d_state.and_then(|d| d.s.as_ref());
                let d_s = d_s.map(|s| host(OP, "the gradient by s", s)).transpose()?;
                let d = tape.backward(host(OP, "dy", dy)?, d_h, d_s, self.recurrent_clip)?;
                let cpu::TrainingGradient { x, h, s, initial_h, initial_s, parameters } = d;
                self.uploaded(HostGradient { x, h, s, initial_h, initial_s, parameters })
            }
            Kept::Gpu(tape) => tape.backward(self, recorder, dy, d_state),
        }
    }

    fn zeros(&self, parameters: &[Vec<ParameterTensors>]) -> Result<RecurrentGradient> {
        let zeros = |shape: &[usize]| Tensor::zeros(&self.device, shape);
        let state = || -> Result<StateGradient> {
            let (h, s) = &self.state;
            Ok(StateGradient { h: zeros(h)?, s: s.as_ref().map(|s| zeros(s)).transpose()? })
        };
        let like = |p: &ParameterTensors| -> Result<ParameterTensors> {
            let named = p.named.iter().map(|(name, tensor)| Ok((*name, zeros(tensor.shape())?)));
            Ok(ParameterTensors { named: named.collect::<Result<_>>()? })
        };
        let layer = |layer: &Vec<ParameterTensors>| layer.iter().map(like).collect();
        Ok(RecurrentGradient {
            x: zeros(&self.x)?,
            state: state()?,
            initial: state()?,
            parameters: parameters.iter().map(layer).collect::<Result<_>>()?,
        })
    }

    fn uploaded(&self, d: HostGradient) -> Result<RecurrentGradient> {
        let state = |h: Vec<f32>, s: Vec<f32>| -> Result<StateGradient> {
            let s = self.state.1.map(|shape| Tensor::from_vec(&self.device, &shape, s)).transpose()?;
            Ok(StateGradient { h: Tensor::from_vec(&self.device, &self.state.0, h)?, s })
        };
        let upload = |layer: Vec<Parameters>| {
            layer.into_iter().map(|p| ParameterTensors::moved(&self.device, p)).collect::<Result<_>>()
        };
        Ok(RecurrentGradient {
            x: Tensor::from_vec(&self.device, &self.x, d.x)?,
            state: state(d.h, d.s)?,
            initial: state(d.initial_h, d.initial_s)?,
            parameters: d.parameters.into_iter().map(upload).collect::<Result<_>>()?,
        })
    }
}

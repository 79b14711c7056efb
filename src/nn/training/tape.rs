//! Tapes of forward passes, and the gradients that are computed from them.

use super::{OP, ParameterTensors};
use crate::cell::Parameters;
use crate::error::{Result, check_shape};
use crate::path::{Device, PassShapes, PathTape, Recorder};
use crate::tensor::Tensor;

/// The values that a forward pass kept for its backward pass, which may be run more than once, for several losses.
pub struct Tape {
    pub(super) device: Device,
    pub(super) kept: Kept,
    pub(super) shapes: PassShapes,
    pub(super) width: usize,
    pub(super) recurrent_clip: Option<f32>,
}

pub(super) enum Kept {
    /// A call without rows: all gradients are zeros, in the shapes of these parameters.
    Nothing(Vec<Vec<ParameterTensors>>),
    Pass(PathTape),
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tape").field("device", &self.device).field("x", &self.shapes.x).finish_non_exhaustive()
    }
}

/// Gradients with respect to a stack's state: to `h`, and to the cell state of an LSTM.
#[derive(Clone, Debug)]
pub struct StateGradient {
    /// `[layers directions, B, O]`
    pub h: Tensor,
    /// `[layers directions, B, hidden]`, present exactly for an LSTM.
    pub s: Option<Tensor>,
}

/// Gradients with respect to everything that a call of a recurrent stack read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecurrentGradient {
    /// With respect to the input, `[T, B, input]`.
    pub x: Tensor,
    /// With respect to the state before the first step.
    pub state: StateGradient,
    /// With respect to the value that a reset inside the sequence returns to. If the call begins at the initial value,
    /// the gradient with respect to that value is the sum of `state` and `initial`.
    pub initial: StateGradient,
    /// With respect to the parameters, `[layer][direction]`.
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
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        self.parameters.iter().map(|layer| layer.iter().map(ParameterTensors::to_host).collect()).collect()
    }
}

impl Tape {
    /// Back-propagation through time: the gradients with respect to everything that the forward pass read, from `dy`, the
    /// gradient with respect to its output. If the loss depends on the state that it left, `d_state` is the gradient with
    /// respect to that.
    ///
    /// # Shapes
    /// `dy [T, B, output_size]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) or [`Error::DeviceMismatch`](crate::Error::DeviceMismatch) if a gradient
    /// does not fit the forward pass.
    pub fn backward(&self, dy: &Tensor, d_state: Option<&StateGradient>) -> Result<RecurrentGradient> {
        let mut recorder = self.device.recorder();
        let gradient = self.record_backward(&mut recorder, dy, d_state)?;
        recorder.submit()?;
        Ok(gradient)
    }

    /// Records [`Tape::backward`] together with other operations.
    ///
    /// # Errors
    /// As [`Tape::backward`].
    pub fn record_backward(
        &self,
        recorder: &mut Recorder,
        dy: &Tensor,
        d_state: Option<&StateGradient>,
    ) -> Result<RecurrentGradient> {
        let PassShapes { x: [time, batch, _], h, s } = self.shapes;
        dy.check_device(OP, "dy", &self.device)?;
        dy.check_device(OP, "recorder", recorder.device())?;
        check_shape(OP, "dy", &[time, batch, self.width], dy.shape())?;
        if let Some(d) = d_state {
            let (of_h, of_s) = ("the gradient with respect to h", "the gradient with respect to s");
            d.h.check_device(OP, of_h, &self.device)?;
            check_shape(OP, of_h, &h, d.h.shape())?;
            let found = d.s.as_ref().map_or(&[][..], Tensor::shape);
            check_shape(OP, of_s, s.as_ref().map_or(&[][..], |s| s), found)?;
        }
        let tape = match &self.kept {
            Kept::Nothing(parameters) => return self.zeros(parameters),
            Kept::Pass(tape) => tape,
        };
        let d_state = [d_state.map(|d| &d.h), d_state.and_then(|d| d.s.as_ref())];
        let d = tape.backward(recorder, self.shapes, dy, d_state, self.recurrent_clip)?;
        Ok(RecurrentGradient {
            x: d.x,
            state: StateGradient { h: d.h, s: d.s },
            initial: StateGradient { h: d.initial_h, s: d.initial_s },
            parameters: d.parameters,
        })
    }

    fn zeros(&self, parameters: &[Vec<ParameterTensors>]) -> Result<RecurrentGradient> {
        let zeros = |shape: &[usize]| Tensor::zeros(&self.device, shape);
        let state = || -> Result<StateGradient> {
            let PassShapes { h, s, .. } = &self.shapes;
            Ok(StateGradient { h: zeros(h)?, s: s.as_ref().map(|s| zeros(s)).transpose()? })
        };
        let like = |p: &ParameterTensors| -> Result<ParameterTensors> {
            let named = p.named.iter().map(|(name, tensor)| Ok((*name, zeros(tensor.shape())?)));
            Ok(ParameterTensors { named: named.collect::<Result<_>>()? })
        };
        let layer = |layer: &Vec<ParameterTensors>| layer.iter().map(like).collect();
        Ok(RecurrentGradient {
            x: zeros(&self.shapes.x)?,
            state: state()?,
            initial: state()?,
            parameters: parameters.iter().map(layer).collect::<Result<_>>()?,
        })
    }
}

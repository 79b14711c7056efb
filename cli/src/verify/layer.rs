//! Runs the recurrent stack of a case.

use gatewise::cell::{Cell, Parameters, Sequence};
use gatewise::nn::{Config, Recurrent, State, StateGradient};
use gatewise::{Device, Result, Tensor};
use ndarray::Array3;

use super::outputs::Outputs;

/// The stack of a case with its inputs.
pub(super) struct Layer {
    pub(super) config: Config<Cell>,
    /// The parameters, `[layer][direction]`.
    pub(super) parameters: Vec<Vec<Parameters>>,
    /// The initial hidden state, `[layers directions, B, O]`; zeros if absent.
    pub(super) h: Option<Array3<f32>>,
    /// The initial cell state, `[layers directions, B, hidden]`; zeros if absent.
    pub(super) s: Option<Array3<f32>>,
    /// The input, `[T, B, I]`.
    pub(super) x: Array3<f32>,
    pub(super) sequence: Sequence,
}

/// The gradients of a loss with respect to the outputs of a stack.
pub(super) struct LossGradient {
    /// The gradient with respect to the output, `[T, B, width]`.
    pub(super) y: Array3<f32>,
    /// The gradient with respect to the last hidden state; zeros if absent.
    pub(super) h: Option<Array3<f32>>,
    /// The gradient with respect to the last cell state; zeros if absent.
    pub(super) s: Option<Array3<f32>>,
}

/// The gradients of a loss with respect to the inputs and parameters of a stack.
pub(super) struct LayerGradient {
    pub(super) x: Array3<f32>,
    pub(super) h: Array3<f32>,
    pub(super) s: Option<Array3<f32>>,
    pub(super) parameters: Vec<Vec<Parameters>>,
}

impl Layer {
    fn batch(&self) -> usize {
        self.x.shape()[1]
    }

    /// The stack on a device, ready to run.
    pub(super) fn stack(&self, device: &Device) -> Result<Stack> {
        let state = (self.h.as_ref(), self.s.as_ref());
        Stack::new(device, &self.config, self.parameters.clone(), self.batch(), state)
    }

    /// Runs forward and back over the whole sequence. `loss` computes the loss gradients from the output `[T, B, width]`.
    pub(super) fn gradients(
        &self,
        device: &Device,
        loss: impl FnOnce(&Array3<f32>) -> Result<LossGradient>,
    ) -> Result<LayerGradient> {
        let stack = self.config.trainable(device, &self.parameters)?;
        let zero = stack.zero_state(self.batch())?;
        let h = self.h.clone().map_or_else(|| zero.to_h(), Ok)?;
        let s = self.s.clone().map_or_else(|| zero.to_s(), |s| Ok(Some(s)))?;
        let mut state = stack.initial_state(h.view(), s.as_ref().map(|s| s.view()))?;
        let x = Tensor::from_array(device, &self.x)?;
        let (y, tape) = stack.forward_training(&x, &mut state, &self.sequence)?;
        let d_loss = loss(&y.to_array()?)?;
        let upload = |array: &Array3<f32>| Tensor::from_array(device, array);
        let like =
            |given: Option<Array3<f32>>, shape: &Array3<f32>| given.unwrap_or_else(|| Array3::zeros(shape.raw_dim()));
        let d_state = StateGradient {
            h: upload(&like(d_loss.h, &h))?,
            s: s.as_ref().map(|s| upload(&like(d_loss.s, s))).transpose()?,
        };
        let d = tape.backward(&upload(&d_loss.y)?, Some(&d_state))?;
        Ok(LayerGradient {
            x: d.x.to_array()?,
            h: d.state.h.to_array()?,
            s: d.state.s.as_ref().map(Tensor::to_array).transpose()?,
            parameters: d.parameters()?,
        })
    }
}

/// The outputs and the last state of a stack.
pub(super) struct Outcome {
    /// The output, `[T, B, width]`.
    pub(super) y: Array3<f32>,
    /// The last hidden state, `[layers directions, B, O]`.
    pub(super) h: Array3<f32>,
    /// The last cell state, `[layers directions, B, hidden]`.
    pub(super) s: Option<Array3<f32>>,
}

/// A stack with its initial state.
pub(super) struct Stack {
    layer: Recurrent,
    state: State,
    /// The largest sum of magnitudes of a row of recurrent weights.
    gain: f64,
}

impl Stack {
    /// Builds the stack. `h` and `s` are `[layers directions, B, ..]`; zeros if absent.
    pub(super) fn new(
        device: &Device,
        config: &Config<Cell>,
        parameters: Vec<Vec<Parameters>>,
        batch: usize,
        (h, s): (Option<&Array3<f32>>, Option<&Array3<f32>>),
    ) -> Result<Self> {
        let row_sums = parameters
            .iter()
            .flatten()
            .flat_map(|p| p.weight_hh.rows().into_iter().map(|row| row.map(|w| w.abs()).sum()));
        let gain = f64::from(row_sums.fold(0.0, f32::max));
        let layer = config.build(device, parameters)?;
        let zero = layer.zero_state(batch)?;
        let state = match (h, s) {
            (None, None) => zero,
            (h, s) => {
                let h = h.cloned().map_or_else(|| zero.to_h(), Ok)?;
                let s = match s {
                    Some(s) => Some(s.clone()),
                    None => zero.to_s()?,
                };
                layer.initial_state(h.view(), s.as_ref().map(|s| s.view()))?
            }
        };
        Ok(Self { layer, state, gain })
    }

    /// An empty collection for the outputs of a call.
    pub(super) fn outputs(&self) -> Outputs {
        Outputs::new(self.gain)
    }

    /// Advances over `x [T, B, I]`.
    pub(super) fn run(&mut self, x: &Array3<f32>, sequence: &Sequence) -> Result<Outcome> {
        let x = Tensor::from_array(self.layer.device(), x)?;
        let y = self.layer.forward_sequence(&x, &mut self.state, sequence)?.to_array()?;
        Ok(Outcome { y, h: self.state.to_h()?, s: self.state.to_s()? })
    }
}

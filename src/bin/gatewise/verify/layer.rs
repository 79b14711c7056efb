//! Running one recurrent stack for a case.

use gatewise::cell::{Cell, Parameters, Sequence};
use gatewise::nn::{Config, Recurrent, State};
use gatewise::{Device, Result, Tensor};
use ndarray::Array3;

/// What a stack left behind.
pub(super) struct Outcome {
    /// `[T, B, width]`
    pub(super) y: Array3<f32>,
    /// `[layers directions, B, O]`
    pub(super) h: Array3<f32>,
    /// `[layers directions, B, hidden]`
    pub(super) s: Option<Array3<f32>>,
}

/// A stack with the state it starts from.
pub(super) struct Stack {
    layer: Recurrent,
    state: State,
}

impl Stack {
    /// `h` and `s` are `[layers directions, B, ..]`; zeros where absent.
    pub(super) fn new(
        device: &Device,
        config: &Config<Cell>,
        parameters: Vec<Vec<Parameters>>,
        batch: usize,
        (h, s): (Option<&Array3<f32>>, Option<&Array3<f32>>),
    ) -> Result<Self> {
        let layer = config.build(device, parameters)?;
        let zero = layer.zero_state(batch)?;
        let state = match (h, s) {
            (None, None) => zero,
            (h, s) => {
                let h = h.cloned().map_or_else(|| zero.h(), Ok)?;
                let s = match s {
                    Some(s) => Some(s.clone()),
                    None => zero.s()?,
                };
                layer.state(h.view(), s.as_ref().map(|s| s.view()))?
            }
        };
        Ok(Self { layer, state })
    }

    /// The schedule's name for a call of this size.
    pub(super) fn plan(&self, x: &Array3<f32>) -> Result<String> {
        let _ = self.layer.plan(x.shape()[0], x.shape()[1])?;
        Ok("step".to_owned())
    }

    /// Advances over `x [T, B, I]`.
    pub(super) fn run(&mut self, x: &Array3<f32>, sequence: &Sequence) -> Result<Outcome> {
        let x = Tensor::from_array(self.layer.device(), x)?;
        let y = self.layer.forward_sequence(&x, &mut self.state, sequence)?.to_array()?;
        Ok(Outcome { y, h: self.state.h()?, s: self.state.s()? })
    }
}

//! Running one recurrent stack for a case.

use gatewise::cell::{Cell, Parameters, Sequence};
use gatewise::nn::{Config, Recurrent, State};
use gatewise::{Device, Result, Tensor};
use ndarray::Array3;

use super::outputs::Outputs;

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
    /// The largest sum of the magnitudes of a row of recurrent weights.
    gain: f64,
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
                let h = h.cloned().map_or_else(|| zero.h(), Ok)?;
                let s = match s {
                    Some(s) => Some(s.clone()),
                    None => zero.s()?,
                };
                layer.state(h.view(), s.as_ref().map(|s| s.view()))?
            }
        };
        Ok(Self { layer, state, gain })
    }

    /// Where to put what a call computes.
    pub(super) fn outputs(&self) -> Outputs {
        Outputs::new(self.gain)
    }

    /// Advances over `x [T, B, I]`.
    pub(super) fn run(&mut self, x: &Array3<f32>, sequence: &Sequence) -> Result<Outcome> {
        let x = Tensor::from_array(self.layer.device(), x)?;
        let y = self.layer.forward_sequence(&x, &mut self.state, sequence)?.to_array()?;
        Ok(Outcome { y, h: self.state.h()?, s: self.state.s()? })
    }
}

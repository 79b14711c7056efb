//! The constructors of states.

use ndarray::{ArrayView3, Axis};

use super::{SavedState, Shapes, State};
use crate::cell::Cell;
use crate::error::{Result, axes};
use crate::nn::{Config, Recurrent, TrainableRecurrent};
use crate::ops::Recorder;
use crate::tensor::{Device, Tensor};

impl<C: Clone + Into<Cell>> Config<C> {
    /// A state of zeros for `batch` rows of a stack of this configuration.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if it does not fit the device.
    pub fn zero_state(&self, device: &Device, batch: usize) -> Result<State> {
        State::zero(device, self.state_shapes(batch))
    }
}

/// The states of a stack, whose shapes follow from its configuration.
macro_rules! states_of {
    ($stack:ident, $configuration:ident) => {
        impl<C: Clone + Into<Cell>> $stack<C> {
            fn shapes(&self, batch: usize) -> Shapes {
                self.$configuration().state_shapes(batch)
            }

            /// A state of zeros for `batch` rows.
            ///
            /// # Errors
            /// [`Error::Limit`](crate::Error::Limit) if it does not fit the device.
            pub fn zero_state(&self, batch: usize) -> Result<State> {
                State::zero(self.device(), self.shapes(batch))
            }

            /// A state with the given current value. Its initial value is zero, so the given value should come from a run that
            /// began at zeros. [`Self::initial_state`] sets both to the given value; [`Self::restore`] takes two values.
            ///
            /// # Shapes
            /// `h [layers directions, B, O]`, `s [layers directions, B, hidden]`, present exactly for an LSTM.
            ///
            /// # Errors
            /// [`Error::Shape`](crate::Error::Shape) if they do not fit; [`Error::Limit`](crate::Error::Limit).
            pub fn state(&self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<State> {
                State::with_current(self.device(), self.shapes(h.len_of(Axis(1))), (h, s))
            }

            /// A state whose current and initial values are both the given value: PyTorch's `h_0` and `c_0`.
            ///
            /// # Shapes
            /// As [`Self::state`].
            ///
            /// # Errors
            /// As [`Self::state`].
            pub fn initial_state(&self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<State> {
                State::with_initial(self.device(), self.shapes(h.len_of(Axis(1))), (h, s))
            }

            /// Puts a state that [`State::save`] read back on this stack's device, with both of its values. The stack that it
            /// comes from may have lived on another device.
            ///
            /// # Errors
            /// As [`Self::state`].
            pub fn restore(&self, saved: &SavedState) -> Result<State> {
                State::restored(self.device(), self.shapes(saved.h.len_of(Axis(1))), saved)
            }

            /// Records [`Self::state`] from tensors that are on the device already. Nothing is read back.
            ///
            /// # Shapes
            /// As [`Self::state`].
            ///
            /// # Errors
            /// [`Error::Shape`](crate::Error::Shape) if they do not fit;
            /// [`Error::DeviceMismatch`](crate::Error::DeviceMismatch), [`Error::Limit`](crate::Error::Limit).
            pub fn record_state(&self, recorder: &mut Recorder, h: &Tensor, s: Option<&Tensor>) -> Result<State> {
                let batch = batch(h)?;
                State::record_with_current(recorder, self.shapes(batch), h, s)
            }

            /// Records [`Self::initial_state`] from tensors that are on the device already. Nothing is read back.
            ///
            /// # Shapes
            /// As [`Self::state`].
            ///
            /// # Errors
            /// As [`Self::record_state`].
            pub fn record_initial_state(
                &self,
                recorder: &mut Recorder,
                h: &Tensor,
                s: Option<&Tensor>,
            ) -> Result<State> {
                let batch = batch(h)?;
                State::record_with_initial(recorder, self.shapes(batch), h, s)
            }
        }
    };
}

states_of!(Recurrent, configuration);
states_of!(TrainableRecurrent, config);

/// Rows of an `h`.
fn batch(h: &Tensor) -> Result<usize> {
    let [_, batch, _] = axes("state", "h", "[layers directions, B, O]", h.shape())?;
    Ok(batch)
}

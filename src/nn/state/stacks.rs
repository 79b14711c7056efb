//! How a stack makes its states.

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
    /// [`Error::Limit`](crate::Error::Limit) where it does not fit the device.
    pub fn zero_state(&self, device: &Device, batch: usize) -> Result<State> {
        State::zero(device, self.state_shapes(batch))
    }
}

impl<C: Clone + Into<Cell>> Recurrent<C> {
    fn shapes(&self, batch: usize) -> Shapes {
        self.configuration().state_shapes(batch)
    }

    /// A state of zeros for `batch` rows.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) where it does not fit the device.
    pub fn zero_state(&self, batch: usize) -> Result<State> {
        State::zero(self.device(), self.shapes(batch))
    }

    /// A state that stands at the given value and whose resets return to zeros: one that was read back from a run that began at
    /// zeros. [`Recurrent::initial_state`] makes one that resets return to, [`Recurrent::restore`] one of two different values.
    ///
    /// # Shapes
    /// `h [layers directions, B, O]`, `s [layers directions, B, hidden]`, present exactly for an LSTM.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where they do not fit; [`Error::Limit`](crate::Error::Limit).
    pub fn state(&self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<State> {
        State::standing(self.device(), self.shapes(h.len_of(Axis(1))), (h, s))
    }

    /// A state that begins at the given value, PyTorch's `h_0` and `c_0`: it stands there, and a reset returns there.
    ///
    /// # Shapes
    /// As [`Recurrent::state`].
    ///
    /// # Errors
    /// As [`Recurrent::state`].
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, Tensor, nn::Gru};
    /// use ndarray::Array3;
    /// let gru = Gru::config(3, 4).random(&Device::Cpu, 7)?;
    /// let h0 = Array3::from_elem((1, 2, 4), 0.5); // [layers directions, B, O]
    /// let mut state = gru.initial_state(h0.view(), None)?;
    /// gru.forward(&Tensor::zeros(&Device::Cpu, &[5, 2, 3])?, &mut state)?;
    /// state.reset()?;
    /// assert_eq!(state.to_h()?, h0);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn initial_state(&self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<State> {
        State::beginning(self.device(), self.shapes(h.len_of(Axis(1))), (h, s))
    }

    /// Puts a state that [`State::save`] read back on this stack's device: it stands where it stood, and a reset returns to
    /// what it returned to. The stack it comes from may have lived elsewhere.
    ///
    /// # Errors
    /// As [`Recurrent::state`].
    pub fn restore(&self, saved: &SavedState) -> Result<State> {
        State::restored(self.device(), self.shapes(saved.h.len_of(Axis(1))), saved)
    }

    /// [`Recurrent::state`] from tensors that are on the device already, without a read-back; recorded.
    ///
    /// # Shapes
    /// As [`Recurrent::state`].
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) where they do not fit; [`Error::DeviceMismatch`](crate::Error::DeviceMismatch),
    /// [`Error::Limit`](crate::Error::Limit).
    pub fn record_state(&self, recorder: &mut Recorder, h: &Tensor, s: Option<&Tensor>) -> Result<State> {
        let batch = batch(h)?;
        State::record_standing(recorder, self.shapes(batch), h, s)
    }

    /// [`Recurrent::initial_state`] from tensors that are on the device already, without a read-back; recorded.
    ///
    /// # Shapes
    /// As [`Recurrent::state`].
    ///
    /// # Errors
    /// As [`Recurrent::record_state`].
    pub fn record_initial_state(&self, recorder: &mut Recorder, h: &Tensor, s: Option<&Tensor>) -> Result<State> {
        let batch = batch(h)?;
        State::record_beginning(recorder, self.shapes(batch), h, s)
    }
}

impl<C: Clone + Into<Cell>> TrainableRecurrent<C> {
    fn shapes(&self, batch: usize) -> Shapes {
        self.config().state_shapes(batch)
    }

    /// A state of zeros for `batch` rows.
    ///
    /// # Errors
    /// As [`Recurrent::zero_state`].
    pub fn zero_state(&self, batch: usize) -> Result<State> {
        State::zero(self.device(), self.shapes(batch))
    }

    /// A state that stands at the given value and whose resets return to zeros, as [`Recurrent::state`].
    ///
    /// # Errors
    /// As [`Recurrent::state`].
    pub fn state(&self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<State> {
        State::standing(self.device(), self.shapes(h.len_of(Axis(1))), (h, s))
    }

    /// A state that begins at the given value: a reset returns there, as [`Recurrent::initial_state`].
    ///
    /// # Errors
    /// As [`Recurrent::state`].
    pub fn initial_state(&self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<State> {
        State::beginning(self.device(), self.shapes(h.len_of(Axis(1))), (h, s))
    }

    /// Puts a saved state on this stack's device, as [`Recurrent::restore`].
    ///
    /// # Errors
    /// As [`Recurrent::state`].
    pub fn restore(&self, saved: &SavedState) -> Result<State> {
        State::restored(self.device(), self.shapes(saved.h.len_of(Axis(1))), saved)
    }

    /// [`TrainableRecurrent::state`] from tensors that are on the device already; recorded.
    ///
    /// # Errors
    /// As [`Recurrent::record_state`].
    pub fn record_state(&self, recorder: &mut Recorder, h: &Tensor, s: Option<&Tensor>) -> Result<State> {
        let batch = batch(h)?;
        State::record_standing(recorder, self.shapes(batch), h, s)
    }

    /// [`TrainableRecurrent::initial_state`] from tensors that are on the device already; recorded.
    ///
    /// # Errors
    /// As [`Recurrent::record_state`].
    pub fn record_initial_state(&self, recorder: &mut Recorder, h: &Tensor, s: Option<&Tensor>) -> Result<State> {
        let batch = batch(h)?;
        State::record_beginning(recorder, self.shapes(batch), h, s)
    }
}

/// Rows of an `h`.
fn batch(h: &Tensor) -> Result<usize> {
    let [_, batch, _] = axes("state", "h", "[layers directions, B, O]", h.shape())?;
    Ok(batch)
}

//! States saved on the host, and restored on a device.

use ndarray::Array3;

use super::{Initial, Shapes, State};
use crate::error::Result;
use crate::memory;
use crate::tensor::{Device, Tensor};

/// Both values of a [`State`] as arrays of the host, for a snapshot, a file, or another device. After
/// [`Error::DeviceLost`](crate::Error::DeviceLost), the last saved state can be restored in a stack that was built
/// anew.
///
/// [`State::save`] makes it and [`Recurrent::restore`](crate::nn::Recurrent::restore) puts it back. A run that is saved and
/// restored at any place equals the unbroken run, resets included: on one device bit by bit.
///
/// # Examples
/// ```
/// use gatewise::{Device, Tensor, nn::Lstm};
/// use ndarray::Array3;
///
/// let config = Lstm::config(3, 4);
/// let parameters = config.random_parameters(7)?;
/// let lstm = config.build(&Device::auto(), parameters.clone())?;
/// let h = Array3::from_elem((1, 2, 4), 0.5);
/// let mut state = lstm.initial_state(h.view(), Some(h.view()))?;
/// lstm.forward(&Tensor::zeros(lstm.device(), &[5, 2, 3])?, &mut state)?;
/// let saved = state.save()?;
///
/// let elsewhere = config.build(&Device::Cpu, parameters)?;
/// let mut state = elsewhere.restore(&saved)?;
/// assert_eq!(state.to_h()?, saved.h);
/// state.reset()?;
/// assert_eq!(state.to_h()?, h);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SavedState {
    /// The current value of `h`, `[layers directions, B, O]`.
    pub h: Array3<f32>,
    /// The current value of the cell state, `[layers directions, B, hidden]`, present exactly for an LSTM.
    pub s: Option<Array3<f32>>,
    /// The initial value of `h`, shaped as `h`.
    pub initial_h: Array3<f32>,
    /// The initial value of the cell state, shaped as `s`.
    pub initial_s: Option<Array3<f32>>,
}

impl State {
    /// Copies the current and the initial value to the host.
    ///
    /// # Errors
    /// As [`State::to_h`].
    pub fn save(&self) -> Result<SavedState> {
        Ok(SavedState {
            h: self.to_h()?,
            s: self.to_s()?,
            initial_h: self.to_initial_h()?,
            initial_s: self.to_initial_s()?,
        })
    }

    /// [`State::save`] without blocking.
    ///
    /// # Errors
    /// As [`State::to_h`].
    pub async fn save_async(&self) -> Result<SavedState> {
        let ((h_shape, s_shape), (initial_h, initial_s)) = (self.shapes(), self.initial());
        Ok(SavedState {
            h: self.h.to_array_async().await?,
            s: read(self.s.as_ref(), s_shape).await?,
            initial_h: read(initial_h, Some(h_shape)).await?.unwrap_or_default(),
            initial_s: read(initial_s, s_shape).await?,
        })
    }

    /// Puts a saved state on a device.
    pub(in crate::nn) fn restored(device: &Device, shapes: Shapes, saved: &SavedState) -> Result<Self> {
        let SavedState { h, s, initial_h, initial_s } = saved;
        let initial = (initial_h.view(), initial_s.as_ref().map(|s| s.view()));
        let initial = Initial::upload(device, shapes, initial)?;
        Ok(Self { initial, ..Self::with_current(device, shapes, (h.view(), s.as_ref().map(|s| s.view())))? })
    }
}

/// A part of a state: zeros if there is no tensor, `None` if the state has no such part.
async fn read(tensor: Option<&Tensor>, shape: Option<[usize; 3]>) -> Result<Option<Array3<f32>>> {
    match (shape, tensor) {
        (None, _) => Ok(None),
        (Some(shape), None) => memory::zero_array(super::OP, shape).map(Some),
        (Some(_), Some(tensor)) => tensor.to_array_async().await.map(Some),
    }
}

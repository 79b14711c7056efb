//! The state of a recurrent stack, as a value.

use ndarray::Array3;

use crate::error::Result;
use crate::ops::Recorder;
#[cfg(feature = "gpu")]
use crate::ops::resident;
use crate::tensor::{Device, Storage, Tensor};

/// What a stack remembers between calls: `h`, and `s` for an LSTM. It lives where the layer lives and is read back only
/// when asked; a call advances it in place, and a call that fails leaves it as it was.
///
/// A state also knows the value it was created with: that is what a reset inside a
/// [`Sequence`](crate::cell::Sequence) returns to.
#[derive(Debug)]
pub struct State {
    /// `[layers directions, B, O]`, index `layer * directions + direction` as in PyTorch.
    pub(super) h: Tensor,
    /// `[layers directions, B, hidden]`
    pub(super) s: Option<Tensor>,
    pub(super) initial: Initial,
}

/// What a reset returns to. Shared between clones: nothing changes it.
#[derive(Clone, Debug)]
pub(super) enum Initial {
    Zero,
    Given { h: Tensor, s: Option<Tensor> },
}

impl State {
    /// The device it lives on.
    pub fn device(&self) -> &Device {
        self.h.device()
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.h.shape()[1]
    }

    /// Copies `h` to the host: PyTorch's `h_n`, `[layers directions, B, O]`.
    ///
    /// # Errors
    /// [`Error::DeviceLost`](crate::Error::DeviceLost) and what else a read-back may meet.
    pub fn h(&self) -> Result<Array3<f32>> {
        self.h.to_array()
    }

    /// Copies the cell state to the host: PyTorch's `c_n`, `[layers directions, B, hidden]`; `None` unless the cell is an
    /// LSTM.
    ///
    /// # Errors
    /// As [`State::h`].
    pub fn s(&self) -> Result<Option<Array3<f32>>> {
        self.s.as_ref().map(Tensor::to_array).transpose()
    }

    /// `h` as a tensor of its own on the device, for the layers that follow; recorded, no read-back.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn h_tensor(&self, recorder: &mut Recorder) -> Result<Tensor> {
        copy(recorder, &self.h)
    }

    /// The cell state as a tensor of its own on the device; `None` unless the cell is an LSTM. Recorded, no read-back.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn s_tensor(&self, recorder: &mut Recorder) -> Result<Option<Tensor>> {
        self.s.as_ref().map(|s| copy(recorder, s)).transpose()
    }

    /// A second state of the same value.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn try_clone(&self) -> Result<Self> {
        let mut recorder = self.device().recorder();
        let h = copy(&mut recorder, &self.h)?;
        let s = self.s.as_ref().map(|s| copy(&mut recorder, s)).transpose()?;
        recorder.submit()?;
        Ok(Self { h, s, initial: self.initial.clone() })
    }
}

/// A tensor of its own memory with the same elements.
pub(super) fn copy(recorder: &mut Recorder, tensor: &Tensor) -> Result<Tensor> {
    const OP: &str = "State";
    tensor.check_device(OP, "state", recorder.device())?;
    match tensor.storage() {
        // A host tensor is never written to: a call puts a new one in its place.
        Storage::Host(_) => Ok(tensor.clone()),
        #[cfg(feature = "gpu")]
        Storage::Gpu(_) => {
            let to = tensor.uninitialized_like()?;
            if let Some(gpu) = recorder.gpu() {
                gpu.copy((resident(OP, "state", tensor)?, 0), (resident(OP, "copy", &to)?, 0), tensor.len());
            }
            Ok(to)
        }
    }
}

//! The state of a recurrent stack, as a value.

use ndarray::{Array3, ArrayView3};

use crate::cpu;
use crate::error::{Result, check_shape};
#[cfg(feature = "gpu")]
use crate::ops::resident;
use crate::ops::{Recorder, host};
use crate::tensor::{Device, Storage, Tensor};

const OP: &str = "State";

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
    /// Buffers of the CPU path, kept from call to call.
    pub(super) workspace: cpu::Workspace,
}

/// What a reset returns to. Shared between clones: nothing changes it.
#[derive(Clone, Debug)]
pub(super) enum Initial {
    Zero,
    Given { h: Tensor, s: Option<Tensor> },
}

/// Shapes of `h` and, for an LSTM, of `s`.
pub(super) type Shapes = ([usize; 3], Option<[usize; 3]>);

impl State {
    pub(super) fn zero(device: &Device, (h, s): Shapes) -> Result<Self> {
        Ok(Self {
            h: Tensor::zeros(device, &h)?,
            s: s.map(|s| Tensor::zeros(device, &s)).transpose()?,
            initial: Initial::Zero,
            workspace: cpu::Workspace::default(),
        })
    }

    pub(super) fn given(
        device: &Device,
        (h_shape, s_shape): Shapes,
        h: ArrayView3<'_, f32>,
        s: Option<ArrayView3<'_, f32>>,
    ) -> Result<Self> {
        const OP: &str = "state";
        check_shape(OP, "h", &h_shape, h.shape())?;
        check_shape(OP, "s", s_shape.as_ref().map_or(&[], |s| &s[..]), s.as_ref().map_or(&[], |s| s.shape()))?;
        let upload = || -> Result<(Tensor, Option<Tensor>)> {
            let s = s.as_ref().map(|s| Tensor::from_array(device, s)).transpose()?;
            Ok((Tensor::from_array(device, &h)?, s))
        };
        let (initial_h, initial_s) = upload()?;
        let (h, s) = upload()?;
        let initial = Initial::Given { h: initial_h, s: initial_s };
        Ok(Self { h, s, initial, workspace: cpu::Workspace::default() })
    }

    /// A state of values that are on the device already.
    pub(super) fn recorded(
        recorder: &mut Recorder,
        (h_shape, s_shape): Shapes,
        h: &Tensor,
        s: Option<&Tensor>,
    ) -> Result<Self> {
        const OP: &str = "state";
        check_shape(OP, "h", &h_shape, h.shape())?;
        check_shape(OP, "s", s_shape.as_ref().map_or(&[], |s| &s[..]), s.map_or(&[], Tensor::shape))?;
        let initial = Initial::Given { h: h.clone(), s: s.cloned() };
        let (h, s) = (copy(recorder, h)?, s.map(|s| copy(recorder, s)).transpose()?);
        Ok(Self { h, s, initial, workspace: cpu::Workspace::default() })
    }

    /// A state of the same beginning that stands at other values.
    pub(crate) fn record_at(&self, recorder: &mut Recorder, h: &Tensor, s: Option<&Tensor>) -> Result<Self> {
        check_shape(OP, "h", self.h.shape(), h.shape())?;
        check_shape(OP, "s", self.s.as_ref().map_or(&[], Tensor::shape), s.map_or(&[], Tensor::shape))?;
        let (h, s) = (copy(recorder, h)?, s.map(|s| copy(recorder, s)).transpose()?);
        Ok(Self { h, s, initial: self.initial.clone(), workspace: cpu::Workspace::default() })
    }

    /// [`State::try_clone`], recorded.
    pub(crate) fn record_clone(&self, recorder: &mut Recorder) -> Result<Self> {
        self.record_at(recorder, &self.h, self.s.as_ref())
    }

    /// Refuses a state of another device or shape.
    pub(super) fn check(&self, op: &'static str, device: &Device, (h, s): Shapes) -> Result<()> {
        self.h.check_device(op, "state", device)?;
        check_shape(op, "the state's h", &h, self.h.shape())?;
        let found = self.s.as_ref().map_or(&[][..], Tensor::shape);
        check_shape(op, "the state's s", s.as_ref().map_or(&[], |s| &s[..]), found)
    }

    /// What a reset returns to; zeros where absent.
    pub(super) fn initial(&self) -> (Option<&Tensor>, Option<&Tensor>) {
        match &self.initial {
            Initial::Zero => (None, None),
            Initial::Given { h, s } => (Some(h), s.as_ref()),
        }
    }

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
        let clone = self.record_clone(&mut recorder)?;
        recorder.submit()?;
        Ok(clone)
    }

    /// Returns to the value that the state was created with, to begin another sequence. On the host nothing is allocated.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn reset(&mut self) -> Result<()> {
        let (initial_h, initial_s) = match &self.initial {
            Initial::Zero => (None, None),
            Initial::Given { h, s } => (Some(h), s.as_ref()),
        };
        let device = self.h.device().clone();
        for (now, initial) in [(Some(&mut self.h), initial_h), (self.s.as_mut(), initial_s)] {
            let Some(now) = now else { continue };
            let on_host = matches!(now.storage(), Storage::Host(_));
            match initial {
                Some(initial) if on_host => now.host_mut(OP, "state")?.copy_from_slice(host(OP, "state", initial)?),
                None if on_host => now.host_mut(OP, "state")?.fill(0.0),
                Some(initial) => {
                    let mut recorder = device.recorder();
                    *now = copy(&mut recorder, initial)?;
                    recorder.submit()?;
                }
                // A recorder that still holds the value goes on with it.
                #[cfg(feature = "gpu")]
                None if now.zero_if_unshared()? => {}
                None => *now = Tensor::zeros(&device, now.shape())?,
            }
        }
        Ok(())
    }
}

/// A tensor of its own memory with the same elements.
pub(super) fn copy(recorder: &mut Recorder, tensor: &Tensor) -> Result<Tensor> {
    tensor.check_device(OP, "state", recorder.device())?;
    match tensor.storage() {
        // Shared until one of the two is written to.
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

//! What collects operations, and hands them over.

use std::sync::Arc;

#[cfg(feature = "gpu")]
use crate::error::Error;
use crate::error::Result;
#[cfg(feature = "gpu")]
use crate::gpu;
use crate::tensor::{Device, ReadBack, Source, Storage, Tensor};

/// Collects operations for one device.
#[must_use = "commands run when the recorder is submitted"]
pub struct Recorder {
    pub(super) device: Device,
    #[cfg(feature = "gpu")]
    pub(super) gpu: Option<gpu::Recorder>,
}

impl Device {
    /// An empty recorder for this device.
    pub fn recorder(&self) -> Recorder {
        Recorder {
            device: self.clone(),
            #[cfg(feature = "gpu")]
            gpu: match self {
                Self::Gpu(gpu) => Some(gpu::Recorder::new(gpu)),
                _ => None,
            },
        }
    }
}

impl Recorder {
    /// The device it records for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Hands everything recorded to the device in one submission. Results can be read once it returns: reading waits.
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu), [`Error::OutOfMemory`](crate::Error::OutOfMemory) or [`Error::DeviceLost`](crate::Error::DeviceLost); then nothing of it has run.
    pub fn submit(self) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = self.gpu {
            return gpu.submit();
        }
        Ok(())
    }

    /// [`Recorder::submit`], with a copy of `tensor` to the host behind everything recorded: one submission where a call and
    /// [`Tensor::to_vec`] take two. On a host device there is nothing to wait for.
    ///
    /// # Errors
    /// As [`Recorder::submit`]; [`Error::DeviceMismatch`](crate::Error::DeviceMismatch) where the tensor lives elsewhere.
    ///
    /// ```
    /// use gatewise::{Device, Tensor, cell::Sequence, nn::Gru};
    /// let device = Device::auto();
    /// let gru = Gru::config(3, 4).random(&device, 7)?;
    /// let mut state = gru.zero_state(1)?;
    /// let x = Tensor::zeros(&device, &[1, 1, 3])?;
    /// let mut recorder = device.recorder();
    /// let y = gru.record(&mut recorder, &x, &mut state, &Sequence::new())?;
    /// assert_eq!(recorder.submit_and_read(&y)?.wait()?.len(), 4);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn submit_and_read(self, tensor: &Tensor) -> Result<ReadBack> {
        const OP: &str = "read-back";
        tensor.check_device(OP, "tensor", &self.device)?;
        let source = match tensor.storage() {
            Storage::Host(data) => Source::Host(Arc::clone(data)),
            #[cfg(feature = "gpu")]
            Storage::Gpu(buffer) => {
                let recorder = self.gpu.ok_or_else(|| Error::DeviceMismatch {
                    op: OP,
                    what: "tensor",
                    expected: self.device.to_string(),
                    found: tensor.device().to_string(),
                })?;
                Source::Gpu(recorder.submit_and_read((buffer, 0), tensor.len())?)
            }
        };
        Ok(ReadBack { shape: tensor.shape().to_vec(), source })
    }

    /// Hands everything recorded to the GPU, waits, and says what it took by the GPU's own clock.
    ///
    /// # Errors
    /// As [`Recorder::submit`]; [`Error::Unsupported`](crate::Error::Unsupported) where the adapter has no timestamps
    /// ([`GpuDevice::has_timestamps`](gpu::GpuDevice::has_timestamps)) or the device is no GPU.
    #[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
    pub fn submit_profiled(self, detail: gpu::Detail) -> Result<gpu::Profile> {
        match self.gpu {
            Some(gpu) => gpu.submit_profiled(detail),
            None => Err(Error::Unsupported { op: "profile", option: "timestamps".to_owned(), by: "host devices" }),
        }
    }

    #[cfg(feature = "gpu")]
    pub(crate) fn gpu(&mut self) -> Option<&mut gpu::Recorder> {
        self.gpu.as_mut()
    }
}

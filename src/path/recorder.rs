//! Recorders collect operations and hand them to a device; read-backs bring tensors to the host.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ndarray::{Array, Dimension};

use super::replay::{Recording, Replay};
use super::{Device, HostPath};
use crate::error::{Error, Result};
use crate::gpu;
use crate::memory;
use crate::tensor::{Tensor, shaped};

const OP: &str = "read-back";

/// Collects operations for one device.
#[must_use = "commands run when the recorder is submitted"]
pub struct Recorder {
    device: Device,
    gpu: Option<gpu::Recorder>,
    /// The operations so far, if a replay of them is wanted.
    recording: Option<Box<Recording>>,
}

impl Device {
    /// An empty recorder for this device.
    pub fn recorder(&self) -> Recorder {
        Recorder {
            device: self.clone(),
            gpu: match self {
                Self::Gpu(gpu) => Some(gpu::Recorder::new(gpu)),
                _ => None,
            },
            recording: None,
        }
    }

    /// A recorder that also notes what it runs, on the CPU.
    #[cfg(any(feature = "onnx", feature = "keras"))]
    pub(crate) fn replay_recorder(&self) -> Recorder {
        let recording = self.cpu().map(|_| Box::default());
        Recorder { recording, ..self.recorder() }
    }
}

impl Recorder {
    /// The device it records for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bounds the time of one submission on a slow GPU, in place of the device's
    /// [`Watchdog::submission`](crate::plan::Watchdog::submission). `Duration::MAX` allows any. A longer bound risks that the
    /// system resets a slow GPU.
    ///
    /// ```
    /// use std::time::Duration;
    /// let recorder = gatewise::Device::auto().recorder().submission_bound(Duration::from_secs(2));
    /// recorder.submit()?;
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn submission_bound(mut self, longest: Duration) -> Self {
        if let Some(gpu) = &mut self.gpu {
            gpu.bound_submissions(longest);
        }
        self
    }

    /// Hands everything recorded to the device in one submission. If a single submission would occupy a slow GPU longer
    /// than a watchdog allows ([`Watchdog`](crate::plan::Watchdog)), several are made. Once it returns, results can be
    /// read: reading waits for them.
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu), [`Error::OutOfMemory`](crate::Error::OutOfMemory) or
    /// [`Error::DeviceLost`](crate::Error::DeviceLost); then every state is as it was.
    pub fn submit(self) -> Result<()> {
        if let Some(gpu) = self.gpu {
            return gpu.submit();
        }
        Ok(())
    }

    /// [`Recorder::submit`], with a copy of `tensor` to the host after everything recorded: one submission instead of
    /// the two that a call and [`Tensor::to_vec`] take. On a host device there is nothing to wait for.
    ///
    /// # Errors
    /// As [`Recorder::submit`]; [`Error::DeviceMismatch`](crate::Error::DeviceMismatch) if the tensor lives elsewhere.
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
        tensor.check_device(OP, "tensor", &self.device)?;
        if let Some(recorder) = self.gpu {
            let read = recorder.submit_and_read((tensor.buffer(OP, "tensor")?, 0), tensor.len())?;
            return Ok(ReadBack { shape: tensor.shape().to_vec(), source: ReadBackSource::Gpu(read) });
        }
        ReadBack::of_host(tensor)
    }

    /// [`Recorder::submit_and_read`] for several tensors: all copies are made by the same submission, and memory for all of
    /// them is allocated before it. The read-backs come in the order of the tensors.
    ///
    /// # Errors
    /// As [`Recorder::submit_and_read`].
    ///
    /// ```
    /// use gatewise::{Device, Tensor};
    /// let device = Device::auto();
    /// let tensors = [Tensor::zeros(&device, &[2])?, Tensor::zeros(&device, &[3])?];
    /// let reads = device.recorder().submit_and_read_all(&[&tensors[0], &tensors[1]])?;
    /// let lengths = reads.into_iter().map(|read| Ok(read.wait()?.len())).collect::<gatewise::Result<Vec<_>>>()?;
    /// assert_eq!(lengths, [2, 3]);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn submit_and_read_all(self, tensors: &[&Tensor]) -> Result<Vec<ReadBack>> {
        for tensor in tensors {
            tensor.check_device(OP, "tensor", &self.device)?;
        }
        if let Some(recorder) = self.gpu {
            let parts = tensors.iter().map(|tensor| Ok((tensor.buffer(OP, "tensor")?, tensor.len())));
            let reads = recorder.submit_and_read_all(&parts.collect::<Result<Vec<_>>>()?)?;
            let sources = tensors.iter().zip(reads);
            return Ok(sources
                .map(|(tensor, read)| ReadBack { shape: tensor.shape().to_vec(), source: ReadBackSource::Gpu(read) })
                .collect());
        }
        tensors.iter().map(|tensor| ReadBack::of_host(tensor)).collect()
    }

    /// Hands everything recorded to the GPU in one submission, waits, and returns the times by the GPU's own clock.
    ///
    /// # Errors
    /// As [`Recorder::submit`], but if only the timestamps cannot be read, everything has run;
    /// [`Error::Unsupported`](crate::Error::Unsupported) if the adapter has no timestamps
    /// ([`GpuDevice::has_timestamps`](gpu::GpuDevice::has_timestamps)) or the device is no GPU.
    #[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
    pub fn submit_profiled(self, detail: gpu::Detail) -> Result<gpu::Profile> {
        match self.gpu {
            Some(gpu) => gpu.submit_profiled(detail),
            None => Err(Error::Unsupported { op: "profile", option: "timestamps".to_owned(), by: "by host devices" }),
        }
    }

    /// The recorder of the GPU, if the device is one.
    #[cfg(feature = "gpu")]
    pub(crate) fn into_gpu(self) -> Option<gpu::Recorder> {
        self.gpu
    }

    /// Whether operations run on the CPU path.
    pub(crate) fn is_on_cpu(&self) -> bool {
        matches!(self.device, Device::Cpu | Device::CpuWith(_))
    }

    /// The path of a host device.
    pub(crate) fn host_path(&self) -> HostPath {
        self.device.cpu().map_or(HostPath::Reference, HostPath::Cpu)
    }

    /// The operations so far, if a replay of them is wanted.
    pub(crate) fn recording(&mut self) -> Option<&mut Recording> {
        self.recording.as_deref_mut()
    }

    /// Ends the recording of a call with these outputs; `None` if another call may have to run other operations, or if the
    /// replay would hold more than `limit` bytes.
    #[cfg(any(feature = "onnx", feature = "keras"))]
    pub(crate) fn into_replay(self, outputs: &[&Tensor], limit: u64) -> Result<Option<Replay>> {
        let path = self.host_path();
        self.recording.map_or(Ok(None), |recording| recording.finish(path, outputs, limit))
    }

    pub(crate) fn gpu(&mut self) -> Option<&mut gpu::Recorder> {
        self.gpu.as_mut()
    }
}

/// A tensor's elements on their way to the host. The device works meanwhile, and the caller chooses when to wait.
#[must_use = "the elements arrive when waited for or awaited"]
pub struct ReadBack {
    shape: Vec<usize>,
    source: ReadBackSource,
}

/// The memory that a read-back copies from.
enum ReadBackSource {
    Host(Arc<Vec<f32>>),
    Gpu(gpu::ReadBack),
}

impl fmt::Debug for ReadBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBack").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl ReadBack {
    /// A read-back of a GPU.
    #[cfg(feature = "gpu")]
    pub(super) fn of_gpu(shape: Vec<usize>, read: gpu::ReadBack) -> Self {
        Self { shape, source: ReadBackSource::Gpu(read) }
    }

    /// The read-back of a tensor on the host, which needs no copy.
    fn of_host(tensor: &Tensor) -> Result<Self> {
        let data = tensor.shared_host(OP, "tensor")?;
        Ok(Self { shape: tensor.shape().to_vec(), source: ReadBackSource::Host(Arc::clone(data)) })
    }

    /// Waits for the elements.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn wait(self) -> Result<Vec<f32>> {
        match self.source {
            ReadBackSource::Host(data) => memory::copied("read-back", &data),
            ReadBackSource::Gpu(read) => read.wait(),
        }
    }

    /// [`ReadBack::wait`] as an array.
    ///
    /// # Errors
    /// As [`Tensor::to_array`].
    pub fn wait_array<D: Dimension>(self) -> Result<Array<f32, D>> {
        let shape = self.shape.clone();
        shaped(&shape, self.wait()?)
    }

    /// Returns the elements once they have arrived, without blocking.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub async fn arrive(self) -> Result<Vec<f32>> {
        match self.source {
            ReadBackSource::Host(data) => memory::copied("read-back", &data),
            ReadBackSource::Gpu(read) => read.arrive().await,
        }
    }
}

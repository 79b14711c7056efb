//! Recorded operations in a caller's own command encoder and submission.

use std::fmt;

use super::{ReadBack, Recorder};
use crate::error::{Error, Result};
use crate::gpu;
use crate::tensor::Tensor;

const OP: &str = "Recorder::encode";

/// Commands that [`Recorder::encode`] has put into a caller's encoder and that the caller has not submitted yet.
///
/// It owns the memory of the commands, so that no other call uses it before they run. After `queue.submit`, hand the
/// submission to [`EncodedCommands::submitted`]: the memory then serves later calls. If it is dropped instead, the encoder
/// may still be submitted, but its memory goes back to the driver. If the encoder is dropped without a submission, nothing
/// has run and every state is as it was.
#[must_use = "memory is used again only after `EncodedCommands::submitted`"]
pub struct EncodedCommands {
    commands: gpu::UnsubmittedReads,
    /// The shapes of the tensors to read.
    shapes: Vec<Vec<usize>>,
}

impl fmt::Debug for EncodedCommands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncodedCommands").field("reads", &self.shapes).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Appends everything recorded to a caller's own encoder: the caller's passes before and after it run in that order, in
    /// one submission of the caller. Several recorders may be encoded into one encoder, with passes of the caller between
    /// them. The encoder must come from the device's own `wgpu::Device` ([`GpuDevice::wgpu`](crate::gpu::GpuDevice::wgpu));
    /// otherwise wgpu reports an error when the encoder is finished.
    ///
    /// # Order
    /// - Recorded operations take effect in the order of submissions, not of calls. If two encoders advance one state, the
    ///   one that is submitted first goes first.
    /// - Values from the host (new tensors, lengths, masks, sizes) are written to the device while operations are recorded
    ///   and encoded, in memory that nothing else uses. They arrive before the next submission of the queue.
    /// - Tensors have their values, and states have advanced, once the caller has submitted.
    ///
    /// # Errors
    /// [`Error::Limit`] if the commands would take a slow GPU longer than one submission may
    /// ([`Recorder::submission_bound`]); [`Error::Unsupported`] if the device is no GPU; [`Error::OutOfMemory`],
    /// [`Error::Gpu`] or [`Error::DeviceLost`]. The encoder and every state are then as they were.
    ///
    /// ```
    /// use gatewise::{Device, Tensor, cell::Sequence, gpu::{GpuDevice, GpuOptions}, nn::Gru};
    /// let gpu = GpuDevice::new(&GpuOptions { software: true, ..Default::default() })?;
    /// let device = Device::Gpu(gpu.clone());
    /// let gru = Gru::config(3, 4).random(&device, 7)?;
    /// let mut state = gru.zero_state(1)?;
    /// let x = Tensor::zeros(&device, &[5, 1, 3])?;
    ///
    /// let (wgpu_device, queue) = gpu.wgpu();
    /// let mut encoder = wgpu_device.create_command_encoder(&Default::default());
    /// // Passes of the caller that write `x.wgpu_buffer()` would stand here.
    /// let mut recorder = device.recorder();
    /// let y = gru.record(&mut recorder, &x, &mut state, &Sequence::new())?;
    /// let commands = recorder.encode(&mut encoder)?;
    /// // Passes of the caller that read `y.wgpu_buffer()` would stand here.
    /// let submission = queue.submit([encoder.finish()]);
    /// commands.submitted(submission)?;
    /// assert_eq!(y.to_vec()?.len(), 5 * 4);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn encode(self, encoder: &mut wgpu::CommandEncoder) -> Result<EncodedCommands> {
        self.encode_and_read(encoder, &[])
    }

    /// [`Recorder::encode`], with copies of tensors to the host after everything recorded, in the same submission.
    /// [`EncodedCommands::submitted`] returns the read-backs in the order of the tensors.
    ///
    /// # Errors
    /// As [`Recorder::encode`]; [`Error::DeviceMismatch`] if a tensor lives elsewhere.
    pub fn encode_and_read(self, encoder: &mut wgpu::CommandEncoder, tensors: &[&Tensor]) -> Result<EncodedCommands> {
        for tensor in tensors {
            tensor.check_device(OP, "tensor", self.device())?;
        }
        let Some(recorder) = self.into_gpu() else {
            let option = "a wgpu encoder".to_owned();
            return Err(Error::Unsupported { op: OP, option, by: "by host devices" });
        };
        let parts = tensors.iter().map(|tensor| Ok((tensor.buffer(OP, "tensor")?, tensor.len())));
        let commands = recorder.encode_and_read_all(OP, encoder, &parts.collect::<Result<Vec<_>>>()?)?;
        Ok(EncodedCommands { commands, shapes: tensors.iter().map(|tensor| tensor.shape().to_vec()).collect() })
    }
}

impl EncodedCommands {
    /// Notes that the caller has submitted the encoder. Returns the read-backs of [`Recorder::encode_and_read`], which wait
    /// for this submission.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] if the device was lost meanwhile.
    pub fn submitted(self, submission: wgpu::SubmissionIndex) -> Result<Vec<ReadBack>> {
        let reads = self.commands.submitted(&submission)?;
        Ok(self.shapes.into_iter().zip(reads).map(|(shape, read)| ReadBack::of_gpu(shape, read)).collect())
    }
}

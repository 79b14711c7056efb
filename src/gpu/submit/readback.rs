//! Results on their way back to the host, to be waited for or awaited.

use std::sync::Arc;

use super::handle::GpuDevice;
use super::recorder::{Recorder, Unsubmitted};
use super::waiter::{Answer, Answered, Owed};
use crate::error::{Error, Result};
use crate::gpu::device::contained::Outcome;
use crate::gpu::kept::OnDevice;
use crate::gpu::kept::buffer::Buffer;
use crate::memory;

const OP: &str = "read-back";

/// A copy of a buffer on its way to the host; its submission is under way.
pub(crate) struct ReadBack {
    device: GpuDevice,
    staging: Buffer,
    words: usize,
    /// `None` if there was nothing to submit.
    submission: Option<wgpu::SubmissionIndex>,
}

/// Commands that a caller's encoder holds, with copies of buffers to the host.
pub(crate) struct UnsubmittedReads {
    commands: Unsubmitted,
    /// The memory of every copy, and its words.
    staged: Vec<(Buffer, usize)>,
}

impl UnsubmittedReads {
    /// Notes that the caller has submitted the commands. Returns the read-backs of the copies, in their order.
    pub(crate) fn submitted(self, submission: &wgpu::SubmissionIndex) -> Result<Vec<ReadBack>> {
        let Self { commands, staged } = self;
        let device = commands.device().clone();
        commands.submitted()?;
        let read = |(staging, words)| ReadBack::new(&device, staging, words, Some(submission.clone()));
        Ok(staged.into_iter().map(read).collect())
    }
}

impl Recorder {
    /// Appends everything to a caller's encoder, and behind it copies of the first words of several buffers to the host.
    pub(crate) fn encode_and_read_all(
        mut self,
        op: &'static str,
        encoder: &mut wgpu::CommandEncoder,
        parts: &[(&Buffer, usize)],
    ) -> Result<UnsubmittedReads> {
        let staged = self.stage_copies(parts)?;
        Ok(UnsubmittedReads { commands: self.encode_into(op, encoder)?, staged })
    }

    /// Submits everything, and behind it a copy of `words` words to the host. `from` is the buffer and the first word to copy.
    pub(crate) fn submit_and_read(mut self, from: (&Buffer, usize), words: usize) -> Result<ReadBack> {
        let (device, staging) = (self.device().clone(), self.stage_copy(from, words)?);
        let submission = self.submit_as(OP, None)?;
        Ok(ReadBack::new(&device, staging, words, submission))
    }

    /// Submits everything, and in the same submission copies of the first words of several buffers to the host.
    pub(crate) fn submit_and_read_all(mut self, parts: &[(&Buffer, usize)]) -> Result<Vec<ReadBack>> {
        let device = self.device().clone();
        let staged = self.stage_copies(parts)?;
        let submission = self.submit_as(OP, None)?;
        Ok(staged
            .into_iter()
            .map(|(staging, words)| ReadBack::new(&device, staging, words, submission.clone()))
            .collect())
    }

    /// Allocates room for the first words of several buffers and records the copies to it.
    fn stage_copies(&mut self, parts: &[(&Buffer, usize)]) -> Result<Vec<(Buffer, usize)>> {
        parts.iter().map(|&(buffer, words)| Ok((self.stage_copy((buffer, 0), words)?, words))).collect()
    }

    /// Allocates room for `words` words of a buffer and records the copy to it.
    fn stage_copy(&mut self, from: (&Buffer, usize), words: usize) -> Result<Buffer> {
        let staging = Buffer::host(self.device(), OP, words)?;
        self.copy(from, (&staging, 0), words);
        Ok(staging)
    }
}

impl GpuDevice {
    /// Copies `len` words of a buffer from the word `first` on to the host, after everything submitted so far.
    pub(in crate::gpu) fn read_words<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        buffer: &Buffer,
        first: usize,
        len: usize,
    ) -> Result<Vec<T>> {
        Recorder::new(self).submit_and_read((buffer, first), len)?.wait()
    }
}

impl ReadBack {
    /// Wraps a copy that `submission` makes. The pool must not hand the memory out again before it is unmapped.
    pub(in crate::gpu) fn new(
        device: &GpuDevice,
        mut staging: Buffer,
        words: usize,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Self {
        staging.set_pooled(false);
        Self { device: device.clone(), staging, words, submission }
    }

    /// Returns an error: waiting would block the thread that the browser needs to end the work.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn wait<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(self) -> Result<Vec<T>> {
        let option = "waiting for a read-back, rather than awaiting it".to_owned();
        Err(Error::Unsupported { op: OP, option, by: "in browsers" })
    }

    /// Waits for the words.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn wait<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(self) -> Result<Vec<T>> {
        let answered = self.map();
        if let Some(submission) = &self.submission {
            let resources = self.device.resources();
            if let Err(message) = resources.wait_for(submission) {
                resources.ask_whether_alive(OP)?;
                return Err(failed(message));
            }
        }
        // The work is done, but the poll of another thread may still be about to hand the answer over.
        let answer = pollster::block_on(answered);
        self.take(answer)
    }

    /// Returns the words once they have arrived. Never blocks: on the web the browser reports the end of the work, elsewhere a
    /// thread of the device waits for it.
    pub(crate) async fn arrive<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(self) -> Result<Vec<T>> {
        let answered = self.map();
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(submission) = &self.submission {
            let resources = self.device.resources();
            self.device.waiter().watch(OP, (&resources.device, &resources.loss), submission, &answered.0)?;
        }
        let answer = answered.await;
        self.take(answer)
    }

    fn map(&self) -> Answered {
        let answer = Arc::new(Answer::default());
        if self.words == 0 {
            answer.give(Ok(()));
        } else {
            let owed = Owed(Arc::clone(&answer));
            let callback = move |result: std::result::Result<(), wgpu::BufferAsyncError>| {
                owed.0.give(result.map_err(|error| error.to_string()));
            };
            let slice = self.staging.raw().slice(..4 * self.words as u64);
            // If the mapping is refused, the callback gives the answer, too.
            let _ = self.device.resources().attempt(|| slice.map_async(wgpu::MapMode::Read, callback));
        }
        Answered(answer)
    }

    fn take<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(mut self, answer: Outcome) -> Result<Vec<T>> {
        #[cfg(test)]
        crate::gpu::device::faults::meet(crate::gpu::device::faults::Fault::Unread, OP)?;
        let resources = self.device.resources();
        match answer {
            Ok(()) => resources.check_alive(OP)?,
            Err(message) => {
                resources.ask_whether_alive(OP)?;
                return Err(failed(message));
            }
        }
        if self.words == 0 {
            return Ok(Vec::new());
        }
        let words = {
            let slice = self.staging.raw().slice(..4 * self.words as u64);
            let view = slice.get_mapped_range().map_err(|error| failed(error.to_string()))?;
            let mut words = memory::zeros(OP, size_of_val(&view[..]) / size_of::<T>())?;
            bytemuck::cast_slice_mut(&mut words).copy_from_slice(&view[..]);
            words
        };
        // If unmapping fails, later calls cannot use the memory, but the words are read all the same.
        let unmapped = self.device.resources().attempt(|| self.staging.raw().unmap());
        self.staging.set_pooled(unmapped.is_ok());
        Ok(words)
    }
}

fn failed(message: String) -> Error {
    Error::Gpu { op: OP, message }
}

//! Results on their way back to the host: only what is asked for, waited for or awaited.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};

use super::buffer::Buffer;
use super::contained::Outcome;
use super::context::{Context, GpuDevice, lock};
use super::recorder::Recorder;
use crate::error::{Error, Result};
use crate::memory;

const OP: &str = "read-back";
const STAGING: wgpu::BufferUsages = wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);

/// A copy of a buffer on its way to the host; its submission is under way.
pub(crate) struct ReadBack {
    staging: Buffer,
    words: usize,
    /// `None` where there was nothing to submit.
    submission: Option<wgpu::SubmissionIndex>,
}

/// The driver's answer to a mapping once there is one, and who waits for it.
#[derive(Default)]
struct Answer(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Answer {
    fn give(&self, outcome: Outcome) {
        let waker = {
            let mut progress = lock(&self.0);
            progress.outcome.get_or_insert(outcome);
            progress.waker.take()
        };
        if let Some(waker) = waker {
            // The waker is the caller's. If it panics, the answers of others must still be given.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

/// An answer that is given in any case: nobody waits for a callback that was dropped.
struct Owed(Arc<Answer>);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.give(Err("the driver has dropped it".to_owned()));
    }
}

/// Ready once the answer is there.
struct Answered(Arc<Answer>);

impl Future for Answered {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome> {
        let mut progress = lock(&self.0.0);
        match &progress.outcome {
            Some(outcome) => Poll::Ready(outcome.clone()),
            None => {
                progress.waker = Some(task.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Recorder {
    /// Submits everything, with a copy of `words` words of a buffer from the word `first` on to the host behind it.
    pub(crate) fn submit_and_read(mut self, from: (&Buffer, usize), words: usize) -> Result<ReadBack> {
        let staging = self.stage_copy(from, words)?;
        let submission = self.submit_as(OP, None)?;
        Ok(ReadBack::new(staging, words, submission))
    }

    /// [`Recorder::submit_and_read`] for the first words of several buffers, in the same submission.
    pub(crate) fn submit_and_read_all(mut self, parts: &[(&Buffer, usize)]) -> Result<Vec<ReadBack>> {
        let stage = |&(buffer, words): &(&Buffer, usize)| Ok((self.stage_copy((buffer, 0), words)?, words));
        let staged = parts.iter().map(stage).collect::<Result<Vec<_>>>()?;
        let submission = self.submit_as(OP, None)?;
        Ok(staged.into_iter().map(|(staging, words)| ReadBack::new(staging, words, submission.clone())).collect())
    }

    /// Allocates room for `words` words of a buffer and records the copy to it.
    fn stage_copy(&mut self, from: (&Buffer, usize), words: usize) -> Result<Buffer> {
        let staging = ReadBack::room(self.device().context(), words)?;
        self.copy(from, (&staging, 0), words);
        Ok(staging)
    }
}

impl Buffer {
    /// Copies `len` words from the word `first` on to the host, after everything submitted so far.
    pub(crate) fn read_from<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        first: usize,
        len: usize,
    ) -> Result<Vec<T>> {
        Recorder::new(&GpuDevice::of(self.context())).submit_and_read((self, first), len)?.wait()
    }
}

impl ReadBack {
    /// Host memory for `words` words.
    pub(super) fn room(context: &Arc<Context>, words: usize) -> Result<Buffer> {
        Buffer::allocate(context, OP, STAGING, 4 * words.max(1) as u64)
    }

    /// A copy that `submission` makes. The pool must not hand the memory out again before it is unmapped.
    pub(super) fn new(mut staging: Buffer, words: usize, submission: Option<wgpu::SubmissionIndex>) -> Self {
        staging.set_pooled(false);
        Self { staging, words, submission }
    }

    /// Waiting would block the thread that the browser needs to end the work.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn wait<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(self) -> Result<Vec<T>> {
        let option = "waiting for a read-back, rather than awaiting it".to_owned();
        Err(Error::Unsupported { op: OP, option, by: "browsers" })
    }

    /// Waits for the words.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn wait<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(self) -> Result<Vec<T>> {
        let answered = self.map();
        if let Some(submission) = &self.submission {
            let context = self.staging.context();
            if let Err(message) = context.wait_for(submission) {
                context.ask_whether_alive(OP)?;
                return Err(failed(message));
            }
        }
        // The work is done; another thread's poll may have taken the answer and be about to hand it over.
        let answer = pollster::block_on(answered);
        self.take(answer)
    }

    /// The words once they are there. Never blocks: on the web the browser reports the end of the work, elsewhere a thread
    /// of the device waits for it.
    pub(crate) async fn arrive<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(self) -> Result<Vec<T>> {
        let answered = self.map();
        #[cfg(not(target_arch = "wasm32"))]
        if let Some(submission) = &self.submission {
            let context = self.staging.context();
            context.waiter.watch((&context.device, &context.loss), submission, &answered.0)?;
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
            // A refused mapping gives the answer, too.
            let _ = self.staging.context().attempt(|| slice.map_async(wgpu::MapMode::Read, callback));
        }
        Answered(answer)
    }

    fn take<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(mut self, answer: Outcome) -> Result<Vec<T>> {
        #[cfg(test)]
        super::faults::meet(super::faults::Fault::Unread, OP)?;
        let context = self.staging.context();
        match answer {
            Ok(()) => context.check_alive(OP)?,
            Err(message) => {
                context.ask_whether_alive(OP)?;
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
        // Memory that stays mapped is of no use to later calls; the words are here in any case.
        let unmapped = self.staging.context().attempt(|| self.staging.raw().unmap());
        self.staging.set_pooled(unmapped.is_ok());
        Ok(words)
    }
}

fn failed(message: String) -> Error {
    Error::Gpu { op: OP, message }
}

#[cfg(not(target_arch = "wasm32"))]
pub(super) use self::waiter::Waiter;

#[cfg(not(target_arch = "wasm32"))]
mod waiter {
    use std::sync::mpsc::{Receiver, SendError, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::thread::{self, JoinHandle};

    use super::{Answer, failed, lock};
    use crate::error::Result;
    use crate::gpu::liveness::{Loss, wait_for};

    /// A thread that waits for submissions, so that no caller of an `async` function must. It starts with the first of
    /// them and ends with the device; if it ends sooner, the next submission starts another one.
    #[derive(Default)]
    pub(in crate::gpu) struct Waiter(Mutex<Option<Running>>);

    struct Running {
        submissions: Sender<Watched>,
        thread: JoinHandle<()>,
    }

    /// A submission, and who is told when it does not come to its end.
    type Watched = (wgpu::SubmissionIndex, Arc<Answer>);

    impl Waiter {
        /// Has the thread drive a submission to its end; `answer` is given in any case.
        pub(super) fn watch(
            &self,
            (device, loss): (&wgpu::Device, &Loss),
            submission: &wgpu::SubmissionIndex,
            answer: &Arc<Answer>,
        ) -> Result<()> {
            let mut running = lock(&self.0);
            let mut watched = (submission.clone(), Arc::clone(answer));
            if let Some(running) = &*running {
                match running.submissions.send(watched) {
                    Ok(()) => return Ok(()),
                    Err(SendError(unsent)) => watched = unsent,
                }
            }
            let (submissions, received) = channel();
            let (device, loss) = (device.clone(), loss.clone());
            let builder = thread::Builder::new().name("gatewise-gpu".to_owned());
            let started = builder.spawn(move || wait_for_all(&device, &loss, received));
            let thread = started.map_err(|error| failed(format!("no thread to wait for it: {error}")))?;
            // The thread has just begun to receive.
            let _ = submissions.send(watched);
            *running = Some(Running { submissions, thread });
            Ok(())
        }
    }

    impl Drop for Waiter {
        /// Waits for the thread to let go of the device. If it were the last to do so, it could unload the driver while the
        /// process ends.
        fn drop(&mut self) {
            let Some(Running { submissions, thread }) = lock(&self.0).take() else { return };
            drop(submissions);
            // A caller's waker may drop the device on the thread itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }

    fn wait_for_all(device: &wgpu::Device, loss: &Loss, submissions: Receiver<Watched>) {
        for (submission, answer) in submissions {
            if let Err(message) = wait_for(device, loss, &submission) {
                answer.give(Err(message));
            }
        }
    }
}

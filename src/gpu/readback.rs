//! Results on their way back to the host: only what is asked for, waited for or awaited.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};

use super::buffer::Buffer;
use super::context::{GpuDevice, lock};
use super::recorder::Recorder;
use crate::error::{Error, Result};

const OP: &str = "read-back";
const STAGING: wgpu::BufferUsages = wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);

/// A copy of a buffer on its way to the host; its submission is under way.
pub(crate) struct ReadBack {
    staging: Buffer,
    words: usize,
    /// `None` where there was nothing to submit.
    submission: Option<wgpu::SubmissionIndex>,
}

/// What the driver says: nothing, or its message.
type Outcome = std::result::Result<(), String>;

/// What the driver says about a mapping once it does, and who waits for it.
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
            waker.wake();
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
    pub(crate) fn submit_and_read(mut self, (buffer, first): (&Buffer, usize), words: usize) -> Result<ReadBack> {
        let context = Arc::clone(self.device().context());
        let mut staging = Buffer::allocate(&context, OP, STAGING, 4 * words.max(1) as u64)?;
        self.copy((buffer, first), (&staging, 0), words);
        let submission = self.submit_as(OP, None)?;
        // Until it is unmapped again the pool must not hand it out.
        staging.set_pooled(false);
        Ok(ReadBack { staging, words, submission })
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
            wait_for(&self.staging.context().device, submission).map_err(failed)?;
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
            self.staging.context().waiter.watch(&self.staging.context().device, submission, &answered.0)?;
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
            self.staging.raw().slice(..4 * self.words as u64).map_async(wgpu::MapMode::Read, move |result| {
                owed.0.give(result.map_err(|error| error.to_string()));
            });
        }
        Answered(answer)
    }

    fn take<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(mut self, answer: Outcome) -> Result<Vec<T>> {
        self.staging.context().check_alive(OP)?;
        answer.map_err(failed)?;
        if self.words == 0 {
            return Ok(Vec::new());
        }
        let words = {
            let slice = self.staging.raw().slice(..4 * self.words as u64);
            let view = slice.get_mapped_range().map_err(|error| failed(error.to_string()))?;
            bytemuck::pod_collect_to_vec(&view[..])
        };
        self.staging.raw().unmap();
        self.staging.set_pooled(true);
        Ok(words)
    }
}

fn failed(message: String) -> Error {
    Error::Gpu { op: OP, message }
}

#[cfg(not(target_arch = "wasm32"))]
pub(super) use self::waiter::{Waiter, wait_for};

#[cfg(not(target_arch = "wasm32"))]
mod waiter {
    use std::sync::mpsc::{Sender, channel};
    use std::sync::{Arc, Mutex};

    use super::{Answer, Outcome, failed, lock};
    use crate::error::Result;

    /// Waits until a submission is done and its callbacks have been called.
    pub(in crate::gpu) fn wait_for(device: &wgpu::Device, submission: &wgpu::SubmissionIndex) -> Outcome {
        let wait = wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: None };
        // A device that was lost meanwhile knows nothing of the submission; what it was lost for it tells at the end of all.
        let waited = device.poll(wait).or_else(|_| device.poll(wgpu::PollType::wait_indefinitely()));
        waited.map(|_| ()).map_err(|error| error.to_string())
    }

    /// A thread that waits for submissions, so that no caller of an `async` function must. It starts with the first of
    /// them and ends with the device.
    #[derive(Default)]
    pub(in crate::gpu) struct Waiter(Mutex<Option<Sender<Watched>>>);

    /// A submission, and who is told when it does not come to its end.
    type Watched = (wgpu::SubmissionIndex, Arc<Answer>);

    impl Waiter {
        /// Has the thread drive a submission to its end; `answer` is given in any case.
        pub(super) fn watch(
            &self,
            device: &wgpu::Device,
            submission: &wgpu::SubmissionIndex,
            answer: &Arc<Answer>,
        ) -> Result<()> {
            let mut sender = lock(&self.0);
            if sender.is_none() {
                let device = device.clone();
                let (watched, submissions) = channel::<Watched>();
                let wait = move || {
                    for (submission, answer) in submissions {
                        if let Err(message) = wait_for(&device, &submission) {
                            answer.give(Err(message));
                        }
                    }
                };
                let thread = std::thread::Builder::new().name("gatewise-gpu".to_owned());
                thread.spawn(wait).map_err(|error| failed(format!("no thread to wait for it: {error}")))?;
                *sender = Some(watched);
            }
            let sent = sender.as_ref().map(|sender| sender.send((submission.clone(), Arc::clone(answer))));
            match sent {
                Some(Ok(())) => Ok(()),
                _ => Err(failed("the thread that waits for it has ended".to_owned())),
            }
        }
    }
}

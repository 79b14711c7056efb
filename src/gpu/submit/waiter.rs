//! Answers of the driver that futures wait for, and the thread that drives submissions to their end.

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll, Waker};

use crate::gpu::device::contained::Outcome;
use crate::gpu::device::lock;

/// The driver's answer to a mapping once there is one, and the waker of the task that waits for it.
#[derive(Default)]
pub(in crate::gpu) struct Answer(Mutex<Progress>);

#[derive(Default)]
struct Progress {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

impl Answer {
    pub(in crate::gpu) fn give(&self, outcome: Outcome) {
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

/// Held by a callback. If wgpu drops the callback without calling it, the answer is an error, so that nobody waits forever.
pub(in crate::gpu) struct Owed(pub(in crate::gpu) Arc<Answer>);

impl Drop for Owed {
    fn drop(&mut self) {
        self.0.give(Err("the driver has dropped the request".to_owned()));
    }
}

/// A future that is ready once the answer is given.
pub(in crate::gpu) struct Answered(pub(in crate::gpu) Arc<Answer>);

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

#[cfg(not(target_arch = "wasm32"))]
pub(in crate::gpu) use self::thread::Waiter;

#[cfg(not(target_arch = "wasm32"))]
mod thread {
    use std::sync::mpsc::{Receiver, SendError, Sender, channel};
    use std::sync::{Arc, Mutex};
    use std::thread::{self, JoinHandle};

    use super::Answer;
    use crate::error::{Error, Result};
    use crate::gpu::device::liveness::{Loss, wait_for};
    use crate::gpu::device::lock;

    /// A thread that waits for submissions, so that no caller of an `async` function blocks. It starts with the first
    /// submission and ends with the device. If it ends sooner, the next submission starts another thread.
    #[derive(Default)]
    pub(in crate::gpu) struct Waiter(Mutex<Option<Running>>);

    struct Running {
        submissions: Sender<AwaitedSubmission>,
        thread: JoinHandle<()>,
    }

    /// A submission, and the answer that gets an error if the submission fails.
    type AwaitedSubmission = (wgpu::SubmissionIndex, Arc<Answer>);

    impl Waiter {
        /// Has the thread drive a submission to its end; `answer` is given in any case.
        pub(in crate::gpu) fn watch(
            &self,
            op: &'static str,
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
            let thread = started
                .map_err(|error| Error::Gpu { op, message: format!("cannot start a waiting thread: {error}") })?;
            // The thread has just begun to receive.
            let _ = submissions.send(watched);
            *running = Some(Running { submissions, thread });
            Ok(())
        }
    }

    impl Drop for Waiter {
        /// Waits until the thread has dropped its device. If it were the last to do so, it could unload the driver while the
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

    fn wait_for_all(device: &wgpu::Device, loss: &Loss, submissions: Receiver<AwaitedSubmission>) {
        for (submission, answer) in submissions {
            if let Err(message) = wait_for(device, loss, &submission) {
                answer.give(Err(message));
            }
        }
    }
}

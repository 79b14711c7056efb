//! Detects the loss of a device, and turns the failures of its driver into errors.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::contained::{Outcome, contained, one_line};
use super::{DeviceCore, lock};
use crate::error::{Error, Result};

/// The reason why the device was lost, once it is known to be.
#[derive(Clone, Default)]
pub(in crate::gpu) struct Loss(Arc<Known>);

#[derive(Default)]
struct Known {
    reason: Mutex<Option<String>>,
    /// Whether wgpu holds the library's callback, and so reports a loss by itself.
    listening: AtomicBool,
}

impl Loss {
    /// Notes why the device was lost. Only the first reason is kept.
    pub(in crate::gpu) fn note(&self, reason: impl Into<String>) {
        lock(&self.0.reason).get_or_insert_with(|| reason.into());
    }

    fn reason(&self) -> Option<String> {
        lock(&self.0.reason).clone()
    }

    /// Has wgpu report a loss through a callback, until another callback replaces it.
    pub(in crate::gpu) fn listen(&self, device: &wgpu::Device) {
        self.0.listening.store(true, Ordering::Relaxed);
        let listener = Listener(self.clone());
        device.set_device_lost_callback(move |reason, message| listener.0.note(format!("{reason:?}: {message}")));
    }
}

/// A value owned by the library's callback; wgpu drops both when another callback replaces it.
struct Listener(Loss);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.0.listening.store(false, Ordering::Relaxed);
    }
}

/// A buffer that nothing may be written to. wgpu refuses a write as invalid while the device works, and ignores it once the device is
/// lost. This is the only way to learn of a loss without the callback, and wgpu holds only the callback set last.
pub(in crate::gpu) struct Canary(#[cfg_attr(target_arch = "wasm32", expect(dead_code))] wgpu::Buffer);

impl Canary {
    pub(in crate::gpu) fn new(device: &wgpu::Device) -> Self {
        let usage = wgpu::BufferUsages::COPY_SRC;
        let descriptor = wgpu::BufferDescriptor { label: Some("canary"), size: 4, usage, mapped_at_creation: false };
        Self(device.create_buffer(&descriptor))
    }

    /// Whether the device is not lost: whether wgpu still refuses a write to the canary.
    #[cfg(not(target_arch = "wasm32"))]
    fn lives(&self, device: &wgpu::Device, queue: &wgpu::Queue) -> bool {
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        queue.write_buffer(&self.0, 0, &[]);
        pollster::block_on(scope.pop()).is_some()
    }
}

/// Lets wgpu process the work that the device has finished, or waits for it. If the driver fails here, the device is lost.
fn poll(device: &wgpu::Device, loss: &Loss, until: wgpu::PollType) -> Outcome {
    match contained(|| device.poll(until)) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(message) => {
            loss.note(&*message);
            Err(message)
        }
    }
}

/// Waits until a submission is done and its callbacks have been called.
#[cfg(not(target_arch = "wasm32"))]
pub(in crate::gpu) fn wait_for(device: &wgpu::Device, loss: &Loss, submission: &wgpu::SubmissionIndex) -> Outcome {
    let wait = wgpu::PollType::Wait { submission_index: Some(submission.clone()), timeout: None };
    // If the device was lost meanwhile, it no longer knows the submission. It gives the reason once all work has ended.
    poll(device, loss, wait).or_else(|_| poll(device, loss, wgpu::PollType::wait_indefinitely()))
}

impl DeviceCore {
    /// Runs driver calls and turns their reports into an error. A lost device reports nothing, so the loss is checked last.
    pub(in crate::gpu) fn guarded<T>(&self, op: &'static str, calls: impl FnOnce() -> T) -> Result<T> {
        #[cfg(test)]
        super::faults::meet(super::faults::Fault::Refused, op)?;
        self.check_known(op)?;
        let error = match contained(|| self.scoped(calls)) {
            Ok((value, None)) => return self.check_alive(op).map(|()| value),
            Ok((_, Some(error))) => Ok(error),
            Err(panic) => Err(panic),
        };
        // A refusal may be a consequence of a loss, which is reported only after the work in flight has ended.
        let _ = self.poll(wgpu::PollType::wait_indefinitely());
        self.ask_whether_alive(op)?;
        Err(match error {
            Ok(wgpu::Error::OutOfMemory { source }) => {
                Error::OutOfMemory { op, message: one_line(&source.to_string()) }
            }
            Ok(error) => Error::Gpu { op, message: one_line(&error.to_string()) },
            Err(panic) => Error::Gpu { op, message: panic },
        })
    }

    /// Runs driver calls. A browser reports their errors later, and waiting would block the thread that it needs for that.
    #[cfg(target_arch = "wasm32")]
    fn scoped<T>(&self, calls: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
        (calls(), None)
    }

    /// Runs driver calls and returns the first error that they report, validation errors first.
    #[cfg(not(target_arch = "wasm32"))]
    fn scoped<T>(&self, calls: impl FnOnce() -> T) -> (T, Option<wgpu::Error>) {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let value = calls();
        let refused = pollster::block_on(validation.pop());
        let broken = pollster::block_on(internal.pop());
        let exhausted = pollster::block_on(memory.pop());
        (value, refused.or(broken).or(exhausted))
    }

    /// Runs driver calls, even on a lost device. Returns the first error that they report.
    pub(in crate::gpu) fn attempt<T>(&self, calls: impl FnOnce() -> T) -> std::result::Result<T, String> {
        match contained(|| self.scoped(calls))? {
            (value, None) => Ok(value),
            (_, Some(error)) => Err(one_line(&error.to_string())),
        }
    }

    /// Writes nothing to a new buffer. The error is wgpu's message if the device was lost before, or if the queue is another device's.
    ///
    /// The canary does not tell of such a loss: wgpu refuses writes to a buffer that it could not create.
    pub(in crate::gpu) fn try_queue(&self) -> std::result::Result<(), String> {
        let usage = wgpu::BufferUsages::COPY_DST;
        let descriptor = wgpu::BufferDescriptor { label: Some("trial"), size: 4, usage, mapped_at_creation: false };
        self.attempt(|| self.queue.write_buffer(&self.device.create_buffer(&descriptor), 0, &[]))
    }

    /// Lets wgpu process the work that the device has finished, or waits for it.
    pub(in crate::gpu) fn poll(&self, until: wgpu::PollType) -> Outcome {
        poll(&self.device, &self.loss, until)
    }

    /// Waits until a submission is done and its callbacks have been called.
    #[cfg(not(target_arch = "wasm32"))]
    pub(in crate::gpu) fn wait_for(&self, submission: &wgpu::SubmissionIndex) -> Outcome {
        wait_for(&self.device, &self.loss, submission)
    }

    /// Returns an error if the device is lost and would ignore all commands.
    pub(in crate::gpu) fn check_alive(&self, op: &'static str) -> Result<()> {
        if !self.loss.0.listening.load(Ordering::Relaxed) {
            return self.ask_whether_alive(op);
        }
        // wgpu calls back with a loss during a poll. A failed poll is reported by the call that waits for a result.
        let _ = self.poll(wgpu::PollType::Poll);
        self.check_known(op)
    }

    /// Checks as [`DeviceCore::check_alive`] does, and also writes to the canary: for a loss that no callback reports, or that wgpu reports
    /// only once the work in flight has ended.
    pub(in crate::gpu) fn ask_whether_alive(&self, op: &'static str) -> Result<()> {
        let _ = self.poll(wgpu::PollType::Poll);
        self.check_known(op)?;
        #[cfg(not(target_arch = "wasm32"))]
        if !self.canary.lives(&self.device, &self.queue) {
            self.loss.note("destroyed by its owner, or given up by its driver");
        }
        self.check_known(op)
    }

    /// Checks as [`DeviceCore::check_alive`] does, by what is known already, without a call to the driver.
    fn check_known(&self, op: &'static str) -> Result<()> {
        match self.loss.reason() {
            Some(reason) => Err(Error::DeviceLost { op, reason }),
            None => Ok(()),
        }
    }
}

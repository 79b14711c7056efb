//! Commands in a caller's encoder, which the caller submits.

use std::sync::Arc;
use std::time::Duration;

use super::{Needs, Recorder};
use crate::error::{Error, Result};
use crate::gpu::device::lock;
use crate::gpu::kept::OnDevice;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::submit::GpuDevice;
use crate::plan::{Submissions, Watchdog};

/// Commands that a caller's encoder holds, and the memory that they use. The memory serves nobody else before the caller has
/// submitted them. If the caller never says so, it goes back to the driver instead of the pool.
pub(in crate::gpu) struct Unsubmitted {
    op: &'static str,
    recorder: Recorder,
    passes: usize,
    /// `None` once the commands are submitted.
    needs: Option<Needs>,
}

impl Recorder {
    /// Appends all commands to a caller's encoder. If it fails, the encoder is as it was.
    pub(in crate::gpu) fn encode_into(
        mut self,
        op: &'static str,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<Unsubmitted> {
        let resources = Arc::clone(self.device.resources());
        resources.check_alive(op)?;
        if !self.later_submissions().is_empty() {
            return Err(self.too_long(op));
        }
        let needs = self.needs(&resources)?;
        let groups = resources.guarded(op, || self.bind_groups(&resources, &needs))?;
        let passes = resources.guarded(op, || {
            let passes = self.encode(&self.list.commands, encoder, &groups, None);
            needs.copy_watched(encoder);
            passes
        })?;
        Ok(Unsubmitted { op, recorder: self, passes, needs: Some(needs) })
    }

    /// The error of commands that must be one submission and would take longer than one may.
    fn too_long(&self, op: &'static str) -> Error {
        let mut whole = Submissions::new(&Watchdog { submission: Duration::MAX, ..self.watchdog() });
        self.list.nanos().for_each(|nanos| _ = whole.begins_with(nanos));
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Error::Limit {
            op,
            what: "microseconds of one submission on a slow GPU (record less per encoder, or set Recorder::submission_bound)",
            needed: micros(whole.longest()),
            limit: micros(self.watchdog().submission),
            adapter: self.device.adapter().name.clone(),
        }
    }
}

impl Unsubmitted {
    pub(in crate::gpu) fn device(&self) -> &GpuDevice {
        self.recorder.device()
    }

    /// Notes that the caller has submitted the commands. From now on later submissions may use their memory.
    pub(in crate::gpu) fn submitted(mut self) -> Result<()> {
        let resources = Arc::clone(self.device().resources());
        if let Some(Needs { uniforms, watched, staged }) = self.needs.take() {
            self.recorder.count_work(0..self.recorder.list.commands.len(), self.passes);
            lock(&resources.pool).submitted();
            self.device().concurrency().ask_for(&resources, watched, staged);
            uniforms.into_iter().for_each(|uniforms| resources.give_uniforms(uniforms));
        }
        resources.check_alive(self.op)
    }
}

impl Drop for Unsubmitted {
    /// The caller may still submit the encoder. So nobody else gets memory that the host has written for its commands.
    fn drop(&mut self) {
        let Some(Needs { uniforms, staged, .. }) = self.needs.take() else { return };
        let resources = self.recorder.device.resources();
        self.recorder.list.buffers().for_each(Buffer::retire);
        uniforms.iter().for_each(|uniforms| uniforms.retire());
        staged.iter().for_each(|(number, _)| resources.forget(*number));
    }
}

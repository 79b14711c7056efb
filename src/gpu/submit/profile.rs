//! The time of a submission on the device's own clock.

use std::time::Duration;

use super::handle::GpuDevice;
use super::marks::Marks;
use super::readback::ReadBack;
use super::recorder::Recorder;
#[cfg(not(target_arch = "wasm32"))]
use crate::error::Error;
use crate::error::Result;
use crate::gpu::kept::OnDevice;

const OP: &str = "profile";

/// The resolution at which a submission is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail {
    /// The beginning and the end of each compute pass, which costs nothing.
    Passes,
    /// The end of each dispatch as well, which may keep dispatches from overlapping. If the adapter has no timestamps inside passes,
    /// this equals [`Detail::Passes`].
    Dispatches,
}

/// The time of a submission on the device's own clock, without recording, submitting and reading back, and without copies before or
/// after the passes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// From the beginning of the first pass to the end of the last.
    pub total: Duration,
    /// Duration of each pass.
    pub passes: Vec<Duration>,
    /// Duration of each dispatch with its kernel's name, from the end of the dispatch before it to its own end. At most about 4,000
    /// dispatches; empty unless [`Detail::Dispatches`] was asked for and is possible.
    pub dispatches: Vec<(&'static str, Duration)>,
}

impl GpuDevice {
    /// Whether the adapter has a clock for [`Profile`]s.
    pub fn has_timestamps(&self) -> bool {
        self.resources().device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Whether the adapter's clock can be read after each dispatch ([`Detail::Dispatches`]).
    pub fn has_dispatch_timestamps(&self) -> bool {
        self.resources().device.features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    }
}

impl Marks {
    /// Waits for the timestamps of a submission.
    #[cfg(not(target_arch = "wasm32"))]
    fn read(self, device: &GpuDevice, submission: Option<wgpu::SubmissionIndex>) -> Result<Profile> {
        let count = 2 * self.passes as usize + self.kernels.len();
        let ticks: Vec<u64> = ReadBack::new(device, self.staging, 2 * count, submission).wait()?;
        let period = f64::from(device.resources().queue.get_timestamp_period());
        // Clocks of some drivers step back by a tick between passes.
        let between =
            |from: u64, to: u64| Duration::from_nanos((to.saturating_sub(from) as f64 * period).round() as u64);
        let (bounds, ends) = ticks.split_at(2 * self.passes as usize);
        let total = match bounds {
            [first, .., last] => between(*first, *last),
            _ => Duration::ZERO,
        };
        let passes = bounds.chunks_exact(2).map(|pass| between(pass[0], pass[1])).collect();
        let begins = |at: usize| match self.before.iter().position(|before| *before == at) {
            Some(pass) => bounds[2 * pass],
            None => ends[at - 1],
        };
        let dispatches = self.kernels.iter().enumerate().map(|(at, name)| (*name, between(begins(at), ends[at])));
        let dispatches = dispatches.collect();
        Ok(Profile { total, passes, dispatches })
    }
}

impl Recorder {
    /// Submits everything, waits for it and returns its time on the device.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn submit_profiled(self, detail: Detail) -> Result<Profile> {
        let device = self.device().clone();
        if !device.has_timestamps() {
            return Err(Error::Unsupported { op: OP, option: "timestamps".to_owned(), by: "by this adapter" });
        }
        let each = detail == Detail::Dispatches && device.has_dispatch_timestamps();
        let mut marks = Marks::new(&device, self.passes(), self.dispatches(), each)?;
        let submission = self.submit_as(OP, Some(&mut marks))?;
        marks.read(&device, submission)
    }
}

//! How long a submission takes on the device's own clock.

use std::time::Duration;

use super::buffer::Buffer;
use super::context::GpuDevice;
use super::readback::ReadBack;
use super::recorder::Recorder;
use crate::error::{Error, Result};

const OP: &str = "profile";
const RESOLVE: wgpu::BufferUsages = wgpu::BufferUsages::QUERY_RESOLVE.union(wgpu::BufferUsages::COPY_SRC);

/// How closely a submission is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The beginning and the end of each compute pass, which costs nothing.
    Passes,
    /// The end of each dispatch as well, which may keep neighbours from overlapping. Where the adapter has no timestamps
    /// inside passes this is the same as [`Detail::Passes`].
    Dispatches,
}

/// What a submission took by the device's own clock: neither recording nor submission nor read-back, and no copy before or
/// after the passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// From the beginning of the first pass to the end of the last.
    pub total: Duration,
    /// Each pass.
    pub passes: Vec<Duration>,
    /// Each dispatch with its kernel's name, from the end of the one before to its own; at most some 4,000 of them, and
    /// none unless asked for and possible.
    pub dispatches: Vec<(&'static str, Duration)>,
}

/// Timestamps of a submission, as they are asked for.
pub(super) struct Marks {
    queries: wgpu::QuerySet,
    resolved: Buffer,
    /// Where the host reads them.
    staging: Buffer,
    /// Kernels whose end is to be marked.
    kernels: Vec<&'static str>,
    most_kernels: usize,
    begun: u32,
    passes: u32,
    /// For each pass the number of dispatches marked when it begins.
    before: Vec<usize>,
}

impl GpuDevice {
    /// Whether the adapter has a clock that [`Profile`]s can be taken with.
    pub fn has_timestamps(&self) -> bool {
        self.context().device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Whether that clock can be read after each dispatch ([`Detail::Dispatches`]).
    pub fn has_dispatch_timestamps(&self) -> bool {
        self.context().device.features().contains(wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    }
}

impl Marks {
    fn new(device: &GpuDevice, passes: usize, dispatches: usize, detail: Detail) -> Result<Self> {
        let context = device.context();
        let most = wgpu::QUERY_SET_MAX_QUERIES as usize;
        context.limit(OP, "timestamps of one submission", 2 * passes as u64, most as u64)?;
        let each = detail == Detail::Dispatches && device.has_dispatch_timestamps();
        let most_kernels = if each { dispatches.min(most - 2 * passes) } else { 0 };
        #[expect(clippy::cast_possible_truncation, reason = "both are at most the largest query set")]
        let (passes, count) = (passes as u32, (2 * passes + most_kernels).max(1) as u32);
        let resolved = Buffer::allocate(context, OP, RESOLVE, u64::from(count) * u64::from(wgpu::QUERY_SIZE))?;
        let queries = context.guarded(OP, || {
            context.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some(OP),
                ty: wgpu::QueryType::Timestamp,
                count,
            })
        })?;
        let staging = ReadBack::room(context, 2 * count as usize)?;
        Ok(Self { queries, resolved, staging, kernels: Vec::new(), most_kernels, begun: 0, passes, before: Vec::new() })
    }

    /// Where the next pass marks its beginning and its end.
    pub(super) fn pass(&mut self) -> wgpu::ComputePassTimestampWrites<'_> {
        let at = 2 * self.begun;
        self.begun += 1;
        self.before.push(self.kernels.len());
        wgpu::ComputePassTimestampWrites {
            query_set: &self.queries,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        }
    }

    /// Marks the end of a dispatch.
    pub(super) fn dispatch(&mut self, pass: &mut wgpu::ComputePass<'_>, kernel: &'static str) {
        if self.kernels.len() < self.most_kernels {
            #[expect(clippy::cast_possible_truncation, reason = "less than the largest query set")]
            pass.write_timestamp(&self.queries, 2 * self.passes + self.kernels.len() as u32);
            self.kernels.push(kernel);
        }
    }

    /// Has the timestamps written out behind all passes, and copied to the host.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        #[expect(clippy::cast_possible_truncation, reason = "less than the largest query set")]
        let count = 2 * self.passes + self.kernels.len() as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.queries, 0..count, self.resolved.raw(), 0);
            let bytes = u64::from(count) * u64::from(wgpu::QUERY_SIZE);
            encoder.copy_buffer_to_buffer(self.resolved.raw(), 0, self.staging.raw(), 0, bytes);
        }
    }

    /// Waits for the timestamps of a submission.
    #[cfg(not(target_arch = "wasm32"))]
    fn read(self, device: &GpuDevice, submission: Option<wgpu::SubmissionIndex>) -> Result<Profile> {
        let count = 2 * self.passes as usize + self.kernels.len();
        let ticks: Vec<u64> = ReadBack::new(self.staging, 2 * count, submission).wait()?;
        let period = f64::from(device.context().queue.get_timestamp_period());
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
    /// Submits everything, waits for it and says what it took on the device.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn submit_profiled(self, detail: Detail) -> Result<Profile> {
        let device = self.device().clone();
        if !device.has_timestamps() {
            return Err(Error::Unsupported { op: OP, option: "timestamps".to_owned(), by: "this adapter" });
        }
        let mut marks = Marks::new(&device, self.passes(), self.dispatches(), detail)?;
        let submission = self.submit_as(OP, Some(&mut marks))?;
        marks.read(&device, submission)
    }
}

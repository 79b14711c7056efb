//! Timestamps of a submission.

use crate::error::Result;
use crate::gpu::kept::OnDevice;
use crate::gpu::kept::buffer::Buffer;

const OP: &str = "profile";
const RESOLVE: wgpu::BufferUsages = wgpu::BufferUsages::QUERY_RESOLVE.union(wgpu::BufferUsages::COPY_SRC);

/// The timestamp queries of a submission, and the buffers for their results.
pub(in crate::gpu) struct Marks {
    pub(in crate::gpu) queries: wgpu::QuerySet,
    pub(in crate::gpu) resolved: Buffer,
    /// The memory from which the host reads the timestamps.
    pub(in crate::gpu) staging: Buffer,
    /// Kernels whose end is to be marked.
    pub(in crate::gpu) kernels: Vec<&'static str>,
    pub(in crate::gpu) most_kernels: usize,
    pub(in crate::gpu) begun: u32,
    pub(in crate::gpu) passes: u32,
    /// For each pass the number of dispatches marked when it begins.
    pub(in crate::gpu) before: Vec<usize>,
}

impl Marks {
    pub(in crate::gpu) fn new(device: &impl OnDevice, passes: usize, dispatches: usize, each: bool) -> Result<Self> {
        let resources = device.resources();
        let most = wgpu::QUERY_SET_MAX_QUERIES as usize;
        resources.limit(OP, "timestamps of one submission", 2 * passes as u64, most as u64)?;
        let most_kernels = if each { dispatches.min(most - 2 * passes) } else { 0 };
        #[expect(clippy::cast_possible_truncation, reason = "both are at most the largest query set")]
        let (passes, count) = (passes as u32, (2 * passes + most_kernels).max(1) as u32);
        let resolved = Buffer::allocate(resources, OP, RESOLVE, u64::from(count) * u64::from(wgpu::QUERY_SIZE))?;
        let queries = resources.guarded(OP, || {
            resources.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some(OP),
                ty: wgpu::QueryType::Timestamp,
                count,
            })
        })?;
        let staging = Buffer::host(device, OP, 2 * count as usize)?;
        Ok(Self { queries, resolved, staging, kernels: Vec::new(), most_kernels, begun: 0, passes, before: Vec::new() })
    }

    /// The queries in which the next pass marks its beginning and its end.
    pub(in crate::gpu) fn pass(&mut self) -> wgpu::ComputePassTimestampWrites<'_> {
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
    pub(in crate::gpu) fn dispatch(&mut self, pass: &mut wgpu::ComputePass<'_>, kernel: &'static str) {
        if self.kernels.len() < self.most_kernels {
            #[expect(clippy::cast_possible_truncation, reason = "less than the largest query set")]
            pass.write_timestamp(&self.queries, 2 * self.passes + self.kernels.len() as u32);
            self.kernels.push(kernel);
        }
    }

    /// Encodes, behind all passes, the writing of the timestamps to memory and their copy to the host.
    pub(in crate::gpu) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        #[expect(clippy::cast_possible_truncation, reason = "less than the largest query set")]
        let count = 2 * self.passes + self.kernels.len() as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.queries, 0..count, self.resolved.raw(), 0);
            let bytes = u64::from(count) * u64::from(wgpu::QUERY_SIZE);
            encoder.copy_buffer_to_buffer(self.resolved.raw(), 0, self.staging.raw(), 0, bytes);
        }
    }
}

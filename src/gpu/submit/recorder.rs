//! Dispatches and copies, collected and submitted at once.

mod division;
mod unsubmitted;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::handle::GpuDevice;
use super::list::{Bound, BoundId, Command, List, dispatches};
use super::marks::Marks;
use super::watch::{Watched, stage};
use crate::error::{Error, Result};
use crate::gpu::device::counters::count;
use crate::gpu::device::lock;
use crate::gpu::kept::bindings::Uniforms;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{Constants, Kernel};
use crate::gpu::kept::part::{PART, PartDims};
use crate::gpu::kept::pipeline::Pipeline;
use crate::gpu::kept::uniform::Uniform;
use crate::gpu::kept::{DeviceResources, OnDevice};
use crate::plan::Grid;

pub(in crate::gpu) use self::unsubmitted::Unsubmitted;

/// A list of commands that becomes one submission, or several if one would take too long. Nothing runs, and nothing on the device
/// changes, before [`Recorder::submit`]. A recorder that is dropped before leaves no trace.
#[must_use = "commands run when the recorder is submitted"]
pub(crate) struct Recorder {
    device: GpuDevice,
    list: List,
    /// Bounds the time of one submission in place of the device's watchdog.
    longest_submission: Option<Duration>,
}

/// The objects of a submission beside its commands.
struct Needs {
    /// `None` if there are no dispatches.
    uniforms: Option<Uniforms>,
    watched: Vec<Watched>,
    /// Host memory for every watched word.
    staged: Vec<(u64, wgpu::Buffer)>,
}

/// Largest number of emptied lists that a device keeps.
const MOST_LISTS: usize = 8;

impl Drop for Recorder {
    fn drop(&mut self) {
        let mut list = std::mem::take(&mut self.list);
        // Buffers go back to the pool before the list does.
        list.empty();
        let mut lists = lock(self.device.lists());
        if lists.len() < MOST_LISTS {
            lists.push(list);
        }
    }
}

impl Recorder {
    pub(crate) fn new(device: &GpuDevice) -> Self {
        let list = lock(device.lists()).pop().unwrap_or_default();
        Self { device: device.clone(), list, longest_submission: None }
    }

    /// Bounds the time of one submission on a slow GPU in place of the device's watchdog.
    pub(crate) fn bound_submissions(&mut self, longest: Duration) {
        self.longest_submission = Some(longest);
    }

    pub(crate) fn device(&self) -> &GpuDevice {
        &self.device
    }

    /// Binds buffers to a kernel in the order of its bindings from 1 on.
    pub(in crate::gpu) fn bind(
        &mut self,
        kernel: &'static Kernel,
        constants: &Constants,
        buffers: impl Into<Vec<Buffer>>,
    ) -> Result<BoundId> {
        let pipeline = self.device.resources().pipeline(kernel, constants)?;
        self.bind_pipeline(pipeline, buffers.into())
    }

    pub(in crate::gpu) fn bind_pipeline(&mut self, pipeline: Arc<Pipeline>, buffers: Vec<Buffer>) -> Result<BoundId> {
        if pipeline.buffers != buffers.len() {
            let message = format!("{} buffers for {} bindings", buffers.len(), pipeline.buffers);
            return Err(Error::Gpu { op: pipeline.name, message });
        }
        self.list.bound.push(Bound { pipeline, buffers, of_part: None });
        Ok(BoundId(self.list.bound.len() - 1))
    }

    /// Binds the kernel and the buffers of `bound` once more, for parts of a grid.
    fn of_part(&mut self, bound: BoundId) -> Result<BoundId> {
        let Bound { pipeline, buffers, of_part } = &self.list.bound[bound.0];
        if let Some(part) = *of_part {
            return Ok(part);
        }
        let (kernel, buffers, mut constants) = (pipeline.kernel, buffers.clone(), pipeline.constants.clone());
        constants.push((PART, 1));
        let part = self.bind(kernel, &constants, buffers)?;
        self.list.bound[bound.0].of_part = Some(part);
        Ok(part)
    }

    /// Adds a dispatch, or several if the grid has several parts. `dims` is the kernel's uniform.
    pub(in crate::gpu) fn dispatch<D: Uniform>(&mut self, bound: BoundId, dims: &D, grid: &Grid) -> Result<()> {
        let pipeline = &self.list.bound[bound.0].pipeline;
        pipeline.accept::<D>()?;
        let op = pipeline.name;
        let dims = bytemuck::bytes_of(dims);
        let word = |groups: usize| self.device.resources().word(op, groups);
        let [x, y, z] = grid.whole();
        let whole = [word(x)?, word(y)?, word(z)?];
        if grid.is_whole() {
            return self.record(bound, (dims, None), whole, grid.nanos());
        }
        let bound = self.of_part(bound)?;
        for part in grid.parts() {
            // No part is larger than the whole grid, which is counted in 32 bits.
            #[expect(clippy::cast_possible_truncation, reason = "every number is below one that has been checked")]
            let [first, groups] = part.map(|at| at.map(|groups| groups as u32));
            self.record(bound, (dims, Some(PartDims { first, whole })), groups, grid.nanos())?;
        }
        Ok(())
    }

    /// Adds a dispatch of any kernel with an undivided grid.
    pub(in crate::gpu) fn dispatch_bytes(&mut self, bound: BoundId, dims: &[u8], grid: [u32; 3]) -> Result<()> {
        let Bound { pipeline, .. } = &self.list.bound[bound.0];
        if pipeline.dims.bytes != dims.len() as u64 {
            let message = format!("{} bytes for a uniform of {}", dims.len(), pipeline.dims.bytes);
            return Err(Error::Gpu { op: pipeline.name, message });
        }
        for groups in grid {
            let most = u64::from(self.device.resources().limits.max_compute_workgroups_per_dimension);
            self.device.resources().limit(pipeline.name, "workgroups along one axis", u64::from(groups), most)?;
        }
        self.record(bound, (dims, None), grid, 0)
    }

    fn record(
        &mut self,
        bound: BoundId,
        (dims, part): (&[u8], Option<PartDims>),
        grid: [u32; 3],
        nanos: u64,
    ) -> Result<()> {
        let Bound { pipeline, .. } = &self.list.bound[bound.0];
        if grid.contains(&0) {
            return Ok(());
        }
        let alignment = self.device.resources().limits.min_uniform_buffer_offset_alignment as usize;
        self.list.dims.resize(self.list.dims.len().next_multiple_of(alignment), 0);
        let at = u32::try_from(self.list.dims.len()).map_err(|_| Error::Limit {
            op: pipeline.name,
            what: "uniforms of one submission in bytes",
            needed: self.list.dims.len() as u64,
            limit: u64::from(u32::MAX),
            adapter: self.device.adapter().name.clone(),
        })?;
        self.list.dims.extend_from_slice(dims);
        if let Some(part) = part {
            let [place, bound] = [pipeline.dims.place, pipeline.dims.bound].map(|bytes| at as usize + bytes as usize);
            // Only padding is cut off here, because the part's words begin right behind the last field.
            self.list.dims.truncate(place);
            self.list.dims.extend_from_slice(bytemuck::bytes_of(&part));
            self.list.dims.resize(bound, 0);
        }
        self.list.commands.push(Command::Dispatch { bound: bound.0, dims: at, grid, nanos });
        Ok(())
    }

    /// Protects a buffer that commands write in place, a state for example: unless all submissions succeed, it keeps its value.
    pub(in crate::gpu) fn keep(&mut self, buffer: &Buffer) {
        if !self.list.kept.iter().any(|kept| kept.is_same(buffer)) {
            self.list.kept.push(buffer.clone());
        }
    }

    /// Marks the uniforms as different in every submission, for example because they hold the number of a training step.
    pub(in crate::gpu) fn has_passing_numbers(&mut self) {
        self.list.passing = true;
    }

    /// Adds a copy between two buffers; offsets and length in 32-bit words.
    pub(crate) fn copy(&mut self, from: (&Buffer, usize), to: (&Buffer, usize), words: usize) {
        if words > 0 {
            let (from, from_word) = (from.0.clone(), from.1 as u64);
            let (to, to_word) = (to.0.clone(), to.1 as u64);
            self.list.commands.push(Command::Copy { from, from_word, to, to_word, words: words as u64 });
        }
    }

    /// Adds zeroing of a range; offset and length in 32-bit words.
    pub(crate) fn clear(&mut self, buffer: &Buffer, word: usize, words: usize) {
        if words > 0 {
            self.list.commands.push(Command::Clear { buffer: buffer.clone(), word: word as u64, words: words as u64 });
        }
    }

    /// Has the host read the first word of `exchange` once the submission is done. The word says whether the workgroups of `scan`
    /// ran concurrently.
    pub(in crate::gpu) fn watch(&mut self, exchange: &Buffer, scan: String) {
        self.list.watched.push(Watched { from: exchange.clone(), scan });
    }

    /// Submits all commands.
    pub(crate) fn submit(self) -> Result<()> {
        self.submit_as("submit", None).map(|_| ())
    }

    /// Submits all commands and waits until they are done.
    #[cfg(not(target_arch = "wasm32"))]
    pub(in crate::gpu) fn submit_and_wait(self) -> Result<()> {
        const OP: &str = "submit";
        let device = self.device.clone();
        if let Some(submission) = self.submit_as(OP, None)?
            && let Err(message) = device.resources().wait_for(&submission)
        {
            device.resources().ask_whether_alive(OP)?;
            return Err(Error::Gpu { op: OP, message });
        }
        device.resources().check_alive(OP)
    }

    /// Submits all commands, with timestamps if `marks` is given. Returns the last submission; `None` if there is no command.
    pub(in crate::gpu) fn submit_as(
        self,
        op: &'static str,
        marks: Option<&mut Marks>,
    ) -> Result<Option<wgpu::SubmissionIndex>> {
        self.submit_each(op, marks, |_| Ok(()))
    }

    /// Submits all commands. Calls `before_each` before each submission and stops if it fails.
    fn submit_each(
        mut self,
        op: &'static str,
        mut marks: Option<&mut Marks>,
        mut before_each: impl FnMut(usize) -> Result<()>,
    ) -> Result<Option<wgpu::SubmissionIndex>> {
        let resources = Arc::clone(self.device.resources());
        if self.list.commands.is_empty() {
            resources.check_alive(op)?;
            return Ok(None);
        }
        let begins = self.later_submissions();
        let begins = self.on_working_copies(begins)?;
        let needs = self.needs(&resources)?;
        let (mut groups, mut submission) = (None, None);
        for at in 0..=begins.len() {
            let range = self.submission(&begins, at);
            before_each(at)?;
            let (passes, index) = resources.guarded(op, || {
                let groups: &Vec<_> = groups.get_or_insert_with(|| self.bind_groups(&resources, &needs));
                let mut encoder =
                    resources.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(op) });
                let passes =
                    self.encode(&self.list.commands[range.clone()], &mut encoder, groups, marks.as_deref_mut());
                if at == begins.len() {
                    needs.copy_watched(&mut encoder);
                    if let Some(marks) = marks.as_deref() {
                        marks.resolve(&mut encoder);
                    }
                }
                (passes, resources.queue.submit([encoder.finish()]))
            })?;
            self.count_work(range, passes);
            count(&resources.counters.submits, 1);
            submission = Some(index);
        }
        lock(&resources.pool).submitted();
        self.device.concurrency().ask_for(&resources, needs.watched, needs.staged);
        #[cfg(test)]
        crate::gpu::device::faults::meet(crate::gpu::device::faults::Fault::Misreported, op)?;
        Ok(submission)
    }

    /// Writes the uniforms, and allocates the memory of the watched words.
    fn needs(&mut self, resources: &Arc<DeviceResources>) -> Result<Needs> {
        let List { dims, passing, .. } = &self.list;
        let uniforms = if dims.is_empty() { None } else { Some(resources.uniforms(dims, *passing)?) };
        let watched = std::mem::take(&mut self.list.watched);
        let staged = stage(resources, &watched)?;
        Ok(Needs { uniforms, watched, staged })
    }

    /// Finds or creates the bind groups of all bound kernels. Without uniforms there are no dispatches to bind anything for.
    fn bind_groups(&self, resources: &DeviceResources, needs: &Needs) -> Vec<Option<wgpu::BindGroup>> {
        let uniforms = needs.uniforms.as_ref();
        let bind =
            |bound: &Bound| uniforms.map(|uniforms| resources.bind_group(&bound.pipeline, uniforms, &bound.buffers));
        self.list.bound.iter().map(bind).collect()
    }

    /// Counts the commands of a submission.
    fn count_work(&self, commands: Range<usize>, passes: usize) {
        let counters = &self.device.resources().counters;
        count(&counters.dispatches, dispatches(&self.list.commands[commands]));
        count(&counters.passes, passes);
    }

    /// Dispatches recorded so far.
    pub(in crate::gpu) fn dispatches(&self) -> usize {
        dispatches(&self.list.commands)
    }

    /// Compute passes of the commands recorded so far. Consecutive dispatches share a pass.
    pub(in crate::gpu) fn passes(&self) -> usize {
        let begins = self.later_submissions();
        let of = |at| {
            let runs =
                self.list.commands[self.submission(&begins, at)].chunk_by(|a, b| a.is_dispatch() == b.is_dispatch());
            runs.filter(|run| run[0].is_dispatch()).count()
        };
        (0..=begins.len()).map(of).sum()
    }

    /// Encodes commands; returns the number of passes.
    fn encode(
        &self,
        commands: &[Command],
        encoder: &mut wgpu::CommandEncoder,
        groups: &[Option<wgpu::BindGroup>],
        mut marks: Option<&mut Marks>,
    ) -> usize {
        let mut passes = 0;
        let mut commands = commands.iter().peekable();
        while let Some(command) = commands.next() {
            match command {
                Command::Copy { from, from_word, to, to_word, words } => {
                    encoder.copy_buffer_to_buffer(from.raw(), from_word * 4, to.raw(), to_word * 4, words * 4);
                }
                Command::Clear { buffer, word, words } => {
                    encoder.clear_buffer(buffer.raw(), word * 4, Some(words * 4));
                }
                Command::Dispatch { .. } => {
                    passes += 1;
                    let timestamp_writes = marks.as_deref_mut().map(Marks::pass);
                    let mut pass =
                        encoder.begin_compute_pass(&wgpu::ComputePassDescriptor { label: None, timestamp_writes });
                    let mut current = None;
                    let mut next = Some(command);
                    while let Some(Command::Dispatch { bound, dims, grid: [x, y, z], .. }) = next {
                        let pipeline = &self.list.bound[*bound].pipeline;
                        if current != Some(*bound) {
                            pass.set_pipeline(&pipeline.raw);
                            current = Some(*bound);
                        }
                        pass.set_bind_group(0, &groups[*bound], &[*dims]);
                        pass.dispatch_workgroups(*x, *y, *z);
                        if let Some(marks) = marks.as_deref_mut() {
                            marks.dispatch(&mut pass, pipeline.name);
                        }
                        next = commands.next_if(|command| command.is_dispatch());
                    }
                }
            }
        }
        passes
    }
}

impl Needs {
    /// Encodes the copies of the watched words to the host.
    fn copy_watched(&self, encoder: &mut wgpu::CommandEncoder) {
        for (word, staged) in self.watched.iter().zip(&self.staged) {
            word.copy(encoder, staged);
        }
    }
}

#[cfg(test)]
mod tests;

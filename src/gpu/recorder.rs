//! Dispatches and copies, collected and submitted at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::buffer::Buffer;
use super::context::GpuDevice;
use super::kernel::{Constants, Kernel, Pipeline};
use super::uniform::Uniform;
use crate::error::{Error, Result};

/// A list of commands that becomes one submission. Nothing runs, and nothing on the device changes, before
/// [`Recorder::submit`]; a recorder that is dropped instead leaves no trace.
#[must_use = "commands run when the recorder is submitted"]
pub(crate) struct Recorder {
    device: GpuDevice,
    bound: Vec<Bound>,
    commands: Vec<Command>,
    /// The uniforms of all dispatches, each at its own aligned place.
    dims: Vec<u8>,
}

/// A kernel with its buffers, ready to be dispatched any number of times.
struct Bound {
    pipeline: Arc<Pipeline>,
    buffers: Vec<Buffer>,
}

/// Names a kernel bound in a recorder.
#[derive(Clone, Copy)]
pub(super) struct BoundId(usize);

enum Command {
    Dispatch { bound: usize, dims: u32, grid: [u32; 3] },
    Copy { from: Buffer, from_word: u64, to: Buffer, to_word: u64, words: u64 },
    Clear { buffer: Buffer, word: u64, words: u64 },
}

impl Recorder {
    pub(crate) fn new(device: &GpuDevice) -> Self {
        Self { device: device.clone(), bound: Vec::new(), commands: Vec::new(), dims: Vec::new() }
    }

    pub(crate) fn device(&self) -> &GpuDevice {
        &self.device
    }

    /// Binds buffers to a kernel in the order of its bindings from 1 on.
    pub(super) fn bind(
        &mut self,
        kernel: &'static Kernel,
        constants: &Constants,
        buffers: impl Into<Vec<Buffer>>,
    ) -> Result<BoundId> {
        let pipeline = self.device.context().pipeline(kernel, constants)?;
        self.bind_pipeline(pipeline, buffers.into())
    }

    pub(super) fn bind_pipeline(&mut self, pipeline: Arc<Pipeline>, buffers: Vec<Buffer>) -> Result<BoundId> {
        if pipeline.buffers != buffers.len() {
            let message = format!("{} buffers for {} bindings", buffers.len(), pipeline.buffers);
            return Err(Error::Gpu { op: pipeline.name, message });
        }
        self.bound.push(Bound { pipeline, buffers });
        Ok(BoundId(self.bound.len() - 1))
    }

    /// Adds a dispatch; `dims` is the kernel's uniform.
    pub(super) fn dispatch<D: Uniform>(&mut self, bound: BoundId, dims: &D, grid: [u32; 3]) -> Result<()> {
        self.bound[bound.0].pipeline.accept::<D>()?;
        self.dispatch_bytes(bound, bytemuck::bytes_of(dims), grid)
    }

    pub(super) fn dispatch_bytes(&mut self, bound: BoundId, dims: &[u8], grid: [u32; 3]) -> Result<()> {
        let Bound { pipeline, .. } = &self.bound[bound.0];
        if pipeline.dims.bytes != dims.len() as u64 {
            let message = format!("{} bytes for a uniform of {}", dims.len(), pipeline.dims.bytes);
            return Err(Error::Gpu { op: pipeline.name, message });
        }
        if grid.contains(&0) {
            return Ok(());
        }
        let limits = &self.device.context().limits;
        for groups in grid {
            let most = u64::from(limits.max_compute_workgroups_per_dimension);
            self.device.context().limit(pipeline.name, "workgroups along one axis", u64::from(groups), most)?;
        }
        let alignment = limits.min_uniform_buffer_offset_alignment as usize;
        self.dims.resize(self.dims.len().next_multiple_of(alignment), 0);
        let at = u32::try_from(self.dims.len()).map_err(|_| Error::Limit {
            op: pipeline.name,
            what: "uniforms of one submission in bytes",
            needed: self.dims.len() as u64,
            limit: u64::from(u32::MAX),
            adapter: self.device.adapter().name.clone(),
        })?;
        self.dims.extend_from_slice(dims);
        self.commands.push(Command::Dispatch { bound: bound.0, dims: at, grid });
        Ok(())
    }

    /// Adds a copy between two buffers; offsets and length in 32-bit words.
    pub(crate) fn copy(&mut self, from: (&Buffer, usize), to: (&Buffer, usize), words: usize) {
        if words > 0 {
            let (from, from_word) = (from.0.clone(), from.1 as u64);
            let (to, to_word) = (to.0.clone(), to.1 as u64);
            self.commands.push(Command::Copy { from, from_word, to, to_word, words: words as u64 });
        }
    }

    /// Adds zeroing of a range; offset and length in 32-bit words.
    pub(crate) fn clear(&mut self, buffer: &Buffer, word: usize, words: usize) {
        if words > 0 {
            self.commands.push(Command::Clear { buffer: buffer.clone(), word: word as u64, words: words as u64 });
        }
    }

    /// Hands everything over in one submission; runs of dispatches share one compute pass.
    pub(crate) fn submit(self) -> Result<()> {
        const OP: &str = "submit";
        if self.commands.is_empty() {
            return self.device.context().check_alive(OP);
        }
        let context = self.device.context();
        let uniforms = if self.dims.is_empty() { None } else { Some(Buffer::uniforms(context, &self.dims)?) };
        let passes = context.guarded(OP, || {
            // Without uniforms there are no dispatches to bind anything for.
            let groups: Vec<wgpu::BindGroup> = uniforms
                .iter()
                .flat_map(|uniforms| self.bound.iter().map(|bound| self.group(bound, uniforms)))
                .collect();
            let mut encoder =
                context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(OP) });
            let mut passes = 0;
            let mut commands = self.commands.iter().peekable();
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
                        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                        let mut current = None;
                        let mut next = Some(command);
                        while let Some(Command::Dispatch { bound, dims, grid: [x, y, z] }) = next {
                            if current != Some(*bound) {
                                pass.set_pipeline(&self.bound[*bound].pipeline.raw);
                                current = Some(*bound);
                            }
                            pass.set_bind_group(0, &groups[*bound], &[*dims]);
                            pass.dispatch_workgroups(*x, *y, *z);
                            next = commands.next_if(|command| matches!(command, Command::Dispatch { .. }));
                        }
                    }
                }
            }
            context.queue.submit([encoder.finish()]);
            passes
        })?;
        let dispatches = self.commands.iter().filter(|c| matches!(c, Command::Dispatch { .. })).count();
        context.counters.dispatches.fetch_add(dispatches as u64, Ordering::Relaxed);
        context.counters.passes.fetch_add(passes, Ordering::Relaxed);
        context.counters.submits.fetch_add(1, Ordering::Relaxed);
        context.check_alive(OP)
    }

    fn group(&self, bound: &Bound, uniforms: &Buffer) -> wgpu::BindGroup {
        let dims = wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: uniforms.raw(),
                offset: 0,
                size: wgpu::BufferSize::new(bound.pipeline.dims.bytes),
            }),
        };
        let buffers = (1..)
            .zip(&bound.buffers)
            .map(|(binding, buffer): (u32, &Buffer)| wgpu::BindGroupEntry { binding, resource: buffer.binding() });
        let entries: Vec<_> = std::iter::once(dims).chain(buffers).collect();
        self.device.context().device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(bound.pipeline.name),
            layout: &bound.pipeline.layout,
            entries: &entries,
        })
    }
}

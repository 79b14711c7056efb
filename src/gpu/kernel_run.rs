//! Runs single kernels on host data.

use std::sync::Arc;

use super::kept::OnDevice;
use super::kept::buffer::Buffer;
use super::kept::kernel::Kernel;
use super::kept::pipeline::Checks;
use super::submit::GpuDevice;
use super::submit::recorder::Recorder;
use crate::error::Result;

/// One run of a kernel on host data: for tests of a kernel by itself, and for tools.
#[derive(Clone, Copy, Debug)]
pub struct KernelRun<'a> {
    /// Values of the kernel's `override`s.
    pub constants: &'a [(&'static str, u32)],
    /// The uniform at binding 0, in 32-bit words.
    pub dims: &'a [u32],
    /// The buffers from binding 1 on, in 32-bit words.
    pub buffers: &'a [Vec<u32>],
    /// Workgroups along each axis.
    pub grid: [u32; 3],
}

impl GpuDevice {
    /// Compiles a kernel anew and runs it once; returns every buffer as the kernel left it.
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu) if the WGSL or the bindings are refused; [`Error::Limit`](crate::Error::Limit) if the kernel or
    /// the grid exceeds a limit.
    pub fn run_kernel(&self, kernel: &'static Kernel, run: &KernelRun<'_>) -> Result<Vec<Vec<u32>>> {
        let pipeline = Arc::new(self.resources().compile(kernel, &run.constants.to_vec(), Checks::All)?);
        let upload = |words: &Vec<u32>| Buffer::from_slice(self, kernel.name, words);
        let buffers = run.buffers.iter().map(upload).collect::<Result<Vec<_>>>()?;
        let mut recorder = Recorder::new(self);
        let bound = recorder.bind_pipeline(pipeline, buffers.clone())?;
        recorder.dispatch_bytes(bound, bytemuck::cast_slice(run.dims), run.grid)?;
        recorder.submit()?;
        buffers.iter().zip(run.buffers).map(|(buffer, words)| self.read_words(buffer, 0, words.len())).collect()
    }
}

//! Device memory: labelled allocation from a pool, upload and read-back.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use super::context::{Context, GpuDevice, lock};
use crate::error::{Error, Result};

/// Every storage buffer can be bound, copied from and copied to.
const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);
const UNIFORM: wgpu::BufferUsages = wgpu::BufferUsages::UNIFORM.union(wgpu::BufferUsages::COPY_DST);
const STAGING: wgpu::BufferUsages = wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);

/// Bytes of the widest load.
const WORD: u64 = 16;

/// Free memory that the pool keeps; beyond it buffers go back to the driver.
const POOL_BYTES: u64 = 256 << 20;

/// Buffers that are free for reuse. The queue runs commands in order, so a buffer may be handed out again while commands
/// that use it are still in flight.
#[derive(Default)]
pub(super) struct Pool {
    free: Vec<wgpu::Buffer>,
    bytes: u64,
}

impl Pool {
    fn take(&mut self, usage: wgpu::BufferUsages, capacity: u64) -> Option<wgpu::Buffer> {
        let at = self.free.iter().position(|b| b.usage() == usage && b.size() == capacity)?;
        self.bytes -= capacity;
        Some(self.free.swap_remove(at))
    }

    fn give(&mut self, buffer: wgpu::Buffer) {
        if self.bytes + buffer.size() <= POOL_BYTES {
            self.bytes += buffer.size();
            self.free.push(buffer);
        }
    }
}

/// Device memory of a known length; the bytes beyond it, if any, are never bound.
#[derive(Clone)]
pub(crate) struct Buffer(Arc<Inner>);

struct Inner {
    /// `None` only while dropping.
    raw: Option<wgpu::Buffer>,
    bytes: u64,
    pooled: bool,
    context: Arc<Context>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take()
            && self.pooled
        {
            lock(&self.context.pool).give(raw);
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.0.bytes).finish_non_exhaustive()
    }
}

/// Room for `bytes`: powers of two while small, whole mebibytes beyond, so that sizes meet again.
fn capacity(bytes: u64) -> u64 {
    const MEBIBYTE: u64 = 1 << 20;
    if bytes <= MEBIBYTE { bytes.next_power_of_two().max(256) } else { bytes.next_multiple_of(MEBIBYTE) }
}

impl Buffer {
    /// Memory for `len` 32-bit words, contents unspecified.
    pub(crate) fn new(device: &GpuDevice, label: &'static str, len: usize) -> Result<Self> {
        let context = device.context();
        let bytes = (len.max(1) as u64) * 4;
        let limits = &context.limits;
        context.limit(label, "a storage binding in bytes", bytes, limits.max_storage_buffer_binding_size)?;
        context.limit(label, "a buffer's size in bytes", bytes, limits.max_buffer_size)?;
        Self::allocate(context, label, STORAGE, bytes)
    }

    /// Memory holding `data`.
    pub(crate) fn from_slice<T: bytemuck::NoUninit>(
        device: &GpuDevice,
        label: &'static str,
        data: &[T],
    ) -> Result<Self> {
        let buffer = Self::new(device, label, size_of_val(data).div_ceil(4))?;
        buffer.write(label, bytemuck::cast_slice(data))?;
        Ok(buffer)
    }

    /// Memory holding `len` zeros.
    pub(crate) fn zeros(device: &GpuDevice, label: &'static str, len: usize) -> Result<Self> {
        // Only a length that the device takes is written out on the host.
        let buffer = Self::new(device, label, len)?;
        buffer.write(label, &vec![0; len * 4])?;
        Ok(buffer)
    }

    /// Writes whole words from the buffer's start on.
    fn write(&self, op: &'static str, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let context = &self.0.context;
        context.guarded(op, || context.queue.write_buffer(self.raw(), 0, bytes))
    }

    /// Wraps a caller's buffer of `len` words.
    pub(crate) fn from_wgpu(device: &GpuDevice, raw: wgpu::Buffer, len: usize) -> Result<Self> {
        let bytes = (len.max(1) as u64) * 4;
        if !raw.usage().contains(STORAGE) || raw.size() < bytes {
            return Err(Error::Value {
                op: "Tensor::from_wgpu_buffer",
                what: "buffer",
                expected: "usage STORAGE | COPY_SRC | COPY_DST and room for the shape",
                found: format!("usage {:?}, {} bytes", raw.usage(), raw.size()),
            });
        }
        let context = Arc::clone(device.context());
        context.limit(
            "Tensor::from_wgpu_buffer",
            "a storage binding in bytes",
            bytes,
            context.limits.max_storage_buffer_binding_size,
        )?;
        Ok(Self(Arc::new(Inner { raw: Some(raw), bytes, pooled: false, context })))
    }

    /// Memory for a submission's uniforms.
    pub(super) fn uniforms(context: &Arc<Context>, bytes: &[u8]) -> Result<Self> {
        let op = "uniforms";
        context.limit(op, "a buffer's size in bytes", bytes.len() as u64, context.limits.max_buffer_size)?;
        let buffer = Self::allocate(context, op, UNIFORM, bytes.len() as u64)?;
        buffer.write(op, bytes)?;
        Ok(buffer)
    }

    fn allocate(context: &Arc<Context>, label: &'static str, usage: wgpu::BufferUsages, bytes: u64) -> Result<Self> {
        let capacity = capacity(bytes).min(context.limits.max_buffer_size & !3);
        let reused = lock(&context.pool).take(usage, capacity);
        let raw = match reused {
            Some(raw) => raw,
            None => {
                context.counters.buffers.fetch_add(1, Ordering::Relaxed);
                context.guarded(label, || {
                    context.device.create_buffer(&wgpu::BufferDescriptor {
                        label: Some(label),
                        size: capacity,
                        usage,
                        mapped_at_creation: false,
                    })
                })?
            }
        };
        Ok(Self(Arc::new(Inner { raw: Some(raw), bytes, pooled: true, context: Arc::clone(context) })))
    }

    /// The driver's object.
    pub(crate) fn raw(&self) -> &wgpu::Buffer {
        match &self.0.raw {
            Some(raw) => raw,
            None => unreachable!("a buffer gives its memory back only when its last owner is gone"),
        }
    }

    /// Whether the memory goes back to the pool; without effect on a buffer with several owners.
    fn set_pooled(&mut self, pooled: bool) {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.pooled = pooled;
        }
    }

    /// The buffer as kernels see it: in whole words of 16 bytes wherever its memory goes that far.
    pub(super) fn binding(&self) -> wgpu::BindingResource<'_> {
        let bytes = self.0.bytes.next_multiple_of(WORD);
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.raw(),
            offset: 0,
            size: wgpu::BufferSize::new(if bytes <= self.raw().size() { bytes } else { self.0.bytes }),
        })
    }

    /// Whether two values are the same memory.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether a kernel that reads words of 16 bytes reaches every element. Only a caller's own buffer may be too short.
    pub(super) fn in_whole_words(&self) -> bool {
        self.0.bytes.next_multiple_of(WORD) <= self.raw().size()
    }

    /// Copies the first `len` words back to the host, after everything submitted so far.
    pub(crate) fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, len: usize) -> Result<Vec<T>> {
        self.read_from(0, len)
    }

    /// [`Buffer::read`] of the `len` words from the word `first` on.
    pub(crate) fn read_from<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        first: usize,
        len: usize,
    ) -> Result<Vec<T>> {
        const OP: &str = "read-back";
        if len == 0 {
            return Ok(Vec::new());
        }
        let context = &self.0.context;
        let (first, bytes) = ((first as u64) * 4, (len as u64) * 4);
        let mut staging = Self::allocate(context, OP, STAGING, bytes)?;
        // Until it is unmapped again the pool must not hand it out.
        staging.set_pooled(false);
        context.guarded(OP, || {
            let mut encoder =
                context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some(OP) });
            encoder.copy_buffer_to_buffer(self.raw(), first, staging.raw(), 0, bytes);
            context.queue.submit([encoder.finish()]);
        })?;
        context.counters.submits.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        let slice = staging.raw().slice(..bytes);
        slice.map_async(wgpu::MapMode::Read, move |result| {
            // The receiver outlives the wait below; if it is gone nobody asks for the answer.
            let _ = sender.send(result);
        });
        let failed = |message: String| Error::Gpu { op: OP, message };
        context.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| failed(error.to_string()))?;
        // The work is done; another thread's poll may have taken the answer and be about to hand it over.
        let mapped = receiver.recv().map_err(|error| failed(error.to_string()))?;
        context.check_alive(OP)?;
        mapped.map_err(|error| failed(error.to_string()))?;
        let words = {
            let view = slice.get_mapped_range().map_err(|error| failed(error.to_string()))?;
            bytemuck::pod_collect_to_vec(&view[..])
        };
        staging.raw().unmap();
        staging.set_pooled(true);
        Ok(words)
    }
}

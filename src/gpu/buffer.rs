//! Device memory: labelled allocation from a pool, and upload.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::context::{Context, GpuDevice, lock};
use super::counters::count;
use crate::error::{Error, Result};
use crate::memory;

const FROM_WGPU: &str = "Tensor::from_wgpu_buffer";

/// Every storage buffer can be bound, copied from and copied to.
const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Bytes of the widest load.
const WORD: u64 = 16;

/// Device memory of a known length; the bytes beyond it, if any, are never bound.
#[derive(Clone)]
pub(crate) struct Buffer(Arc<Inner>);

struct Inner {
    /// `None` only while dropping.
    raw: Option<wgpu::Buffer>,
    /// No other buffer of the device has it, now or later.
    number: u64,
    bytes: u64,
    pooled: bool,
    /// Whether a caller has seen the driver's object: it may write to it or destroy it at any time.
    shared: AtomicBool,
    context: Arc<Context>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        match self.raw.take() {
            Some(raw) if self.pooled && !*self.shared.get_mut() => self.context.give_buffer(self.number, raw),
            _ => self.context.forget(self.number),
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
        buffer.write(label, &memory::zeros(label, len * 4)?)?;
        Ok(buffer)
    }

    /// Writes whole words from the buffer's start on.
    pub(crate) fn write(&self, op: &'static str, bytes: &[u8]) -> Result<()> {
        self.0.context.write_buffer(op, self.raw(), bytes)
    }

    /// Wraps a caller's buffer of `len` words.
    pub(crate) fn from_wgpu(device: &GpuDevice, raw: wgpu::Buffer, len: usize) -> Result<Self> {
        let bytes = (len.max(1) as u64) * 4;
        if !raw.usage().contains(STORAGE) || raw.size() < bytes {
            return Err(Error::Value {
                op: FROM_WGPU,
                what: "buffer",
                expected: "usage STORAGE | COPY_SRC | COPY_DST and room for the shape",
                found: format!("usage {:?}, {} bytes", raw.usage(), raw.size()),
            });
        }
        let context = Arc::clone(device.context());
        context.limit(
            FROM_WGPU,
            "a storage binding in bytes",
            bytes,
            context.limits.max_storage_buffer_binding_size,
        )?;
        // wgpu checks a buffer's device even where no byte is written.
        context.attempt(|| context.queue.write_buffer(&raw, 0, &[])).map_err(|found| Error::Value {
            op: FROM_WGPU,
            what: "buffer",
            expected: "a living buffer of the device's own wgpu::Device",
            found,
        })?;
        context.check_alive(FROM_WGPU)?;
        let number = context.next_number();
        let shared = AtomicBool::new(true);
        Ok(Self(Arc::new(Inner { raw: Some(raw), number, bytes, pooled: false, shared, context })))
    }

    /// Memory of any usage.
    pub(super) fn allocate(
        context: &Arc<Context>,
        label: &'static str,
        usage: wgpu::BufferUsages,
        bytes: u64,
    ) -> Result<Self> {
        let (number, raw) = context.take_buffer(label, usage, bytes)?;
        let (context, shared) = (Arc::clone(context), AtomicBool::new(false));
        Ok(Self(Arc::new(Inner { raw: Some(raw), number, bytes, pooled: true, shared, context })))
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.0.context
    }

    /// The number that no other buffer of the device has.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// Its length in 32-bit words.
    pub(super) fn words(&self) -> usize {
        (self.0.bytes / 4) as usize
    }

    /// Its length in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The driver's object for a caller, who may keep it. The memory is then handed to nobody else.
    pub(crate) fn share(&self) -> &wgpu::Buffer {
        self.0.shared.store(true, Ordering::Relaxed);
        self.raw()
    }

    /// The driver's object.
    pub(super) fn raw(&self) -> &wgpu::Buffer {
        match &self.0.raw {
            Some(raw) => raw,
            None => unreachable!("a buffer gives its memory back only when its last owner is gone"),
        }
    }

    /// Whether the memory goes back to the pool; without effect on a buffer with several owners.
    pub(super) fn set_pooled(&mut self, pooled: bool) {
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

    /// Whether a clone or a recorder holds the buffer as well.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Context {
    /// A number that no other buffer or pipeline of the device has.
    pub(super) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A buffer of at least `bytes` bytes, from the pool or the driver, and its number.
    pub(super) fn take_buffer(
        &self,
        label: &'static str,
        usage: wgpu::BufferUsages,
        bytes: u64,
    ) -> Result<(u64, wgpu::Buffer)> {
        #[cfg(test)]
        super::faults::meet(super::faults::Fault::Refused, label)?;
        self.limit(label, "a buffer's size in bytes", bytes, self.limits.max_buffer_size)?;
        let size = capacity(bytes).min(self.limits.max_buffer_size & !3);
        if let Some(found) = lock(&self.pool).take(usage, size) {
            return Ok(found);
        }
        count(&self.counters.buffers, 1);
        self.counters.bytes.fetch_add(size, Ordering::Relaxed);
        let raw = self.guarded(label, || {
            let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
            self.device.create_buffer(&descriptor)
        })?;
        Ok((self.next_number(), raw))
    }

    /// Puts a buffer back into the pool.
    pub(super) fn give_buffer(&self, number: u64, raw: wgpu::Buffer) {
        let gone = lock(&self.pool).give(number, raw);
        gone.into_iter().for_each(|number| self.forget(number));
    }

    /// Writes whole words from a buffer's start on.
    pub(super) fn write_buffer(&self, op: &'static str, raw: &wgpu::Buffer, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        count(&self.counters.writes, 1);
        self.guarded(op, || self.queue.write_buffer(raw, 0, bytes))
    }
}

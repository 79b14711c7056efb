//! Device memory: labelled allocation from a pool, and upload.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};
use crate::gpu::device::counters::count;
use crate::gpu::device::lock;
use crate::gpu::kept::{DeviceResources, OnDevice};
use crate::memory;

const FROM_WGPU: &str = "Tensor::from_wgpu_buffer";

/// Every storage buffer can be bound, copied from and copied to.
const STORAGE: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

/// Bytes of a kernel's widest load.
const WORD: u64 = 16;

/// Device memory of a known length. The allocation may be longer, but kernels get at most the length rounded up to 16 bytes.
#[derive(Clone)]
pub(crate) struct Buffer(Arc<Inner>);

struct Inner {
    /// `None` only while dropping.
    raw: Option<wgpu::Buffer>,
    /// A number that no other buffer or pipeline of the device has, now or later.
    number: u64,
    bytes: u64,
    pooled: bool,
    /// Whether a caller has the driver's object, and may write to it or destroy it at any time.
    shared: AtomicBool,
    /// Whether a caller's commands may use the memory at any time.
    retired: AtomicBool,
    resources: Arc<DeviceResources>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        match self.raw.take() {
            Some(raw) if self.pooled && !*self.shared.get_mut() && !*self.retired.get_mut() => {
                self.resources.give_buffer(self.number, raw);
            }
            _ => self.resources.forget(self.number),
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.0.bytes).finish_non_exhaustive()
    }
}

/// The capacity for `bytes`: a power of two up to 1 MiB, whole mebibytes beyond, so that later buffers have the same sizes.
fn capacity(bytes: u64) -> u64 {
    const MEBIBYTE: u64 = 1 << 20;
    if bytes <= MEBIBYTE { bytes.next_power_of_two().max(256) } else { bytes.next_multiple_of(MEBIBYTE) }
}

impl Buffer {
    /// Memory for `len` 32-bit words, contents unspecified.
    pub(crate) fn new(device: &impl OnDevice, label: &'static str, len: usize) -> Result<Self> {
        let resources = device.resources();
        let bytes = (len.max(1) as u64) * 4;
        let limits = &resources.limits;
        resources.limit(label, "a storage binding in bytes", bytes, limits.max_storage_buffer_binding_size)?;
        resources.limit(label, "a buffer's size in bytes", bytes, limits.max_buffer_size)?;
        Self::allocate(resources, label, STORAGE, bytes)
    }

    /// Memory holding `data`.
    pub(crate) fn from_slice<T: bytemuck::NoUninit>(
        device: &impl OnDevice,
        label: &'static str,
        data: &[T],
    ) -> Result<Self> {
        let buffer = Self::new(device, label, size_of_val(data).div_ceil(4))?;
        buffer.write(label, bytemuck::cast_slice(data))?;
        Ok(buffer)
    }

    /// Memory holding `len` zeros.
    pub(crate) fn zeros(device: &impl OnDevice, label: &'static str, len: usize) -> Result<Self> {
        // The device's limits are checked first, so the host allocates zeros only for a length that the device accepts.
        let buffer = Self::new(device, label, len)?;
        buffer.write(label, &memory::zeros(label, len * 4)?)?;
        Ok(buffer)
    }

    /// Writes whole words from the buffer's start on.
    pub(crate) fn write(&self, op: &'static str, bytes: &[u8]) -> Result<()> {
        self.0.resources.write_buffer(op, self.raw(), bytes)
    }

    /// Wraps a caller's buffer of `len` words.
    pub(crate) fn from_wgpu(device: &impl OnDevice, raw: wgpu::Buffer, len: usize) -> Result<Self> {
        let bytes = (len.max(1) as u64) * 4;
        if !raw.usage().contains(STORAGE) || raw.size() < bytes {
            return Err(Error::Value {
                op: FROM_WGPU,
                what: "buffer",
                expected: "usage STORAGE | COPY_SRC | COPY_DST and room for the shape",
                found: format!("usage {:?}, {} bytes", raw.usage(), raw.size()),
            });
        }
        let resources = Arc::clone(device.resources());
        resources.limit(
            FROM_WGPU,
            "a storage binding in bytes",
            bytes,
            resources.limits.max_storage_buffer_binding_size,
        )?;
        // wgpu checks a buffer's device even where no byte is written.
        resources.attempt(|| resources.queue.write_buffer(&raw, 0, &[])).map_err(|found| Error::Value {
            op: FROM_WGPU,
            what: "buffer",
            expected: "a living buffer of the device's own wgpu::Device",
            found,
        })?;
        resources.check_alive(FROM_WGPU)?;
        let number = resources.next_number();
        let (shared, retired) = (AtomicBool::new(true), AtomicBool::new(false));
        Ok(Self(Arc::new(Inner { raw: Some(raw), number, bytes, pooled: false, shared, retired, resources })))
    }

    /// Host memory for `words` words that commands copy to.
    pub(in crate::gpu) fn host(device: &impl OnDevice, label: &'static str, words: usize) -> Result<Self> {
        let usage = wgpu::BufferUsages::MAP_READ.union(wgpu::BufferUsages::COPY_DST);
        Self::allocate(device.resources(), label, usage, 4 * words.max(1) as u64)
    }

    /// Memory of any usage.
    pub(in crate::gpu) fn allocate(
        resources: &Arc<DeviceResources>,
        label: &'static str,
        usage: wgpu::BufferUsages,
        bytes: u64,
    ) -> Result<Self> {
        let (number, raw) = resources.take_buffer(label, usage, bytes)?;
        let (shared, retired) = (AtomicBool::new(false), AtomicBool::new(false));
        let resources = Arc::clone(resources);
        Ok(Self(Arc::new(Inner { raw: Some(raw), number, bytes, pooled: true, shared, retired, resources })))
    }

    /// A number that no other buffer or pipeline of the device has.
    pub(in crate::gpu) fn number(&self) -> u64 {
        self.0.number
    }

    /// Its length in 32-bit words.
    pub(in crate::gpu) fn words(&self) -> usize {
        (self.0.bytes / 4) as usize
    }

    /// Its length in bytes.
    pub(in crate::gpu) fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// Hands the driver's object to a caller, who may keep it. So the memory never returns to the pool.
    pub(crate) fn share(&self) -> &wgpu::Buffer {
        self.0.shared.store(true, Ordering::Relaxed);
        self.raw()
    }

    /// Whether a caller has the driver's object.
    pub(crate) fn is_of_caller(&self) -> bool {
        self.0.shared.load(Ordering::Relaxed)
    }

    /// Keeps the memory from returning to the pool: commands that a caller has not submitted may use it.
    pub(in crate::gpu) fn retire(&self) {
        self.0.retired.store(true, Ordering::Relaxed);
    }

    /// The driver's object.
    pub(in crate::gpu) fn raw(&self) -> &wgpu::Buffer {
        match &self.0.raw {
            Some(raw) => raw,
            None => unreachable!("a buffer gives its memory back only when its last owner is gone"),
        }
    }

    /// Sets whether the memory goes back to the pool. Has no effect on a buffer with several owners.
    pub(in crate::gpu) fn set_pooled(&mut self, pooled: bool) {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.pooled = pooled;
        }
    }

    /// The binding for kernels: the length is rounded up to words of 16 bytes, if the memory is that long.
    pub(in crate::gpu) fn binding(&self) -> wgpu::BindingResource<'_> {
        let bytes = self.0.bytes.next_multiple_of(WORD);
        wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: self.raw(),
            offset: 0,
            size: wgpu::BufferSize::new(if bytes <= self.raw().size() { bytes } else { self.0.bytes }),
        })
    }

    /// Whether two values are the same memory.
    pub(in crate::gpu) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether two values are the same memory, perhaps wrapped twice by a caller.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.raw() == other.raw()
    }

    /// Whether kernels can load every element in words of 16 bytes. Only a caller's own buffer may be too short for that.
    pub(in crate::gpu) fn in_whole_words(&self) -> bool {
        self.0.bytes.next_multiple_of(WORD) <= self.raw().size()
    }

    /// Whether a clone or a recorder holds the buffer as well.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl OnDevice for Buffer {
    fn resources(&self) -> &Arc<DeviceResources> {
        &self.0.resources
    }
}

impl DeviceResources {
    /// A buffer of at least `bytes` bytes, from the pool or the driver, and its number.
    pub(in crate::gpu) fn take_buffer(
        &self,
        label: &'static str,
        usage: wgpu::BufferUsages,
        bytes: u64,
    ) -> Result<(u64, wgpu::Buffer)> {
        #[cfg(test)]
        crate::gpu::device::faults::meet(crate::gpu::device::faults::Fault::Refused, label)?;
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
    pub(in crate::gpu) fn give_buffer(&self, number: u64, raw: wgpu::Buffer) {
        let gone = lock(&self.pool).give(number, raw);
        gone.into_iter().for_each(|number| self.forget(number));
    }

    /// Writes whole words from a buffer's start on.
    pub(in crate::gpu) fn write_buffer(&self, op: &'static str, raw: &wgpu::Buffer, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        count(&self.counters.writes, 1);
        self.guarded(op, || self.queue.write_buffer(raw, 0, bytes))
    }
}

//! Working memory of one call, which its thread keeps for the next call.

use std::cell::RefCell;
use std::ops::Range;

use super::super::device::CpuDevice;
use super::super::memory::AlignedVec;
use crate::error::Result;

/// The most numbers that a thread keeps: 64 MiB.
const MOST_KEPT: usize = 1 << 24;

thread_local! {
    /// One buffer per level of calls inside calls; the outermost level's is the last.
    static BUFFERS: RefCell<Vec<AlignedVec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `len` numbers of any value to `work`. A call inside `work` gets memory of its own.
pub(super) fn with_scratch<T>(op: &'static str, len: usize, work: impl FnOnce(&mut [f32]) -> T) -> Result<T> {
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.reserve(op, len)?;
    let result = work(&mut buffer[..len]);
    if buffer.len() <= MOST_KEPT {
        BUFFERS.with_borrow_mut(|buffers| buffers.push(buffer));
    }
    Ok(result)
}

/// Multiply-adds that take a thread much longer than its start.
const THREAD_WORK: usize = 1 << 20;

/// The most threads among which a call with `work` multiply-adds is split.
pub(super) fn wanted_threads(device: &CpuDevice, work: usize) -> usize {
    (work / THREAD_WORK).clamp(1, device.threads())
}

/// Splits `items` evenly among the threads that `work` multiply-adds are worth. `task` gets a thread's number and items.
pub(super) fn split(device: &CpuDevice, items: usize, work: usize, task: impl Fn(usize, Range<usize>) + Sync) {
    let wanted = wanted_threads(device, work).min(items.max(1));
    device.pool().run(wanted, &[], |thread, threads| {
        task(thread, items * thread / threads..items * (thread + 1) / threads);
    });
}

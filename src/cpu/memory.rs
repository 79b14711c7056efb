//! Buffers that start on a cache line, and buffers that the threads of a call share.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Zeroable;

use crate::error::Result;
use crate::memory;

/// Bytes of a cache line, and of the widest register.
const LINE_BYTES: usize = 64;

/// A vector of fixed length that starts on a cache line.
pub(super) struct AlignedVec<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Zeroable> AlignedVec<T> {
    pub(super) fn zeros(op: &'static str, len: usize) -> Result<Self> {
        let room = LINE_BYTES / size_of::<T>();
        let data = memory::zeros::<T>(op, len.saturating_add(room))?;
        // The vector is never grown, so its memory stays where it is.
        let start = data.as_ptr().align_offset(LINE_BYTES).min(room);
        Ok(Self { data, start, len })
    }

    /// Makes room for `len` numbers. If the buffer has to grow, its contents are lost.
    pub(super) fn reserve(&mut self, op: &'static str, len: usize) -> Result<()> {
        if self.len < len {
            *self = Self::zeros(op, len)?;
        }
        Ok(())
    }

    /// Collects the first `len` numbers; zeros follow if there are fewer.
    pub(super) fn collect(op: &'static str, len: usize, numbers: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut aligned = Self::zeros(op, len)?;
        // `for_each` runs the iterator's own loop: calls of `next` are slow on a chain of iterators.
        let mut places = aligned.iter_mut();
        numbers.into_iter().take(len).for_each(|number| {
            if let Some(place) = places.next() {
                *place = number;
            }
        });
        Ok(aligned)
    }
}

impl<T> Default for AlignedVec<T> {
    fn default() -> Self {
        Self { data: Vec::new(), start: 0, len: 0 }
    }
}

impl<T> Deref for AlignedVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for AlignedVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

/// A borrowed buffer that the threads of a call share. In a phase of the call, each thread writes only what it has claimed.
#[derive(Clone, Copy)]
pub(super) struct SharedSlice<'a> {
    start: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a mutable borrow of numbers, which may move to another thread.
unsafe impl Send for SharedSlice<'_> {}
// SAFETY: threads that share it read and write by `read` and `write`, whose contracts exclude data races.
unsafe impl Sync for SharedSlice<'_> {}

impl<'a> SharedSlice<'a> {
    pub(super) fn new(buffer: &'a mut [f32]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len(), lifetime: PhantomData }
    }

    /// Shares a buffer for reading only: [`SharedSlice::write`] must not be called on it.
    pub(super) fn reading(buffer: &'a [f32]) -> Self {
        Self { start: buffer.as_ptr().cast_mut(), len: buffer.len(), lifetime: PhantomData }
    }

    /// A part of the buffer.
    pub(super) fn part(self, at: usize, len: usize) -> Self {
        assert!(at <= self.len && len <= self.len - at, "a shared range outside its buffer");
        Self { start: self.start.wrapping_add(at), len, ..self }
    }

    /// # Safety
    /// No thread writes to the range while the slice lives.
    pub(super) unsafe fn read(self, at: usize, len: usize) -> &'a [f32] {
        assert!(at <= self.len && len <= self.len - at, "a shared range outside its buffer");
        // SAFETY: the assertion keeps the range inside the borrowed buffer, and no thread writes to it, by this function's
        // contract.
        unsafe { std::slice::from_raw_parts(self.start.add(at), len) }
    }

    /// # Safety
    /// No other thread touches the range while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "threads write disjoint ranges")]
    pub(super) unsafe fn write(self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at <= self.len && len <= self.len - at, "a shared range outside its buffer");
        // SAFETY: the assertion keeps the range inside the borrowed buffer, and no other thread touches it, by this function's
        // contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// One value per thread of a call.
#[derive(Default)]
pub(super) struct PerThread<T>(Vec<std::cell::UnsafeCell<T>>);

// SAFETY: threads that share it call only `get`, whose contract forbids two of them to hold the same value.
unsafe impl<T: Send> Sync for PerThread<T> {}

impl<T: Default> PerThread<T> {
    /// The values of the first `threads` threads.
    pub(super) fn reserve(&mut self, threads: usize) -> impl Iterator<Item = &mut T> {
        if self.0.len() < threads {
            self.0.resize_with(threads, Default::default);
        }
        self.0[..threads].iter_mut().map(|cell| cell.get_mut())
    }

    /// # Safety
    /// Nobody else holds the value of this thread.
    #[allow(clippy::mut_from_ref, reason = "each thread takes its own")]
    pub(super) unsafe fn get(&self, thread: usize) -> &mut T {
        // SAFETY: nobody else holds the value, by this function's contract.
        unsafe { &mut *self.0[thread].get() }
    }
}

//! Buffers that start on a cache line, and buffers that several threads write in turn.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Zeroable;

use crate::error::Result;
use crate::memory;

/// Bytes of a cache line and of the widest register.
const LINE: usize = 64;

/// Numbers from a line's start on.
pub(super) struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Zeroable> Aligned<T> {
    pub(super) fn zeros(op: &'static str, len: usize) -> Result<Self> {
        let room = LINE / size_of::<T>();
        let data = memory::zeros::<T>(op, len.saturating_add(room))?;
        // The vector is never grown, so its memory stays where it is.
        let start = data.as_ptr().align_offset(LINE).min(room);
        Ok(Self { data, start, len })
    }

    /// Makes room for `len` numbers; what it held is lost where it grows.
    pub(super) fn reserve(&mut self, op: &'static str, len: usize) -> Result<()> {
        if self.len < len {
            *self = Self::zeros(op, len)?;
        }
        Ok(())
    }

    /// The first `len` numbers; zeros follow where there are fewer.
    pub(super) fn collect(op: &'static str, len: usize, numbers: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut aligned = Self::zeros(op, len)?;
        // Numbers by the iterator's own loop: a chain of iterators is slow one by one.
        let mut places = aligned.iter_mut();
        numbers.into_iter().take(len).for_each(|number| {
            if let Some(place) = places.next() {
                *place = number;
            }
        });
        Ok(aligned)
    }
}

impl<T> Default for Aligned<T> {
    fn default() -> Self {
        Self { data: Vec::new(), start: 0, len: 0 }
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

/// A borrowed buffer that the threads of a call share: each writes only what is its own between two barriers.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: it stands for a mutable borrow; the methods' contracts keep the threads apart.
unsafe impl Send for Shared<'_> {}
// SAFETY: what shares it reads and writes by methods whose contracts keep the threads apart.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(buffer: &'a mut [f32]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len(), lifetime: PhantomData }
    }

    /// A buffer that nobody writes to: [`Shared::write`] must not be called on it.
    pub(super) fn reading(buffer: &'a [f32]) -> Self {
        Self { start: buffer.as_ptr().cast_mut(), len: buffer.len(), lifetime: PhantomData }
    }

    /// A part of it.
    pub(super) fn part(self, at: usize, len: usize) -> Self {
        assert!(at <= self.len && len <= self.len - at, "a shared range outside its buffer");
        Self { start: self.start.wrapping_add(at), len, ..self }
    }

    /// # Safety
    /// No thread writes to the range while the slice lives.
    pub(super) unsafe fn read(self, at: usize, len: usize) -> &'a [f32] {
        assert!(at <= self.len && len <= self.len - at, "a shared range outside its buffer");
        // SAFETY: inside the borrowed buffer, and no thread writes to the range, by this function's contract.
        unsafe { std::slice::from_raw_parts(self.start.add(at), len) }
    }

    /// # Safety
    /// No other thread touches the range while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "that is what sharing means")]
    pub(super) unsafe fn write(self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at <= self.len && len <= self.len - at, "a shared range outside its buffer");
        // SAFETY: inside the borrowed buffer, and no other thread touches the range, by this function's contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

/// One value a thread. Growing and dropping take it whole; a call's threads each take their own.
#[derive(Default)]
pub(super) struct PerThread<T>(Vec<std::cell::UnsafeCell<T>>);

// SAFETY: `get` demands that no two threads take the same value.
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
    /// Nobody else holds this thread's value.
    #[allow(clippy::mut_from_ref, reason = "each thread takes its own")]
    pub(super) unsafe fn get(&self, thread: usize) -> &mut T {
        // SAFETY: nobody else holds this thread's value, by this function's contract.
        unsafe { &mut *self.0[thread].get() }
    }
}

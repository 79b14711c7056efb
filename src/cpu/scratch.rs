//! Buffers that a call leaves to the next one: a step of training asks for what the step before it had.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::Aligned;
use crate::error::Result;

/// The most numbers that lie unused: 256 MiB.
const MOST_FREE: usize = 1 << 26;

/// Buffers that nobody uses at the moment. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Scratch(Arc<Mutex<Vec<Aligned<f32>>>>);

impl Scratch {
    /// A buffer of `len` numbers, whatever they are.
    pub(super) fn take(&self, len: usize) -> Result<Buffer> {
        let mut free = self.free();
        // One at most twice as long, so that short buffers do not hold on to long ones.
        let fits = |buffer: &Aligned<f32>| (len..=2 * len).contains(&buffer.len());
        let best = (0..free.len()).filter(|&at| fits(&free[at])).min_by_key(|&at| free[at].len());
        let memory = best.map(|at| free.swap_remove(at));
        drop(free);
        let memory = memory.map_or_else(|| Aligned::zeros("training", len), Ok)?;
        Ok(Buffer { memory, len, home: self.clone() })
    }

    /// A buffer of zeros.
    pub(super) fn zeros(&self, len: usize) -> Result<Buffer> {
        let mut buffer = self.take(len)?;
        buffer.fill(0.0);
        Ok(buffer)
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Aligned<f32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer from a cache line's start on. It goes back where it came from when dropped.
pub(super) struct Buffer {
    memory: Aligned<f32>,
    len: usize,
    home: Scratch,
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self.home.free();
        let held: usize = free.iter().map(|buffer| buffer.len()).sum();
        let fits = !self.memory.is_empty() && held + self.memory.len() <= MOST_FREE;
        // The list itself may find no memory where there is none left.
        if fits && free.try_reserve(1).is_ok() {
            free.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_where_it_fits() {
        let scratch = Scratch::default();
        let take = |len| scratch.take(len).expect("room");
        let mut first = take(100);
        first.fill(7.0);
        let address = first.as_ptr();
        drop(first);
        let longer = take(101);
        let (same, much_shorter) = (scratch.zeros(60).expect("room"), take(49));
        assert_ne!(longer.as_ptr(), address);
        assert_eq!((same.as_ptr(), same.len()), (address, 60));
        assert!(same.iter().all(|&x| x == 0.0));
        drop(same);
        assert_ne!(much_shorter.as_ptr(), address);
        assert_eq!(address.align_offset(64), 0);
    }

    #[test]
    fn what_lies_unused_is_bounded() {
        let scratch = Scratch::default();
        let buffers = [MOST_FREE / 2; 3].map(|len| scratch.take(len).expect("room"));
        drop(buffers);
        assert_eq!(scratch.free().len(), 2);
    }
}

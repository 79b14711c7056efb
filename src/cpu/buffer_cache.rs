//! Buffers that a call leaves to the next one: every training step asks for the same lengths.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::memory::AlignedVec;
use crate::error::Result;

/// The most numbers that unused buffers hold: 256 MiB.
const MOST_FREE: usize = 1 << 26;

/// Unused buffers. Clones share them.
#[derive(Clone, Default)]
pub(super) struct BufferCache(Arc<Mutex<Vec<AlignedVec<f32>>>>);

impl BufferCache {
    /// A buffer of `len` arbitrary numbers.
    pub(super) fn take(&self, len: usize) -> Result<CachedBuffer> {
        let mut free = self.free();
        // A buffer at most twice as long, so that a short request does not take a long buffer.
        let fits = |buffer: &AlignedVec<f32>| (len..=2 * len).contains(&buffer.len());
        let best = (0..free.len()).filter(|&at| fits(&free[at])).min_by_key(|&at| free[at].len());
        let memory = best.map(|at| free.swap_remove(at));
        drop(free);
        let memory = memory.map_or_else(|| AlignedVec::zeros("training", len), Ok)?;
        Ok(CachedBuffer { memory, len, cache: self.clone() })
    }

    /// A buffer of zeros.
    pub(super) fn zeros(&self, len: usize) -> Result<CachedBuffer> {
        let mut buffer = self.take(len)?;
        buffer.fill(0.0);
        Ok(buffer)
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<AlignedVec<f32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer that starts on a cache line. When dropped, it returns to its cache.
pub(super) struct CachedBuffer {
    memory: AlignedVec<f32>,
    len: usize,
    cache: BufferCache,
}

impl Deref for CachedBuffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for CachedBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for CachedBuffer {
    fn drop(&mut self) {
        let mut free = self.cache.free();
        let held: usize = free.iter().map(|buffer| buffer.len()).sum();
        let fits = !self.memory.is_empty() && held + self.memory.len() <= MOST_FREE;
        // If there is no memory for a longer list, the buffer is freed.
        if fits && free.try_reserve(1).is_ok() {
            free.push(std::mem::take(&mut self.memory));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_if_it_fits() {
        let cache = BufferCache::default();
        let take = |len| cache.take(len).expect("room");
        let mut first = take(100);
        first.fill(7.0);
        let address = first.as_ptr();
        drop(first);
        let longer = take(101);
        let (same, much_shorter) = (cache.zeros(60).expect("room"), take(49));
        assert_ne!(longer.as_ptr(), address);
        assert_eq!((same.as_ptr(), same.len()), (address, 60));
        assert!(same.iter().all(|&x| x == 0.0));
        drop(same);
        assert_ne!(much_shorter.as_ptr(), address);
        assert_eq!(address.align_offset(64), 0);
    }

    #[test]
    fn unused_buffers_are_bounded() {
        let cache = BufferCache::default();
        let buffers = [MOST_FREE / 2; 3].map(|len| cache.take(len).expect("room"));
        drop(buffers);
        assert_eq!(cache.free().len(), 2);
    }
}

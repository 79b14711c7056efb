//! A barrier for measurements that all threads begin together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{leave_broken_call, spin_then_yield};

/// A barrier that may be used any number of times.
#[derive(Default)]
pub(in crate::cpu) struct Barrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
    /// Set when a thread has panicked and will not come.
    released: AtomicBool,
}

impl Barrier {
    /// Returns when all of `threads` threads have come. Every thread then sees everything that any of them wrote before.
    ///
    /// # Panics
    /// If one of them has panicked and will not come.
    #[inline]
    pub(in crate::cpu) fn wait(&self, threads: usize) {
        if threads == 1 {
            return;
        }
        let round = self.round.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
        } else {
            let complete = || self.round.load(Ordering::Acquire) != round;
            spin_then_yield(|| complete() || self.released.load(Ordering::Relaxed));
            if !complete() {
                leave_broken_call();
            }
        }
    }

    /// Releases all threads that wait, now and for the rest of the call.
    pub(super) fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }
}

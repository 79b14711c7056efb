//! What a device does, counted.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What a device has done so far; the difference of two readings is what a call cost.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl std::ops::Sub for Counters {
            type Output = Self;

            /// What happened between two readings.
            fn sub(self, before: Self) -> Self {
                Self { $($name: self.$name - before.$name,)+ }
            }
        }

        #[derive(Debug, Default)]
        pub(in crate::gpu) struct AtomicCounters {
            $(pub(in crate::gpu) $name: AtomicU64,)+
        }

        impl AtomicCounters {
            pub(in crate::gpu) fn read(&self) -> Counters {
                Counters { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Kernels dispatched.
    dispatches,
    /// Compute passes begun.
    passes,
    /// Command buffers submitted.
    submits,
    /// Buffers created, rather than taken again from the pool.
    buffers,
    /// Bytes of the buffers created. None go back to the driver before the pool is full, so of a device's first calls it is the
    /// memory that they take.
    bytes,
    /// Buffers written from the host; for each the driver's library takes staging memory of its own.
    writes,
    /// Bind groups created, rather than found among the last calls'.
    bind_groups,
    /// Pipelines compiled.
    pipelines,
}

/// Counts `more` events.
pub(in crate::gpu) fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

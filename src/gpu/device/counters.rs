//! Counts of a device's work.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The work that a device has done so far. The difference of two readings is the cost of a call.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl std::ops::Sub for Counters {
            type Output = Self;

            /// The work between two readings.
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
    /// Command buffers that the library submitted. A caller's own submissions are not counted, but their dispatches and passes of
    /// [`Recorder::encode`](crate::Recorder::encode) are.
    submits,
    /// Buffers created; buffers taken from the pool are not counted.
    buffers,
    /// Bytes of the buffers created. No buffer goes back to the driver before the pool is full, so this is the memory that a device's
    /// first calls take.
    bytes,
    /// Buffers written from the host. For each write wgpu takes staging memory of its own.
    writes,
    /// Bind groups created; bind groups kept from earlier calls are not counted.
    bind_groups,
    /// Pipelines compiled.
    pipelines,
}

/// Counts `more` events.
pub(in crate::gpu) fn count(counter: &AtomicU64, more: usize) {
    counter.fetch_add(more as u64, Ordering::Relaxed);
}

//! The CPU as a device: its threads and its instruction set.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use super::buffer_cache::BufferCache;
use super::pool::ThreadPool;
use super::simd::{Instructions, Verified};
use crate::error::{Error, Result};

/// The most threads: more than machines have cores, and few enough that there is memory for their stacks.
const MOST_THREADS: usize = 1024;

impl FromStr for Instructions {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name).ok_or_else(|| Error::Value {
            op: "CpuOptions",
            what: "instructions",
            expected: "avx512, avx2, neon or portable",
            found: name.to_owned(),
        })
    }
}

/// Options of the CPU path.
///
/// # Examples
/// ```
/// use gatewise::cpu::CpuOptions;
/// let options = CpuOptions::new().threads(2);
/// assert_eq!(options, CpuOptions { threads: Some(2), ..Default::default() });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads of a call, the caller's among them. By default one per physical core, as far as affinity and CPU quota of the process
    /// allow. A call with little work takes fewer: one for a single step of a single row, and at most one per 16,384 multiply-adds of
    /// a step. Results are the same bits for any number of threads.
    pub threads: Option<usize>,
    /// The instruction set; by default the fastest one that the processor has.
    pub instructions: Option<Instructions>,
}

impl CpuOptions {
    /// One thread per physical core, and the fastest instruction set that the processor has.
    pub const fn new() -> Self {
        Self { threads: None, instructions: None }
    }

    /// Sets the threads of a call, the caller's among them.
    pub const fn threads(self, threads: usize) -> Self {
        Self { threads: Some(threads), ..self }
    }

    /// Sets the instruction set.
    pub const fn instructions(self, instructions: Instructions) -> Self {
        Self { instructions: Some(instructions), ..self }
    }
}

/// A CPU with its threads, which clones share. The threads start with the first call that wants them. While one call has them,
/// any other call uses its caller's thread only. On a busy machine, where the threads get their processors late, calls use the
/// caller's thread only for up to a second. Then they try the others again. The device keeps up to 256 MiB of buffers from one training pass to the next,
/// until its last clone is dropped.
#[derive(Clone)]
pub struct CpuDevice {
    pool: Arc<ThreadPool>,
    instructions: Verified,
    buffers: BufferCache,
}

impl CpuDevice {
    /// A CPU device with threads of its own.
    ///
    /// # Errors
    /// [`Error::Value`] for 0 threads or more than 1,024; [`Error::Unsupported`] for instructions that the processor lacks.
    pub fn new(options: &CpuOptions) -> Result<Self> {
        if let Some(threads) = options.threads.filter(|threads| !(1..=MOST_THREADS).contains(threads)) {
            return Err(Error::Value {
                op: "Device::cpu_with",
                what: "threads",
                expected: "between 1 and 1024",
                found: threads.to_string(),
            });
        }
        let instructions = match options.instructions {
            Some(set) => set.verify().ok_or_else(|| Error::Unsupported {
                op: "Device::cpu_with",
                option: format!("instructions {set}"),
                by: "by this processor",
            })?,
            None => Verified::detect(),
        };
        Ok(Self::of(options.threads.unwrap_or_else(default_threads), instructions))
    }

    /// The device with default options, which the whole process shares.
    pub fn shared() -> Self {
        static SHARED: LazyLock<CpuDevice> = LazyLock::new(|| CpuDevice::of(default_threads(), Verified::detect()));
        SHARED.clone()
    }

    fn of(threads: usize, instructions: Verified) -> Self {
        Self { pool: Arc::new(ThreadPool::new(threads)), instructions, buffers: BufferCache::default() }
    }

    /// The most threads of a call.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set of its kernels.
    pub fn instructions(&self) -> Instructions {
        self.instructions.set()
    }

    pub(super) fn verified(&self) -> Verified {
        self.instructions
    }

    /// The buffers that a training call leaves to the next one.
    pub(super) fn buffers(&self) -> &BufferCache {
        &self.buffers
    }

    pub(super) fn pool(&self) -> &ThreadPool {
        &self.pool
    }
}

impl fmt::Debug for CpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CpuDevice")
            .field("threads", &self.threads())
            .field("instructions", &self.instructions())
            .finish_non_exhaustive()
    }
}

/// The default number of threads of a call: see [`CpuOptions::threads`].
fn default_threads() -> usize {
    // Respects the process's affinity, and on Linux the CPU quota of its control groups.
    let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    usable_cores(num_cpus::get_physical(), allowed)
}

/// One thread per physical core, because two threads of one core share its arithmetic units. At most as many as the process may use,
/// and as a device may have.
fn usable_cores(physical: usize, allowed: usize) -> usize {
    physical.min(allowed).clamp(1, MOST_THREADS)
}

#[cfg(test)]
mod tests {
    use super::{CpuOptions, Instructions, usable_cores};

    #[test]
    fn the_default_threads_are_the_physical_cores_that_the_process_may_use() {
        // Physical cores, processors that the process may use, threads.
        for (physical, allowed, threads) in [
            (8, 16, 8),
            (8, 8, 8),
            (8, 1, 1),
            (8, 3, 3),
            (1, 2, 1),
            (0, 4, 1),
            (4, 0, 1),
            (2048, 4096, 1024),
            (usize::MAX, usize::MAX, 1024),
        ] {
            assert_eq!(usable_cores(physical, allowed), threads, "{physical} cores, {allowed} allowed");
        }
    }

    #[test]
    fn every_option_has_a_method_that_sets_it_alone() {
        assert_eq!(CpuOptions::new(), CpuOptions::default());
        let all = CpuOptions { threads: Some(3), instructions: Some(Instructions::Portable) };
        assert_eq!(CpuOptions::new().threads(3).instructions(Instructions::Portable), all);
        assert_eq!(CpuOptions::new().instructions(Instructions::Portable).threads(3), all);
    }
}

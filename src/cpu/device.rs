//! The CPU as a device: how many threads, which instructions.

use std::fmt;
use std::sync::{Arc, LazyLock};

use super::pool::Pool;
use super::scratch::Scratch;
use super::simd::{Instructions, Verified};
use crate::error::{Error, Result};

/// Threads at the most: more than any machine has cores, and few enough that each gets its stack.
const MOST_THREADS: usize = 1024;

/// How the CPU path works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads of a call, the caller's among them; absent for one a physical core. A call with little work takes fewer:
    /// one for a single step of a single row, and never more than one for each 16,384 multiply-adds of a step. Results
    /// are the same bits for any number.
    pub threads: Option<usize>,
    /// The instruction set; absent for the fastest that the processor has.
    pub instructions: Option<Instructions>,
}

/// A CPU with its threads. Clones share them. The threads start with the first call that wants them, and while one call
/// has them another works on its caller's thread alone. Buffers of a training pass stay with the device for the next one, 256 MiB
/// at most, until its last clone is dropped.
#[derive(Clone)]
pub struct CpuDevice {
    pool: Arc<Pool>,
    instructions: Verified,
    scratch: Scratch,
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
            Some(set) => set.verify()?,
            None => Verified::detect(),
        };
        Ok(Self::of(options.threads.unwrap_or_else(physical_cores), instructions))
    }

    /// The device of default options, whose threads all layers on it share.
    pub fn shared() -> Self {
        static SHARED: LazyLock<CpuDevice> = LazyLock::new(|| CpuDevice::of(physical_cores(), Verified::detect()));
        SHARED.clone()
    }

    fn of(threads: usize, instructions: Verified) -> Self {
        Self { pool: Arc::new(Pool::new(threads)), instructions, scratch: Scratch::default() }
    }

    /// The most threads that a call takes.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instruction set that its kernels use.
    pub fn instructions(&self) -> Instructions {
        self.instructions.set()
    }

    pub(super) fn verified(&self) -> Verified {
        self.instructions
    }

    /// Where the device's calls leave buffers for one another.
    pub(super) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    pub(super) fn pool(&self) -> &Pool {
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

/// Cores that the process may use; two threads of one core share its arithmetic units.
fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    num_cpus::get_physical().clamp(1, allowed)
}

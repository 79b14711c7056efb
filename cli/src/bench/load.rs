//! Competing work beside a measurement.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};

use gatewise::{Error, Result};

/// The most competing threads.
const MOST_LOAD: usize = 1024;

/// Threads of normal priority that compute without a pause until dropped.
pub(super) struct Load {
    over: Arc<AtomicBool>,
    spinners: Vec<JoinHandle<()>>,
}

impl Load {
    /// Refuses more threads than [`MOST_LOAD`].
    pub(super) fn check(count: usize) -> Result<()> {
        if count > MOST_LOAD {
            let (what, expected, found) = ("--load", "at most 1024", count.to_string());
            return Err(Error::Value { op: "bench", what, expected, found });
        }
        Ok(())
    }

    /// Starts `count` threads.
    pub(super) fn start(count: usize) -> Result<Self> {
        Self::check(count)?;
        let mut load = Self { over: Arc::default(), spinners: Vec::with_capacity(count) };
        for _ in 0..count {
            let over = Arc::clone(&load.over);
            let spinner = Builder::new().name("load".to_owned()).spawn(move || spin(&over));
            load.spinners.push(spinner.map_err(|error| Error::io("a thread of --load", error))?);
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for spinner in self.spinners.drain(..) {
            // A spinner does not panic.
            let _ = spinner.join();
        }
    }
}

/// Computes until it is over, without the processor's hint that it waits: the operating system and a hypervisor then see work.
fn spin(over: &AtomicBool) {
    let mut state = 1_u64;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..1000 {
            state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Load, MOST_LOAD};

    #[test]
    fn a_load_runs_as_many_threads_as_asked_for_and_ends() {
        for count in [0, 1, 3] {
            let load = Load::start(count).expect("starts");
            assert_eq!(load.spinners.len(), count);
            assert!(load.spinners.iter().all(|spinner| !spinner.is_finished()));
            let over = std::sync::Arc::clone(&load.over);
            drop(load);
            assert_eq!(std::sync::Arc::strong_count(&over), 1, "a spinner is left");
        }
    }

    #[test]
    fn a_load_without_bounds_is_refused() {
        assert!(Load::check(MOST_LOAD).is_ok());
        for count in [MOST_LOAD + 1, usize::MAX] {
            let error = Load::check(count).expect_err("refused").to_string();
            assert!(error.contains(&format!("--load must be at most 1024, got {count}")), "{error}");
        }
    }
}

//! Threads that wait for a device's calls, and the barrier at which they meet inside a call.
#![allow(unsafe_code)]

use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{JoinHandle, Thread};

/// Rounds of spinning before a waiting thread begins to yield: some microseconds.
const SPINS: usize = 4_000;
/// Rounds of yielding before an idle worker goes to sleep.
const YIELDS: usize = 50;

/// What the workers do in one call: the thread's number in, nothing out.
type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// A caller and `threads - 1` workers, started by the first call that needs them.
pub(super) struct Pool {
    threads: usize,
    workers: OnceLock<Workers>,
    busy: AtomicBool,
}

struct Workers {
    shared: Arc<State>,
    handles: Vec<JoinHandle<()>>,
}

/// What caller and workers share.
struct State {
    /// The task of the current call. Its true lifetime is the call's: see [`Pool::run`].
    task: Mutex<Option<&'static Task<'static>>>,
    /// One signal a worker: the number of calls handed to it, `usize::MAX` to end.
    signals: Vec<AtomicUsize>,
    /// Workers that have not finished the current call.
    running: AtomicUsize,
    panicked: AtomicBool,
}

impl Pool {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), workers: OnceLock::new(), busy: AtomicBool::new(false) }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(thread, threads)` on up to `wanted` threads at once, the caller's among them, and returns when all have
    /// finished. While another call has the workers, and where the system gives no threads, the caller works alone.
    pub(super) fn run(&self, wanted: usize, task: impl Fn(usize, usize) + Sync) {
        let alone = wanted.min(self.threads) <= 1 || self.busy.swap(true, Ordering::Acquire);
        if alone {
            return task(0, 1);
        }
        let workers = self.workers.get_or_init(|| Workers::start(self.threads - 1));
        let threads = wanted.min(self.threads).min(workers.handles.len() + 1);
        let outcome = catch_unwind(AssertUnwindSafe(|| workers.run(threads, &|thread| task(thread, threads))));
        self.busy.store(false, Ordering::Release);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Workers {
    fn start(count: usize) -> Self {
        let shared = Arc::new(State {
            task: Mutex::new(None),
            signals: (0..count).map(|_| AtomicUsize::new(0)).collect(),
            running: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
        });
        let start = |worker: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("gatewise-{}", worker + 1)).spawn(move || shared.work(worker))
        };
        let handles = (0..count).map_while(|worker| start(worker).ok()).collect();
        Self { shared, handles }
    }

    fn run(&self, threads: usize, task: &Task<'_>) {
        let helpers = threads - 1;
        // SAFETY: only the lifetime changes. `Finish` below does not let this function end, not even by a panic, before
        // every worker is done with the task.
        let task_static = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        self.shared.running.store(helpers, Ordering::Relaxed);
        *lock(&self.shared.task) = Some(task_static);
        for (signal, handle) in self.shared.signals[..helpers].iter().zip(&self.handles) {
            signal.fetch_add(1, Ordering::Release);
            handle.thread().unpark();
        }
        let finish = Finish(&self.shared);
        task(0);
        drop(finish);
        assert!(!self.shared.panicked.swap(false, Ordering::Relaxed), "a worker thread panicked");
    }
}

/// Waits for the workers when dropped.
struct Finish<'a>(&'a State);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        wait_until(|| self.0.running.load(Ordering::Acquire) == 0);
        *lock(&self.0.task) = None;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (signal, handle) in self.shared.signals.iter().zip(&self.handles) {
            signal.store(usize::MAX, Ordering::Release);
            let thread: &Thread = handle.thread();
            thread.unpark();
        }
        for handle in self.handles.drain(..) {
            // A worker's own panic has already been reported to the call that met it.
            let _ = handle.join();
        }
    }
}

impl State {
    fn work(&self, worker: usize) {
        let mut done = 0;
        loop {
            let mut rounds = 0;
            let mut signal = self.signals[worker].load(Ordering::Acquire);
            while signal == done {
                match rounds {
                    0..SPINS => spin_loop(),
                    rounds if rounds < SPINS + YIELDS => std::thread::yield_now(),
                    _ => std::thread::park(),
                }
                rounds += 1;
                signal = self.signals[worker].load(Ordering::Acquire);
            }
            if signal == usize::MAX {
                return;
            }
            done = signal;
            let task = *lock(&self.task);
            if let Some(task) = task
                && catch_unwind(AssertUnwindSafe(|| task(worker + 1))).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.running.fetch_sub(1, Ordering::Release);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Spins, then yields: with more threads than processors the one that is waited for must get its turn.
fn wait_until(mut done: impl FnMut() -> bool) {
    let mut rounds = 0_usize;
    while !done() {
        if rounds < SPINS {
            spin_loop();
        } else {
            std::thread::yield_now();
        }
        rounds += 1;
    }
}

/// A meeting point that is used again and again.
#[derive(Default)]
pub(super) struct Barrier {
    arrived: AtomicUsize,
    round: AtomicUsize,
}

impl Barrier {
    /// Returns when all of `threads` threads have come; what any of them wrote before, all see after.
    #[inline]
    pub(super) fn wait(&self, threads: usize) {
        if threads == 1 {
            return;
        }
        let round = self.round.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
        } else {
            wait_until(|| self.round.load(Ordering::Acquire) != round);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_runs_once_and_meets_the_others() {
        let pool = Pool::new(5);
        for wanted in [1, 2, 5, 9, 5] {
            let barrier = Barrier::default();
            let sums: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
            pool.run(wanted, |thread, threads| {
                assert_eq!(threads, wanted.min(5));
                for (round, sum) in sums.iter().enumerate() {
                    sum.fetch_add(thread + 1, Ordering::Relaxed);
                    barrier.wait(threads);
                    assert_eq!(sum.load(Ordering::Relaxed), threads * (threads + 1) / 2, "round {round}");
                }
            });
        }
    }

    #[test]
    fn a_call_inside_a_call_works_alone() {
        let pool = Pool::new(2);
        let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
        pool.run(2, |_, _| {
            pool.run(2, |thread, threads| {
                assert_eq!((thread, threads), (0, 1));
                counts[0].fetch_add(1, Ordering::Relaxed);
            });
            counts[1].fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(counts.map(AtomicUsize::into_inner), [2, 2]);
    }

    #[test]
    fn a_panic_of_a_worker_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let failed = catch_unwind(AssertUnwindSafe(|| pool.run(2, |thread, _| assert_eq!(thread, 0))));
        assert!(failed.is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| pool.run(2, |_, _| ()))).is_ok());
    }
}

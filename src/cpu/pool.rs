//! Threads that wait for a device's calls, and the barrier at which they meet within a call.
#![allow(unsafe_code)]

use std::any::Any;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

/// Rounds of spinning before a waiting thread begins to yield: a few microseconds.
const SPINS: usize = 4_000;
/// Rounds of yielding before an idle worker goes to sleep.
const YIELDS: usize = 50;

/// The work of one call; its argument is the thread's number.
type PoolTask<'a> = dyn Fn(usize) + Sync + 'a;

/// The caller's thread and `threads - 1` workers, which the first call that needs them starts.
pub(super) struct ThreadPool {
    threads: usize,
    workers: OnceLock<Workers>,
    busy: AtomicBool,
}

struct Workers {
    shared: Arc<PoolState>,
    handles: Vec<JoinHandle<()>>,
}

/// The state that the caller and the workers share.
struct PoolState {
    /// The task of the current call. It lives only as long as the call: see [`Workers::run`].
    task: Mutex<Option<&'static PoolTask<'static>>>,
    /// One signal per worker.
    signals: Vec<WorkerSignal>,
    /// Workers that have not finished the current call.
    running: AtomicUsize,
}

/// Tells a worker that there is a call for it, or that the pool ends. The upper bits count the calls, and the lowest
/// bit marks the end. So the count may wrap around without looking like the end.
struct WorkerSignal(AtomicUsize);

impl WorkerSignal {
    const END: usize = 1;

    fn call(&self) {
        self.0.fetch_add(2, Ordering::Release);
    }

    fn end(&self) {
        self.0.fetch_or(Self::END, Ordering::Release);
    }

    /// The value differs from the last one read exactly if there is something to do.
    fn read(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    fn is_end(value: usize) -> bool {
        value & Self::END != 0
    }
}

/// The payload of a panic.
type PanicPayload = Box<dyn Any + Send>;

/// The payload of a thread that leaves a barrier because another thread has panicked.
struct BarrierReleased;

impl ThreadPool {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), workers: OnceLock::new(), busy: AtomicBool::new(false) }
    }

    /// A pool that asked for `threads` threads and got only `workers` besides the caller's.
    #[cfg(test)]
    pub(super) fn with_workers(threads: usize, workers: usize) -> Self {
        Self { workers: OnceLock::from(Workers::start(workers)), ..Self::new(threads) }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(thread, threads)` on up to `wanted` threads at once, the caller's among them, and returns when all have
    /// finished. If another call has the workers, or the system gives no threads, the caller does all the work. A panic of one
    /// thread releases those that wait at any of `barriers`.
    ///
    /// # Panics
    /// With the first panic of any of the threads, once all have finished.
    pub(super) fn run(&self, wanted: usize, barriers: &[&Barrier], task: impl Fn(usize, usize) + Sync) {
        let single = wanted.min(self.threads) <= 1 || self.busy.swap(true, Ordering::Acquire);
        if single {
            return task(0, 1);
        }
        let in_use = WorkersInUse(&self.busy);
        let workers = self.workers.get_or_init(|| Workers::start(self.threads - 1));
        let threads = wanted.min(self.threads).min(workers.handles.len() + 1);
        let panic: Mutex<Option<PanicPayload>> = Mutex::new(None);
        workers.run(threads, &|thread| {
            let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(thread, threads))) else { return };
            barriers.iter().for_each(|barrier| barrier.release());
            let mut first = lock(&panic);
            if payload.is::<BarrierReleased>() || first.is_some() {
                // Its drop could panic again, on a thread for which the others wait.
                std::mem::forget(payload);
            } else {
                *first = Some(payload);
            }
        });
        drop(in_use);
        let panic = lock(&panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Reserves the workers for one call, until dropped.
struct WorkersInUse<'a>(&'a AtomicBool);

impl Drop for WorkersInUse<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Workers {
    /// Starts `count` workers, or as many as the system gives.
    fn start(count: usize) -> Self {
        let shared = Arc::new(PoolState {
            task: Mutex::new(None),
            signals: (0..count).map(|_| WorkerSignal(AtomicUsize::new(0))).collect(),
            running: AtomicUsize::new(0),
        });
        let start = |worker: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("gatewise-{}", worker + 1)).spawn(move || shared.work(worker))
        };
        let handles = (0..count).map_while(|worker| start(worker).ok()).collect();
        Self { shared, handles }
    }

    /// Runs a task on `threads` threads. The task must not panic.
    fn run(&self, threads: usize, task: &PoolTask<'_>) {
        let helpers = threads - 1;
        // SAFETY: only the lifetime changes. `WaitForWorkers` keeps this function from ending, even by a panic, before every
        // worker is done with the task.
        let task_static = unsafe { std::mem::transmute::<&PoolTask<'_>, &'static PoolTask<'static>>(task) };
        self.shared.running.store(helpers, Ordering::Relaxed);
        *lock(&self.shared.task) = Some(task_static);
        let wait = WaitForWorkers(&self.shared);
        for (signal, handle) in self.shared.signals[..helpers].iter().zip(&self.handles) {
            signal.call();
            handle.thread().unpark();
        }
        task(0);
        drop(wait);
    }
}

/// Waits for the workers when dropped.
struct WaitForWorkers<'a>(&'a PoolState);

impl Drop for WaitForWorkers<'_> {
    fn drop(&mut self) {
        wait_until(|| self.0.running.load(Ordering::Acquire) == 0);
        *lock(&self.0.task) = None;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (signal, handle) in self.shared.signals.iter().zip(&self.handles) {
            signal.end();
            handle.thread().unpark();
        }
        for handle in self.handles.drain(..) {
            // Tasks do not panic, so the workers do not, either.
            let _ = handle.join();
        }
    }
}

impl PoolState {
    fn work(&self, worker: usize) {
        let signal = &self.signals[worker];
        // Starts at 0, not at the signal's present value: the first call may have come before this thread started.
        let mut done = 0;
        loop {
            let mut rounds = 0;
            let mut now = signal.read();
            while now == done {
                match rounds {
                    0..SPINS => spin_loop(),
                    rounds if rounds < SPINS + YIELDS => std::thread::yield_now(),
                    _ => std::thread::park(),
                }
                rounds += 1;
                now = signal.read();
            }
            if WorkerSignal::is_end(now) {
                return;
            }
            done = now;
            let task = *lock(&self.task);
            if let Some(task) = task {
                task(worker + 1);
            }
            self.running.fetch_sub(1, Ordering::Release);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Spins, then yields: with more threads than processors, the thread that is awaited needs the processor.
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

/// A barrier that may be used any number of times.
#[derive(Default)]
pub(super) struct Barrier {
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
    pub(super) fn wait(&self, threads: usize) {
        if threads == 1 {
            return;
        }
        let round = self.round.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.round.store(round.wrapping_add(1), Ordering::Release);
        } else {
            let complete = || self.round.load(Ordering::Acquire) != round;
            wait_until(|| complete() || self.released.load(Ordering::Relaxed));
            if !complete() {
                leave();
            }
        }
    }

    /// Releases all threads that wait, now and for the rest of the call.
    fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }
}

/// Ends a thread's part of a call silently: the thread that panicked reports its own panic.
#[cold]
fn leave() -> ! {
    resume_unwind(Box::new(BarrierReleased))
}

#[cfg(test)]
mod tests;

//! Threads that wait for a device's calls, and the barrier at which they meet inside a call.
#![allow(unsafe_code)]

use std::any::Any;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

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
    /// The task of the current call. Its true lifetime is the call's: see [`Workers::run`].
    task: Mutex<Option<&'static Task<'static>>>,
    /// One signal per worker.
    signals: Vec<Signal>,
    /// Workers that have not finished the current call.
    running: AtomicUsize,
}

/// Tells a worker that there is a call for it, or that the pool ends. The calls are counted in steps of two, and the end is the
/// lowest bit: the count may wrap around and never looks like the end.
struct Signal(AtomicUsize);

impl Signal {
    const END: usize = 1;

    fn call(&self) {
        self.0.fetch_add(2, Ordering::Release);
    }

    fn end(&self) {
        self.0.fetch_or(Self::END, Ordering::Release);
    }

    /// Differs from the last value read exactly if there is something to do.
    fn read(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    fn is_end(value: usize) -> bool {
        value & Self::END != 0
    }
}

/// The payload of a panic.
type Panic = Box<dyn Any + Send>;

/// The panic of a thread that waited at a barrier for one that had panicked. It says nothing of its own.
struct Released;

impl Pool {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), workers: OnceLock::new(), busy: AtomicBool::new(false) }
    }

    /// A pool that asked for `threads` threads where the system has given `workers` and the caller's.
    #[cfg(test)]
    pub(super) fn with_workers(threads: usize, workers: usize) -> Self {
        Self { workers: OnceLock::from(Workers::start(workers)), ..Self::new(threads) }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(thread, threads)` on up to `wanted` threads at once, the caller's among them, and returns when all have
    /// finished. While another call has the workers, and where the system gives no threads, the caller works alone.
    ///
    /// # Panics
    /// With the first panic of any of the threads, once all have finished. `barriers` are those at which the threads meet:
    /// a panic lets go of whoever waits there.
    pub(super) fn run(&self, wanted: usize, barriers: &[&Barrier], task: impl Fn(usize, usize) + Sync) {
        let alone = wanted.min(self.threads) <= 1 || self.busy.swap(true, Ordering::Acquire);
        if alone {
            return task(0, 1);
        }
        let busy = Busy(&self.busy);
        let workers = self.workers.get_or_init(|| Workers::start(self.threads - 1));
        let threads = wanted.min(self.threads).min(workers.handles.len() + 1);
        let panic: Mutex<Option<Panic>> = Mutex::new(None);
        workers.run(threads, &|thread| {
            let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(thread, threads))) else { return };
            barriers.iter().for_each(|barrier| barrier.release());
            let mut first = lock(&panic);
            if payload.is::<Released>() || first.is_some() {
                // Dropping it could panic again, on a thread that the others wait for.
                std::mem::forget(payload);
            } else {
                *first = Some(payload);
            }
        });
        drop(busy);
        let panic = lock(&panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Holds the workers for one call.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Workers {
    /// Starts `count` workers, or as many as the system gives.
    fn start(count: usize) -> Self {
        let shared = Arc::new(State {
            task: Mutex::new(None),
            signals: (0..count).map(|_| Signal(AtomicUsize::new(0))).collect(),
            running: AtomicUsize::new(0),
        });
        let start = |worker: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("gatewise-{}", worker + 1)).spawn(move || shared.work(worker))
        };
        let handles = (0..count).map_while(|worker| start(worker).ok()).collect();
        Self { shared, handles }
    }

    /// Runs a task that never panics on `threads` threads.
    fn run(&self, threads: usize, task: &Task<'_>) {
        let helpers = threads - 1;
        // SAFETY: only the lifetime changes. `Finish` below does not let this function end, not even by a panic, before
        // every worker is done with the task.
        let task_static = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        self.shared.running.store(helpers, Ordering::Relaxed);
        *lock(&self.shared.task) = Some(task_static);
        let finish = Finish(&self.shared);
        for (signal, handle) in self.shared.signals[..helpers].iter().zip(&self.handles) {
            signal.call();
            handle.thread().unpark();
        }
        task(0);
        drop(finish);
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
            signal.end();
            handle.thread().unpark();
        }
        for handle in self.handles.drain(..) {
            // A worker's task does not panic, so a worker does not, either.
            let _ = handle.join();
        }
    }
}

impl State {
    fn work(&self, worker: usize) {
        let signal = &self.signals[worker];
        // Not what stands there by now: the first call may have come before this thread.
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
            if Signal::is_end(now) {
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
    /// A thread that others wait for will not come.
    released: AtomicBool,
}

impl Barrier {
    /// Returns when all of `threads` threads have come; what any of them wrote before, all see after.
    ///
    /// # Panics
    /// Where one of them will not come, because it has panicked.
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

    /// Lets go of all who wait, now and later, for the rest of the call.
    fn release(&self) {
        self.released.store(true, Ordering::Relaxed);
    }
}

/// Ends a thread's part of a call without a report: the thread that panicked has made its own.
#[cold]
fn leave() -> ! {
    resume_unwind(Box::new(Released))
}

#[cfg(test)]
mod tests;

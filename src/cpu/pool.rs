//! Threads that wait for a device's calls.
//!
//! A call's own thread never waits for a worker that has not begun: see [`ThreadPool::share`]. Where the machine is busy, workers come
//! late or lose their processor in the middle of their work. If that happens often, the pool lets the caller work alone for a while:
//! see [`Pace`].
#![allow(unsafe_code)]

mod barrier;
mod pace;
mod seat;

use std::any::Any;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) use self::barrier::Barrier;
pub(super) use self::seat::spin_until;

use self::pace::Pace;
use self::seat::{CallerSleep, Seat};

/// The time for which a thread spins at least before it sleeps or leaves: more than it takes to wake a thread.
const SPIN: Duration = Duration::from_micros(50);
/// Checks of a condition before the first look at the clock.
const FIRST_CHECKS: usize = 100;
/// The pause of a worker that has left a call, before it comes back. It doubles up to [`MOST_PAUSE`] with every stay in the call
/// that was not much longer than the pause.
const PAUSE: Duration = Duration::from_micros(250);
const MOST_PAUSE: Duration = Duration::from_millis(8);

/// The work of one call; its argument is the thread's number.
type PoolTask<'a> = dyn Fn(usize) -> Result<(), Left> + Sync + 'a;

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
    /// One seat per worker.
    seats: Vec<Seat>,
    /// Set while workers must leave the call.
    closed: AtomicBool,
    /// Set once a thread of the call has panicked.
    broken: AtomicBool,
    caller: CallerSleep,
    pace: Mutex<Pace>,
}

/// A worker leaves a call before its end, without any unfinished work. It may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left;

/// The payload of a panic.
type PanicPayload = Box<dyn Any + Send>;

/// The payload of a thread that leaves a call because another thread has panicked.
struct CallBroken;

/// One thread's part in a call.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    /// 0 is the caller.
    pub(super) index: usize,
    pub(super) threads: usize,
    /// `None` if the call has one thread.
    workers: Option<&'a Workers>,
}

impl ThreadPool {
    pub(super) fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), workers: OnceLock::new(), busy: AtomicBool::new(false) }
    }

    /// A pool that asked for `threads` threads and got only `workers` besides the caller's.
    #[cfg(test)]
    pub(super) fn with_workers(threads: usize, workers: usize) -> Self {
        Self { workers: OnceLock::from(Workers::start(workers)), ..Self::new(threads) }
    }

    /// A pool whose workers never come to a call, as if others had their processors.
    #[cfg(test)]
    pub(super) fn without_work(threads: usize) -> Self {
        let shared = Arc::new(PoolState::new(threads - 1));
        // Threads that end at once stand for those that wait for a processor.
        let handles = (1..threads).map(|_| std::thread::spawn(|| ())).collect();
        Self { workers: OnceLock::from(Workers { shared, handles }), ..Self::new(threads) }
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
        let release = || barriers.iter().for_each(|barrier| barrier.release());
        self.call(wanted, Attendance::All, &release, &|member| {
            task(member.index, member.threads);
            Ok(())
        });
    }

    /// Runs a task whose threads take its work piece by piece. The caller's thread runs it once, from the beginning to the end of
    /// the work. Up to `wanted - 1` workers run it, too, when they get a processor: from the beginning to the end, or until
    /// they leave, after which they may begin again. So a worker may come at any time, several times or never, and the task must
    /// reach its end with the caller alone. If another call has the workers, or the system gives no threads, the caller is alone.
    ///
    /// # Panics
    /// With the first panic of any of the threads, once none is inside.
    pub(super) fn share(&self, wanted: usize, task: impl Fn(Member<'_>) -> Result<(), Left> + Sync) {
        self.call(wanted, Attendance::WhoComes, &|| (), &task);
    }

    fn call(
        &self,
        wanted: usize,
        attendance: Attendance,
        on_panic: &(dyn Fn() + Sync),
        task: &(dyn Fn(Member<'_>) -> Result<(), Left> + Sync),
    ) {
        let single = || {
            let left = task(Member { index: 0, threads: 1, workers: None });
            debug_assert_eq!(left, Ok(()), "the caller leaves its own call");
        };
        if wanted.min(self.threads) <= 1 || self.busy.swap(true, Ordering::Acquire) {
            return single();
        }
        let in_use = WorkersInUse(&self.busy);
        let workers = self.workers.get_or_init(|| Workers::start(self.threads - 1));
        let threads = wanted.min(self.threads).min(workers.handles.len() + 1);
        if threads == 1 {
            return single();
        }
        let panic: Mutex<Option<PanicPayload>> = Mutex::new(None);
        workers.run(threads - 1, attendance, &|index| {
            let member = Member { index, threads, workers: Some(workers) };
            let payload = match catch_unwind(AssertUnwindSafe(|| task(member))) {
                Ok(outcome) => return outcome,
                Err(payload) => payload,
            };
            on_panic();
            let mut first = lock(&panic);
            if payload.is::<CallBroken>() || first.is_some() {
                // Its drop could panic again, on a thread for which the others wait.
                std::mem::forget(payload);
            } else {
                *first = Some(payload);
            }
            workers.shared.broken.store(true, Ordering::SeqCst);
            workers.shared.caller.wake();
            Ok(())
        });
        drop(in_use);
        let panic = lock(&panic).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Which workers a call waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attendance {
    All,
    WhoComes,
}

/// Reserves the workers for one call, until dropped.
struct WorkersInUse<'a>(&'a AtomicBool);

impl Drop for WorkersInUse<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Member<'_> {
    /// Whether the caller is the only thread of the call, and no worker can come before [`Member::call_workers`].
    pub(super) fn is_alone(&self) -> bool {
        let Some(workers) = self.workers else { return true };
        let shared = &workers.shared;
        self.index == 0 && shared.closed.load(Ordering::Relaxed) && shared.seats.iter().all(Seat::is_idle)
    }

    /// Calls the workers if the caller is alone and has been so for long enough; returns whether they were called.
    pub(super) fn call_workers(&self) -> bool {
        let due = |workers: &&Workers| self.index == 0 && lock(&workers.shared.pace).may_share(Instant::now());
        let Some(workers) = self.workers.filter(due) else { return false };
        workers.open(self.threads - 1, Instant::now());
        true
    }

    /// Whether this worker must leave the call.
    pub(super) fn must_leave(&self) -> bool {
        self.index > 0 && self.workers.is_some_and(|workers| workers.shared.closed.load(Ordering::Relaxed))
    }

    /// Tells the caller, if it sleeps, that what it waits for may be done. The store that did it is sequentially consistent.
    pub(super) fn wake_caller(&self) {
        if let Some(workers) = self.workers {
            workers.shared.caller.wake();
        }
    }

    /// Waits until `done`, whose loads must be sequentially consistent. Spins for a little longer than `expected`. Then a worker
    /// leaves, and the caller sleeps and afterwards may work alone for a while.
    ///
    /// # Panics
    /// If another thread of the call has panicked.
    #[inline]
    pub(super) fn wait(&self, expected: Duration, done: impl Fn() -> bool) -> Result<(), Left> {
        for _ in 0..FIRST_CHECKS {
            if done() {
                return Ok(());
            }
            spin_loop();
        }
        self.wait_longer(expected, &done)
    }

    #[cold]
    fn wait_longer(&self, expected: Duration, done: &dyn Fn() -> bool) -> Result<(), Left> {
        let Some(Workers { shared, .. }) = self.workers else { return Ok(()) };
        let begin = Instant::now();
        let broken = || shared.broken.load(Ordering::SeqCst);
        spin_until(SPIN + 2 * expected, || done() || broken() || self.must_leave());
        if !done() && !broken() {
            if self.index > 0 {
                return Err(Left);
            }
            shared.caller.until(|| done() || broken());
            shared.late(begin, self.threads - 1);
        }
        if done() { Ok(()) } else { leave_broken_call() }
    }
}

impl Workers {
    /// Starts `count` workers, or as many as the system gives.
    fn start(count: usize) -> Self {
        let shared = Arc::new(PoolState::new(count));
        let start = |worker: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("gatewise-{}", worker + 1)).spawn(move || shared.work(worker))
        };
        let handles = (0..count).map_while(|worker| start(worker).ok()).collect();
        Self { shared, handles }
    }

    /// Calls the first `helpers` workers.
    fn open(&self, helpers: usize, now: Instant) {
        lock(&self.shared.pace).begin(now);
        self.shared.closed.store(false, Ordering::Relaxed);
        for (seat, handle) in self.shared.seats.iter().zip(&self.handles).take(helpers) {
            seat.call();
            handle.thread().unpark();
        }
    }

    /// Runs a task on the caller's thread and on up to `helpers` workers. The task must not panic.
    fn run(&self, helpers: usize, attendance: Attendance, task: &PoolTask<'_>) {
        // SAFETY: only the lifetime changes. `EndOfCall` keeps this function from ending, even by a panic, while a worker is inside
        // the call, and no worker enters it afterwards.
        let task_static = unsafe { std::mem::transmute::<&PoolTask<'_>, &'static PoolTask<'static>>(task) };
        self.shared.broken.store(false, Ordering::Relaxed);
        *lock(&self.shared.task) = Some(task_static);
        let now = Instant::now();
        let end = EndOfCall { shared: &self.shared, helpers, attendance };
        if attendance == Attendance::All || lock(&self.shared.pace).may_share(now) {
            self.open(helpers, now);
        }
        let left = task(0);
        debug_assert_eq!(left, Ok(()), "the caller leaves its own call");
        drop(end);
    }
}

/// Ends a call when dropped: waits for the workers that are inside, and no worker enters afterwards.
struct EndOfCall<'a> {
    shared: &'a PoolState,
    helpers: usize,
    attendance: Attendance,
}

impl Drop for EndOfCall<'_> {
    fn drop(&mut self) {
        let Self { shared, helpers, attendance } = *self;
        shared.closed.store(true, Ordering::Relaxed);
        let waits = || {
            if attendance == Attendance::WhoComes {
                shared.seats.iter().for_each(Seat::uncall);
            }
            !shared.seats.iter().all(Seat::is_idle)
        };
        let now = Instant::now();
        if waits() && !spin_until(SPIN, || !waits()) {
            shared.caller.until(|| !waits());
            if attendance == Attendance::WhoComes {
                shared.late(now, helpers);
            }
        }
        lock(&shared.pace).end(now);
        *lock(&shared.task) = None;
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (seat, handle) in self.shared.seats.iter().zip(&self.handles) {
            seat.end();
            handle.thread().unpark();
        }
        for handle in self.handles.drain(..) {
            // Tasks do not panic, so the workers do not, either.
            let _ = handle.join();
        }
    }
}

impl PoolState {
    fn new(seats: usize) -> Self {
        Self {
            task: Mutex::new(None),
            seats: (0..seats).map(|_| Seat::default()).collect(),
            closed: AtomicBool::new(true),
            broken: AtomicBool::new(false),
            caller: CallerSleep::default(),
            pace: Mutex::new(Pace::new()),
        }
    }

    fn work(&self, worker: usize) {
        let seat = &self.seats[worker];
        let mut pause = PAUSE;
        while seat.wait_for_call() {
            if !seat.enter() {
                continue;
            }
            let task = *lock(&self.task);
            let entered = Instant::now();
            let outcome = task.map_or(Ok(()), |task| task(worker + 1));
            let comes_back = outcome.is_err() && !self.closed.load(Ordering::Relaxed);
            seat.leave(comes_back);
            self.caller.wake();
            if comes_back {
                let stayed = entered.elapsed() > 4 * pause;
                pause = if stayed { PAUSE } else { MOST_PAUSE.min(2 * pause) };
                // The next call ends the pause.
                std::thread::park_timeout(pause);
            } else {
                pause = PAUSE;
            }
        }
    }

    /// Lets the caller work alone for a while, unless the delay is worth while: it has waited for a late worker since `begin`.
    fn late(&self, begin: Instant, helpers: usize) {
        let now = Instant::now();
        if lock(&self.pace).late(now, now.saturating_duration_since(begin), helpers) {
            self.closed.store(true, Ordering::Relaxed);
            self.seats.iter().for_each(Seat::uncall);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Spins, then yields: with more threads than processors, the thread that is awaited needs the processor.
fn spin_then_yield(mut done: impl FnMut() -> bool) {
    if !spin_until(SPIN, &mut done) {
        while !done() {
            std::thread::yield_now();
        }
    }
}

/// Ends a thread's part of a call silently: the thread that panicked reports its own panic.
#[cold]
fn leave_broken_call() -> ! {
    resume_unwind(Box::new(CallBroken))
}

#[cfg(test)]
mod tests;

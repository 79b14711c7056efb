//! A worker's place in the calls of its pool, and how the caller and the workers sleep.

use std::hint::spin_loop;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::lock;

/// The time for which an idle worker spins after a call, before it sleeps: programs often make the next call at once.
const IDLE_SPIN: Duration = Duration::from_micros(100);
/// Checks of a condition between two looks at the clock.
const CHECKS: usize = 32;

/// The agreement between a worker and the callers. Only a caller calls and uncalls a worker; only the worker enters and leaves.
///
/// ```text
/// IDLE -> CALLED    the caller      CALLED -> IDLE             the caller: the worker has not come
/// CALLED -> INSIDE  the worker      INSIDE -> IDLE or CALLED   the worker
/// ```
///
/// A caller that ends its call uncalls every worker and waits for those that are inside. So a worker that has no processor delays no
/// call that it has not entered.
#[derive(Default)]
pub(super) struct Seat(AtomicUsize);

const IDLE: usize = 0;
const CALLED: usize = 1;
const INSIDE: usize = 2;
const END: usize = 3;

impl Seat {
    /// Calls the worker, whose thread must be unparked then. Everything that the caller has written is visible to it.
    pub(super) fn call(&self) {
        // A worker that is still inside goes on there.
        let _ = self.0.compare_exchange(IDLE, CALLED, Ordering::Release, Ordering::Relaxed);
    }

    /// Takes the call back, unless the worker is inside.
    pub(super) fn uncall(&self) {
        let _ = self.0.compare_exchange(CALLED, IDLE, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the worker is neither called nor inside. Everything that it has written inside is then visible.
    pub(super) fn is_idle(&self) -> bool {
        self.0.load(Ordering::SeqCst) == IDLE
    }

    /// Ends the worker, which is not in a call.
    pub(super) fn end(&self) {
        self.0.store(END, Ordering::Release);
    }

    /// Enters a call, unless it was taken back.
    pub(super) fn enter(&self) -> bool {
        self.0.compare_exchange(CALLED, INSIDE, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Leaves the call; a worker that stays called may enter it again.
    pub(super) fn leave(&self, stay_called: bool) {
        self.0.store(if stay_called { CALLED } else { IDLE }, Ordering::SeqCst);
    }

    /// Waits for a call; `false` if the worker has to end. Spins for a while, then sleeps until its thread is unparked.
    pub(super) fn wait_for_call(&self) -> bool {
        let called = || self.0.load(Ordering::Acquire) != IDLE;
        if !spin_until(IDLE_SPIN, called) {
            while !called() {
                std::thread::park();
            }
        }
        self.0.load(Ordering::Acquire) != END
    }
}

/// Spins until `done` or for the given time; returns whether it is done. A descheduled thread does not lose the check that follows
/// its return.
pub(in crate::cpu) fn spin_until(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        let over = begin.elapsed() >= time;
        for _ in 0..CHECKS {
            if done() {
                return true;
            }
            spin_loop();
        }
        if over {
            return false;
        }
    }
}

/// The sleep of a call's own thread, from which workers wake it.
#[derive(Default)]
pub(super) struct CallerSleep {
    asleep: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl CallerSleep {
    /// Sleeps until `done`, whose loads must be sequentially consistent. A worker that makes it true by a sequentially consistent
    /// store calls [`CallerSleep::wake`] afterwards. Then either the worker sees that the caller is asleep, or the caller sees that it
    /// is done.
    pub(super) fn until(&self, done: impl Fn() -> bool) {
        *lock(&self.thread) = Some(std::thread::current());
        self.asleep.store(true, Ordering::SeqCst);
        while !done() {
            std::thread::park();
        }
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Wakes the caller if it sleeps.
    pub(super) fn wake(&self) {
        if self.asleep.load(Ordering::SeqCst)
            && let Some(thread) = &*lock(&self.thread)
        {
            thread.unpark();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_taken_back_is_not_entered() {
        let seat = Seat::default();
        assert!(seat.is_idle() && !seat.enter());
        seat.call();
        assert!(!seat.is_idle());
        seat.uncall();
        assert!(seat.is_idle() && !seat.enter());
        seat.call();
        assert!(seat.enter() && !seat.enter());
        // Neither call nor uncall moves a worker that is inside.
        seat.uncall();
        seat.call();
        assert!(!seat.is_idle() && !seat.enter());
        seat.leave(true);
        assert!(!seat.is_idle() && seat.enter());
        seat.leave(false);
        assert!(seat.is_idle());
        seat.end();
        assert!(!seat.wait_for_call());
    }

    #[test]
    fn a_spin_ends_by_the_clock_or_by_its_condition() {
        let begin = Instant::now();
        assert!(!spin_until(Duration::from_millis(3), || false));
        assert!(begin.elapsed() >= Duration::from_millis(3));
        let mut checks = 0;
        assert!(spin_until(Duration::MAX, || {
            checks += 1;
            checks == 100
        }));
        // Even without time the condition is checked.
        assert!(spin_until(Duration::ZERO, || true));
    }

    /// Many sleeps, each ended by one store of another thread: none is lost.
    #[test]
    fn a_sleeping_caller_is_woken_by_every_store() {
        let (sleep, round) = (CallerSleep::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for at in (1..4000).step_by(2) {
                    while round.load(Ordering::SeqCst) != at {
                        std::thread::yield_now();
                    }
                    round.store(at + 1, Ordering::SeqCst);
                    sleep.wake();
                }
            });
            for at in (1..4000).step_by(2) {
                round.store(at, Ordering::SeqCst);
                sleep.until(|| round.load(Ordering::SeqCst) == at + 1);
            }
        });
        assert_eq!(round.into_inner(), 4000);
    }
}

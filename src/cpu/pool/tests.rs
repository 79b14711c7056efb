//! Calls whose threads meet, panic, or are fewer than requested.

use std::sync::atomic::AtomicUsize;

use super::*;

/// Runs a call that panics, and returns its message.
fn panic_of(pool: &ThreadPool, wanted: usize, barriers: &[&Barrier], task: impl Fn(usize, usize) + Sync) -> String {
    let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(wanted, barriers, task)));
    let payload = outcome.expect_err("a panic");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).expect("a message")
}

/// A call in which every thread takes part and none panics.
fn runs_with_all(pool: &ThreadPool) {
    let (barrier, count) = (Barrier::default(), AtomicUsize::new(0));
    pool.run(pool.threads(), &[&barrier], |_, threads| {
        assert_eq!(threads, pool.threads());
        count.fetch_add(1, Ordering::Relaxed);
        barrier.wait(threads);
        assert_eq!(count.load(Ordering::Relaxed), threads);
    });
    assert_eq!(count.into_inner(), pool.threads());
}

#[test]
fn every_thread_runs_once_and_meets_the_others() {
    let pool = ThreadPool::new(5);
    for wanted in [1, 2, 5, 9, 5] {
        let barrier = Barrier::default();
        let sums: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
        pool.run(wanted, &[&barrier], |thread, threads| {
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
fn a_call_inside_a_call_uses_one_thread() {
    let pool = ThreadPool::new(2);
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    pool.run(2, &[], |_, _| {
        pool.run(2, &[], |thread, threads| {
            assert_eq!((thread, threads), (0, 1));
            counts[0].fetch_add(1, Ordering::Relaxed);
        });
        counts[1].fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(counts.map(AtomicUsize::into_inner), [2, 2]);
}

#[test]
fn fewer_threads_than_requested_do_the_work() {
    let pool = ThreadPool::with_workers(5, 1);
    let (barrier, counts) = (Barrier::default(), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    pool.run(5, &[&barrier], |thread, threads| {
        assert_eq!(threads, 2);
        counts[thread].fetch_add(1, Ordering::Relaxed);
        barrier.wait(threads);
    });
    assert_eq!(counts.map(AtomicUsize::into_inner), [1, 1]);
}

#[test]
fn a_panic_of_any_thread_reaches_the_caller_with_its_own_message() {
    let pool = ThreadPool::new(3);
    for guilty in 0..3 {
        let said = panic_of(&pool, 3, &[], |thread, _| assert!(thread != guilty, "thread {thread} fell"));
        assert_eq!(said, format!("thread {guilty} fell"));
        runs_with_all(&pool);
    }
}

#[test]
fn a_panic_before_a_barrier_releases_the_waiting_threads() {
    let pool = ThreadPool::new(4);
    for (guilty, round) in [(0, 0), (1, 0), (3, 7), (0, 7)] {
        let barriers = [Barrier::default(), Barrier::default()];
        let said = panic_of(&pool, 4, &barriers.each_ref(), |thread, threads| {
            for at in 0..10 {
                assert!((thread, at) != (guilty, round), "thread {thread} fell in round {at}");
                barriers[at % 2].wait(threads);
            }
        });
        assert_eq!(said, format!("thread {guilty} fell in round {round}"));
        runs_with_all(&pool);
    }
}

/// The panics of the caller and of a worker belong to one call, and the next call reports neither.
#[test]
fn a_call_reports_only_its_own_panics() {
    let pool = ThreadPool::new(2);
    let both = AtomicUsize::new(0);
    let said = panic_of(&pool, 2, &[], |thread, _| {
        both.fetch_add(1, Ordering::Relaxed);
        spin_then_yield(|| both.load(Ordering::Relaxed) == 2);
        panic!("thread {thread} fell");
    });
    assert!(["thread 0 fell", "thread 1 fell"].contains(&said.as_str()), "{said}");
    runs_with_all(&pool);
}

/// A call of another thread, at the same time as one that panics, reports no panic.
#[test]
fn a_call_on_one_thread_reports_no_other_calls_panic() {
    let pool = ThreadPool::new(2);
    let (begun, over) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let broken = scope.spawn(|| {
            panic_of(&pool, 2, &[], |thread, _| {
                begun.store(true, Ordering::Release);
                spin_then_yield(|| over.load(Ordering::Acquire));
                assert!(thread == 0, "thread {thread} fell");
            })
        });
        spin_then_yield(|| begun.load(Ordering::Acquire));
        pool.run(2, &[], |thread, threads| assert_eq!((thread, threads), (0, 1)));
        over.store(true, Ordering::Release);
        assert_eq!(broken.join().expect("a panic that was caught"), "thread 1 fell");
    });
    runs_with_all(&pool);
}

/// A payload that panics when dropped would end the worker that drops it.
#[test]
fn a_panic_whose_payload_panics_ends_no_thread() {
    struct Trap;
    impl Drop for Trap {
        fn drop(&mut self) {
            assert!(std::thread::current().name().is_none_or(|name| !name.starts_with("gatewise-")), "dropped");
        }
    }
    let pool = ThreadPool::new(3);
    let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(3, &[], |_, _| resume_unwind(Box::new(Trap)))));
    drop(outcome.expect_err("a panic"));
    runs_with_all(&pool);
}

/// Takes the pieces of some work, each of which sleeps for a moment. Returns the pieces that each thread did.
fn pieces(pool: &ThreadPool, count: usize, piece: impl Fn(usize) + Sync) -> Vec<usize> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(vec![0; pool.threads()]));
    pool.share(pool.threads(), |member| {
        while next.fetch_add(1, Ordering::Relaxed) < count {
            piece(member.index);
            lock(&done)[member.index] += 1;
        }
        Ok(())
    });
    done.into_inner().expect("no panic")
}

#[test]
fn the_pieces_of_a_call_are_done_by_those_who_come() {
    let pool = ThreadPool::new(3);
    for count in [0, 1, 100] {
        let done = pieces(&pool, count, |_| std::thread::sleep(Duration::from_micros(200)));
        assert_eq!(done.iter().sum::<usize>(), count);
    }
    let done = pieces(&ThreadPool::without_work(3), 100, |_| ());
    assert_eq!(done, [100, 0, 0]);
}

#[test]
fn a_panic_in_a_piece_reaches_the_caller_with_its_own_message() {
    let pool = ThreadPool::new(2);
    for guilty in 0..2 {
        let come = AtomicBool::new(false);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            pieces(&pool, 1000, |thread| {
                come.fetch_or(thread == guilty, Ordering::Relaxed);
                assert!(thread != guilty, "thread {thread} fell");
                // The caller's pieces last until the worker has come.
                let _ = spin_until(Duration::from_millis(20), || come.load(Ordering::Relaxed));
            })
        }));
        let said = outcome.expect_err("a panic");
        assert_eq!(said.downcast_ref::<String>(), Some(&format!("thread {guilty} fell")));
        runs_with_all(&pool);
    }
}

/// A worker that is late as soon as it comes makes the caller work alone, for a time that depends on the delay.
#[test]
fn a_late_worker_is_not_called_for_a_while() {
    let mut pool = ThreadPool::new(2);
    let (come, late) = (AtomicBool::new(false), AtomicBool::new(true));
    let lateness = Duration::from_millis(100);
    let call = |pool: &ThreadPool| {
        come.store(false, Ordering::Relaxed);
        pieces(pool, 2, |thread| {
            if thread == 0 {
                let _ = spin_until(Duration::from_millis(2), || come.load(Ordering::Relaxed));
            } else {
                come.store(true, Ordering::Relaxed);
                if late.load(Ordering::Relaxed) {
                    std::thread::sleep(lateness);
                }
            }
        })
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    // A pool whose threads have shared their work for long would not mind the delay.
    while call(&pool)[1] == 0 {
        assert!(Instant::now() < deadline, "the worker never came");
        pool = ThreadPool::new(2);
    }
    let may_share = || lock(&pool.workers.get().expect("workers").shared.pace).may_share(Instant::now());
    let begin = Instant::now();
    late.store(false, Ordering::Relaxed);
    let alone = [may_share(), call(&pool)[1] > 0];
    if begin.elapsed() < lateness {
        assert_eq!(alone, [false; 2], "the worker was called at once");
    }
    // A call that needs all threads is not concerned.
    runs_with_all(&pool);
    while call(&pool)[1] == 0 {
        assert!(Instant::now() < deadline, "the worker was never called again");
    }
    assert!(begin.elapsed() >= 2 * lateness, "the worker came back after {:?}", begin.elapsed());
}

//! Phases with threads that come late, leave, never come or panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread::sleep;

use super::*;
use crate::cpu::pool::ThreadPool;

const PHASES: usize = 200;

/// Items of every phase: none, fewer than threads, and more.
fn items(phase: usize) -> usize {
    [7, 64, 1, 0, 3, 12, 500][phase % 7]
}

/// Runs phases on a pool. Every item must be done once, after all items of the phase before and before any of the next. `delay` runs
/// at the beginning of every claim, with the thread's index and the phase.
fn run_phases(pool: &ThreadPool, wanted: usize, delay: impl Fn(usize, usize) + Sync) {
    let mut queues = [PhaseQueue::default(), PhaseQueue::default()];
    queues.iter_mut().for_each(|queue| queue.begin(wanted));
    let counts: Vec<Vec<AtomicUsize>> =
        (0..PHASES).map(|phase| (0..items(phase)).map(|_| AtomicUsize::new(0)).collect()).collect();
    let once = |phase: usize| counts[phase].iter().all(|count| count.load(Ordering::Relaxed) == 1);
    let untouched = |phase: usize| counts[phase].iter().all(|count| count.load(Ordering::Relaxed) == 0);
    pool.share(wanted, |member| {
        let mut worker = PhaseWorker::new(&queues, member);
        for phase in 0..PHASES {
            // Every fifth phase belongs to the other queue, where the thread has no home.
            let own = (phase % 5 > 0).then_some(member.index);
            worker.go_to(usize::from(own.is_none()), Home { own, homes: member.threads });
            if phase % 16 == 0 {
                worker.meet();
            }
            let work = Phase { items: items(phase), item_work: CLAIM_WORK / 3, last_first: phase % 2 == 1 };
            worker.phase(work, |claimed| {
                assert!(!claimed.is_empty());
                delay(member.index, phase);
                assert!(phase == 0 || once(phase - 1), "phase {phase} began before the end of the one before");
                assert!(phase + 1 == PHASES || untouched(phase + 1), "phase {phase} was late");
                for item in claimed {
                    counts[phase][item].fetch_add(1, Ordering::Relaxed);
                }
            })?;
        }
        Ok(())
    });
    assert!((0..PHASES).all(once), "an item was done twice or never");
}

#[test]
fn every_item_is_done_once_and_in_its_phase() {
    // More threads than processors, too.
    for threads in [1, 2, 3, 16] {
        let pool = ThreadPool::new(threads);
        for _ in 0..5 {
            run_phases(&pool, threads, |_, _| ());
        }
    }
}

/// Threads that lose their processor now and then, the caller among them.
#[test]
fn delayed_threads_change_nothing() {
    let pool = ThreadPool::new(4);
    for slow in 0..4 {
        run_phases(&pool, 4, |thread, phase| {
            if thread == slow && phase % 40 == 3 {
                sleep(Duration::from_millis(2));
            }
        });
    }
}

/// A worker that is held up outside the call delays nobody.
#[test]
fn a_thread_that_never_comes_is_not_awaited() {
    let pool = ThreadPool::without_work(3);
    let begin = std::time::Instant::now();
    run_phases(&pool, 3, |thread, _| assert_eq!(thread, 0));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

/// The caller waits for the claim of a thread that lost its processor for long. Then it works alone, and the others come back later.
#[test]
fn after_a_late_thread_the_caller_works_alone_for_a_while() {
    let mut pool = ThreadPool::new(2);
    let (late, helped) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lateness = Duration::from_millis(300);
    let call = |pool: &ThreadPool, may_be_late: bool| {
        helped.store(0, Ordering::Relaxed);
        run_phases(pool, 2, |thread, _| {
            if thread == 1 {
                helped.fetch_add(1, Ordering::Relaxed);
                if may_be_late && !late.swap(true, Ordering::Relaxed) {
                    sleep(lateness);
                }
            } else {
                // Long enough for the worker to come.
                sleep(Duration::from_micros(100));
            }
        });
        helped.load(Ordering::Relaxed)
    };
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !late.load(Ordering::Relaxed) {
        assert!(std::time::Instant::now() < deadline, "the worker never helped");
        // A pool whose threads have shared their work for long would not mind the delay.
        pool = ThreadPool::new(2);
        call(&pool, true);
    }
    let alone = std::time::Instant::now();
    let helped_at_once = call(&pool, false);
    if alone.elapsed() < 2 * lateness {
        assert_eq!(helped_at_once, 0, "the worker was called at once after it was late");
    }
    while call(&pool, false) == 0 {
        assert!(std::time::Instant::now() < deadline, "the worker was never called again");
    }
}

#[test]
fn a_panic_inside_a_claim_ends_the_call_for_all() {
    let pool = ThreadPool::new(3);
    for guilty in 0..3 {
        let fallen = AtomicBool::new(false);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            run_phases(&pool, 3, |thread, phase| {
                // The caller gives the guilty worker the time to come.
                if thread == 0 && guilty > 0 && !fallen.load(Ordering::Relaxed) {
                    sleep(Duration::from_micros(200));
                }
                if thread == guilty && phase >= 9 {
                    fallen.store(true, Ordering::Relaxed);
                    panic!("thread {thread} fell");
                }
            });
        }));
        match outcome {
            Err(payload) => {
                let said = payload.downcast_ref::<String>().expect("a message");
                assert_eq!(said, &format!("thread {guilty} fell"));
            }
            Ok(()) => assert!(guilty > 0 && !fallen.load(Ordering::Relaxed), "the panic of {guilty} was lost"),
        }
        run_phases(&pool, 3, |_, _| ());
    }
}

/// Workers were ahead of the caller, did a part of a phase and left. The caller alone does the rest of it, and no item twice.
#[test]
fn a_phase_that_others_have_begun_is_finished_alone() {
    let mut queues = [PhaseQueue::default(), PhaseQueue::default()];
    queues.iter_mut().for_each(|queue| queue.begin(2));
    // Phase 1 is done, and items 4 and 5 of phase 2.
    queues[0].done.0.store(4 + 2, Ordering::Relaxed);
    assert_eq!(queues[0].claim(1, 1, 2, true, 9), Some(0..2));
    assert_eq!(queues[0].claim(1, 2, 4, true, 2), Some(0..2));
    let done = std::sync::Mutex::new(Vec::new());
    ThreadPool::new(1).share(1, |member| {
        let mut worker = PhaseWorker::new(&queues, member);
        worker.go_to(0, Home { own: Some(0), homes: 2 });
        for items in [4, 8, 3] {
            let phase = Phase { items, item_work: 1, last_first: false };
            worker.phase(phase, |claimed| done.lock().expect("no panic").extend(claimed.map(|item| (items, item))))?;
        }
        Ok(())
    });
    let mut done = done.into_inner().expect("no panic");
    done.sort_unstable();
    assert_eq!(done, [(3, 0), (3, 1), (3, 2), (8, 0), (8, 1), (8, 2), (8, 3), (8, 6), (8, 7)]);
}

/// Steps of one queue that a late thread finds done are skipped together.
#[test]
fn phases_that_are_done_are_skipped() {
    let mut queues = [PhaseQueue::default(), PhaseQueue::default()];
    queues.iter_mut().for_each(|queue| queue.begin(1));
    ThreadPool::new(1).share(1, |member| {
        let mut first = PhaseWorker::new(&queues, member);
        for items in [3, 4, 5] {
            assert!(!first.skip(1, items));
            first.phase(Phase { items, item_work: 1, last_first: false }, |_| ())?;
        }
        let mut late = PhaseWorker::new(&queues, member);
        assert!(late.skip(2, 7) && !late.skip(2, 6) && late.skip(1, 5) && !late.skip(1, 1));
        Ok(())
    });
}

#[test]
fn claims_of_a_home_are_whole_and_belong_to_one_phase() {
    let mut queue = PhaseQueue::default();
    queue.begin(2);
    // From both ends, half of the rest at a time.
    assert_eq!(queue.claim(1, 5, 9, true, 1), Some(0..5));
    assert_eq!(queue.claim(1, 5, 9, false, 1), Some(7..9));
    assert_eq!(queue.claim(1, 5, 9, true, 4), Some(5..7));
    assert_eq!(queue.claim(1, 5, 9, true, 1), None);
    // A thread of an older phase gets nothing, and a newer phase has all.
    assert_eq!(queue.claim(1, 4, 9, true, 1), None);
    assert_eq!(queue.claim(1, 7, MOST_LOTS, true, MOST_LOTS), Some(0..MOST_LOTS));
    assert_eq!(queue.claim(1, 7, MOST_LOTS, true, 1), None);
    assert_eq!(queue.claim(0, 7, 0, true, 1), None);
    for unclaimed in [
        Unclaimed { phase: (1 << 40) - 1, low: 0, high: MOST_LOTS },
        Unclaimed { phase: 1, low: MOST_LOTS, high: MOST_LOTS },
        Unclaimed { phase: 0, low: 1, high: 2 },
    ] {
        assert_eq!(Unclaimed::unpack(unclaimed.pack()), unclaimed);
    }
}

/// Counts in 32 bits, as on a 32-bit machine.
#[test]
fn shares_cover_any_count_without_overflow() {
    for count in [0, 1, 7, 4096, 1 << 30, u32::MAX / 2 + 1, u32::MAX - 1, u32::MAX] {
        for of in [1, 2, 3, 48, 1000, 1024] {
            let exact = |at: u32| u64::from(count) * u64::from(at) / u64::from(of);
            for at in 0..=of {
                assert_eq!(u64::from(share_start(count, at, of)), exact(at), "{at} of {of} of {count}");
            }
        }
    }
    assert_eq!(share(usize::MAX, 2, 3), usize::MAX / 3 * 2..usize::MAX);
}

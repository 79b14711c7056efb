//! An allocator that fails when it is told to; a test file that includes this module allocates through it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The smallest allocation that counts, in bytes. Arrays that grow with a call or a stack are larger; names and lists are not.
const LARGE: usize = 2500;

/// Which of the large allocations fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fails {
    /// The allocation of this number, counted from 0.
    Only(usize),
    /// The allocation of this number and all after it.
    From(usize),
    /// All allocations of more than this many bytes.
    Above(usize),
}

static ARMED: AtomicBool = AtomicBool::new(false);
static SEEN: AtomicUsize = AtomicUsize::new(0);
static FIRST: AtomicUsize = AtomicUsize::new(usize::MAX);
static LAST: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);
static FAILED: AtomicUsize = AtomicUsize::new(0);
static ALONE: Mutex<()> = Mutex::new(());

/// The system's allocator, which refuses some calls of any thread on demand.
struct Failing;

fn granted(layout: Layout) -> bool {
    // The matrix product's packing buffers are the only ones with an alignment of their own. They end the process; the
    // crate makes sure of their memory beforehand.
    if !ARMED.load(Ordering::SeqCst) || layout.size() < LARGE || layout.align() > 16 {
        return true;
    }
    let at = SEEN.fetch_add(1, Ordering::SeqCst);
    let within = (FIRST.load(Ordering::SeqCst)..=LAST.load(Ordering::SeqCst)).contains(&at);
    let fails = within || layout.size() > MOST.load(Ordering::SeqCst);
    FAILED.fetch_add(usize::from(fails), Ordering::SeqCst);
    !fails
}

#[expect(unsafe_code, reason = "an allocator is unsafe by nature; this one only refuses some calls")]
// SAFETY: every call is handed on unchanged, or answered with the null pointer that means no memory.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the arguments are unchanged, and `System` has the contract of `GlobalAlloc`, which our callers keep.
        if granted(layout) { unsafe { System.alloc(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the arguments are unchanged, and `System` has the contract of `GlobalAlloc`, which our callers keep.
        if granted(layout) { unsafe { System.alloc_zeroed(layout) } } else { std::ptr::null_mut() }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the arguments are unchanged, and `System` has the contract of `GlobalAlloc`, which our callers keep.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

/// Keeps other tests of the process from allocating at the same time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work` with failing allocations; returns how many failed, too. A test is [`alone`] while it does so.
pub(crate) fn failing<T>(fails: Fails, work: impl FnOnce() -> T) -> (T, usize) {
    let (first, last, most) = match fails {
        Fails::Only(at) => (at, at, usize::MAX),
        Fails::From(at) => (at, usize::MAX, usize::MAX),
        Fails::Above(most) => (usize::MAX, 0, most),
    };
    for (place, value) in [(&SEEN, 0), (&FAILED, 0), (&FIRST, first), (&LAST, last), (&MOST, most)] {
        place.store(value, Ordering::SeqCst);
    }
    ARMED.store(true, Ordering::SeqCst);
    let result = work();
    ARMED.store(false, Ordering::SeqCst);
    (result, FAILED.load(Ordering::SeqCst))
}

//! An allocator that knows the bytes in use; a test file that includes this module allocates through it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell as Counter;

thread_local! {
    static LIVE: Counter<isize> = const { Counter::new(0) };
    static MOST: Counter<isize> = const { Counter::new(0) };
}

/// The system's allocator, adding up what this thread holds.
struct Weighing;

fn changed_by(bytes: isize) {
    // A thread that is ending has no counter any more.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        MOST.try_with(|most| most.set(most.get().max(live.get())))
    });
}

#[expect(unsafe_code, reason = "an allocator is unsafe by nature; this one only counts")]
// SAFETY: every call is handed on unchanged.
unsafe impl GlobalAlloc for Weighing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        changed_by(layout.size().cast_signed());
        // SAFETY: the arguments are unchanged, and `System` has the contract of `GlobalAlloc`, which our callers keep.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        changed_by(-layout.size().cast_signed());
        // SAFETY: the arguments are unchanged, and `System` has the contract of `GlobalAlloc`, which our callers keep.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Weighing = Weighing;

/// The most bytes that this thread held at once while `work` ran, beyond those it held before.
pub(crate) fn most_bytes<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = LIVE.get();
    MOST.set(before);
    let result = work();
    ((MOST.get() - before).unsigned_abs(), result)
}

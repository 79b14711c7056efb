//! Failures on demand, for unit tests: of the calls of one kind that this thread makes, the n-th fails.

use std::cell::Cell;

use crate::error::{Error, Result};

/// Where a call to the driver can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Before the driver is called: an allocation (from the pool or not), an upload, a pipeline, a submission.
    Refused,
    /// A submission that runs, reported as one that failed.
    Misreported,
    /// A result that cannot be read after its submission has run.
    Unread,
}

thread_local! {
    /// The kind of call that fails, and how many calls of that kind succeed before.
    static PLANNED: Cell<Option<(Fault, usize)>> = const { Cell::new(None) };
}

/// Runs `work`: `good` calls of the kind `fault` succeed, the next one fails. Also returns whether there was such a call.
#[allow(dead_code, reason = "the tests that fail calls need models of files, too")]
pub(crate) fn fail<T>(fault: Fault, good: usize, work: impl FnOnce() -> T) -> (bool, T) {
    PLANNED.set(Some((fault, good)));
    let result = work();
    (PLANNED.take().is_none(), result)
}

/// Counts a call of a kind. Returns an error if this call is the one that [`fail`] has planned to fail.
pub(in crate::gpu) fn meet(fault: Fault, op: &'static str) -> Result<()> {
    match PLANNED.get() {
        Some((planned, 0)) if planned == fault => {
            PLANNED.set(None);
            Err(Error::OutOfMemory { op, message: format!("{fault:?} on demand") })
        }
        Some((planned, good)) if planned == fault => {
            PLANNED.set(Some((planned, good - 1)));
            Ok(())
        }
        _ => Ok(()),
    }
}

//! The replays that a model keeps.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most replays that a model keeps: for several shapes, or for several threads that run the same shape.
const MOST: usize = 4;
/// The most bytes of buffers that a model keeps, for all of its replays.
const MOST_BYTES: u64 = 64 << 20;

/// A replay together with the calls that it is for.
pub(crate) trait Replayable {
    /// Bytes of its buffers.
    fn bytes(&self) -> u64;
}

/// The replays of a model, from the one that was used longest ago to the last one. A call takes its replay out and puts it
/// back, so two threads never share one.
pub(crate) struct Kept<R>(Mutex<State<R>>);

struct State<R> {
    replays: Vec<R>,
    /// Calls that were run but not recorded, as hashes.
    seen: [u64; MOST],
    /// Whether no recording of the model can be replayed.
    useless: bool,
}

impl<R: Replayable> Kept<R> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { replays: Vec::with_capacity(MOST + 1), seen: [0; MOST], useless: false }))
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        // A panic leaves the list whole: it is only pushed to and removed from.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out a replay that fits a call.
    pub(crate) fn take(&self, fits: impl Fn(&R) -> bool) -> Option<R> {
        let mut state = self.lock();
        let at = state.replays.iter().rposition(fits)?;
        Some(state.replays.remove(at))
    }

    /// Whether to record a call: a call of its kind was run before, and recordings of the model are of use. A model whose
    /// every call differs, such as one that reads symbols, never pays for recordings.
    pub(crate) fn wants(&self, call: impl Hash) -> bool {
        // 0 stands for no call.
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(call) | 1;
        let mut state = self.lock();
        if state.useless {
            return false;
        }
        if state.seen.contains(&hash) {
            return true;
        }
        state.seen.rotate_right(1);
        state.seen[0] = hash;
        false
    }

    /// The number of replays that no call has taken out.
    pub(crate) fn count(&self) -> usize {
        self.lock().replays.len()
    }

    /// Keeps a replay for the next call. The replays that were used longest ago make room.
    pub(crate) fn put(&self, replay: R) {
        if replay.bytes() > MOST_BYTES {
            return;
        }
        let mut state = self.lock();
        state.replays.push(replay);
        while state.replays.len() > MOST || state.replays.iter().map(R::bytes).sum::<u64>() > MOST_BYTES {
            state.replays.remove(0);
        }
    }

    /// Notes that no recording of the model can be replayed.
    pub(crate) fn refuse(&self) {
        self.lock().useless = true;
    }
}

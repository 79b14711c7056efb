//! The replays that a model keeps.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most replays that a model keeps: for several shapes, or for several threads that run the same shape.
const MOST: usize = 8;
/// The most bytes of buffers and outputs that a model keeps, for all of its replays. A call that needs more is so long that
/// the interpreter costs next to nothing.
const MOST_BYTES: u64 = 64 << 20;

/// A replay together with the calls that it is for.
pub(crate) trait Replayable {
    /// Bytes of its buffers.
    fn bytes(&self) -> u64;
}

/// The replays of a model, from the one that was used longest ago to the last one. A call takes its replay out and puts it
/// back, so two threads never share one.
pub(crate) struct Kept<R> {
    state: Mutex<State<R>>,
    /// The most bytes that all replays hold.
    limit: u64,
}

struct State<R> {
    replays: Vec<R>,
    /// The last kinds of calls that were interpreted.
    seen: [SeenKind; MOST],
}

/// A kind of call that was interpreted.
#[derive(Clone, Copy, Default)]
struct SeenKind {
    /// 0 if there is none.
    hash: u64,
    /// Whether a recording of it cannot be replayed.
    useless: bool,
}

fn hash(call: impl Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(call) | 1
}

impl<R: Replayable> Kept<R> {
    /// `limit` bounds the bytes of all replays.
    pub(crate) fn new(limit: u64) -> Self {
        let state = State { replays: Vec::with_capacity(MOST + 1), seen: Default::default() };
        Self { state: Mutex::new(state), limit: limit.min(MOST_BYTES) }
    }

    /// The most bytes that a replay may hold.
    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        // A panic leaves the list whole: it is only pushed to and removed from.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out a replay that fits a call.
    pub(crate) fn take(&self, fits: impl Fn(&R) -> bool) -> Option<R> {
        let mut state = self.lock();
        let at = state.replays.iter().rposition(fits)?;
        Some(state.replays.remove(at))
    }

    /// Whether to record a call: a call of its kind was interpreted before, and its recording is of use. A model whose every
    /// call differs, such as one that reads symbols, never pays for recordings.
    pub(crate) fn wants(&self, call: impl Hash) -> bool {
        let hash = hash(call);
        let mut state = self.lock();
        if let Some(seen) = state.seen.iter().find(|seen| seen.hash == hash) {
            return !seen.useless;
        }
        state.seen.rotate_right(1);
        state.seen[0] = SeenKind { hash, useless: false };
        false
    }

    /// The number of replays that no call has taken out.
    pub(crate) fn count(&self) -> usize {
        self.lock().replays.len()
    }

    /// Keeps a replay for the next call. The replays that were used longest ago make room.
    pub(crate) fn put(&self, replay: R) {
        let mut state = self.lock();
        state.replays.push(replay);
        while state.replays.len() > MOST || state.replays.iter().map(R::bytes).sum::<u64>() > self.limit {
            state.replays.remove(0);
        }
    }

    /// Notes that a recording of such a call cannot be replayed.
    pub(crate) fn refuse(&self, call: impl Hash) {
        let hash = hash(call);
        if let Some(seen) = self.lock().seen.iter_mut().find(|seen| seen.hash == hash) {
            seen.useless = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replay for a shape, with its bytes.
    #[derive(Debug, PartialEq)]
    struct Sized(usize, u64);

    impl Replayable for Sized {
        fn bytes(&self) -> u64 {
            self.1
        }
    }

    fn shapes(kept: &Kept<Sized>) -> Vec<usize> {
        kept.lock().replays.iter().map(|replay| replay.0).collect()
    }

    #[test]
    fn the_replays_that_were_used_longest_ago_make_room() {
        let kept = Kept::new(100);
        (0..4).for_each(|shape| kept.put(Sized(shape, 30)));
        assert_eq!(shapes(&kept), [1, 2, 3]);
        let replay = kept.take(|replay| replay.0 == 1).expect("kept");
        assert!(kept.take(|replay| replay.0 == 1).is_none());
        kept.put(replay);
        kept.put(Sized(4, 30));
        assert_eq!(shapes(&kept), [3, 1, 4]);
        kept.put(Sized(5, 101));
        assert_eq!(kept.count(), 0);
        (0..=MOST).for_each(|shape| kept.put(Sized(shape, 0)));
        assert_eq!(shapes(&kept), (1..=MOST).collect::<Vec<_>>());
    }

    #[test]
    fn a_kind_is_recorded_when_it_comes_again() {
        let kept = Kept::<Sized>::new(100);
        let wants = |call: usize| kept.wants(call);
        assert_eq!([wants(1), wants(2), wants(1), wants(2)], [false, false, true, true]);
        kept.refuse(1_usize);
        assert_eq!([wants(1), wants(2)], [false, true]);
        // More kinds than are remembered are never recorded.
        assert!((0..3 * (MOST + 1)).all(|call| !wants(10 + call % (MOST + 1))));
    }
}

//! Work in phases, which the threads of a call share.
//!
//! The work of a phase is a number of items that may be done in any order and by any thread. A phase begins when all items of the one
//! before are done. Every thread has a home: its own range of the items, which it claims first, so that its weights stay in its cache.
//! If the others are late, it claims items of theirs. A thread that never comes has claimed nothing, and the others do its part. So a
//! phase waits only for items that were claimed and are not done.

use std::ops::{Add, Div, Mul, Range, Rem};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::pool::{Left, Member, spin_until};

/// The work of the smallest claim in multiply-adds: far more than the claim itself costs.
const CLAIM_WORK: usize = 1 << 18;
/// Checks for the end of a phase before the first look at the clock.
const FIRST_CHECKS: usize = 40;
/// The time that a thread leaves to others for their own items, beside the time that a slow core takes for them.
const GRACE: Duration = Duration::from_micros(10);
/// Multiply-adds per nanosecond of a slow core, to judge how long a thread may have to wait for another.
const SLOW_RATE: usize = 8;

/// Keeps a value on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct OwnLine<T>(T);

/// The claims and the progress of a call.
#[derive(Default)]
pub(super) struct PhaseQueue {
    /// The number of items that are done, of all phases.
    done: OwnLine<AtomicU64>,
    /// The unclaimed items of every home: see [`Unclaimed`].
    homes: Vec<OwnLine<AtomicU64>>,
}

/// The unclaimed lots of a home in a phase, as one word. An older phase's word says that nothing was claimed in this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unclaimed {
    /// Below `2^40`, which no call reaches in its time.
    phase: u64,
    /// Below [`MOST_LOTS`].
    low: usize,
    /// At most [`MOST_LOTS`].
    high: usize,
}

/// The most lots of a home; a lot is some consecutive items.
const MOST_LOTS: usize = (1 << LOT_BITS) - 1;
const LOT_BITS: u32 = 12;

impl Unclaimed {
    fn pack(self) -> u64 {
        self.phase << (2 * LOT_BITS) | (self.low as u64) << LOT_BITS | self.high as u64
    }

    fn unpack(word: u64) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "12 bits")]
        let lots = |word: u64| word as usize & MOST_LOTS;
        Self { phase: word >> (2 * LOT_BITS), low: lots(word >> LOT_BITS), high: lots(word) }
    }
}

impl PhaseQueue {
    /// Prepares a call of up to `threads` threads.
    pub(super) fn begin(&mut self, threads: usize) {
        if self.homes.len() < threads {
            self.homes.resize_with(threads, OwnLine::default);
        }
        *self.done.0.get_mut() = 0;
        self.homes.iter_mut().for_each(|home| *home.0.get_mut() = 0);
    }

    /// Whether `target` items are done. Everything that was written for them is then visible.
    #[inline(always)]
    fn passed(&self, target: u64) -> bool {
        self.done.0.load(Ordering::SeqCst) >= target
    }

    /// Claims some of a home's `lots`, from its low or its high end; `None` if all are claimed.
    #[inline]
    fn claim(&self, home: usize, phase: u64, lots: usize, low_end: bool, least: usize) -> Option<Range<usize>> {
        let word = &self.homes[home].0;
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let unclaimed = match Unclaimed::unpack(seen) {
                older if older.phase < phase => Unclaimed { phase, low: 0, high: lots },
                current if current.phase == phase => current,
                _ => return None,
            };
            let Unclaimed { low, high, .. } = unclaimed;
            let rest = high.checked_sub(low).filter(|&rest| rest > 0)?;
            let count = rest.div_ceil(2).max(least).min(rest);
            let (claimed, left) = if low_end {
                (low..low + count, Unclaimed { low: low + count, ..unclaimed })
            } else {
                (high - count..high, Unclaimed { high: high - count, ..unclaimed })
            };
            // The order of claims says nothing about other memory: that is what `done` is for.
            match word.compare_exchange_weak(seen, left.pack(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(claimed),
                Err(now) => seen = now,
            }
        }
    }
}

/// The items of a phase.
#[derive(Clone, Copy)]
pub(super) struct Phase {
    pub(super) items: usize,
    /// Multiply-adds per item.
    pub(super) item_work: usize,
    /// Whether the items are done from the last to the first.
    pub(super) last_first: bool,
}

/// The homes of a phase, and which of them belongs to the thread.
#[derive(Clone, Copy)]
pub(super) struct Home {
    /// `None` if the thread only helps the others.
    pub(super) own: Option<usize>,
    /// At most the threads of the queue.
    pub(super) homes: usize,
}

/// A home's items in lots.
struct Lots {
    items: Range<usize>,
    /// Items per lot; the last lot may have fewer.
    size: usize,
    count: usize,
}

/// The place of a thread in a queue.
struct Position<'a> {
    queue: &'a PhaseQueue,
    /// The number of the last phase; the first one is 1.
    phase: u64,
    /// The items of all phases up to the last one.
    target: u64,
}

impl Position<'_> {
    fn passed(&self) -> bool {
        self.queue.passed(self.target)
    }
}

/// One thread on its way through the phases of two queues. All threads take the same phases of each queue in the same order.
pub(super) struct PhaseWorker<'a> {
    positions: [Position<'a>; 2],
    /// The queue of the next phase.
    current: usize,
    home: Home,
    member: Member<'a>,
    /// Whether a thread had claimed nothing of its own when this one took its items in the last phase.
    others_late: bool,
    /// Whether no other thread is in the call.
    alone: bool,
}

impl<'a> PhaseWorker<'a> {
    pub(super) fn new(queues: &'a [PhaseQueue; 2], member: Member<'a>) -> Self {
        Self {
            positions: queues.each_ref().map(|queue| Position { queue, phase: 0, target: 0 }),
            current: 0,
            home: Home { own: None, homes: 1 },
            member,
            others_late: false,
            alone: member.is_alone(),
        }
    }

    /// Chooses the queue of the next phases, and their homes.
    pub(super) fn go_to(&mut self, queue: usize, home: Home) {
        (self.current, self.home) = (queue, home);
    }

    /// Skips phases with this number of items if all of them are done: a thread that comes late must not take them one by one.
    pub(super) fn skip(&mut self, phases: usize, items: usize) -> bool {
        let Position { queue, phase, target } = &mut self.positions[self.current];
        let (last, target_then) = (*phase + phases as u64, *target + items as u64);
        let passed = queue.passed(target_then);
        if passed {
            (*phase, *target) = (last, target_then);
        }
        passed
    }

    /// Calls the workers again once the caller has been alone for long enough. Belongs between two phases that are not short.
    pub(super) fn meet(&mut self) {
        if self.member.threads > 1 && self.member.index == 0 {
            self.alone = self.member.is_alone() && !self.member.call_workers();
        }
    }

    /// Takes part in a phase and returns when all its items are done. `run` is called with ranges of items that are not empty and
    /// belong to this thread alone.
    ///
    /// # Errors
    /// [`Left`] if this worker leaves the call; it has finished all items that it has claimed.
    ///
    /// # Panics
    /// If another thread of the call has panicked.
    #[inline]
    pub(super) fn phase(&mut self, phase: Phase, mut run: impl FnMut(Range<usize>)) -> Result<(), Left> {
        let position = &mut self.positions[self.current];
        position.phase += 1;
        position.target += phase.items as u64;
        // The others may be ahead. And a phase that the caller did alone has no claims that a worker could see.
        let done = position.queue.done.0.load(Ordering::SeqCst);
        if done >= position.target {
            return Ok(());
        }
        // Workers that have left may have done a part of the phase. Then its claims say which.
        if self.alone && done + phase.items as u64 == position.target {
            run(0..phase.items);
            // No other thread is in the call. A worker that is called later sees the number by its seat.
            position.queue.done.0.store(position.target, Ordering::Relaxed);
            return Ok(());
        }
        let Home { own, homes } = self.home;
        if let Some(own) = own {
            while let Some(items) = self.claim(phase, own)? {
                if self.finish(items, &mut run) {
                    return Ok(());
                }
            }
        }
        let expected = self.expected(phase);
        if self.waits_for_owners(phase, GRACE + expected) {
            return Ok(());
        }
        self.others_late = false;
        let first = own.map_or(self.member.index, |own| own + 1);
        for other in (0..homes).map(|at| (first + at) % homes).filter(|&other| Some(other) != own) {
            let owner_came = self.owner_came(phase, other);
            while let Some(items) = self.claim(phase, other)? {
                self.others_late |= !owner_came;
                if self.finish(items, &mut run) {
                    return Ok(());
                }
            }
        }
        let position = &self.positions[self.current];
        self.member.wait(expected, || position.passed())
    }

    /// The time that a slow core takes for a home's items.
    fn expected(&self, phase: Phase) -> Duration {
        let work = phase.items.div_ceil(self.home.homes).saturating_mul(phase.item_work);
        Duration::from_nanos((work / SLOW_RATE) as u64)
    }

    /// Leaves the items of the others to them for a while, so that each keeps its own weights in its cache; returns whether the
    /// phase is done. Threads that were late in the last phase and have not come to this one get no time.
    #[inline]
    fn waits_for_owners(&self, phase: Phase, grace: Duration) -> bool {
        let passed = || self.positions[self.current].passed();
        for _ in 0..FIRST_CHECKS {
            if passed() {
                return true;
            }
            std::hint::spin_loop();
        }
        let mut others = (0..self.home.homes).filter(|&home| Some(home) != self.home.own);
        if self.others_late && !others.all(|home| self.owner_came(phase, home)) {
            return false;
        }
        spin_until(grace, || passed() || self.member.must_leave()) && passed()
    }

    /// Whether the owner of a home has claimed some of its items in this phase.
    fn owner_came(&self, phase: Phase, home: usize) -> bool {
        let Position { queue, phase: number, .. } = self.positions[self.current];
        let Lots { count, .. } = self.lots(phase, home);
        let seen = Unclaimed::unpack(queue.homes[home].0.load(Ordering::Relaxed));
        let from_its_end = if phase.last_first { seen.high < count } else { seen.low > 0 };
        count == 0 || seen.phase > number || seen.phase == number && from_its_end
    }

    /// The lots of a home.
    fn lots(&self, phase: Phase, home: usize) -> Lots {
        let items = share(phase.items, home, self.home.homes);
        let size = items.len().div_ceil(MOST_LOTS).max(1);
        Lots { count: items.len().div_ceil(size), size, items }
    }

    /// Claims items of a home. Its owner takes them in the phase's order, the other threads from the other end.
    #[inline]
    fn claim(&self, phase: Phase, home: usize) -> Result<Option<Range<usize>>, Left> {
        if self.member.must_leave() {
            return Err(Left);
        }
        let Position { queue, phase: number, .. } = self.positions[self.current];
        let Lots { items, size, count } = self.lots(phase, home);
        let least = CLAIM_WORK / phase.item_work.saturating_mul(size).max(1);
        let low_end = (Some(home) == self.home.own) != phase.last_first;
        let claimed = queue.claim(home, number, count, low_end, least);
        Ok(claimed.map(|lots| items.start + lots.start * size..items.end.min(items.start + lots.end * size)))
    }

    /// Does claimed items; returns whether they were the last of the phase.
    #[inline]
    fn finish(&self, items: Range<usize>, run: &mut impl FnMut(Range<usize>)) -> bool {
        let count = items.len() as u64;
        run(items);
        let Position { queue, target, .. } = &self.positions[self.current];
        let last = queue.done.0.fetch_add(count, Ordering::SeqCst) + count == *target;
        if last && self.member.index > 0 {
            self.member.wake_caller();
        }
        last
    }
}

/// Part `at` of `of` equal parts of `count` items.
fn share(count: usize, at: usize, of: usize) -> Range<usize> {
    share_start(count, at, of)..share_start(count, at + 1, of)
}

/// The first item of part `at` of `of`: `count * at / of`, without the product that overflows for a large count.
pub(super) fn share_start<N>(count: N, at: N, of: N) -> N
where
    N: Copy + Add<Output = N> + Mul<Output = N> + Div<Output = N> + Rem<Output = N>,
{
    count / of * at + count % of * at / of
}

#[cfg(test)]
mod tests;

//! When the workers take part in calls, and when the caller works alone.

use std::time::{Duration, Instant};

/// A delay is worth while if the threads have shared their work for this many times as long before, per worker. A lower number forgives
/// the short pauses of a virtual machine; a higher one lets a busy machine's callers work alone sooner.
const WORTH: u32 = 1;
/// After a delay that was not worth while, the caller works alone for this many times as long as it has waited. The number doubles with
/// every such delay, and halves with every other one. So on a busy machine the caller waits for a small part of its time only.
const ALONE: [u32; 2] = [2, 64];
/// The longest time that the caller works alone after one delay.
const MOST_ALONE: Duration = Duration::from_secs(1);

/// The delays that the caller has seen, and what follows from them.
pub(super) struct Pace {
    /// Between the ends of [`ALONE`].
    factor: u32,
    /// Until then the caller works alone.
    alone_until: Option<Instant>,
    /// The time for which the threads have shared calls since the last delay, without the present call.
    shared: Duration,
    /// The time since which the threads share the present call.
    since: Option<Instant>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { factor: ALONE[0], alone_until: None, shared: Duration::ZERO, since: None }
    }

    /// Whether the time in which the caller works alone is over.
    pub(super) fn may_share(&mut self, now: Instant) -> bool {
        self.alone_until = self.alone_until.filter(|&until| now < until);
        self.alone_until.is_none()
    }

    /// The workers were called.
    pub(super) fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// The call ends.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.shared = self.shared.saturating_add(now.saturating_duration_since(since));
        }
    }

    /// The caller has waited for one of its workers; returns whether it works alone from now on.
    pub(super) fn late(&mut self, now: Instant, waited: Duration, workers: usize) -> bool {
        let shares = self.since.is_some();
        self.end(now);
        let shared = std::mem::take(&mut self.shared).saturating_sub(waited);
        let workers = u32::try_from(workers).unwrap_or(u32::MAX);
        if shared.saturating_mul(workers) >= waited.saturating_mul(WORTH) {
            self.factor = ALONE[0].max(self.factor / 2);
            self.since = shares.then_some(now);
            return false;
        }
        self.alone_until = now.checked_add(MOST_ALONE.min(waited.saturating_mul(self.factor)));
        self.factor = ALONE[1].min(2 * self.factor);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Shares for a time, then waits for a worker.
    fn delay(pace: &mut Pace, now: &mut Instant, shared: Duration, waited: Duration, workers: usize) -> bool {
        assert!(pace.may_share(*now));
        pace.begin(*now);
        *now += shared + waited;
        let alone = pace.late(*now, waited, workers);
        pace.end(*now);
        alone
    }

    #[test]
    fn rare_delays_cost_less_than_they_gain() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        for _ in 0..10 {
            assert!(!delay(&mut pace, &mut now, ms(50), ms(7), 1));
            // More workers gain more.
            assert!(!delay(&mut pace, &mut now, ms(50), ms(70), 15));
        }
    }

    #[test]
    fn frequent_delays_lead_to_work_alone_for_longer_and_longer() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        for expected in [2, 4, 8, 16, 32, 64, 64] {
            assert!(delay(&mut pace, &mut now, ms(3), ms(12), 1));
            assert!(!pace.may_share(now) && !pace.may_share(now + ms(12 * expected) - ms(1)));
            now += ms(12 * expected);
        }
        // A long delay keeps the workers away for a second.
        assert!(delay(&mut pace, &mut now, ms(3), ms(500), 1));
        assert!(!pace.may_share(now + ms(999)) && pace.may_share(now + ms(1000)));
        now += ms(1000);
        // Once the machine is idle again, the memory of it fades.
        for _ in 0..5 {
            assert!(!delay(&mut pace, &mut now, ms(100), ms(1), 1));
        }
        assert!(delay(&mut pace, &mut now, ms(1), ms(10), 1));
        assert!(!pace.may_share(now + ms(19)) && pace.may_share(now + ms(20)));
    }

    /// The time between calls is no shared work, and several short calls are.
    #[test]
    fn the_time_of_all_calls_counts_and_no_other() {
        let (mut pace, mut now) = (Pace::new(), Instant::now());
        for _ in 0..10 {
            pace.begin(now);
            pace.end(now + ms(1));
            now += ms(100);
        }
        pace.begin(now);
        assert!(!pace.late(now + ms(2), ms(2), 1));
        // The threads still share the call.
        assert!(!pace.late(now + ms(102), ms(10), 1));
        assert!(pace.late(now + ms(122), ms(11), 1));
    }
}

//! Bounds on the time of a dispatch and of a submission.
//!
//! Drivers reset a GPU whose commands take too long: Windows after 2 s, others after 5 to 10 s. So all work is estimated for one slow,
//! integrated GPU of 0.5 TFLOP/s, of which kernels reach a fifth, and 20 GB/s. If a dispatch would take too long, its workgroups are
//! divided among several dispatches. If a list of dispatches would, it becomes several submissions.

use std::time::Duration;

use crate::error::Error;

/// The longest time of one dispatch and of one submission on a slow integrated GPU. This GPU does 50 multiply-adds and moves 20 bytes
/// per nanosecond, and takes 10 us to begin a dispatch.
///
/// Calls below these times are recorded as if there were no bound. Longer calls give the same bits, except that a
/// [cooperative scan](super::PlanKind::CooperativeScan) with shorter chunks may round differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// The longest time of one dispatch, limited by [`Watchdog::submission`].
    pub dispatch: Duration,
    /// The longest time of all dispatches of one submission.
    pub submission: Duration,
}

impl Default for Watchdog {
    /// Allows 250 ms for a dispatch and 750 ms for a submission, well below the 2 s of Windows.
    fn default() -> Self {
        Self { dispatch: Duration::from_millis(250), submission: Duration::from_millis(750) }
    }
}

/// Multiply-adds of the slow GPU per nanosecond.
const PRODUCTS: u64 = 50;
/// Bytes that the slow GPU moves per nanosecond.
pub(super) const BYTES: u64 = 20;
/// Nanoseconds of a loop iteration that waits for memory.
const ITERATION: u64 = 250;
/// Nanoseconds of an empty dispatch.
const BEGIN: u64 = 10_000;

impl Watchdog {
    fn submission_nanos(&self) -> u64 {
        nanos(self.submission).max(BEGIN + 1)
    }

    /// Nanoseconds that the workgroups of a dispatch may take.
    pub(super) fn dispatch_nanos(&self) -> u64 {
        nanos(self.dispatch).min(self.submission_nanos()).saturating_sub(BEGIN).max(1)
    }

    /// Number of loop iterations that fit into the time of a dispatch if each waits for memory.
    pub(crate) fn iterations(&self) -> usize {
        usize::try_from(self.dispatch_nanos() / ITERATION).unwrap_or(usize::MAX).max(1)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The work of all workgroups of a dispatch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Multiply-adds; any other instruction counts as one.
    pub(crate) products: u64,
    /// Bytes read and written: a word that two workgroups read counts twice.
    pub(crate) bytes: u64,
    /// Nanoseconds that one workgroup takes, even if it runs without others.
    wait: u64,
}

impl Work {
    /// The work of `len` elements, each computed from one element of every operand.
    pub(crate) fn each(len: usize, operands: usize) -> Self {
        let len = len as u64;
        // An index costs some instructions, divisions among them.
        let products = len.saturating_mul(8);
        Self { products, bytes: len.saturating_mul(4 * (operands as u64 + 1)), wait: 0 }
    }

    /// The work of `products` multiply-adds and `bytes` bytes.
    pub(crate) fn of(products: u64, bytes: u64) -> Self {
        Self { products, bytes, wait: 0 }
    }

    /// This work with another number of multiply-adds.
    pub(crate) fn products(self, products: u64) -> Self {
        Self { products, ..self }
    }

    /// This work, if every invocation has a loop of `iterations` iterations that each wait for memory.
    pub(crate) fn iterations(self, iterations: usize) -> Self {
        self.wait((iterations as u64).saturating_mul(ITERATION))
    }

    /// The work of `steps` steps, if every workgroup reads `step_bytes` bytes in each step.
    pub(super) fn repeated(self, steps: usize, step_bytes: u64) -> Self {
        let all = |work: u64| work.saturating_mul(steps as u64);
        Self::of(all(self.products), all(self.bytes)).wait(all(step_bytes) / BYTES)
    }

    /// This work, if every workgroup takes at least `wait` nanoseconds.
    pub(super) fn wait(self, wait: u64) -> Self {
        Self { wait, ..self }
    }

    /// Nanoseconds of all workgroups if they fill the GPU.
    pub(super) fn shared(&self) -> u64 {
        (self.products / PRODUCTS).max(self.bytes / BYTES)
    }
}

/// A device's bounds of one dispatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(super) watchdog: Watchdog,
    /// Largest number of workgroups along one axis.
    pub(super) workgroups: usize,
}

impl Bounds {
    /// How many times one dispatch may do this work.
    pub(crate) fn fitting(&self, work: Work) -> usize {
        usize::try_from(self.watchdog.dispatch_nanos() / work.shared().max(1)).unwrap_or(usize::MAX)
    }
}

/// A dispatch of which even the smallest part takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlong {
    nanos: u64,
    allowed: u64,
}

impl Overlong {
    /// The error of an operation on a device.
    pub(crate) fn error(self, op: &'static str, adapter: &str) -> Error {
        let what = "nanoseconds of a workgroup on a slow GPU";
        Error::Limit { op, what, needed: self.nanos, limit: self.allowed, adapter: adapter.to_owned() }
    }
}

/// A grid, or the reason why a dispatch cannot be divided.
pub(crate) type Cut = Result<Grid, Overlong>;

/// Workgroups of a dispatch along each axis, and the parts that it is divided into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    whole: [usize; 3],
    part: [usize; 3],
    /// Nanoseconds of a part.
    nanos: u64,
}

impl Grid {
    /// Divides a dispatch into the fewest parts that are short enough.
    pub(crate) fn of(bounds: Bounds, whole: [usize; 3], work: Work) -> Cut {
        Self::cut(bounds, whole, work, 1)
    }

    /// Divides a dispatch whose workgroups wait for each other along the first axis: that axis stays whole.
    pub(super) fn cooperative(bounds: Bounds, whole: [usize; 3], work: Work) -> Cut {
        Self::cut(bounds, whole, work, whole[0])
    }

    fn cut(bounds: Bounds, whole: [usize; 3], work: Work, least: usize) -> Cut {
        let count = whole.iter().fold(1_u128, |count, &groups| count.saturating_mul(groups as u128));
        if count == 0 {
            return Ok(Self { whole, part: whole, nanos: BEGIN });
        }
        let (allowed, shared) = (bounds.watchdog.dispatch_nanos(), work.shared());
        let most = (count * u128::from(allowed)).checked_div(u128::from(shared)).unwrap_or(u128::MAX);
        let least = least.max(1) as u128;
        let smallest = work.wait.max(if most < least { time(shared, least, count) } else { 0 });
        if smallest > allowed {
            return Err(Overlong { nanos: smallest, allowed });
        }
        let part = part(whole, usize::try_from(most).unwrap_or(usize::MAX), bounds.workgroups);
        let groups = part.iter().fold(1_u128, |count, &groups| count * groups as u128);
        Ok(Self { whole, part, nanos: BEGIN.saturating_add(work.wait.max(time(shared, groups, count))) })
    }

    /// Workgroups along each axis.
    pub(crate) fn whole(&self) -> [usize; 3] {
        self.whole
    }

    /// Workgroups of the largest part.
    pub(crate) fn part(&self) -> [usize; 3] {
        self.part
    }

    /// Nanoseconds that the largest part takes on the slow GPU.
    pub(crate) fn nanos(&self) -> u64 {
        self.nanos
    }

    /// Whether the grid is a single dispatch.
    pub(crate) fn is_whole(&self) -> bool {
        self.part == self.whole
    }

    /// Number of dispatches that the grid takes.
    pub(crate) fn count(&self) -> usize {
        if self.whole.contains(&0) {
            return 0;
        }
        self.whole.iter().zip(self.part).map(|(whole, part)| whole.div_ceil(part)).product()
    }

    /// The first workgroup of every part, and its number of workgroups along each axis.
    pub(crate) fn parts(&self) -> impl Iterator<Item = [[usize; 3]; 2]> {
        let Self { whole, part, .. } = *self;
        let along = move |axis: usize| {
            (0..whole[axis]).step_by(part[axis].max(1)).map(move |first| [first, part[axis].min(whole[axis] - first)])
        };
        along(2)
            .flat_map(move |z| along(1).flat_map(move |y| along(0).map(move |x| [0, 1].map(|i| [x[i], y[i], z[i]]))))
    }
}

/// Nanoseconds of `groups` workgroups if all `count` workgroups take `shared` nanoseconds.
fn time(shared: u64, groups: u128, count: u128) -> u64 {
    u64::try_from((u128::from(shared) * groups).div_ceil(count)).unwrap_or(u64::MAX)
}

/// The largest part of a grid with at most `most` workgroups, and at most `widest` along each axis: whole planes if one fits, else
/// whole rows.
fn part([x, y, z]: [usize; 3], most: usize, widest: usize) -> [usize; 3] {
    let even = |whole: usize, most: usize| {
        let most = most.clamp(1, widest.max(1)).min(whole);
        whole.div_ceil(whole.div_ceil(most))
    };
    let row = even(x, most);
    let plane = even(y, most / row);
    [row, plane, even(z, most / row / plane)]
}

/// The submissions that a list of dispatches is divided into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Submissions {
    bound: u64,
    count: usize,
    filled: u64,
    longest: u64,
}

impl Submissions {
    /// Begins without any submission.
    pub(crate) fn new(watchdog: &Watchdog) -> Self {
        Self { bound: watchdog.submission_nanos(), count: 0, filled: 0, longest: 0 }
    }

    /// Adds `count` dispatches of the same length: first to the last submission, then to new ones.
    pub(super) fn add(&mut self, count: usize, nanos: u64) {
        let nanos = nanos.max(1);
        let mut left = count as u64;
        if self.count > 0 {
            let fitting = left.min(self.bound.saturating_sub(self.filled) / nanos);
            self.filled += fitting * nanos;
            left -= fitting;
        }
        if left > 0 {
            let full = (self.bound / nanos).max(1);
            let more = left.div_ceil(full);
            self.count = self.count.saturating_add(usize::try_from(more).unwrap_or(usize::MAX));
            self.filled = (left - (more - 1) * full) * nanos;
            self.longest = self.longest.max(left.min(full) * nanos);
        }
        self.longest = self.longest.max(self.filled);
    }

    /// Adds a dispatch. Returns whether it begins a new submission, the first one included.
    pub(crate) fn begins_with(&mut self, nanos: u64) -> bool {
        let nanos = nanos.max(1);
        let begins = self.count == 0 || self.filled.saturating_add(nanos) > self.bound;
        self.filled = if begins { nanos } else { self.filled + nanos };
        self.count += usize::from(begins);
        self.longest = self.longest.max(self.filled);
        begins
    }

    /// Number of submissions.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The time of the longest submission.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest)
    }
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use super::*;

    fn bounds() -> Bounds {
        let [dispatch, submission] = [1000, 3000].map(Duration::from_micros);
        Bounds { watchdog: Watchdog { dispatch, submission }, workgroups: 1000 }
    }

    /// Checks that every workgroup of a grid is in one part, and that no part is longer than it may be.
    #[test]
    fn parts_cover_a_grid_once_and_keep_within_the_bound() {
        for whole in [[1, 1, 1], [7, 1, 1], [5, 3, 2], [4000, 3, 1], [3, 2500, 2], [1, 1, 1700]] {
            let count: usize = whole.iter().product();
            for products in [0, 1, 40_000_000, 400_000_000] {
                let work = Work::of(products, 3 * products / 5);
                let grid = match Grid::of(bounds(), whole, work) {
                    Ok(grid) => grid,
                    Err(error) => {
                        assert!(work.shared() / count as u64 > 900_000, "{whole:?}, {products}: {error:?}");
                        continue;
                    }
                };
                assert!(grid.nanos() <= 1_000_000, "{grid:?}");
                let mut seen = vec![0; count];
                for [first, part] in grid.parts() {
                    assert!(part.iter().all(|&groups| (1..=1000).contains(&groups)), "{part:?}");
                    for z in first[2]..first[2] + part[2] {
                        for y in first[1]..first[1] + part[1] {
                            for x in first[0]..first[0] + part[0] {
                                seen[(z * whole[1] + y) * whole[0] + x] += 1;
                            }
                        }
                    }
                }
                assert!(seen.iter().all(|&times| times == 1), "{whole:?}, {products}");
                assert_eq!(grid.parts().count(), grid.count());
                let least = (work.shared() / 1_000_000) as usize;
                assert!(grid.count() > least, "{grid:?}");
                if whole.iter().all(|&groups| groups <= 1000) && work.shared() < 990_000 {
                    assert_eq!(grid.count(), 1, "{grid:?}");
                }
            }
        }
    }

    #[test]
    fn workgroups_that_wait_for_each_other_stay_together() {
        let work = Work::of(400_000_000, 0);
        let grid = Grid::cooperative(bounds(), [16, 40, 1], work).expect("40 rows");
        assert!(grid.count() > 1 && grid.parts().all(|[first, part]| (first[0], part[0]) == (0, 16)), "{grid:?}");
        Grid::of(bounds(), [640, 1, 1], work).expect("640 workgroups");
        let error = Grid::cooperative(bounds(), [640, 1, 1], work).expect_err("8 ms at once");
        assert_eq!(error, Overlong { nanos: 8_000_000, allowed: 990_000 });
    }

    #[test]
    fn a_loop_that_waits_too_long_is_refused_however_many_workgroups_there_are() {
        let work = Work::each(1 << 20, 1).iterations(4000);
        let error = Grid::of(bounds(), [4000, 1, 1], work).expect_err("a millisecond");
        assert_eq!(error, Overlong { nanos: 1_000_000, allowed: 990_000 });
        Grid::of(bounds(), [4000, 1, 1], work.iterations(3960)).expect("just enough");
    }

    /// Checks that dispatches that are added one by one fill the same submissions as dispatches added at once.
    #[test]
    fn submissions_are_counted_as_they_are_filled() {
        let watchdog = bounds().watchdog;
        let (mut at_once, mut one_by_one) = (Submissions::new(&watchdog), Submissions::new(&watchdog));
        assert_eq!((at_once.count(), at_once.longest()), (0, Duration::ZERO));
        let mut begun = 0;
        for (count, nanos) in [(1, 999_000), (2, 999_000), (0, 7), (1, 3_000_000), (4000, 10_000), (3, 1_600_000)] {
            at_once.add(count, nanos);
            for _ in 0..count {
                begun += usize::from(one_by_one.begins_with(nanos));
            }
            assert_eq!((at_once.count(), at_once.filled), (begun, one_by_one.filled));
            assert_eq!(at_once.longest(), one_by_one.longest());
        }
        assert!(at_once.longest() <= watchdog.submission);
        assert_eq!(at_once.count(), 1 + 1 + 14 + 2);
    }
}

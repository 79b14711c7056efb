//! How several workgroups walk through time together.

use super::Fit;
use super::invocation::{MOST_KEPT, can_keep, kept_words, loops};
use super::limits::Limits;
use super::problem::Problem;
use super::tile::{BLOCK, fitting_rows, packed_words, step_depth};
use super::watchdog::{BYTES, Work};

/// The workgroups of a scan over several of them, and how the invocations of each share its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    /// Workgroups that share the units of a direction, for the same rows.
    pub workgroups: usize,
    /// Rows of the batch that they walk: 1, 2, 4, 8 or 16.
    pub rows: usize,
    /// Units of a workgroup.
    pub units: usize,
    /// Parts that the depth is cut into; an invocation has a unit's part.
    pub slices: usize,
    /// Parts of 16 elements of the depth whose weights an invocation keeps in registers; 0 where it reads them anew at
    /// every step.
    pub kept: usize,
    /// Elements of a row of h, in a workgroup's memory and where it is exchanged.
    pub pitch: usize,
    /// Looks at a word before a reader gives up.
    pub looks: u32,
    /// Loop iterations of an invocation in a step, and beside the steps.
    turn: u64,
    beside: u64,
    /// Bytes that one workgroup reads in a step when it has to walk alone.
    alone: u64,
    /// The work of all workgroups in one step.
    step: Work,
}

/// Invocations of a workgroup at the most: those of more could keep no weights.
const INVOCATIONS: usize = 256;
/// Words ahead of the exchanged ones: whether all was given up, in a cache line of its own.
pub(crate) const HEADER: usize = 32;
/// Looks where the driver counts loop iterations.
const CAPPED_LOOKS: u32 = 8;
/// What one workgroup may read alone in a dispatch: a tenth of a second at 20 GB/s, well before a watchdog resets a GPU.
pub(super) const ALONE_BYTES: u64 = 2 << 30;

impl Wide {
    /// The workgroups that suit the problem, or why it cannot be run so.
    pub(super) fn of(limits: &Limits, problem: &Problem) -> Fit<Self> {
        if problem.stages() != 1 {
            return Err("two dependent products a step");
        }
        let same = problem.cells.windows(2).all(|pair| pair[0] == pair[1]);
        let directions = if same { problem.cells.len() } else { 1 };
        let mut why = "more units than its workgroups have invocations";
        let mut rows = fitting_rows(problem.batch);
        while rows > 0 {
            let waiting = directions * problem.batch.div_ceil(rows).max(1);
            if let Some(wide) = Self::laid_out(limits, problem, rows, (limits.together.workgroups / waiting).max(1)) {
                if wide.workgroup_bytes() > limits.workgroup_bytes {
                    why = "a state beyond the workgroup memory";
                } else if wide.longest_chunk(limits) == 0 {
                    why = "a step beyond the driver's loop cap";
                } else {
                    return Ok(wide);
                }
            }
            rows /= 2;
        }
        Err(why)
    }

    /// `most` workgroups at the most for `rows` rows; `None` where that would be too many units or rows for each.
    fn laid_out(limits: &Limits, problem: &Problem, rows: usize, most: usize) -> Option<Self> {
        let (hidden, gates, kind) = (problem.hidden, problem.gates(), problem.weight_type);
        let invocations = limits.workgroup_invocations.min(INVOCATIONS);
        let units = hidden.div_ceil(most).next_multiple_of(BLOCK).max(BLOCK);
        if units > invocations {
            return None;
        }
        let depth = hidden.next_multiple_of(16);
        let slices = (1 << (invocations / units).ilog2()).min((depth / 16).next_power_of_two());
        // Every slice ends the step of one row.
        if rows > slices {
            return None;
        }
        let parts = (depth / 16).div_ceil(slices);
        let kept = if can_keep(parts, kept_words(parts, kind, gates)) { parts } else { 0 };
        let workgroups = hidden.div_ceil(units);
        let looks = match limits.loop_cap {
            Some(_) => limits.together.looks.min(CAPPED_LOOKS),
            None => limits.together.looks,
        };
        let words_of_row = hidden.div_ceil(units * slices) as u64;
        let received = loops(rows) + rows as u64 * (2 + words_of_row * (1 + u64::from(looks) + 2));
        let shared = if slices > 1 { loops(slices) } else { 0 };
        let block = loops(rows) + rows as u64 * loops(parts * 16 / step_depth(gates)) + shared;
        let together = received + loops(1) + block;
        let again = loops(rows) + rows as u64 * (2 + words_of_row) + loops(workgroups) + workgroups as u64 * block;
        Some(Self {
            workgroups,
            rows,
            units,
            slices,
            kept,
            pitch: depth.max(16 * kept * slices),
            looks,
            turn: 1 + together.max(again),
            beside: 2 * loops(workgroups) + loops(MOST_KEPT) + 16,
            alone: 16 * packed_words(kind, gates, hidden, hidden) as u64,
            step: Self::step(problem, rows),
        })
    }

    /// The work of all workgroups of a dispatch in one step.
    fn step(problem: &Problem, rows: usize) -> Work {
        let (gates, hidden) = (problem.gates(), problem.hidden);
        let z = problem.groups().first().map_or(1, ExactSizeIterator::len);
        let tiles = (problem.batch.div_ceil(rows) * z) as u64;
        let weights = 16 * packed_words(problem.weight_type, gates, hidden, hidden) as u64;
        Work::of(tiles * (rows * gates * hidden * hidden) as u64, tiles * weights)
    }

    /// The work of all workgroups of a dispatch in so many steps.
    pub(super) fn work(&self, steps: usize) -> Work {
        let steps = steps as u64;
        let all = |work: u64| work.saturating_mul(steps);
        Work::of(all(self.step.products), all(self.step.bytes)).wait(all(self.alone) / BYTES)
    }

    /// Steps that one dispatch can walk; 0 where the driver would cut even a single one short.
    pub(super) fn longest_chunk(&self, limits: &Limits) -> usize {
        let capped = limits.loop_cap.map_or(u64::MAX, |cap| cap.saturating_sub(self.beside) / self.turn);
        let allowed = limits.watchdog.dispatch_nanos();
        let alone = ALONE_BYTES.min(allowed.saturating_mul(BYTES)) / self.alone.max(1);
        let watched = alone.min(allowed / self.step.shared().max(1)).max(1);
        usize::try_from(capped.min(watched)).unwrap_or(usize::MAX)
    }

    /// Words of the exchange: a header, then two slots for every row of h.
    pub(crate) fn exchange_words(&self, problem: &Problem) -> usize {
        HEADER + problem.layers * problem.cells.len() * 2 * problem.batch * self.pitch
    }

    /// Partial sums of all gates: of every row, slice and unit.
    pub(crate) fn partial_elements(&self) -> usize {
        if self.slices > 1 { self.rows * self.slices * self.units } else { 1 }
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        (4 * (self.rows * self.pitch + 1) + 16 * self.partial_elements()) as u64
    }
}

//! Cooperative scans: several workgroups compute a chunk of time and pass h to each other after every step.

use super::Fit;
use super::invocation::{MOST_KEPT, can_keep, kept_words, loops};
use super::limits::Limits;
use super::problem::Problem;
use super::tile::{BLOCK, fitting_rows, packed_words, step_depth};
use super::watchdog::{BYTES, Work};

/// The workgroups of a cooperative scan, and how the invocations of a workgroup share its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeScan {
    /// Workgroups that share the units of a direction, for the same rows.
    pub workgroups: usize,
    /// Rows of the batch that these workgroups compute: 1, 2, 4, 8 or 16.
    pub rows: usize,
    /// Units of a workgroup.
    pub units: usize,
    /// Slices of the depth; an invocation computes one slice of one unit.
    pub slices: usize,
    /// Parts of 16 elements of the depth whose weights an invocation keeps in registers; 0 if it reads them at every step.
    pub kept: usize,
    /// Elements of a row of h, in a workgroup's memory and in the exchange.
    pub pitch: usize,
    /// Number of times that a workgroup reads a word of another one before it gives up.
    pub polls: u32,
    /// Loop iterations of an invocation per step.
    step_iterations: u64,
    /// Loop iterations of an invocation per chunk, without those of the steps.
    chunk_iterations: u64,
    /// Bytes that one workgroup reads per step if it has to compute the chunk again.
    redo_bytes: u64,
    /// The work of all workgroups in one step.
    step_work: Work,
}

/// Largest number of invocations of a workgroup: if there were more, registers could not keep the weights.
const INVOCATIONS: usize = 256;
/// Words before the exchanged h. They hold the flag that the scan was aborted, so that it has its own cache line.
pub(crate) const HEADER: usize = 32;
/// Largest number of polls if the driver caps loop iterations.
const CAPPED_POLLS: u32 = 8;
/// Bytes that a dispatch of a single workgroup may read: 0.1 s at 20 GB/s, well before a watchdog resets a GPU.
pub(super) const SINGLE_WORKGROUP_BYTES: u64 = 2 << 30;

impl CooperativeScan {
    /// The workgroups that suit the problem, or the reason why it cannot be scanned cooperatively.
    pub(super) fn of(limits: &Limits, problem: &Problem) -> Fit<Self> {
        if problem.stages() != 1 {
            return Err("two dependent products per step");
        }
        let same = problem.cells.windows(2).all(|pair| pair[0] == pair[1]);
        let directions = if same { problem.cells.len() } else { 1 };
        let mut why = "more units than its workgroups have invocations";
        let mut rows = fitting_rows(problem.batch);
        while rows > 0 {
            let scans = directions * problem.batch.div_ceil(rows).max(1);
            if let Some(scan) = Self::laid_out(limits, problem, rows, (limits.cooperative.workgroups / scans).max(1)) {
                if scan.workgroup_bytes() > limits.workgroup_bytes {
                    why = "a state beyond the workgroup memory";
                } else if scan.longest_chunk(limits) == 0 {
                    why = "a step beyond the driver's loop cap";
                } else {
                    return Ok(scan);
                }
            }
            rows /= 2;
        }
        Err(why)
    }

    /// Lays out at most `most` workgroups for `rows` rows. Returns `None` if a workgroup would have more units or rows than its invocations
    /// can compute.
    fn laid_out(limits: &Limits, problem: &Problem, rows: usize, most: usize) -> Option<Self> {
        let (hidden, gates, kind) = (problem.hidden, problem.gates(), problem.weight_type);
        let invocations = limits.workgroup_invocations.min(INVOCATIONS);
        let units = hidden.div_ceil(most).next_multiple_of(BLOCK).max(BLOCK);
        if units > invocations {
            return None;
        }
        let depth = hidden.next_multiple_of(16);
        let slices = (1 << (invocations / units).ilog2()).min((depth / 16).next_power_of_two());
        // Every slice completes the step of one row.
        if rows > slices {
            return None;
        }
        let parts = (depth / 16).div_ceil(slices);
        let kept = if can_keep(parts, kept_words(parts, kind, gates)) { parts } else { 0 };
        let workgroups = hidden.div_ceil(units);
        let polls = match limits.loop_cap {
            Some(_) => limits.cooperative.polls.min(CAPPED_POLLS),
            None => limits.cooperative.polls,
        };
        let words_of_row = hidden.div_ceil(units * slices) as u64;
        let received = loops(rows) + rows as u64 * (2 + words_of_row * (1 + u64::from(polls) + 2));
        let shared = if slices > 1 { loops(slices) } else { 0 };
        let block = loops(rows) + rows as u64 * loops(parts * 16 / step_depth(gates)) + shared;
        let cooperative = received + loops(1) + block;
        let redo = loops(rows) + rows as u64 * (2 + words_of_row) + loops(workgroups) + workgroups as u64 * block;
        Some(Self {
            workgroups,
            rows,
            units,
            slices,
            kept,
            pitch: depth.max(16 * kept * slices),
            polls,
            step_iterations: 1 + cooperative.max(redo),
            chunk_iterations: 2 * loops(workgroups) + loops(MOST_KEPT) + 16,
            redo_bytes: 16 * packed_words(kind, gates, hidden, hidden) as u64,
            step_work: Self::step_work(problem, rows),
        })
    }

    /// The work of all workgroups of a dispatch in one step.
    fn step_work(problem: &Problem, rows: usize) -> Work {
        let (gates, hidden) = (problem.gates(), problem.hidden);
        let z = problem.groups().first().map_or(1, ExactSizeIterator::len);
        let tiles = (problem.batch.div_ceil(rows) * z) as u64;
        let weights = 16 * packed_words(problem.weight_type, gates, hidden, hidden) as u64;
        Work::of(tiles * (rows * gates * hidden * hidden) as u64, tiles * weights)
    }

    /// The work of all workgroups of a dispatch in `steps` steps.
    pub(super) fn work(&self, steps: usize) -> Work {
        self.step_work.repeated(steps, self.redo_bytes)
    }

    /// Steps that one dispatch can compute; 0 if the driver would cut even a single step short.
    pub(super) fn longest_chunk(&self, limits: &Limits) -> usize {
        let capped =
            limits.loop_cap.map_or(u64::MAX, |cap| cap.saturating_sub(self.chunk_iterations) / self.step_iterations);
        let allowed = limits.watchdog.dispatch_nanos();
        let single = SINGLE_WORKGROUP_BYTES.min(allowed.saturating_mul(BYTES)) / self.redo_bytes.max(1);
        let watched = single.min(allowed / self.step_work.shared().max(1)).max(1);
        usize::try_from(capped.min(watched)).unwrap_or(usize::MAX)
    }

    /// Words of the exchange: a header, then two slots for every row of h.
    pub(crate) fn exchange_words(&self, problem: &Problem) -> usize {
        HEADER + problem.layers * problem.cells.len() * 2 * problem.batch * self.pitch
    }

    /// Partial sums of all gates: one for every row, slice and unit.
    pub(crate) fn partial_elements(&self) -> usize {
        if self.slices > 1 { self.rows * self.slices * self.units } else { 1 }
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        (4 * (self.rows * self.pitch + 1) + 16 * self.partial_elements()) as u64
    }
}

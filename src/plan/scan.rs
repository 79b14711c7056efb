//! Scans: a workgroup computes all steps of a chunk of time for its rows.

use super::Fit;
use super::cooperative::SINGLE_WORKGROUP_BYTES;
use super::invocation::{can_keep, kept_words, loops};
use super::limits::{AdapterClass, Limits};
use super::problem::Problem;
use super::tile::{BLOCK, BUSY, Method, packed_words, step_depth};
use super::watchdog::{BYTES, Watchdog, Work};
use crate::cell::Cell;

/// The workgroup of a scan: its rows, units and layers, and how its invocations share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// How invocations read the rows of the state.
    pub method: Method,
    /// Rows of the batch that a workgroup computes: 1, 2, 4 or 8.
    pub rows: usize,
    /// Invocations along the units.
    pub units: usize,
    /// Slices of the depth; an invocation computes one slice of one unit.
    pub slices: usize,
    /// Layers of a workgroup: one, or all layers of the stack, each one step behind the layer below.
    pub layers: usize,
    /// Parts of 16 elements of the depth whose weights an invocation keeps in registers; 0 if it reads them at every step.
    pub kept: usize,
    /// Elements of a row of the state in workgroup memory.
    pub pitch: usize,
    /// Regions of rows: two that h alternates between, and one for the values after a reset.
    regions: usize,
    /// Elements that only their own unit reads and writes.
    own: usize,
    /// Loop iterations of an invocation per step.
    step_iterations: u64,
    /// Bytes that a workgroup reads per step, or could read in the shortest time of a step, whichever is more.
    step_bytes: u64,
    /// The work of all workgroups in one step.
    step_work: Work,
}

/// Largest number of kept parts on a software adapter: for more, llvmpipe compiles longer than some forty calls save.
const SOFTWARE_KEPT: usize = 4;
/// Bytes of registers that the weights of a workgroup may fill: the registers of a core of a large GPU, without those for other values.
const KEPT_BYTES: usize = 160 << 10;
/// Workgroups that keep the threads of a software adapter busy.
const BUSY_THREADS: usize = 4;
/// Bytes that a workgroup could read while it waits at the barriers of a step.
const LEAST_BYTES: u64 = 16 << 10;
/// Largest number of layers of a workgroup: WebGPU's limit for a workgroup's third axis.
const LAYERS: usize = 64;
/// Largest number of loop iterations per chunk that read and write the state.
const CHUNK_ITERATIONS: u64 = 64;

impl Scan {
    /// The workgroup that suits the problem, or the reason why a single workgroup cannot compute it.
    pub(super) fn of(limits: &Limits, problem: &Problem) -> Fit<Self> {
        let lanes = limits.shares_lanes();
        let method = if lanes { Method::Lanes } else { Method::Rows };
        let units = problem.hidden.next_multiple_of(if lanes { limits.subgroup_most.max(BLOCK) } else { BLOCK });
        if units > limits.workgroup_invocations {
            return Err("more units than a workgroup has invocations");
        }
        let one_binding = problem.weights_fit_one_binding(limits);
        if !one_binding && problem.projection_words() > 0 {
            return Err("weights beyond one binding");
        }
        let stacks = problem.layers > 1 && problem.layers <= LAYERS && problem.cells.len() == 1 && one_binding;
        let all = if stacks { [problem.layers, 1] } else { [1, 1] };
        let fitting = all.into_iter().filter(|layers| units * layers <= limits.workgroup_invocations);
        let mut smallest = None;
        for layers in fitting {
            let mut slices = if lanes { 1 } else { Self::slices(limits, problem, units * layers) };
            let mut rows = Self::rows(limits, problem, lanes, slices);
            loop {
                let scan = Self::laid_out(limits, problem, method, [rows, units, slices, layers]);
                if scan.workgroup_bytes() <= limits.workgroup_bytes && scan.longest_chunk(limits) > 0 {
                    return Ok(scan);
                }
                smallest = Some(scan);
                if rows > 1 {
                    rows /= 2;
                } else if slices > 1 {
                    slices /= 2;
                } else {
                    break;
                }
            }
        }
        match smallest {
            Some(scan) if scan.longest_chunk(limits) == 0 => Err("a step beyond the driver's loop cap"),
            _ => Err("a state beyond the workgroup memory"),
        }
    }

    /// Number of slices of the depth: as many as there are invocations for. A software adapter has no idle invocations to fill.
    fn slices(limits: &Limits, problem: &Problem, invocations: usize) -> usize {
        match limits.class {
            AdapterClass::Software => 1,
            AdapterClass::Hardware => {
                let parts = problem.out().div_ceil(16).next_power_of_two();
                let most = limits.workgroup_invocations / invocations;
                parts.min(1 << most.ilog2())
            }
        }
    }

    /// Number of rows of a workgroup: several, if the device then still has enough workgroups. If weights are read at every step, they are
    /// read once for all rows of a workgroup.
    fn rows(limits: &Limits, problem: &Problem, lanes: bool, slices: usize) -> usize {
        let (most, busy) = match limits.class {
            AdapterClass::Software if !lanes => (1, BUSY_THREADS),
            AdapterClass::Software if problem.out().div_ceil(16) <= SOFTWARE_KEPT => (4, BUSY_THREADS),
            AdapterClass::Software => (8, BUSY_THREADS / 2),
            AdapterClass::Hardware => (slices.min(8), BUSY),
        };
        let mut rows = 1;
        while 2 * rows <= most.min(problem.batch) && problem.batch.div_ceil(2 * rows) * problem.cells.len() >= busy {
            rows *= 2;
        }
        rows
    }

    /// Lays out a workgroup of these numbers of rows, units, slices and layers.
    fn laid_out(limits: &Limits, problem: &Problem, method: Method, [rows, units, slices, layers]: [usize; 4]) -> Self {
        let (out, gates) = (problem.out(), problem.gates());
        let parts = out.div_ceil(16).div_ceil(slices);
        let words = kept_words(parts, problem.weight_type, gates);
        let words = if layers > 1 { 2 * words } else { words };
        let kept = match (limits.class, method) {
            (AdapterClass::Software, Method::Lanes) => parts <= SOFTWARE_KEPT,
            (AdapterClass::Software, Method::Rows) => false,
            (AdapterClass::Hardware, _) => {
                let all = 16 * words * units * slices * layers;
                can_keep(parts, words) && all <= KEPT_BYTES
            }
        };
        let kept = if kept { parts } else { 0 };
        let widest = problem.hidden.max(out).next_multiple_of(16);
        let two_stages = problem.stages() > 1;
        let has_own = problem.cells.first().is_some_and(|cell| cell.has_cell_state() || two_stages);
        Self {
            method,
            rows,
            units,
            slices,
            layers,
            kept,
            pitch: widest.max(16 * kept * slices),
            regions: 3,
            own: if has_own { layers * rows * problem.hidden } else { 1 },
            step_iterations: Self::step_iterations(problem, method, [rows, slices, layers, kept]),
            step_bytes: Self::step_bytes(problem, layers, kept > 0).max(LEAST_BYTES),
            step_work: Self::step_work(problem, [rows, layers], kept > 0),
        }
    }

    /// The work of all workgroups of a dispatch in one step.
    fn step_work(problem: &Problem, [rows, layers]: [usize; 2], kept: bool) -> Work {
        let z = if layers > 1 { 1 } else { problem.groups().first().map_or(1, ExactSizeIterator::len) };
        let tiles = (problem.batch.div_ceil(rows) * z) as u64;
        let [gates, hidden, out, layers] =
            [problem.gates(), problem.hidden, problem.out(), layers].map(|size| size as u64);
        let projection = if problem.projection_words() > 0 { out * hidden } else { 0 };
        let stages = if projection > 0 { 1 } else { problem.stages() as u64 };
        let products = (2 * layers - 1) * stages * gates * hidden * out + layers * projection;
        let row = 4 * (problem.projected_gates() as u64 * hidden + out);
        let bytes = Self::step_bytes(problem, layers as usize, kept) + rows as u64 * row;
        Work::of(tiles.saturating_mul(rows as u64 * products), tiles.saturating_mul(bytes))
    }

    /// The work of all workgroups of a dispatch in `steps` steps.
    pub(super) fn work(&self, steps: usize) -> Work {
        self.step_work.repeated(steps, self.step_bytes)
    }

    /// Bytes of the weights that a workgroup reads per step. If registers keep the other weights, these are only the weights that
    /// project h, which are never kept.
    fn step_bytes(problem: &Problem, layers: usize, kept: bool) -> u64 {
        let projection = (layers * problem.projection_words()) as u64;
        let products = if kept { 0 } else { 2 * layers as u64 - 1 };
        let stages = if problem.projection_words() > 0 { 1 } else { problem.stages() as u64 };
        let product = packed_words(problem.weight_type, problem.gates(), problem.hidden, problem.out()) as u64;
        16 * (products * stages * product + projection)
    }

    /// Loop iterations of an invocation per step.
    fn step_iterations(problem: &Problem, method: Method, [rows, slices, layers, kept]: [usize; 4]) -> u64 {
        let products = if layers > 1 { 2 } else { 1 };
        let streamed = |depth: usize, gates: usize| {
            loops(depth.next_multiple_of(16).div_ceil(slices).next_multiple_of(16) / step_depth(gates))
        };
        let state = if kept > 0 { 0 } else { streamed(problem.out(), problem.gates()) };
        let shared = match method {
            Method::Lanes => loops(rows),
            Method::Rows if slices > 1 => loops(rows) + loops(slices),
            Method::Rows => 0,
        };
        let first = loops(rows) + products * (state + shared);
        let second = match problem.cells.first() {
            Some(Cell::Gru(_)) if problem.stages() > 1 => state + shared,
            Some(_) if problem.stages() > 1 => streamed(problem.hidden, 1) + shared,
            _ => 0,
        };
        1 + first + second
    }

    /// Steps that one dispatch can compute within the driver's loop cap and the watchdog; 0 if the driver would cut even a single
    /// step short.
    pub(super) fn longest_chunk(&self, limits: &Limits) -> usize {
        // The topmost layer is `drain` steps behind the lowest one.
        let drain = self.layers - 1;
        let capped = match limits.loop_cap {
            None => usize::MAX,
            Some(cap) => {
                let steps = cap.saturating_sub(CHUNK_ITERATIONS) / self.step_iterations;
                usize::try_from(steps).unwrap_or(usize::MAX).saturating_sub(drain)
            }
        };
        capped.min(self.within_watchdog(&limits.watchdog).saturating_sub(drain).max(1))
    }

    /// The most steps for which neither one workgroup nor all of them take too long.
    fn within_watchdog(&self, watchdog: &Watchdog) -> usize {
        let allowed = watchdog.dispatch_nanos();
        let single = SINGLE_WORKGROUP_BYTES.min(allowed.saturating_mul(BYTES)) / self.step_bytes;
        usize::try_from(single.min(allowed / self.step_work.shared().max(1))).unwrap_or(usize::MAX)
    }

    /// Elements of the state's regions in workgroup memory.
    pub(crate) fn state_elements(&self) -> usize {
        self.regions * self.layers * self.rows * self.pitch
    }

    /// Elements that only their own unit reads and writes.
    pub(crate) fn own_elements(&self) -> usize {
        self.own
    }

    /// Partial sums of all gates: one for every product, layer, row, slice and unit.
    pub(crate) fn partial_elements(&self) -> usize {
        let products = if self.layers > 1 { 2 } else { 1 };
        if self.slices > 1 { products * self.layers * self.rows * self.slices * self.units } else { 1 }
    }

    /// Invocations of a workgroup.
    pub fn invocations(&self) -> usize {
        self.units * self.slices * self.layers
    }

    /// Workgroup memory in bytes.
    pub fn workgroup_bytes(&self) -> u64 {
        let partial = if self.method == Method::Rows { 16 * self.partial_elements() } else { 0 };
        (4 * (self.state_elements() + self.own) + partial) as u64
    }
}

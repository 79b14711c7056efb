//! A call of one layer in one direction, and each thread's part of it.
#![allow(unsafe_code)]

use std::ops::{Add, Div, Mul, Range, Rem};

use super::{CHUNK_ROWS, GROUP_ROWS, LayerWeights, PackedStage, ThreadBuffers, group_panels};
use crate::cell::{Direction, Pad, Stage};
use crate::cpu::active::{ActiveRows, StepRows};
use crate::cpu::memory::SharedSlice;
use crate::cpu::pack::PanelSlice;
use crate::cpu::pool::Barrier;
use crate::cpu::product::{DotProduct, OperandRows, Product, ProductTarget, RoundedRows};
use crate::cpu::round::RoundRows;
use crate::cpu::update::{InitialRows, NextFlags, PaddedRows, StepOutput, StepState, Update};

/// A layer's call in one direction, which all its threads share.
pub(in crate::cpu) struct LayerCall<'a> {
    pub(in crate::cpu) weights: &'a LayerWeights,
    pub(in crate::cpu) direction: Direction,
    pub(in crate::cpu) time: usize,
    pub(in crate::cpu) batch: usize,
    /// `[T, B, input]`
    pub(in crate::cpu) x: SharedSlice<'a>,
    pub(in crate::cpu) input: usize,
    /// `[T, B, y_stride]`, this direction's columns from `y_at` on.
    pub(in crate::cpu) y: SharedSlice<'a>,
    pub(in crate::cpu) y_at: usize,
    pub(in crate::cpu) y_stride: usize,
    /// `[T, B]`
    pub(in crate::cpu) flags: Option<&'a [u32]>,
    /// The rows that take part in each step by `flags`; `None` if all do.
    pub(in crate::cpu) active: Option<&'a ActiveRows>,
    pub(in crate::cpu) pad: Pad,
    pub(in crate::cpu) buffers: StateBuffers<'a>,
    pub(in crate::cpu) barrier: &'a Barrier,
}

/// The state of a layer and direction in working buffers.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct StateBuffers<'a> {
    /// `h` of even and of odd steps.
    pub(in crate::cpu) h: [PaddedRows<'a>; 2],
    pub(in crate::cpu) s: PaddedRows<'a>,
    /// The operand of a step's second product: see [`StepState::m`].
    pub(in crate::cpu) m: PaddedRows<'a>,
    /// The pre-activation of a GRU's update gate: see [`StepState::a_z`].
    pub(in crate::cpu) a_z: PaddedRows<'a>,
    pub(in crate::cpu) initial_h: InitialRows<'a>,
    pub(in crate::cpu) initial_s: InitialRows<'a>,
}

/// A thread's number within the group of threads that share some work.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct ThreadInGroup {
    pub(in crate::cpu) index: usize,
    pub(in crate::cpu) threads: usize,
}

impl ThreadInGroup {
    /// The thread's share of `count` items.
    pub(in crate::cpu) fn share(self, count: usize) -> Range<usize> {
        share_start(count, self.index, self.threads)..share_start(count, self.index + 1, self.threads)
    }
}

/// The first item of share `at` of `of`: `count * at / of`, without the product that overflows for a large count.
pub(in crate::cpu) fn share_start<N>(count: N, at: N, of: N) -> N
where
    N: Copy + Add<Output = N> + Mul<Output = N> + Div<Output = N> + Rem<Output = N>,
{
    count / of * at + count % of * at / of
}

/// Consecutive steps whose input projection is computed at once.
#[derive(Clone, Copy)]
struct StepChunk {
    first: usize,
    steps: usize,
}

/// One stage of one step, as one thread computes it.
struct StageStep<'a> {
    stage: &'a PackedStage,
    state: &'a StepState<'a>,
    /// The rows that take part in the step.
    active: StepRows<'a>,
    /// Those rows of the operand of the stage's product.
    rows: OperandRows<'a>,
    /// The thread's panels.
    own: Range<usize>,
    /// `U x + b_ih` of the step, `[rows, own width]`; empty if the stage has no input.
    input: &'a [f32],
    input_stride: usize,
    /// Whether the panels are multiplied from the last to the first.
    last_first: bool,
}

impl LayerCall<'_> {
    /// Runs one thread's part of the whole call. When it returns, all threads have written their `y` and state.
    ///
    /// # Safety
    /// All threads of the group run it at once, each with its own index. Nobody else touches `y` and the state's buffers
    /// meanwhile, and nobody writes to `x`.
    pub(in crate::cpu) unsafe fn run(&self, thread: ThreadInGroup, buffers: &mut ThreadBuffers) {
        let mut first = 0;
        while first < self.time {
            let chunk = self.chunk(first);
            // SAFETY: nobody writes to `x`, by this function's contract.
            unsafe { self.project_input(thread, buffers, chunk) };
            for k in first..first + chunk.steps {
                // SAFETY: all threads of the group take this step at once, each with its own index, and nobody else touches the
                // buffers, by this function's contract.
                unsafe { self.step(thread, buffers, k, chunk) };
            }
            first += chunk.steps;
        }
    }

    /// The steps from `first` on whose input projection is computed at once: at least one, and as many as bring the rows that
    /// take part in them to [`CHUNK_ROWS`].
    fn chunk(&self, first: usize) -> StepChunk {
        let fits = |steps: usize| self.chunk_rows(StepChunk { first, steps }) <= CHUNK_ROWS;
        let most = CHUNK_ROWS.min(self.time - first);
        let steps = (2..=most).take_while(|&steps| fits(steps)).last().unwrap_or(1);
        StepChunk { first, steps }
    }

    /// The rows that take part in a chunk's steps, summed over the steps.
    fn chunk_rows(&self, chunk: StepChunk) -> usize {
        let start = self.start(chunk);
        self.rows_before(start + chunk.steps) - self.rows_before(start)
    }

    /// Rows that take part in a step, summed over the steps before time `t`.
    fn rows_before(&self, t: usize) -> usize {
        self.active.map_or(t * self.batch, |active| active.before(t))
    }

    /// The rows that take part in the step at time `t`.
    pub(super) fn rows_of(&self, t: usize) -> StepRows<'_> {
        self.active.map_or(StepRows::all(self.batch), |active| active.of_step(t))
    }

    /// The time of the `k`th step.
    pub(super) fn time_of(&self, k: usize) -> usize {
        match self.direction {
            Direction::Forward => k,
            Direction::Reverse => self.time - 1 - k,
        }
    }

    /// The earliest time in a chunk.
    fn start(&self, chunk: StepChunk) -> usize {
        self.time_of(chunk.first).min(self.time_of(chunk.first + chunk.steps - 1))
    }

    /// The input of the rows that take part in a chunk's steps, in the order of time. If steps skip rows, the others are copied
    /// to `gathered`.
    ///
    /// # Safety
    /// Nobody writes to `x`.
    unsafe fn input_rows<'b>(&'b self, chunk: StepChunk, gathered: &'b mut [f32]) -> OperandRows<'b> {
        let (start, stride, count) = (self.start(chunk), self.input, self.chunk_rows(chunk));
        let rows = chunk.steps * self.batch;
        // SAFETY: nobody writes to `x`, by this function's contract.
        let numbers = unsafe { self.x.read(start * self.batch * stride, rows * stride) };
        if count == rows {
            return OperandRows { numbers, stride, count };
        }
        let mut places = gathered.chunks_exact_mut(stride.max(1));
        for (step, numbers) in numbers.chunks_exact((self.batch * stride).max(1)).enumerate() {
            let rows = self.rows_of(start + step).iter().map(|row| &numbers[row * stride..][..stride]);
            rows.zip(&mut places).for_each(|(row, place)| place.copy_from_slice(row));
        }
        OperandRows { numbers: gathered, stride, count }
    }

    /// `U x + b_ih` of this thread's panels for a chunk of steps.
    ///
    /// # Safety
    /// Nobody writes to `x`.
    unsafe fn project_input(&self, thread: ThreadInGroup, buffers: &mut ThreadBuffers, chunk: StepChunk) {
        let ThreadBuffers { gates, gathered, unpacked: unpacked_panel, .. } = buffers;
        // SAFETY: nobody writes to `x`, by this function's contract.
        let operand = unsafe { self.input_rows(chunk, gathered) };
        let rows = operand.count;
        let set = self.weights.instructions;
        let mut gates = &mut gates[..];
        for stage in &self.weights.stages {
            let Some(input) = &stage.input else { continue };
            let own = thread.share(input.layout.panels());
            let width = input.layout.width();
            let (out, rest) = gates.split_at_mut(own.len() * width * rows);
            let row_stride = own.len() * width;
            let multiply = |panels: PanelSlice<'_>, numbers: &mut [f32]| {
                let target = ProductTarget { numbers, panel_stride: width, row_stride };
                set.run(Product { panels, rows: operand, target });
            };
            let unpacked = input.unpacked_len(rows);
            if unpacked == 0 {
                multiply(input.slice(own), out);
            } else {
                for (at, panel) in own.enumerate() {
                    let panel = input.slice(panel..panel + 1).unpacked(&mut unpacked_panel[..unpacked], set);
                    multiply(panel, &mut out[at * width..]);
                }
            }
            gates = rest;
        }
    }

    /// One step of this thread's panels, all stages.
    ///
    /// # Safety
    /// The contract of [`LayerCall::run`].
    unsafe fn step(&self, thread: ThreadInGroup, buffers: &mut ThreadBuffers, k: usize, chunk: StepChunk) {
        let Self { weights, batch, .. } = *self;
        let t = self.time_of(k);
        let state = self.step_state(k, t);
        let (active, chunk_rows) = (self.rows_of(t), self.chunk_rows(chunk));
        let row_in_chunk = self.rows_before(t) - self.rows_before(self.start(chunk));
        let ThreadBuffers { gates, product, rounded, scales, gathered, .. } = buffers;
        let mut gates = &gates[..];
        for stage in &weights.stages {
            let layout = stage.state.layout;
            let own = thread.share(layout.panels());
            // SAFETY: the panels are this thread's own, and a barrier stands between any two stages.
            unsafe { self.carry_skipped(stage, own.clone(), k, &state) };
            let (operand, of_operand) = match stage.stage {
                Stage::Whole | Stage::Reset => (state.h, active),
                Stage::Candidate | Stage::Project => (state.m, StepRows::all(active.count())),
            };
            // SAFETY: the operand was written before the last barrier, and no thread writes its active rows before the next one.
            let numbers = unsafe { operand.rows.read(0, batch * operand.stride) };
            let rows = OperandRows { numbers, stride: operand.stride, count: batch };
            let rows = of_operand.gather(rows, stage.state.depth, gathered);
            if stage.state.rounds_operand() {
                weights.instructions.run(RoundRows { rows, depth: stage.state.depth, bytes: rounded, scales });
            }
            let input_stride = if stage.input.is_some() { own.len() * layout.width() } else { 0 };
            let (stage_gates, rest) = gates.split_at(input_stride * chunk_rows);
            let input = &stage_gates[row_in_chunk * input_stride..];
            // Every other step takes the panels in reverse order: those that the previous step read last are still in
            // the cache.
            let last_first = k % 2 == 1;
            let step = StageStep { stage, state: &state, active, rows, own, input, input_stride, last_first };
            self.run_stage(&step, product, (rounded, scales));
            gates = rest;
            self.barrier.wait(thread.threads);
        }
    }

    /// Products and updates of one stage, group by group of panels and of rows.
    #[inline]
    fn run_stage(&self, step: &StageStep<'_>, product: &mut [f32], (rounded, scales): (&[u32], &[f32])) {
        let weights = self.weights;
        let StageStep { stage, active, rows, own, input, input_stride, last_first, .. } = step;
        let count = active.count();
        let layout = stage.state.layout;
        let panels_at_once = group_panels(GROUP_ROWS.min(count));
        let groups = own.len().div_ceil(panels_at_once);
        for group in 0..groups {
            let group = if *last_first { groups - 1 - group } else { group };
            let first = group * panels_at_once;
            let panels = own.start + first..own.end.min(own.start + first + panels_at_once);
            let packed = PanelSlice { last_first: *last_first, ..stage.state.slice(panels.clone()) };
            for begin in (0..count).step_by(GROUP_ROWS) {
                let group = begin..count.min(begin + GROUP_ROWS);
                let (row_stride, panel_stride) = (layout.width(), group.len() * layout.width());
                let target = ProductTarget { numbers: product, panel_stride, row_stride };
                if stage.state.rounds_operand() {
                    let rows = RoundedRows::new(rounded, scales, stage.state.depth, group.clone());
                    weights.instructions.run(DotProduct { panels: packed, rows, target });
                } else {
                    weights.instructions.run(Product { panels: packed, rows: rows.slice(group.clone()), target });
                }
                let input_at = begin * input_stride + first * layout.width();
                weights.instructions.run(Update {
                    cell: &weights.cell,
                    stage: stage.stage,
                    layout,
                    panels: panels.clone(),
                    step_rows: *active,
                    rows: group,
                    input: if *input_stride > 0 { &input[input_at..] } else { &[] },
                    input_stride: *input_stride,
                    product,
                    peephole: &weights.peephole,
                    state: step.state,
                });
            }
        }
    }

    fn step_state(&self, k: usize, t: usize) -> StepState<'_> {
        let Self { batch, buffers, .. } = *self;
        let flags_at = |t: usize| self.flags.map(|flags| &flags[t * batch..(t + 1) * batch]);
        let y_at = |t: usize| t * batch * self.y_stride + self.y_at;
        let next = if k + 1 < self.time { flags_at(self.time_of(k + 1)) } else { None };
        StepState {
            h: buffers.h[k % 2],
            h_next: buffers.h[(k + 1) % 2],
            s: buffers.s,
            m: buffers.m,
            a_z: buffers.a_z,
            initial_h: buffers.initial_h,
            initial_s: buffers.initial_s,
            next: NextFlags(next),
            output: StepOutput {
                y: self.y,
                at: y_at(t),
                stride: self.y_stride,
                held: (self.pad == Pad::Hold && k > 0).then(|| y_at(self.time_of(k - 1))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts in 32 bits, as on a 32-bit machine.
    #[test]
    fn shares_cover_any_count_without_overflow() {
        for count in [0, 1, 7, 4096, 1 << 30, u32::MAX / 2 + 1, u32::MAX - 1, u32::MAX] {
            for of in [1, 2, 3, 48, 1000, 1024] {
                let exact = |at: u32| u64::from(count) * u64::from(at) / u64::from(of);
                for at in 0..=of {
                    assert_eq!(u64::from(share_start(count, at, of)), exact(at), "{at} of {of} of {count}");
                }
            }
        }
        let thread = ThreadInGroup { index: 2, threads: 3 };
        assert_eq!(thread.share(usize::MAX), usize::MAX / 3 * 2..usize::MAX);
    }
}

//! A call of one layer in one direction, and each thread's part of it.
#![allow(unsafe_code)]

use std::ops::Range;

use super::{CHUNK_ROWS, GROUP_ROWS, LayerWeights, PackedStage, ThreadBuffers, gates_stride, group_panels};
use crate::cell::{Direction, Pad, Stage};
use crate::cpu::active::{ActiveRows, StepRows};
use crate::cpu::memory::SharedSlice;
use crate::cpu::phases::{Phase, PhaseWorker};
use crate::cpu::pool::Left;
use crate::cpu::product::{DotProduct, OperandRows, Product, ProductTarget, RoundedRows};
use crate::cpu::round::RoundRows;
use crate::cpu::stored::PanelSlice;
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
    /// Whether the output of a row that a step skips is written.
    pub(in crate::cpu) pads: bool,
    pub(in crate::cpu) buffers: StateBuffers<'a>,
    /// `U x + b_ih` of a chunk's steps, stage by stage `[panels, rows + 1, width]`.
    pub(in crate::cpu) gates: SharedSlice<'a>,
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

/// Consecutive steps whose input projection is computed at once.
#[derive(Clone, Copy)]
struct StepChunk {
    first: usize,
    steps: usize,
}

/// One stage of one step, as one thread computes some panels of it.
struct StageStep<'a> {
    stage: &'a PackedStage,
    state: &'a StepState<'a>,
    /// The rows that take part in the step.
    active: StepRows<'a>,
    /// Those rows of the operand of the stage's product.
    rows: OperandRows<'a>,
    /// The panels that the thread has claimed.
    own: Range<usize>,
    /// `U x + b_ih` of the step for these panels; empty if the stage has no input.
    input: &'a [f32],
    /// Strides of the input from row to row and from panel to panel.
    input_strides: [usize; 2],
    /// Whether the panels are multiplied from the last to the first.
    last_first: bool,
}

impl LayerCall<'_> {
    /// Runs one thread's part of the whole call. When it returns, all panels of all steps are done.
    ///
    /// # Errors
    /// [`Left`] if this worker leaves the call.
    ///
    /// # Safety
    /// All threads in the call run it by the same queue. Nobody else touches `y`, `gates` and the state's buffers meanwhile, and
    /// nobody writes to `x`.
    pub(in crate::cpu) unsafe fn run(
        &self,
        worker: &mut PhaseWorker<'_>,
        buffers: &mut ThreadBuffers,
    ) -> Result<(), Left> {
        let mut first = 0;
        while first < self.time {
            let chunk = self.chunk(first);
            first += chunk.steps;
            let (phases, items) = self.extent(chunk.steps);
            if worker.skip(phases, items) {
                continue;
            }
            worker.meet();
            // SAFETY: nobody else touches `gates` or writes to `x`, by this function's contract.
            unsafe { self.project_input(worker, buffers, chunk) }?;
            for k in chunk.first..chunk.first + chunk.steps {
                // SAFETY: all threads in the call take this step by the same queue, and nobody else touches the buffers, by this
                // function's contract.
                unsafe { self.step(worker, buffers, k, chunk) }?;
            }
        }
        Ok(())
    }

    /// Phases and items of a chunk with this number of steps.
    fn extent(&self, steps: usize) -> (usize, usize) {
        let stages = &self.weights.stages;
        let panels = stages.iter().map(|stage| stage.state.layout.panels()).sum::<usize>();
        let inputs = stages.iter().filter_map(|stage| stage.input.as_ref());
        let input_panels = inputs.clone().map(|input| input.layout.panels()).sum::<usize>();
        (inputs.count() + steps * stages.len(), input_panels + steps * panels)
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

    /// Copies the input of the rows that take part in a chunk's steps to `gathered`, in the order of time, if steps skip rows.
    ///
    /// # Safety
    /// Nobody writes to `x`.
    unsafe fn gather_input(&self, chunk: StepChunk, gathered: &mut [f32]) {
        let (start, stride) = (self.start(chunk), self.input);
        let rows = chunk.steps * self.batch;
        if self.chunk_rows(chunk) == rows {
            return;
        }
        // SAFETY: nobody writes to `x`, by this function's contract.
        let numbers = unsafe { self.x.read(start * self.batch * stride, rows * stride) };
        let mut places = gathered.chunks_exact_mut(stride.max(1));
        for (step, numbers) in numbers.chunks_exact((self.batch * stride).max(1)).enumerate() {
            let rows = self.rows_of(start + step).iter().map(|row| &numbers[row * stride..][..stride]);
            rows.zip(&mut places).for_each(|(row, place)| place.copy_from_slice(row));
        }
    }

    /// The input of the rows that take part in a chunk's steps, after [`LayerCall::gather_input`].
    ///
    /// # Safety
    /// Nobody writes to `x`.
    unsafe fn input_rows<'b>(&'b self, chunk: StepChunk, gathered: &'b [f32]) -> OperandRows<'b> {
        let (stride, count) = (self.input, self.chunk_rows(chunk));
        if count < chunk.steps * self.batch {
            return OperandRows { numbers: gathered, stride, count };
        }
        // SAFETY: nobody writes to `x`, by this function's contract.
        let numbers = unsafe { self.x.read(self.start(chunk) * self.batch * stride, count * stride) };
        OperandRows { numbers, stride, count }
    }

    /// `U x + b_ih` for a chunk of steps, one phase per stage.
    ///
    /// # Safety
    /// Nobody writes to `x`, and only threads in this call touch `gates`.
    unsafe fn project_input(
        &self,
        worker: &mut PhaseWorker<'_>,
        buffers: &mut ThreadBuffers,
        chunk: StepChunk,
    ) -> Result<(), Left> {
        let ThreadBuffers { gathered, unpacked: unpacked_panel, .. } = buffers;
        let rows = self.chunk_rows(chunk);
        let set = self.weights.instructions;
        let (mut begin, mut is_gathered) = (0, false);
        for input in self.weights.stages.iter().filter_map(|stage| stage.input.as_ref()) {
            let (width, stride) = (input.layout.width(), gates_stride(&input.layout, rows));
            let unpacked = input.unpacked_len(rows);
            let phase = Phase {
                items: input.layout.panels(),
                item_work: rows.saturating_mul(width * input.depth),
                last_first: false,
            };
            worker.phase(phase, |own| {
                if !std::mem::replace(&mut is_gathered, true) {
                    // SAFETY: this thread has claimed items, so no later layer writes to the memory of `x` yet.
                    unsafe { self.gather_input(chunk, gathered) };
                }
                // SAFETY: this thread has claimed items, so no later layer writes to the memory of `x` yet.
                let operand = unsafe { self.input_rows(chunk, gathered) };
                // SAFETY: this thread has claimed the panels, and no step of the last chunk reads `gates` any more: its phases are
                // done.
                let out = unsafe { self.gates.write(begin + own.start * stride, own.len() * stride) };
                let multiply = |panels: PanelSlice<'_>, panel_stride: usize, numbers: &mut [f32]| {
                    let target = ProductTarget { numbers, panel_stride, row_stride: width };
                    set.run(Product { panels, rows: operand, target });
                };
                let strip = input.layout.strip_width();
                if unpacked == 0 && strip == width {
                    return multiply(input.slice(own), stride, out);
                }
                for (panel, out) in own.zip(out.chunks_exact_mut(stride)) {
                    let panel = input.slice(panel..panel + 1);
                    let panel =
                        if unpacked == 0 { panel } else { panel.unpacked(&mut unpacked_panel[..unpacked], set) };
                    multiply(panel, strip, out);
                }
            })?;
            begin += phase.items * stride;
        }
        Ok(())
    }

    /// One step, one phase per stage.
    ///
    /// # Safety
    /// The contract of [`LayerCall::run`].
    unsafe fn step(
        &self,
        worker: &mut PhaseWorker<'_>,
        buffers: &mut ThreadBuffers,
        k: usize,
        chunk: StepChunk,
    ) -> Result<(), Left> {
        let Self { weights, batch, .. } = *self;
        let t = self.time_of(k);
        let state = self.step_state(k, t);
        let (active, chunk_rows) = (self.rows_of(t), self.chunk_rows(chunk));
        let row_in_chunk = self.rows_before(t) - self.rows_before(self.start(chunk));
        let ThreadBuffers { product, rounded, scales, gathered, .. } = buffers;
        let mut begin = 0;
        for stage in &weights.stages {
            let layout = stage.state.layout;
            let (width, stride) = (layout.width(), gates_stride(&layout, chunk_rows));
            let (operand, of_operand) = match stage.stage {
                Stage::Whole | Stage::Reset => (state.h, active),
                Stage::Candidate | Stage::Project => (state.m, StepRows::all(active.count())),
            };
            // Every other step takes the panels in reverse order: those that the previous step read last are still in
            // the cache.
            let last_first = k % 2 == 1;
            let item_work = active.count().saturating_mul(width * stage.state.depth);
            let phase = Phase { items: layout.panels(), item_work, last_first };
            let mut is_prepared = false;
            worker.phase(phase, |own| {
                // SAFETY: this thread has claimed the panels, and a stage begins when all panels of the one before are done.
                unsafe { self.carry_skipped(stage, own.clone(), k, &state) };
                // SAFETY: the operand was written in an earlier phase, and no thread writes it in this one.
                let numbers = unsafe { operand.rows.read(0, batch * operand.stride) };
                let all = OperandRows { numbers, stride: operand.stride, count: batch };
                let is_first_claim = !std::mem::replace(&mut is_prepared, true);
                if is_first_claim {
                    of_operand.gather(all, stage.state.depth, gathered);
                }
                let rows = of_operand.of(all, gathered);
                if is_first_claim && stage.state.rounds_operand() {
                    weights.instructions.run(RoundRows { rows, depth: stage.state.depth, words: rounded, scales });
                }
                let input: &[f32] = if stage.input.is_some() && active.count() > 0 {
                    let first = begin + own.start * stride + row_in_chunk * width;
                    // SAFETY: the projection of the chunk was an earlier phase, and no thread writes `gates` in this one.
                    unsafe { self.gates.read(first, (own.len() - 1) * stride + active.count() * width) }
                } else {
                    &[]
                };
                let input_strides = [width, stride];
                let step = StageStep { stage, state: &state, active, rows, own, input, input_strides, last_first };
                self.run_stage(&step, product, (rounded, scales));
            })?;
            if stage.input.is_some() {
                begin += phase.items * stride;
            }
        }
        Ok(())
    }

    /// Products and updates of one stage, group by group of panels and of rows.
    #[inline]
    fn run_stage(&self, step: &StageStep<'_>, product: &mut [f32], (rounded, scales): (&[u32], &[f32])) {
        let weights = self.weights;
        let StageStep { stage, active, rows, own, input, input_strides, last_first, .. } = step;
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
                let (row_stride, panel_stride) = (panels.len() * layout.width(), layout.strip_width());
                let target = ProductTarget { numbers: product, panel_stride, row_stride };
                if stage.state.rounds_operand() {
                    let rows = RoundedRows::new(rounded, scales, stage.state.depth, group.clone());
                    weights.instructions.run(DotProduct { panels: packed, rows, target });
                } else {
                    weights.instructions.run(Product { panels: packed, rows: rows.slice(group.clone()), target });
                }
                let [input_row, input_panel] = *input_strides;
                let input_at = begin * input_row + first * input_panel;
                weights.instructions.run(Update {
                    cell: &weights.cell,
                    stage: stage.stage,
                    layout,
                    panels: panels.clone(),
                    step_rows: *active,
                    rows: group,
                    input: if input.is_empty() { input } else { &input[input_at..] },
                    input_strides: *input_strides,
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

//! The shards of a batch: some rows of it in one layer and direction, which one thread takes forward and back.

use std::ops::Range;

use super::OP;
use super::steps::{Span, TrainingSteps};
use super::weights::LayerWeights;
use crate::cell::{Cell, Direction, Stage};
use crate::cpu::active::{ActiveRows, StepRows};
use crate::cpu::buffer_cache::{BufferCache, CachedBuffer};
use crate::error::Result;
use crate::memory;

/// Some rows of the batch.
pub(super) struct ShardRows {
    pub(super) range: Range<usize>,
    /// The rows that take part in each step, counted from the first of the range; `None` if all do.
    pub(super) active: Option<ActiveRows>,
}

impl ShardRows {
    pub(super) fn new(steps: &TrainingSteps, range: Range<usize>) -> Result<Self> {
        let mut active = None;
        if let Some(flags) = &steps.flags {
            active.insert(ActiveRows::default()).list(OP, (flags, steps.batch), &range)?;
        }
        Ok(Self { range, active })
    }

    /// Copies the rows that take part in each step, in the order of time, from numbers `[T, rows of a step, width]`. The
    /// shard's first row is row `first` of a step's `batch` rows.
    pub(super) fn take_active(
        &self,
        from: &[f32],
        (batch, first): (usize, usize),
        width: usize,
        buffers: &BufferCache,
    ) -> Result<CachedBuffer> {
        let time = from.len().checked_div(batch * width).unwrap_or(0);
        let (active, all) = (self.active.as_ref(), StepRows::all(self.range.len()));
        let mut to = buffers.take(active.map_or(time * all.count(), ActiveRows::total) * width)?;
        let mut places = &mut to[..];
        for (t, from) in from.chunks_exact((batch * width).max(1)).enumerate() {
            let rows = active.map_or(all, |active| active.of_step(t));
            let (step, rest) = std::mem::take(&mut places).split_at_mut(rows.count() * width);
            rows.copy(&from[first * width..], width, step);
            places = rest;
        }
        Ok(to)
    }
}

/// One layer and direction of some rows of the batch.
pub(super) struct LayerShard<'a> {
    pub(super) weights: &'a LayerWeights,
    pub(super) direction: Direction,
    /// `layer * directions + direction`
    pub(super) state_row: usize,
    pub(super) steps: &'a TrainingSteps,
    pub(super) rows: &'a Range<usize>,
    /// The rows that take part in each step: see [`ShardRows::active`].
    pub(super) active: Option<&'a ActiveRows>,
    pub(super) buffers: &'a BufferCache,
}

/// One step of a shard: its time, its rows, and their place in the span's buffers. These hold only the rows that take part
/// in each step, one after the other.
#[derive(Clone, Copy)]
pub(super) struct ShardStep<'a> {
    pub(super) t: usize,
    /// The rows that take part in the step.
    pub(super) rows: StepRows<'a>,
    /// Position of the step's first row in the span's buffers.
    first: usize,
}

impl ShardStep<'_> {
    /// The step's rows in a buffer of the span.
    pub(super) fn all(self, width: usize) -> Range<usize> {
        self.first * width..(self.first + self.rows.count()) * width
    }

    /// The row at a position of the step's rows in a buffer of the span.
    pub(super) fn row(self, position: usize, width: usize) -> Range<usize> {
        let first = (self.first + position) * width;
        first..first + width
    }
}

impl<'a> LayerShard<'a> {
    /// Width of the cell state, 0 without one.
    pub(super) fn cell_width(&self) -> usize {
        if self.weights.cell.has_cell_state() { self.weights.hidden } else { 0 }
    }

    /// Width of [`SpanTape::second`], 0 if nothing is kept there.
    pub(super) fn second_width(&self) -> usize {
        let cell = &self.weights.cell;
        if matches!(cell, Cell::Gru(_)) || cell.projection().is_some() { self.weights.hidden } else { 0 }
    }

    /// The first stage of a step.
    pub(super) fn first_stage(&self) -> Stage {
        if self.weights.resets_before() { Stage::Reset } else { Stage::Whole }
    }

    /// The `k`th step of the direction, in buffers of which the first step is the one at time `start`.
    pub(super) fn step(&self, k: usize, start: usize) -> ShardStep<'a> {
        let t = self.steps.time_of(self.direction, k);
        let rows = self.active.map_or(StepRows::all(self.rows.len()), |active| active.of_step(t));
        ShardStep { t, rows, first: self.rows_before(t) - self.rows_before(start) }
    }

    /// Rows that take part in a step, summed over the steps before time `t`.
    pub(super) fn rows_before(&self, t: usize) -> usize {
        self.active.map_or(t * self.rows.len(), |active| active.before(t))
    }

    /// The rows that take part in the steps of a span, as positions among those of all steps in the order of time.
    pub(super) fn span_rows(&self, span: Span) -> Range<usize> {
        let start = self.steps.start(self.direction, span);
        self.rows_before(start)..self.rows_before(start + span.steps)
    }

    /// Whether a row of the shard takes part in a step.
    pub(super) fn valid(&self, step: ShardStep<'_>, row: usize) -> bool {
        self.steps.valid(step.t, self.rows.start + row)
    }

    /// The rows of the shard that return to their initial state before a step.
    pub(super) fn reset_rows(&self, step: ShardStep<'_>) -> impl Iterator<Item = usize> {
        (0..self.rows.len()).filter(move |&row| self.steps.resets(step.t, self.rows.start + row))
    }

    /// Index of a row's first element in a mask `[T, B, width]`.
    pub(super) fn mask_index(&self, step: ShardStep<'_>, row: usize, width: usize) -> usize {
        self.steps.mask_index(step.t, self.rows.start + row, width)
    }

    /// The shard's rows of a state or of its gradient, `[layers directions, B, width]`; zeros if absent.
    pub(super) fn state_rows(&self, state: Option<&[f32]>, width: usize) -> Result<Vec<f32>> {
        let first = (self.state_row * self.steps.batch + self.rows.start) * width;
        match state {
            Some(state) => memory::copied(OP, &state[first..][..self.rows.len() * width]),
            None => memory::zeros(OP, self.rows.len() * width),
        }
    }
}

/// The numbers that a shard's forward pass keeps for the backward pass.
pub(super) struct ShardTape {
    /// Every span; empty with checkpoints, when the backward pass runs the spans again.
    pub(super) spans: Vec<SpanTape>,
    /// With checkpoints, the state before each span.
    pub(super) checkpoints: Vec<CarriedState>,
    /// The states to which a reset returns: h and s.
    pub(super) initial: [Vec<f32>; 2],
    /// The output, if it is multiplied by the other direction's.
    pub(super) y: Option<CachedBuffer>,
}

/// The state that a shard carries from step to step.
pub(super) struct CarriedState {
    pub(super) h: Vec<f32>,
    pub(super) s: Vec<f32>,
    /// The last output of every row.
    pub(super) held: Vec<f32>,
}

impl CarriedState {
    pub(super) fn try_clone(&self) -> Result<Self> {
        let Self { h, s, held } = self;
        Ok(Self { h: memory::copied(OP, h)?, s: memory::copied(OP, s)?, held: memory::copied(OP, held)? })
    }
}

/// The numbers of a span's steps that the backward pass reads, each of the rows that take part in each step.
pub(super) struct SpanTape {
    /// Pre-activations; the rows' stride is the one that the product leaves.
    pub(super) gates: CachedBuffer,
    /// `W_n h + b_hn` or `r h` of a GRU, the state before its projection of an LSTM.
    pub(super) second: CachedBuffer,
    /// `h` before each step.
    pub(super) h: CachedBuffer,
    /// The cell state before each step.
    pub(super) s: CachedBuffer,
    /// The cell state after each step.
    pub(super) s_next: CachedBuffer,
}

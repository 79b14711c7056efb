//! The shards of a batch: some rows of it in one layer and direction, which one thread takes forward and back.

use std::ops::Range;

use super::OP;
use super::steps::TrainingSteps;
use super::weights::LayerWeights;
use crate::cell::{Cell, Direction, Stage};
use crate::cpu::buffer_cache::{BufferCache, CachedBuffer};
use crate::error::Result;
use crate::memory;

/// One layer and direction of some rows of the batch.
pub(super) struct LayerShard<'a> {
    pub(super) weights: &'a LayerWeights,
    pub(super) direction: Direction,
    /// `layer * directions + direction`
    pub(super) state_row: usize,
    pub(super) steps: &'a TrainingSteps,
    pub(super) rows: &'a Range<usize>,
    pub(super) buffers: &'a BufferCache,
}

/// One step of a shard: its time, and its index in the span's buffers.
#[derive(Clone, Copy)]
pub(super) struct ShardStep {
    pub(super) t: usize,
    index: usize,
    rows: usize,
}

impl ShardStep {
    /// The step's rows in a buffer `[steps, rows, width]`.
    pub(super) fn all(self, width: usize) -> Range<usize> {
        self.index * self.rows * width..(self.index + 1) * self.rows * width
    }

    /// One of the step's rows in a buffer `[steps, rows, width]`.
    pub(super) fn row(self, row: usize, width: usize) -> Range<usize> {
        let first = (self.index * self.rows + row) * width;
        first..first + width
    }
}

impl LayerShard<'_> {
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
    pub(super) fn step(&self, k: usize, start: usize) -> ShardStep {
        let t = self.steps.time_of(self.direction, k);
        ShardStep { t, index: t - start, rows: self.rows.len() }
    }

    /// Whether a row of the shard takes part in a step.
    pub(super) fn valid(&self, step: ShardStep, row: usize) -> bool {
        self.steps.valid(step.t, self.rows.start + row)
    }

    /// The rows of the shard that take part in a step.
    pub(super) fn valid_rows(&self, step: ShardStep) -> impl Iterator<Item = usize> {
        (0..self.rows.len()).filter(move |&row| self.valid(step, row))
    }

    /// The rows of the shard that return to their initial state before a step.
    pub(super) fn reset_rows(&self, step: ShardStep) -> impl Iterator<Item = usize> {
        (0..self.rows.len()).filter(move |&row| self.steps.resets(step.t, self.rows.start + row))
    }

    /// Index of a row's first element in a mask `[T, B, width]`.
    pub(super) fn mask_index(&self, step: ShardStep, row: usize, width: usize) -> usize {
        self.steps.mask_index(step.t, self.rows.start + row, width)
    }

    /// A buffer that holds zeros where a step may skip a row, and any numbers elsewhere.
    pub(super) fn zeros_if_skipped(&self, len: usize) -> Result<CachedBuffer> {
        if self.steps.flags.is_some() { self.buffers.zeros(len) } else { self.buffers.take(len) }
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

/// The numbers of a span's steps that the backward pass reads, each `[steps, rows, width]`.
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

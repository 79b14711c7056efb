//! The steps of a training call: their order in time, their flags and their random masks.

use std::ops::Range;

use super::OP;
use crate::cell::{Direction, Draw, Mask, Noise, Pad, RESET, VALID};
use crate::cpu::active::StepRows;
use crate::error::Result;
use crate::memory;

/// Steps whose share of the weights' gradients is summed at once. Spans of whole groups give the same bits as one long span.
pub(super) const GROUP_STEPS: usize = 64;

/// The steps of a training call, for both passes.
pub(crate) struct TrainingSteps {
    pub(crate) time: usize,
    pub(crate) batch: usize,
    /// `[T, B]`
    pub(crate) flags: Option<Vec<u32>>,
    pub(crate) pad: Pad,
    pub(crate) noise: Noise,
    /// Steps between two kept states, rounded up to whole groups; `None` if every step is kept.
    pub(crate) checkpoint: Option<usize>,
}

/// Consecutive steps, in the order in which a direction takes them.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) first: usize,
    pub(super) steps: usize,
}

impl Span {
    /// The groups of steps in the span, the last one first. A span begins with a group.
    pub(super) fn groups(self) -> impl Iterator<Item = Span> {
        let end = self.first + self.steps;
        let group = move |at: usize| {
            let first = at * GROUP_STEPS;
            Span { first, steps: GROUP_STEPS.min(end - first) }
        };
        (self.first / GROUP_STEPS..end.div_ceil(GROUP_STEPS)).rev().map(group)
    }
}

impl TrainingSteps {
    fn flag(&self, t: usize, row: usize) -> u32 {
        self.flags.as_ref().map_or(VALID, |flags| flags[t * self.batch + row])
    }

    /// Whether a row takes part in the step at time `t`.
    pub(super) fn valid(&self, t: usize, row: usize) -> bool {
        self.flag(t, row) & VALID != 0
    }

    /// Whether a row returns to its initial state before the step at time `t`.
    pub(super) fn resets(&self, t: usize, row: usize) -> bool {
        self.flag(t, row) & RESET != 0
    }

    /// The time at which a direction takes its `k`th step.
    pub(super) fn time_of(&self, direction: Direction, k: usize) -> usize {
        match direction {
            Direction::Forward => k,
            Direction::Reverse => self.time - 1 - k,
        }
    }

    /// The spans into which a tape is cut.
    pub(super) fn spans(&self) -> impl ExactSizeIterator<Item = Span> + DoubleEndedIterator {
        let longest =
            self.checkpoint.and_then(|steps| steps.checked_next_multiple_of(GROUP_STEPS)).unwrap_or(self.time).max(1);
        // A call without rows may have any number of steps, so no step is taken.
        let time = if self.batch == 0 { 0 } else { self.time };
        (0..time).step_by(longest).map(move |first| Span { first, steps: longest.min(time - first) })
    }

    /// The earliest time in a span.
    pub(super) fn start(&self, direction: Direction, span: Span) -> usize {
        match direction {
            Direction::Forward => span.first,
            Direction::Reverse => self.time - span.first - span.steps,
        }
    }

    /// Index of a row's first element at time `t` in a mask `[T, B, width]`.
    pub(super) fn mask_index(&self, t: usize, row: usize, width: usize) -> usize {
        (t * self.batch + row) * width
    }

    /// The masks of a direction's recurrence; `state_row` is `layer * directions + direction`.
    pub(super) fn masks(&self, state_row: usize, rows: &Range<usize>, width: usize) -> Result<RecurrentMasks> {
        let recurrent = match self.noise.draw(Mask::Recurrent { row: state_row }) {
            None => None,
            Some(draw) => {
                let first = self.mask_index(0, rows.start, width);
                let factors = (first..).map(|index| draw.factor(index));
                Some(memory::collected(OP, rows.len() * width, factors)?)
            }
        };
        let zoneout_h = self.noise.draw(Mask::ZoneoutH { row: state_row });
        let zoneout_s = self.noise.draw(Mask::ZoneoutS { row: state_row });
        Ok(RecurrentMasks { recurrent, zoneout_h, zoneout_s })
    }

    /// Multiplies a layer's output `[T, rows, width]` by its dropout mask.
    pub(super) fn drop_out(&self, layer: usize, rows: &Range<usize>, width: usize, y: &mut [f32]) {
        let Some(draw) = self.noise.draw(Mask::Dropout { layer }) else { return };
        for t in 0..self.time {
            let first = self.mask_index(t, rows.start, width);
            let step = rows.len() * width;
            for (index, y) in (first..).zip(&mut y[t * step..(t + 1) * step]) {
                *y *= draw.factor(index);
            }
        }
    }
}

/// The random masks of one layer and direction's recurrence.
pub(super) struct RecurrentMasks {
    /// The factors of `h` in the recurrent products, `[rows, O]`.
    pub(super) recurrent: Option<Vec<f32>>,
    pub(super) zoneout_h: Option<Draw>,
    pub(super) zoneout_s: Option<Draw>,
}

/// `a * mask` of a step's `rows` in `buffer`, or `a` itself without a mask. The mask `[rows, width]` holds all rows, `a` only
/// those of the step.
pub(super) fn masked<'a>(
    a: &'a [f32],
    (mask, rows, width): (Option<&[f32]>, StepRows<'_>, usize),
    buffer: &'a mut [f32],
) -> &'a [f32] {
    let Some(mask) = mask else { return a };
    let mask = rows.iter().flat_map(|row| &mask[row * width..(row + 1) * width]);
    for ((to, &a), &mask) in buffer.iter_mut().zip(a).zip(mask) {
        *to = a * mask;
    }
    &buffer[..a.len()]
}

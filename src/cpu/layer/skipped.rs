//! The rows that a step skips: they keep their state, and their output is the held one or zero.
#![allow(unsafe_code)]

use std::ops::Range;

use super::PackedStage;
use super::call::LayerCall;
use crate::cell::{RESET, Stage, VALID};
use crate::cpu::update::{InitialRows, PaddedRows, StepState};

impl LayerCall<'_> {
    /// Carries the skipped rows over a stage of the `k`th step, in the units of some panels. Rows that are reset before the next
    /// step return to their initial state.
    ///
    /// # Safety
    /// The panels are this thread's own in this stage: see [`Update`](crate::cpu::update::Update).
    pub(super) unsafe fn carry_skipped(
        &self,
        stage: &PackedStage,
        panels: Range<usize>,
        k: usize,
        state: &StepState<'_>,
    ) {
        let t = self.time_of(k);
        let Some(flags) = self.flags.filter(|_| !self.rows_of(t).is_all(self.batch)) else { return };
        let flag = |k: usize, row: usize| flags[self.time_of(k) * self.batch + row];
        let (layout, cell) = (stage.state.layout, &self.weights.cell);
        let units = layout.first_unit(panels.start)..layout.first_unit(panels.end);
        let writes_h = match stage.stage {
            Stage::Whole => cell.projection().is_none(),
            Stage::Candidate | Stage::Project => true,
            Stage::Reset => false,
        };
        let writes_s = stage.stage == Stage::Whole && cell.has_cell_state();
        for row in (0..self.batch).filter(|&row| flag(k, row) & VALID == 0) {
            let resets = state.next.resets(row);
            // A row that the step before skipped, too, has the same `h` in both buffers, unless it was reset in between.
            let same = k > 0 && flag(k - 1, row) & VALID == 0 && flag(k, row) & RESET == 0;
            // SAFETY: only this thread touches these units of `h_next`, `s` and `y`, and no thread writes `h`, by this function's
            // contract.
            unsafe {
                if writes_h && self.pads {
                    put_output(state, row, &units);
                }
                if self.active.is_some_and(|active| !active.changes(row)) {
                    continue;
                }
                if writes_h && resets {
                    reset(state.h_next, state.initial_h, row, &units);
                } else if writes_h && !same {
                    let kept = state.h.rows.read(row * state.h.stride + units.start, units.len());
                    units_of(state.h_next, row, &units).copy_from_slice(kept);
                }
                if writes_s && resets {
                    reset(state.s, state.initial_s, row, &units);
                }
            }
        }
    }
}

/// Writes the output of a skipped row.
///
/// # Safety
/// No other thread touches these units of the output.
unsafe fn put_output(state: &StepState<'_>, row: usize, units: &Range<usize>) {
    let output = &state.output;
    let index = |at: usize| at + row * output.stride + units.start;
    // SAFETY: no other thread touches these units, by this function's contract.
    unsafe {
        let y = output.y.write(index(output.at), units.len());
        match output.held {
            Some(held) => y.copy_from_slice(output.y.read(index(held), units.len())),
            None => y.fill(0.0),
        }
    }
}

/// # Safety
/// No other thread touches these units of the row while the slice lives.
unsafe fn units_of<'a>(rows: PaddedRows<'a>, row: usize, units: &Range<usize>) -> &'a mut [f32] {
    // SAFETY: no other thread touches these units, by this function's contract.
    unsafe { rows.rows.write(row * rows.stride + units.start, units.len()) }
}

/// Returns units of a row to their initial state.
///
/// # Safety
/// No other thread touches these units of the row.
unsafe fn reset(rows: PaddedRows<'_>, initial: InitialRows<'_>, row: usize, units: &Range<usize>) {
    // SAFETY: no other thread touches these units, by this function's contract.
    let to = unsafe { units_of(rows, row, units) };
    match initial.rows {
        Some(numbers) => to.copy_from_slice(&numbers[row * initial.width + units.start..][..units.len()]),
        None => to.fill(0.0),
    }
}

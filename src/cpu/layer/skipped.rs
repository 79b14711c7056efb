//! The rows that a step skips: they keep their state, and their output is the held one or zero.
#![allow(unsafe_code)]

use super::call::{LayerCall, ThreadInGroup};
use crate::cell::{RESET, VALID};
use crate::cpu::memory::SharedSlice;
use crate::cpu::update::{InitialRows, PaddedRows, StepState};

impl LayerCall<'_> {
    /// Carries this thread's share of the skipped rows over the `k`th step.
    ///
    /// # Safety
    /// All threads of the group call it between the same two barriers, each with its own index. Until the second barrier, nobody
    /// else writes to skipped rows of the state and of the output, and nobody reads skipped rows of `h_next` and `s`.
    pub(super) unsafe fn carry_skipped(&self, thread: ThreadInGroup, k: usize, state: &StepState<'_>) {
        let t = self.time_of(k);
        let Some(flags) = self.flags.filter(|_| !self.rows_of(t).is_all(self.batch)) else { return };
        let flag = |k: usize, row: usize| flags[self.time_of(k) * self.batch + row];
        let out = state.initial_h.width;
        for row in thread.share(self.batch).filter(|&row| flag(k, row) & VALID == 0) {
            let y = |at: usize| at + row * state.output.stride;
            // A row that the step before skipped, too, has the same `h` in both buffers, unless it was reset in between.
            let same = k > 0 && flag(k - 1, row) & VALID == 0 && flag(k, row) & RESET == 0;
            // SAFETY: only this thread touches this row, by this function's contract.
            unsafe {
                let output = state.output.y;
                let to = output.write(y(state.output.at), out);
                match state.output.held {
                    Some(held) => to.copy_from_slice(output.read(y(held), out)),
                    None => to.fill(0.0),
                }
                if state.next.resets(row) {
                    reset(state.h_next, state.initial_h, row);
                    if self.weights.cell.has_cell_state() {
                        reset(state.s, state.initial_s, row);
                    }
                } else if !same {
                    row_of(state.h_next, row, out).copy_from_slice(row_of(state.h, row, out));
                }
            }
        }
    }
}

/// # Safety
/// No other thread touches the row while the slice lives.
unsafe fn row_of<'a>(rows: PaddedRows<'a>, row: usize, width: usize) -> &'a mut [f32] {
    let all: SharedSlice<'a> = rows.rows;
    // SAFETY: no other thread touches the row, by this function's contract.
    unsafe { all.write(row * rows.stride, width) }
}

/// Returns a row to its initial state.
///
/// # Safety
/// No other thread touches the row.
unsafe fn reset(rows: PaddedRows<'_>, initial: InitialRows<'_>, row: usize) {
    // SAFETY: no other thread touches the row, by this function's contract.
    let to = unsafe { row_of(rows, row, initial.width) };
    match initial.rows {
        Some(initial_rows) => to.copy_from_slice(&initial_rows[row * initial.width..][..initial.width]),
        None => to.fill(0.0),
    }
}

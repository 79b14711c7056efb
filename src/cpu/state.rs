//! The state of all layers and directions in a call's working buffer.

use std::ops::Range;

use super::active::ActiveRows;
use super::layer::StateBuffers;
use super::memory::SharedSlice;
use super::update::{InitialRows, PaddedRows};
use crate::cell::RESET;

/// The state as the caller holds it.
pub(super) struct CallerState<'a> {
    /// `[layers directions, B, O]`
    pub(super) h: &'a mut [f32],
    /// `[layers directions, B, hidden]`; empty unless the cell is an LSTM.
    pub(super) s: &'a mut [f32],
}

/// The states to which a reset returns, in the shapes of [`CallerState`]; zero if absent.
#[derive(Clone, Copy)]
pub(super) struct ResetState<'a> {
    pub(super) h: Option<&'a [f32]>,
    pub(super) s: Option<&'a [f32]>,
}

/// The layout of the working buffer. Each layer and direction has `h` of even and of odd steps, `s`, `m` and `a_z`, with rows
/// padded to whole registers.
#[derive(Clone, Copy)]
pub(super) struct StateLayout {
    batch: usize,
    out: usize,
    hidden: usize,
    has_cell: bool,
    h_stride: usize,
    s_stride: usize,
}

impl StateLayout {
    pub(super) fn new(batch: usize, (out, hidden): (usize, usize), has_cell: bool, lanes: usize) -> Self {
        // If the stride were a multiple of 256 numbers, all rows would compete for the same lines of the first-level
        // cache.
        let stride = |units: usize| match units.next_multiple_of(lanes) {
            padded if padded % 256 == 0 => padded + 16,
            padded => padded,
        };
        Self { batch, out, hidden, has_cell, h_stride: stride(out), s_stride: stride(hidden) }
    }

    /// Distance of the rows of `h`.
    pub(super) fn h_stride(&self) -> usize {
        self.h_stride
    }

    /// Numbers per layer and direction.
    pub(super) fn len(&self) -> usize {
        self.batch * (2 * self.h_stride + 3 * self.s_stride)
    }

    /// Index of `h` of even (0) or odd (1) steps.
    fn h(&self, row: usize, odd: usize) -> usize {
        row * self.len() + odd * self.batch * self.h_stride
    }

    /// Index of `s` (0), `m` (1) or `a_z` (2).
    fn s(&self, row: usize, at: usize) -> usize {
        row * self.len() + self.batch * (2 * self.h_stride + at * self.s_stride)
    }

    /// The range of a layer and direction in the caller's state.
    fn in_caller(&self, row: usize, width: usize) -> Range<usize> {
        row * self.batch * width..(row + 1) * self.batch * width
    }

    /// The buffers of row `row` (`layer * directions + direction`).
    pub(super) fn buffers<'a>(&self, row: usize, all: SharedSlice<'a>, resets: ResetState<'a>) -> StateBuffers<'a> {
        let h =
            |odd| PaddedRows { rows: all.part(self.h(row, odd), self.batch * self.h_stride), stride: self.h_stride };
        let s = |at| PaddedRows { rows: all.part(self.s(row, at), self.batch * self.s_stride), stride: self.s_stride };
        let initial = |rows: Option<&'a [f32]>, width: usize| InitialRows {
            rows: rows.map(|rows| &rows[self.in_caller(row, width)]),
            width,
        };
        StateBuffers {
            h: [h(0), h(1)],
            s: s(0),
            m: s(1),
            a_z: s(2),
            initial_h: initial(resets.h, self.out),
            initial_s: initial(resets.s, self.hidden),
        }
    }

    /// Copies the state of a layer and direction into the working buffer, of the rows that `active` says may change. Rows that
    /// the first step resets, by its flags `first`, get their initial state.
    pub(super) fn load(
        &self,
        row: usize,
        all: &mut [f32],
        caller: &CallerState<'_>,
        resets: ResetState<'_>,
        (first, active): (Option<&[u32]>, Option<&ActiveRows>),
    ) {
        let mut copy = |at: usize, width: usize, stride: usize, now: &[f32], reset: Option<&[f32]>| {
            let region = self.in_caller(row, width);
            let rows = now[region.clone()].chunks_exact(width);
            for (b, (to, now)) in all[at..].chunks_mut(stride).zip(rows).enumerate() {
                if active.is_some_and(|active| !active.changes(b)) {
                    continue;
                }
                let to = &mut to[..width];
                match (first.is_some_and(|flags| flags[b] & RESET != 0), reset) {
                    (false, _) => to.copy_from_slice(now),
                    (true, Some(reset)) => to.copy_from_slice(&reset[region.start + b * width..][..width]),
                    (true, None) => to.fill(0.0),
                }
            }
        };
        copy(self.h(row, 0), self.out, self.h_stride, caller.h, resets.h);
        if self.has_cell {
            copy(self.s(row, 0), self.hidden, self.s_stride, caller.s, resets.s);
        }
    }

    /// Copies the state after `time` steps back to the caller, of the rows that `active` says may have changed.
    pub(super) fn save(
        &self,
        row: usize,
        all: &[f32],
        caller: &mut CallerState<'_>,
        (time, active): (usize, Option<&ActiveRows>),
    ) {
        let copy = |at: usize, width: usize, stride: usize, to: &mut [f32]| {
            let rows = to[self.in_caller(row, width)].chunks_exact_mut(width);
            let changed = |b: usize| active.is_none_or(|active| active.changes(b));
            for (_, (from, to)) in all[at..].chunks(stride).zip(rows).enumerate().filter(|&(b, _)| changed(b)) {
                to.copy_from_slice(&from[..width]);
            }
        };
        copy(self.h(row, time % 2), self.out, self.h_stride, caller.h);
        if self.has_cell {
            copy(self.s(row, 0), self.hidden, self.s_stride, caller.s);
        }
    }
}

//! The state of all layers and directions in a call's working buffer.

use std::ops::Range;

use super::layer::Buffers;
use super::memory::Shared;
use super::update::{Initial, Padded};
use crate::cell::RESET;

/// The state as its owner holds it.
pub(super) struct Owned<'a> {
    /// `[layers directions, B, O]`
    pub(super) h: &'a mut [f32],
    /// `[layers directions, B, hidden]`, or nothing.
    pub(super) s: &'a mut [f32],
}

/// What a reset returns to, shaped as [`Owned`]; zero where absent.
#[derive(Clone, Copy)]
pub(super) struct Resets<'a> {
    pub(super) h: Option<&'a [f32]>,
    pub(super) s: Option<&'a [f32]>,
}

/// Where the parts of one layer and direction lie in the working buffer: `h` of even and of odd steps, `s`, `m` and `z`,
/// their rows padded to whole registers.
#[derive(Clone, Copy)]
pub(super) struct Places {
    batch: usize,
    out: usize,
    hidden: usize,
    has_cell: bool,
    h_stride: usize,
    s_stride: usize,
}

impl Places {
    pub(super) fn new(batch: usize, (out, hidden): (usize, usize), has_cell: bool, lanes: usize) -> Self {
        // A distance at which all rows would share their places in the first cache is avoided.
        let stride = |units: usize| match units.next_multiple_of(lanes) {
            padded if padded % 256 == 0 => padded + 16,
            padded => padded,
        };
        Self { batch, out, hidden, has_cell, h_stride: stride(out), s_stride: stride(hidden) }
    }

    /// Numbers of one layer and direction.
    pub(super) fn len(&self) -> usize {
        self.batch * (2 * self.h_stride + 3 * self.s_stride)
    }

    fn h(&self, row: usize, odd: usize) -> usize {
        row * self.len() + odd * self.batch * self.h_stride
    }

    fn s(&self, row: usize, at: usize) -> usize {
        row * self.len() + self.batch * (2 * self.h_stride + at * self.s_stride)
    }

    fn owned(&self, row: usize, width: usize) -> Range<usize> {
        row * self.batch * width..(row + 1) * self.batch * width
    }

    /// The parts of row `row` (`layer * directions + direction`).
    pub(super) fn buffers<'a>(&self, row: usize, all: Shared<'a>, resets: Resets<'a>) -> Buffers<'a> {
        let h = |odd| Padded { rows: all.part(self.h(row, odd), self.batch * self.h_stride), stride: self.h_stride };
        let s = |at| Padded { rows: all.part(self.s(row, at), self.batch * self.s_stride), stride: self.s_stride };
        let initial = |rows: Option<&'a [f32]>, width: usize| Initial {
            rows: rows.map(|rows| &rows[self.owned(row, width)]),
            width,
        };
        Buffers {
            h: [h(0), h(1)],
            s: s(0),
            m: s(1),
            z: s(2),
            initial_h: initial(resets.h, self.out),
            initial_s: initial(resets.s, self.hidden),
        }
    }

    /// Copies a layer and direction's state into the working buffer, rows that the first step resets as they are then.
    pub(super) fn load(
        &self,
        row: usize,
        all: &mut [f32],
        owned: &Owned<'_>,
        resets: Resets<'_>,
        first: Option<&[u32]>,
    ) {
        let mut copy = |at: usize, width: usize, stride: usize, now: &[f32], reset: Option<&[f32]>| {
            let region = self.owned(row, width);
            let rows = now[region.clone()].chunks_exact(width);
            for (b, (to, now)) in all[at..].chunks_mut(stride).zip(rows).enumerate() {
                let to = &mut to[..width];
                match (first.is_some_and(|flags| flags[b] & RESET != 0), reset) {
                    (false, _) => to.copy_from_slice(now),
                    (true, Some(reset)) => to.copy_from_slice(&reset[region.start + b * width..][..width]),
                    (true, None) => to.fill(0.0),
                }
            }
        };
        copy(self.h(row, 0), self.out, self.h_stride, owned.h, resets.h);
        if self.has_cell {
            copy(self.s(row, 0), self.hidden, self.s_stride, owned.s, resets.s);
        }
    }

    /// Copies the state after `time` steps back to its owner.
    pub(super) fn save(&self, row: usize, all: &[f32], owned: &mut Owned<'_>, time: usize) {
        let copy = |at: usize, width: usize, stride: usize, to: &mut [f32]| {
            let rows = to[self.owned(row, width)].chunks_exact_mut(width);
            for (from, to) in all[at..].chunks(stride).zip(rows) {
                to.copy_from_slice(&from[..width]);
            }
        };
        copy(self.h(row, time % 2), self.out, self.h_stride, owned.h);
        if self.has_cell {
            copy(self.s(row, 0), self.hidden, self.s_stride, owned.s);
        }
    }
}

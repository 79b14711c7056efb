//! The rows of a batch that take part in each step. A product leaves out the others.

use std::ops::Range;

use super::product::OperandRows;
use crate::cell::{RESET, VALID};
use crate::error::Result;
use crate::memory;

/// The rows that take part in each step of a call, in the order of time.
#[derive(Default)]
pub(super) struct ActiveRows {
    /// The rows, step by step.
    rows: Vec<usize>,
    /// Index in `rows` of each step's first row, and of the end.
    starts: Vec<usize>,
    /// Whether a row takes part in any step or is reset before one.
    changed: Vec<bool>,
}

impl ActiveRows {
    /// Lists the rows of `of` whose flags `[T, batch]` say that they take part. Any other flags of as many steps and rows
    /// need no more memory.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(super) fn list(
        &mut self,
        op: &'static str,
        (flags, batch): (&[u32], usize),
        of: &Range<usize>,
    ) -> Result<&Self> {
        let time = flags.len().checked_div(batch).unwrap_or(0);
        memory::clear_for(op, &mut self.rows, time * of.len())?;
        memory::clear_for(op, &mut self.starts, time + 1)?;
        memory::clear_for(op, &mut self.changed, of.len())?;
        self.changed.resize(of.len(), false);
        self.starts.push(0);
        for flags in flags.chunks_exact(batch.max(1)) {
            let flags = flags[of.clone()].iter().enumerate();
            self.rows.extend(flags.clone().filter(|(_, flags)| **flags & VALID != 0).map(|(row, _)| row));
            for (changed, (_, flags)) in self.changed.iter_mut().zip(flags) {
                *changed |= flags & (VALID | RESET) != 0;
            }
            self.starts.push(self.rows.len());
        }
        Ok(self)
    }

    /// Rows before the step at time `t`, summed over all earlier steps.
    pub(super) fn before(&self, t: usize) -> usize {
        self.starts[t]
    }

    /// Whether the call may change a row's state.
    pub(super) fn changes(&self, row: usize) -> bool {
        self.changed[row]
    }

    /// Rows of all steps.
    pub(super) fn total(&self) -> usize {
        self.rows.len()
    }

    /// The rows of the step at time `t`.
    pub(super) fn of_step(&self, t: usize) -> StepRows<'_> {
        StepRows::of_list(&self.rows[self.starts[t]..self.starts[t + 1]])
    }
}

/// The rows that take part in a step, in ascending order.
#[derive(Clone, Copy)]
pub(super) struct StepRows<'a> {
    first: usize,
    count: usize,
    /// `None` if the rows follow each other from `first` on.
    list: Option<&'a [usize]>,
}

impl<'a> StepRows<'a> {
    /// All of `count` rows.
    pub(super) fn all(count: usize) -> Self {
        Self { first: 0, count, list: None }
    }

    fn of_list(list: &'a [usize]) -> Self {
        let (first, last) = list.first().zip(list.last()).map_or((0, 0), |(&first, &last)| (first, last));
        let gaps = !list.is_empty() && last - first + 1 > list.len();
        Self { first, count: list.len(), list: gaps.then_some(list) }
    }

    pub(super) fn count(self) -> usize {
        self.count
    }

    /// Whether every row of a batch takes part.
    pub(super) fn is_all(self, batch: usize) -> bool {
        self.count == batch
    }

    /// The row at a position of the list.
    #[inline(always)]
    pub(super) fn row(self, position: usize) -> usize {
        self.list.map_or(self.first + position, |list| list[position])
    }

    pub(super) fn iter(self) -> impl ExactSizeIterator<Item = usize> + 'a {
        (0..self.count).map(move |position| self.row(position))
    }

    /// Copies these rows of `from`, where all rows lie, one after the other to `to`.
    pub(super) fn copy(self, from: &[f32], width: usize, to: &mut [f32]) {
        if self.list.is_none() {
            to.copy_from_slice(&from[self.first * width..][..self.count * width]);
            return;
        }
        for (row, to) in self.iter().zip(to.chunks_exact_mut(width.max(1))) {
            to.copy_from_slice(&from[row * width..][..width]);
        }
    }

    /// Copies these rows of an operand that holds all rows, `depth` numbers each, to `gathered` if other rows lie between them.
    pub(super) fn gather(self, all: OperandRows<'_>, depth: usize, gathered: &mut [f32]) {
        let listed = self.list.into_iter().flatten();
        for (position, &row) in listed.enumerate() {
            gathered[position * all.stride..][..depth].copy_from_slice(&all.numbers[row * all.stride..][..depth]);
        }
    }

    /// These rows of an operand that holds all rows, after [`StepRows::gather`].
    pub(super) fn of<'b>(self, all: OperandRows<'b>, gathered: &'b [f32]) -> OperandRows<'b> {
        if self.list.is_some() {
            return OperandRows { numbers: gathered, count: self.count, ..all };
        }
        let first = if self.count == 0 { 0 } else { self.first };
        all.slice(first..first + self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_of_a_step_are_those_whose_flags_say_so() {
        let flags = [[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 3, 1], [2, 0, 2, 0]].concat();
        let mut active = ActiveRows::default();
        let list = |active: &ActiveRows, t| active.of_step(t).iter().collect::<Vec<_>>();
        active.list("test", (&flags, 4), &(0..4)).expect("room");
        let expected = [vec![0, 1, 2, 3], vec![1, 2], vec![0, 2, 3], vec![]];
        assert_eq!([0, 1, 2, 3].map(|t| list(&active, t)), expected);
        assert_eq!([0, 1, 2, 3, 4].map(|t| active.before(t)), [0, 4, 6, 9, 9]);
        assert_eq!(active.total(), 9);
        active.list("test", (&[1, 0, 2, 0, 0, 0, 0, 0], 4), &(0..4)).expect("room");
        assert_eq!([0, 1, 2, 3].map(|row| active.changes(row)), [true, false, true, false]);
        active.list("test", (&flags, 4), &(1..3)).expect("room");
        assert_eq!([0, 1, 2, 3].map(|t| list(&active, t)), [vec![0, 1], vec![0, 1], vec![1], vec![]]);
    }

    #[test]
    fn gathered_rows_are_the_active_ones() {
        let numbers: Vec<f32> = (0..15).map(|at| at as f32).collect();
        let all = OperandRows { numbers: &numbers, stride: 3, count: 5 };
        for list in [&[0, 1, 2, 3, 4][..], &[1, 2], &[0, 2, 4], &[4], &[]] {
            let mut gathered = vec![f32::NAN; 15];
            StepRows::of_list(list).gather(all, 2, &mut gathered);
            let rows = StepRows::of_list(list).of(all, &gathered);
            assert_eq!(rows.count, list.len());
            for (position, &row) in list.iter().enumerate() {
                assert_eq!(rows.numbers[position * rows.stride..][..2], numbers[row * 3..][..2]);
            }
        }
    }
}

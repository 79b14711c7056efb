//! The weights' gradients: sums over the steps and rows that the way back has passed.

use std::ops::Range;

use ndarray::{Array2, ArrayViewMut1};

use super::backward::Through;
use super::forward::Run;
use super::{ChunkTape, GROUP_STEPS, OP, Span, TrainingStack};
use crate::cell::Parameters;
use crate::cpu::outer::{BLOCK, OuterSum, OuterSums};
use crate::error::Result;
use crate::memory;

/// What a run left of a span, there and back.
pub(super) struct Passed<'a> {
    pub(super) run: &'a Run<'a>,
    /// The layer's input, `[T, rows, input]`.
    pub(super) x: &'a [f32],
    pub(super) chunk: &'a ChunkTape,
    pub(super) through: &'a Through,
}

/// Numbers of all rows of a batch for some steps; each part has its own rows of one step after another.
struct Steps<'a> {
    /// With the rows of a step.
    parts: Vec<(&'a [f32], usize)>,
    width: usize,
}

impl<'a> Steps<'a> {
    fn new(passed: &[Passed<'a>], width: usize, of: impl Fn(&Passed<'a>) -> &'a [f32]) -> Self {
        Self { parts: passed.iter().map(|part| (of(part), part.run.rows.len())).collect(), width }
    }

    /// The rows of some steps, step by step.
    fn rows(&self, steps: Range<usize>) -> impl Iterator<Item = &'a [f32]> {
        steps.flat_map(move |step| {
            self.parts.iter().flat_map(move |&(numbers, rows)| {
                let size = rows * self.width;
                numbers[step * size..(step + 1) * size].chunks_exact(self.width.max(1))
            })
        })
    }
}

/// Some rows of weight matrices and what their gradients are the sums of: `a^T b`.
struct Share<'a> {
    sums: OuterSums<'a>,
    a: &'a Steps<'a>,
    b: Vec<&'a Steps<'a>>,
}

/// Cuts rows of matrices that have them in common into shares for so many threads; their columns in `a` begin with `first`.
fn shares<'a>(
    threads: usize,
    (a, first): (&'a Steps<'a>, usize),
    of: Vec<(&'a mut [f32], &'a Steps<'a>)>,
) -> Vec<Share<'a>> {
    let mut all: Vec<Share<'a>> = Vec::new();
    for (into, b) in of {
        let width = b.width.max(1);
        let rows = (into.len() / width).div_ceil(threads).next_multiple_of(BLOCK).max(BLOCK);
        for (at, into) in into.chunks_mut(rows * width).enumerate() {
            if at == all.len() {
                let sums = OuterSums { first: first + at * rows, sums: Vec::new() };
                all.push(Share { sums, a, b: Vec::new() });
            }
            all[at].sums.sums.push(OuterSum { into, width });
            all[at].b.push(b);
        }
    }
    all
}

impl TrainingStack {
    /// Adds a span's share of `dU = d_gates^T x`, `dW = d_first^T h` and whatever else a layer and direction has; `passed` are
    /// its parts.
    pub(super) fn add_weight_gradients(
        &self,
        threads: usize,
        span: Span,
        passed: &[Passed<'_>],
        dp: &mut Parameters,
    ) -> Result<()> {
        let Some(Passed { run, .. }) = passed.first() else { return Ok(()) };
        let (weights, scratch) = (run.weights, run.scratch);
        let (gates, first, out, hidden) = (weights.gates(), weights.first_gates(), weights.out, weights.hidden);
        let start = run.steps.start(run.direction, span);
        let groups = groups(span).map(|group| {
            let first = run.steps.start(run.direction, group) - start;
            first..first + group.steps
        });
        let groups: Vec<Range<usize>> = memory::collected(OP, span.steps.div_ceil(GROUP_STEPS), groups)?;

        let d_gates = Steps::new(passed, gates, |part| &part.through.gates);
        let d_first = Steps::new(passed, gates, |part| part.through.first.as_deref().unwrap_or(&part.through.gates));
        let d_projected = Steps::new(passed, out, |part| &part.through.projected);
        let x = Steps::new(passed, weights.input, |part| &part.x[start * part.run.rows.len() * weights.input..]);
        let h = Steps::new(passed, out, |part| part.through.h_masked.as_deref().unwrap_or(&part.chunk.h));
        let second = Steps::new(passed, hidden, |part| &part.chunk.second);

        let (of_first, of_candidate) = numbers(&mut dp.weight_hh).split_at_mut(first * out);
        let splits = passed.iter().any(|part| part.through.first.is_some());
        let of_input = (numbers(&mut dp.weight_ih), &x);
        let mut all = if splits || first < gates {
            let mut all = shares(threads, (&d_gates, 0), vec![of_input]);
            all.extend(shares(threads, (&d_first, 0), vec![(of_first, &h)]));
            all.extend(shares(threads, (&d_gates, first), vec![(of_candidate, &second)]));
            all
        } else {
            shares(threads, (&d_gates, 0), vec![of_input, (of_first, &h)])
        };
        if let Some(weight) = &mut dp.weight_hr {
            all.extend(shares(threads, (&d_projected, 0), vec![(numbers(weight), &second)]));
        }
        self.each(threads, all, |Share { mut sums, a, b }| {
            for group in &groups {
                let mut rows: Vec<_> = b.iter().map(|b| b.rows(group.clone())).collect();
                sums.add(weights.set, scratch, a.rows(group.clone()), &mut rows)?;
            }
            Ok(())
        })?;

        for group in &groups {
            let sums = column_sums(gates, d_gates.rows(group.clone()))?;
            if let Some(bias) = &mut dp.bias_ih {
                add(bias.view_mut(), &sums);
            }
            if let Some(bias) = &mut dp.bias_hh {
                let sums = if splits { column_sums(gates, d_first.rows(group.clone()))? } else { sums };
                add(bias.view_mut(), &sums);
            }
        }
        if let Some(peephole) = &mut dp.peephole {
            let blocks = gates / hidden;
            let s = Steps::new(passed, hidden, |part| &part.chunk.s);
            let s_next = Steps::new(passed, hidden, |part| &part.chunk.s_next);
            // The forget gate's peephole has no say where the cell has no such gate.
            let seen = [(0, 0, &s), (1, 1, &s), (2, blocks - 1, &s_next)];
            for (row, block, state) in seen.into_iter().filter(|&(row, ..)| row != 1 || blocks == 4) {
                for group in &groups {
                    let mut sums = memory::zeros(OP, hidden)?;
                    for (d, state) in d_gates.rows(group.clone()).zip(state.rows(group.clone())) {
                        let d = &d[block * hidden..][..hidden];
                        sums.iter_mut().zip(d.iter().zip(state)).for_each(|(sum, (d, state))| *sum += d * state);
                    }
                    add(peephole.row_mut(row), &sums);
                }
            }
        }
        Ok(())
    }
}

/// A span's groups of steps, the last one first.
fn groups(span: Span) -> impl Iterator<Item = Span> {
    let end = span.first + span.steps;
    let group = move |at: usize| {
        let first = at * GROUP_STEPS;
        Span { first, steps: GROUP_STEPS.min(end - first) }
    };
    // Spans begin with a group.
    (span.first / GROUP_STEPS..end.div_ceil(GROUP_STEPS)).rev().map(group)
}

/// A matrix's numbers, row by row.
fn numbers(matrix: &mut Array2<f32>) -> &mut [f32] {
    matrix.as_slice_mut().unwrap_or_default()
}

fn column_sums<'a>(width: usize, rows: impl Iterator<Item = &'a [f32]>) -> Result<Vec<f32>> {
    let mut sums = memory::zeros::<f32>(OP, width)?;
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    Ok(sums)
}

fn add(mut into: ArrayViewMut1<'_, f32>, sums: &[f32]) {
    into.iter_mut().zip(sums).for_each(|(into, sum)| *into += sum);
}

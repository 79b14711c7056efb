//! The weights' gradients: sums over the steps and rows through which the backward pass has gone.

use std::ops::Range;

use ndarray::{Array2, ArrayViewMut1};

use super::shard::{LayerShard, SpanTape};
use super::span_backward::SpanGradient;
use super::steps::{GROUP_STEPS, Span};
use super::{OP, TrainingStack};
use crate::cell::Parameters;
use crate::cpu::outer::{BLOCK, OuterSum, OuterSums};
use crate::error::Result;
use crate::memory;

/// A shard with the numbers that both passes kept of a span.
pub(super) struct ShardSpan<'a> {
    pub(super) shard: &'a LayerShard<'a>,
    /// The layer's input, of the rows that take part in each step.
    pub(super) x: &'a [f32],
    pub(super) tape: &'a SpanTape,
    pub(super) d: &'a SpanGradient,
}

/// Numbers of the rows that take part in each step of a span, `width` each, divided among the shards: each holds its own
/// rows, step by step.
struct BatchRows<'a> {
    shards: Vec<(&'a [f32], &'a LayerShard<'a>)>,
    /// The earliest time in the span.
    start: usize,
    width: usize,
}

impl<'a> BatchRows<'a> {
    fn new((passed, start): (&[ShardSpan<'a>], usize), width: usize, of: impl Fn(&ShardSpan<'a>) -> &'a [f32]) -> Self {
        Self { shards: passed.iter().map(|shard| (of(shard), shard.shard)).collect(), start, width }
    }

    /// The rows of some steps, step by step.
    fn of_steps(&self, steps: Range<usize>) -> impl Iterator<Item = &'a [f32]> {
        steps.flat_map(move |step| {
            self.shards.iter().flat_map(move |&(numbers, shard)| {
                let rows = |step: usize| shard.rows_before(self.start + step) - shard.rows_before(self.start);
                numbers[rows(step) * self.width..rows(step + 1) * self.width].chunks_exact(self.width.max(1))
            })
        })
    }
}

/// One thread's task: some rows of weight matrices, and the operands `a` and `b` whose product `a^T b` is their gradient.
struct MatrixTask<'a> {
    sums: OuterSums<'a>,
    a: &'a BatchRows<'a>,
    b: Vec<&'a BatchRows<'a>>,
}

/// Cuts matrices with the same operand `a` into tasks for `threads` threads. The matrices' rows belong to the columns
/// of `a` from `first` on.
fn matrix_tasks<'a>(
    threads: usize,
    (a, first): (&'a BatchRows<'a>, usize),
    of: Vec<(&'a mut [f32], &'a BatchRows<'a>)>,
) -> Vec<MatrixTask<'a>> {
    let mut all: Vec<MatrixTask<'a>> = Vec::new();
    for (into, b) in of {
        let width = b.width.max(1);
        let rows = (into.len() / width).div_ceil(threads).next_multiple_of(BLOCK).max(BLOCK);
        for (at, into) in into.chunks_mut(rows * width).enumerate() {
            if at == all.len() {
                let sums = OuterSums { first: first + at * rows, sums: Vec::new() };
                all.push(MatrixTask { sums, a, b: Vec::new() });
            }
            all[at].sums.sums.push(OuterSum { into, width });
            all[at].b.push(b);
        }
    }
    all
}

impl TrainingStack {
    /// Adds a span's share of the gradients of all weights of a layer and direction, whose shards are `passed`.
    pub(super) fn add_weight_gradients(
        &self,
        threads: usize,
        span: Span,
        passed: &[ShardSpan<'_>],
        dp: &mut Parameters,
    ) -> Result<()> {
        let Some(ShardSpan { shard, .. }) = passed.first() else { return Ok(()) };
        let start = shard.steps.start(shard.direction, span);
        let groups = span.groups().map(|group| {
            let first = shard.steps.start(shard.direction, group) - start;
            first..first + group.steps
        });
        let groups: Vec<Range<usize>> = memory::collected(OP, span.steps.div_ceil(GROUP_STEPS), groups)?;
        let span = SpanSums { shard, passed, groups, start };
        self.add_matrix_gradients(threads, &span, dp)?;
        span.add_bias_gradients(dp)?;
        span.add_peephole_gradients(dp)
    }

    /// `dU += d_gates^T x`, `dW += d_state^T h` and `dW_hr += d_projected^T m`. The candidate's rows of `dW` are
    /// `d_gates^T (r h)` if a GRU resets before the product.
    fn add_matrix_gradients(&self, threads: usize, span: &SpanSums<'_>, dp: &mut Parameters) -> Result<()> {
        let SpanSums { shard, passed, groups, start } = span;
        let of_span = (*passed, *start);
        let (weights, buffers) = (shard.weights, shard.buffers);
        let (first, out) = (weights.first_gates(), weights.out);
        let (d_gates, d_state) = (span.d_gates(), span.d_state_part());
        let d_projected = BatchRows::new(of_span, out, |shard| &shard.d.projected);
        let x =
            BatchRows::new(of_span, weights.input, |span| &span.x[span.shard.rows_before(*start) * weights.input..]);
        let h = BatchRows::new(of_span, out, |shard| shard.d.masked_h.as_deref().unwrap_or(&shard.tape.h));
        let second = BatchRows::new(of_span, weights.hidden, |shard| &shard.tape.second);

        let (of_first, of_candidate) = numbers(&mut dp.weight_hh).split_at_mut(first * out);
        let of_input = (numbers(&mut dp.weight_ih), &x);
        let mut tasks = if weights.resets_after() || weights.resets_before() {
            let mut tasks = matrix_tasks(threads, (&d_gates, 0), vec![of_input]);
            tasks.extend(matrix_tasks(threads, (&d_state, 0), vec![(of_first, &h)]));
            tasks.extend(matrix_tasks(threads, (&d_gates, first), vec![(of_candidate, &second)]));
            tasks
        } else {
            matrix_tasks(threads, (&d_gates, 0), vec![of_input, (of_first, &h)])
        };
        if let Some(weight) = &mut dp.weight_hr {
            tasks.extend(matrix_tasks(threads, (&d_projected, 0), vec![(numbers(weight), &second)]));
        }
        self.each(threads, tasks, |MatrixTask { mut sums, a, b }| {
            for group in groups {
                let mut rows: Vec<_> = b.iter().map(|b| b.of_steps(group.clone())).collect();
                sums.add(weights.set, buffers, a.of_steps(group.clone()), &mut rows)?;
            }
            Ok(())
        })?;
        Ok(())
    }
}

/// A span of a layer and direction, with all its shards.
struct SpanSums<'a> {
    /// Any of the shards.
    shard: &'a LayerShard<'a>,
    passed: &'a [ShardSpan<'a>],
    /// The steps of each group, as indices in the span's buffers.
    groups: Vec<Range<usize>>,
    /// The earliest time in the span.
    start: usize,
}

impl<'a> SpanSums<'a> {
    /// Gradient with respect to `U x + b_ih`.
    fn d_gates(&self) -> BatchRows<'a> {
        BatchRows::new((self.passed, self.start), self.shard.weights.gates(), |shard| &shard.d.gates)
    }

    /// Gradient with respect to `W h + b_hh`.
    fn d_state_part(&self) -> BatchRows<'a> {
        BatchRows::new((self.passed, self.start), self.shard.weights.gates(), |shard| {
            shard.d.state_part.as_deref().unwrap_or(&shard.d.gates)
        })
    }

    fn add_bias_gradients(&self, dp: &mut Parameters) -> Result<()> {
        let gates = self.shard.weights.gates();
        let (d_gates, d_state) = (self.d_gates(), self.d_state_part());
        for group in &self.groups {
            let sums = column_sums(gates, d_gates.of_steps(group.clone()))?;
            if let Some(bias) = &mut dp.bias_ih {
                add(bias.view_mut(), &sums);
            }
            if let Some(bias) = &mut dp.bias_hh {
                let differs = self.shard.weights.resets_after();
                let sums = if differs { column_sums(gates, d_state.of_steps(group.clone()))? } else { sums };
                add(bias.view_mut(), &sums);
            }
        }
        Ok(())
    }

    fn add_peephole_gradients(&self, dp: &mut Parameters) -> Result<()> {
        let Some(peephole) = &mut dp.peephole else { return Ok(()) };
        let (hidden, d_gates) = (self.shard.weights.hidden, self.d_gates());
        let blocks = d_gates.width / hidden;
        let s = BatchRows::new((self.passed, self.start), hidden, |shard| &shard.tape.s);
        let s_next = BatchRows::new((self.passed, self.start), hidden, |shard| &shard.tape.s_next);
        // A cell without a forget gate still has the gate's peephole row, but does not read it.
        let seen = [(0, 0, &s), (1, 1, &s), (2, blocks - 1, &s_next)];
        for (row, block, state) in seen.into_iter().filter(|&(row, ..)| row != 1 || blocks == 4) {
            for group in &self.groups {
                let mut sums = memory::zeros(OP, hidden)?;
                for (d, state) in d_gates.of_steps(group.clone()).zip(state.of_steps(group.clone())) {
                    let d = &d[block * hidden..][..hidden];
                    sums.iter_mut().zip(d.iter().zip(state)).for_each(|(sum, (d, state))| *sum += d * state);
                }
                add(peephole.row_mut(row), &sums);
            }
        }
        Ok(())
    }
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

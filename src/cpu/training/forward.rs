//! The forward pass: a layer after the other, each direction's parts of the rows side by side.

use std::ops::Range;
use std::sync::Arc;

use super::step::StepForward;
use super::weights::{LayerWeights, resets_before};
use super::{
    ChunkTape, GROUP_STEPS, LayerTape, OP, RunTape, Span, TrainingCall, TrainingOutput, TrainingStack, TrainingSteps,
    TrainingTape, Walk, put_rows, take_rows,
};
use crate::cell::{Cell, Draw, GruCell, Mask, Pad, RESET, Reset, VALID};
use crate::cpu::buffer_cache::{BufferCache, CachedBuffer};
use crate::error::{Result, elements};
use crate::memory;
use crate::op::Binary;

impl TrainingSteps {
    /// The flags of a row of a step.
    pub(super) fn flag(&self, t: usize, row: usize) -> u32 {
        self.flags.as_ref().map_or(VALID, |flags| flags[t * self.batch + row])
    }

    /// The place in time of the `k`th step of a direction.
    pub(super) fn place(&self, direction: Direction, k: usize) -> usize {
        match direction {
            Direction::Forward => k,
            Direction::Reverse => self.time - 1 - k,
        }
    }

    /// The chunks that a tape is cut into.
    pub(super) fn spans(&self) -> impl ExactSizeIterator<Item = Span> + DoubleEndedIterator {
        let longest =
            self.checkpoint.and_then(|steps| steps.checked_next_multiple_of(GROUP_STEPS)).unwrap_or(self.time).max(1);
        // Steps without rows are not walked: there may be any number of them.
        let time = if self.batch == 0 { 0 } else { self.time };
        (0..time).step_by(longest).map(move |first| Span { first, steps: longest.min(time - first) })
    }

    /// Where a span lies in time.
    pub(super) fn start(&self, direction: Direction, span: Span) -> usize {
        match direction {
            Direction::Forward => span.first,
            Direction::Reverse => self.time - span.first - span.steps,
        }
    }

    /// Index of the first element of a row of a step in a mask `[T, B, width]`.
    #[expect(clippy::cast_possible_truncation, reason = "masks count their elements in 32 bits and wrap around")]
    pub(super) fn mask_index(&self, t: usize, row: usize, width: usize) -> u32 {
        ((t * self.batch + row) * width) as u32
    }

    /// The factors of `h` in the recurrent products, `[rows, width]`.
    pub(super) fn recurrent_mask(&self, row: usize, rows: &Range<usize>, width: usize) -> Result<Option<Vec<f32>>> {
        let Some(draw) = self.noise.draw(Mask::Recurrent { row }) else { return Ok(None) };
        let first = self.mask_index(0, rows.start, width);
        memory::collected(OP, rows.len() * width, (first..).map(|index| draw.factor(index))).map(Some)
    }

    /// Multiplies a layer's output `[T, rows, width]` by its mask.
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

/// `a * mask`, or `a` itself.
pub(super) fn masked<'a>(a: &'a [f32], mask: Option<&[f32]>, buffer: &'a mut [f32]) -> &'a [f32] {
    let Some(mask) = mask else { return a };
    for ((to, &a), &mask) in buffer.iter_mut().zip(a).zip(mask) {
        *to = a * mask;
    }
    &buffer[..a.len()]
}

/// Moves a state on; the elements that a mask drops keep their old value.
fn advance(state: &mut [f32], new: &[f32], zoneout: Option<Draw>, first: u32) {
    let Some(draw) = zoneout else { return state.copy_from_slice(new) };
    for ((index, state), &new) in (first..).zip(state).zip(new) {
        if draw.keeps(index) {
            *state = new;
        }
    }
}

/// Some rows of a state or of its gradient, `[layers directions, B, width]`; zeros where absent.
pub(super) fn rows_of(
    state: Option<&[f32]>,
    row: usize,
    batch: usize,
    width: usize,
    rows: &Range<usize>,
) -> Result<Vec<f32>> {
    match state {
        Some(state) => memory::copied(OP, &state[(row * batch + rows.start) * width..][..rows.len() * width]),
        None => memory::zeros(OP, rows.len() * width),
    }
}

impl TrainingStack {
    /// Runs all layers over the sequence and keeps what the backward pass needs. The slices have the lengths that
    /// [`TrainingCall`] says.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(crate) fn forward(
        self: Arc<Self>,
        call: &TrainingCall<'_>,
        steps: TrainingSteps,
    ) -> Result<(TrainingOutput, TrainingTape)> {
        let TrainingSteps { time, batch, .. } = steps;
        let threads = self.threads(&steps);
        let parts = self.parts(batch, threads);
        let mut output = TrainingOutput {
            y: memory::zeros(OP, elements(OP, "y", &[time, batch, self.width()])?)?,
            h: memory::zeros(OP, call.h.len())?,
            s: memory::zeros(OP, call.s.len())?,
        };
        let mut x = self.each(threads, &parts, |rows| self.input_rows(call, &steps, rows))?;
        let mut layers = memory::room(OP, self.layers.len())?;
        for layer in 0..self.layers.len() {
            let runs = self.runs(layer, &steps, &parts);
            let results = self.each(threads, runs.iter().zip(x.iter().cycle()), |(run, x)| run.forward(call, x))?;
            let (mut tapes, mut outputs) = (Vec::with_capacity(runs.len()), Vec::with_capacity(runs.len()));
            for (run, (tape, y, last)) in runs.iter().zip(results) {
                put_rows(&mut output.h[run.row * batch * self.out..], batch, self.out, run.rows, &last.h);
                if !call.s.is_empty() {
                    put_rows(&mut output.s[run.row * batch * self.hidden..], batch, self.hidden, run.rows, &last.s);
                }
                tapes.push(tape);
                outputs.push(y);
            }
            let mut y = if self.directions.len() == 2 {
                let (forward, reverse) = outputs.split_at(parts.len());
                let y = self.each(threads, forward.iter().zip(reverse), |(a, b)| self.merged(a, b))?;
                if self.merge == Some(Binary::Mul) {
                    tapes.iter_mut().zip(outputs).for_each(|(tape, y)| tape.y = Some(y));
                }
                y
            } else {
                outputs
            };
            if layer + 1 < self.layers.len() {
                y.iter_mut().zip(&parts).for_each(|(y, rows)| steps.drop_out(layer, rows, self.width(), y));
            }
            layers.push(LayerTape { x: std::mem::replace(&mut x, y), runs: tapes });
        }
        x.iter().zip(&parts).for_each(|(y, rows)| put_rows(&mut output.y, batch, self.width(), rows, y));
        Ok((output, TrainingTape { stack: self, steps, threads, parts, layers }))
    }

    /// Some rows of the input, `[T, rows, input]`.
    fn input_rows(&self, call: &TrainingCall<'_>, steps: &TrainingSteps, rows: &Range<usize>) -> Result<CachedBuffer> {
        let width = self.layers[0][0].input;
        let mut x = self.device.buffers().take(steps.time * rows.len() * width)?;
        take_rows(call.x, steps.batch, width, rows, &mut x);
        if steps.flags.is_some() {
            silence(&mut x, steps, rows);
        }
        Ok(x)
    }
}

/// Zeros where a step is skipped: what stands there, even a NaN, has no say in the weights' gradients.
fn silence(x: &mut [f32], steps: &TrainingSteps, rows: &Range<usize>) {
    let width = x.len() / (steps.time * rows.len()).max(1);
    for t in 0..steps.time {
        for (at, row) in rows.clone().enumerate() {
            if steps.flag(t, row) & VALID == 0 {
                x[(t * rows.len() + at) * width..][..width].fill(0.0);
            }
        }
    }
}

/// A layer and direction of some rows.
pub(super) struct Run<'a> {
    pub(super) weights: &'a LayerWeights,
    pub(super) direction: Direction,
    /// `layer * directions + direction`
    pub(super) row: usize,
    pub(super) steps: &'a TrainingSteps,
    pub(super) rows: &'a Range<usize>,
    pub(super) scratch: &'a BufferCache,
}

impl Run<'_> {
    /// Width of the cell state, 0 without one.
    pub(super) fn cell_width(&self) -> usize {
        if self.weights.cell.has_cell_state() { self.weights.hidden } else { 0 }
    }

    /// The first stage of a step, whatever follows it.
    pub(super) fn first_stage(&self) -> Stage {
        if resets_before(&self.weights.cell) { Stage::Reset } else { Stage::Whole }
    }

    /// Width of what is kept for a second product or of it.
    pub(super) fn second_width(&self) -> usize {
        let cell = &self.weights.cell;
        if matches!(cell, Cell::Gru(_)) || cell.projection().is_some() { self.weights.hidden } else { 0 }
    }

    /// A buffer in which rows that a step skips may be left alone: they hold zeros.
    pub(super) fn blank(&self, len: usize) -> Result<CachedBuffer> {
        if self.steps.flags.is_some() { self.scratch.zeros(len) } else { self.scratch.take(len) }
    }

    /// Returns what is kept, the output `[T, rows, O]`, and the last state.
    fn forward(&self, call: &TrainingCall<'_>, x: &[f32]) -> Result<(RunTape, CachedBuffer, Walk)> {
        let Self { steps, rows, row, .. } = self;
        let (out, s_width, count) = (self.weights.out, self.cell_width(), rows.len());
        let mut walk = Walk {
            h: rows_of(Some(call.h), *row, steps.batch, out, rows)?,
            s: rows_of(Some(call.s), *row, steps.batch, s_width, rows)?,
            held: memory::zeros(OP, count * out)?,
        };
        let initial_h = rows_of(call.initial_h, *row, steps.batch, out, rows)?;
        let initial_s = rows_of(call.initial_s, *row, steps.batch, s_width, rows)?;
        let (spans, initial) = (steps.spans().len(), [initial_h, initial_s]);
        let [chunks, borders] = if steps.checkpoint.is_some() { [0, spans] } else { [spans, 0] };
        let (chunks, borders) = (memory::room(OP, chunks)?, memory::room(OP, borders)?);
        let mut tape = RunTape { chunks, borders, initial, y: None };
        let mut y = self.scratch.take(steps.time * count * out)?;
        for span in steps.spans() {
            let border = steps.checkpoint.map(|_| walk.try_clone()).transpose()?;
            let y = &mut y[steps.start(self.direction, span) * count * out..][..span.steps * count * out];
            let chunk = self.forward_chunk(span, x, &tape.initial, &mut walk, y)?;
            match border {
                Some(border) => tape.borders.push(border),
                None => tape.chunks.push(chunk),
            }
        }
        Ok((tape, y, walk))
    }

    /// Takes the steps of a span; `y [steps, rows, O]` is its part of the output.
    pub(super) fn forward_chunk(
        &self,
        span: Span,
        x: &[f32],
        [initial_h, initial_s]: &[Vec<f32>; 2],
        Walk { h, s, held }: &mut Walk,
        y: &mut [f32],
    ) -> Result<ChunkTape> {
        let Self { weights, steps, rows, row, .. } = self;
        let LayerWeights { hidden, out, input, set, .. } = **weights;
        let (all, count) = (span.steps * rows.len(), rows.len());
        let (s_width, second_width) = (self.cell_width(), self.second_width());
        let gate_stride = weights.x.stride();
        let mut tape = ChunkTape {
            gates: self.scratch.take(all * gate_stride)?,
            second: self.blank(all * second_width)?,
            h: self.scratch.take(all * out)?,
            s: self.scratch.take(all * s_width)?,
            s_next: self.blank(all * s_width)?,
        };
        let start = steps.start(self.direction, span);
        weights.x.multiply(&x[start * count * input..][..all * input], input, all, &mut tape.gates);
        let mask = steps.recurrent_mask(*row, rows, out)?;
        let zone_h = steps.noise.draw(Mask::ZoneoutH { row: *row });
        let zone_s = steps.noise.draw(Mask::ZoneoutS { row: *row });
        let mut mask_buffer = self.scratch.take(if mask.is_some() { count * out } else { 0 })?;
        let mut state_side = self.scratch.take(count * weights.h.stride())?;
        let second_stride = weights.second.as_ref().map_or(0, |second| second.stride());
        let mut second_side = self.scratch.take(count * second_stride)?;
        let mut new = self.scratch.take(count * hidden)?;
        for k in span.first..span.first + span.steps {
            let t = steps.place(self.direction, k);
            let local = t - start;
            let at = |width: usize| local * count * width..(local + 1) * count * width;
            for r in (0..count).filter(|&r| steps.flag(t, rows.start + r) & RESET != 0) {
                h[r * out..(r + 1) * out].copy_from_slice(&initial_h[r * out..(r + 1) * out]);
                s[r * s_width..(r + 1) * s_width].copy_from_slice(&initial_s[r * s_width..(r + 1) * s_width]);
            }
            tape.h[at(out)].copy_from_slice(h);
            tape.s[at(s_width)].copy_from_slice(s);
            let h_masked = masked(h, mask.as_deref(), &mut mask_buffer);
            weights.h.multiply(h_masked, out, count, &mut state_side);
            let valid = |r: usize| steps.flag(t, rows.start + r) & VALID != 0;
            let ChunkTape { gates, second, s_next, .. } = &mut tape;
            let (gates, second, s_next) =
                (&mut gates[at(gate_stride)], &mut second[at(second_width)], &mut s_next[at(s_width)]);
            let mut stage = |stage: Stage, state_side: &[f32], stride: usize, second: &mut [f32], new: &mut [f32]| {
                for r in (0..count).filter(|&r| valid(r)) {
                    set.run(StepForward {
                        cell: &weights.cell,
                        stage,
                        hidden,
                        gates: &mut gates[r * gate_stride..(r + 1) * gate_stride],
                        state_part: &state_side[r * stride..(r + 1) * stride],
                        peephole: &weights.peephole,
                        h: &h[r * out..(r + 1) * out],
                        masked_h: &h_masked[r * out..(r + 1) * out],
                        s: &s[r * s_width..(r + 1) * s_width],
                        s_next: &mut s_next[r * s_width..(r + 1) * s_width],
                        second: &mut second[r * second_width..(r + 1) * second_width],
                        out: &mut new[r * hidden..(r + 1) * hidden],
                    });
                }
            };
            stage(self.first_stage(), &state_side, weights.h.stride(), second, &mut new);
            let (new_h, new_stride) = match &weights.second {
                Some(candidate) if self.first_stage() == Stage::Reset => {
                    candidate.multiply(second, hidden, count, &mut second_side);
                    stage(Stage::Candidate, &second_side, second_stride, second, &mut new);
                    (&new, hidden)
                }
                Some(projection) => {
                    for r in (0..count).filter(|&r| valid(r)) {
                        second[r * hidden..(r + 1) * hidden].copy_from_slice(&new[r * hidden..(r + 1) * hidden]);
                    }
                    projection.multiply(second, hidden, count, &mut second_side);
                    (&second_side, second_stride)
                }
                None => (&new, hidden),
            };
            for r in 0..count {
                let (h, held) = (&mut h[r * out..(r + 1) * out], &mut held[r * out..(r + 1) * out]);
                if valid(r) {
                    advance(h, &new_h[r * new_stride..][..out], zone_h, steps.mask_index(t, rows.start + r, out));
                    if steps.flags.is_some() {
                        held.copy_from_slice(h);
                    }
                    let cells = r * s_width..(r + 1) * s_width;
                    let first = steps.mask_index(t, rows.start + r, s_width);
                    advance(&mut s[cells.clone()], &s_next[cells], zone_s, first);
                } else if steps.pad == Pad::Zero {
                    held.fill(0.0);
                }
            }
            y[at(out)].copy_from_slice(if steps.flags.is_some() { held } else { h });
        }
        Ok(tape)
    }
}

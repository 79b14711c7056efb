//! The forward pass of some rows of a batch.

use std::ops::Range;

use super::step::StepForward;
use super::weights::{LayerWeights, resets_before};
use super::{
    ChunkTape, DirectionTape, GROUP_STEPS, LayerTape, PartTape, Span, TrainingCall, TrainingStack, TrainingSteps, Walk,
    take_rows,
};
use crate::cell::{Cell, Draw, GruCell, Mask, Pad, RESET, Reset, VALID};
use crate::plan::Stage;
use crate::reference::{Binary, Direction};

/// What some rows put out.
pub(super) struct PartOutput {
    /// `[T, rows, width]`
    pub(super) y: Vec<f32>,
    /// By `layer * directions + direction`.
    pub(super) h: Vec<Vec<f32>>,
    pub(super) s: Vec<Vec<f32>>,
}

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
    pub(super) fn spans(&self) -> Vec<Span> {
        let longest = self.checkpoint.map_or(self.time, |steps| steps.next_multiple_of(GROUP_STEPS)).max(1);
        let span = |first| Span { first, steps: longest.min(self.time - first) };
        (0..self.time).step_by(longest).map(span).collect()
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
    pub(super) fn recurrent_mask(&self, row: usize, rows: &Range<usize>, width: usize) -> Option<Vec<f32>> {
        let draw = self.noise.draw(Mask::Recurrent { row })?;
        let first = self.mask_index(0, rows.start, width);
        Some((first..).take(rows.len() * width).map(|index| draw.factor(index)).collect())
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

/// Lets the elements that a mask drops keep their old value.
fn zone_out(draw: Option<Draw>, first: u32, old: &[f32], new: &mut [f32]) {
    let Some(draw) = draw else { return };
    for ((index, &old), new) in (first..).zip(old).zip(new) {
        if !draw.keeps(index) {
            *new = old;
        }
    }
}

/// Some rows of a state or of its gradient, `[layers directions, B, width]`; zeros where absent.
pub(super) fn rows_of(state: Option<&[f32]>, row: usize, batch: usize, width: usize, rows: &Range<usize>) -> Vec<f32> {
    match state {
        Some(state) => state[(row * batch + rows.start) * width..][..rows.len() * width].to_vec(),
        None => vec![0.0; rows.len() * width],
    }
}

impl TrainingStack {
    pub(super) fn forward_part(
        &self,
        call: &TrainingCall<'_>,
        steps: &TrainingSteps,
        rows: Range<usize>,
    ) -> (PartTape, PartOutput) {
        let mut x = take_rows(call.x, steps.time, steps.batch, self.layers[0][0].input, &rows);
        if steps.flags.is_some() {
            silence(&mut x, steps, &rows);
        }
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut output = PartOutput { y: Vec::new(), h: Vec::new(), s: Vec::new() };
        for (layer, weights) in self.layers.iter().enumerate() {
            let mut directions = Vec::new();
            let mut outputs = Vec::new();
            for (at, weights) in weights.iter().enumerate() {
                let row = layer * self.directions.len() + at;
                let run = Run { weights, direction: self.directions[at], row, steps, rows: &rows };
                let (tape, y, last) = run.forward(call, &x);
                directions.push(tape);
                outputs.push(y);
                output.h.push(last.h);
                output.s.push(last.s);
            }
            let mut y = self.merged(&outputs);
            if self.merge == Some(Binary::Mul) {
                directions.iter_mut().zip(outputs).for_each(|(tape, y)| tape.y = y);
            }
            if layer + 1 < self.layers.len() {
                steps.drop_out(layer, &rows, self.width(), &mut y);
            }
            layers.push(LayerTape { x: std::mem::replace(&mut x, y), directions });
        }
        output.y = x;
        (PartTape { rows, layers }, output)
    }

    /// The directions' outputs as one.
    fn merged(&self, outputs: &[Vec<f32>]) -> Vec<f32> {
        match (self.merge, outputs) {
            (Some(op), [a, b]) => a.iter().zip(b).map(|(&a, &b)| op.apply(a, b)).collect(),
            (None, [a, b]) => {
                let rows = a.chunks_exact(self.out).zip(b.chunks_exact(self.out));
                rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect()
            }
            _ => outputs.first().cloned().unwrap_or_default(),
        }
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

/// One layer and direction of some rows.
pub(super) struct Run<'a> {
    pub(super) weights: &'a LayerWeights,
    pub(super) direction: Direction,
    /// `layer * directions + direction`
    pub(super) row: usize,
    pub(super) steps: &'a TrainingSteps,
    pub(super) rows: &'a Range<usize>,
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

    /// Returns what is kept, the output `[T, rows, O]`, and the last state.
    fn forward(&self, call: &TrainingCall<'_>, x: &[f32]) -> (DirectionTape, Vec<f32>, Walk) {
        let Self { steps, rows, row, .. } = self;
        let (out, s_width, count) = (self.weights.out, self.cell_width(), rows.len());
        let mut walk = Walk {
            h: rows_of(Some(call.h), *row, steps.batch, out, rows),
            s: rows_of(Some(call.s), *row, steps.batch, s_width, rows),
            held: vec![0.0; count * out],
        };
        let initial_h = rows_of(call.initial_h, *row, steps.batch, out, rows);
        let initial_s = rows_of(call.initial_s, *row, steps.batch, s_width, rows);
        let initial = [initial_h, initial_s];
        let mut tape = DirectionTape { chunks: Vec::new(), borders: Vec::new(), initial, y: Vec::new() };
        let mut y = vec![0.0; steps.time * count * out];
        for span in steps.spans() {
            let border = steps.checkpoint.map(|_| walk.clone());
            let y = &mut y[steps.start(self.direction, span) * count * out..][..span.steps * count * out];
            let chunk = self.forward_chunk(span, x, &tape.initial, &mut walk, y);
            match border {
                Some(border) => tape.borders.push(border),
                None => tape.chunks.push(chunk),
            }
        }
        (tape, y, walk)
    }

    /// Takes the steps of a span; `y [steps, rows, O]` is its part of the output.
    pub(super) fn forward_chunk(
        &self,
        span: Span,
        x: &[f32],
        [initial_h, initial_s]: &[Vec<f32>; 2],
        Walk { h, s, held }: &mut Walk,
        y: &mut [f32],
    ) -> ChunkTape {
        let Self { weights, steps, rows, row, .. } = self;
        let LayerWeights { hidden, out, input, set, .. } = **weights;
        let (all, count) = (span.steps * rows.len(), rows.len());
        let (s_width, second_width) = (self.cell_width(), self.second_width());
        let gate_stride = weights.x.stride();
        let mut tape = ChunkTape {
            gates: vec![0.0; all * gate_stride],
            second: vec![0.0; all * second_width],
            h: vec![0.0; all * out],
            s: vec![0.0; all * s_width],
            s_next: vec![0.0; all * s_width],
        };
        let start = steps.start(self.direction, span);
        weights.x.multiply(&x[start * count * input..][..all * input], input, all, &mut tape.gates);
        let mask = steps.recurrent_mask(*row, rows, out);
        let zone_h = steps.noise.draw(Mask::ZoneoutH { row: *row });
        let zone_s = steps.noise.draw(Mask::ZoneoutS { row: *row });
        let mut mask_buffer = vec![0.0; if mask.is_some() { count * out } else { 0 }];
        let mut state_side = vec![0.0; count * weights.h.stride()];
        let second_stride = weights.second.as_ref().map_or(0, |second| second.stride());
        let mut second_side = vec![0.0; count * second_stride];
        let mut new = vec![0.0; count * hidden];
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
                        state_side: &state_side[r * stride..(r + 1) * stride],
                        peephole: &weights.peephole,
                        h: &h[r * out..(r + 1) * out],
                        h_masked: &h_masked[r * out..(r + 1) * out],
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
                    (&mut new, hidden)
                }
                Some(projection) => {
                    for r in (0..count).filter(|&r| valid(r)) {
                        second[r * hidden..(r + 1) * hidden].copy_from_slice(&new[r * hidden..(r + 1) * hidden]);
                    }
                    projection.multiply(second, hidden, count, &mut second_side);
                    (&mut second_side, second_stride)
                }
                None => (&mut new, hidden),
            };
            for r in 0..count {
                let (h, held) = (&mut h[r * out..(r + 1) * out], &mut held[r * out..(r + 1) * out]);
                if valid(r) {
                    let new_h = &mut new_h[r * new_stride..][..out];
                    zone_out(zone_h, steps.mask_index(t, rows.start + r, out), h, new_h);
                    h.copy_from_slice(new_h);
                    held.copy_from_slice(new_h);
                    let s = &mut s[r * s_width..(r + 1) * s_width];
                    let mut new_s = s_next[r * s_width..(r + 1) * s_width].to_vec();
                    zone_out(zone_s, steps.mask_index(t, rows.start + r, s_width), s, &mut new_s);
                    s.copy_from_slice(&new_s);
                } else if steps.pad == Pad::Zero {
                    held.fill(0.0);
                }
            }
            y[at(out)].copy_from_slice(held);
        }
        tape
    }
}

/// Whether the candidate's sides have gradients of their own.
pub(super) fn resets_after(cell: &Cell) -> bool {
    matches!(cell, Cell::Gru(GruCell { reset: Reset::After, .. }))
}

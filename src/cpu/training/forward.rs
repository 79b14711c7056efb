//! The forward pass takes the layers from the first to the last. Within a layer, every direction and shard of the batch
//! is computed independently.

use std::sync::Arc;

use super::shard::{CarriedState, LayerShard, ShardRows, ShardStep, ShardTape, SpanTape};
use super::step::StepForward;
use super::steps::{RecurrentMasks, Span, TrainingSteps, masked};
use super::{LayerTape, OP, TrainingCall, TrainingOutput, TrainingStack, TrainingTape, put_rows};
use crate::cell::{Draw, Pad, Stage};
use crate::cpu::buffer_cache::CachedBuffer;
use crate::error::{Result, elements};
use crate::memory;
use crate::op::Binary;

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
        let shards = self.shard_rows(&steps, threads)?;
        let mut output = TrainingOutput {
            y: memory::zeros(OP, elements(OP, "y", &[time, batch, self.width()])?)?,
            h: memory::zeros(OP, call.h.len())?,
            s: memory::zeros(OP, call.s.len())?,
        };
        let (width, buffers) = (self.layers[0][0].input, self.device.buffers());
        let input = |rows: &ShardRows| rows.take_active(call.x, (batch, rows.range.start), width, buffers);
        let mut x = self.each(threads, &shards, input)?;
        let mut layers = memory::room(OP, self.layers.len())?;
        for layer in 0..self.layers.len() {
            let (tapes, mut y) = self.forward_layer(layer, threads, (&steps, &shards), call, &x, &mut output)?;
            if layer + 1 < self.layers.len() {
                y.iter_mut().zip(&shards).for_each(|(y, rows)| steps.drop_out(layer, &rows.range, self.width(), y));
                if steps.flags.is_some() {
                    let active = |(y, rows): (CachedBuffer, &ShardRows)| {
                        rows.take_active(&y, (rows.range.len(), 0), self.width(), buffers)
                    };
                    y = self.each(threads, y.into_iter().zip(&shards), active)?;
                }
            }
            layers.push(LayerTape { x: std::mem::replace(&mut x, y), shards: tapes });
        }
        x.iter().zip(&shards).for_each(|(y, rows)| put_rows(&mut output.y, batch, self.width(), &rows.range, y));
        Ok((output, TrainingTape { stack: self, steps, threads, shards, layers }))
    }

    /// Runs one layer on its input `x`, which lies by shards. Returns the tapes, by directions and then shards, and the
    /// layer's output by shards; the last state goes to `output`.
    fn forward_layer(
        &self,
        layer: usize,
        threads: usize,
        (steps, shards): (&TrainingSteps, &[ShardRows]),
        call: &TrainingCall<'_>,
        x: &[CachedBuffer],
        output: &mut TrainingOutput,
    ) -> Result<(Vec<ShardTape>, Vec<CachedBuffer>)> {
        let batch = steps.batch;
        let all = self.layer_shards(layer, steps, shards);
        let results = self.each(threads, all.iter().zip(x.iter().cycle()), |(shard, x)| shard.forward(call, x))?;
        let (mut tapes, mut outputs) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
        for (shard, (tape, y, last)) in all.iter().zip(results) {
            put_rows(&mut output.h[shard.state_row * batch * self.out..], batch, self.out, shard.rows, &last.h);
            if !call.s.is_empty() {
                put_rows(
                    &mut output.s[shard.state_row * batch * self.hidden..],
                    batch,
                    self.hidden,
                    shard.rows,
                    &last.s,
                );
            }
            tapes.push(tape);
            outputs.push(y);
        }
        if self.directions.len() < 2 {
            return Ok((tapes, outputs));
        }
        let (forward, reverse) = outputs.split_at(shards.len());
        let y = self.each(threads, forward.iter().zip(reverse), |(a, b)| self.merged(a, b))?;
        if self.merge == Some(Binary::Mul) {
            tapes.iter_mut().zip(outputs).for_each(|(tape, y)| tape.y = Some(y));
        }
        Ok((tapes, y))
    }
}

impl LayerShard<'_> {
    /// Runs the shard over the sequence. Returns its tape, the output `[T, rows, O]` and the last state.
    fn forward(&self, call: &TrainingCall<'_>, x: &[f32]) -> Result<(ShardTape, CachedBuffer, CarriedState)> {
        let (steps, count, out, s_width) = (self.steps, self.rows.len(), self.weights.out, self.cell_width());
        let mut state = CarriedState {
            h: self.state_rows(Some(call.h), out)?,
            s: self.state_rows(Some(call.s), s_width)?,
            held: memory::zeros(OP, count * out)?,
        };
        let initial = [self.state_rows(call.initial_h, out)?, self.state_rows(call.initial_s, s_width)?];
        let spans = steps.spans().len();
        let [kept, checkpoints] = if steps.checkpoint.is_some() { [0, spans] } else { [spans, 0] };
        let (spans, checkpoints) = (memory::room(OP, kept)?, memory::room(OP, checkpoints)?);
        let mut tape = ShardTape { spans, checkpoints, initial, y: None };
        let mut y = self.buffers.take(steps.time * count * out)?;
        for span in steps.spans() {
            let before = steps.checkpoint.map(|_| state.try_clone()).transpose()?;
            let y = &mut y[steps.start(self.direction, span) * count * out..][..span.steps * count * out];
            let span = self.forward_span(span, x, &tape.initial, &mut state, y)?;
            match before {
                Some(state) => tape.checkpoints.push(state),
                None => tape.spans.push(span),
            }
        }
        Ok((tape, y, state))
    }

    /// Runs a span of which the forward pass kept only the state before it; `None` if the forward pass kept the span.
    pub(super) fn replay(&self, span: Span, index: usize, x: &[f32], tape: &ShardTape) -> Result<Option<SpanTape>> {
        let Some(checkpoint) = tape.checkpoints.get(index) else { return Ok(None) };
        let mut y = self.buffers.take(span.steps * self.rows.len() * self.weights.out)?;
        self.forward_span(span, x, &tape.initial, &mut checkpoint.try_clone()?, &mut y).map(Some)
    }

    /// Takes the steps of a span and advances `state`; `y [steps, rows, O]` is the span's part of the output.
    fn forward_span(
        &self,
        span: Span,
        x: &[f32],
        initial: &[Vec<f32>; 2],
        state: &mut CarriedState,
        y: &mut [f32],
    ) -> Result<SpanTape> {
        let start = self.steps.start(self.direction, span);
        let mut pass = SpanForward::new(self, span, initial, state)?;
        let (input, rows) = (self.weights.input, self.span_rows(span));
        self.weights.x.multiply(&x[rows.start * input..rows.end * input], input, rows.len(), &mut pass.tape.gates);
        let step_len = self.rows.len() * self.weights.out;
        for k in span.first..span.first + span.steps {
            let step = self.step(k, start);
            pass.take(step);
            let output = if self.steps.flags.is_some() { &pass.state.held } else { &pass.state.h };
            y[(step.t - start) * step_len..][..step_len].copy_from_slice(output);
        }
        Ok(pass.tape)
    }
}

/// The forward pass of a shard through a span.
struct SpanForward<'a> {
    shard: &'a LayerShard<'a>,
    masks: RecurrentMasks,
    /// The states to which a reset returns: h and s.
    initial: &'a [Vec<f32>; 2],
    state: &'a mut CarriedState,
    tape: SpanTape,
    /// `h` of the step's rows times the mask of the recurrent dropout; empty without a mask.
    masked_h: CachedBuffer,
    /// The first product, `W h + b_hh`, of the step's rows, as are the next two.
    product: CachedBuffer,
    /// The second product: the candidate's, or the projection.
    second_product: CachedBuffer,
    /// The new `h`, or the state before its projection.
    new: CachedBuffer,
}

impl<'a> SpanForward<'a> {
    fn new(
        shard: &'a LayerShard<'a>,
        span: Span,
        initial: &'a [Vec<f32>; 2],
        state: &'a mut CarriedState,
    ) -> Result<Self> {
        let LayerShard { weights, steps, rows, buffers, .. } = shard;
        let (count, out, s_width) = (rows.len(), weights.out, shard.cell_width());
        let all = shard.span_rows(span).len();
        let masks = steps.masks(shard.state_row, rows, out)?;
        let tape = SpanTape {
            gates: buffers.take(all * weights.x.stride())?,
            second: buffers.take(all * shard.second_width())?,
            h: buffers.take(all * out)?,
            s: buffers.take(all * s_width)?,
            s_next: buffers.take(all * s_width)?,
        };
        let second_stride = weights.second.as_ref().map_or(0, |second| second.stride());
        Ok(Self {
            masked_h: buffers.take(if masks.recurrent.is_some() { count * out } else { 0 })?,
            product: buffers.take(count * weights.h.stride())?,
            second_product: buffers.take(count * second_stride)?,
            new: buffers.take(count * weights.hidden)?,
            shard,
            masks,
            initial,
            state,
            tape,
        })
    }

    /// Takes one step: resets, products and gates, the new state.
    fn take(&mut self, step: ShardStep<'_>) {
        let LayerShard { weights, .. } = self.shard;
        let (count, out, s_width) = (step.rows.count(), weights.out, self.shard.cell_width());
        self.reset(step);
        step.rows.copy(&self.state.h, out, &mut self.tape.h[step.all(out)]);
        step.rows.copy(&self.state.s, s_width, &mut self.tape.s[step.all(s_width)]);

        let mask = self.masks.recurrent.as_deref();
        let h = masked(&self.tape.h[step.all(out)], (mask, step.rows, out), &mut self.masked_h);
        weights.h.multiply(h, out, count, &mut self.product);
        self.run_stage(self.shard.first_stage(), step);
        if weights.resets_before() {
            self.multiply_second(step);
            self.run_stage(Stage::Candidate, step);
        } else if weights.cell.projection().is_some() {
            let hidden = weights.hidden;
            self.tape.second[step.all(hidden)].copy_from_slice(&self.new[..count * hidden]);
            self.multiply_second(step);
        }
        self.advance(step);
    }

    /// Returns the rows that the step resets to their initial state.
    fn reset(&mut self, step: ShardStep<'_>) {
        let (out, s_width) = (self.shard.weights.out, self.shard.cell_width());
        let [initial_h, initial_s] = self.initial;
        for row in self.shard.reset_rows(step) {
            let (h, s) = (row * out..(row + 1) * out, row * s_width..(row + 1) * s_width);
            self.state.h[h.clone()].copy_from_slice(&initial_h[h]);
            self.state.s[s.clone()].copy_from_slice(&initial_s[s]);
        }
    }

    /// The element-wise part of one stage.
    fn run_stage(&mut self, stage: Stage, step: ShardStep<'_>) {
        let LayerShard { weights, .. } = self.shard;
        let (hidden, out, s_width) = (weights.hidden, weights.out, self.shard.cell_width());
        let (product, stride) = match &weights.second {
            Some(second) if stage == Stage::Candidate => (&self.second_product, second.stride()),
            _ => (&self.product, weights.h.stride()),
        };
        let h = &self.tape.h[step.all(out)];
        let masked_h = if self.masks.recurrent.is_some() { &self.masked_h[..] } else { h };
        for row in 0..step.rows.count() {
            let of_row = row * out..(row + 1) * out;
            weights.set.run(StepForward {
                cell: &weights.cell,
                stage,
                hidden,
                gates: &mut self.tape.gates[step.row(row, weights.x.stride())],
                state_part: &product[row * stride..(row + 1) * stride],
                peephole: &weights.peephole,
                h: &h[of_row.clone()],
                masked_h: &masked_h[of_row],
                s: &self.tape.s[step.row(row, s_width)],
                s_next: &mut self.tape.s_next[step.row(row, s_width)],
                second: &mut self.tape.second[step.row(row, self.shard.second_width())],
                out: &mut self.new[row * hidden..(row + 1) * hidden],
            });
        }
    }

    /// The product of [`SpanTape::second`] with the candidate's or the projection's weights.
    fn multiply_second(&mut self, step: ShardStep<'_>) {
        let weights = self.shard.weights;
        let Some(second) = &weights.second else { return };
        let operand = &self.tape.second[step.all(weights.hidden)];
        second.multiply(operand, weights.hidden, step.rows.count(), &mut self.second_product);
    }

    /// Advances the state, and the output that a skipped step repeats.
    fn advance(&mut self, step: ShardStep<'_>) {
        let LayerShard { weights, steps, rows, .. } = self.shard;
        let (out, s_width) = (weights.out, self.shard.cell_width());
        let projects = weights.cell.projection().is_some();
        let (new, stride) = match &weights.second {
            Some(second) if projects => (&self.second_product, second.stride()),
            _ => (&self.new, weights.hidden),
        };
        let CarriedState { h, s, held } = &mut *self.state;
        for (position, row) in step.rows.iter().enumerate() {
            let (h, held) = (&mut h[row * out..(row + 1) * out], &mut held[row * out..(row + 1) * out]);
            let first = self.shard.mask_index(step, row, out);
            advance_row(h, &new[position * stride..][..out], self.masks.zoneout_h, first);
            if steps.flags.is_some() {
                held.copy_from_slice(h);
            }
            let first = self.shard.mask_index(step, row, s_width);
            let s = &mut s[row * s_width..(row + 1) * s_width];
            advance_row(s, &self.tape.s_next[step.row(position, s_width)], self.masks.zoneout_s, first);
        }
        if steps.pad == Pad::Zero && !step.rows.is_all(rows.len()) {
            let skipped = (0..rows.len()).filter(|&row| !self.shard.valid(step, row));
            skipped.for_each(|row| held[row * out..(row + 1) * out].fill(0.0));
        }
    }
}

/// Advances a row's state; the elements that zoneout drops keep their old value. `first` is the first element's index
/// in the mask.
fn advance_row(state: &mut [f32], new: &[f32], zoneout: Option<Draw>, first: usize) {
    let Some(draw) = zoneout else { return state.copy_from_slice(new) };
    for ((index, state), &new) in (first..).zip(state).zip(new) {
        if draw.keeps(index) {
            *state = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::advance_row;
    use crate::cell::{Draw, Mask};

    /// A mask of 2^32 elements or more is no larger than the memory of a large machine.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn the_elements_of_a_mask_are_counted_beyond_32_bits() {
        let draw = Draw::new(7, 3, Mask::ZoneoutH { row: 0 }, 0.5);
        let advanced = |first: usize| {
            let mut state = [0.0; 64];
            advance_row(&mut state, &[1.0; 64], draw, first);
            state
        };
        let before = (1 << 32) - 32;
        let (across, begin) = (advanced(before), advanced(0));
        assert_eq!(across[32..], begin[..32], "the count wraps around");
        assert_ne!(across[..32], begin[..32]);
        assert!(begin.contains(&0.0) && begin.contains(&1.0));
    }
}

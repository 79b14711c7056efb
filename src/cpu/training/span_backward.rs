//! The backward pass of a shard through a span, step by step from the last.

use super::OP;
use super::backward::LastStateGradient;
use super::merge::OutputGradient;
use super::shard::{LayerShard, ShardStep, SpanTape};
use super::step::StepBackward;
use super::steps::{RecurrentMasks, Span, masked};
use crate::cell::{Cell, Draw, Pad, Stage};
use crate::cpu::buffer_cache::CachedBuffer;
use crate::error::Result;
use crate::memory;

/// The gradients that a shard carries back from step to step and from span to span.
pub(super) struct CarriedGradient {
    /// Gradient with respect to the state.
    pub(super) dh: Vec<f32>,
    pub(super) ds: Vec<f32>,
    /// Gradient with respect to the output of steps that repeat the last valid one.
    held: Vec<f32>,
    pub(super) initial_h: Vec<f32>,
    pub(super) initial_s: Vec<f32>,
    /// Gradient with respect to the input, `[T, rows, input]`.
    pub(super) dx: CachedBuffer,
}

impl CarriedGradient {
    pub(super) fn new(shard: &LayerShard<'_>, last: &LastStateGradient<'_>) -> Result<Self> {
        let (count, out, s_width) = (shard.rows.len(), shard.weights.out, shard.cell_width());
        let dx = shard.steps.time * count * shard.weights.input;
        Ok(Self {
            dh: shard.state_rows(last.d_h, out)?,
            ds: shard.state_rows(last.d_s, s_width)?,
            held: memory::zeros(OP, count * out)?,
            initial_h: memory::zeros(OP, count * out)?,
            initial_s: memory::zeros(OP, count * s_width)?,
            dx: if shard.active.is_some() { shard.buffers.zeros(dx)? } else { shard.buffers.take(dx)? },
        })
    }
}

/// The gradients of a span from which the weights' gradients are summed, and the masked `h` that these sums need.
pub(super) struct SpanGradient {
    /// Gradient with respect to the pre-activations, of the rows that take part in each step, as is everything here.
    pub(super) gates: CachedBuffer,
    /// Gradient with respect to `W h + b_hh`, where it differs from `gates`: in a GRU that resets after the product.
    pub(super) state_part: Option<CachedBuffer>,
    /// Gradient with respect to the projected state.
    pub(super) projected: CachedBuffer,
    /// `h` times the mask of the recurrent dropout.
    pub(super) masked_h: Option<CachedBuffer>,
}

impl LayerShard<'_> {
    /// Goes back through a span.
    pub(super) fn back_through(
        &self,
        span: Span,
        tape: &SpanTape,
        dy: &OutputGradient<'_>,
        carried: &mut CarriedGradient,
        clip: Option<f32>,
    ) -> Result<SpanGradient> {
        let start = self.steps.start(self.direction, span);
        let mut pass = SpanBackward::new(self, span, tape, carried)?;
        for k in (span.first..span.first + span.steps).rev() {
            pass.take(self.step(k, start), dy, clip);
        }
        let d = pass.d;
        self.input_gradient(span, &d.gates, &mut carried.dx)?;
        Ok(d)
    }

    /// `dx = U^T d_gates` of a span's steps.
    fn input_gradient(&self, span: Span, d_gates: &[f32], dx: &mut [f32]) -> Result<()> {
        let Self { weights, steps, rows, .. } = self;
        let (input, all, start) = (weights.input, self.span_rows(span).len(), steps.start(self.direction, span));
        let dx = &mut dx[start * rows.len() * input..][..span.steps * rows.len() * input];
        let stride = weights.x_back.stride();
        if stride == input && self.active.is_none() {
            weights.x_back.multiply(d_gates, weights.gates(), all, dx);
            return Ok(());
        }
        let mut products = self.buffers.take(all * stride)?;
        weights.x_back.multiply(d_gates, weights.gates(), all, &mut products);
        for step in (span.first..span.first + span.steps).map(|k| self.step(k, start)) {
            for (position, row) in step.rows.iter().enumerate() {
                let to = &mut dx[((step.t - start) * rows.len() + row) * input..][..input];
                to.copy_from_slice(&products[step.row(position, stride)][..input]);
            }
        }
        Ok(())
    }
}

/// The backward pass of a shard through a span. The methods follow the equations of a step from its output to its input.
struct SpanBackward<'a> {
    shard: &'a LayerShard<'a>,
    masks: RecurrentMasks,
    tape: &'a SpanTape,
    carried: &'a mut CarriedGradient,
    d: SpanGradient,
    /// The parts of `dh` and `ds` that bypass the step by zoneout, `[rows, width]`; empty without zoneout.
    zoned_h: CachedBuffer,
    zoned_s: CachedBuffer,
    /// The part of `dh` through a GRU's mix, `[rows, hidden]`; empty for other cells.
    mixed_h: CachedBuffer,
    /// The part of `dh` through `r h`, `[rows, hidden]`; empty unless the GRU resets before the product.
    reset_h: CachedBuffer,
    /// `W^T d_gates` of the step's rows.
    product: CachedBuffer,
    /// Gradient with respect to the second product's operand, of the step's rows.
    second_product: CachedBuffer,
}

impl<'a> SpanBackward<'a> {
    fn new(
        shard: &'a LayerShard<'a>,
        span: Span,
        tape: &'a SpanTape,
        carried: &'a mut CarriedGradient,
    ) -> Result<Self> {
        let LayerShard { weights, steps, rows, buffers, .. } = shard;
        let (count, hidden, out, s_width) = (rows.len(), weights.hidden, weights.out, shard.cell_width());
        let all = shard.span_rows(span).len();
        let masks = steps.masks(shard.state_row, rows, out)?;
        let take_if = |wanted: bool, len: usize| buffers.take(if wanted { len } else { 0 });
        let d = SpanGradient {
            gates: buffers.take(all * weights.gates())?,
            state_part: weights.resets_after().then(|| buffers.take(all * weights.gates())).transpose()?,
            projected: take_if(weights.projects(), all * out)?,
            masked_h: masks.recurrent.as_ref().map(|_| buffers.take(all * out)).transpose()?,
        };
        let second_stride = weights.second_back.as_ref().map_or(0, |back| back.stride());
        Ok(Self {
            zoned_h: take_if(masks.zoneout_h.is_some(), count * out)?,
            zoned_s: take_if(masks.zoneout_s.is_some(), count * s_width)?,
            mixed_h: take_if(matches!(weights.cell, Cell::Gru(_)), count * hidden)?,
            reset_h: take_if(weights.resets_before(), count * hidden)?,
            product: buffers.take(count * weights.h_back.stride())?,
            second_product: buffers.take(count * second_stride)?,
            shard,
            masks,
            tape,
            carried,
            d,
        })
    }

    /// Goes back through one step.
    fn take(&mut self, step: ShardStep<'_>, dy: &OutputGradient<'_>, clip: Option<f32>) {
        self.add_output_gradient(step, dy);
        if step.rows.count() > 0 {
            self.back_through_cell(step, clip);
        }
        self.hand_over_resets(step);
    }

    /// Goes back through the cell's equations in the rows that take part in a step.
    fn back_through_cell(&mut self, step: ShardStep<'_>, clip: Option<f32>) {
        self.set_zoneout_aside(step);
        self.mask_h(step);
        if self.shard.weights.projects() {
            self.back_through_projection(step);
        }
        if self.shard.weights.resets_before() {
            self.back_through_stage(Stage::Candidate, step);
            self.back_through_candidate_product(step);
            self.back_through_stage(Stage::Reset, step);
        } else {
            self.back_through_stage(Stage::Whole, step);
        }
        self.back_through_product(step);
        self.sum_state_gradient(step, clip);
    }

    /// `dh += dy`. The output of a skipped step repeats the last valid step's output, or is zero and passes no
    /// gradient.
    fn add_output_gradient(&mut self, step: ShardStep<'_>, dy: &OutputGradient<'_>) {
        let LayerShard { weights, steps, rows, .. } = self.shard;
        let CarriedGradient { dh, held, .. } = &mut *self.carried;
        for row in 0..rows.len() {
            let range = row * weights.out..(row + 1) * weights.out;
            let dy = dy.row(step.t, row, weights.out);
            let (dh, held) = (&mut dh[range.clone()], &mut held[range]);
            if steps.flags.is_none() {
                add(dh, dy);
            } else if self.shard.valid(step, row) {
                dh.iter_mut().zip(dy.iter().zip(&*held)).for_each(|(dh, (dy, held))| *dh += dy + held);
                held.fill(0.0);
            } else if steps.pad == Pad::Hold {
                add(held, dy);
            } else {
                held.fill(0.0);
            }
        }
    }

    /// Moves the elements that bypass the step by zoneout from `dh` and `ds` to `zoned_h` and `zoned_s`.
    fn set_zoneout_aside(&mut self, step: ShardStep<'_>) {
        let (out, s_width) = (self.shard.weights.out, self.shard.cell_width());
        let CarriedGradient { dh, ds, .. } = &mut *self.carried;
        let Self { shard, masks, zoned_h, zoned_s, .. } = self;
        let set_aside = |zoneout: Option<Draw>, d: &mut [f32], zoned: &mut [f32], width: usize| {
            let Some(draw) = zoneout else { return };
            for row in step.rows.iter() {
                let first = shard.mask_index(step, row, width);
                for (index, unit) in (first..).zip(row * width..(row + 1) * width) {
                    zoned[unit] = if draw.keeps(index) { 0.0 } else { std::mem::take(&mut d[unit]) };
                }
            }
        };
        set_aside(masks.zoneout_h, dh, zoned_h, out);
        set_aside(masks.zoneout_s, ds, zoned_s, s_width);
    }

    /// Computes the masked `h`, the operand of the forward products, for the weights' gradients.
    fn mask_h(&mut self, step: ShardStep<'_>) {
        let range = step.all(self.shard.weights.out);
        if let Some(buffer) = &mut self.d.masked_h {
            let mask = (self.masks.recurrent.as_deref(), step.rows, self.shard.weights.out);
            masked(&self.tape.h[range.clone()], mask, &mut buffer[range]);
        }
    }

    /// `dm = W_hr^T dh`.
    fn back_through_projection(&mut self, step: ShardStep<'_>) {
        let weights = self.shard.weights;
        let (out, Some(projection)) = (weights.out, &weights.second_back) else { return };
        let projected = &mut self.d.projected[step.all(out)];
        step.rows.copy(&self.carried.dh, out, projected);
        projection.multiply(projected, out, step.rows.count(), &mut self.second_product);
    }

    /// The element-wise part of one stage. It turns the gradient with respect to the stage's output into the gradients
    /// with respect to the pre-activations, `s`, and `h` where it bypasses the products.
    fn back_through_stage(&mut self, stage: Stage, step: ShardStep<'_>) {
        let LayerShard { weights, .. } = self.shard;
        let (hidden, out, gates) = (weights.hidden, weights.out, weights.gates());
        let (s_width, second_width) = (self.shard.cell_width(), self.shard.second_width());
        let product = weights.second_back.as_ref().filter(|_| weights.projects() || stage == Stage::Reset);
        let masked_h = self.d.masked_h.as_deref().unwrap_or(&self.tape.h);
        let dh = if stage == Stage::Reset { &mut self.reset_h } else { &mut self.mixed_h };
        for (position, row) in step.rows.iter().enumerate() {
            let d_second = match &mut self.d.state_part {
                Some(state_part) => &mut state_part[step.row(position, gates)][2 * hidden..],
                None => &mut [],
            };
            let d_out = match product {
                Some(back) => &self.second_product[position * back.stride()..],
                None => &self.carried.dh[row * out..],
            };
            let dh_row = if dh.is_empty() { 0..0 } else { row * hidden..(row + 1) * hidden };
            weights.set.run(StepBackward {
                cell: &weights.cell,
                stage,
                hidden,
                gates: &self.tape.gates[step.row(position, weights.x.stride())],
                peephole: &weights.peephole,
                h: &self.tape.h[step.row(position, out)],
                masked_h: &masked_h[step.row(position, out)],
                s: &self.tape.s[step.row(position, s_width)],
                s_next: &self.tape.s_next[step.row(position, s_width)],
                second: &self.tape.second[step.row(position, second_width)],
                d_out: &d_out[..hidden],
                ds: &mut self.carried.ds[row * s_width..(row + 1) * s_width],
                d_gates: &mut self.d.gates[step.row(position, gates)],
                d_second,
                dh: &mut dh[dh_row],
            });
        }
    }

    /// `d(r h) = W_n^T d_n`, of a GRU that resets before the product.
    fn back_through_candidate_product(&mut self, step: ShardStep<'_>) {
        let weights = self.shard.weights;
        let Some(candidate) = &weights.second_back else { return };
        let d_n = &self.d.gates[step.all(weights.gates())][2 * weights.hidden..];
        candidate.multiply(d_n, weights.gates(), step.rows.count(), &mut self.second_product);
    }

    /// `W^T d_gates` of the first product.
    fn back_through_product(&mut self, step: ShardStep<'_>) {
        let weights = self.shard.weights;
        let (gates, two) = (weights.gates(), 2 * weights.hidden);
        let mut d_first = &self.d.gates[step.all(gates)];
        if let Some(state_part) = &mut self.d.state_part {
            let state_part = &mut state_part[step.all(gates)];
            for (state_part, d_gates) in state_part.chunks_exact_mut(gates).zip(d_first.chunks_exact(gates)) {
                state_part[..two].copy_from_slice(&d_gates[..two]);
            }
            d_first = state_part;
        }
        weights.h_back.multiply(d_first, gates, step.rows.count(), &mut self.product);
    }

    /// The gradient with respect to the state before the step: the sum of its parts, clamped.
    fn sum_state_gradient(&mut self, step: ShardStep<'_>, clip: Option<f32>) {
        let (out, s_width) = (self.shard.weights.out, self.shard.cell_width());
        let stride = self.shard.weights.h_back.stride();
        let CarriedGradient { dh, ds, .. } = &mut *self.carried;
        for (position, row) in step.rows.iter().enumerate() {
            let (range, cells) = (row * out..(row + 1) * out, row * s_width..(row + 1) * s_width);
            let (dh, ds) = (&mut dh[range.clone()], &mut ds[cells.clone()]);
            dh.copy_from_slice(&self.product[position * stride..][..out]);
            if !self.reset_h.is_empty() {
                add(dh, &self.reset_h[range.clone()]);
            }
            if let Some(mask) = &self.masks.recurrent {
                dh.iter_mut().zip(&mask[range.clone()]).for_each(|(dh, mask)| *dh *= mask);
            }
            if !self.mixed_h.is_empty() {
                add(dh, &self.mixed_h[range.clone()]);
            }
            if !self.zoned_h.is_empty() {
                add(dh, &self.zoned_h[range]);
            }
            if !self.zoned_s.is_empty() {
                add(ds, &self.zoned_s[cells]);
            }
            if let Some(limit) = clip {
                let clamp = |d: &mut f32| *d = if d.is_nan() { *d } else { d.clamp(-limit, limit) };
                dh.iter_mut().chain(ds).for_each(clamp);
            }
        }
    }

    /// Moves the gradient of rows that the step resets to their initial state.
    fn hand_over_resets(&mut self, step: ShardStep<'_>) {
        let (out, s_width) = (self.shard.weights.out, self.shard.cell_width());
        let CarriedGradient { dh, ds, initial_h, initial_s, .. } = &mut *self.carried;
        for row in self.shard.reset_rows(step) {
            let (range, cells) = (row * out..(row + 1) * out, row * s_width..(row + 1) * s_width);
            hand_over(&mut dh[range.clone()], &mut initial_h[range]);
            hand_over(&mut ds[cells.clone()], &mut initial_s[cells]);
        }
    }
}

/// Adds the gradient `from` to `to` and sets `from` to zeros.
fn hand_over(from: &mut [f32], to: &mut [f32]) {
    for (from, to) in from.iter_mut().zip(to) {
        *to += std::mem::take(from);
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

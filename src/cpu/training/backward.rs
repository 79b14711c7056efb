//! The backward pass: a layer after the other, each direction's parts of the rows back through time side by side, then the
//! weights' gradients of all steps at once.

use super::forward::{Run, masked, rows_of};
use super::gradient::Passed;
use super::merge::OutputGradient;
use super::step::StepBackward;
use super::weights::LayerWeights;
use super::{ChunkTape, OP, RunTape, Span, TrainingGradient, TrainingStack, TrainingTape, put_rows};
use crate::cell::{Mask, Pad, Parameters, RESET, VALID};
use crate::cpu::buffer_cache::CachedBuffer;
use crate::error::Result;
use crate::memory;

/// The gradients by what a call wrote, laid out as in [`TrainingTape::backward`].
struct Call<'a> {
    d_h: Option<&'a [f32]>,
    d_s: Option<&'a [f32]>,
    /// Clamp of the recurrent gradient between two steps.
    clip: Option<f32>,
}

impl TrainingTape {
    /// The gradients by everything the call read, from those by everything it wrote: `dy [T, B, width]`, `d_h` and `d_s`
    /// as [`TrainingOutput`](super::TrainingOutput)'s state, zero where absent. The recurrent gradient is clamped to
    /// `[-clip, clip]` between two steps if asked for.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub(crate) fn backward(
        &self,
        dy: &[f32],
        d_h: Option<&[f32]>,
        d_s: Option<&[f32]>,
        clip: Option<f32>,
    ) -> Result<TrainingGradient> {
        let Self { stack, steps, threads, parts, layers } = self;
        let (time, batch, threads) = (steps.time, steps.batch, *threads);
        let (input, out) = (stack.layers[0][0].input, stack.out);
        let rows = stack.layers.len() * stack.directions.len() * batch;
        let hidden = if stack.layers[0][0].cell.has_cell_state() { stack.hidden } else { 0 };
        let mut gradient = TrainingGradient {
            x: memory::zeros(OP, time * batch * input)?,
            h: memory::zeros(OP, rows * out)?,
            s: memory::zeros(OP, rows * hidden)?,
            initial_h: memory::zeros(OP, rows * out)?,
            initial_s: memory::zeros(OP, rows * hidden)?,
            parameters: stack.zero_parameters()?,
        };
        let call = Call { d_h, d_s, clip };
        // By parts; the last layer's is the caller's.
        let mut upper: Option<Vec<CachedBuffer>> = None;
        for (layer, tape) in layers.iter().enumerate().rev() {
            let runs = stack.runs(layer, steps, parts);
            let mut backs: Vec<Back> = runs.iter().map(|run| Back::new(run, &call)).collect::<Result<_>>()?;
            let outer = |at: usize| {
                let (direction, part) = (at / parts.len(), at % parts.len());
                let offset = if stack.merge.is_none() { direction * out } else { 0 };
                let stride = stack.width();
                match &upper {
                    None => OutputGradient { numbers: dy, batch, first: parts[part].start, stride, offset },
                    Some(dy) => {
                        OutputGradient { numbers: &dy[part], batch: parts[part].len(), first: 0, stride, offset }
                    }
                }
            };
            // What a merge by arithmetic makes of it for each direction.
            let own: Vec<Option<CachedBuffer>> = stack.each(threads, 0..runs.len(), |at| {
                let other = (at + parts.len()) % (2 * parts.len());
                stack.unmerged(&outer(at), runs[at].rows.len(), tape.runs.get(other))
            })?;
            for (index, span) in steps.spans().enumerate().rev() {
                let items = runs.iter().zip(&mut backs).enumerate();
                let passed = stack.each(threads, items, |(at, (run, back))| {
                    let x = &tape.x[at % parts.len()];
                    let own = own[at].as_deref().map(|numbers| OutputGradient {
                        numbers,
                        batch: run.rows.len(),
                        first: 0,
                        stride: out,
                        offset: 0,
                    });
                    let dy = &own.unwrap_or_else(|| outer(at));
                    let replayed = run.replay(span, index, x, &tape.runs[at])?;
                    let chunk = replayed.as_ref().or(tape.runs[at].chunks.get(index));
                    let through = chunk.map(|chunk| run.back_through(&call, span, chunk, dy, back)).transpose()?;
                    Ok((replayed, through))
                })?;
                let left = runs.iter().zip(&passed).enumerate().filter_map(|(at, (run, (replayed, through)))| {
                    let chunk = replayed.as_ref().or(tape.runs[at].chunks.get(index))?;
                    Some(Passed { run, x: &tape.x[at % parts.len()], chunk, through: through.as_ref()? })
                });
                let left: Vec<Passed<'_>> = left.collect();
                for (passed, dp) in left.chunks(parts.len().max(1)).zip(&mut gradient.parameters[layer]) {
                    stack.add_weight_gradients(threads, span, passed, dp)?;
                }
            }
            let mut dx = Vec::with_capacity(runs.len());
            for (run, back) in runs.iter().zip(backs) {
                for (into, from, width) in [
                    (&mut gradient.h, &back.dh, out),
                    (&mut gradient.initial_h, &back.initial_h, out),
                    (&mut gradient.s, &back.ds, hidden),
                    (&mut gradient.initial_s, &back.initial_s, hidden),
                ] {
                    put_rows(&mut into[run.row * batch * width..], batch, width, run.rows, from);
                }
                dx.push(back.dx);
            }
            let others = dx.split_off(parts.len());
            for (dx, other) in dx.iter_mut().zip(&others) {
                dx.iter_mut().zip(&other[..]).for_each(|(dx, other)| *dx += other);
            }
            if layer > 0 {
                dx.iter_mut().zip(parts).for_each(|(dx, rows)| steps.drop_out(layer - 1, rows, stack.width(), dx));
            }
            upper = Some(dx);
        }
        let dx = upper.iter().flatten().zip(parts);
        dx.for_each(|(dx, rows)| put_rows(&mut gradient.x, batch, input, rows, dx));
        Ok(gradient)
    }
}

impl TrainingStack {
    fn zero_parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        self.layers.iter().map(|layer| layer.iter().map(LayerWeights::zero_parameters).collect()).collect()
    }
}

/// What a run carries back from step to step and span to span.
pub(super) struct Back {
    /// By the state.
    dh: Vec<f32>,
    ds: Vec<f32>,
    /// By the output of steps that hold the last valid one.
    held: Vec<f32>,
    initial_h: Vec<f32>,
    initial_s: Vec<f32>,
    /// By the input, `[T, rows, input]`.
    dx: CachedBuffer,
}

impl Back {
    fn new(run: &Run<'_>, call: &Call<'_>) -> Result<Self> {
        let (count, out, s_width) = (run.rows.len(), run.weights.out, run.cell_width());
        Ok(Self {
            dh: rows_of(call.d_h, run.row, run.steps.batch, out, run.rows)?,
            ds: rows_of(call.d_s, run.row, run.steps.batch, s_width, run.rows)?,
            held: memory::zeros(OP, count * out)?,
            initial_h: memory::zeros(OP, count * out)?,
            initial_s: memory::zeros(OP, count * s_width)?,
            dx: run.scratch.take(run.steps.time * count * run.weights.input)?,
        })
    }
}

/// The gradients of a span that the weights' own are made of, and what they are multiplied by.
pub(super) struct Through {
    /// By the pre-activations, `[steps, rows, gates]`.
    pub(super) gates: CachedBuffer,
    /// The same on the state's side, where the two differ.
    pub(super) first: Option<CachedBuffer>,
    /// By the projected state, `[steps, rows, O]`.
    pub(super) projected: CachedBuffer,
    /// The state as the products read it, where a mask changes it, `[steps, rows, O]`.
    pub(super) h_masked: Option<CachedBuffer>,
}

impl Run<'_> {
    /// Runs a span again where only its border was kept.
    fn replay(&self, span: Span, index: usize, x: &[f32], tape: &RunTape) -> Result<Option<ChunkTape>> {
        let Some(border) = tape.borders.get(index) else { return Ok(None) };
        let mut y = self.scratch.take(span.steps * self.rows.len() * self.weights.out)?;
        self.forward_chunk(span, x, &tape.initial, &mut border.try_clone()?, &mut y).map(Some)
    }

    /// Goes back through a span.
    fn back_through(
        &self,
        call: &Call<'_>,
        span: Span,
        chunk: &ChunkTape,
        dy: &OutputGradient<'_>,
        back: &mut Back,
    ) -> Result<Through> {
        let Self { weights, steps, rows, row, direction, scratch } = self;
        let Back { dh, ds, held, initial_h, initial_s, dx } = back;
        let LayerWeights { hidden, out, set, .. } = **weights;
        let (all, count, gates) = (span.steps * rows.len(), rows.len(), weights.gates());
        let (s_width, second_width) = (self.cell_width(), self.second_width());
        let projects = weights.cell.projection().is_some();
        let (splits, resets_before) = (weights.cell.resets_after(), self.first_stage() == Stage::Reset);
        let gate_stride = weights.x.stride();
        let is_gru = second_width > 0 && !projects;
        let mask = steps.recurrent_mask(*row, rows, out)?;
        let zone_h = steps.noise.draw(Mask::ZoneoutH { row: *row });
        let zone_s = steps.noise.draw(Mask::ZoneoutS { row: *row });
        let mut kept_h = scratch.take(if zone_h.is_some() { count * out } else { 0 })?;
        let mut kept_s = scratch.take(if zone_s.is_some() { count * s_width } else { 0 })?;
        let mut past = scratch.take(if is_gru { count * hidden } else { 0 })?;
        let mut through_reset = scratch.take(if resets_before { count * hidden } else { 0 })?;
        let h_stride = weights.h_back.stride();
        let mut products = scratch.take(count * h_stride)?;
        let second_stride = weights.second_back.as_ref().map_or(0, |back| back.stride());
        let mut second_side = scratch.take(count * second_stride)?;
        let mut through = Through {
            gates: self.blank(all * gates)?,
            first: splits.then(|| self.blank(all * gates)).transpose()?,
            projected: self.blank(if projects { all * out } else { 0 })?,
            h_masked: mask.as_ref().map(|_| scratch.take(all * out)).transpose()?,
        };
        let start = steps.start(*direction, span);
        for k in (span.first..span.first + span.steps).rev() {
            let t = steps.place(*direction, k);
            let local = t - start;
            let at = |width: usize| local * count * width..(local + 1) * count * width;
            let valid = |r: usize| steps.flag(t, rows.start + r) & VALID != 0;
            for r in 0..count {
                let range = r * out..(r + 1) * out;
                let dy = dy.row(t, r, out);
                if steps.flags.is_none() {
                    add(&mut dh[range], dy);
                } else if valid(r) {
                    let sources = dy.iter().zip(&held[range.clone()]);
                    dh[range.clone()].iter_mut().zip(sources).for_each(|(dh, (dy, held))| *dh += dy + held);
                    held[range].fill(0.0);
                } else if steps.pad == Pad::Hold {
                    add(&mut held[range], dy);
                } else {
                    held[range].fill(0.0);
                }
            }
            // What zoneout hands past the step.
            for (draw, d, kept, width) in
                [(zone_h, &mut *dh, &mut kept_h, out), (zone_s, &mut *ds, &mut kept_s, s_width)]
            {
                let Some(draw) = draw else { continue };
                for r in (0..count).filter(|&r| valid(r)) {
                    let first = steps.mask_index(t, rows.start + r, width);
                    for (index, u) in (first..).zip(r * width..(r + 1) * width) {
                        kept[u] = if draw.keeps(index) { 0.0 } else { std::mem::take(&mut d[u]) };
                    }
                }
            }
            let (d_out, d_out_stride) = match &weights.second_back {
                Some(projection) if projects => {
                    let projected = &mut through.projected[at(out)];
                    for r in (0..count).filter(|&r| valid(r)) {
                        projected[r * out..(r + 1) * out].copy_from_slice(&dh[r * out..(r + 1) * out]);
                    }
                    projection.multiply(projected, out, count, &mut second_side);
                    (&second_side[..], second_stride)
                }
                _ => (&dh[..], out),
            };
            let h = &chunk.h[at(out)];
            let h_masked = match &mut through.h_masked {
                Some(buffer) => masked(h, mask.as_deref(), &mut buffer[at(out)]),
                None => h,
            };
            let d_gates = &mut through.gates[at(gates)];
            let mut no_second: Vec<f32> = Vec::new();
            let d_first = through.first.as_mut().map_or(&mut no_second[..], |first| &mut first[at(gates)]);
            let last_stage = if resets_before { Stage::Candidate } else { Stage::Whole };
            let part = |width: usize, r: usize| (local * count + r) * width..(local * count + r + 1) * width;
            let mut stage = |stage: Stage,
                             d_out: &[f32],
                             d_stride: usize,
                             d_gates: &mut [f32],
                             ds: &mut [f32],
                             dh_past: &mut [f32]| {
                for r in (0..count).filter(|&r| valid(r)) {
                    let d_second = if splits { r * gates + 2 * hidden..(r + 1) * gates } else { 0..0 };
                    let past = if is_gru { r * hidden..(r + 1) * hidden } else { 0..0 };
                    set.run(StepBackward {
                        cell: &weights.cell,
                        stage,
                        hidden,
                        gates: &chunk.gates[part(gate_stride, r)],
                        peephole: &weights.peephole,
                        h: &h[r * out..(r + 1) * out],
                        masked_h: &h_masked[r * out..(r + 1) * out],
                        s: &chunk.s[part(s_width, r)],
                        s_next: &chunk.s_next[part(s_width, r)],
                        second: &chunk.second[part(second_width, r)],
                        d_out: &d_out[r * d_stride..][..hidden],
                        ds: &mut ds[r * s_width..(r + 1) * s_width],
                        d_gates: &mut d_gates[r * gates..(r + 1) * gates],
                        d_second: &mut d_first[d_second],
                        dh: &mut dh_past[past],
                    });
                }
            };
            stage(last_stage, d_out, d_out_stride, d_gates, ds, &mut past);
            if let (true, Some(candidate)) = (resets_before, &weights.second_back) {
                candidate.multiply(&d_gates[2 * hidden..], gates, count, &mut second_side);
                stage(Stage::Reset, &second_side, second_stride, d_gates, ds, &mut through_reset);
            }
            if splits {
                for (first, d_gates) in d_first.chunks_exact_mut(gates).zip(d_gates.chunks_exact(gates)) {
                    first[..2 * hidden].copy_from_slice(&d_gates[..2 * hidden]);
                }
            }
            weights.h_back.multiply(if splits { d_first } else { d_gates }, gates, count, &mut products);
            for r in 0..count {
                let range = r * out..(r + 1) * out;
                let cells = r * s_width..(r + 1) * s_width;
                if valid(r) {
                    let (dh, ds) = (&mut dh[range.clone()], &mut ds[cells.clone()]);
                    dh.copy_from_slice(&products[r * h_stride..][..out]);
                    if resets_before {
                        add(dh, &through_reset[range.clone()]);
                    }
                    if let Some(mask) = &mask {
                        dh.iter_mut().zip(&mask[range.clone()]).for_each(|(dh, mask)| *dh *= mask);
                    }
                    if is_gru {
                        add(dh, &past[range.clone()]);
                    }
                    if zone_h.is_some() {
                        add(dh, &kept_h[range.clone()]);
                    }
                    if zone_s.is_some() {
                        add(ds, &kept_s[cells.clone()]);
                    }
                    if let Some(limit) = call.clip {
                        let clamp = |d: &mut f32| *d = if d.is_nan() { *d } else { d.clamp(-limit, limit) };
                        dh.iter_mut().chain(ds).for_each(clamp);
                    }
                }
                if steps.flag(t, rows.start + r) & RESET != 0 {
                    hand_over(&mut dh[range.clone()], &mut initial_h[range]);
                    hand_over(&mut ds[cells.clone()], &mut initial_s[cells]);
                }
            }
        }
        self.input_gradient(span, &through.gates, dx)?;
        Ok(through)
    }

    /// `dx = d_gates U` of a span's steps.
    fn input_gradient(&self, span: Span, d_gates: &[f32], dx: &mut [f32]) -> Result<()> {
        let Self { weights, steps, rows, .. } = self;
        let all = span.steps * rows.len();
        let first = steps.start(self.direction, span) * rows.len() * weights.input;
        let dx = &mut dx[first..][..all * weights.input];
        let stride = weights.x_back.stride();
        if stride == weights.input {
            weights.x_back.multiply(d_gates, weights.gates(), all, dx);
            return Ok(());
        }
        let mut products = self.scratch.take(all * stride)?;
        weights.x_back.multiply(d_gates, weights.gates(), all, &mut products);
        for (dx, product) in dx.chunks_exact_mut(weights.input.max(1)).zip(products.chunks_exact(stride.max(1))) {
            dx.copy_from_slice(&product[..dx.len()]);
        }
        Ok(())
    }
}

/// Adds a gradient to another place and leaves zeros.
fn hand_over(from: &mut [f32], to: &mut [f32]) {
    for (from, to) in from.iter_mut().zip(to) {
        *to += std::mem::take(from);
    }
}

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

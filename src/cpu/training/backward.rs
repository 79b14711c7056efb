//! The backward pass of some rows of a batch: one loop back through time, then the weights' gradients of all steps at once.

use ndarray::{ArrayView2, s};

use super::forward::{Run, masked, resets_after, rows_of};
use super::step::StepBackward;
use super::weights::{LayerWeights, add_transposed_product};
use super::{
    ChunkTape, DirectionTape, GROUP_STEPS, PartGradient, PartTape, Span, TrainingStack, TrainingSteps, column_sums,
    matrix, take_rows, zeros,
};
use crate::cell::{Mask, Pad, Parameters, RESET, VALID};
use crate::plan::Stage;
use crate::reference::Binary;

/// The gradients by what a call wrote, laid out as in [`TrainingTape::backward`](super::TrainingTape::backward).
pub(super) struct Call<'a> {
    pub(super) dy: &'a [f32],
    pub(super) d_h: Option<&'a [f32]>,
    pub(super) d_s: Option<&'a [f32]>,
    /// Clamp of the recurrent gradient between two steps.
    pub(super) clip: Option<f32>,
}

impl LayerWeights {
    pub(super) fn zero_parameters(&self) -> Parameters {
        let Self { input, hidden, out, .. } = *self;
        let rows = self.gates();
        let bias = || self.cell.bias().then(|| ndarray::Array1::zeros(rows));
        Parameters {
            weight_ih: zeros(rows, input),
            weight_hh: zeros(rows, out),
            bias_ih: bias(),
            bias_hh: bias(),
            weight_hr: self.cell.projection().map(|out| zeros(out, hidden)),
            peephole: self.cell.peephole().then(|| zeros(3, hidden)),
        }
    }
}

impl TrainingStack {
    pub(super) fn backward_part(&self, call: &Call<'_>, steps: &TrainingSteps, tape: &PartTape) -> PartGradient {
        let rows = &tape.rows;
        let count = rows.len();
        let stack_rows = self.layers.len() * self.directions.len();
        let mut gradient = PartGradient {
            rows: rows.clone(),
            x: Vec::new(),
            h: vec![Vec::new(); stack_rows],
            s: vec![Vec::new(); stack_rows],
            initial_h: vec![Vec::new(); stack_rows],
            initial_s: vec![Vec::new(); stack_rows],
            parameters: self.zero_parameters(),
        };
        let mut dy = take_rows(call.dy, steps.time, steps.batch, self.width(), rows);
        for (layer, weights) in self.layers.iter().enumerate().rev() {
            let tapes = &tape.layers[layer];
            let mut dx = vec![0.0; steps.time * count * weights[0].input];
            for (at, weights) in weights.iter().enumerate() {
                let row = layer * self.directions.len() + at;
                let run = Run { weights, direction: self.directions[at], row, steps, rows };
                let dy = self.unmerged(&dy, at, &tapes.directions);
                let into = (&mut dx[..], &mut gradient.parameters[layer][at]);
                let state = run.backward(call, (&tapes.x, &tapes.directions[at]), &dy, into);
                let Back { h, s, initial_h, initial_s } = state;
                (gradient.h[row], gradient.s[row]) = (h, s);
                (gradient.initial_h[row], gradient.initial_s[row]) = (initial_h, initial_s);
            }
            if layer > 0 {
                steps.drop_out(layer - 1, rows, self.width(), &mut dx);
            }
            dy = dx;
        }
        gradient.x = dy;
        gradient
    }

    /// One direction's share of the gradient by the merged output.
    fn unmerged(&self, dy: &[f32], at: usize, tapes: &[DirectionTape]) -> Vec<f32> {
        match self.merge {
            None if tapes.len() == 2 => {
                let pairs = dy.chunks_exact(2 * self.out);
                pairs.flat_map(|pair| &pair[at * self.out..(at + 1) * self.out]).copied().collect()
            }
            Some(Binary::Mul) => dy.iter().zip(&tapes[1 - at].y).map(|(dy, y)| dy * y).collect(),
            Some(Binary::Mean) => dy.iter().map(|dy| dy / 2.0).collect(),
            _ => dy.to_vec(),
        }
    }
}

/// What a direction's loop leaves behind.
struct Back {
    h: Vec<f32>,
    s: Vec<f32>,
    initial_h: Vec<f32>,
    initial_s: Vec<f32>,
}

/// The gradients of a span that the weights' own are made of.
struct Through {
    /// By the pre-activations, `[steps, rows, gates]`.
    gates: Vec<f32>,
    /// The same on the state's side, where the two differ.
    first: Option<Vec<f32>>,
    /// By the projected state, `[steps, rows, O]`.
    projected: Vec<f32>,
}

/// Adds up to three sources of a gradient by `h`, those through the products multiplied by the mask.
struct Sources<'a> {
    past: &'a [f32],
    products: &'a [f32],
    reset: &'a [f32],
    mask: Option<&'a [f32]>,
}

impl Sources<'_> {
    fn at(&self, u: usize) -> f32 {
        let products = self.products[u] + self.reset.get(u).copied().unwrap_or(0.0);
        self.past.get(u).copied().unwrap_or(0.0) + products * self.mask.map_or(1.0, |mask| mask[u])
    }
}

impl Run<'_> {
    /// Goes back through the sequence; adds the gradients by `x` and by the parameters to `dx` and `dp`.
    fn backward(
        &self,
        call: &Call<'_>,
        (x, tape): (&[f32], &DirectionTape),
        dy: &[f32],
        (dx, dp): (&mut [f32], &mut Parameters),
    ) -> Back {
        let Self { weights, steps, rows, row, direction } = self;
        let LayerWeights { hidden, out, set, .. } = **weights;
        let (count, gates) = (rows.len(), weights.gates());
        let (s_width, second_width) = (self.cell_width(), self.second_width());
        let projects = weights.cell.projection().is_some();
        let (splits, resets_before) = (resets_after(&weights.cell), self.first_stage() == Stage::Reset);
        let first_gates = weights.first_gates();
        let gate_stride = weights.x.stride();
        let is_gru = second_width > 0 && !projects;
        let mut back = Back {
            h: Vec::new(),
            s: Vec::new(),
            initial_h: vec![0.0; count * out],
            initial_s: vec![0.0; count * s_width],
        };
        let mut dh = rows_of(call.d_h, *row, steps.batch, out, rows);
        let mut ds = rows_of(call.d_s, *row, steps.batch, s_width, rows);
        let mask = steps.recurrent_mask(*row, rows, out);
        let zone_h = steps.noise.draw(Mask::ZoneoutH { row: *row });
        let zone_s = steps.noise.draw(Mask::ZoneoutS { row: *row });
        let mut held = vec![0.0; count * out];
        let mut kept_h = vec![0.0; count * out];
        let mut kept_s = vec![0.0; count * s_width];
        let mut past = vec![0.0; if is_gru { count * hidden } else { 0 }];
        let mut through_reset = vec![0.0; if resets_before { count * hidden } else { 0 }];
        let mut mask_buffer = vec![0.0; if mask.is_some() { count * out } else { 0 }];
        let h_stride = weights.h_back.stride();
        let mut products = vec![0.0; count * h_stride];
        let second_stride = weights.second_back.as_ref().map_or(0, |back| back.stride());
        let mut second_side = vec![0.0; count * second_stride];
        for (index, span) in steps.spans().into_iter().enumerate().rev() {
            let all = span.steps * count;
            let mut through = Through {
                gates: vec![0.0; all * gates],
                first: splits.then(|| vec![0.0; all * gates]),
                projected: vec![0.0; if projects { all * out } else { 0 }],
            };
            let replayed = tape.borders.get(index).map(|border| {
                let mut y = vec![0.0; all * out];
                self.forward_chunk(span, x, &tape.initial, &mut border.clone(), &mut y)
            });
            let Some(chunk) = replayed.as_ref().or(tape.chunks.get(index)) else { continue };
            let start = steps.start(*direction, span);
            for k in (span.first..span.first + span.steps).rev() {
                let t = steps.place(*direction, k);
                let local = t - start;
                let at = |width: usize| local * count * width..(local + 1) * count * width;
                let valid = |r: usize| steps.flag(t, rows.start + r) & VALID != 0;
                let dy = &dy[t * count * out..(t + 1) * count * out];
                for r in 0..count {
                    let range = r * out..(r + 1) * out;
                    if valid(r) {
                        for u in range.clone() {
                            dh[u] += dy[u] + held[u];
                        }
                        held[range].fill(0.0);
                    } else if steps.pad == Pad::Hold {
                        held[range.clone()].iter_mut().zip(&dy[range]).for_each(|(held, dy)| *held += dy);
                    } else {
                        held[range].fill(0.0);
                    }
                }
                // What zoneout hands past the step.
                for (draw, d, kept, width) in
                    [(zone_h, &mut dh, &mut kept_h, out), (zone_s, &mut ds, &mut kept_s, s_width)]
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
                let h_masked = masked(h, mask.as_deref(), &mut mask_buffer);
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
                            h_masked: &h_masked[r * out..(r + 1) * out],
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
                stage(last_stage, d_out, d_out_stride, d_gates, &mut ds, &mut past);
                if let (true, Some(candidate)) = (resets_before, &weights.second_back) {
                    candidate.multiply(&d_gates[2 * hidden..], gates, count, &mut second_side);
                    stage(Stage::Reset, &second_side, second_stride, d_gates, &mut ds, &mut through_reset);
                }
                if splits {
                    for (first, d_gates) in d_first.chunks_exact_mut(gates).zip(d_gates.chunks_exact(gates)) {
                        first[..2 * hidden].copy_from_slice(&d_gates[..2 * hidden]);
                    }
                }
                weights.h_back.multiply(if splits { d_first } else { d_gates }, gates, count, &mut products);
                debug_assert!(first_gates <= gates);
                for r in 0..count {
                    let range = r * out..(r + 1) * out;
                    let cells = r * s_width..(r + 1) * s_width;
                    if valid(r) {
                        let sources = Sources {
                            past: if is_gru { &past[range.clone()] } else { &[] },
                            products: &products[r * h_stride..][..out],
                            reset: if resets_before { &through_reset[range.clone()] } else { &[] },
                            mask: mask.as_ref().map(|mask| &mask[range.clone()]),
                        };
                        for (u, dh) in dh[range.clone()].iter_mut().enumerate() {
                            *dh = sources.at(u) + kept_h[range.start + u];
                        }
                        ds[cells.clone()].iter_mut().zip(&kept_s[cells.clone()]).for_each(|(ds, kept)| *ds += kept);
                        if let Some(limit) = call.clip {
                            let clamp = |d: &mut f32| *d = if d.is_nan() { *d } else { d.clamp(-limit, limit) };
                            dh[range.clone()].iter_mut().chain(&mut ds[cells.clone()]).for_each(clamp);
                        }
                    }
                    if steps.flag(t, rows.start + r) & RESET != 0 {
                        hand_over(&mut dh[range.clone()], &mut back.initial_h[range]);
                        hand_over(&mut ds[cells.clone()], &mut back.initial_s[cells]);
                    }
                }
            }
            self.weight_gradients(span, &through, (x, chunk), dp);
            self.add_input_gradient(span, &through.gates, dx);
        }
        (back.h, back.s) = (dh, ds);
        back
    }

    /// `dU = d_gates^T x`, `dW = d_first^T h` and what else the cell has: a span's groups of steps, the last one first.
    fn weight_gradients(&self, span: Span, d: &Through, (x, tape): (&[f32], &ChunkTape), dp: &mut Parameters) {
        let start = self.steps.start(self.direction, span);
        let mut end = span.first + span.steps;
        while end > span.first {
            let first = (end - 1) / GROUP_STEPS * GROUP_STEPS;
            let group = Span { first, steps: end - first };
            let place = self.steps.start(self.direction, group);
            self.group_gradients((place, place - start, group.steps), d, (x, tape), dp);
            end = first;
        }
    }

    /// A group of steps: its places in time and in the span, and their number.
    fn group_gradients(
        &self,
        (start, place, steps_of_group): (usize, usize, usize),
        d: &Through,
        (x, tape): (&[f32], &ChunkTape),
        dp: &mut Parameters,
    ) {
        let Self { weights, steps, rows, .. } = self;
        let LayerWeights { hidden, out, input, set, .. } = **weights;
        let (gates, first) = (weights.gates(), weights.first_gates());
        let (skipped, all) = (place * rows.len(), steps_of_group * rows.len());
        let part = (skipped, all);
        let x = &x[start * rows.len() * input..];
        let mask = steps.recurrent_mask(self.row, rows, out);
        let h = &tape.h[skipped * out..][..all * out];
        let h_masked: Vec<f32> = match &mask {
            Some(mask) => h.iter().zip(mask.iter().cycle()).map(|(h, mask)| h * mask).collect(),
            None => Vec::new(),
        };
        let h = if mask.is_some() { &h_masked } else { h };
        let d_gates = rows_part(&d.gates, part, gates, 0..gates);
        let d_first = rows_part(d.first.as_ref().unwrap_or(&d.gates), part, gates, 0..first);
        add_transposed_product(set, dp.weight_ih.view_mut(), d_gates, matrix(x, all, input, 0, input));
        add_transposed_product(set, dp.weight_hh.slice_mut(s![..first, ..]), d_first, matrix(h, all, out, 0, out));
        let d_candidate = rows_part(&d.gates, part, gates, first..gates);
        if first < gates {
            add_transposed_product(
                set,
                dp.weight_hh.slice_mut(s![first.., ..]),
                d_candidate,
                rows_part(&tape.second, part, hidden, 0..hidden),
            );
        }
        if let Some(bias) = &mut dp.bias_ih {
            *bias += &column_sums(d_gates);
        }
        if let Some(bias) = &mut dp.bias_hh {
            bias.slice_mut(s![..first]).scaled_add(1.0, &column_sums(d_first));
            bias.slice_mut(s![first..]).scaled_add(1.0, &column_sums(d_candidate));
        }
        if let Some(weight) = &mut dp.weight_hr {
            add_transposed_product(
                set,
                weight.view_mut(),
                rows_part(&d.projected, part, out, 0..out),
                rows_part(&tape.second, part, hidden, 0..hidden),
            );
        }
        if let Some(peephole) = &mut dp.peephole {
            let blocks = gates / hidden;
            // The forget gate's peephole has no say where the cell has no such gate.
            let seen = [(0, 0, &tape.s), (1, 1, &tape.s), (2, blocks - 1, &tape.s_next)];
            for (row, block, state) in seen.into_iter().filter(|&(row, ..)| row != 1 || blocks == 4) {
                let d = rows_part(&d.gates, part, gates, block * hidden..(block + 1) * hidden);
                let sums = column_sums((&d * &rows_part(state, part, hidden, 0..hidden)).view());
                peephole.row_mut(row).scaled_add(1.0, &sums);
            }
        }
    }

    /// `dx += d_gates U`.
    fn add_input_gradient(&self, span: Span, d_gates: &[f32], dx: &mut [f32]) {
        let Self { weights, steps, rows, .. } = self;
        let all = span.steps * rows.len();
        let first = steps.start(self.direction, span) * rows.len() * weights.input;
        let dx = &mut dx[first..][..all * weights.input];
        let stride = weights.x_back.stride();
        let mut products = vec![0.0; all * stride];
        weights.x_back.multiply(d_gates, weights.gates(), all, &mut products);
        for (dx, product) in dx.chunks_exact_mut(weights.input).zip(products.chunks_exact(stride)) {
            dx.iter_mut().zip(product).for_each(|(dx, product)| *dx += product);
        }
    }
}

/// Some rows of a buffer and some of their columns: `skipped` rows lie before them.
fn rows_part(
    buffer: &[f32],
    (skipped, rows): (usize, usize),
    width: usize,
    columns: std::ops::Range<usize>,
) -> ArrayView2<'_, f32> {
    matrix(&buffer[skipped * width..], rows, width, columns.start, columns.len())
}

/// Adds a gradient to another place and leaves zeros.
fn hand_over(from: &mut [f32], to: &mut [f32]) {
    for (from, to) in from.iter_mut().zip(to) {
        *to += std::mem::take(from);
    }
}

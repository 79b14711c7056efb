//! The backward pass of some rows of a batch: one loop back through time, then the weights' gradients of all steps at once.

use ndarray::s;

use super::forward::{Run, masked, resets_after, rows_of};
use super::step::StepBackward;
use super::weights::LayerWeights;
use super::{
    DirectionTape, PartGradient, PartTape, TrainingStack, TrainingSteps, add_transposed_product, column_sums, matrix,
    take_rows, zeros,
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
                let state = run.backward(call, &tapes.directions[at], &dy);
                let Back { h, s, initial_h, initial_s, gates, first, projected } = state;
                (gradient.h[row], gradient.s[row]) = (h, s);
                (gradient.initial_h[row], gradient.initial_s[row]) = (initial_h, initial_s);
                let through = Through { gates: &gates, first: first.as_ref().unwrap_or(&gates), projected: &projected };
                let tape = &tapes.directions[at];
                run.weight_gradients(&through, (&tapes.x, tape), &mut gradient.parameters[layer][at]);
                run.add_input_gradient(&gates, &mut dx);
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
    /// Gradients by the pre-activations, `[T, rows, gates]`.
    gates: Vec<f32>,
    /// The same on the state's side, where the two differ.
    first: Option<Vec<f32>>,
    /// Gradient by the projected state, `[T, rows, O]`.
    projected: Vec<f32>,
}

/// The gradients that the weights' own are made of.
struct Through<'a> {
    gates: &'a [f32],
    first: &'a [f32],
    projected: &'a [f32],
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
    fn backward(&self, call: &Call<'_>, tape: &DirectionTape, dy: &[f32]) -> Back {
        let Self { weights, steps, rows, row, direction } = self;
        let LayerWeights { hidden, out, set, .. } = **weights;
        let (time, count, gates) = (steps.time, rows.len(), weights.gates());
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
            gates: vec![0.0; time * count * gates],
            first: splits.then(|| vec![0.0; time * count * gates]),
            projected: vec![0.0; if projects { time * count * out } else { 0 }],
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
        for k in (0..time).rev() {
            let t = steps.place(*direction, k);
            let at = |width: usize| t * count * width..(t + 1) * count * width;
            let valid = |r: usize| steps.flag(t, rows.start + r) & VALID != 0;
            let dy = &dy[at(out)];
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
            for (draw, d, kept, width) in [(zone_h, &mut dh, &mut kept_h, out), (zone_s, &mut ds, &mut kept_s, s_width)]
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
                    let projected = &mut back.projected[at(out)];
                    for r in (0..count).filter(|&r| valid(r)) {
                        projected[r * out..(r + 1) * out].copy_from_slice(&dh[r * out..(r + 1) * out]);
                    }
                    projection.multiply(projected, out, count, &mut second_side);
                    (&second_side[..], second_stride)
                }
                _ => (&dh[..], out),
            };
            let h = &tape.h[at(out)];
            let h_masked = masked(h, mask.as_deref(), &mut mask_buffer);
            let d_gates = &mut back.gates[at(gates)];
            let mut no_second: Vec<f32> = Vec::new();
            let d_first = back.first.as_mut().map_or(&mut no_second[..], |first| &mut first[at(gates)]);
            let last_stage = if resets_before { Stage::Candidate } else { Stage::Whole };
            let part = |width: usize, r: usize| (t * count + r) * width..(t * count + r + 1) * width;
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
                        gates: &tape.gates[part(gate_stride, r)],
                        peephole: &weights.peephole,
                        h: &h[r * out..(r + 1) * out],
                        h_masked: &h_masked[r * out..(r + 1) * out],
                        s: &tape.s[part(s_width, r)],
                        s_next: &tape.s_next[part(s_width, r)],
                        second: &tape.second[part(second_width, r)],
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
        (back.h, back.s) = (dh, ds);
        back
    }

    /// `dU = d_gates^T x`, `dW = d_first^T h` and what else the cell has, over all steps at once.
    fn weight_gradients(&self, d: &Through<'_>, (x, tape): (&[f32], &DirectionTape), dp: &mut Parameters) {
        let Self { weights, steps, rows, .. } = self;
        let LayerWeights { hidden, out, input, .. } = **weights;
        let (all, gates, first) = (steps.time * rows.len(), weights.gates(), weights.first_gates());
        let view = |buffer, width| matrix(buffer, all, width, 0, width);
        let mask = steps.recurrent_mask(self.row, rows, out);
        let h_masked: Vec<f32> = match &mask {
            Some(mask) => tape.h.iter().zip(mask.iter().cycle()).map(|(h, mask)| h * mask).collect(),
            None => Vec::new(),
        };
        let h = if mask.is_some() { &h_masked } else { &tape.h };
        let d_gates = view(d.gates, gates);
        let d_first = matrix(d.first, all, gates, 0, first);
        add_transposed_product(dp.weight_ih.view_mut(), d_gates, view(x, input));
        add_transposed_product(dp.weight_hh.slice_mut(s![..first, ..]), d_first, view(h, out));
        let d_candidate = matrix(d.gates, all, gates, first, gates - first);
        if first < gates {
            add_transposed_product(dp.weight_hh.slice_mut(s![first.., ..]), d_candidate, view(&tape.second, hidden));
        }
        if let Some(bias) = &mut dp.bias_ih {
            *bias += &column_sums(d_gates);
        }
        if let Some(bias) = &mut dp.bias_hh {
            bias.slice_mut(s![..first]).scaled_add(1.0, &column_sums(d_first));
            bias.slice_mut(s![first..]).scaled_add(1.0, &column_sums(d_candidate));
        }
        if let Some(weight) = &mut dp.weight_hr {
            add_transposed_product(weight.view_mut(), view(d.projected, out), view(&tape.second, hidden));
        }
        if let Some(peephole) = &mut dp.peephole {
            let blocks = gates / hidden;
            // The forget gate's peephole has no say where the cell has no such gate.
            let seen = [(0, 0, &tape.s), (1, 1, &tape.s), (2, blocks - 1, &tape.s_next)];
            for (row, block, state) in seen.into_iter().filter(|&(row, ..)| row != 1 || blocks == 4) {
                let d = matrix(d.gates, all, gates, block * hidden, hidden);
                let sums = column_sums((&d * &view(state, hidden)).view());
                peephole.row_mut(row).scaled_add(1.0, &sums);
            }
        }
    }

    /// `dx += d_gates U`.
    fn add_input_gradient(&self, d_gates: &[f32], dx: &mut [f32]) {
        let Self { weights, steps, rows, .. } = self;
        let all = steps.time * rows.len();
        let stride = weights.x_back.stride();
        let mut products = vec![0.0; all * stride];
        weights.x_back.multiply(d_gates, weights.gates(), all, &mut products);
        for (dx, product) in dx.chunks_exact_mut(weights.input).zip(products.chunks_exact(stride)) {
            dx.iter_mut().zip(product).for_each(|(dx, product)| *dx += product);
        }
    }
}

/// Adds a gradient to another place and leaves zeros.
fn hand_over(from: &mut [f32], to: &mut [f32]) {
    for (from, to) in from.iter_mut().zip(to) {
        *to += std::mem::take(from);
    }
}

//! The backward pass takes the layers from the last to the first. Within a layer, every direction and shard goes back
//! through time independently. Then the weights' gradients are summed over all shards.

use super::gradient::ShardSpan;
use super::merge::OutputGradient;
use super::shard::LayerShard;
use super::span_backward::CarriedGradient;
use super::weights::LayerWeights;
use super::{LayerTape, OP, TrainingGradient, TrainingStack, TrainingTape, put_rows};
use crate::cell::Parameters;
use crate::cpu::buffer_cache::CachedBuffer;
use crate::error::Result;
use crate::memory;

/// The gradient with respect to the last state, and the clamp of the recurrent gradient.
pub(super) struct LastStateGradient<'a> {
    pub(super) d_h: Option<&'a [f32]>,
    pub(super) d_s: Option<&'a [f32]>,
    /// Clamp of the gradient with respect to the state between two steps.
    pub(super) clip: Option<f32>,
}

impl TrainingTape {
    /// The gradients with respect to everything that the call read. `dy [T, B, width]` is the gradient with respect to
    /// its output. `d_h` and `d_s`, zero if absent, belong to the state in [`TrainingOutput`](super::TrainingOutput)
    /// and are laid out like it. `clip` clamps the gradient with respect to the state to `[-clip, clip]` between two
    /// steps.
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
        let Self { stack, steps, shards, layers, .. } = self;
        let (batch, input) = (steps.batch, stack.layers[0][0].input);
        let mut gradient = stack.zero_gradient(steps.time, batch)?;
        let last = LastStateGradient { d_h, d_s, clip };
        // The gradient with respect to the layer's output, by shards; the last layer's is the caller's.
        let mut upper: Option<Vec<CachedBuffer>> = None;
        for (layer, tape) in layers.iter().enumerate().rev() {
            let mut dx = self.backward_layer(layer, tape, &last, (dy, upper.as_deref()), &mut gradient)?;
            if layer > 0 {
                dx.iter_mut().zip(shards).for_each(|(dx, rows)| {
                    steps.drop_out(layer - 1, &rows.range, stack.width(), dx);
                });
            }
            upper = Some(dx);
        }
        let dx = upper.iter().flatten().zip(shards);
        dx.for_each(|(dx, rows)| put_rows(&mut gradient.x, batch, input, &rows.range, dx));
        Ok(gradient)
    }

    /// Goes back through one layer, whose output gradient is `upper` by shards, or else `dy`. Returns the gradient with respect
    /// to the layer's input by shards; those of states and parameters go to `gradient`.
    fn backward_layer(
        &self,
        layer: usize,
        tape: &LayerTape,
        last: &LastStateGradient<'_>,
        (dy, upper): (&[f32], Option<&[CachedBuffer]>),
        gradient: &mut TrainingGradient,
    ) -> Result<Vec<CachedBuffer>> {
        let Self { stack, steps, threads, shards, .. } = self;
        let all = stack.layer_shards(layer, steps, shards);
        let mut carried: Vec<_> = all.iter().map(|shard| CarriedGradient::new(shard, last)).collect::<Result<_>>()?;
        let outer = |at: usize| self.output_gradient(at, dy, upper);
        let own = stack.each(*threads, 0..all.len(), |at| {
            let other = (at + shards.len()) % (2 * shards.len());
            stack.unmerged(&outer(at), all[at].rows.len(), tape.shards.get(other))
        })?;
        let own = own.iter().zip(&all).map(|(own, shard)| {
            let one =
                |numbers| OutputGradient { numbers, batch: shard.rows.len(), first: 0, stride: stack.out, offset: 0 };
            own.as_deref().map(one)
        });
        let dy: Vec<OutputGradient<'_>> = own.enumerate().map(|(at, own)| own.unwrap_or_else(|| outer(at))).collect();
        for (index, span) in steps.spans().enumerate().rev() {
            let items = all.iter().zip(&mut carried).enumerate();
            let results = stack.each(*threads, items, |(at, (shard, carried))| {
                let replayed = shard.replay(span, index, &tape.x[at % shards.len()], &tape.shards[at])?;
                let kept = replayed.as_ref().or(tape.shards[at].spans.get(index));
                let d = kept.map(|kept| shard.back_through(span, kept, &dy[at], carried, last.clip)).transpose()?;
                Ok((replayed, d))
            })?;
            let passed = all.iter().zip(&results).enumerate().filter_map(|(at, (shard, (replayed, d)))| {
                let tape_of_span = replayed.as_ref().or(tape.shards[at].spans.get(index))?;
                Some(ShardSpan { shard, x: &tape.x[at % shards.len()], tape: tape_of_span, d: d.as_ref()? })
            });
            let passed: Vec<ShardSpan<'_>> = passed.collect();
            for (passed, dp) in passed.chunks(shards.len().max(1)).zip(&mut gradient.parameters[layer]) {
                stack.add_weight_gradients(*threads, span, passed, dp)?;
            }
        }
        Ok(finish_layer(&all, carried, shards.len(), gradient))
    }

    /// The gradient with respect to the output of a layer's shard `at`: a part of `upper`, or else of the caller's
    /// `dy`. Shards are counted by directions, then rows.
    fn output_gradient<'a>(&self, at: usize, dy: &'a [f32], upper: Option<&'a [CachedBuffer]>) -> OutputGradient<'a> {
        let Self { stack, steps, shards, .. } = self;
        let (direction, shard) = (at / shards.len(), at % shards.len());
        let offset = if stack.merge.is_none() { direction * stack.out } else { 0 };
        let (stride, rows) = (stack.width(), &shards[shard].range);
        match upper {
            Some(upper) => OutputGradient { numbers: &upper[shard], batch: rows.len(), first: 0, stride, offset },
            None => OutputGradient { numbers: dy, batch: steps.batch, first: rows.start, stride, offset },
        }
    }
}

/// Writes the shards' gradients with respect to states to their places, and returns those with respect to the layer's input,
/// summed over the directions.
fn finish_layer(
    all: &[LayerShard<'_>],
    carried: Vec<CarriedGradient>,
    shards: usize,
    gradient: &mut TrainingGradient,
) -> Vec<CachedBuffer> {
    let mut dx = Vec::with_capacity(all.len());
    for (shard, carried) in all.iter().zip(carried) {
        let (batch, out, hidden) = (shard.steps.batch, shard.weights.out, shard.cell_width());
        for (into, from, width) in [
            (&mut gradient.h, &carried.dh, out),
            (&mut gradient.initial_h, &carried.initial_h, out),
            (&mut gradient.s, &carried.ds, hidden),
            (&mut gradient.initial_s, &carried.initial_s, hidden),
        ] {
            put_rows(&mut into[shard.state_row * batch * width..], batch, width, shard.rows, from);
        }
        dx.push(carried.dx);
    }
    let reverse = dx.split_off(shards);
    for (dx, reverse) in dx.iter_mut().zip(&reverse) {
        dx.iter_mut().zip(&reverse[..]).for_each(|(dx, reverse)| *dx += reverse);
    }
    dx
}

impl TrainingStack {
    /// Zeros in the shapes of all gradients, to which gradients are added.
    fn zero_gradient(&self, time: usize, batch: usize) -> Result<TrainingGradient> {
        let rows = self.layers.len() * self.directions.len() * batch;
        let s_width = if self.layers[0][0].cell.has_cell_state() { self.hidden } else { 0 };
        let parameters = |layer: &Vec<LayerWeights>| layer.iter().map(LayerWeights::zero_parameters).collect();
        let parameters: Result<Vec<Vec<Parameters>>> = self.layers.iter().map(parameters).collect();
        Ok(TrainingGradient {
            x: memory::zeros(OP, time * batch * self.layers[0][0].input)?,
            h: memory::zeros(OP, rows * self.out)?,
            s: memory::zeros(OP, rows * s_width)?,
            initial_h: memory::zeros(OP, rows * self.out)?,
            initial_s: memory::zeros(OP, rows * s_width)?,
            parameters: parameters?,
        })
    }
}

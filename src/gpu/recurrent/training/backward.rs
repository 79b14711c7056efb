//! Backpropagation through time.

use super::pack::BackWeights;
use super::steps::{BackwardSteps, LayerBackward};
use super::weights::WeightGradients;
use super::{ChunkTape, LayerTape, TrainingPass, TrainingTape};
use crate::cell::{Activation, Mask};
use crate::error::Result;
use crate::gpu::arguments::{IncomingGradient, Operand, ParameterBuffers, TrainingGradient};
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::ops::{binary, unary};
use crate::gpu::strided::dropout;
use crate::gpu::submit::recorder::Recorder;
use crate::op::Binary;
use crate::plan::Problem;

/// The offsets, in elements, of the regions of the two buffers that gradients alternate between.
#[derive(Clone, Copy)]
pub(super) struct GradientRegions {
    pub(super) gates: usize,
    /// Gradients with respect to the projection's result, or through a reset gate: no cell has both.
    pub(super) between: usize,
    pub(super) carry_h: usize,
    pub(super) carry_s: usize,
    pub(super) held: usize,
    pub(super) initial_h: usize,
    pub(super) initial_s: usize,
    len: usize,
}

/// Gradients with respect to a layer's output, and the layout of a direction's part.
pub(super) struct OutputGradient {
    pub(super) buffer: Buffer,
    /// Elements from one direction to the next.
    pub(super) direction: usize,
    pub(super) width: usize,
}

/// The memory of a backward pass; all layers share it.
pub(super) struct Workspace {
    pub(super) regions: GradientRegions,
    /// Gradients with respect to the state and the gates alternate between the two.
    pub(super) between_steps: [Buffer; 2],
    /// The values that a chunk's steps write for the weights' gradients.
    pub(super) d_gates: Buffer,
    /// The memory for chunks whose forward pass is run again.
    replay: Option<(ChunkTape, [Buffer; 2])>,
}

impl TrainingPass {
    fn regions(&self) -> GradientRegions {
        let (directions, hidden) = (self.directions(), self.problem().hidden);
        let (h_len, hidden_len) = (directions * self.h_len(), directions * self.problem().batch * hidden);
        let mut len = 0;
        // A product reads whole words.
        let mut next = |elements: usize| {
            let at = len;
            len += elements.next_multiple_of(4);
            at
        };
        let gates = next(self.problem().gates() * hidden_len);
        let (between, carry_h, carry_s) = (next(hidden_len), next(h_len), next(hidden_len));
        let (held, initial_h, initial_s) = (next(h_len), next(h_len), next(hidden_len));
        GradientRegions { gates, between, carry_h, carry_s, held, initial_h, initial_s, len }
    }

    /// Numbers of elements that a chunk's steps write for the weights' gradients: first those in rows of `hidden` elements, then all,
    /// which include the gradients with respect to the projection's result.
    pub(super) fn d_gates(&self, steps: usize) -> (usize, usize) {
        let all = self.directions() * steps * self.problem().batch;
        let projected = all * self.plan.rows.count * self.problem().hidden;
        let width = if self.problem().cells[0].projection().is_some() { self.problem().out() } else { 0 };
        (projected, projected + all * width)
    }

    fn workspace(&self, recorder: &Recorder) -> Result<Workspace> {
        let device = recorder.device();
        let regions = self.regions();
        let new = |len| Buffer::new(device, "recurrent gradients", len);
        let replay = match self.checkpoint {
            true => Some((self.chunk_tape(device, self.longest())?, self.exchange(device)?)),
            false => None,
        };
        Ok(Workspace {
            regions,
            between_steps: [new(regions.len)?, new(regions.len)?],
            d_gates: new(self.d_gates(self.longest()).1)?,
            replay,
        })
    }

    /// Each direction's share of the gradients with respect to the merged output.
    fn unmerged(&self, recorder: &mut Recorder, dy: &Buffer, tape: &LayerTape) -> Result<OutputGradient> {
        let Problem { time, batch, .. } = *self.problem();
        let out = self.problem().out();
        let rows = time * batch;
        let whole = |buffer: Buffer, direction, width| OutputGradient { buffer, direction, width };
        if self.directions() == 1 {
            return Ok(whole(dy.clone(), 0, out));
        }
        match (self.stack.merge, &tape.y) {
            (None, _) => Ok(whole(dy.clone(), out, 2 * out)),
            (Some(Binary::Mul), Some(y)) => {
                let both = Buffer::new(recorder.device(), "gradients of the outputs", 2 * rows * out)?;
                for direction in 0..2 {
                    let other = Operand { buffer: y, stride: 2 * out, offset: (1 - direction) * out };
                    let dy = Operand { buffer: dy, stride: out, offset: 0 };
                    let share = binary(recorder, Binary::Mul, dy, other, [rows, out])?;
                    recorder.copy((&share, 0), (&both, direction * rows * out), rows * out);
                }
                Ok(whole(both, rows * out, out))
            }
            (Some(Binary::Mean), _) => {
                let half = Activation::Affine { alpha: 0.5, beta: 0.0 };
                Ok(whole(unary(recorder, half, dy, rows * out)?, 0, out))
            }
            _ => Ok(whole(dy.clone(), 0, out)),
        }
    }
}

impl TrainingTape {
    /// Records the gradients with respect to everything that the forward pass read.
    pub(crate) fn backward(
        &self,
        recorder: &mut Recorder,
        incoming: &IncomingGradient<'_>,
    ) -> Result<TrainingGradient> {
        let device = recorder.device().clone();
        let pass = &self.pass;
        let problem = pass.problem();
        let Problem { time, batch, layers, input, .. } = *problem;
        let label = "gradients of the state";
        let (h_len, s_len) = (pass.directions() * pass.h_len(), pass.directions() * pass.s_len());
        let states = |len: usize| -> Result<Option<Buffer>> {
            if len == 0 && !problem.cells[0].has_cell_state() {
                return Ok(None);
            }
            Buffer::new(&device, label, layers * len).map(Some)
        };
        let mut gradient = TrainingGradient {
            x: Buffer::new(&device, "gradients of the input", 0)?,
            h: Buffer::new(&device, label, layers * h_len)?,
            s: states(s_len)?,
            initial_h: Buffer::new(&device, label, layers * h_len)?,
            initial_s: states(s_len)?,
            parameters: Vec::with_capacity(layers),
        };
        recorder.clear(&gradient.initial_h, 0, layers * h_len);
        if let Some(s) = &gradient.initial_s {
            recorder.clear(s, 0, layers * s_len);
        }
        if self.layers.is_empty() {
            // Without steps, gradients pass through unchanged.
            copy_or_clear(recorder, incoming.d_h, &gradient.h, layers * h_len);
            if let Some(s) = &gradient.s {
                copy_or_clear(recorder, incoming.d_s, s, layers * s_len);
            }
            gradient.x = Buffer::new(&device, "gradients of the input", time * batch * input)?;
            for layer in 0..layers {
                let zeros = |direction| WeightGradients::zeros(recorder, pass, (layer, direction));
                gradient.parameters.push((0..pass.directions()).map(zeros).collect::<Result<_>>()?);
            }
            return Ok(gradient);
        }
        let workspace = pass.workspace(recorder)?;
        let mut dy = incoming.dy.clone();
        for (layer, tape) in self.layers.iter().enumerate().rev() {
            let (dx, parameters) = pass.layer_back(recorder, (layer, tape), (&dy, incoming), &workspace, &gradient)?;
            gradient.parameters.push(parameters);
            dy = dx;
        }
        gradient.parameters.reverse();
        gradient.x = dy;
        Ok(gradient)
    }
}

fn copy_or_clear(recorder: &mut Recorder, from: Option<&Buffer>, to: &Buffer, len: usize) {
    match from {
        Some(from) => recorder.copy((from, 0), (to, 0), len),
        None => recorder.clear(to, 0, len),
    }
}

impl TrainingPass {
    /// Records one layer. Returns the gradients with respect to its input and its parameters; those of its state go to `gradient`.
    fn layer_back(
        &self,
        recorder: &mut Recorder,
        (layer, tape): (usize, &LayerTape),
        (dy, incoming): (&Buffer, &IncomingGradient<'_>),
        workspace: &Workspace,
        gradient: &TrainingGradient,
    ) -> Result<(Buffer, Vec<ParameterBuffers>)> {
        let Problem { time, batch, .. } = *self.problem();
        let share = self.unmerged(recorder, dy, tape)?;
        let packed = BackWeights::record(recorder, self.problem(), self.plan.columns, &self.parameters[layer])?;
        self.begin_back(recorder, layer, incoming, workspace);
        let mut weights = WeightGradients::new(recorder, self, layer)?;
        let back = LayerBackward { pass: self, layer, share: &share, packed: &packed, workspace, clip: incoming.clip };
        let mut done = 0;
        for (at, &chunk) in self.plan.forward.chunks.iter().enumerate().rev() {
            let kept = match (&workspace.replay, &tape.y) {
                (Some((replay, exchange)), Some(y)) => {
                    let border = &tape.borders[at];
                    self.forward_chunk(recorder, (layer, chunk), &tape.x, border, (replay, exchange), y)?;
                    replay
                }
                _ => &tape.chunks[at],
            };
            let steps = BackwardSteps::new(recorder, &back, chunk, kept)?;
            for step in (chunk.first..chunk.first + chunk.steps).rev() {
                steps.record(recorder, step + 1, done)?;
                done += 1;
            }
            weights.add(recorder, (&tape.x, kept, &workspace.d_gates), chunk)?;
            if at == 0 {
                steps.finish(recorder, done)?;
                done += 1;
            }
        }
        self.end_back(recorder, layer, workspace, gradient, done);
        let mut dx = weights.input_gradient(recorder)?;
        let draw = if layer > 0 { self.noise.draw(Mask::Dropout { layer: layer - 1 }) } else { None };
        if let Some(draw) = draw {
            dx = dropout(recorder, &draw, &dx, time * batch * self.problem().layer_input(layer))?;
        }
        Ok((dx, weights.parameters(recorder)?))
    }

    /// Copies the gradients with respect to the last state to the places where the first backward step reads them.
    fn begin_back(
        &self,
        recorder: &mut Recorder,
        layer: usize,
        incoming: &IncomingGradient<'_>,
        workspace: &Workspace,
    ) {
        let Workspace { regions, between_steps: [a, b], .. } = workspace;
        let (h_len, s_len) = (self.directions() * self.h_len(), self.directions() * self.s_len());
        recorder.clear(a, 0, regions.len);
        if self.two_stages() {
            recorder.clear(b, 0, regions.len);
        }
        if let Some(d_h) = incoming.d_h {
            let to = if self.two_stages() { b } else { a };
            recorder.copy((d_h, layer * h_len), (to, regions.carry_h), h_len);
        }
        if let Some(d_s) = incoming.d_s {
            recorder.copy((d_s, layer * s_len), (a, regions.carry_s), s_len);
        }
    }

    /// Copies the results of the last of `done` steps to the gradients with respect to the state.
    fn end_back(
        &self,
        recorder: &mut Recorder,
        layer: usize,
        workspace: &Workspace,
        gradient: &TrainingGradient,
        done: usize,
    ) {
        let Workspace { regions, between_steps, .. } = workspace;
        let (h_len, s_len) = (self.directions() * self.h_len(), self.directions() * self.s_len());
        let (h, s) = if self.two_stages() { (1, 0) } else { (done % 2, done % 2) };
        recorder.copy((&between_steps[h], regions.carry_h), (&gradient.h, layer * h_len), h_len);
        if let Some(to) = &gradient.s {
            recorder.copy((&between_steps[s], regions.carry_s), (to, layer * s_len), s_len);
        }
        if self.resets {
            recorder.copy((&between_steps[h], regions.initial_h), (&gradient.initial_h, layer * h_len), h_len);
            if let Some(to) = &gradient.initial_s {
                recorder.copy((&between_steps[s], regions.initial_s), (to, layer * s_len), s_len);
            }
        }
    }
}

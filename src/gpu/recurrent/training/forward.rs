//! The forward pass of training.

use super::{BorderState, ChunkTape, LayerTape, TrainingPass, TrainingTape};
use crate::cell::{Draw, Mask};
use crate::error::Result;
use crate::gpu::arguments::{SequenceInput, StateBuffers, TrainingInput, TrainingStack};
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::recurrent::pack::PackedStack;
use crate::gpu::recurrent::project;
use crate::gpu::recurrent::step::{StepBuffers, Steps};
use crate::gpu::recurrent::{LayerStack, ProjectedChunk, RecurrentCall, in_whole_words};
use crate::gpu::strided::{dropout, dropout_into, silence};
use crate::gpu::submit::GpuDevice;
use crate::gpu::submit::recorder::Recorder;
use crate::op::Binary;
use crate::plan::{Chunk, Problem, TrainingPlan};

/// Records a forward pass over the whole stack. Returns `y [time, batch, width]` and the tape of the backward pass. The state
/// advances.
pub(crate) fn forward_training(
    recorder: &mut Recorder,
    stack: TrainingStack<'_>,
    training: TrainingInput<'_>,
    state: &StateBuffers<'_>,
) -> Result<(Buffer, TrainingTape)> {
    let device = recorder.device().clone();
    let TrainingInput { sequence, noise, checkpoint } = training;
    let problem = Problem { time: sequence.time, batch: sequence.batch, ..stack.problem.clone() };
    let plan = TrainingPlan::new(problem, device.plan_limits(), checkpoint)?;
    let nothing = sequence.time == 0 || sequence.batch == 0;
    let packed = if nothing { PackedStack::empty(&device)? } else { PackedStack::record(recorder, &stack)? };
    let reverse = stack.reverse();
    let TrainingStack { problem, merge, parameters, .. } = stack;
    let pass = TrainingPass {
        stack: LayerStack { device: device.clone(), problem, reverse, merge, kind: TrainingStack::KIND, packed },
        parameters,
        plan,
        flags: sequence.flags.clone(),
        resets: sequence.resets,
        pad: sequence.pad,
        noise,
        initial: state.initial.map(|(h, s)| (h.clone(), s.cloned())),
        checkpoint: checkpoint.is_some(),
    };
    if nothing {
        return Ok((Buffer::new(&device, "y", 0)?, TrainingTape { pass, layers: Vec::new() }));
    }
    state.keep(recorder);
    let problem = pass.problem();
    let mut x = in_whole_words(recorder, sequence.x, sequence.time * sequence.batch * problem.input)?;
    if let Some(flags) = &sequence.flags {
        x = silence(recorder, &x, flags, [sequence.time * sequence.batch, problem.input])?;
    }
    let exchange = pass.exchange(&device)?;
    let replayed = if pass.checkpoint { Some(pass.chunk_tape(&device, pass.longest())?) } else { None };
    let mut layers = Vec::with_capacity(problem.layers);
    for layer in 0..problem.layers {
        let (tape, y) = pass.forward_layer(recorder, layer, x, (&exchange, replayed.as_ref()), state)?;
        x = y;
        layers.push(tape);
    }
    Ok((x, TrainingTape { pass, layers }))
}

impl TrainingPass {
    /// Allocates the two buffers that h alternates between.
    pub(super) fn exchange(&self, device: &GpuDevice) -> Result<[Buffer; 2]> {
        let label = "recurrent state";
        let len = self.directions() * self.h_len() * if self.resets { 2 } else { 1 };
        let scratch = self.directions() * self.problem().batch * self.problem().hidden;
        let other = if self.two_stages() { scratch } else { len };
        Ok([Buffer::new(device, label, len)?, Buffer::new(device, label, other)?])
    }

    /// A layer's call on its input.
    fn call<'a>(&'a self, input: &'a SequenceInput<'a>) -> RecurrentCall<'a> {
        RecurrentCall { stack: &self.stack, input, plan: &self.plan.forward, out: self.problem().out(), into: None }
    }

    /// Runs a layer over `x`. Returns its tape and the input of the layer above.
    fn forward_layer(
        &self,
        recorder: &mut Recorder,
        layer: usize,
        x: Buffer,
        (exchange, replayed): (&[Buffer; 2], Option<&ChunkTape>),
        state: &StateBuffers<'_>,
    ) -> Result<(LayerTape, Buffer)> {
        let device = recorder.device().clone();
        let Problem { time, batch, layers, .. } = *self.problem();
        let input = self.sequence(&x);
        let call = self.call(&input);
        let y = call.output(&device)?;
        let (h_len, s_len) = (self.directions() * self.h_len(), self.directions() * self.s_len());
        let mut border = BorderState::new(&device, h_len, s_len)?;
        recorder.copy((state.h, layer * h_len), (&border.h, 0), h_len);
        if let (Some(from), Some(to)) = (state.s, &border.s) {
            recorder.copy((from, layer * s_len), (to, 0), s_len);
        }
        let (mut borders, mut chunks) = (Vec::new(), Vec::new());
        for &chunk in &self.plan.forward.chunks {
            let own = if replayed.is_none() { Some(self.chunk_tape(&device, chunk.steps)?) } else { None };
            if let Some(tape) = own.as_ref().or(replayed) {
                self.forward_chunk(recorder, (layer, chunk), &x, &border, (tape, exchange), &y)?;
                let after = self.border_after(recorder, chunk, tape)?;
                borders.push(std::mem::replace(&mut border, after));
            }
            chunks.extend(own);
        }
        recorder.copy((&border.h, 0), (state.h, layer * h_len), h_len);
        if let (Some(from), Some(to)) = (&border.s, state.s) {
            recorder.copy((from, 0), (to, layer * s_len), s_len);
        }
        let needs_y = self.checkpoint || self.stack.merge == Some(Binary::Mul);
        let kept = needs_y.then(|| y.clone());
        let mut above = call.merged(recorder, y, None)?;
        let draw = if layer + 1 < layers { self.noise.draw(Mask::Dropout { layer }) } else { None };
        if let Some(draw) = draw {
            let width = self.problem().layer_input(layer + 1);
            above = dropout(recorder, &draw, &above, time * batch * width)?;
        }
        Ok((LayerTape { x, y: kept, borders, chunks }, above))
    }

    /// Runs a chunk of a layer from the state before it.
    pub(super) fn forward_chunk(
        &self,
        recorder: &mut Recorder,
        (layer, chunk): (usize, Chunk),
        x: &Buffer,
        border: &BorderState,
        (tape, exchange): (&ChunkTape, &[Buffer; 2]),
        y: &Buffer,
    ) -> Result<()> {
        let input = self.sequence(x);
        let call = self.call(&input);
        let layout = self.history(chunk.steps);
        self.begin_chunk(recorder, (layer, chunk), border, (tape, exchange))?;
        project::input(recorder, &call, layer, x, chunk, &tape.gates)?;
        let buffers = StepBuffers {
            h: exchange.clone(),
            h_initial: self.directions() * self.h_len(),
            own: tape.history.clone(),
            s_initial: layout.initial_s,
            h_len: self.directions() * self.h_len(),
            s_len: layout.len,
            two_stages: self.two_stages(),
            first_layer: layer,
            saved: Some(self.saved(recorder, layer, layout)),
        };
        let at = ProjectedChunk { layer, index: 0, chunk, gates_x: &tape.gates, y };
        let steps = Steps::new(recorder, &call, &self.plan.step, &buffers, &at)?;
        for done in 0..chunk.steps {
            steps.record(recorder, chunk.first + done, done)?;
        }
        Ok(())
    }

    /// Copies the state before a chunk, and the initial state, to the places where the steps read them.
    fn begin_chunk(
        &self,
        recorder: &mut Recorder,
        (layer, chunk): (usize, Chunk),
        border: &BorderState,
        (tape, exchange): (&ChunkTape, &[Buffer; 2]),
    ) -> Result<()> {
        let (h_len, s_len) = (self.h_len(), self.s_len());
        let directions = self.directions();
        let (layout, steps) = (self.history(chunk.steps), chunk.steps);
        let copy = |recorder: &mut Recorder, from: Option<(&Buffer, usize)>, to: (&Buffer, usize), len| match from {
            Some(from) => recorder.copy(from, to, len),
            None => recorder.clear(to.0, to.1, len),
        };
        for direction in 0..directions {
            let place = direction * (steps + 1) + self.state_place(direction, steps, false);
            let before = (&border.h, direction * h_len);
            recorder.copy(before, (&tape.history, layout.h + place * h_len), h_len);
            if let Some(s) = &border.s {
                recorder.copy((s, direction * s_len), (&tape.history, layout.s + place * s_len), s_len);
            }
            let row = layer * directions + direction;
            let draw = self.noise.draw(Mask::Recurrent { row });
            self.copy_masked(recorder, draw, Some(before), (&exchange[0], direction * h_len))?;
            if !self.resets {
                continue;
            }
            let initial = self.initial.as_ref();
            let initial_h = initial.map(|(h, _)| (h, row * h_len));
            let initial_s = initial.and_then(|(_, s)| s.as_ref()).map(|s| (s, row * s_len));
            copy(recorder, initial_h, (&tape.history, layout.initial_h + direction * h_len), h_len);
            if s_len > 0 {
                copy(recorder, initial_s, (&tape.history, layout.initial_s + direction * s_len), s_len);
            }
            for buffer in &exchange[..if self.two_stages() { 1 } else { 2 }] {
                self.copy_masked(recorder, draw, initial_h, (buffer, (directions + direction) * h_len))?;
            }
        }
        Ok(())
    }

    /// Copies h of a direction, or zeros. If the products read h through a dropout mask, applies the mask.
    fn copy_masked(
        &self,
        recorder: &mut Recorder,
        draw: Option<Draw>,
        from: Option<(&Buffer, usize)>,
        to: (&Buffer, usize),
    ) -> Result<()> {
        let len = self.h_len();
        match (from, draw) {
            (Some(from), Some(draw)) => return dropout_into(recorder, &draw, from, to, [len, len]),
            (Some(from), None) => recorder.copy(from, to, len),
            (None, _) => recorder.clear(to.0, to.1, len),
        }
        Ok(())
    }

    /// The state after a chunk.
    fn border_after(&self, recorder: &mut Recorder, chunk: Chunk, tape: &ChunkTape) -> Result<BorderState> {
        let (h_len, s_len) = (self.h_len(), self.s_len());
        let layout = self.history(chunk.steps);
        let border = BorderState::new(recorder.device(), self.directions() * h_len, self.directions() * s_len)?;
        for direction in 0..self.directions() {
            let place = direction * (chunk.steps + 1) + self.state_place(direction, chunk.steps, true);
            recorder.copy((&tape.history, layout.h + place * h_len), (&border.h, direction * h_len), h_len);
            if let Some(s) = &border.s {
                recorder.copy((&tape.history, layout.s + place * s_len), (s, direction * s_len), s_len);
            }
        }
        Ok(border)
    }
}

impl BorderState {
    fn new(device: &GpuDevice, h_len: usize, s_len: usize) -> Result<Self> {
        let label = "recurrent state";
        let s = if s_len > 0 { Some(Buffer::new(device, label, s_len)?) } else { None };
        Ok(Self { h: Buffer::new(device, label, h_len)?, s })
    }
}

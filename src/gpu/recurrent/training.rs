//! Training passes of a stack: a forward pass that keeps the values that gradients need, and backpropagation through time. Everything
//! stays on the device, packing the parameters included, so that a step of training can be one submission.
//!
//! Time is divided into chunks whose tape fits a binding. If memory matters more than time, only the states between chunks are kept,
//! and the backward pass runs each chunk's forward pass again.

mod backward;
mod forward;
mod pack;
mod steps;
mod weights;

use super::LayerStack;
use super::special::noise_of;
use super::step::SavedForBackward;
use crate::cell::{Noise, Pad};
use crate::error::Result;
use crate::gpu::arguments::{ParameterBuffers, SequenceInput, TrainingStack};
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::submit::GpuDevice;
use crate::gpu::submit::recorder::Recorder;
use crate::plan::{PlanKind, Problem, TrainingPlan};

pub(crate) use self::forward::forward_training;

/// The values that a forward pass kept for the backward pass.
pub(crate) struct TrainingTape {
    pass: TrainingPass,
    layers: Vec<LayerTape>,
}

/// The kept values of a layer.
struct LayerTape {
    /// `[time, batch, input]`
    x: Buffer,
    /// The directions' outputs, if the backward pass needs them.
    y: Option<Buffer>,
    /// The states before each chunk.
    borders: Vec<BorderState>,
    /// Empty if the backward pass runs the chunks again.
    chunks: Vec<ChunkTape>,
}

/// A layer's state between two chunks, `[directions, batch, ..]`.
struct BorderState {
    h: Buffer,
    s: Option<Buffer>,
}

/// The values that the steps of a chunk write.
struct ChunkTape {
    /// Pre-activations, `[directions, steps, batch, hidden, 4]`; the backward pass of an RNN does not read them.
    gates: Buffer,
    /// The states, in the order of [`HistoryLayout`].
    history: Buffer,
}

/// The offsets of the parts of a history in elements.
#[derive(Clone, Copy)]
struct HistoryLayout {
    /// `[directions, steps + 1, batch, out]`: h before and after every step, in the order of time.
    h: usize,
    /// `[directions, steps + 1, batch, hidden]`: the cell state before and after every step, or an RNN's pre-activations.
    s: usize,
    initial_h: usize,
    initial_s: usize,
    /// The update gates that the first dispatch of a GRU's step passes to the second.
    update: usize,
    len: usize,
}

/// A training pass: the values that its forward and its backward half share.
struct TrainingPass {
    stack: LayerStack,
    /// `[layer][direction]`
    parameters: Vec<Vec<ParameterBuffers>>,
    plan: TrainingPlan,
    flags: Option<Buffer>,
    resets: bool,
    pad: Pad,
    noise: Noise,
    /// The initial state of all layers, which a reset restores; zeros if absent.
    initial: Option<(Buffer, Option<Buffer>)>,
    checkpoint: bool,
}

impl TrainingPass {
    fn problem(&self) -> &Problem {
        self.plan.forward.problem()
    }

    fn directions(&self) -> usize {
        self.problem().cells.len()
    }

    fn is_reverse(&self, direction: usize) -> bool {
        (self.stack.reverse >> direction) & 1 == 1
    }

    /// Elements of h of a layer and direction.
    fn h_len(&self) -> usize {
        self.problem().batch * self.problem().out()
    }

    /// Elements of the cell state of a layer and direction; 0 without one.
    fn s_len(&self) -> usize {
        if self.problem().cells[0].has_cell_state() { self.problem().batch * self.problem().hidden } else { 0 }
    }

    fn two_stages(&self) -> bool {
        self.problem().cells[0].stages().len() > 1
    }

    /// Steps of the longest chunk.
    fn longest(&self) -> usize {
        self.plan.forward.chunks.first().map_or(0, |chunk| chunk.steps)
    }

    /// The earliest time step of a direction's chunk.
    fn start_of(&self, direction: usize, chunk: crate::plan::Chunk) -> usize {
        if self.is_reverse(direction) { self.problem().time - chunk.first - chunk.steps } else { chunk.first }
    }

    fn history(&self, steps: usize) -> HistoryLayout {
        let directions = self.directions();
        let (h_len, s_len) = (self.h_len(), self.problem().batch * self.problem().hidden);
        let h = 0;
        let s = h + directions * (steps + 1) * h_len;
        let initial_h = s + directions * (steps + 1) * s_len;
        let initial_s = initial_h + directions * h_len;
        let update = initial_s + directions * s_len;
        HistoryLayout { h, s, initial_h, initial_s, update, len: update + directions * s_len }
    }

    /// The index in a history of a direction's state before its first step, or, if `after`, behind its last step.
    fn state_place(&self, direction: usize, steps: usize, after: bool) -> usize {
        if self.is_reverse(direction) == after { 0 } else { steps }
    }

    fn saved(&self, recorder: &mut Recorder, layer: usize, layout: HistoryLayout) -> SavedForBackward {
        let (noise, constants) = noise_of(recorder, &self.noise, layer * self.directions());
        let mut constants = constants;
        constants.push(("SAVE", 1));
        SavedForBackward {
            h: layout.h,
            s: layout.s,
            initial: layout.initial_h,
            update: layout.update,
            noise,
            constants,
        }
    }

    /// Allocates the tape of a chunk of `steps` steps.
    fn chunk_tape(&self, device: &GpuDevice, steps: usize) -> Result<ChunkTape> {
        let problem = self.problem();
        let gates = self.directions() * steps * problem.batch * problem.hidden * problem.projected_gates();
        Ok(ChunkTape {
            gates: Buffer::new(device, "gates of a tape", gates)?,
            history: Buffer::new(device, "states of a tape", self.history(steps).len)?,
        })
    }

    fn sequence<'a>(&self, x: &'a Buffer) -> SequenceInput<'a> {
        let Problem { time, batch, .. } = *self.problem();
        SequenceInput { x, time, batch, flags: self.flags.clone(), resets: self.resets, pad: self.pad }
    }
}

impl TrainingStack<'_> {
    fn reverse(&self) -> u32 {
        super::reverse_bits(self.directions)
    }

    /// The kind of plan of a training pass: the gradients of a layer need its whole input.
    const KIND: Option<PlanKind> = Some(PlanKind::Step);
}

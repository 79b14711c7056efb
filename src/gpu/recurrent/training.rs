//! Training passes of a stack: a forward pass that keeps what gradients need, and back-propagation through time. Everything stays
//! on the device, packing the parameters included, so that a step of training can be one submission.
//!
//! Time is cut into chunks: the tape of one fits a binding. Where memory matters more than time, only the states at the chunks'
//! borders are kept, and a chunk is run again on the way back.

mod backward;
mod forward;
mod pack;
mod steps;
mod weights;

use super::special::noise_of;
use super::step::Saved;
use super::{LayerStack, Run};
use crate::cell::{Direction, Noise, Pad};
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::context::GpuDevice;
use crate::gpu::recorder::Recorder;
use crate::op::Binary;
use crate::plan::{PlanKind, Problem, TrainingPlan};

pub(crate) use self::backward::Incoming;
pub(crate) use self::forward::forward_training;

/// The parameters of one layer and direction, or their gradients; shapes as [`Cell::parameters`](crate::cell::Cell::parameters)
/// says.
#[derive(Clone)]
pub(crate) struct ParameterBuffers {
    pub(crate) weight_ih: Buffer,
    pub(crate) weight_hh: Buffer,
    /// `bias_ih` and `bias_hh`.
    pub(crate) bias: Option<[Buffer; 2]>,
    pub(crate) weight_hr: Option<Buffer>,
    pub(crate) peephole: Option<Buffer>,
}

/// A stack as a pass finds it.
pub(crate) struct TrainingStack<'a> {
    /// No time, no batch.
    pub(crate) problem: Problem,
    pub(crate) directions: &'a [Direction],
    pub(crate) merge: Option<Binary>,
    /// `[layer][direction]`
    pub(crate) parameters: Vec<Vec<ParameterBuffers>>,
}

/// One pass.
pub(crate) struct TrainingRun<'a> {
    pub(crate) run: Run<'a>,
    pub(crate) noise: Noise,
    /// Steps of a chunk at most; then only the states between chunks are kept.
    pub(crate) checkpoint: Option<usize>,
}

/// Gradients of a pass, laid out as what they belong to.
pub(crate) struct TrainingGradient {
    /// `[time, batch, input]`
    pub(crate) x: Buffer,
    /// `[layers directions, batch, out]`
    pub(crate) h: Buffer,
    /// `[layers directions, batch, hidden]`
    pub(crate) s: Option<Buffer>,
    pub(crate) initial_h: Buffer,
    pub(crate) initial_s: Option<Buffer>,
    /// `[layer][direction]`
    pub(crate) parameters: Vec<Vec<ParameterBuffers>>,
}

/// What a forward pass kept.
pub(crate) struct TrainingTape {
    pass: Pass,
    layers: Vec<LayerTape>,
}

/// What is kept of a layer.
struct LayerTape {
    /// `[time, batch, input]`
    x: Buffer,
    /// The directions' outputs, where the way back needs them.
    y: Option<Buffer>,
    /// The states before each chunk.
    borders: Vec<Border>,
    /// Empty where the chunks are run again.
    chunks: Vec<ChunkTape>,
}

/// A layer's state between two chunks, `[directions, batch, ..]`.
struct Border {
    h: Buffer,
    s: Option<Buffer>,
}

/// What the steps of a chunk leave.
struct ChunkTape {
    /// Pre-activations, `[directions, steps, batch, hidden, 4]`; without use for an RNN once its steps have read them.
    gates: Buffer,
    /// As [`HistoryLayout`] says.
    history: Buffer,
}

/// Where a history keeps its parts, in elements.
#[derive(Clone, Copy)]
struct HistoryLayout {
    /// `[directions, steps + 1, batch, out]`: h before and after every step, in the order of time.
    h: usize,
    /// `[directions, steps + 1, batch, hidden]`: the cell state likewise, or an RNN's pre-activations.
    s: usize,
    initial_h: usize,
    initial_s: usize,
    /// What a GRU hands from its first dispatch of a step to the second.
    update: usize,
    len: usize,
}

/// What the two directions of a training pass share.
struct Pass {
    stack: LayerStack,
    /// `[layer][direction]`
    parameters: Vec<Vec<ParameterBuffers>>,
    plan: TrainingPlan,
    flags: Option<Buffer>,
    resets: bool,
    pad: Pad,
    noise: Noise,
    /// What a reset returns to, of all layers; zeros if absent.
    initial: Option<(Buffer, Option<Buffer>)>,
    checkpoint: bool,
}

impl Pass {
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

    /// Where a chunk of a direction begins in time.
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

    /// Where a history keeps the state of a direction before its first step, or after its last one: which of the states.
    fn state_place(&self, direction: usize, steps: usize, after: bool) -> usize {
        if self.is_reverse(direction) == after { 0 } else { steps }
    }

    fn saved(&self, recorder: &mut Recorder, layer: usize, layout: HistoryLayout) -> Saved {
        let (noise, constants) = noise_of(recorder, &self.noise, layer * self.directions());
        let mut constants = constants;
        constants.push(("SAVE", 1));
        Saved { h: layout.h, s: layout.s, initial: layout.initial_h, update: layout.update, noise, constants }
    }

    /// Room for the longest chunk.
    fn chunk_tape(&self, device: &GpuDevice, steps: usize) -> Result<ChunkTape> {
        let problem = self.problem();
        let gates = self.directions() * steps * problem.batch * problem.hidden * problem.projected_gates();
        Ok(ChunkTape {
            gates: Buffer::new(device, "gates of a tape", gates)?,
            history: Buffer::new(device, "states of a tape", self.history(steps).len)?,
        })
    }

    fn run<'a>(&self, x: &'a Buffer) -> Run<'a> {
        let Problem { time, batch, .. } = *self.problem();
        Run { x, time, batch, flags: self.flags.clone(), resets: self.resets, pad: self.pad }
    }
}

impl TrainingStack<'_> {
    fn reverse(&self) -> u32 {
        super::reverse_bits(self.directions)
    }

    /// The kind of a training pass' plan: a layer's gradients need its whole input.
    const KIND: Option<PlanKind> = Some(PlanKind::Step);
}

//! A stack of layers on the CPU: which threads do what, and the buffers of a call.
#![allow(unsafe_code)]

use super::active::ActiveRows;
use super::device::CpuDevice;
use super::layer::{LayerCall, LayerWeights, ThreadBuffers};
use super::memory::{AlignedVec, PerThread, SharedSlice};
use super::phases::{Home, Phase, PhaseQueue, PhaseWorker};
use super::pool::{Left, Member};
use super::state::{CallerState, ResetState, StateLayout};
use crate::cell::{Cell, Direction, Pad, Parameters, WeightType};
use crate::error::Result;
use crate::op::Binary;

const OP: &str = "Recurrent";
/// Multiply-adds of a step that justify one more thread.
const STEP_WORK: usize = 16_384;
/// Multiply-adds of a call that justify waking a thread.
const CALL_WORK: usize = 1 << 20;

/// The weights of all layers and directions.
pub(crate) struct Stack {
    /// `[layer][direction]`
    layers: Vec<Vec<LayerWeights>>,
    directions: Vec<Direction>,
    merge: Option<Binary>,
    input: usize,
    out: usize,
    hidden: usize,
    device: CpuDevice,
}

/// The buffers of a call, kept from one call to the next.
#[derive(Default)]
pub(crate) struct Workspace {
    threads: PerThread<ThreadBuffers>,
    /// One queue per direction if the directions run at the same time, otherwise the first one for all.
    queues: [PhaseQueue; 2],
    /// [`LayerCall::gates`] of both queues.
    gates: [AlignedVec<f32>; 2],
    active: ActiveRows,
    states: AlignedVec<f32>,
    /// Outputs of layers below the last, alternately.
    layer_outputs: [AlignedVec<f32>; 2],
    /// Outputs of two directions before their merge.
    direction_outputs: [AlignedVec<f32>; 2],
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace").finish_non_exhaustive()
    }
}

/// A call of a stack: input, output, and the state that it advances.
pub(crate) struct StackCall<'a> {
    pub(crate) time: usize,
    pub(crate) batch: usize,
    /// `[T, B, input]`
    pub(crate) x: &'a [f32],
    /// `[T, B, output]`
    pub(crate) y: &'a mut [f32],
    /// Whether `y` holds zeros, so that an output of zero need not be written.
    pub(crate) y_is_zero: bool,
    /// `[T, B]`
    pub(crate) flags: Option<&'a [u32]>,
    pub(crate) pad: Pad,
    /// `[layers directions, B, O]`
    pub(crate) h: &'a mut [f32],
    /// `[layers directions, B, hidden]`; empty unless the cell is an LSTM.
    pub(crate) s: &'a mut [f32],
    /// The `h` to which a reset returns, in the shape of `h`; zero if absent.
    pub(crate) initial_h: Option<&'a [f32]>,
    /// The `s` to which a reset returns, in the shape of `s`; zero if absent.
    pub(crate) initial_s: Option<&'a [f32]>,
}

impl Stack {
    /// Packs parameters that fit their cells: one cell per direction, and at least one layer.
    pub(crate) fn new(
        device: &CpuDevice,
        cells: &[Cell],
        directions: &[Direction],
        merge: Option<Binary>,
        (input, hidden): (usize, usize),
        parameters: &[Vec<Parameters>],
        kind: WeightType,
    ) -> Result<Self> {
        let pack = |layer: &Vec<Parameters>| {
            let one = |(cell, p)| LayerWeights::new(cell, hidden, p, kind, device.verified());
            cells.iter().zip(layer).map(one).collect()
        };
        Ok(Self {
            layers: parameters.iter().map(pack).collect::<Result<_>>()?,
            directions: directions.to_vec(),
            merge: merge.filter(|_| directions.len() == 2),
            input,
            out: cells.first().map_or(hidden, |cell| cell.output_size(hidden)),
            hidden,
            device: device.clone(),
        })
    }

    /// The weights, `[layer][direction]`.
    pub(crate) fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        let input = |layer: usize| if layer == 0 { self.input } else { self.width() };
        let of = |(layer, directions): (usize, &Vec<LayerWeights>)| {
            directions.iter().map(|weights| weights.parameters(input(layer), self.hidden)).collect()
        };
        self.layers.iter().enumerate().map(of).collect()
    }

    /// Width of a layer's output.
    fn width(&self) -> usize {
        if self.merge.is_some() { self.out } else { self.out * self.directions.len() }
    }

    /// The number of threads that pays off: one for a single step of a single row or for a call with little work,
    /// otherwise as many as the work of a step justifies. `batch` counts the rows that take part in a step.
    fn threads(&self, time: usize, batch: usize) -> usize {
        let step = |layer: &Vec<LayerWeights>| layer.iter().map(LayerWeights::step_work).sum::<usize>() * batch;
        let step = self.layers.iter().map(step).max().unwrap_or(0);
        if time * batch <= 1 || step.saturating_mul(time).saturating_mul(self.layers.len()) < CALL_WORK {
            return 1;
        }
        self.device.threads().min(step / STEP_WORK).max(1)
    }

    /// Grows the buffers to the lengths that the call needs.
    fn reserve(
        &self,
        workspace: &mut Workspace,
        layout: &StateLayout,
        call: &StackCall<'_>,
        threads: usize,
    ) -> Result<()> {
        let steps = call.time * call.batch;
        let lengths = (call.time, call.batch, layout.h_stride());
        let layers = self.layers.iter().flatten();
        for buffers in workspace.threads.reserve(threads) {
            layers.clone().try_for_each(|layer| layer.reserve(buffers, lengths, call.flags.is_some()))?;
        }
        let gates = layers.map(|layer| layer.gates_len(call.time, call.batch)).max().unwrap_or(0);
        let queues = if threads > 1 { self.directions.len() } else { 1 };
        workspace.gates.iter_mut().take(queues).try_for_each(|buffer| buffer.reserve(OP, gates))?;
        workspace.queues.iter_mut().for_each(|queue| queue.begin(threads));
        workspace.states.reserve(OP, self.layers.len() * self.directions.len() * layout.len())?;
        if self.layers.len() > 1 {
            workspace.layer_outputs.iter_mut().try_for_each(|buffer| buffer.reserve(OP, steps * self.width()))?;
        }
        if self.merge.is_some() {
            workspace.direction_outputs.iter_mut().try_for_each(|buffer| buffer.reserve(OP, steps * self.out))?;
        }
        Ok(())
    }

    /// Runs all layers over the whole sequence and advances the state. The slices have the lengths that [`StackCall`] says.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), before anything is written.
    pub(crate) fn forward(&self, call: StackCall<'_>, workspace: &mut Workspace) -> Result<()> {
        if call.batch == 0 {
            // A call without rows may have any number of steps, so no step is taken.
            return Ok(());
        }
        let threads = self.threads(call.time, call.batch);
        let lanes = self.device.verified().lanes();
        let layout = StateLayout::new(call.batch, (self.out, self.hidden), !call.s.is_empty(), lanes);
        self.reserve(workspace, &layout, &call, threads)?;
        let StackCall { time, batch, x, y, y_is_zero, flags, pad, h, s, initial_h, initial_s } = call;
        let Workspace { threads: buffers, queues, gates, active, states, layer_outputs, direction_outputs } = workspace;
        let active = flags.map(|flags| active.list(OP, (flags, batch), &(0..batch))).transpose()?;
        let threads = active.map_or(threads, |active| self.threads(time, active.total().div_ceil(time.max(1))));
        let mut caller = CallerState { h, s };
        let resets = ResetState { h: initial_h, s: initial_s };
        let rows = self.layers.len() * self.directions.len();
        for row in 0..rows {
            let first = match self.directions[row % self.directions.len()] {
                Direction::Forward => 0,
                Direction::Reverse => time.saturating_sub(1),
            };
            let first = flags.filter(|_| time > 0).map(|flags| &flags[first * batch..(first + 1) * batch]);
            layout.load(row, states, &caller, resets, (first, active));
        }
        let shared = SharedStackCall {
            stack: self,
            time,
            batch,
            flags,
            active,
            pad,
            layout,
            resets,
            // Nothing reads a skipped row's output of a lower layer.
            pads: self.merge.is_some() || pad == Pad::Hold || !y_is_zero,
            x: SharedSlice::reading(x),
            y: SharedSlice::new(y),
            states: SharedSlice::new(states),
            layer_outputs: layer_outputs.each_mut().map(|buffer| SharedSlice::new(buffer)),
            direction_outputs: direction_outputs.each_mut().map(|buffer| SharedSlice::new(buffer)),
            gates: gates.each_mut().map(|buffer| SharedSlice::new(buffer)),
            queues,
        };
        self.device.pool().share(threads, |member| {
            // SAFETY: no two threads have the same number, and `shared` holds the only borrows of its buffers.
            unsafe { shared.run(member, buffers.get(member.index)) }
        });
        for row in 0..rows {
            layout.save(row, states, &mut caller, (time, active));
        }
        Ok(())
    }
}

/// A call of a stack, which all its threads share.
struct SharedStackCall<'a> {
    stack: &'a Stack,
    time: usize,
    batch: usize,
    flags: Option<&'a [u32]>,
    active: Option<&'a ActiveRows>,
    pad: Pad,
    layout: StateLayout,
    resets: ResetState<'a>,
    /// Whether the last layer writes the output of skipped rows.
    pads: bool,
    x: SharedSlice<'a>,
    y: SharedSlice<'a>,
    states: SharedSlice<'a>,
    layer_outputs: [SharedSlice<'a>; 2],
    direction_outputs: [SharedSlice<'a>; 2],
    gates: [SharedSlice<'a>; 2],
    queues: &'a [PhaseQueue; 2],
}

impl SharedStackCall<'_> {
    /// One thread's part. If the number of threads is a multiple of the directions, the directions run at the same time: a thread has
    /// its home in one of them, and helps the other one afterwards.
    ///
    /// # Errors
    /// [`Left`] if this worker leaves the call.
    ///
    /// # Safety
    /// Nobody else touches the buffers while a thread is in the call.
    unsafe fn run(&self, member: Member<'_>, buffers: &mut ThreadBuffers) -> std::result::Result<(), Left> {
        let Self { stack, time, batch, .. } = *self;
        let directions = stack.directions.len();
        let groups = if member.threads.is_multiple_of(directions) { directions } else { 1 };
        let (group, homes) = (member.index % groups, member.threads / groups);
        let mut worker = PhaseWorker::new(self.queues, member);
        let (mut below, mut input) = (self.x, stack.input);
        for (layer, weights) in stack.layers.iter().enumerate() {
            let last = layer + 1 == stack.layers.len();
            let above = if last { self.y } else { self.layer_outputs[layer % 2] };
            for direction in (0..directions).map(|at| (group + at) % directions) {
                let (y, y_at, y_stride) = match stack.merge {
                    Some(_) => (self.direction_outputs[direction], 0, stack.out),
                    None => (above, direction * stack.out, stack.width()),
                };
                let row = layer * directions + direction;
                let queue = direction % groups;
                let call = LayerCall {
                    weights: &weights[direction],
                    direction: stack.directions[direction],
                    time,
                    batch,
                    x: below,
                    input,
                    y,
                    y_at,
                    y_stride,
                    flags: self.flags,
                    active: self.active,
                    pad: self.pad,
                    pads: last && self.pads,
                    buffers: self.layout.buffers(row, self.states, self.resets),
                    gates: self.gates[queue],
                };
                let own = (queue == group).then_some(member.index / groups);
                worker.go_to(queue, Home { own, homes });
                // SAFETY: every thread in the call takes the phases of the queue. The other direction has buffers of its own, and
                // this layer's phases begin when all of the layer below are done.
                unsafe { call.run(&mut worker, buffers) }?;
            }
            if let Some(merge) = stack.merge {
                worker.go_to(0, Home { own: Some(member.index), homes: member.threads });
                // SAFETY: the phases of both directions are done, and nobody else touches the buffers.
                unsafe { self.merge(merge, above, &mut worker) }?;
            }
            (below, input) = (above, stack.width());
        }
        Ok(())
    }

    /// Merges two directions' outputs in one phase.
    ///
    /// # Safety
    /// Nobody writes to the directions' outputs, and only threads in this call touch `into`.
    unsafe fn merge(
        &self,
        op: Binary,
        into: SharedSlice<'_>,
        worker: &mut PhaseWorker<'_>,
    ) -> std::result::Result<(), Left> {
        let out = self.stack.out;
        let phase = Phase { items: self.time * self.batch, item_work: out, last_first: false };
        worker.phase(phase, |rows| {
            let (at, len) = (rows.start * out, rows.len() * out);
            // SAFETY: nobody writes to the directions' outputs, by this function's contract.
            let [forward, reverse] = self.direction_outputs.map(|output| unsafe { output.read(at, len) });
            // SAFETY: this thread has claimed the rows.
            let into = unsafe { into.write(at, len) };
            for ((y, &a), &b) in into.iter_mut().zip(forward).zip(reverse) {
                *y = op.apply(a, b);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use ndarray::ArrayD;

    use super::*;
    use crate::cell::{LstmCell, ParameterSpec};
    use crate::cpu::CpuOptions;

    const SIZES: (usize, usize) = (8, 128);
    const TIME: usize = 12;
    const BATCH: usize = 4;

    fn stack(threads: usize, directions: &[Direction]) -> Stack {
        let device = CpuDevice::new(&CpuOptions { threads: Some(threads), ..Default::default() }).expect("opens");
        let cell = Cell::from(LstmCell::default());
        let parameters = |input: usize| {
            let mut at = 0.0_f32;
            let mut next = || {
                at += 1.0;
                0.1 * at.sin()
            };
            let drawn = |spec: &ParameterSpec| Ok(ArrayD::from_shape_simple_fn(spec.shape.as_slice(), &mut next));
            Parameters::collect(&cell, input, SIZES.1, drawn).expect("shapes that fit")
        };
        let inputs = [SIZES.0, SIZES.1 * directions.len()];
        let layers: Vec<_> = inputs.map(|input| vec![parameters(input); directions.len()]).to_vec();
        Stack::new(&device, &vec![cell; directions.len()], directions, None, SIZES, &layers, WeightType::F32)
            .expect("a stack")
    }

    /// Runs all steps with an output of `y` numbers. Returns the output; `h` and `s` are the state, before and after.
    fn forward(stack: &Stack, y: usize, h: &mut [f32], s: &mut [f32]) -> Vec<f32> {
        let x: Vec<f32> = (0..TIME * BATCH * SIZES.0).map(|at| (at as f32).cos()).collect();
        let mut y = vec![0.0; y];
        let (y_is_zero, flags, pad, initial_h, initial_s) = (true, None, Pad::Zero, None, None);
        let (time, batch, x, y_of) = (TIME, BATCH, &x[..], &mut y[..]);
        let call = StackCall { time, batch, x, y: y_of, y_is_zero, flags, pad, h, s, initial_h, initial_s };
        stack.forward(call, &mut Workspace::default()).expect("runs");
        y
    }

    /// The output lacks its last numbers, so that one thread panics at the last step, where all others wait for it.
    #[test]
    fn a_panic_of_one_thread_ends_the_call_and_no_other() {
        for directions in [&[Direction::Forward][..], &[Direction::Forward, Direction::Reverse]] {
            let stack_of = |threads| stack(threads, directions);
            let (four, one) = (stack_of(4), stack_of(1));
            assert_eq!(four.threads(TIME, BATCH), 4);
            let len = TIME * BATCH * four.width();
            let state = vec![0.5; 2 * directions.len() * BATCH * SIZES.1];
            let (mut h, mut s) = (state.clone(), state.clone());
            let cut = catch_unwind(AssertUnwindSafe(|| forward(&four, len - 1, &mut h, &mut s)));
            let panic = cut.expect_err("a panic");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"a shared range outside its buffer"));
            assert_eq!((&h, &s), (&state, &state));

            let whole = forward(&four, len, &mut h, &mut s);
            let (mut h_one, mut s_one) = (state.clone(), state.clone());
            assert_eq!(whole, forward(&one, len, &mut h_one, &mut s_one));
            assert_eq!((h, s), (h_one, s_one));
        }
    }

    #[test]
    fn steps_without_rows_are_not_taken() {
        let stack = stack(1, &[Direction::Forward]);
        let (x, flags, pad) = (&[][..], None, Pad::Hold);
        let call = StackCall {
            time: usize::MAX,
            batch: 0,
            x,
            y: &mut [],
            y_is_zero: false,
            flags,
            pad,
            h: &mut [],
            s: &mut [],
            initial_h: None,
            initial_s: None,
        };
        stack.forward(call, &mut Workspace::default()).expect("runs");
    }
}

//! A stack of layers on the CPU: which threads do what, and the buffers of a call.
#![allow(unsafe_code)]

use super::device::CpuDevice;
use super::layer::{LayerCall, LayerWeights, Member, Scratch};
use super::memory::{Aligned, PerThread, Shared};
use super::pool::Barrier;
use super::state::{Owned, Places, Resets};
use crate::cell::{Cell, Direction, Pad, Parameters, WeightType};
use crate::error::Result;
use crate::op::Binary;

const OP: &str = "Recurrent";
/// Multiply-adds of a step that are worth a thread's meeting with the others.
const STEP_WORK: usize = 16_384;
/// Multiply-adds of a call that are worth waking a thread.
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
    scratch: PerThread<Scratch>,
    states: Aligned<f32>,
    /// Outputs of layers below the last.
    between: [Aligned<f32>; 2],
    /// Outputs of two directions that are merged into one.
    sides: [Aligned<f32>; 2],
}

impl std::fmt::Debug for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace").finish_non_exhaustive()
    }
}

/// One call: input, output, and the state that it advances.
pub(crate) struct StackCall<'a> {
    pub(crate) time: usize,
    pub(crate) batch: usize,
    /// `[T, B, input]`
    pub(crate) x: &'a [f32],
    /// `[T, B, output]`
    pub(crate) y: &'a mut [f32],
    /// `[T, B]`
    pub(crate) flags: Option<&'a [u32]>,
    pub(crate) pad: Pad,
    /// `[layers directions, B, O]`
    pub(crate) h: &'a mut [f32],
    /// `[layers directions, B, hidden]`, or nothing.
    pub(crate) s: &'a mut [f32],
    /// What a reset returns to, shaped as `h` and `s`; zero where absent.
    pub(crate) initial_h: Option<&'a [f32]>,
    pub(crate) initial_s: Option<&'a [f32]>,
}

impl Stack {
    /// Packs parameters that fit their cells, one cell a direction and at least one layer.
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

    /// The threads that a call is worth: one where a single row makes a single step, and never more than the work of a
    /// step or of the whole call feeds.
    fn threads(&self, time: usize, batch: usize) -> usize {
        let step = |layer: &Vec<LayerWeights>| layer.iter().map(LayerWeights::step_work).sum::<usize>() * batch;
        let step = self.layers.iter().map(step).max().unwrap_or(0);
        if time * batch <= 1 || step.saturating_mul(time).saturating_mul(self.layers.len()) < CALL_WORK {
            return 1;
        }
        self.device.threads().min(step / STEP_WORK).max(1)
    }

    /// Grows the buffers to what the call needs.
    fn reserve(&self, workspace: &mut Workspace, places: &Places, call: &StackCall<'_>, threads: usize) -> Result<()> {
        let steps = call.time * call.batch;
        let layers = self.layers.iter().flatten();
        for scratch in workspace.scratch.reserve(threads) {
            // While another call has the workers one thread does it all.
            layers.clone().try_for_each(|layer| layer.reserve(scratch, call.time, call.batch, 1))?;
        }
        workspace.states.reserve(OP, self.layers.len() * self.directions.len() * places.len())?;
        if self.layers.len() > 1 {
            workspace.between.iter_mut().try_for_each(|buffer| buffer.reserve(OP, steps * self.width()))?;
        }
        if self.merge.is_some() {
            workspace.sides.iter_mut().try_for_each(|buffer| buffer.reserve(OP, steps * self.out))?;
        }
        Ok(())
    }

    /// Runs all layers over the whole sequence and advances the state. The slices have the lengths that [`StackCall`] says.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), before anything is written.
    pub(crate) fn forward(&self, call: StackCall<'_>, workspace: &mut Workspace) -> Result<()> {
        if call.batch == 0 {
            // There may be any number of steps without rows: none of them is walked.
            return Ok(());
        }
        let threads = self.threads(call.time, call.batch);
        let lanes = self.device.verified().lanes();
        let places = Places::new(call.batch, (self.out, self.hidden), !call.s.is_empty(), lanes);
        self.reserve(workspace, &places, &call, threads)?;
        let StackCall { time, batch, x, y, flags, pad, h, s, initial_h, initial_s } = call;
        let mut owned = Owned { h, s };
        let resets = Resets { h: initial_h, s: initial_s };
        let rows = self.layers.len() * self.directions.len();
        for row in 0..rows {
            let first = match self.directions[row % self.directions.len()] {
                Direction::Forward => 0,
                Direction::Reverse => time.saturating_sub(1),
            };
            let first = flags.filter(|_| time > 0).map(|flags| &flags[first * batch..(first + 1) * batch]);
            places.load(row, &mut workspace.states, &owned, resets, first);
        }
        let Workspace { scratch, states, between, sides } = workspace;
        let shared = Run {
            stack: self,
            time,
            batch,
            flags,
            pad,
            places,
            resets,
            x: Shared::reading(x),
            y: Shared::new(y),
            states: Shared::new(states),
            between: between.each_mut().map(|buffer| Shared::new(buffer)),
            sides: sides.each_mut().map(|buffer| Shared::new(buffer)),
            together: Barrier::default(),
            apart: [Barrier::default(), Barrier::default()],
        };
        let [a, b] = &shared.apart;
        self.device.pool().run(threads, &[&shared.together, a, b], |thread, threads| {
            // SAFETY: the pool gives every thread a number of its own, and runs them all at once.
            unsafe { shared.run(Member { at: thread, of: threads }, scratch.get(thread)) };
        });
        for row in 0..rows {
            places.save(row, states, &mut owned, time);
        }
        Ok(())
    }
}

/// A call as all its threads see it.
struct Run<'a> {
    stack: &'a Stack,
    time: usize,
    batch: usize,
    flags: Option<&'a [u32]>,
    pad: Pad,
    places: Places,
    resets: Resets<'a>,
    x: Shared<'a>,
    y: Shared<'a>,
    states: Shared<'a>,
    between: [Shared<'a>; 2],
    sides: [Shared<'a>; 2],
    /// Where all threads meet.
    together: Barrier,
    /// Where the threads of one direction meet.
    apart: [Barrier; 2],
}

impl Run<'_> {
    /// One thread's part. Where the threads can be shared out evenly, the directions run at the same time.
    ///
    /// # Safety
    /// All members run it at once; nobody else touches the buffers meanwhile.
    unsafe fn run(&self, member: Member, scratch: &mut Scratch) {
        let Self { stack, time, batch, .. } = *self;
        let directions = stack.directions.len();
        let groups = if member.of.is_multiple_of(directions) { directions } else { 1 };
        let group = member.at % groups;
        let within = Member { at: member.at / groups, of: member.of / groups };
        let (mut below, mut input) = (self.x, stack.input);
        for (layer, weights) in stack.layers.iter().enumerate() {
            let last = layer + 1 == stack.layers.len();
            let above = if last { self.y } else { self.between[layer % 2] };
            for direction in (group..directions).step_by(groups) {
                let (y, y_at, y_stride) = match stack.merge {
                    Some(_) => (self.sides[direction], 0, stack.out),
                    None => (above, direction * stack.out, stack.width()),
                };
                let row = layer * directions + direction;
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
                    pad: self.pad,
                    buffers: self.places.buffers(row, self.states, self.resets),
                    barrier: if groups > 1 { &self.apart[direction] } else { &self.together },
                };
                // SAFETY: the members of a group come here together, each with its own place.
                unsafe { call.run(within, scratch) };
            }
            if groups > 1 {
                self.together.wait(member.of);
            }
            if let Some(merge) = stack.merge {
                // SAFETY: the sides are complete, and each thread writes its own share.
                unsafe { self.merge(merge, above, member) };
                self.together.wait(member.of);
            }
            (below, input) = (above, stack.width());
        }
    }

    /// This thread's share of two directions' outputs, merged.
    ///
    /// # Safety
    /// Nobody writes to the sides, and nobody else to this thread's share.
    unsafe fn merge(&self, op: Binary, into: Shared<'_>, member: Member) {
        let share = member.share(self.time * self.batch * self.stack.out);
        // SAFETY: nobody writes to the sides, by this function's contract.
        let [forward, reverse] = self.sides.map(|side| unsafe { side.read(share.start, share.len()) });
        // SAFETY: `share` is this thread's, which nobody else touches, by this function's contract.
        let into = unsafe { into.write(share.start, share.len()) };
        for ((y, &a), &b) in into.iter_mut().zip(forward).zip(reverse) {
            *y = op.apply(a, b);
        }
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

    /// A call over all steps whose output has room for `y` numbers; returns the output and the state behind it.
    fn forward(stack: &Stack, y: usize, h: &mut [f32], s: &mut [f32]) -> Vec<f32> {
        let x: Vec<f32> = (0..TIME * BATCH * SIZES.0).map(|at| (at as f32).cos()).collect();
        let mut y = vec![0.0; y];
        let (flags, pad, initial_h, initial_s) = (None, Pad::Zero, None, None);
        let call = StackCall { time: TIME, batch: BATCH, x: &x, y: &mut y, flags, pad, h, s, initial_h, initial_s };
        stack.forward(call, &mut Workspace::default()).expect("runs");
        y
    }

    /// The output ends before its last numbers, so that the one thread that they belong to panics at the last step, where all
    /// others wait for it.
    #[test]
    fn a_panic_of_one_thread_ends_the_call_and_no_other() {
        for directions in [&[Direction::Forward][..], &[Direction::Forward, Direction::Reverse]] {
            let stack_of = |threads| stack(threads, directions);
            let (together, alone) = (stack_of(4), stack_of(1));
            assert_eq!(together.threads(TIME, BATCH), 4);
            let len = TIME * BATCH * together.width();
            let state = vec![0.5; 2 * directions.len() * BATCH * SIZES.1];
            let (mut h, mut s) = (state.clone(), state.clone());
            let cut = catch_unwind(AssertUnwindSafe(|| forward(&together, len - 1, &mut h, &mut s)));
            let panic = cut.expect_err("a panic");
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"a shared range outside its buffer"));
            assert_eq!((&h, &s), (&state, &state));

            let whole = forward(&together, len, &mut h, &mut s);
            let (mut h_alone, mut s_alone) = (state.clone(), state.clone());
            assert_eq!(whole, forward(&alone, len, &mut h_alone, &mut s_alone));
            assert_eq!((h, s), (h_alone, s_alone));
        }
    }

    #[test]
    fn steps_without_rows_are_not_walked() {
        let stack = stack(1, &[Direction::Forward]);
        let (x, flags, pad) = (&[][..], None, Pad::Hold);
        let call = StackCall {
            time: usize::MAX,
            batch: 0,
            x,
            y: &mut [],
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

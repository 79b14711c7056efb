//! One layer in one direction of time: its packed weights, and what one thread of a call does with them.
#![allow(unsafe_code)]

use std::ops::{Add, Div, Mul, Range, Rem};

use ndarray::IxDyn;

use super::memory::{Aligned, Shared};
use super::pack::{Layout, Operand, PanelRun, Panels};
use super::pool::Barrier;
use super::product::{DotProduct, Product, RoundedRows, Rows, Target};
use super::round::Round;
use super::simd::Verified;
use super::update::{Flags, Initial, Output, Padded, StepState, Update};
use crate::cell::{Cell, Direction, Pad, Parameters, Stage, WeightType};
use crate::error::Result;
use crate::memory;

const OP: &str = "Recurrent";
/// Rows whose input projection is computed at once: enough to use a panel from the second cache many times, few enough
/// that the result is still in a cache when its step comes.
const CHUNK_ROWS: usize = 256;
/// Rows of a step that meet some panels at once: the product stays in the first cache. A multiple of every tile's height.
const GROUP_ROWS: usize = 48;
/// Panels that meet them, where there are fewer rows: their updates are independent of each other and overlap.
const fn group_panels(rows: usize) -> usize {
    if rows == 0 { 1 } else { GROUP_ROWS.div_ceil(rows) }
}

/// A layer's packed weights.
pub(super) struct LayerWeights {
    cell: Cell,
    stages: Vec<PackedStage>,
    /// `[3, padded hidden]`, or nothing.
    peephole: Aligned<f32>,
    instructions: Verified,
}

/// The products of one stage of a step.
struct PackedStage {
    stage: Stage,
    input: Option<Panels>,
    state: Panels,
}

impl LayerWeights {
    /// Packs parameters that fit the cell.
    pub(super) fn new(cell: &Cell, hidden: usize, p: &Parameters, kind: WeightType, set: Verified) -> Result<Self> {
        let lanes = set.lanes();
        let out = cell.output_size(hidden);
        let layout = |stage: Stage| {
            let (gates, blocks, units): (&'static [usize], usize, usize) = match (stage, cell.gates().len()) {
                (Stage::Reset, _) => (&[0, 1], 2, hidden),
                (Stage::Candidate, _) => (&[2], 4, hidden),
                (Stage::Project, _) => (&[0], 4, out),
                (Stage::Whole, 4) => (&[0, 1, 2, 3], 1, hidden),
                (Stage::Whole, 3) => (&[0, 1, 2], 1, hidden),
                (Stage::Whole, _) => (&[0], 4, hidden),
            };
            Layout { gates, blocks, units, lanes }
        };
        let pack = |&stage: &Stage| {
            let layout = layout(stage);
            let (state, input) = match (stage, &p.weight_hr) {
                (Stage::Project, Some(weight_hr)) => {
                    (Panels::new(layout, weight_hr, None, kind, Operand::State)?, None)
                }
                _ => (
                    Panels::new(layout, &p.weight_hh, p.bias_hh.as_ref(), kind, Operand::State)?,
                    Some(Panels::new(layout, &p.weight_ih, p.bias_ih.as_ref(), kind, Operand::Input)?),
                ),
            };
            Ok(PackedStage { stage, input, state })
        };
        let padded = hidden.next_multiple_of(lanes);
        let peephole = |p: &ndarray::Array2<f32>| {
            let weight = |at: usize| p.row(at / padded).get(at % padded).copied().unwrap_or(0.0);
            Aligned::collect(OP, 3 * padded, (0..3 * padded).map(weight))
        };
        Ok(Self {
            cell: *cell,
            stages: cell.stages().iter().map(pack).collect::<Result<_>>()?,
            peephole: p.peephole.as_ref().map(peephole).transpose()?.unwrap_or_default(),
            instructions: set,
        })
    }

    /// What was packed.
    pub(super) fn parameters(&self, input: usize, hidden: usize) -> Result<Parameters> {
        let mut p = Parameters::collect(&self.cell, input, hidden, |spec| memory::zero_array(OP, IxDyn(&spec.shape)))?;
        for stage in &self.stages {
            match (stage.stage, &mut p.weight_hr) {
                (Stage::Project, Some(weight_hr)) => stage.state.unpack(weight_hr.view_mut(), None),
                _ => stage.state.unpack(p.weight_hh.view_mut(), p.bias_hh.as_mut()),
            }
            if let Some(panels) = &stage.input {
                panels.unpack(p.weight_ih.view_mut(), p.bias_ih.as_mut());
            }
        }
        let padded = hidden.next_multiple_of(self.instructions.lanes());
        if let Some(peephole) = &mut p.peephole {
            peephole.indexed_iter_mut().for_each(|((row, unit), p)| *p = self.peephole[row * padded + unit]);
        }
        Ok(p)
    }

    /// Multiply-adds of one step of one row.
    pub(super) fn step_work(&self) -> usize {
        self.stages
            .iter()
            .map(|stage| stage.state.layout.panels() * stage.state.layout.width() * stage.state.depth)
            .sum()
    }

    /// Steps whose input projection is computed at once.
    fn chunk(batch: usize) -> usize {
        (CHUNK_ROWS / batch.max(1)).max(1)
    }

    /// Grows a thread's buffers to what a call needs.
    pub(super) fn reserve(&self, scratch: &mut Scratch, time: usize, batch: usize, threads: usize) -> Result<()> {
        let rows = Self::chunk(batch).min(time) * batch;
        let own = |panels: usize| panels.div_ceil(threads);
        let (mut gates, mut product, mut unpacked, mut rounded) = (0, 0, 0, 0);
        for stage in &self.stages {
            let layout = stage.state.layout;
            let group = GROUP_ROWS.min(batch);
            product = product.max(group * group_panels(group).min(layout.panels()) * layout.width());
            if stage.state.rounds_operand() {
                rounded = rounded.max(RoundedRows::words(stage.state.depth));
            }
            if let Some(input) = &stage.input {
                gates += own(layout.panels()) * layout.width() * rows;
                unpacked = unpacked.max(input.unpacked_len(rows));
            }
        }
        scratch.gates.reserve(OP, gates)?;
        scratch.product.reserve(OP, product)?;
        scratch.unpacked.reserve(OP, unpacked)?;
        scratch.rounded.reserve(OP, rounded * batch)?;
        scratch.scales.reserve(OP, if rounded > 0 { batch } else { 0 })
    }
}

/// What a thread needs for itself.
#[derive(Default)]
pub(super) struct Scratch {
    /// The input's side of all gates of a chunk, stage by stage `[rows, own width]`.
    gates: Aligned<f32>,
    /// The state's side of one panel.
    product: Aligned<f32>,
    /// A panel of narrow weights as `f32`.
    unpacked: Aligned<f32>,
    rounded: Aligned<u32>,
    scales: Aligned<f32>,
}

/// A layer's call in one direction, as all its threads see it.
pub(super) struct LayerCall<'a> {
    pub(super) weights: &'a LayerWeights,
    pub(super) direction: Direction,
    pub(super) time: usize,
    pub(super) batch: usize,
    /// `[T, B, input]`
    pub(super) x: Shared<'a>,
    pub(super) input: usize,
    /// `[T, B, y_stride]`, this direction's columns from `y_at` on.
    pub(super) y: Shared<'a>,
    pub(super) y_at: usize,
    pub(super) y_stride: usize,
    /// `[T, B]`
    pub(super) flags: Option<&'a [u32]>,
    pub(super) pad: Pad,
    pub(super) buffers: Buffers<'a>,
    pub(super) barrier: &'a Barrier,
}

/// The state of a layer and direction in working buffers.
#[derive(Clone, Copy)]
pub(super) struct Buffers<'a> {
    /// The state of even and of odd steps.
    pub(super) h: [Padded<'a>; 2],
    pub(super) s: Padded<'a>,
    pub(super) m: Padded<'a>,
    pub(super) z: Padded<'a>,
    pub(super) initial_h: Initial<'a>,
    pub(super) initial_s: Initial<'a>,
}

/// A thread's place in its group.
#[derive(Clone, Copy)]
pub(super) struct Member {
    pub(super) at: usize,
    pub(super) of: usize,
}

impl Member {
    /// Its share of `count` things.
    pub(super) fn share(self, count: usize) -> Range<usize> {
        border(count, self.at, self.of)..border(count, self.at + 1, self.of)
    }
}

/// Where share `at` of `of` begins: `count * at / of` without the product, which overflows where `count` is large.
fn border<N>(count: N, at: N, of: N) -> N
where
    N: Copy + Add<Output = N> + Mul<Output = N> + Div<Output = N> + Rem<Output = N>,
{
    count / of * at + count % of * at / of
}

impl LayerCall<'_> {
    /// This thread's part of the whole call. On return all threads have written their `y` and state.
    ///
    /// # Safety
    /// All members of the group run it at once, each with its own place; nobody else touches the buffers meanwhile.
    pub(super) unsafe fn run(&self, member: Member, scratch: &mut Scratch) {
        let chunk = LayerWeights::chunk(self.batch);
        for first in (0..self.time).step_by(chunk) {
            let steps = chunk.min(self.time - first);
            // SAFETY: nobody writes to `x` in this call.
            unsafe { self.project_input(member, scratch, first, steps) };
            for k in first..first + steps {
                // SAFETY: all members of the group take this step at once, each with its own place, by this function's contract.
                unsafe { self.step(member, scratch, k, first, steps) };
            }
        }
    }

    /// The step's place in time.
    fn place(&self, k: usize) -> usize {
        match self.direction {
            Direction::Forward => k,
            Direction::Reverse => self.time - 1 - k,
        }
    }

    /// The earliest of the places of `steps` steps from `first` on.
    fn earliest(&self, first: usize, steps: usize) -> usize {
        self.place(first).min(self.place(first + steps - 1))
    }

    /// The input's side of this thread's gates for a chunk of steps.
    ///
    /// # Safety
    /// Nobody writes to `x`.
    unsafe fn project_input(&self, member: Member, scratch: &mut Scratch, first: usize, steps: usize) {
        let rows = steps * self.batch;
        let at = self.earliest(first, steps) * self.batch * self.input;
        // SAFETY: nobody writes to `x`, by this function's contract.
        let numbers = unsafe { self.x.read(at, rows * self.input) };
        let operand = Rows { numbers, stride: self.input, count: rows };
        let mut gates = &mut scratch.gates[..];
        for stage in &self.weights.stages {
            let Some(input) = &stage.input else { continue };
            let own = member.share(input.layout.panels());
            let width = input.layout.width();
            let (out, rest) = gates.split_at_mut(own.len() * width * rows);
            let row_stride = own.len() * width;
            let multiply = |panels: PanelRun<'_>, numbers: &mut [f32]| {
                let target = Target { numbers, panel_stride: width, row_stride };
                self.weights.instructions.run(Product { panels, rows: operand, target });
            };
            let unpacked = input.unpacked_len(rows);
            if unpacked == 0 {
                multiply(input.run(own), out);
            } else {
                for (at, panel) in own.enumerate() {
                    let wide = &mut scratch.unpacked[..unpacked];
                    multiply(
                        input.run(panel..panel + 1).unpacked(wide, self.weights.instructions),
                        &mut out[at * width..],
                    );
                }
            }
            gates = rest;
        }
    }

    /// One step of this thread's units, all stages.
    ///
    /// # Safety
    /// As [`LayerCall::run`].
    unsafe fn step(&self, member: Member, scratch: &mut Scratch, k: usize, first: usize, steps: usize) {
        let Self { weights, batch, buffers, .. } = *self;
        let t = self.place(k);
        let state = self.step_state(k, t);
        let from_chunk = (t - self.earliest(first, steps)) * batch;
        let mut gates_at = 0;
        for stage in &weights.stages {
            let layout = stage.state.layout;
            let own = member.share(layout.panels());
            let from = match stage.stage {
                Stage::Whole | Stage::Reset => state.h,
                Stage::Candidate | Stage::Project => buffers.m,
            };
            // SAFETY: written before the last barrier, read until the next.
            let numbers = unsafe { from.rows.read(0, batch * from.stride) };
            let rows = Rows { numbers, stride: from.stride, count: batch };
            let input_stride = if stage.input.is_some() { own.len() * layout.width() } else { 0 };
            let Scratch { gates, product, rounded, scales, .. } = scratch;
            if stage.state.rounds_operand() {
                weights.instructions.run(Round { rows, depth: stage.state.depth, bytes: rounded, scales });
            }
            let backwards = k % 2 == 1;
            let together = group_panels(GROUP_ROWS.min(batch));
            let runs = own.len().div_ceil(together);
            for run in 0..runs {
                // Every other step backwards: what the last step read last is still in the cache.
                let run = if backwards { runs - 1 - run } else { run };
                let panels = own.start + run * together..own.end.min(own.start + (run + 1) * together);
                let packed = PanelRun { backwards, ..stage.state.run(panels.clone()) };
                for begin in (0..batch).step_by(GROUP_ROWS) {
                    let group = begin..batch.min(begin + GROUP_ROWS);
                    let (row_stride, panel_stride) = (layout.width(), group.len() * layout.width());
                    let target = Target { numbers: product, panel_stride, row_stride };
                    if stage.state.rounds_operand() {
                        let rows = RoundedRows::new(rounded, scales, stage.state.depth, group.clone());
                        weights.instructions.run(DotProduct { panels: packed, rows, target });
                    } else {
                        weights.instructions.run(Product { panels: packed, rows: rows.slice(group.clone()), target });
                    }
                    let input_at = gates_at + (from_chunk + begin) * input_stride + run * together * layout.width();
                    weights.instructions.run(Update {
                        cell: &weights.cell,
                        stage: stage.stage,
                        layout,
                        panels: panels.clone(),
                        rows: group,
                        input: if input_stride > 0 { &gates[input_at..] } else { &[] },
                        input_stride,
                        product,
                        peephole: &weights.peephole,
                        state: &state,
                    });
                }
            }
            gates_at += input_stride * steps * batch;
            self.barrier.wait(member.of);
        }
    }

    fn step_state(&self, k: usize, t: usize) -> StepState<'_> {
        let Self { batch, buffers, .. } = *self;
        let flags_at = |t: usize| self.flags.map(|flags| &flags[t * batch..(t + 1) * batch]);
        let y_at = |t: usize| t * batch * self.y_stride + self.y_at;
        StepState {
            h: buffers.h[k % 2],
            h_next: buffers.h[(k + 1) % 2],
            s: buffers.s,
            m: buffers.m,
            z: buffers.z,
            initial_h: buffers.initial_h,
            initial_s: buffers.initial_s,
            flags: Flags { now: flags_at(t), next: (k + 1 < self.time).then(|| flags_at(self.place(k + 1))).flatten() },
            output: Output {
                y: self.y,
                at: y_at(t),
                stride: self.y_stride,
                held: (self.pad == Pad::Hold && k > 0).then(|| y_at(self.place(k - 1))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on a machine of 32 bits.
    #[test]
    fn shares_cover_any_count_without_overflow() {
        for count in [0, 1, 7, 4096, 1 << 30, u32::MAX / 2 + 1, u32::MAX - 1, u32::MAX] {
            for of in [1, 2, 3, 48, 1000, 1024] {
                let exact = |at: u32| u64::from(count) * u64::from(at) / u64::from(of);
                for at in 0..=of {
                    assert_eq!(u64::from(border(count, at, of)), exact(at), "{at} of {of} of {count}");
                }
            }
        }
        let member = Member { at: 2, of: 3 };
        assert_eq!(member.share(usize::MAX), usize::MAX / 3 * 2..usize::MAX);
    }
}

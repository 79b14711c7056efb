//! Stacks of layers with gradients. The rows of a batch do not meet before the weights' gradients: a thread takes a few of
//! them through all layers, forward and back, without meeting the others. What each part of the rows adds to the weights'
//! gradients is summed in the parts' order, so that results are the same bits for any number of threads.

mod backward;
mod forward;
mod step;
mod weights;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{Array2, ArrayView2};

use self::weights::LayerWeights;
use super::device::CpuDevice;
use crate::cell::{Cell, Noise, Pad, Parameters};
use crate::reference::{Binary, Direction};

/// Rows of a part. Fixed, as the order of the gradients' sums depends on it.
const PART_ROWS: usize = 8;
/// Steps whose share of the weights' gradients is summed at once. Fixed likewise: chunks of whole groups give the same bits.
const GROUP_STEPS: usize = 32;
/// Multiply-adds of a call that are worth waking a thread.
const CALL_WORK: usize = 1 << 18;

/// The weights of all layers and directions, packed for both passes.
pub(crate) struct TrainingStack {
    /// `[layer][direction]`
    layers: Vec<Vec<LayerWeights>>,
    directions: Vec<Direction>,
    merge: Option<Binary>,
    hidden: usize,
    out: usize,
    device: CpuDevice,
}

/// One call.
#[derive(Clone, Copy)]
pub(crate) struct TrainingCall<'a> {
    /// `[T, B, input]`
    pub(crate) x: &'a [f32],
    /// `[layers directions, B, O]`
    pub(crate) h: &'a [f32],
    /// `[layers directions, B, hidden]`, or nothing.
    pub(crate) s: &'a [f32],
    /// What a reset returns to; zero where absent.
    pub(crate) initial_h: Option<&'a [f32]>,
    pub(crate) initial_s: Option<&'a [f32]>,
}

/// What the backward pass needs of a call.
pub(crate) struct TrainingTape {
    stack: Arc<TrainingStack>,
    steps: TrainingSteps,
    parts: Vec<PartTape>,
}

/// What a call says about its steps, for both passes.
pub(crate) struct TrainingSteps {
    pub(crate) time: usize,
    pub(crate) batch: usize,
    /// `[T, B]`
    pub(crate) flags: Option<Vec<u32>>,
    pub(crate) pad: Pad,
    pub(crate) noise: Noise,
    /// Steps of a chunk, rounded up to whole groups; then only the states between chunks are kept.
    pub(crate) checkpoint: Option<usize>,
}

/// Output and state of a call.
pub(crate) struct TrainingOutput {
    /// `[T, B, width]`
    pub(crate) y: Vec<f32>,
    /// `[layers directions, B, O]`
    pub(crate) h: Vec<f32>,
    /// `[layers directions, B, hidden]`, or nothing.
    pub(crate) s: Vec<f32>,
}

/// Gradients of a call, laid out as what they belong to.
pub(crate) struct TrainingGradient {
    pub(crate) x: Vec<f32>,
    pub(crate) h: Vec<f32>,
    pub(crate) s: Vec<f32>,
    pub(crate) initial_h: Vec<f32>,
    pub(crate) initial_s: Vec<f32>,
    /// `[layer][direction]`
    pub(crate) parameters: Vec<Vec<Parameters>>,
}

/// Some steps one after another, in the order in which a direction takes them.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    steps: usize,
}

/// What some rows leave behind. Steps lie at their place in time, rows of a step side by side.
struct PartTape {
    rows: Range<usize>,
    layers: Vec<LayerTape>,
}

struct LayerTape {
    /// `[T, rows, input]`
    x: Vec<f32>,
    directions: Vec<DirectionTape>,
}

struct DirectionTape {
    /// Empty where chunks are run again.
    chunks: Vec<ChunkTape>,
    /// What each chunk began with, where it is run again.
    borders: Vec<Walk>,
    /// What a reset returns to: h and s.
    initial: [Vec<f32>; 2],
    /// The output, where a product merges it with the other direction's.
    y: Vec<f32>,
}

/// What a direction carries from step to step.
#[derive(Clone)]
struct Walk {
    h: Vec<f32>,
    s: Vec<f32>,
    /// The last output.
    held: Vec<f32>,
}

/// What a chunk's steps leave for the way back.
struct ChunkTape {
    /// Pre-activations, rows as far apart as the product leaves them.
    gates: Vec<f32>,
    /// `W_n h + b_hn` or `r h` of a GRU, the state before its projection of an LSTM.
    second: Vec<f32>,
    /// The state before a step, and the new cell state.
    h: Vec<f32>,
    s: Vec<f32>,
    s_next: Vec<f32>,
}

/// Gradients of some rows.
struct PartGradient {
    rows: Range<usize>,
    x: Vec<f32>,
    /// By rows `layer * directions + direction`.
    h: Vec<Vec<f32>>,
    s: Vec<Vec<f32>>,
    initial_h: Vec<Vec<f32>>,
    initial_s: Vec<Vec<f32>>,
    parameters: Vec<Vec<Parameters>>,
}

impl TrainingStack {
    /// Packs parameters that fit their cells, one cell a direction and at least one layer.
    pub(crate) fn new(
        device: &CpuDevice,
        cells: &[Cell],
        directions: &[Direction],
        merge: Option<Binary>,
        hidden: usize,
        parameters: &[Vec<Parameters>],
    ) -> Self {
        let pack = |layer: &Vec<Parameters>| {
            let one = |(cell, p)| LayerWeights::new(cell, hidden, p, device.verified());
            cells.iter().zip(layer).map(one).collect()
        };
        Self {
            layers: parameters.iter().map(pack).collect(),
            directions: directions.to_vec(),
            merge: merge.filter(|_| directions.len() == 2),
            hidden,
            out: cells.first().map_or(hidden, |cell| cell.output_size(hidden)),
            device: device.clone(),
        }
    }

    /// Width of a layer's output.
    fn width(&self) -> usize {
        if self.merge.is_some() { self.out } else { self.out * self.directions.len() }
    }

    /// Runs `one` for every part of the rows, on as many threads as the work is worth.
    fn each_part<T: Send>(&self, steps: &TrainingSteps, one: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let parts = steps.batch.div_ceil(PART_ROWS);
        let layer = |layer: &Vec<LayerWeights>| layer.iter().map(LayerWeights::step_work).sum::<usize>();
        let work = steps.time * steps.batch * self.layers.iter().map(layer).sum::<usize>();
        let threads = self.device.threads().min(parts).min(work / CALL_WORK).max(1);
        let slots: Vec<Mutex<Option<T>>> = (0..parts).map(|_| Mutex::new(None)).collect();
        self.device.pool().run(threads, |thread, threads| {
            for part in (thread..parts).step_by(threads) {
                *slots[part].lock().unwrap_or_else(PoisonError::into_inner) = Some(one(part));
            }
        });
        slots.into_iter().filter_map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
    }

    /// Runs all layers over the sequence and keeps what the backward pass needs. The slices have the lengths that
    /// [`TrainingCall`] says.
    pub(crate) fn forward(
        self: Arc<Self>,
        call: &TrainingCall<'_>,
        steps: TrainingSteps,
    ) -> (TrainingOutput, TrainingTape) {
        let TrainingSteps { time, batch, .. } = steps;
        let results = self.each_part(&steps, |part| self.forward_part(call, &steps, part_rows(part, batch)));
        let mut output = TrainingOutput {
            y: vec![0.0; time * batch * self.width()],
            h: vec![0.0; call.h.len()],
            s: vec![0.0; call.s.len()],
        };
        let mut parts = Vec::with_capacity(results.len());
        for (tape, part) in results {
            put_rows(&mut output.y, batch, self.width(), &tape.rows, &part.y);
            for (row, h) in part.h.iter().enumerate() {
                put_rows(&mut output.h[row * batch * self.out..], batch, self.out, &tape.rows, h);
            }
            for (row, s) in part.s.iter().enumerate().filter(|_| !call.s.is_empty()) {
                put_rows(&mut output.s[row * batch * self.hidden..], batch, self.hidden, &tape.rows, s);
            }
            parts.push(tape);
        }
        (output, TrainingTape { stack: self, steps, parts })
    }
}

impl TrainingTape {
    /// The gradients by everything the call read, from those by everything it wrote: `dy [T, B, width]`, `d_h` and `d_s`
    /// as [`TrainingOutput`]'s state, zero where absent. The recurrent gradient is clamped to `[-clip, clip]` between two
    /// steps if asked for.
    pub(crate) fn backward(
        &self,
        dy: &[f32],
        d_h: Option<&[f32]>,
        d_s: Option<&[f32]>,
        clip: Option<f32>,
    ) -> TrainingGradient {
        let Self { stack, steps: TrainingSteps { time, batch, .. }, .. } = self;
        let input = stack.layers[0][0].input;
        let call = backward::Call { dy, d_h, d_s, clip };
        let parts = stack.each_part(&self.steps, |part| stack.backward_part(&call, &self.steps, &self.parts[part]));
        let rows = stack.layers.len() * stack.directions.len() * batch;
        let has_cell = stack.layers[0][0].cell.has_cell_state();
        let s_len = if has_cell { rows * stack.hidden } else { 0 };
        let mut gradient = TrainingGradient {
            x: vec![0.0; time * batch * input],
            h: vec![0.0; rows * stack.out],
            s: vec![0.0; s_len],
            initial_h: vec![0.0; rows * stack.out],
            initial_s: vec![0.0; s_len],
            parameters: Vec::new(),
        };
        for part in parts {
            put_rows(&mut gradient.x, *batch, input, &part.rows, &part.x);
            let (out, hidden) = (stack.out, if has_cell { stack.hidden } else { 0 });
            for (into, from, width) in [
                (&mut gradient.h, &part.h, out),
                (&mut gradient.initial_h, &part.initial_h, out),
                (&mut gradient.s, &part.s, hidden),
                (&mut gradient.initial_s, &part.initial_s, hidden),
            ] {
                for (row, values) in from.iter().enumerate() {
                    put_rows(&mut into[row * batch * width..], *batch, width, &part.rows, values);
                }
            }
            if gradient.parameters.is_empty() {
                gradient.parameters = part.parameters;
                continue;
            }
            for (into, from) in gradient.parameters.iter_mut().flatten().zip(part.parameters.iter().flatten()) {
                into.add(from);
            }
        }
        if gradient.parameters.is_empty() {
            gradient.parameters = stack.zero_parameters();
        }
        gradient
    }
}

impl TrainingStack {
    fn zero_parameters(&self) -> Vec<Vec<Parameters>> {
        self.layers.iter().map(|layer| layer.iter().map(LayerWeights::zero_parameters).collect()).collect()
    }
}

fn part_rows(part: usize, batch: usize) -> Range<usize> {
    part * PART_ROWS..((part + 1) * PART_ROWS).min(batch)
}

/// Copies a part's rows of every step to their place among all rows: `from [.., rows, width]`, `to [.., batch, width]`.
fn put_rows(to: &mut [f32], batch: usize, width: usize, rows: &Range<usize>, from: &[f32]) {
    let chunk = rows.len() * width;
    if chunk == 0 {
        return;
    }
    for (step, from) in from.chunks_exact(chunk).enumerate() {
        to[(step * batch + rows.start) * width..][..chunk].copy_from_slice(from);
    }
}

/// The other way round.
fn take_rows(from: &[f32], steps: usize, batch: usize, width: usize, rows: &Range<usize>) -> Vec<f32> {
    let mut to = Vec::with_capacity(steps * rows.len() * width);
    for step in 0..steps {
        to.extend_from_slice(&from[(step * batch + rows.start) * width..][..rows.len() * width]);
    }
    to
}

/// Rows of a buffer as a matrix, `stride` apart, `columns` from `first` on.
fn matrix(buffer: &[f32], rows: usize, stride: usize, first: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, stride), &buffer[..rows * stride])
        .map(|all| all.slice_move(ndarray::s![.., first..first + columns]))
        .unwrap_or_else(|_| unreachable!("a slice of rows times stride numbers is a matrix of that shape"))
}

/// The sums of a matrix's columns.
fn column_sums(a: ArrayView2<'_, f32>) -> ndarray::Array1<f32> {
    a.sum_axis(ndarray::Axis(0))
}

/// Zeros of a parameter's shape.
fn zeros(rows: usize, columns: usize) -> Array2<f32> {
    Array2::zeros((rows, columns))
}

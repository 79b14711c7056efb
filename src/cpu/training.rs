//! Stacks of layers with gradients. The rows of a batch do not meet before the weights' gradients: a thread takes some of
//! them through a layer and direction, forward and back, without meeting the others. The weights' gradients are sums over all
//! rows of a step and all steps in an order that no thread changes, so that results are the same bits for any number of them.

mod backward;
mod forward;
mod gradient;
mod merge;
mod step;
mod weights;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use self::forward::Run;
use self::weights::LayerWeights;
use super::buffer_cache::CachedBuffer;
use super::device::CpuDevice;
use crate::cell::{Cell, Noise, Pad, Parameters};
use crate::error::Result;
use crate::memory;
use crate::op::Binary;

const OP: &str = "training";
/// Steps whose share of the weights' gradients is summed at once. Fixed: chunks of whole groups give the same bits.
const GROUP_STEPS: usize = 64;
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
    threads: usize,
    /// Which rows of the batch each part has.
    parts: Vec<Range<usize>>,
    layers: Vec<LayerTape>,
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

struct LayerTape {
    /// By parts, `[T, rows, input]`: steps lie at their place in time, rows of a step side by side.
    x: Vec<CachedBuffer>,
    /// By directions, then parts.
    runs: Vec<RunTape>,
}

/// What some rows leave behind on their way through a layer and direction.
struct RunTape {
    /// Empty where chunks are run again.
    chunks: Vec<ChunkTape>,
    /// What each chunk began with, where it is run again.
    borders: Vec<Walk>,
    /// What a reset returns to: h and s.
    initial: [Vec<f32>; 2],
    /// The output, where a product merges it with the other direction's.
    y: Option<CachedBuffer>,
}

/// What a direction carries from step to step.
struct Walk {
    h: Vec<f32>,
    s: Vec<f32>,
    /// The last output.
    held: Vec<f32>,
}

impl Walk {
    fn try_clone(&self) -> Result<Self> {
        let Self { h, s, held } = self;
        Ok(Self { h: memory::copied(OP, h)?, s: memory::copied(OP, s)?, held: memory::copied(OP, held)? })
    }
}

/// What a chunk's steps leave for the way back.
struct ChunkTape {
    /// Pre-activations, rows as far apart as the product leaves them.
    gates: CachedBuffer,
    /// `W_n h + b_hn` or `r h` of a GRU, the state before its projection of an LSTM.
    second: CachedBuffer,
    /// The state before a step, and the new cell state.
    h: CachedBuffer,
    s: CachedBuffer,
    s_next: CachedBuffer,
}

/// A layer's parameters by name, row-major, as `Cell::parameters` says.
pub(crate) type NamedParameters<'a> = Vec<(&'static str, &'a [f32])>;

impl TrainingStack {
    /// Packs parameters that fit their cells, `[layer][direction]`, one cell a direction and at least one layer.
    pub(crate) fn new(
        device: &CpuDevice,
        cells: &[Cell],
        directions: &[Direction],
        merge: Option<Binary>,
        [input, hidden]: [usize; 2],
        parameters: &[Vec<NamedParameters<'_>>],
    ) -> Result<Self> {
        let mut stack = Self {
            layers: Vec::with_capacity(parameters.len()),
            directions: directions.to_vec(),
            merge: merge.filter(|_| directions.len() == 2),
            hidden,
            out: cells.first().map_or(hidden, |cell| cell.output_size(hidden)),
            device: device.clone(),
        };
        for layer in parameters {
            let input = if stack.layers.is_empty() { input } else { stack.width() };
            let pack = |(cell, p)| LayerWeights::new(cell, [input, hidden], p, device);
            stack.layers.push(cells.iter().zip(layer).map(pack).collect::<Result<_>>()?);
        }
        Ok(stack)
    }

    /// Width of a layer's output.
    fn width(&self) -> usize {
        if self.merge.is_some() { self.out } else { self.out * self.directions.len() }
    }

    /// Threads that a call is worth.
    fn threads(&self, steps: &TrainingSteps) -> usize {
        let layer = |layer: &Vec<LayerWeights>| layer.iter().map(LayerWeights::step_work).sum::<usize>();
        let work = (steps.time * steps.batch).saturating_mul(self.layers.iter().map(layer).sum());
        self.device.threads().min(work / CALL_WORK).max(1)
    }

    /// Cuts a batch into parts, as many as there are threads for a direction.
    fn parts(&self, batch: usize, threads: usize) -> Vec<Range<usize>> {
        let parts = threads.div_ceil(self.directions.len().max(1));
        let rows = batch.div_ceil(parts).max(1);
        (0..batch).step_by(rows).map(|first| first..batch.min(first + rows)).collect()
    }

    /// A layer's directions, each with all parts.
    fn runs<'a>(&'a self, layer: usize, steps: &'a TrainingSteps, parts: &'a [Range<usize>]) -> Vec<Run<'a>> {
        let one = |(at, weights): (usize, &'a LayerWeights)| {
            let (direction, row) = (self.directions[at], layer * self.directions.len() + at);
            let scratch = self.device.buffers();
            parts.iter().map(move |rows| Run { weights, direction, row, steps, rows, scratch })
        };
        self.layers[layer].iter().enumerate().flat_map(one).collect()
    }

    /// Runs `one` on every item, on up to so many threads; what comes of them is in the items' order.
    ///
    /// # Errors
    /// The first one in that order.
    fn each<T: Send, R: Send>(
        &self,
        threads: usize,
        items: impl IntoIterator<Item = T>,
        one: impl Fn(T) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        if threads == 1 {
            let items = items.into_iter();
            let mut results = Vec::with_capacity(items.size_hint().0);
            for item in items {
                results.push(one(item)?);
            }
            return Ok(results);
        }
        let slots: Vec<_> = items.into_iter().map(|item| Mutex::new((Some(item), None))).collect();
        let next = AtomicUsize::new(0);
        self.device.pool().run(threads.min(slots.len()), &[], |_, _| {
            while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                slot.1 = slot.0.take().map(&one);
            }
        });
        let mut results = Vec::with_capacity(slots.len());
        for slot in slots {
            results.extend(slot.into_inner().unwrap_or_else(PoisonError::into_inner).1.transpose()?);
        }
        Ok(results)
    }
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
fn take_rows(from: &[f32], batch: usize, width: usize, rows: &Range<usize>, to: &mut [f32]) {
    let chunk = rows.len() * width;
    if chunk == 0 {
        return;
    }
    for (step, to) in to.chunks_exact_mut(chunk).enumerate() {
        to.copy_from_slice(&from[(step * batch + rows.start) * width..][..chunk]);
    }
}

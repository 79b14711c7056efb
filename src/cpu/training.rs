//! Stacks of layers with gradients. The batch is cut into shards: a thread takes one shard through a layer and
//! direction, forward and back, without meeting other threads. The weights' gradients are summed over all rows and
//! steps in a fixed order. So the number of threads does not change the results' bits.
//!
//! ```text
//! steps           the order of the steps in time, their flags and masks
//! weights matrix  packed weights, and their transposes
//! shard           some rows in one layer and direction, and what the forward pass keeps of them
//! step            the element-wise part of a step, forward (by the equations of inference) and backward
//! forward         the forward pass
//! backward        the backward pass through layers; `span_backward` takes a shard back through time
//! merge           two directions' outputs
//! gradient        the weights' gradients
//! ```

mod backward;
mod forward;
mod gradient;
mod matrix;
mod merge;
mod shard;
mod span_backward;
mod step;
mod steps;
mod weights;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub(crate) use self::steps::TrainingSteps;

use self::shard::{LayerShard, ShardRows, ShardTape};
use self::weights::LayerWeights;
use super::buffer_cache::CachedBuffer;
use super::device::CpuDevice;
use super::phases::share_start;
use crate::cell::{Cell, Direction, Parameters};
use crate::error::Result;
use crate::memory;
use crate::op::Binary;

const OP: &str = "training";
/// Multiply-adds of a call that justify waking a thread.
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

/// The input and the state of a training call.
#[derive(Clone, Copy)]
pub(crate) struct TrainingCall<'a> {
    /// `[T, B, input]`
    pub(crate) x: &'a [f32],
    /// `[layers directions, B, O]`
    pub(crate) h: &'a [f32],
    /// `[layers directions, B, hidden]`; empty unless the cell is an LSTM.
    pub(crate) s: &'a [f32],
    /// The `h` to which a reset returns, in the shape of `h`; zero if absent.
    pub(crate) initial_h: Option<&'a [f32]>,
    /// The `s` to which a reset returns, in the shape of `s`; zero if absent.
    pub(crate) initial_s: Option<&'a [f32]>,
}

/// Everything that the backward pass needs of a training call.
pub(crate) struct TrainingTape {
    stack: Arc<TrainingStack>,
    steps: TrainingSteps,
    threads: usize,
    shards: Vec<ShardRows>,
    layers: Vec<LayerTape>,
}

/// Output and state of a training call.
pub(crate) struct TrainingOutput {
    /// `[T, B, width]`
    pub(crate) y: Vec<f32>,
    /// `[layers directions, B, O]`
    pub(crate) h: Vec<f32>,
    /// `[layers directions, B, hidden]`; empty unless the cell is an LSTM.
    pub(crate) s: Vec<f32>,
}

/// The gradients of a training call, laid out as the arrays that they belong to.
pub(crate) struct TrainingGradient {
    pub(crate) x: Vec<f32>,
    pub(crate) h: Vec<f32>,
    pub(crate) s: Vec<f32>,
    pub(crate) initial_h: Vec<f32>,
    pub(crate) initial_s: Vec<f32>,
    /// `[layer][direction]`
    pub(crate) parameters: Vec<Vec<Parameters>>,
}

/// A layer's part of the tape.
struct LayerTape {
    /// The input by shards, of the rows that take part in each step, in the order of time.
    x: Vec<CachedBuffer>,
    /// By directions, then shards.
    shards: Vec<ShardTape>,
}

/// A layer's parameters by name, row-major, as `Cell::parameters` says.
pub(crate) type NamedParameters<'a> = Vec<(&'static str, &'a [f32])>;

impl TrainingStack {
    /// Packs parameters `[layer][direction]` that fit their cells: one cell per direction, and at least one layer.
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

    /// The number of threads whose start pays off in a call.
    fn threads(&self, steps: &TrainingSteps) -> usize {
        let layer = |layer: &Vec<LayerWeights>| layer.iter().map(LayerWeights::step_work).sum::<usize>();
        let work = (steps.time * steps.batch).saturating_mul(self.layers.iter().map(layer).sum());
        self.device.threads().min(work / CALL_WORK).max(1)
    }

    /// Cuts a batch into shards of about as many steps to take, at most as many shards as there are threads per direction.
    fn shard_rows(&self, steps: &TrainingSteps, threads: usize) -> Result<Vec<ShardRows>> {
        let most = threads.div_ceil(self.directions.len().max(1));
        let mut ranges: Vec<Range<usize>> = Vec::with_capacity(most);
        // A row that takes no step still has outputs and gradients.
        let work = |row: usize| match steps.flags {
            Some(_) => 1 + (0..steps.time).filter(|&t| steps.valid(t, row)).count(),
            None => 1,
        };
        let work = memory::collected(OP, steps.batch, (0..steps.batch).map(work))?;
        let (total, mut done) = (work.iter().sum::<usize>(), 0);
        for (row, work) in work.into_iter().enumerate() {
            let count = ranges.len();
            match ranges.last_mut() {
                Some(last) if done < share_start(total, count, most) => last.end = row + 1,
                _ => ranges.push(row..row + 1),
            }
            done += work;
        }
        ranges.into_iter().map(|range| ShardRows::new(steps, range)).collect()
    }

    /// A layer's shards, by directions and then rows.
    fn layer_shards<'a>(
        &'a self,
        layer: usize,
        steps: &'a TrainingSteps,
        shards: &'a [ShardRows],
    ) -> Vec<LayerShard<'a>> {
        let one = |(at, weights): (usize, &'a LayerWeights)| {
            let (direction, state_row) = (self.directions[at], layer * self.directions.len() + at);
            let buffers = self.device.buffers();
            shards.iter().map(move |ShardRows { range: rows, active }| {
                let active = active.as_ref();
                LayerShard { weights, direction, state_row, steps, rows, active, buffers }
            })
        };
        self.layers[layer].iter().enumerate().flat_map(one).collect()
    }

    /// Runs `one` on every item, on at most `threads` threads, and returns the results in the items' order.
    ///
    /// # Errors
    /// The first error in that order.
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
        self.device.pool().share(threads.min(slots.len()), |_| {
            while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                slot.1 = slot.0.take().map(&one);
            }
            Ok(())
        });
        let mut results = Vec::with_capacity(slots.len());
        for slot in slots {
            results.extend(slot.into_inner().unwrap_or_else(PoisonError::into_inner).1.transpose()?);
        }
        Ok(results)
    }
}

/// Copies a shard's rows of every step to their place in the batch: from `[.., rows, width]` to `[.., batch, width]`.
fn put_rows(to: &mut [f32], batch: usize, width: usize, rows: &Range<usize>, from: &[f32]) {
    let chunk = rows.len() * width;
    if chunk == 0 {
        return;
    }
    for (step, from) in from.chunks_exact(chunk).enumerate() {
        to[(step * batch + rows.start) * width..][..chunk].copy_from_slice(from);
    }
}

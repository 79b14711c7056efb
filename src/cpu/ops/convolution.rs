//! One-dimensional convolutions with filters that were packed when they were loaded.
//!
//! With the channels last, a window of the signal is a run of numbers, and neighbouring windows are `stride` positions apart.
//! The convolution is then a matrix product of the windows, which need no copy, with the packed filters. Groups with few filters
//! would fill a panel badly; [`direct`](super::direct) computes them along the signal.
#![allow(unsafe_code)]

use std::ops::Range;

use ndarray::{Array1, Array2, Array3, ArrayView3, s};

use super::super::device::CpuDevice;
use super::super::memory::{AlignedVec, SharedSlice};
use super::super::product::OperandRows;
use super::super::simd::Verified;
use super::direct;
use super::layout::transpose;
use super::product::{MatrixOperand, PackedMatrix, PanelMatrix, with_packed};
use super::scratch::{split, wanted_threads, with_scratch};
use crate::error::Result;

const OP: &str = "conv1d";

/// The windows of a convolution along one axis, without its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Windows {
    /// Elements per window.
    pub(crate) kernel: usize,
    /// Positions from one window to the next, at least 1.
    pub(crate) stride: usize,
    /// Positions from one element of a window to the next, at least 1.
    pub(crate) dilation: usize,
}

impl Windows {
    /// Positions from the first to the last element of a window, both included.
    pub(crate) fn span(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }
}

/// A signal `[N, C, L]` with the zeros before it. The zeros behind it follow from the number of windows.
#[derive(Clone, Copy)]
pub(crate) struct Signal<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) length: usize,
    pub(crate) before: usize,
}

/// The filters of a convolution with their bias, packed for the processor of a device.
pub(crate) struct PackedFilters {
    device: CpuDevice,
    windows: Windows,
    /// Channels and filters per group.
    channels: usize,
    filters: usize,
    groups: usize,
    numbers: FilterNumbers,
}

enum FilterNumbers {
    /// Per group the filters `[filters, kernel * channels]`.
    Product(Vec<PackedMatrix>),
    /// The filters `[O, C / groups, K]` and the bias as they are.
    Direct(AlignedVec<f32>, AlignedVec<f32>),
}

/// From this many registers of filters per group on, a convolution is a product.
const PRODUCT_REGISTERS: usize = 2;

/// Whether a convolution with so many filters per group is a product.
fn is_product(device: &CpuDevice, filters: usize) -> bool {
    filters >= PRODUCT_REGISTERS * device.verified().lanes()
}

impl PackedFilters {
    /// Packs `weight [O, C / groups, K]` and `bias [O]`. `groups` divides O, and K is at least 1.
    pub(crate) fn new(
        device: &CpuDevice,
        weight: &Array3<f32>,
        bias: Option<&Array1<f32>>,
        windows: Windows,
        groups: usize,
    ) -> Result<Self> {
        let (out, channels, _) = weight.dim();
        let filters = out / groups.max(1);
        let numbers = if is_product(device, filters) {
            let group = |at: usize| {
                let own = s![at * filters..(at + 1) * filters, .., ..];
                let bias = bias.map(|bias| bias.slice(s![at * filters..(at + 1) * filters]).to_owned());
                PackedMatrix::new(device, &channels_last(weight.slice(own)), bias.as_ref())
            };
            FilterNumbers::Product((0..groups).map(group).collect::<Result<_>>()?)
        } else {
            let weight = AlignedVec::collect(OP, weight.len(), weight.iter().copied())?;
            let bias = (0..out).map(|o| bias.map_or(0.0, |bias| bias[o]));
            FilterNumbers::Direct(weight, AlignedVec::collect(OP, out, bias)?)
        };
        Ok(Self { device: device.clone(), windows, channels, filters, groups, numbers })
    }

    /// Copies the filters and their bias out of the panels: `[O, C / groups, K]`, `[O]`.
    pub(crate) fn unpack(&self) -> (Array3<f32>, Array1<f32>) {
        let (out, channels, kernel) = (self.outputs(), self.channels, self.windows.kernel);
        let (mut weight, mut bias) = (Array3::zeros((out, channels, kernel)), Array1::zeros(out));
        match &self.numbers {
            FilterNumbers::Direct(numbers, own_bias) => {
                weight.iter_mut().zip(numbers.iter()).for_each(|(to, &from)| *to = from);
                bias.iter_mut().zip(own_bias.iter()).for_each(|(to, &from)| *to = from);
            }
            FilterNumbers::Product(groups) => {
                for (at, group) in groups.iter().enumerate() {
                    let (own, own_bias) = group.unpack();
                    for ((o, tap), w) in own.indexed_iter() {
                        weight[[at * self.filters + o, tap % channels, tap / channels]] = *w;
                    }
                    bias.slice_mut(s![at * self.filters..(at + 1) * self.filters]).assign(&own_bias);
                }
            }
        }
        (weight, bias)
    }

    /// Channels of a signal.
    pub(crate) fn channels(&self) -> usize {
        self.groups * self.channels
    }

    /// Channels of a result.
    pub(crate) fn outputs(&self) -> usize {
        self.groups * self.filters
    }

    /// Computes `out [N, O, length]` from a signal, of which every window begins inside the padded signal.
    pub(crate) fn convolve(&self, x: Signal<'_>, length: usize, out: &mut [f32]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let count = out.len() / (self.outputs() * length);
        let Self { channels, filters, groups, .. } = *self;
        let call = ConvolutionCall::new(self.windows, x, [channels, filters, groups], [length, count]);
        if channels == 0 {
            call.repeat(&self.unpack().1.to_vec(), out);
            return Ok(());
        }
        match &self.numbers {
            FilterNumbers::Product(groups) => call.multiply(&self.device, |group| groups[group].matrix(), out),
            FilterNumbers::Direct(weight, bias) => direct::convolve(&self.device, &call, (weight, bias), out),
        }
    }
}

/// Computes `out [N, O, length]` with filters `[O, C, K]` that are not constant, for a signal of `channels` channels.
pub(crate) fn conv1d(
    device: &CpuDevice,
    x: Signal<'_>,
    windows: Windows,
    channels: usize,
    (weight, bias): (&[f32], &[f32]),
    [length, count]: [usize; 2],
    out: &mut [f32],
) -> Result<()> {
    let (filters, kernel) = (bias.len(), windows.kernel);
    let call = ConvolutionCall::new(windows, x, [channels, filters, 1], [length, count]);
    if out.is_empty() || channels == 0 {
        call.repeat(bias, out);
        return Ok(());
    }
    if !is_product(device, filters) {
        return direct::convolve(device, &call, (weight, bias), out);
    }
    let taps = channels * kernel;
    with_scratch(OP, filters * taps, |rows| {
        for (from, to) in weight.chunks_exact(taps).zip(rows.chunks_exact_mut(taps)) {
            transpose((from, kernel), [channels, kernel], (to, channels));
        }
        let rows = MatrixOperand { numbers: rows, transposed: true };
        with_packed(device, rows, [taps, filters], Some(bias), |matrix| call.multiply(device, |_| matrix, out))?
    })?
}

/// Filters `[O, C, K]` as rows `[O, K * C]`.
fn channels_last(weight: ArrayView3<'_, f32>) -> Array2<f32> {
    let (out, channels, kernel) = weight.dim();
    Array2::from_shape_fn((out, kernel * channels), |(o, tap)| weight[[o, tap % channels, tap / channels]])
}

/// One convolution of a signal.
pub(super) struct ConvolutionCall<'a> {
    pub(super) windows: Windows,
    pub(super) x: Signal<'a>,
    /// Channels and filters per group.
    pub(super) channels: usize,
    pub(super) filters: usize,
    pub(super) groups: usize,
    /// Windows per signal.
    pub(super) length: usize,
    /// Signals.
    pub(super) count: usize,
}

/// Windows that are multiplied at once, so that their numbers stay in the cache.
const MOST_WINDOWS: usize = 144;
/// Windows that a block of short signals has together.
const SHARED_WINDOWS: usize = 48;
/// From this many windows on, a signal has blocks of its own.
const FEW_WINDOWS: usize = 12;

/// Some windows of some signals.
struct WindowBlock {
    signals: Range<usize>,
    windows: Range<usize>,
}

impl WindowBlock {
    fn rows(&self) -> usize {
        self.signals.len() * self.windows.len()
    }
}

impl<'a> ConvolutionCall<'a> {
    fn new(
        windows: Windows,
        x: Signal<'a>,
        [channels, filters, groups]: [usize; 3],
        [length, count]: [usize; 2],
    ) -> Self {
        // A single window has no next one, so its stride may be any number.
        let stride = if length > 1 { windows.stride } else { 1 };
        Self { windows: Windows { stride, ..windows }, x, channels, filters, groups, length, count }
    }

    /// The result of filters without channels: their bias.
    fn repeat(&self, bias: &[f32], out: &mut [f32]) {
        let rows = out.chunks_exact_mut(self.length.max(1));
        rows.zip(bias.iter().cycle()).for_each(|(row, &bias)| row.fill(bias));
    }

    /// Multiply-adds of the call.
    pub(super) fn work(&self) -> usize {
        let taps = self.windows.kernel * self.channels;
        [self.count, self.length, self.groups, self.filters].into_iter().fold(taps, usize::saturating_mul)
    }

    /// Signals and windows per block, and the number of blocks. Short signals share a block.
    fn blocks(&self, threads: usize) -> ([usize; 2], usize) {
        if self.length < FEW_WINDOWS {
            let signals = (SHARED_WINDOWS / self.length).min(self.count.div_ceil(threads)).max(1);
            return ([signals, self.length], self.count.div_ceil(signals));
        }
        let share = self.length.div_ceil(threads.div_ceil(self.count).max(1)).next_multiple_of(FEW_WINDOWS);
        let windows = share.min(MOST_WINDOWS);
        ([1, windows], self.count * self.length.div_ceil(windows))
    }

    fn block(&self, [signals, windows]: [usize; 2], at: usize) -> WindowBlock {
        if signals > 1 || windows >= self.length {
            let first = at * signals;
            return WindowBlock { signals: first..self.count.min(first + signals), windows: 0..self.length };
        }
        let per_signal = self.length.div_ceil(windows);
        let (signal, first) = (at / per_signal, at % per_signal * windows);
        WindowBlock { signals: signal..signal + 1, windows: first..self.length.min(first + windows) }
    }

    /// Positions that the windows of a block cover.
    fn covered(&self, windows: usize) -> usize {
        (windows - 1) * self.windows.stride + self.windows.span()
    }

    /// The convolution as a product with packed filters.
    fn multiply<'m>(
        &self,
        device: &CpuDevice,
        filters: impl Fn(usize) -> PanelMatrix<'m> + Sync,
        out: &mut [f32],
    ) -> Result<()> {
        let work = self.work();
        let threads = wanted_threads(device, work);
        let (size, blocks) = self.blocks(threads);
        let rows = size[0] * size[1];
        let taps = self.windows.kernel * self.channels;
        let copied = if size[0] > 1 || self.windows.dilation > 1 { rows * taps } else { 0 };
        let turned = if size[1] < self.length { rows * self.filters } else { 0 };
        let spare = filters(0).spare_len(rows);
        let parts = [self.covered(size[1]) * self.channels, copied, rows * self.filters, turned, spare];
        let each: usize = parts.iter().sum();
        with_scratch(OP, threads * each, |scratch| {
            let (out, scratch) = (SharedSlice::new(out), SharedSlice::new(scratch));
            split(device, blocks, work, |thread, range| {
                // SAFETY: each thread has its own part of the scratch.
                let scratch = unsafe { scratch.write(thread * each, each) };
                let mut buffers = BlockBuffers::new(scratch, parts);
                for at in range {
                    let block = self.block(size, at);
                    for group in 0..self.groups {
                        self.multiply_block(device.verified(), &block, (group, filters(group)), &mut buffers, out);
                    }
                }
            });
        })
    }

    fn multiply_block(
        &self,
        set: Verified,
        block: &WindowBlock,
        (group, filters): (usize, PanelMatrix<'_>),
        buffers: &mut BlockBuffers<'_>,
        out: SharedSlice<'_>,
    ) {
        let (channels, taps) = (self.channels, self.windows.kernel * self.channels);
        let rows = if buffers.copied.is_empty() {
            let numbers = self.channels_last(group, block.signals.start, &block.windows, buffers.signal);
            OperandRows { numbers, stride: self.windows.stride * channels, count: block.rows() }
        } else {
            for (at, signal) in block.signals.clone().enumerate() {
                let numbers = self.channels_last(group, signal, &block.windows, buffers.signal);
                let rows = &mut buffers.copied[at * block.windows.len() * taps..];
                self.copy_windows(numbers, block.windows.len(), rows);
            }
            OperandRows { numbers: buffers.copied, stride: taps, count: block.rows() }
        };
        let (width, windows) = (self.filters, block.windows.len());
        let product = &mut buffers.product[..block.rows() * width];
        filters.multiply(set, rows, product, buffers.spare);
        for (product, signal) in product.chunks_exact(windows * width).zip(block.signals.clone()) {
            let first = (signal * self.groups + group) * width * self.length + block.windows.start;
            if windows == self.length {
                // SAFETY: the blocks of the threads are disjoint, and this one holds all windows of the signal.
                let out = unsafe { out.write(first, width * windows) };
                transpose((product, width), [windows, width], (out, windows));
                continue;
            }
            let turned = &mut buffers.turned[..width * windows];
            transpose((product, width), [windows, width], (&mut *turned, windows));
            for (filter, row) in turned.chunks_exact(windows).enumerate() {
                // SAFETY: the blocks of the threads are disjoint windows of the filter's row.
                unsafe { out.write(first + filter * self.length, windows) }.copy_from_slice(row);
            }
        }
    }

    /// The part of a signal that some windows cover, with zeros around it, `[positions, channels]`.
    fn channels_last<'s>(
        &'s self,
        group: usize,
        signal: usize,
        windows: &Range<usize>,
        to: &'s mut [f32],
    ) -> &'s [f32] {
        let (channels, length) = (self.channels, self.x.length);
        let positions = self.covered(windows.len());
        let start = windows.start * self.windows.stride;
        let x = &self.x.numbers[(signal * self.groups + group) * channels * length..][..channels * length];
        // Positions before the signal, and inside it.
        let before = self.x.before.saturating_sub(start).min(positions);
        let from = (start + before - self.x.before.min(start + before)).min(length);
        let inside = (positions - before).min(length - from);
        if before == 0 && inside == positions && (channels == 1 || length == 1) {
            return &x[from * channels..(from + inside) * channels];
        }
        let to = &mut to[..positions * channels];
        to[..before * channels].fill(0.0);
        to[(before + inside) * channels..].fill(0.0);
        if inside > 0 {
            transpose((&x[from..], length), [channels, inside], (&mut to[before * channels..], channels));
        }
        to
    }

    /// Copies windows into rows `[kernel * channels]`, element by element if they are dilated.
    fn copy_windows(&self, signal: &[f32], windows: usize, rows: &mut [f32]) {
        let (channels, kernel) = (self.channels, self.windows.kernel);
        let (run, runs) = if self.windows.dilation == 1 { (kernel * channels, 1) } else { (channels, kernel) };
        for (at, row) in rows.chunks_exact_mut(kernel * channels).take(windows).enumerate() {
            for tap in 0..runs {
                let from = (at * self.windows.stride + tap * self.windows.dilation) * channels;
                row[tap * run..(tap + 1) * run].copy_from_slice(&signal[from..from + run]);
            }
        }
    }
}

/// A thread's working memory.
struct BlockBuffers<'a> {
    /// The signal with the channels last.
    signal: &'a mut [f32],
    /// The windows, if they are copied.
    copied: &'a mut [f32],
    product: &'a mut [f32],
    /// The product's transpose, if a block holds a part of the windows.
    turned: &'a mut [f32],
    spare: &'a mut [f32],
}

impl<'a> BlockBuffers<'a> {
    fn new(scratch: &'a mut [f32], parts: [usize; 5]) -> Self {
        let (signal, rest) = scratch.split_at_mut(parts[0]);
        let (copied, rest) = rest.split_at_mut(parts[1]);
        let (product, rest) = rest.split_at_mut(parts[2]);
        let (turned, spare) = rest.split_at_mut(parts[3]);
        Self { signal, copied, product, turned, spare }
    }
}

//! Convolutions of few filters per group: along the signal, a register holds neighbouring results of one filter.
#![allow(unsafe_code)]

use super::super::device::CpuDevice;
use super::super::math::store_part;
use super::super::memory::SharedSlice;
use super::super::simd::{Kernel, MOST_LANES, Simd};
use super::convolution::ConvolutionCall;
use super::scratch::{split, wanted_threads, with_scratch};
use crate::error::Result;

const OP: &str = "conv1d";

/// The most registers of results per filter.
const MOST_REGISTERS: usize = 4;

/// Computes `out [N, O, length]` with filters `[O, C / groups, K]` and a bias `[O]`.
pub(super) fn convolve(
    device: &CpuDevice,
    call: &ConvolutionCall<'_>,
    (weight, bias): (&[f32], &[f32]),
    out: &mut [f32],
) -> Result<()> {
    let (work, items) = (call.work(), call.count * call.groups);
    let threads = wanted_threads(device, work);
    let phases = Phases::new(call);
    let each = call.channels * phases.channel;
    let (filters, taps) = (call.filters, call.channels * call.windows.kernel);
    with_scratch(OP, threads * each, |scratch| {
        let (out, scratch) = (SharedSlice::new(out), SharedSlice::new(scratch));
        split(device, items, work, |thread, range| {
            // SAFETY: each thread has its own part of the scratch.
            let scratch = unsafe { scratch.write(thread * each, each) };
            for at in range {
                let group = at % call.groups;
                let size = call.channels * call.x.length;
                phases.fill(call, &call.x.numbers[at * size..(at + 1) * size], scratch);
                // SAFETY: each signal and group has its own results, and belongs to one thread.
                let out = unsafe { out.write(at * filters * call.length, filters * call.length) };
                device.verified().run(DirectGroup {
                    phases: &phases,
                    channels: call.channels,
                    signal: scratch,
                    weight: &weight[group * filters * taps..(group + 1) * filters * taps],
                    bias: &bias[group * filters..(group + 1) * filters],
                    length: call.length,
                    out,
                });
            }
        });
    })
}

/// A padded channel, split by the remainder of its positions modulo the stride. One element of neighbouring windows is then
/// a run of one phase.
struct Phases {
    /// Positions per phase, with room for a whole tile beyond the last window.
    phase: usize,
    /// Numbers per channel.
    channel: usize,
    stride: usize,
    kernel: usize,
    dilation: usize,
}

impl Phases {
    fn new(call: &ConvolutionCall<'_>) -> Self {
        let windows = call.windows;
        let phase = call.length + windows.span().div_ceil(windows.stride) + MOST_REGISTERS * MOST_LANES;
        let (stride, kernel, dilation) = (windows.stride, windows.kernel, windows.dilation);
        Self { phase, channel: phase * stride, stride, kernel, dilation }
    }

    /// The places, within a channel, where the numbers of the windows begin: one per element of a window.
    #[inline(always)]
    fn starts(&self) -> TapStarts<'_> {
        let (quotient, remainder) = (self.dilation / self.stride, self.dilation % self.stride);
        TapStarts { phases: self, step: [quotient, remainder], at: [0, 0] }
    }

    /// Splits the channels of a signal.
    fn fill(&self, call: &ConvolutionCall<'_>, x: &[f32], to: &mut [f32]) {
        let before = call.x.before;
        for (x, to) in x.chunks_exact(call.x.length.max(1)).zip(to.chunks_exact_mut(self.channel)) {
            for (remainder, to) in to.chunks_exact_mut(self.phase).enumerate() {
                // The first position of the phase that lies inside the signal, and the last.
                let first = before.saturating_sub(remainder).div_ceil(self.stride).min(self.phase);
                let from = (first * self.stride + remainder).saturating_sub(before).min(x.len());
                let count = (x.len() - from).div_ceil(self.stride).min(self.phase - first);
                to[..first].fill(0.0);
                if self.stride == 1 {
                    to[first..first + count].copy_from_slice(&x[from..from + count]);
                } else {
                    let numbers = x[from..].iter().step_by(self.stride);
                    to[first..first + count].iter_mut().zip(numbers).for_each(|(y, &x)| *y = x);
                }
                to[first + count..].fill(0.0);
            }
        }
        if call.x.length == 0 {
            to.fill(0.0);
        }
    }
}

/// See [`Phases::starts`].
struct TapStarts<'a> {
    phases: &'a Phases,
    /// Quotient and remainder of the dilation by the stride.
    step: [usize; 2],
    at: [usize; 2],
}

impl TapStarts<'_> {
    /// The place of the next element.
    #[inline(always)]
    fn next(&mut self) -> usize {
        let [quotient, remainder] = self.at;
        let wraps = usize::from(remainder + self.step[1] >= self.phases.stride);
        self.at = [quotient + self.step[0] + wraps, remainder + self.step[1] - wraps * self.phases.stride];
        remainder * self.phases.phase + quotient
    }
}

/// All filters of one group on one signal.
struct DirectGroup<'a> {
    phases: &'a Phases,
    channels: usize,
    /// `[channels, stride, phase]`
    signal: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    length: usize,
    out: &'a mut [f32],
}

impl DirectGroup<'_> {
    /// `R` filters from `first` on, `V` registers of results at a time.
    #[inline(always)]
    fn filters<S: Simd, const R: usize, const V: usize>(&mut self, v: S, first: usize) {
        let (kernel, length) = (self.phases.kernel, self.length);
        let taps = self.channels * kernel;
        let last = (self.channels - 1) * self.phases.channel;
        let mut starts = self.phases.starts();
        let furthest = (0..kernel).map(|_| starts.next()).max().unwrap_or(0);
        assert!(self.signal.len() >= last + furthest + length.next_multiple_of(V * S::LANES));
        let weight = &self.weight[first * taps..(first + R) * taps];
        let mut at = 0;
        while at < length {
            let mut sums = [[v.splat(0.0); V]; R];
            for (sums, &bias) in sums.iter_mut().zip(&self.bias[first..first + R]) {
                *sums = [v.splat(bias); V];
            }
            for channel in 0..self.channels {
                let mut starts = self.phases.starts();
                for tap in 0..kernel {
                    let from = channel * self.phases.channel + starts.next() + at;
                    let mut x = [v.splat(0.0); V];
                    for (part, x) in x.iter_mut().enumerate() {
                        // SAFETY: the assertion above covers the whole tile of the last channel and the furthest element.
                        *x = unsafe { v.load(self.signal.as_ptr().add(from + part * S::LANES)) };
                    }
                    for (row, sums) in sums.iter_mut().enumerate() {
                        let w = v.splat(weight[row * taps + channel * kernel + tap]);
                        for (sum, x) in sums.iter_mut().zip(x) {
                            *sum = v.fma(w, x, *sum);
                        }
                    }
                }
            }
            let count = (length - at).min(V * S::LANES);
            for (row, sums) in sums.into_iter().enumerate() {
                let out = &mut self.out[(first + row) * length + at..][..count];
                for (sum, out) in sums.into_iter().zip(out.chunks_mut(S::LANES)) {
                    store_part(v, out, sum);
                }
            }
            at += V * S::LANES;
        }
    }
}

impl Kernel for DirectGroup<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, v: S) {
        let count = self.bias.len();
        let mut first = 0;
        while first + 4 <= count {
            self.filters::<S, 4, 2>(v, first);
            first += 4;
        }
        while first < count {
            self.filters::<S, 1, MOST_REGISTERS>(v, first);
            first += 1;
        }
    }
}

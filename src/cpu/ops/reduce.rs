//! Reductions of rows, and softmax. A sum's order depends on the registers' width alone.
#![allow(unsafe_code)]

use super::super::device::CpuDevice;
use super::super::math::{exp, load_part, store_part};
use super::super::simd::{Kernel, MOST_LANES, Simd};
use crate::op::Reduction;

/// The sum of a register's lanes.
#[inline(always)]
pub(super) fn sum_lanes<S: Simd>(v: S, x: S::F) -> f32 {
    let mut lanes = [0.0; MOST_LANES];
    store_part(v, &mut lanes[..S::LANES], x);
    let mut count = S::LANES;
    while count > 1 {
        count /= 2;
        for at in 0..count {
            lanes[at] += lanes[at + count];
        }
    }
    lanes[0]
}

/// The sum of a slice's numbers.
#[inline(always)]
fn sum<S: Simd>(v: S, x: &[f32]) -> f32 {
    let mut sums = [v.splat(0.0); 4];
    let mut blocks = x.chunks_exact(4 * S::LANES);
    for block in &mut blocks {
        for (sum, part) in sums.iter_mut().zip(block.chunks_exact(S::LANES)) {
            *sum = v.add(*sum, load_part(v, part));
        }
    }
    for (sum, part) in sums.iter_mut().zip(blocks.remainder().chunks(S::LANES)) {
        *sum = v.add(*sum, load_part(v, part));
    }
    sum_lanes(v, v.add(v.add(sums[0], sums[1]), v.add(sums[2], sums[3])))
}

/// Numbers that are compared at once.
const COMPARED: usize = 32;

/// The larger of two numbers; NaN if either is.
#[inline(always)]
fn larger(most: f32, x: f32) -> f32 {
    if x > most || x.is_nan() { x } else { most }
}

/// The largest number of a slice; NaN if any is.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; COMPARED];
    let mut blocks = x.chunks_exact(COMPARED);
    for block in &mut blocks {
        for (most, &x) in most.iter_mut().zip(block) {
            *most = larger(*most, x);
        }
    }
    let rest = blocks.remainder().iter().fold(f32::NEG_INFINITY, |most, &x| larger(most, x));
    most.into_iter().fold(rest, larger)
}

struct ReduceRows<'a> {
    op: Reduction,
    x: &'a [f32],
    columns: usize,
    out: &'a mut [f32],
}

impl Kernel for ReduceRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let Self { op, x, columns, out } = self;
        for (at, y) in out.iter_mut().enumerate() {
            let row = &x[at * columns..(at + 1) * columns];
            *y = match op {
                Reduction::Sum => sum(v, row),
                Reduction::Mean => sum(v, row) / columns as f32,
                Reduction::Max => largest(row),
            };
        }
    }
}

/// Reduces every row of `x`, `columns` wide, to one number of `out`.
pub(crate) fn reduce_rows(device: &CpuDevice, op: Reduction, x: &[f32], columns: usize, out: &mut [f32]) {
    device.verified().run(ReduceRows { op, x, columns, out });
}

struct SoftmaxRows<'a> {
    x: &'a [f32],
    columns: usize,
    logarithm: bool,
    out: &'a mut [f32],
}

impl Kernel for SoftmaxRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let Self { x, columns, logarithm, out } = self;
        for (x, out) in x.chunks_exact(columns).zip(out.chunks_exact_mut(columns)) {
            let most = v.splat(largest(x));
            let mut sum = v.splat(0.0);
            for (x, y) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
                let shifted = v.sub(load_part(v, x), most);
                let power = exp(v, shifted);
                store_part(v, y, if logarithm { shifted } else { power });
                // The lanes beyond the row's end must not count.
                sum = v.add(sum, if x.len() < S::LANES { first_lanes(v, power, x.len()) } else { power });
            }
            let sum = sum_lanes(v, sum);
            let factor = if logarithm { v.splat(1.0) } else { v.splat(1.0 / sum) };
            let shift = if logarithm { v.splat(-sum.ln()) } else { v.splat(-0.0) };
            for y in out.chunks_mut(S::LANES) {
                let numbers = load_part(v, y);
                store_part(v, y, v.fma(numbers, factor, shift));
            }
        }
    }
}

/// The first `count` lanes, and zeros.
#[inline(always)]
fn first_lanes<S: Simd>(v: S, x: S::F, count: usize) -> S::F {
    let mut lanes = [0.0; MOST_LANES];
    store_part(v, &mut lanes[..count], x);
    load_part(v, &lanes[..S::LANES])
}

/// Softmax of every row of `x`, `columns` wide, or its logarithm.
pub(crate) fn softmax_rows(device: &CpuDevice, x: &[f32], columns: usize, logarithm: bool, out: &mut [f32]) {
    if columns > 0 {
        device.verified().run(SoftmaxRows { x, columns, logarithm, out });
    }
}

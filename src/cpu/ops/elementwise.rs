//! Operations on single elements, with broadcasting.
#![allow(unsafe_code)]

use super::super::device::CpuDevice;
use super::super::math::{activate, exp, load_part, store_part, tanh_precise};
use super::super::memory::SharedSlice;
use super::super::simd::{Kernel, Simd};
use super::axes::CommonAxes;
use super::scratch::split;
use crate::cell::Activation;
use crate::op::{Binary, Math};

/// Multiply-adds that take as long as one element of a function.
const ELEMENT_WORK: usize = 4;

/// Runs `part` on the threads' parts of a slice and its result, which have one length.
fn on_parts(device: &CpuDevice, x: &[f32], out: &mut [f32], part: impl Fn(&[f32], &mut [f32]) + Sync) {
    let (len, out) = (out.len(), SharedSlice::new(out));
    split(device, len, ELEMENT_WORK.saturating_mul(len), |_, range| {
        // SAFETY: the ranges of the threads are disjoint.
        let out = unsafe { out.write(range.start, range.len()) };
        part(&x[range], out);
    });
}

/// Applies a function of registers to every number.
#[inline(always)]
fn each<S: Simd>(v: S, x: &[f32], out: &mut [f32], f: impl Fn(S::F) -> S::F) {
    for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
        store_part(v, out, f(load_part(v, x)));
    }
}

/// Applies a function of numbers to every number. The compiler turns the loop into registers of the kernel's set.
#[inline(always)]
fn each_number(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
    for (&x, out) in x.iter().zip(out) {
        *out = f(x);
    }
}

struct Activate<'a> {
    activation: Activation,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Activate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let Self { activation, x, out } = self;
        // A loop per function: the choice is made once, not per register.
        match activation {
            Activation::Tanh => each(v, x, out, |x| tanh_precise(v, x)),
            Activation::Sigmoid => each(v, x, out, |x| activate(v, Activation::Sigmoid, x)),
            Activation::Relu => each(v, x, out, |x| activate(v, Activation::Relu, x)),
            Activation::Affine { alpha, beta } => {
                each(v, x, out, |x| activate(v, Activation::Affine { alpha, beta }, x));
            }
            other => each(v, x, out, |x| activate(v, other, x)),
        }
    }
}

/// Applies an activation to every element.
pub(crate) fn activation(device: &CpuDevice, activation: Activation, x: &[f32], out: &mut [f32]) {
    on_parts(device, x, out, |x, out| device.verified().run(Activate { activation, x, out }));
}

struct MathEach<'a> {
    function: Math,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for MathEach<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let Self { function, x, out } = self;
        match function {
            Math::Exp => each(v, x, out, |x| exp(v, x)),
            Math::Log => each_number(x, out, f32::ln),
            Math::Sqrt => each_number(x, out, f32::sqrt),
            Math::Abs => each_number(x, out, f32::abs),
            Math::Floor => each_number(x, out, f32::floor),
            Math::Ceil => each_number(x, out, f32::ceil),
        }
    }
}

/// Applies an elementary function to every element.
pub(crate) fn math(device: &CpuDevice, function: Math, x: &[f32], out: &mut [f32]) {
    on_parts(device, x, out, |x, out| device.verified().run(MathEach { function, x, out }));
}

/// The numbers of an operand along a row.
#[derive(Clone, Copy)]
enum RowOperand<'a> {
    Each(&'a [f32]),
    One(f32),
}

impl<'a> RowOperand<'a> {
    /// The operand whose numbers begin at `at`, `stride` (0 or 1) apart.
    fn new(numbers: &'a [f32], at: usize, stride: isize, count: usize) -> Self {
        if stride == 0 { Self::One(numbers[at]) } else { Self::Each(&numbers[at..at + count]) }
    }
}

struct BinaryRow<'a> {
    op: Binary,
    a: RowOperand<'a>,
    b: RowOperand<'a>,
    out: &'a mut [f32],
}

impl BinaryRow<'_> {
    #[inline(always)]
    fn with(self, f: impl Fn(f32, f32) -> f32) {
        let Self { a, b, out, .. } = self;
        match (a, b) {
            (RowOperand::Each(a), RowOperand::Each(b)) => {
                out.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = f(a, b));
            }
            (RowOperand::Each(a), RowOperand::One(b)) => out.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b)),
            (RowOperand::One(a), RowOperand::Each(b)) => out.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a, b)),
            (RowOperand::One(a), RowOperand::One(b)) => out.fill(f(a, b)),
        }
    }
}

impl Kernel for BinaryRow<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let truth = |holds: bool| if holds { 1.0 } else { 0.0 };
        match self.op {
            Binary::Add => self.with(|a, b| a + b),
            Binary::Sub => self.with(|a, b| a - b),
            Binary::Mul => self.with(|a, b| a * b),
            Binary::Div => self.with(|a, b| a / b),
            Binary::Mean => self.with(|a, b| (a + b) / 2.0),
            Binary::Hypot => self.with(|a, b| (a * a + b * b).sqrt()),
            Binary::Max => self.with(|a, b| if a > b || a.is_nan() { a } else { b }),
            Binary::Min => self.with(|a, b| if a < b || a.is_nan() { a } else { b }),
            Binary::Pow => self.with(f32::powf),
            Binary::Equal => self.with(|a, b| truth(a == b)),
            Binary::Less => self.with(|a, b| truth(a < b)),
            Binary::Keep => self.with(|a, b| if b != 0.0 { a } else { 0.0 }),
            Binary::Drop => self.with(|a, b| if b != 0.0 { -0.0 } else { a }),
        }
    }
}

/// Applies an operation to two operands, element by element. They broadcast to `shape`, the result's: axes of extent 1 are
/// repeated, and missing outer axes count as such.
pub(crate) fn binary(
    device: &CpuDevice,
    op: Binary,
    (a, a_shape): (&[f32], &[usize]),
    (b, b_shape): (&[f32], &[usize]),
    shape: &[usize],
    out: &mut [f32],
) {
    let mut axes = CommonAxes::new();
    let (mut a_stride, mut b_stride) = (1, 1);
    for (at, &extent) in shape.iter().rev().enumerate() {
        let stride = |operand: &[usize], stride: &mut isize| {
            let own = operand.len().checked_sub(at + 1).map_or(1, |axis| operand[axis]);
            let here = if own == 1 { 0 } else { *stride };
            *stride = stride.wrapping_mul(own as isize);
            here
        };
        axes.add(extent, [stride(a_shape, &mut a_stride), stride(b_shape, &mut b_stride)]);
    }
    let set = device.verified();
    let inner = axes.take_inner();
    let mut rest = out;
    axes.each([0, 0], |at| {
        let (row, after) = std::mem::take(&mut rest).split_at_mut(inner.extent);
        rest = after;
        let operand = |numbers, of: usize| RowOperand::new(numbers, at[of] as usize, inner.strides[of], row.len());
        set.run(BinaryRow { op, a: operand(a, 0), b: operand(b, 1), out: row });
    });
}

/// Applies an operation to the two halves of every row of `x [.., 2 columns]`.
pub(crate) fn binary_halves(device: &CpuDevice, op: Binary, x: &[f32], columns: usize, out: &mut [f32]) {
    if columns == 0 {
        return;
    }
    for (x, out) in x.chunks_exact(2 * columns).zip(out.chunks_exact_mut(columns)) {
        let (a, b) = x.split_at(columns);
        device.verified().run(BinaryRow { op, a: RowOperand::Each(a), b: RowOperand::Each(b), out });
    }
}

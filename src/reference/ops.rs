//! The tensor operations around the cells. The caller checks the shapes, as [`ops`](crate::ops) does. Every function returns
//! [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is no memory for its result.

use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, ArrayView3};

use super::{Real, activate};
use crate::cell::Activation;
use crate::error::Result;
use crate::memory;
use crate::op::{Binary, Conv1dGeometry, Math, PadMode, Reduction};

impl Binary {
    /// The operation on two numbers.
    pub fn apply<F: Real>(self, a: F, b: F) -> F {
        let (zero, one) = (F::zero(), F::one());
        let truth = |holds: bool| if holds { one } else { zero };
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Max | Self::Min if a.is_nan() || b.is_nan() => F::nan(),
            Self::Max => a.max(b),
            Self::Mean => (a + b) / (one + one),
            Self::Hypot => (a * a + b * b).sqrt(),
            Self::Div => a / b,
            Self::Min => a.min(b),
            Self::Pow => a.powf(b),
            Self::Equal => truth(a == b),
            Self::Less => truth(a < b),
            Self::Keep | Self::Drop if (self == Self::Keep) == (b != zero) => a,
            Self::Keep => zero,
            Self::Drop => F::neg_zero(),
        }
    }
}

/// Applies an activation to every element.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn unary<F: Real>(activation: Activation, x: ArrayView1<'_, F>) -> Result<Array1<F>> {
    memory::mapped("activation", &x, |x| activate(activation, x))
}

/// Applies an elementary function to every element.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn math<F: Real>(function: Math, x: ArrayView1<'_, F>) -> Result<Array1<F>> {
    memory::mapped("math", &x, |x| match function {
        Math::Exp => x.exp(),
        Math::Log => x.ln(),
        Math::Sqrt => x.sqrt(),
        Math::Abs => x.abs(),
        Math::Floor => x.floor(),
        Math::Ceil => x.ceil(),
    })
}

/// Applies an operation to two arrays, element by element.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn binary<F: Real>(op: Binary, a: ArrayView2<'_, F>, b: ArrayView2<'_, F>) -> Result<Array2<F>> {
    memory::array("binary", a.dim(), |at| op.apply(a[at], b[at]))
}

/// `y = a b + bias`, the bias added to every row.
///
/// # Shapes
/// `a [M, K]`, `b [K, N]`, `bias [N]`; returns `[M, N]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn matmul<F: Real>(
    a: ArrayView2<'_, F>,
    b: ArrayView2<'_, F>,
    bias: Option<ArrayView1<'_, F>>,
) -> Result<Array2<F>> {
    memory::array("matmul", (a.nrows(), b.ncols()), |(m, n)| {
        let sum: F = (0..a.ncols()).map(|k| a[[m, k]] * b[[k, n]]).sum();
        sum + bias.map_or(F::zero(), |bias| bias[n])
    })
}

/// One-dimensional cross-correlation (`torch.nn.Conv1d` without groups or dilation).
///
/// # Shapes
/// `x [N, C, L]`, `weight [O, C, K]`, `bias [O]`; returns `[N, O, (L + 2 padding - K) / stride + 1]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn conv1d<F: Real>(
    x: ArrayView3<'_, F>,
    weight: ArrayView3<'_, F>,
    bias: Option<ArrayView1<'_, F>>,
    geometry: Conv1dGeometry,
) -> Result<Array3<F>> {
    let (count, channels, length) = x.dim();
    let (out, _, kernel) = weight.dim();
    let out_length = geometry.output_length(length, kernel);
    memory::array("conv1d", (count, out, out_length), |(n, o, l)| {
        let mut sum = bias.map_or(F::zero(), |bias| bias[o]);
        for c in 0..channels {
            for k in 0..kernel {
                let at = l * geometry.stride + k;
                if at >= geometry.padding && at - geometry.padding < length {
                    sum = sum + weight[[o, c, k]] * x[[n, c, at - geometry.padding]];
                }
            }
        }
        sum
    })
}

/// Pads the last axis.
///
/// # Shapes
/// `x [N, L]`, for reflection with `left < L` and `right < L`; returns `[N, left + L + right]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn pad1d<F: Real>(x: ArrayView2<'_, F>, left: usize, right: usize, mode: PadMode) -> Result<Array2<F>> {
    let (count, length) = x.dim();
    memory::array("pad1d", (count, left + length + right), |(n, at)| match mode {
        PadMode::Zero if at < left || at >= left + length => F::zero(),
        PadMode::Zero => x[[n, at - left]],
        PadMode::Reflect if at < left => x[[n, left - at]],
        PadMode::Reflect if at >= left + length => x[[n, 2 * (length - 1) - (at - left)]],
        PadMode::Reflect => x[[n, at - left]],
    })
}

/// Reduces every row to one number.
///
/// # Shapes
/// `x [M, N]`; returns `[M]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn reduce_rows<F: Real>(op: Reduction, x: ArrayView2<'_, F>) -> Result<Array1<F>> {
    let columns = (0..x.ncols()).fold(F::zero(), |n, _| n + F::one());
    memory::array("reduce_rows", x.nrows(), |at| {
        let row = x.row(at);
        match op {
            Reduction::Sum => row.iter().copied().sum(),
            Reduction::Mean => row.iter().copied().sum::<F>() / columns,
            Reduction::Max => row.iter().copied().fold(F::neg_infinity(), |most, x| Binary::Max.apply(most, x)),
        }
    })
}

/// The column of every row's largest element, the first of equals. NaN is never the largest; a row of NaN gives 0.
///
/// # Shapes
/// `x [M, N]`; returns `[M]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn argmax_rows<F: Real>(x: ArrayView2<'_, F>) -> Result<Array1<usize>> {
    let largest = |best: Option<(usize, F)>, (column, &x): (usize, &F)| match best {
        _ if x.is_nan() => best,
        Some((_, most)) if x <= most => best,
        _ => Some((column, x)),
    };
    let best = |row: usize| x.row(row).iter().enumerate().fold(None, largest).map_or(0, |(column, _)| column);
    memory::array("argmax_rows", x.nrows(), best)
}

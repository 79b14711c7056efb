//! The operations around the cells, on any device.
//!
//! Every operation is recorded into a [`Recorder`]. On a GPU, everything in one recorder becomes one submission, or a
//! few if one would take too long. On the CPU and the reference an operation runs at once.
//!
//! # Examples
//! ```
//! use gatewise::{Device, Tensor, cell::Activation, ops};
//!
//! let device = Device::Cpu;
//! let x = Tensor::from_vec(&device, &[2, 2], vec![-1.0, 2.0, 3.0, -4.0])?;
//! let mut recorder = device.recorder();
//! let y = ops::activation(&mut recorder, Activation::Relu, &x)?;
//! let y = ops::permute(&mut recorder, &y, &[1, 0])?;
//! recorder.submit()?;
//! assert_eq!(y.to_vec()?, [0.0, 3.0, 2.0, 0.0]);
//! # Ok::<(), gatewise::Error>(())
//! ```

mod convolution;
mod gradient;
mod layout;
mod loss;
mod softmax;
mod update;

pub(crate) use gradient::{
    activation_grad, class_numbers, conv1d_grad_input, conv1d_grad_weight, dropout, gather_rows_grad, mean_steps,
    mean_steps_grad, sum_columns,
};
pub(crate) use loss::{Points, point_loss, point_loss_grad, softmax_cross_entropy, softmax_cross_entropy_grad, sum};
pub(crate) use update::{Moved, Verdict, VerdictWords, judge_step, optimizer_step};

pub use convolution::conv1d;
pub(crate) use convolution::conv1d_shape;
pub(crate) use layout::slice_grad;
pub use layout::{Slice, concat, expand, gather_best, gather_rows, permute, slice};
pub use softmax::softmax;
pub(crate) use softmax::softmax_last;

use ndarray::{ArrayView1, ArrayView2, Axis, Dim};

use crate::cell::Activation;
use crate::error::{Error, Result, axes, check_shape, elements};
use crate::gpu;
pub use crate::op::{Binary, Conv1dGeometry, Math, PadMode, Reduction};
pub use crate::path::Recorder;
use crate::path::{self, HostPath, IntoElements, in_precision};
use crate::tensor::{Tensor, view};
use crate::{cpu, reference};

/// Applies an activation to every element.
///
/// # Errors
/// [`Error::DeviceMismatch`] if `x` lives elsewhere than the recorder.
pub fn activation(recorder: &mut Recorder, activation: Activation, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "activation";
    x.check_device(OP, "x", recorder.device())?;
    path::run_each(
        recorder,
        OP,
        [x],
        move |path, [x], y| match path {
            HostPath::Reference => path::put(reference::unary(activation, x.into())?, y),
            HostPath::Cpu(cpu) => {
                cpu::activation(cpu, activation, x, y);
                Ok(())
            }
        },
        |gpu| gpu::unary(gpu, activation, x.buffer(OP, "x")?, x.len()),
    )
}

/// Applies an elementary function to every element.
///
/// # Errors
/// [`Error::DeviceMismatch`] if `x` lives elsewhere than the recorder.
pub fn math(recorder: &mut Recorder, function: Math, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "math";
    x.check_device(OP, "x", recorder.device())?;
    path::run_each(
        recorder,
        OP,
        [x],
        move |path, [x], y| match path {
            HostPath::Reference => path::put(reference::math(function, x.into())?, y),
            HostPath::Cpu(cpu) => {
                cpu::math(cpu, function, x, y);
                Ok(())
            }
        },
        |gpu| gpu::math(gpu, function, x.buffer(OP, "x")?, x.len()),
    )
}

/// Applies an operation to two tensors of one shape, element by element.
///
/// # Errors
/// [`Error::Shape`] if the shapes differ; [`Error::DeviceMismatch`].
pub fn binary(recorder: &mut Recorder, op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "binary";
    a.check_device(OP, "a", recorder.device())?;
    b.check_device(OP, "b", recorder.device())?;
    check_shape(OP, "b", a.shape(), b.shape())?;
    let size = [1, a.len()];
    path::run_each(
        recorder,
        OP,
        [a, b],
        move |path, [a, b], y| {
            let size = [1, y.len()];
            match path {
                HostPath::Reference => {
                    path::put(reference::binary(op, view(OP, a, Dim(size))?, view(OP, b, Dim(size))?)?, y)
                }
                HostPath::Cpu(cpu) => {
                    cpu::binary(cpu, op, (a, &size), (b, &size), &size, y);
                    Ok(())
                }
            }
        },
        |gpu| {
            let operand = |buffer| gpu::Operand { buffer, stride: a.len(), offset: 0 };
            gpu::binary(gpu, op, operand(a.buffer(OP, "a")?), operand(b.buffer(OP, "b")?), size)
        },
    )
}

/// [`binary`] of operands that broadcast to `shape`.
pub(crate) fn binary_broadcast(
    recorder: &mut Recorder,
    op: Binary,
    a: &Tensor,
    b: &Tensor,
    shape: &[usize],
) -> Result<Tensor> {
    const OP: &str = "binary";
    if a.shape() == shape && b.shape() == shape {
        return binary(recorder, op, a, b);
    }
    if !recorder.is_on_cpu() {
        let mut whole = |x: &Tensor| if x.shape() == shape { Ok(x.clone()) } else { expand(recorder, x, shape) };
        let (a, b) = (whole(a)?, whole(b)?);
        return binary(recorder, op, &a, &b);
    }
    a.check_device(OP, "a", recorder.device())?;
    b.check_device(OP, "b", recorder.device())?;
    path::run_each_broadcast(recorder, OP, shape, [a, b], move |cpu, [a, b], shape, y| {
        cpu::binary(cpu, op, a, b, shape, y);
    })
}

/// Applies an operation to the two halves of every row: `y[r, c] = op(x[r, c], x[r, N + c])`. If a row holds all real
/// parts, then all imaginary parts, [`Binary::Hypot`] gives the magnitudes of the complex numbers.
///
/// # Shapes
/// `x [M, 2 N]`; returns `[M, N]`.
///
/// # Errors
/// [`Error::Shape`] if `x` is not a matrix with an even number of columns; [`Error::DeviceMismatch`].
pub fn binary_halves(recorder: &mut Recorder, op: Binary, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "binary_halves";
    x.check_device(OP, "x", recorder.device())?;
    let [rows, width] = axes(OP, "x", "[M, 2 N]", x.shape())?;
    if width % 2 != 0 {
        return Err(Error::Shape { op: OP, what: "x", expected: "[M, 2 N]".to_owned(), found: x.shape().to_vec() });
    }
    let columns = width / 2;
    path::run(
        recorder,
        OP,
        &[rows, columns],
        [x],
        move |path, [x], y| match path {
            HostPath::Reference => {
                let (a, b) = view(OP, x, Dim([rows, width]))?.split_at(Axis(1), columns);
                path::put(reference::binary(op, a, b)?, y)
            }
            HostPath::Cpu(cpu) => {
                cpu::binary_halves(cpu, op, x, columns, y);
                Ok(())
            }
        },
        |gpu| {
            let buffer = x.buffer(OP, "x")?;
            let half = |offset| gpu::Operand { buffer, stride: width, offset };
            gpu::binary(gpu, op, half(0), half(columns), [rows, columns])
        },
    )
}

/// `y = a b + bias`, the bias added to every row.
///
/// # Shapes
/// `a [M, K]`, `b [K, N]`, `bias [N]`; returns `[M, N]`.
///
/// # Errors
/// [`Error::Shape`] if they do not fit; [`Error::DeviceMismatch`]; [`Error::Limit`].
pub fn matmul(recorder: &mut Recorder, a: &Tensor, b: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    product(recorder, (a, false), (b, false), bias)
}

/// [`matmul`] of operands that may each be read as their transposes.
pub(crate) fn product(
    recorder: &mut Recorder,
    (a, a_transposed): (&Tensor, bool),
    (b, b_transposed): (&Tensor, bool),
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    const OP: &str = "matmul";
    a.check_device(OP, "a", recorder.device())?;
    b.check_device(OP, "b", recorder.device())?;
    let (a_shape, b_shape) = (axes(OP, "a", "[M, K]", a.shape())?, axes(OP, "b", "[K, N]", b.shape())?);
    let read_as = |[rows, columns]: [usize; 2], transposed| if transposed { [columns, rows] } else { [rows, columns] };
    let ([rows, depth], [_, columns]) = (read_as(a_shape, a_transposed), read_as(b_shape, b_transposed));
    check_shape(OP, "b", &read_as([depth, columns], b_transposed), b.shape())?;
    elements(OP, "the result", &[rows, columns])?;
    if let Some(bias) = bias {
        bias.check_device(OP, "bias", recorder.device())?;
        check_shape(OP, "bias", &[columns], bias.shape())?;
    }
    let inputs = [Some(a), Some(b), bias];
    let inputs: Vec<&Tensor> = inputs.into_iter().flatten().collect();
    let biased = bias.is_some();
    path::run_list(
        recorder,
        OP,
        &[rows, columns],
        &inputs,
        move |path, x, y| {
            let (a, b, bias) = (x.get(0)?, x.get(1)?, if biased { Some(x.get(2)?) } else { None });
            path.write(
                y,
                || {
                    let bias = bias.map(|bias| path::widened(OP, bias)).transpose()?;
                    let (a, b) = (path::widened(OP, a)?, path::widened(OP, b)?);
                    let a = read(view(OP, &a, Dim(a_shape))?, a_transposed);
                    let b = read(view(OP, &b, Dim(b_shape))?, b_transposed);
                    let product = reference::matmul(a, b, bias.as_deref().map(ArrayView1::from))?;
                    path::rounded(OP, &product.into_elements())
                },
                |cpu, y| {
                    let a = cpu::MatrixOperand { numbers: a, transposed: a_transposed };
                    let b = cpu::MatrixOperand { numbers: b, transposed: b_transposed };
                    cpu::matmul(cpu, [rows, depth, columns], a, b, bias, y)
                },
            )
        },
        |gpu| {
            let bias = bias.map(|bias| bias.buffer(OP, "bias")).transpose()?;
            let size = gpu::MatmulSize { rows, depth, columns };
            let (a, b) = ((a.buffer(OP, "a")?, a_transposed), (b.buffer(OP, "b")?, b_transposed));
            gpu::matmul(gpu, a, b, bias, size)
        },
    )
}

/// A matrix, or its transpose.
fn read<F>(x: ArrayView2<'_, F>, transposed: bool) -> ArrayView2<'_, F> {
    if transposed { x.reversed_axes() } else { x }
}

/// Pads the last axis by `left` and `right` elements.
///
/// # Shapes
/// `x [.., L]`; returns `[.., left + L + right]`.
///
/// # Errors
/// [`Error::Shape`] for a reflection that reaches beyond the signal, or a tensor without axes; [`Error::DeviceMismatch`].
pub fn pad1d(recorder: &mut Recorder, x: &Tensor, left: usize, right: usize, mode: PadMode) -> Result<Tensor> {
    const OP: &str = "pad1d";
    x.check_device(OP, "x", recorder.device())?;
    let refused = |expected: String| Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() };
    let Some((&length, outer)) = x.shape().split_last() else {
        return Err(refused("[.., L]".to_owned()));
    };
    if mode == PadMode::Reflect && left.max(right) >= length {
        return Err(refused(format!("[.., L] with L above {}", left.max(right))));
    }
    let Some(padded) = left.checked_add(length).and_then(|sum| sum.checked_add(right)) else {
        return Err(refused(format!("[.., L] that can be padded by {left} and {right}")));
    };
    let count = elements(OP, "x without its last axis", outer)?;
    let shape: Vec<usize> = outer.iter().copied().chain([padded]).collect();
    elements(OP, "the padded x", &shape)?;
    path::run(
        recorder,
        OP,
        &shape,
        [x],
        move |path, [x], y| match path {
            HostPath::Reference => {
                path::put(reference::pad1d(view(OP, x, Dim([count, length]))?, left, right, mode)?, y)
            }
            HostPath::Cpu(_) => {
                cpu::pad_rows(x, length, [left, right], mode, y);
                Ok(())
            }
        },
        |gpu| gpu::pad1d(gpu, (x.buffer(OP, "x")?, [count, length]), (left, right), mode),
    )
}

/// Reduces every row to one number.
///
/// # Shapes
/// `x [M, N]`; returns `[M]`.
///
/// # Errors
/// [`Error::Shape`] if `x` is not a matrix, or has empty rows that have no mean or maximum; [`Error::DeviceMismatch`].
pub fn reduce_rows(recorder: &mut Recorder, op: Reduction, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "reduce_rows";
    x.check_device(OP, "x", recorder.device())?;
    let [rows, columns] = axes(OP, "x", "[M, N]", x.shape())?;
    if columns == 0 && op != Reduction::Sum {
        let expected = "[M, N] with N at least 1".to_owned();
        return Err(Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() });
    }
    path::run(
        recorder,
        OP,
        &[rows],
        [x],
        move |path, [x], y| match path {
            HostPath::Reference => path::put(reference::reduce_rows(op, view(OP, x, Dim([rows, columns]))?)?, y),
            HostPath::Cpu(cpu) => {
                cpu::reduce_rows(cpu, op, x, columns, y);
                Ok(())
            }
        },
        |gpu| gpu::reduce_rows(gpu, op, x.buffer(OP, "x")?, [rows, columns]),
    )
}

/// The most columns whose numbers `f32` holds exactly.
const NUMBERED: usize = 1 << 24;

/// The column of every row's largest element, the first of equals (`torch.argmax`). NaN is never the largest; a row of NaN
/// gives 0.
///
/// # Shapes
/// `x [M, N]`; returns `[M]`, whole numbers below N.
///
/// # Errors
/// [`Error::Shape`] if `x` is not a matrix, or its rows are empty or longer than 2^24; [`Error::DeviceMismatch`].
///
/// # Examples
/// ```
/// use gatewise::{Device, Tensor, ops};
/// use ndarray::array;
/// let x = Tensor::from_array(&Device::Cpu, &array![[0.1, 0.9, 0.0], [2.0, 2.0, 1.0]])?;
/// let mut recorder = Device::Cpu.recorder();
/// let best = ops::argmax_rows(&mut recorder, &x)?;
/// recorder.submit()?;
/// assert_eq!(best.to_vec()?, [1.0, 0.0]);
/// # Ok::<(), gatewise::Error>(())
/// ```
pub fn argmax_rows(recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "argmax_rows";
    x.check_device(OP, "x", recorder.device())?;
    let [rows, columns] = axes(OP, "x", "[M, N]", x.shape())?;
    if !(1..=NUMBERED).contains(&columns) {
        let expected = format!("[M, N] with N from 1 to {NUMBERED}");
        return Err(Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() });
    }
    path::run(
        recorder,
        OP,
        &[rows],
        [x],
        move |_, [x], y| {
            let columns = reference::argmax_rows(view(OP, x, Dim([rows, columns]))?)?;
            y.iter_mut().zip(&columns).for_each(|(y, &column)| *y = column as f32);
            Ok(())
        },
        |gpu| gpu::argmax_rows(gpu, x.buffer(OP, "x")?, [rows, columns]),
    )
}

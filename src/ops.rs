//! The operations around the cells, on any device.
//!
//! Every operation is recorded into a [`Recorder`]: on a GPU all that one recorder holds becomes a single submission; on the
//! CPU and the reference it runs at once.

mod gradient;
mod layout;
mod loss;
mod recorder;
mod softmax;
mod update;

pub(crate) use gradient::{
    activation_grad, class_numbers, conv1d_grad_input, conv1d_grad_weight, dropout, gather_rows_grad, mean_steps,
    mean_steps_grad, sum_columns,
};
pub(crate) use loss::{Points, point_loss, point_loss_grad, softmax_cross_entropy, softmax_cross_entropy_grad, sum};
pub(crate) use update::{Moved, Verdict, VerdictWords, judge_step, optimizer_step};

pub(crate) use layout::slice_grad;
pub use layout::{Slice, concat, expand, gather_best, gather_rows, permute, slice};
pub use recorder::Recorder;
pub use softmax::softmax;

use ndarray::{Array, ArrayView1, ArrayView2, Axis, Dim, Dimension};

use crate::cell::Activation;
use crate::error::{Error, Result, axes, check_shape, elements};
use crate::gpu;
pub use crate::op::{Binary, Conv1dGeometry, Math, PadMode, Reduction};
use crate::tensor::{Device, Storage, Tensor, view};
use crate::{cpu, memory, reference};

/// One operand of a host operation: its elements.
pub(crate) fn host<'a>(op: &'static str, what: &'static str, tensor: &'a Tensor) -> Result<&'a [f32]> {
    match tensor.storage() {
        Storage::Host(data) => Ok(data),
        Storage::Gpu(_) => {
            Err(Error::DeviceMismatch { op, what, expected: "the host".to_owned(), found: tensor.device().to_string() })
        }
    }
}

pub(crate) fn resident<'a>(op: &'static str, what: &'static str, tensor: &'a Tensor) -> Result<&'a gpu::Buffer> {
    match tensor.storage() {
        Storage::Gpu(buffer) => Ok(buffer),
        Storage::Host(_) => {
            Err(Error::DeviceMismatch { op, what, expected: "the GPU".to_owned(), found: tensor.device().to_string() })
        }
    }
}

/// Operands of the reference's sums, which run in `f64`.
fn wide(op: &'static str, x: &[f32]) -> Result<Vec<f64>> {
    memory::collected(op, x.len(), x.iter().map(|&x| f64::from(x)))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
fn narrow(op: &'static str, x: &[f64]) -> Result<Vec<f32>> {
    memory::collected(op, x.len(), x.iter().map(|&x| x as f32))
}

/// The result of an operation of the reference, as its elements in order.
trait Elements<F> {
    fn into_elements(self) -> Vec<F>;
}

impl<F> Elements<F> for Vec<F> {
    fn into_elements(self) -> Vec<F> {
        self
    }
}

/// As the reference makes them: whole, last axis fastest.
impl<F, D: Dimension> Elements<F> for Array<F, D> {
    fn into_elements(self) -> Vec<F> {
        self.into_raw_vec_and_offset().0
    }
}

/// What a host path computes from the elements of its operands: in `f64` on the reference, as they are on the CPU.
macro_rules! on_host {
    ($op:expr, $device:expr, $($name:ident = $elements:expr),+; $result:expr) => {
        if matches!($device, $crate::tensor::Device::Reference) {
            $(let $name = $crate::ops::wide($op, $elements)?;)+
            $(let $name = $name.as_slice();)+
            $crate::ops::narrow($op, &$crate::ops::Elements::into_elements($result))?
        } else {
            $(let $name: &[f32] = $elements;)+
            $crate::ops::Elements::into_elements($result)
        }
    };
}
pub(crate) use on_host;

/// An activation of every element.
///
/// # Errors
/// [`Error::DeviceMismatch`] where `x` lives elsewhere than the recorder.
pub fn activation(recorder: &mut Recorder, activation: Activation, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "activation";
    x.check_device(OP, "x", &recorder.device)?;
    if let Some(gpu) = recorder.gpu() {
        let y = gpu::unary(gpu, activation, resident(OP, "x", x)?, x.len())?;
        return Ok(Tensor::from_buffer(gpu.device(), x.shape(), y));
    }
    let y = reference::unary(activation, host(OP, "x", x)?.into())?;
    Tensor::from_vec(&recorder.device, x.shape(), y.into_elements())
}

/// An elementary function of every element.
///
/// # Errors
/// [`Error::DeviceMismatch`] where `x` lives elsewhere than the recorder.
pub fn math(recorder: &mut Recorder, function: Math, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "math";
    x.check_device(OP, "x", &recorder.device)?;
    if let Some(gpu) = recorder.gpu() {
        let y = gpu::math(gpu, function, resident(OP, "x", x)?, x.len())?;
        return Ok(Tensor::from_buffer(gpu.device(), x.shape(), y));
    }
    let y = reference::math(function, host(OP, "x", x)?.into())?;
    Tensor::from_vec(&recorder.device, x.shape(), y.into_elements())
}

/// An operation on two tensors of one shape, element by element.
///
/// # Errors
/// [`Error::Shape`] where the shapes differ; [`Error::DeviceMismatch`].
pub fn binary(recorder: &mut Recorder, op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    const OP: &str = "binary";
    a.check_device(OP, "a", &recorder.device)?;
    b.check_device(OP, "b", &recorder.device)?;
    check_shape(OP, "b", a.shape(), b.shape())?;
    let size = [1, a.len()];
    if let Some(gpu) = recorder.gpu() {
        let operand = |buffer| gpu::Operand { buffer, stride: a.len(), offset: 0 };
        let (a_buffer, b_buffer) = (resident(OP, "a", a)?, resident(OP, "b", b)?);
        let y = gpu::binary(gpu, op, operand(a_buffer), operand(b_buffer), size)?;
        return Ok(Tensor::from_buffer(gpu.device(), a.shape(), y));
    }
    let y = reference::binary(op, view(OP, host(OP, "a", a)?, Dim(size))?, view(OP, host(OP, "b", b)?, Dim(size))?)?;
    Tensor::from_vec(&recorder.device, a.shape(), y.into_elements())
}

/// An operation on the two halves of every row: `y[r, c] = op(x[r, c], x[r, N + c])`. With [`Binary::Hypot`] the magnitudes
/// of complex rows stored as real parts, then imaginary parts.
///
/// # Shapes
/// `x [M, 2 N]`; returns `[M, N]`.
///
/// # Errors
/// [`Error::Shape`] where `x` is no matrix with an even number of columns; [`Error::DeviceMismatch`].
pub fn binary_halves(recorder: &mut Recorder, op: Binary, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "binary_halves";
    x.check_device(OP, "x", &recorder.device)?;
    let [rows, width] = axes(OP, "x", "[M, 2 N]", x.shape())?;
    if width % 2 != 0 {
        return Err(Error::Shape { op: OP, what: "x", expected: "[M, 2 N]".to_owned(), found: x.shape().to_vec() });
    }
    let columns = width / 2;
    if let Some(gpu) = recorder.gpu() {
        let buffer = resident(OP, "x", x)?;
        let half = |offset| gpu::Operand { buffer, stride: width, offset };
        let y = gpu::binary(gpu, op, half(0), half(columns), [rows, columns])?;
        return Ok(Tensor::from_buffer(gpu.device(), &[rows, columns], y));
    }
    let x = view(OP, host(OP, "x", x)?, Dim([rows, width]))?;
    let (a, b) = x.split_at(Axis(1), columns);
    Tensor::from_vec(&recorder.device, &[rows, columns], reference::binary(op, a, b)?.into_elements())
}

/// `y = a b + bias`, the bias added to every row.
///
/// # Shapes
/// `a [M, K]`, `b [K, N]`, `bias [N]`; returns `[M, N]`.
///
/// # Errors
/// [`Error::Shape`] where they do not fit; [`Error::DeviceMismatch`]; [`Error::Limit`].
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
    a.check_device(OP, "a", &recorder.device)?;
    b.check_device(OP, "b", &recorder.device)?;
    let (a_shape, b_shape) = (axes(OP, "a", "[M, K]", a.shape())?, axes(OP, "b", "[K, N]", b.shape())?);
    let turned = |[rows, columns]: [usize; 2], turned: bool| if turned { [columns, rows] } else { [rows, columns] };
    let ([rows, depth], [_, columns]) = (turned(a_shape, a_transposed), turned(b_shape, b_transposed));
    check_shape(OP, "b", &turned([depth, columns], b_transposed), b.shape())?;
    elements(OP, "the result", &[rows, columns])?;
    if let Some(bias) = bias {
        bias.check_device(OP, "bias", &recorder.device)?;
        check_shape(OP, "bias", &[columns], bias.shape())?;
    }
    if let Some(gpu) = recorder.gpu() {
        let bias = bias.map(|bias| resident(OP, "bias", bias)).transpose()?;
        let size = gpu::MatmulSize { rows, depth, columns };
        let (a, b) = ((resident(OP, "a", a)?, a_transposed), (resident(OP, "b", b)?, b_transposed));
        let y = gpu::matmul(gpu, a, b, bias, size)?;
        return Ok(Tensor::from_buffer(gpu.device(), &[rows, columns], y));
    }
    fn read<F>(x: ArrayView2<'_, F>, transposed: bool) -> ArrayView2<'_, F> {
        if transposed { x.reversed_axes() } else { x }
    }
    let (a, b) = (host(OP, "a", a)?, host(OP, "b", b)?);
    let bias = bias.map(|bias| host(OP, "bias", bias)).transpose()?;
    let y = if matches!(recorder.device, Device::Reference) {
        let (a, b, bias) = (wide(OP, a)?, wide(OP, b)?, bias.map(|bias| wide(OP, bias)).transpose()?);
        let bias = bias.as_deref().map(ArrayView1::from);
        let a = read(view(OP, &a, Dim(a_shape))?, a_transposed);
        let y = reference::matmul(a, read(view(OP, &b, Dim(b_shape))?, b_transposed), bias)?;
        narrow(OP, &y.into_elements())?
    } else {
        let a = read(view(OP, a, Dim(a_shape))?, a_transposed);
        let b = read(view(OP, b, Dim(b_shape))?, b_transposed);
        cpu::matmul(a, b, bias.map(ArrayView1::from))?.into_elements()
    };
    Tensor::from_vec(&recorder.device, &[rows, columns], y)
}

/// One-dimensional cross-correlation (`torch.nn.functional.conv1d` without groups or dilation).
///
/// # Shapes
/// `x [N, C, L]`, `weight [O, C, K]`, `bias [O]`; returns `[N, O, (L + 2 padding - K) / stride + 1]`.
///
/// # Errors
/// [`Error::Shape`] where they do not fit or the signal is shorter than the kernel; [`Error::Value`] for a stride of 0;
/// [`Error::DeviceMismatch`]; [`Error::Limit`].
pub fn conv1d(
    recorder: &mut Recorder,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    geometry: Conv1dGeometry,
) -> Result<Tensor> {
    const OP: &str = "conv1d";
    for (what, tensor) in [("x", x), ("weight", weight), ("bias", bias)] {
        tensor.check_device(OP, what, &recorder.device)?;
    }
    let [count, channels, length] = axes(OP, "x", "[N, C, L]", x.shape())?;
    let [out, _, kernel] = axes(OP, "weight", "[O, C, K]", weight.shape())?;
    check_shape(OP, "weight", &[out, channels, kernel], weight.shape())?;
    check_shape(OP, "bias", &[out], bias.shape())?;
    if geometry.stride == 0 {
        return Err(Error::Value { op: OP, what: "stride", expected: "at least 1", found: "0".to_owned() });
    }
    if kernel == 0 {
        let expected = "[O, C, K] with K at least 1".to_owned();
        return Err(Error::Shape { op: OP, what: "weight", expected, found: weight.shape().to_vec() });
    }
    let padded = geometry.padding.checked_mul(2).and_then(|both| both.checked_add(length));
    if padded.is_none_or(|padded| padded < kernel) {
        let expected = match padded {
            Some(_) => format!("[N, C, L] with L at least {}", kernel - 2 * geometry.padding),
            None => format!("[N, C, L] that can be padded by {} on either side", geometry.padding),
        };
        return Err(Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() });
    }
    let shape = [count, out, geometry.output_length(length, kernel)];
    elements(OP, "the result", &shape)?;
    let (x_shape, weight_shape) = ([count, channels, length], [out, channels, kernel]);
    if let Some(gpu) = recorder.gpu() {
        let (x, weight) = ((resident(OP, "x", x)?, x_shape), (resident(OP, "weight", weight)?, weight_shape));
        let y = gpu::conv1d(gpu, x, weight, resident(OP, "bias", bias)?, geometry)?;
        return Ok(Tensor::from_buffer(gpu.device(), &shape, y));
    }
    let (x, weight, bias) = (host(OP, "x", x)?, host(OP, "weight", weight)?, host(OP, "bias", bias)?);
    let (x_dim, weight_dim) = (Dim(x_shape), Dim(weight_shape));
    let y = if matches!(recorder.device, Device::Reference) {
        let (x, weight, bias) = (wide(OP, x)?, wide(OP, weight)?, wide(OP, bias)?);
        let bias = Some(ArrayView1::from(bias.as_slice()));
        let y = reference::conv1d(view(OP, &x, x_dim)?, view(OP, &weight, weight_dim)?, bias, geometry)?;
        narrow(OP, &y.into_elements())?
    } else {
        let bias = Some(ArrayView1::from(bias));
        cpu::conv1d(view(OP, x, x_dim)?, view(OP, weight, weight_dim)?, bias, geometry)?.into_elements()
    };
    Tensor::from_vec(&recorder.device, &shape, y)
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
    x.check_device(OP, "x", &recorder.device)?;
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
    if let Some(gpu) = recorder.gpu() {
        let y = gpu::pad1d(gpu, (resident(OP, "x", x)?, [count, length]), (left, right), mode)?;
        return Ok(Tensor::from_buffer(gpu.device(), &shape, y));
    }
    let y = reference::pad1d(view(OP, host(OP, "x", x)?, Dim([count, length]))?, left, right, mode)?;
    Tensor::from_vec(&recorder.device, &shape, y.into_elements())
}

/// Reduces every row to one number.
///
/// # Shapes
/// `x [M, N]`; returns `[M]`.
///
/// # Errors
/// [`Error::Shape`] where `x` is no matrix, or has empty rows that have no mean or maximum; [`Error::DeviceMismatch`].
pub fn reduce_rows(recorder: &mut Recorder, op: Reduction, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "reduce_rows";
    x.check_device(OP, "x", &recorder.device)?;
    let [rows, columns] = axes(OP, "x", "[M, N]", x.shape())?;
    if columns == 0 && op != Reduction::Sum {
        let expected = "[M, N] with N at least 1".to_owned();
        return Err(Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() });
    }
    if let Some(gpu) = recorder.gpu() {
        let y = gpu::reduce_rows(gpu, op, resident(OP, "x", x)?, [rows, columns])?;
        return Ok(Tensor::from_buffer(gpu.device(), &[rows], y));
    }
    let y = reference::reduce_rows(op, view(OP, host(OP, "x", x)?, Dim([rows, columns]))?)?;
    Tensor::from_vec(&recorder.device, &[rows], y.into_elements())
}

/// Columns that an `f32` numbers without gaps.
const NUMBERED: usize = 1 << 24;

/// The column of every row's largest element, the first of equals (`torch.argmax`). A NaN is never it; a row without numbers
/// gives 0.
///
/// # Shapes
/// `x [M, N]`; returns `[M]`, whole numbers below N.
///
/// # Errors
/// [`Error::Shape`] where `x` is no matrix, or its rows are empty or longer than 2^24; [`Error::DeviceMismatch`].
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
    x.check_device(OP, "x", &recorder.device)?;
    let [rows, columns] = axes(OP, "x", "[M, N]", x.shape())?;
    if !(1..=NUMBERED).contains(&columns) {
        let expected = format!("[M, N] with N from 1 to {NUMBERED}");
        return Err(Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() });
    }
    if let Some(gpu) = recorder.gpu() {
        let y = gpu::argmax_rows(gpu, resident(OP, "x", x)?, [rows, columns])?;
        return Ok(Tensor::from_buffer(gpu.device(), &[rows], y));
    }
    let y = reference::argmax_rows(view(OP, host(OP, "x", x)?, Dim([rows, columns]))?)?;
    let y = memory::collected(OP, rows, y.iter().map(|&column| column as f32))?;
    Tensor::from_vec(&recorder.device, &[rows], y)
}

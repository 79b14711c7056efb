//! Convolution along one axis.

use ndarray::{ArrayView1, Dim};

use super::{Conv1dGeometry, Recorder};
use crate::error::{Error, Result, axes, check_shape, elements};
use crate::gpu;
use crate::path::{self, IntoElements};
use crate::tensor::{Tensor, view};
use crate::{cpu, reference};

/// The shape `[N, O, L']` of a convolution of `x [N, C, L]` with filters `[O, C, K]` that reach over K positions.
pub(crate) fn conv1d_shape(
    x: &[usize],
    [out, channels, kernel]: [usize; 3],
    stride: usize,
    [before, behind]: [usize; 2],
) -> Result<[usize; 3]> {
    const OP: &str = "conv1d";
    let [count, own, length] = axes(OP, "x", "[N, C, L]", x)?;
    check_shape(OP, "weight", &[out, own, kernel], &[out, channels, kernel])?;
    if stride == 0 {
        return Err(Error::Value { op: OP, what: "stride", expected: "at least 1", found: "0".to_owned() });
    }
    if kernel == 0 {
        let expected = "[O, C, K] with K at least 1".to_owned();
        return Err(Error::Shape { op: OP, what: "weight", expected, found: vec![out, channels, kernel] });
    }
    let padded = length.checked_add(before).and_then(|sum| sum.checked_add(behind));
    match padded.map(|padded| padded.checked_sub(kernel)) {
        Some(Some(room)) => Ok([count, out, room / stride + 1]),
        Some(None) => {
            let expected = format!("[N, C, L] with L at least {}", kernel - before - behind);
            Err(Error::Shape { op: OP, what: "x", expected, found: x.to_vec() })
        }
        None => {
            let expected = format!("[N, C, L] that can be padded by {before} and {behind}");
            Err(Error::Shape { op: OP, what: "x", expected, found: x.to_vec() })
        }
    }
}

/// One-dimensional cross-correlation (`torch.nn.functional.conv1d` without groups or dilation).
///
/// # Shapes
/// `x [N, C, L]`, `weight [O, C, K]`, `bias [O]`; returns `[N, O, (L + 2 padding - K) / stride + 1]`.
///
/// # Errors
/// [`Error::Shape`] if they do not fit or the signal is shorter than the kernel; [`Error::Value`] for a stride of 0;
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
        tensor.check_device(OP, what, recorder.device())?;
    }
    let weight_shape = axes(OP, "weight", "[O, C, K]", weight.shape())?;
    let shape = conv1d_shape(x.shape(), weight_shape, geometry.stride, [geometry.padding; 2])?;
    let [out, channels, kernel] = weight_shape;
    check_shape(OP, "bias", &[out], bias.shape())?;
    let [count, length] = [x.shape()[0], x.shape()[2]];
    elements(OP, "the result", &shape)?;
    let (x_shape, weight_shape) = ([count, channels, length], [out, channels, kernel]);
    path::run(
        recorder,
        OP,
        &shape,
        [x, weight, bias],
        move |path, [x, weight, bias], y| {
            let (x_dim, weight_dim) = (Dim(x_shape), Dim(weight_shape));
            path.write(
                y,
                || {
                    let (x, weight) = (path::widened(OP, x)?, path::widened(OP, weight)?);
                    let bias = path::widened(OP, bias)?;
                    let bias = Some(ArrayView1::from(bias.as_slice()));
                    let (x, weight) = (view(OP, &x, x_dim)?, view(OP, &weight, weight_dim)?);
                    let signal = reference::conv1d(x, weight, bias, geometry)?;
                    path::rounded(OP, &signal.into_elements())
                },
                |cpu, y| {
                    let signal = cpu::Signal { numbers: x, length, before: geometry.padding };
                    let windows = cpu::Windows { kernel, stride: geometry.stride, dilation: 1 };
                    cpu::conv1d(cpu, signal, windows, channels, (weight, bias), [shape[2], count], y)
                },
            )
        },
        |gpu| {
            let (x, weight) = ((x.buffer(OP, "x")?, x_shape), (weight.buffer(OP, "weight")?, weight_shape));
            gpu::conv1d(gpu, x, weight, bias.buffer(OP, "bias")?, geometry)
        },
    )
}

//! The gradients with respect to the operands of the operations around the cells, and the operations that only training needs.

use ndarray::{Dim, Ix3};

use super::{Conv1dGeometry, Recorder, Reduction, in_precision, reduce_rows};
use crate::cell::{Activation, Draw};
use crate::error::{Error, Result, axes, check_shape};
use crate::gpu;
use crate::path::{self, Device};
use crate::tensor::{Tensor, view};
use crate::{memory, reference};

/// The gradient with respect to the argument of [`activation`](super::activation).
pub(crate) fn activation_grad(
    recorder: &mut Recorder,
    activation: Activation,
    x: &Tensor,
    dy: &Tensor,
) -> Result<Tensor> {
    const OP: &str = "activation_grad";
    check_shape(OP, "dy", x.shape(), dy.shape())?;
    for (what, tensor) in [("x", x), ("dy", dy)] {
        tensor.check_device(OP, what, recorder.device())?;
    }
    path::compute(
        recorder,
        x.shape(),
        |path| {
            in_precision!(path, OP, x = x.host(OP, "x")?, dy = dy.host(OP, "dy")?;
                reference::unary_grad(activation, x.into(), dy.into())?)
        },
        |gpu| gpu::unary_grad(gpu, activation, [x.buffer(OP, "x")?, dy.buffer(OP, "dy")?], x.len()),
    )
}

/// Drops elements of `x` at random and scales the rest. Applied to `dy`, it gives the gradient with respect to `x`.
pub(crate) fn dropout(recorder: &mut Recorder, draw: &Draw, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "dropout";
    x.check_device(OP, "x", recorder.device())?;
    path::compute(
        recorder,
        x.shape(),
        |path| in_precision!(path, OP, x = x.host(OP, "x")?; reference::dropout(draw, x.into())?),
        |gpu| gpu::dropout(gpu, draw, x.buffer(OP, "x")?, x.len()),
    )
}

/// The sum of every column of `x [M, N]`: the gradient with respect to a bias.
pub(crate) fn sum_columns(recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "sum_columns";
    x.check_device(OP, "x", recorder.device())?;
    let [rows, columns] = axes(OP, "x", "[M, N]", x.shape())?;
    path::compute(
        recorder,
        &[columns],
        |path| in_precision!(path, OP, x = x.host(OP, "x")?; reference::sum_columns(view(OP, x, Dim([rows, columns]))?)?),
        |gpu| gpu::sum_columns(gpu, x.buffer(OP, "x")?, [rows, columns]),
    )
}

/// The gradient with respect to the table `[count, W]` of [`gather_rows`](super::gather_rows), from `dy [rows, W]`.
pub(crate) fn gather_rows_grad(recorder: &mut Recorder, count: usize, rows: &[usize], dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "gather_rows_grad";
    dy.check_device(OP, "dy", recorder.device())?;
    let [_, columns] = axes(OP, "dy", "[rows, W]", dy.shape())?;
    check_shape(OP, "dy", &[rows.len(), columns], dy.shape())?;
    path::compute(
        recorder,
        &[count, columns],
        |path| {
            in_precision!(path, OP, dy = dy.host(OP, "dy")?;
                reference::gather_rows_grad(count, rows, view(OP, dy, Dim([rows.len(), columns]))?)?)
        },
        |gpu| gpu::gather_rows_grad(gpu, count, rows, dy.buffer(OP, "dy")?, columns),
    )
}

/// The gradient with respect to the signal `[N, C, length]` of [`conv1d`](super::conv1d), from `weight [O, C, K]` and
/// `dy [N, O, L']`.
pub(crate) fn conv1d_grad_input(
    recorder: &mut Recorder,
    length: usize,
    weight: &Tensor,
    dy: &Tensor,
    geometry: Conv1dGeometry,
) -> Result<Tensor> {
    const OP: &str = "conv1d_grad_input";
    dy.check_device(OP, "dy", recorder.device())?;
    weight.check_device(OP, "weight", recorder.device())?;
    let [out, channels, kernel] = axes(OP, "weight", "[O, C, K]", weight.shape())?;
    let [count, _, _] = axes(OP, "dy", "[N, O, L']", dy.shape())?;
    let out_length = geometry.output_length(length, kernel);
    check_shape(OP, "dy", &[count, out, out_length], dy.shape())?;
    let shape = [count, channels, length];
    path::compute(
        recorder,
        &shape,
        |path| {
            in_precision!(path, OP, weight = weight.host(OP, "weight")?, dy = dy.host(OP, "dy")?; {
                let weight = view(OP, weight, Dim([out, channels, kernel]))?;
                reference::conv1d_grad_input(length, weight, view(OP, dy, Dim([count, out, out_length]))?, geometry)?
            })
        },
        |gpu| {
            let (weight, dy) = (weight.buffer(OP, "weight")?, dy.buffer(OP, "dy")?);
            gpu::conv1d_grad_input(gpu, shape, (weight, [out, kernel]), dy, geometry)
        },
    )
}

/// The gradients with respect to the weights `[O, C, kernel]` and the bias `[O]` of [`conv1d`](super::conv1d), from `x [N, C,
/// L]` and `dy [N, O, L']`.
pub(crate) fn conv1d_grad_weight(
    recorder: &mut Recorder,
    kernel: usize,
    x: &Tensor,
    dy: &Tensor,
    geometry: Conv1dGeometry,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "conv1d_grad_weight";
    dy.check_device(OP, "dy", recorder.device())?;
    x.check_device(OP, "x", recorder.device())?;
    let [count, channels, length] = axes(OP, "x", "[N, C, L]", x.shape())?;
    let [_, out, _] = axes(OP, "dy", "[N, O, L']", dy.shape())?;
    let out_length = geometry.output_length(length, kernel);
    check_shape(OP, "dy", &[count, out, out_length], dy.shape())?;
    let by_row = reduce_rows(recorder, Reduction::Sum, &dy.reshape(&[count * out, out_length])?)?;
    let bias = sum_columns(recorder, &by_row.reshape(&[count, out])?)?;
    let shape = [out, channels, kernel];
    let weight = path::compute(
        recorder,
        &shape,
        |path| {
            in_precision!(path, OP, x = x.host(OP, "x")?, dy = dy.host(OP, "dy")?; {
                let x = view(OP, x, Dim([count, channels, length]))?;
                reference::conv1d_grad_weight(kernel, x, view(OP, dy, Dim([count, out, out_length]))?, geometry)?
            })
        },
        |gpu| {
            let (x, dy) = (x.buffer(OP, "x")?, dy.buffer(OP, "dy")?);
            gpu::conv1d_grad_weight(gpu, shape, (x, [count, length]), dy, geometry)
        },
    )?;
    Ok((weight, bias))
}

/// The weighted sum of the steps of `x [T, B, W]`, `weights [T, B]`.
pub(crate) fn mean_steps(recorder: &mut Recorder, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    const OP: &str = "mean_steps";
    x.check_device(OP, "x", recorder.device())?;
    weights.check_device(OP, "weights", recorder.device())?;
    let [time, batch, width] = axes(OP, "x", "[T, B, W]", x.shape())?;
    check_shape(OP, "weights", &[time, batch], weights.shape())?;
    path::compute(
        recorder,
        &[batch, width],
        |path| {
            in_precision!(path, OP, x = x.host(OP, "x")?, weights = weights.host(OP, "weights")?; {
                let x = view::<_, Ix3>(OP, x, Dim([time, batch, width]))?;
                reference::mean_steps(x, view(OP, weights, Dim([time, batch]))?)?
            })
        },
        |gpu| gpu::mean_steps(gpu, x.buffer(OP, "x")?, weights.buffer(OP, "weights")?, [time, batch, width]),
    )
}

/// The gradient with respect to the steps `[T, B, W]` of [`mean_steps`], from `dy [B, W]`.
pub(crate) fn mean_steps_grad(recorder: &mut Recorder, weights: &Tensor, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "mean_steps_grad";
    dy.check_device(OP, "dy", recorder.device())?;
    weights.check_device(OP, "weights", recorder.device())?;
    let [time, batch] = axes(OP, "weights", "[T, B]", weights.shape())?;
    let [_, width] = axes(OP, "dy", "[B, W]", dy.shape())?;
    check_shape(OP, "dy", &[batch, width], dy.shape())?;
    let shape = [time, batch, width];
    path::compute(
        recorder,
        &shape,
        |path| {
            in_precision!(path, OP, weights = weights.host(OP, "weights")?, dy = dy.host(OP, "dy")?; {
                let weights = view(OP, weights, Dim([time, batch]))?;
                reference::mean_steps_grad(weights, view(OP, dy, Dim([batch, width]))?)?
            })
        },
        |gpu| gpu::mean_steps_grad(gpu, weights.buffer(OP, "weights")?, dy.buffer(OP, "dy")?, shape),
    )
}

/// The targets as a tensor of class numbers, -1 for a target that is ignored, and the number of targets that are not
/// ignored.
pub(crate) fn class_numbers(
    device: &Device,
    op: &'static str,
    targets: &[i64],
    ignore_index: i64,
    classes: usize,
) -> Result<(Tensor, usize)> {
    let mut counted = 0;
    let numbers = targets.iter().enumerate().map(|(at, &target)| match usize::try_from(target) {
        _ if target == ignore_index => Ok(-1.0),
        Ok(class) if class < classes => {
            counted += 1;
            Ok(class as f32)
        }
        _ => {
            let found = format!("{target} at {at} for {classes} classes");
            Err(Error::Value { op, what: "targets", expected: "classes that the scores have, or ignore_index", found })
        }
    });
    let mut found = memory::room(op, targets.len())?;
    for number in numbers {
        found.push(number?);
    }
    Ok((Tensor::from_vec(device, &[found.len()], found)?, counted))
}

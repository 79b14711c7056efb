//! The gradients by the operands of the operations around the cells, and the operations that only training needs.

use ndarray::{Dim, Ix3};

use super::resident;
use super::{Conv1dGeometry, Recorder, Reduction, host, on_host, reduce_rows};
use crate::cell::{Activation, Draw};
use crate::error::{Error, Result, axes, check_shape};
use crate::gpu;
use crate::tensor::{Device, Tensor, view};
use crate::{memory, reference};

/// By the argument of [`activation`](super::activation).
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
    if let Some(gpu) = recorder.gpu() {
        let dx = gpu::unary_grad(gpu, activation, [resident(OP, "x", x)?, resident(OP, "dy", dy)?], x.len())?;
        return Ok(Tensor::from_buffer(gpu.device(), x.shape(), dx));
    }
    let dx = on_host!(OP, recorder.device(), x = host(OP, "x", x)?, dy = host(OP, "dy", dy)?;
        reference::unary_grad(activation, x.into(), dy.into())?);
    Tensor::from_vec(recorder.device(), x.shape(), dx)
}

/// Drops elements of `x` at random and scales the rest; of `dy`, the gradient by `x`.
pub(crate) fn dropout(recorder: &mut Recorder, draw: &Draw, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "dropout";
    x.check_device(OP, "x", recorder.device())?;
    if let Some(gpu) = recorder.gpu() {
        let y = gpu::dropout(gpu, draw, resident(OP, "x", x)?, x.len())?;
        return Ok(Tensor::from_buffer(gpu.device(), x.shape(), y));
    }
    let y = on_host!(OP, recorder.device(), x = host(OP, "x", x)?; reference::dropout(draw, x.into())?);
    Tensor::from_vec(recorder.device(), x.shape(), y)
}

/// The sum of every column of `x [M, N]`: the gradient by a bias.
pub(crate) fn sum_columns(recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "sum_columns";
    x.check_device(OP, "x", recorder.device())?;
    let [rows, columns] = axes(OP, "x", "[M, N]", x.shape())?;
    if let Some(gpu) = recorder.gpu() {
        let y = gpu::sum_columns(gpu, resident(OP, "x", x)?, [rows, columns])?;
        return Ok(Tensor::from_buffer(gpu.device(), &[columns], y));
    }
    let y = on_host!(OP, recorder.device(), x = host(OP, "x", x)?;
        reference::sum_columns(view(OP, x, Dim([rows, columns]))?)?);
    Tensor::from_vec(recorder.device(), &[columns], y)
}

/// By the table `[count, W]` of [`gather_rows`](super::gather_rows), from `dy [rows, W]`.
pub(crate) fn gather_rows_grad(recorder: &mut Recorder, count: usize, rows: &[usize], dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "gather_rows_grad";
    dy.check_device(OP, "dy", recorder.device())?;
    let [_, columns] = axes(OP, "dy", "[rows, W]", dy.shape())?;
    check_shape(OP, "dy", &[rows.len(), columns], dy.shape())?;
    if let Some(gpu) = recorder.gpu() {
        let table = gpu::gather_rows_grad(gpu, count, rows, resident(OP, "dy", dy)?, columns)?;
        return Ok(Tensor::from_buffer(gpu.device(), &[count, columns], table));
    }
    let table = on_host!(OP, recorder.device(), dy = host(OP, "dy", dy)?;
        reference::gather_rows_grad(count, rows, view(OP, dy, Dim([rows.len(), columns]))?)?);
    Tensor::from_vec(recorder.device(), &[count, columns], table)
}

/// By the signal of [`conv1d`](super::conv1d), `[N, C, length]`, from `weight [O, C, K]` and `dy [N, O, L']`.
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
    if let Some(gpu) = recorder.gpu() {
        let (weight, dy) = (resident(OP, "weight", weight)?, resident(OP, "dy", dy)?);
        let dx = gpu::conv1d_grad_input(gpu, shape, (weight, [out, kernel]), dy, geometry)?;
        return Ok(Tensor::from_buffer(gpu.device(), &shape, dx));
    }
    let dx = on_host!(OP, recorder.device(), weight = host(OP, "weight", weight)?, dy = host(OP, "dy", dy)?; {
        let weight = view(OP, weight, Dim([out, channels, kernel]))?;
        reference::conv1d_grad_input(length, weight, view(OP, dy, Dim([count, out, out_length]))?, geometry)?
    });
    Tensor::from_vec(recorder.device(), &shape, dx)
}

/// By the weights of [`conv1d`](super::conv1d), `[O, C, kernel]`, and by its bias, `[O]`, from `x [N, C, L]` and
/// `dy [N, O, L']`.
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
    if let Some(gpu) = recorder.gpu() {
        let (x, dy) = (resident(OP, "x", x)?, resident(OP, "dy", dy)?);
        let weight = gpu::conv1d_grad_weight(gpu, shape, (x, [count, length]), dy, geometry)?;
        return Ok((Tensor::from_buffer(gpu.device(), &shape, weight), bias));
    }
    let weight = on_host!(OP, recorder.device(), x = host(OP, "x", x)?, dy = host(OP, "dy", dy)?; {
        let x = view(OP, x, Dim([count, channels, length]))?;
        reference::conv1d_grad_weight(kernel, x, view(OP, dy, Dim([count, out, out_length]))?, geometry)?
    });
    Ok((Tensor::from_vec(recorder.device(), &shape, weight)?, bias))
}

/// The weighted sum of the steps of `x [T, B, W]`, `weights [T, B]`.
pub(crate) fn mean_steps(recorder: &mut Recorder, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    const OP: &str = "mean_steps";
    x.check_device(OP, "x", recorder.device())?;
    weights.check_device(OP, "weights", recorder.device())?;
    let [time, batch, width] = axes(OP, "x", "[T, B, W]", x.shape())?;
    check_shape(OP, "weights", &[time, batch], weights.shape())?;
    if let Some(gpu) = recorder.gpu() {
        let y = gpu::mean_steps(gpu, resident(OP, "x", x)?, resident(OP, "weights", weights)?, [time, batch, width])?;
        return Ok(Tensor::from_buffer(gpu.device(), &[batch, width], y));
    }
    let y = on_host!(OP, recorder.device(), x = host(OP, "x", x)?, weights = host(OP, "weights", weights)?; {
        let x = view::<_, Ix3>(OP, x, Dim([time, batch, width]))?;
        reference::mean_steps(x, view(OP, weights, Dim([time, batch]))?)?
    });
    Tensor::from_vec(recorder.device(), &[batch, width], y)
}

/// By the steps of [`mean_steps`], `[T, B, W]`, from `dy [B, W]`.
pub(crate) fn mean_steps_grad(recorder: &mut Recorder, weights: &Tensor, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "mean_steps_grad";
    dy.check_device(OP, "dy", recorder.device())?;
    weights.check_device(OP, "weights", recorder.device())?;
    let [time, batch] = axes(OP, "weights", "[T, B]", weights.shape())?;
    let [_, width] = axes(OP, "dy", "[B, W]", dy.shape())?;
    check_shape(OP, "dy", &[batch, width], dy.shape())?;
    let shape = [time, batch, width];
    if let Some(gpu) = recorder.gpu() {
        let dx = gpu::mean_steps_grad(gpu, resident(OP, "weights", weights)?, resident(OP, "dy", dy)?, shape)?;
        return Ok(Tensor::from_buffer(gpu.device(), &shape, dx));
    }
    let dx = on_host!(OP, recorder.device(), weights = host(OP, "weights", weights)?, dy = host(OP, "dy", dy)?; {
        let weights = view(OP, weights, Dim([time, batch]))?;
        reference::mean_steps_grad(weights, view(OP, dy, Dim([batch, width]))?)?
    });
    Tensor::from_vec(recorder.device(), &shape, dx)
}

/// Numbers that name classes, as a tensor of whole numbers: -1 for one that is ignored.
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

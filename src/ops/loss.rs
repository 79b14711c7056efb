//! Losses and their gradients.

use ndarray::Dim;

use super::resident;
use super::{Recorder, host, on_host};
use crate::error::{Result, axes, check_shape};
use crate::gpu;
use crate::op::PointLoss;
use crate::reference::{self, Real};
use crate::tensor::{Tensor, view};

/// `scale` times the sum of all rows' cross-entropies, shape `[]`.
///
/// # Shapes
/// `x [M, C]`, `targets [M]` as [`class_numbers`](super::class_numbers) makes them.
pub(crate) fn softmax_cross_entropy(
    recorder: &mut Recorder,
    x: &Tensor,
    targets: &Tensor,
    scale: f32,
) -> Result<Tensor> {
    const OP: &str = "softmax_cross_entropy";
    let [rows, classes] = axes(OP, "x", "[M, C]", x.shape())?;
    check_shape(OP, "targets", &[rows], targets.shape())?;
    x.check_device(OP, "x", recorder.device())?;
    targets.check_device(OP, "targets", recorder.device())?;
    if let Some(gpu) = recorder.gpu() {
        let (x, targets) = (resident(OP, "x", x)?, resident(OP, "targets", targets)?);
        let parts = gpu::softmax_cross_entropy(gpu, x, targets, [rows, classes])?;
        let sum = gpu::sum(gpu, &parts, rows, scale)?;
        return Ok(Tensor::from_buffer(gpu.device(), &[], sum));
    }
    let loss = on_host!(OP, recorder.device(), x = host(OP, "x", x)?, targets = host(OP, "targets", targets)?; {
        let parts = reference::softmax_cross_entropy(view(OP, x, Dim([rows, classes]))?, targets.into())?;
        vec![total(parts, scale)]
    });
    Tensor::from_vec(recorder.device(), &[], loss)
}

/// By the scores of [`softmax_cross_entropy`], from the gradient by the loss.
pub(crate) fn softmax_cross_entropy_grad(
    recorder: &mut Recorder,
    x: &Tensor,
    targets: &Tensor,
    scale: f32,
    dy: &Tensor,
) -> Result<Tensor> {
    const OP: &str = "softmax_cross_entropy_grad";
    let [rows, classes] = axes(OP, "x", "[M, C]", x.shape())?;
    check_shape(OP, "dy", &[], dy.shape())?;
    if let Some(gpu) = recorder.gpu() {
        let (x, targets) = (resident(OP, "x", x)?, resident(OP, "targets", targets)?);
        let dx = gpu::softmax_cross_entropy_grad(gpu, [x, targets, resident(OP, "dy", dy)?], [rows, classes], scale)?;
        return Ok(Tensor::from_buffer(gpu.device(), &[rows, classes], dx));
    }
    let dy = host(OP, "dy", dy)?;
    let dx = on_host!(OP, recorder.device(), x = host(OP, "x", x)?, targets = host(OP, "targets", targets)?, dy = dy; {
        let x = view(OP, x, Dim([rows, classes]))?;
        reference::softmax_cross_entropy_grad(x, targets.into(), scaled(scale, dy[0]))?
    });
    Tensor::from_vec(recorder.device(), &[rows, classes], dx)
}

/// The sum of all elements, shape `[]`.
pub(crate) fn sum(recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "sum";
    x.check_device(OP, "x", recorder.device())?;
    if let Some(gpu) = recorder.gpu() {
        let sum = gpu::sum(gpu, resident(OP, "x", x)?, x.len(), 1.0)?;
        return Ok(Tensor::from_buffer(gpu.device(), &[], sum));
    }
    let sum = on_host!(OP, recorder.device(), x = host(OP, "x", x)?; vec![total(x.iter().copied(), 1.0)]);
    Tensor::from_vec(recorder.device(), &[], sum)
}

/// What a point loss compares.
pub(crate) struct Points<'a> {
    pub(crate) loss: PointLoss,
    /// `[M, W]`
    pub(crate) x: &'a Tensor,
    /// `[M, W]`
    pub(crate) y: &'a Tensor,
    /// `[M]`
    pub(crate) weights: &'a Tensor,
    /// Of the sum.
    pub(crate) scale: f32,
}

impl Points<'_> {
    fn check(&self, op: &'static str, recorder: &Recorder) -> Result<[usize; 2]> {
        let [rows, width] = axes(op, "x", "[M, W]", self.x.shape())?;
        check_shape(op, "y", &[rows, width], self.y.shape())?;
        check_shape(op, "weights", &[rows], self.weights.shape())?;
        for (what, tensor) in [("x", self.x), ("y", self.y), ("weights", self.weights)] {
            tensor.check_device(op, what, recorder.device())?;
        }
        Ok([rows, width])
    }

    fn resident(&self, op: &'static str) -> Result<[&gpu::Buffer; 3]> {
        Ok([resident(op, "x", self.x)?, resident(op, "y", self.y)?, resident(op, "weights", self.weights)?])
    }
}

/// `scale` times the sum of all elements' losses, shape `[]`.
pub(crate) fn point_loss(recorder: &mut Recorder, points: &Points<'_>) -> Result<Tensor> {
    const OP: &str = "point_loss";
    let Points { loss, x, y, weights, scale } = *points;
    let [rows, width] = points.check(OP, recorder)?;
    if let Some(gpu) = recorder.gpu() {
        let parts = gpu::point_loss(gpu, loss, points.resident(OP)?, [rows, width])?;
        let sum = gpu::sum(gpu, &parts, rows * width, scale)?;
        return Ok(Tensor::from_buffer(gpu.device(), &[], sum));
    }
    let (x, y, weights) = (host(OP, "x", x)?, host(OP, "y", y)?, host(OP, "weights", weights)?);
    let loss = on_host!(OP, recorder.device(), x = x, y = y, weights = weights; {
        let (x, y) = (view(OP, x, Dim([rows, width]))?, view(OP, y, Dim([rows, width]))?);
        vec![total(reference::point_loss(loss, x, y, weights.into())?, scale)]
    });
    Tensor::from_vec(recorder.device(), &[], loss)
}

/// By the predictions of [`point_loss`], from the gradient by the loss.
pub(crate) fn point_loss_grad(recorder: &mut Recorder, points: &Points<'_>, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "point_loss_grad";
    let Points { loss, x, y, weights, scale } = *points;
    let [rows, width] = points.check(OP, recorder)?;
    check_shape(OP, "dy", &[], dy.shape())?;
    if let Some(gpu) = recorder.gpu() {
        let [x, y, weights] = points.resident(OP)?;
        let inputs = [x, y, weights, resident(OP, "dy", dy)?];
        let dx = gpu::point_loss_grad(gpu, loss, inputs, [rows, width], scale)?;
        return Ok(Tensor::from_buffer(gpu.device(), &[rows, width], dx));
    }
    let (x, y, weights) = (host(OP, "x", x)?, host(OP, "y", y)?, host(OP, "weights", weights)?);
    let dx = on_host!(OP, recorder.device(), x = x, y = y, weights = weights, dy = host(OP, "dy", dy)?; {
        let (x, y) = (view(OP, x, Dim([rows, width]))?, view(OP, y, Dim([rows, width]))?);
        reference::point_loss_grad(loss, x, y, weights.into(), scaled(scale, dy[0]))?
    });
    Tensor::from_vec(recorder.device(), &[rows, width], dx)
}

/// Adds up in 64 bits, as a device's tree of sums loses less than one long sum in 32.
fn total<F: Real>(parts: impl IntoIterator<Item = F>, scale: f32) -> F {
    let sum: f64 = parts.into_iter().filter_map(|part| part.to_f64()).sum();
    F::near(sum * f64::from(scale))
}

fn scaled<F: Real>(scale: f32, dy: F) -> F {
    F::of(scale) * dy
}

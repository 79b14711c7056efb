//! Losses and their gradients.

use ndarray::Dim;

use super::{Recorder, in_precision};
use crate::error::{Result, axes, check_shape};
use crate::gpu;
use crate::op::PointLoss;
use crate::path;
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
    path::compute(
        recorder,
        &[],
        |path| {
            in_precision!(path, OP, x = x.host(OP, "x")?, targets = targets.host(OP, "targets")?; {
                let parts = reference::softmax_cross_entropy(view(OP, x, Dim([rows, classes]))?, targets.into())?;
                vec![total(parts, scale)]
            })
        },
        |gpu| {
            let (x, targets) = (x.buffer(OP, "x")?, targets.buffer(OP, "targets")?);
            let parts = gpu::softmax_cross_entropy(gpu, x, targets, [rows, classes])?;
            gpu::sum(gpu, &parts, rows, scale)
        },
    )
}

/// The gradient with respect to the scores of [`softmax_cross_entropy`], from the gradient `dy []` with respect to the loss.
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
    path::compute(
        recorder,
        &[rows, classes],
        |path| {
            let (x, targets, dy) = (x.host(OP, "x")?, targets.host(OP, "targets")?, dy.host(OP, "dy")?);
            in_precision!(path, OP, x = x, targets = targets, dy = dy; {
                let x = view(OP, x, Dim([rows, classes]))?;
                reference::softmax_cross_entropy_grad(x, targets.into(), scaled(scale, dy[0]))?
            })
        },
        |gpu| {
            let inputs = [x.buffer(OP, "x")?, targets.buffer(OP, "targets")?, dy.buffer(OP, "dy")?];
            gpu::softmax_cross_entropy_grad(gpu, inputs, [rows, classes], scale)
        },
    )
}

/// The sum of all elements, shape `[]`.
pub(crate) fn sum(recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "sum";
    x.check_device(OP, "x", recorder.device())?;
    path::compute(
        recorder,
        &[],
        |path| in_precision!(path, OP, x = x.host(OP, "x")?; vec![total(x.iter().copied(), 1.0)]),
        |gpu| gpu::sum(gpu, x.buffer(OP, "x")?, x.len(), 1.0),
    )
}

/// The operands of a point loss.
pub(crate) struct Points<'a> {
    pub(crate) loss: PointLoss,
    /// `[M, W]`
    pub(crate) x: &'a Tensor,
    /// `[M, W]`
    pub(crate) y: &'a Tensor,
    /// `[M]`
    pub(crate) weights: &'a Tensor,
    /// Factor of the sum.
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

    fn buffers(&self, op: &'static str) -> Result<[&gpu::Buffer; 3]> {
        Ok([self.x.buffer(op, "x")?, self.y.buffer(op, "y")?, self.weights.buffer(op, "weights")?])
    }
}

/// `scale` times the sum of all elements' losses, shape `[]`.
pub(crate) fn point_loss(recorder: &mut Recorder, points: &Points<'_>) -> Result<Tensor> {
    const OP: &str = "point_loss";
    let Points { loss, x, y, weights, scale } = *points;
    let [rows, width] = points.check(OP, recorder)?;
    path::compute(
        recorder,
        &[],
        |path| {
            let (x, y, weights) = (x.host(OP, "x")?, y.host(OP, "y")?, weights.host(OP, "weights")?);
            in_precision!(path, OP, x = x, y = y, weights = weights; {
                let (x, y) = (view(OP, x, Dim([rows, width]))?, view(OP, y, Dim([rows, width]))?);
                vec![total(reference::point_loss(loss, x, y, weights.into())?, scale)]
            })
        },
        |gpu| {
            let parts = gpu::point_loss(gpu, loss, points.buffers(OP)?, [rows, width])?;
            gpu::sum(gpu, &parts, rows * width, scale)
        },
    )
}

/// The gradient with respect to the predictions of [`point_loss`], from the gradient `dy []` with respect to the loss.
pub(crate) fn point_loss_grad(recorder: &mut Recorder, points: &Points<'_>, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "point_loss_grad";
    let Points { loss, x, y, weights, scale } = *points;
    let [rows, width] = points.check(OP, recorder)?;
    check_shape(OP, "dy", &[], dy.shape())?;
    path::compute(
        recorder,
        &[rows, width],
        |path| {
            let (x, y, weights) = (x.host(OP, "x")?, y.host(OP, "y")?, weights.host(OP, "weights")?);
            in_precision!(path, OP, x = x, y = y, weights = weights, dy = dy.host(OP, "dy")?; {
                let (x, y) = (view(OP, x, Dim([rows, width]))?, view(OP, y, Dim([rows, width]))?);
                reference::point_loss_grad(loss, x, y, weights.into(), scaled(scale, dy[0]))?
            })
        },
        |gpu| {
            let [x, y, weights] = points.buffers(OP)?;
            gpu::point_loss_grad(gpu, loss, [x, y, weights, dy.buffer(OP, "dy")?], [rows, width], scale)
        },
    )
}

/// Adds up in `f64`. A device adds in a tree, which loses less precision than one long sum in `f32`.
fn total<F: Real>(parts: impl IntoIterator<Item = F>, scale: f32) -> F {
    let sum: f64 = parts.into_iter().filter_map(|part| part.to_f64()).sum();
    F::near(sum * f64::from(scale))
}

fn scaled<F: Real>(scale: f32, dy: F) -> F {
    F::of(scale) * dy
}

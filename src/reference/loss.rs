//! Losses and their derivatives. A loss is computed element by element, or row by row; `ops` adds the parts up.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Zip};

use super::{Real, activate};
use crate::cell::Activation;
use crate::error::Result;
use crate::memory;
use crate::op::PointLoss;

/// The class that a target names; `None` if the target is below 0 and so ignored.
pub fn target_class<F: Real>(target: F) -> Option<usize> {
    target.to_usize().filter(|_| target >= F::zero())
}

/// The largest element of a row, and the sum of `exp(x - largest)`.
fn softmax_terms<F: Real>(row: ArrayView1<'_, F>) -> (F, F) {
    let largest = row.iter().copied().fold(F::neg_infinity(), F::max);
    (largest, row.iter().map(|&x| (x - largest).exp()).sum())
}

/// `-ln(softmax(x)[target])` of every row, 0 if the target is below 0 (`torch.nn.CrossEntropyLoss`).
///
/// # Shapes
/// `x [M, C]`, `targets [M]`, whole numbers below C; returns `[M]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn softmax_cross_entropy<F: Real>(x: ArrayView2<'_, F>, targets: ArrayView1<'_, F>) -> Result<Array1<F>> {
    memory::array("softmax_cross_entropy", x.nrows(), |row| match target_class(targets[row]) {
        Some(class) => {
            let (largest, sum) = softmax_terms(x.row(row));
            sum.ln() - (x[[row, class]] - largest)
        }
        None => F::zero(),
    })
}

/// The derivative of `scale` times the sum of [`softmax_cross_entropy`]'s rows, `scale (softmax(x) - onehot(target))`.
///
/// # Shapes
/// As [`softmax_cross_entropy`]; returns `[M, C]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn softmax_cross_entropy_grad<F: Real>(
    x: ArrayView2<'_, F>,
    targets: ArrayView1<'_, F>,
    scale: F,
) -> Result<Array2<F>> {
    let mut dx = memory::full("softmax_cross_entropy_grad", x.dim(), F::zero())?;
    for ((x, mut dx), &target) in x.rows().into_iter().zip(dx.rows_mut()).zip(targets) {
        let Some(class) = target_class(target) else { continue };
        let (largest, sum) = softmax_terms(x);
        Zip::from(&mut dx).and(x).for_each(|dx, &x| *dx = scale * (x - largest).exp() / sum);
        dx[class] = dx[class] - scale;
    }
    Ok(dx)
}

/// The loss of every element times the weight of its row; 0 in rows of weight 0.
///
/// # Shapes
/// `x` and `y [M, W]`, `weights [M]`; returns `[M, W]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn point_loss<F: Real>(
    loss: PointLoss,
    x: ArrayView2<'_, F>,
    y: ArrayView2<'_, F>,
    weights: ArrayView1<'_, F>,
) -> Result<Array2<F>> {
    let of = |x: F, y: F| match loss {
        PointLoss::SquaredError => (x - y) * (x - y),
        PointLoss::BinaryCrossEntropy => x.max(F::zero()) - x * y + activate(Activation::Softplus, F::zero() - x.abs()),
    };
    memory::array("point_loss", x.dim(), |at| {
        let weight = weights[at.0];
        if weight == F::zero() { weight } else { weight * of(x[at], y[at]) }
    })
}

/// The derivative of `scale` times the sum of [`point_loss`]'s elements with respect to `x`.
///
/// # Shapes
/// As [`point_loss`].
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn point_loss_grad<F: Real>(
    loss: PointLoss,
    x: ArrayView2<'_, F>,
    y: ArrayView2<'_, F>,
    weights: ArrayView1<'_, F>,
    scale: F,
) -> Result<Array2<F>> {
    let of = |x: F, y: F| match loss {
        PointLoss::SquaredError => (x - y) + (x - y),
        PointLoss::BinaryCrossEntropy => activate(Activation::Sigmoid, x) - y,
    };
    memory::array("point_loss_grad", x.dim(), |at| {
        let weight = weights[at.0];
        if weight == F::zero() { weight } else { scale * weight * of(x[at], y[at]) }
    })
}

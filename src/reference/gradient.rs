//! Derivatives of the operations around the cells. `dy` is the gradient of a loss with respect to an operation's result; each
//! function returns the gradient with respect to one of its operands. The caller checks the shapes.
//!
//! The derivatives of a matrix product `y = a b + bias` are products themselves: `da = dy b^T`, `db = a^T dy`. The derivative
//! with respect to the bias is [`sum_columns`].

use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, ArrayView3, Axis, Zip};

use super::{Real, activate_derivative};
use crate::cell::{Activation, Draw};
use crate::error::Result;
use crate::memory;
use crate::op::Conv1dGeometry;

/// The gradient with respect to the argument of an activation, `dy act'(x)`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn unary_grad<F: Real>(activation: Activation, x: ArrayView1<'_, F>, dy: ArrayView1<'_, F>) -> Result<Array1<F>> {
    memory::array("activation_grad", x.len(), |at| dy[at] * activate_derivative(activation, x[at]))
}

/// The sum of every column: the gradient with respect to a bias that was added to every row.
///
/// # Shapes
/// `x [M, N]`; returns `[N]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn sum_columns<F: Real>(x: ArrayView2<'_, F>) -> Result<Array1<F>> {
    let mut sums = memory::full("sum_columns", x.ncols(), F::zero())?;
    for row in x.rows() {
        Zip::from(&mut sums).and(row).for_each(|sum, &x| *sum = *sum + x);
    }
    Ok(sums)
}

/// The gradient with respect to the table of [`gather_rows`](super::gather_rows): each row sums the gradients of its copies.
///
/// # Shapes
/// `dy [rows, W]`, each of `rows` below `count`; returns `[count, W]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn gather_rows_grad<F: Real>(count: usize, rows: &[usize], dy: ArrayView2<'_, F>) -> Result<Array2<F>> {
    let mut table = memory::full("gather_rows_grad", (count, dy.ncols()), F::zero())?;
    for (&row, dy) in rows.iter().zip(dy.rows()) {
        Zip::from(table.row_mut(row)).and(dy).for_each(|sum, &dy| *sum = *sum + dy);
    }
    Ok(table)
}

/// The gradient with respect to the signal of [`conv1d`](super::conv1d): every element sums over the windows that contain it.
///
/// # Shapes
/// `dy [N, O, L']`, `weight [O, C, K]`; returns `[N, C, length]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn conv1d_grad_input<F: Real>(
    length: usize,
    weight: ArrayView3<'_, F>,
    dy: ArrayView3<'_, F>,
    geometry: Conv1dGeometry,
) -> Result<Array3<F>> {
    let (count, out, out_length) = dy.dim();
    let (_, channels, kernel) = weight.dim();
    memory::array("conv1d_grad_input", (count, channels, length), |(n, c, at)| {
        let mut sum = F::zero();
        for o in 0..out {
            for k in 0..kernel {
                // Tap k of window l is at this element if l stride + k = at + padding.
                let Some(begin) = (at + geometry.padding).checked_sub(k) else { break };
                let l = begin / geometry.stride;
                if begin % geometry.stride == 0 && l < out_length {
                    sum = sum + weight[[o, c, k]] * dy[[n, o, l]];
                }
            }
        }
        sum
    })
}

/// The gradient with respect to the weights of [`conv1d`](super::conv1d).
///
/// # Shapes
/// `x [N, C, L]`, `dy [N, O, L']`; returns `[O, C, kernel]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn conv1d_grad_weight<F: Real>(
    kernel: usize,
    x: ArrayView3<'_, F>,
    dy: ArrayView3<'_, F>,
    geometry: Conv1dGeometry,
) -> Result<Array3<F>> {
    let (count, channels, length) = x.dim();
    let (_, out, out_length) = dy.dim();
    memory::array("conv1d_grad_weight", (out, channels, kernel), |(o, c, k)| {
        let mut sum = F::zero();
        for n in 0..count {
            for l in 0..out_length {
                let at = l * geometry.stride + k;
                if at >= geometry.padding && at - geometry.padding < length {
                    sum = sum + x[[n, c, at - geometry.padding]] * dy[[n, o, l]];
                }
            }
        }
        sum
    })
}

/// Drops elements at random and scales the rest (`torch.nn.functional.dropout`). Applied to `dy`, it gives the
/// gradient with respect to `x`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn dropout<F: Real>(draw: &Draw, x: ArrayView1<'_, F>) -> Result<Array1<F>> {
    let scale = F::of(draw.scale());
    let mut next = 0;
    memory::mapped("dropout", &x, |x| {
        let at = next;
        next += 1;
        if draw.keeps(at) { x * scale } else { F::zero() }
    })
}

/// The weighted sum over the first axis: a mean if the weights of a column add up to 1. A step of weight 0 is not read.
///
/// # Shapes
/// `x [T, B, W]`, `weights [T, B]`; returns `[B, W]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn mean_steps<F: Real>(x: ArrayView3<'_, F>, weights: ArrayView2<'_, F>) -> Result<Array2<F>> {
    let mut y = memory::full("mean_steps", (x.len_of(Axis(1)), x.len_of(Axis(2))), F::zero())?;
    for (x, weights) in x.outer_iter().zip(weights.rows()) {
        for ((mut y, x), &weight) in y.rows_mut().into_iter().zip(x.rows()).zip(weights) {
            if weight != F::zero() {
                Zip::from(&mut y).and(x).for_each(|y, &x| *y = *y + weight * x);
            }
        }
    }
    Ok(y)
}

/// The gradient with respect to the steps of [`mean_steps`].
///
/// # Shapes
/// `weights [T, B]`, `dy [B, W]`; returns `[T, B, W]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn mean_steps_grad<F: Real>(weights: ArrayView2<'_, F>, dy: ArrayView2<'_, F>) -> Result<Array3<F>> {
    let (time, batch) = weights.dim();
    memory::array("mean_steps_grad", (time, batch, dy.ncols()), |(t, b, w)| weights[[t, b]] * dy[[b, w]])
}

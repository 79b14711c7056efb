//! Derivatives of the operations around the cells. `dy` is the gradient of a loss by an operation's result; each function
//! returns the gradient by one of its operands. Shapes are the caller's duty here.
//!
//! The derivatives of a matrix product `y = a b` are products themselves: `da = dy b^T`, `db = a^T dy`, and that by a bias is
//! [`sum_columns`].

use ndarray::{Array1, Array2, Array3, ArrayView1, ArrayView2, ArrayView3, Axis, Zip};

use super::{Conv1dGeometry, Real, activate_derivative};
use crate::cell::{Activation, Draw};

/// By the argument of an activation, `dy act'(x)`.
pub fn unary_grad<F: Real>(activation: Activation, x: ArrayView1<'_, F>, dy: ArrayView1<'_, F>) -> Array1<F> {
    Zip::from(x).and(dy).map_collect(|&x, &dy| dy * activate_derivative(activation, x))
}

/// The sum of every column: the gradient by a bias that was added to every row.
///
/// # Shapes
/// `x [M, N]`; returns `[N]`.
pub fn sum_columns<F: Real>(x: ArrayView2<'_, F>) -> Array1<F> {
    let mut sums = Array1::zeros(x.ncols());
    for row in x.rows() {
        Zip::from(&mut sums).and(row).for_each(|sum, &x| *sum = *sum + x);
    }
    sums
}

/// By the table of [`gather_rows`](super::gather_rows): each row collects the gradients of the places that it was picked for.
///
/// # Shapes
/// `dy [rows, W]`, each of `rows` below `count`; returns `[count, W]`.
pub fn gather_rows_grad<F: Real>(count: usize, rows: &[usize], dy: ArrayView2<'_, F>) -> Array2<F> {
    let mut table = Array2::zeros((count, dy.ncols()));
    for (&row, dy) in rows.iter().zip(dy.rows()) {
        Zip::from(table.row_mut(row)).and(dy).for_each(|sum, &dy| *sum = *sum + dy);
    }
    table
}

/// By the signal of [`conv1d`](super::conv1d): every element collects from the windows that it stood in.
///
/// # Shapes
/// `dy [N, O, L']`, `weight [O, C, K]`; returns `[N, C, length]`.
pub fn conv1d_grad_input<F: Real>(
    length: usize,
    weight: ArrayView3<'_, F>,
    dy: ArrayView3<'_, F>,
    geometry: Conv1dGeometry,
) -> Array3<F> {
    let (count, out, out_length) = dy.dim();
    let (_, channels, kernel) = weight.dim();
    Array3::from_shape_fn((count, channels, length), |(n, c, at)| {
        let mut sum = F::zero();
        for o in 0..out {
            for k in 0..kernel {
                // The window l has its tap k here where l stride + k = at + padding.
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

/// By the weights of [`conv1d`](super::conv1d).
///
/// # Shapes
/// `x [N, C, L]`, `dy [N, O, L']`; returns `[O, C, kernel]`.
pub fn conv1d_grad_weight<F: Real>(
    kernel: usize,
    x: ArrayView3<'_, F>,
    dy: ArrayView3<'_, F>,
    geometry: Conv1dGeometry,
) -> Array3<F> {
    let (count, channels, length) = x.dim();
    let (_, out, out_length) = dy.dim();
    Array3::from_shape_fn((out, channels, kernel), |(o, c, k)| {
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

/// Drops elements at random and scales the rest (`torch.nn.functional.dropout`); the gradient by `x` is the same function of
/// `dy`.
pub fn dropout<F: Real>(draw: &Draw, x: ArrayView1<'_, F>) -> Array1<F> {
    let scale = F::of(draw.scale());
    (0_u32..).zip(x).map(|(at, &x)| if draw.keeps(at) { x * scale } else { F::zero() }).collect()
}

/// The weighted sum over the first axis: a mean where the weights of a column add up to 1. What weighs nothing is not read.
///
/// # Shapes
/// `x [T, B, W]`, `weights [T, B]`; returns `[B, W]`.
pub fn mean_steps<F: Real>(x: ArrayView3<'_, F>, weights: ArrayView2<'_, F>) -> Array2<F> {
    let mut y = Array2::zeros((x.len_of(Axis(1)), x.len_of(Axis(2))));
    for (x, weights) in x.outer_iter().zip(weights.rows()) {
        for ((mut y, x), &weight) in y.rows_mut().into_iter().zip(x.rows()).zip(weights) {
            if weight != F::zero() {
                Zip::from(&mut y).and(x).for_each(|y, &x| *y = *y + weight * x);
            }
        }
    }
    y
}

/// By the steps of [`mean_steps`].
///
/// # Shapes
/// `weights [T, B]`, `dy [B, W]`; returns `[T, B, W]`.
pub fn mean_steps_grad<F: Real>(weights: ArrayView2<'_, F>, dy: ArrayView2<'_, F>) -> Array3<F> {
    let (time, batch) = weights.dim();
    Array3::from_shape_fn((time, batch, dy.ncols()), |(t, b, w)| weights[[t, b]] * dy[[b, w]])
}

//! Tensor operations as matrix products. Element-wise operations are the reference's, in `f32`.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Array3, ArrayView1, ArrayView2, ArrayView3, Dim};

use crate::error::Result;
use crate::memory;
use crate::op::Conv1dGeometry;

/// `y = a b + bias`; `a [M, K]`, `b [K, N]`, `bias [N]`.
pub(crate) fn matmul(
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
) -> Result<Array2<f32>> {
    const OP: &str = "matmul";
    let mut y = memory::zero_array(OP, (a.nrows(), b.ncols()))?;
    if let Some(bias) = bias {
        y += &bias;
    }
    memory::for_product::<f32>(OP, [a.nrows(), a.ncols(), b.ncols()])?;
    general_mat_mul(1.0, &a, &b, 1.0, &mut y);
    Ok(y)
}

/// One-dimensional cross-correlation. The windows of a signal become the columns of a matrix, which one product
/// multiplies by the filters.
pub(crate) fn conv1d(
    x: ArrayView3<'_, f32>,
    weight: ArrayView3<'_, f32>,
    bias: Option<ArrayView1<'_, f32>>,
    geometry: Conv1dGeometry,
) -> Result<Array3<f32>> {
    const OP: &str = "conv1d";
    let (count, channels, length) = x.dim();
    let (out, _, kernel) = weight.dim();
    let out_length = geometry.output_length(length, kernel);
    let taps = channels * kernel;
    let mut y = memory::zero_array(OP, (count, out, out_length))?;
    if y.is_empty() {
        return Ok(y);
    }
    let filters = memory::elements_of(OP, &weight)?;
    let filters = memory::shaped(OP, Dim([out, taps]), filters)?;
    let mut windows = memory::zero_array(OP, (taps, out_length))?;
    memory::for_product::<f32>(OP, [out, taps, out_length])?;
    for (x, mut y) in x.outer_iter().zip(y.outer_iter_mut()) {
        for ((tap, l), window) in windows.indexed_iter_mut() {
            let at = l * geometry.stride + tap % kernel;
            let inside = at >= geometry.padding && at - geometry.padding < length;
            *window = if inside { x[[tap / kernel, at - geometry.padding]] } else { 0.0 };
        }
        if let Some(bias) = bias {
            y += &bias.insert_axis(ndarray::Axis(1));
        }
        general_mat_mul(1.0, &filters, &windows, 1.0, &mut y);
    }
    Ok(y)
}

//! The two paths of a gradient through time: along the state, and through the recurrent matrix.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Array3, ArrayView2};

use super::OP;
use crate::cell::{Direction, Pad, RESET, Sequence, VALID};
use crate::error::Result;
use crate::memory;
use crate::reference::{LayerPass, UnitGates};

/// The gradient that reaches the state of each step through the state alone, `[T, B, hidden]`:
///
/// ```text
/// e_t = slope_t W_hr^T dy_t + carry_{t+1} e_{t+1}          W_hr^T only with a projection
/// ```
///
/// For one loss at the last step this is `L'(h_T) D(slope_T) D(prod carry_i)`.
pub(super) fn carried(
    pass: &LayerPass<'_>,
    gates: &Array3<Option<UnitGates<f64>>>,
    sequence: &Sequence,
) -> Result<Array3<f64>> {
    let (time, batch, hidden) = gates.dim();
    let flags = sequence.flags(time, batch)?;
    let mut carried = memory::zero_array(OP, (time, batch, hidden))?;
    for b in 0..batch {
        let mut e: Array1<f64> = Array1::zeros(hidden);
        let mut held = Array1::zeros(pass.dy.dim().2);
        for k in (0..time).rev() {
            let t = match pass.direction {
                Direction::Forward => k,
                Direction::Reverse => time - 1 - k,
            };
            let flag = flags.as_ref().map_or(VALID, |flags| flags[[t, b]]);
            let dy = pass.dy.slice(ndarray::s![t, b, ..]);
            if flag & VALID != 0 {
                let dy = &dy + &std::mem::replace(&mut held, Array1::zeros(dy.len()));
                let dm = pass.parameters.weight_hr.as_ref().map_or_else(|| dy.clone(), |weight| weight.t().dot(&dy));
                for u in 0..hidden {
                    let gates = gates[[t, b, u]];
                    e[u] += gates.map_or(0.0, |gates| gates.slope) * dm[u];
                    carried[[t, b, u]] = e[u];
                    e[u] *= gates.map_or(1.0, |gates| gates.carry);
                }
            } else {
                carried.slice_mut(ndarray::s![t, b, ..]).assign(&e);
                if sequence.padding() == Pad::Hold {
                    held += &dy;
                } else {
                    held.fill(0.0);
                }
            }
            if flag & RESET != 0 {
                e.fill(0.0);
            }
        }
    }
    Ok(carried)
}

/// The greatest singular value of a matrix, by power iteration on `W^T W`.
pub(super) fn spectral_norm(weight: ArrayView2<'_, f64>) -> Result<f64> {
    const ROUNDS: usize = 1000;
    let mut rng = fastrand::Rng::with_seed(1);
    // The start must not be orthogonal to the singular vector. A random start is not, with probability 1.
    let mut v = Array1::from_shape_simple_fn(weight.ncols(), || rng.f64() + 0.5);
    let mut square: Array2<f64> = memory::zero_array(OP, (weight.ncols(), weight.ncols()))?;
    memory::for_product::<f64>(OP, [weight.ncols(), weight.nrows(), weight.ncols()])?;
    general_mat_mul(1.0, &weight.t(), &weight, 0.0, &mut square);
    let mut norm = 0.0;
    for _ in 0..ROUNDS {
        let length = v.dot(&v).sqrt();
        if length == 0.0 || !length.is_finite() {
            return Ok(length);
        }
        v /= length;
        let next = square.dot(&v);
        let found = v.dot(&next).max(0.0).sqrt();
        if (found - norm).abs() <= 1e-14 * found {
            return Ok(found);
        }
        (norm, v) = (found, next);
    }
    Ok(norm)
}

#[cfg(test)]
mod tests {
    use super::spectral_norm;
    use ndarray::{ArrayView2, array};

    #[test]
    fn the_spectral_norm_is_the_greatest_singular_value() {
        // Singular values of [[3, 0], [4, 5]]: sqrt(45) and sqrt(5).
        let spectral_norm = |weight: ArrayView2<'_, f64>| spectral_norm(weight).expect("room");
        assert!((spectral_norm(array![[3.0, 0.0], [4.0, 5.0]].view()) - 45.0_f64.sqrt()).abs() < 1e-9);
        assert_eq!(spectral_norm(array![[0.0, 0.0]].view()), 0.0);
        // All singular values of a rotation are 1.
        assert!((spectral_norm(array![[0.6, -0.8], [0.8, 0.6]].view()) - 1.0).abs() < 1e-12);
    }
}

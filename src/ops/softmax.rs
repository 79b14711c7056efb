//! Softmax, from the operations around it.

use crate::cpu;
use crate::error::{Error, Result, elements};
use crate::ops::{self, Binary, Math, Recorder, Reduction};
use crate::path;
use crate::tensor::Tensor;

/// `exp(x - m) / sum(exp(x - m))` along the last axis, `m` its largest element (`torch.softmax`).
///
/// # Shapes
/// `x [.., N]`; returns `[.., N]`.
///
/// # Errors
/// [`Error::Shape`] if `x` has no axes; [`Error::DeviceMismatch`].
///
/// # Examples
/// ```
/// use gatewise::{Device, Tensor, ops};
/// let device = Device::Cpu;
/// let x = Tensor::from_vec(&device, &[1, 2], vec![7.0, 7.0])?;
/// let mut recorder = device.recorder();
/// let y = ops::softmax(&mut recorder, &x)?;
/// recorder.submit()?;
/// assert_eq!(y.to_vec()?, [0.5, 0.5]);
/// # Ok::<(), gatewise::Error>(())
/// ```
pub fn softmax(recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
    softmax_last(recorder, x, false)
}

/// [`softmax`] of the last axis, or its logarithm `x - m - ln(sum(exp(x - m)))`, where `m` is the largest element.
pub(crate) fn softmax_last(recorder: &mut Recorder, x: &Tensor, logarithm: bool) -> Result<Tensor> {
    const OP: &str = "softmax";
    let Some((&columns, outer)) = x.shape().split_last() else {
        let expected = "[.., N]".to_owned();
        return Err(Error::Shape { op: OP, what: "x", expected, found: Vec::new() });
    };
    if x.is_empty() {
        return Ok(x.clone());
    }
    if recorder.is_on_cpu() {
        x.check_device(OP, "x", recorder.device())?;
        return path::run_on_cpu(recorder, OP, x.shape(), [x], move |cpu, [x], y| {
            cpu::softmax_rows(cpu, x, columns, logarithm, y);
            Ok(())
        });
    }
    let rows = elements(OP, "x without its last axis", outer)?;
    let flat = x.reshape(&[rows, columns])?;
    let broadcast = |recorder: &mut Recorder, op, of: &Tensor| {
        let column = ops::reduce_rows(recorder, op, of)?.reshape(&[rows, 1])?;
        ops::expand(recorder, &column, &[rows, columns])
    };
    let largest = broadcast(recorder, Reduction::Max, &flat)?;
    let shifted = ops::binary(recorder, Binary::Sub, &flat, &largest)?;
    let powers = ops::math(recorder, Math::Exp, &shifted)?;
    let sum = broadcast(recorder, Reduction::Sum, &powers)?;
    let y = if logarithm {
        let sum = ops::math(recorder, Math::Log, &sum)?;
        ops::binary(recorder, Binary::Sub, &shifted, &sum)?
    } else {
        ops::binary(recorder, Binary::Div, &powers, &sum)?
    };
    y.reshape(x.shape())
}

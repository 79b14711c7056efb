//! The constant operand of a product or of a convolution: packed on the CPU, a tensor on any other path.

use std::sync::Arc;

use ndarray::{Array1, Array2, Array3, Ix2};

use super::{Device, Recorder};
use crate::cpu::{self, PackedFilters, PackedMatrix, Windows};
use crate::error::{Error, Result, elements};
use crate::memory;
use crate::op::{Conv1dGeometry, PadMode};
use crate::ops;
use crate::path;
use crate::tensor::Tensor;

/// A matrix by which rows are multiplied, with a bias that is added to every row.
pub(crate) struct ConstantMatrix {
    device: Device,
    has_bias: bool,
    numbers: MatrixNumbers,
}

enum MatrixNumbers {
    Packed(Arc<PackedMatrix>),
    /// `[in, out]`, `[out]`
    Tensors(Tensor, Option<Tensor>),
}

impl ConstantMatrix {
    /// Puts `weight [out, in]` and `bias [out]` on a device.
    pub(crate) fn new(device: &Device, weight: &Array2<f32>, bias: Option<&Array1<f32>>) -> Result<Self> {
        let numbers = match device {
            Device::Cpu | Device::CpuWith(_) => {
                MatrixNumbers::Packed(Arc::new(PackedMatrix::new(&device.cpu_or_shared(), weight, bias)?))
            }
            _ => MatrixNumbers::Tensors(
                Tensor::from_array(device, &weight.t())?,
                bias.map(|bias| Tensor::from_array(device, bias)).transpose()?,
            ),
        };
        Ok(Self { device: device.clone(), has_bias: bias.is_some(), numbers })
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Numbers per row of the operand and of the result.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        match &self.numbers {
            MatrixNumbers::Packed(matrix) => matrix.sizes(),
            MatrixNumbers::Tensors(weight, _) => weight.shape().try_into().unwrap_or_default(),
        }
    }

    /// Copies the matrix to the host: `[out, in]`.
    pub(crate) fn weight(&self) -> Result<Array2<f32>> {
        match &self.numbers {
            MatrixNumbers::Packed(matrix) => Ok(matrix.unpack().0),
            MatrixNumbers::Tensors(weight, _) => Ok(weight.to_array::<Ix2>()?.reversed_axes()),
        }
    }

    /// Copies the bias to the host, if there is one: `[out]`.
    pub(crate) fn bias(&self) -> Result<Option<Array1<f32>>> {
        match &self.numbers {
            MatrixNumbers::Packed(matrix) => Ok(self.has_bias.then(|| matrix.unpack().1)),
            MatrixNumbers::Tensors(_, bias) => bias.as_ref().map(Tensor::to_array).transpose(),
        }
    }

    /// Multiplies the rows of `x`, which are as long as the operand's; returns `[rows, out]`.
    pub(crate) fn record(&self, recorder: &mut Recorder, x: &Tensor, rows: usize) -> Result<Tensor> {
        const OP: &str = "matmul";
        let [inputs, outputs] = self.sizes();
        match &self.numbers {
            MatrixNumbers::Packed(matrix) => {
                x.check_device(OP, "a", recorder.device())?;
                self.device.check_same(OP, "b", recorder.device())?;
                let matrix = Arc::clone(matrix);
                path::run_on_cpu(recorder, OP, &[rows, outputs], [x], move |_, [x], y| matrix.multiply(x, y))
            }
            MatrixNumbers::Tensors(weight, bias) => {
                ops::matmul(recorder, &x.reshape(&[rows, inputs])?, weight, bias.as_ref())
            }
        }
    }
}

/// The filters of a convolution along one axis, with their bias.
pub(crate) struct ConstantFilters {
    device: Device,
    /// The windows of the filters as the path holds them.
    windows: Windows,
    has_bias: bool,
    numbers: FilterNumbers,
}

enum FilterNumbers {
    Packed(Arc<PackedFilters>),
    /// `[O, C, K]`, without groups or dilation; zeros for a missing bias.
    Tensors(Tensor, Tensor),
}

/// The geometry of a convolution without its padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FilterGeometry {
    pub(crate) stride: usize,
    pub(crate) dilation: usize,
    /// Groups of channels, each with filters of its own.
    pub(crate) groups: usize,
}

impl ConstantFilters {
    /// Puts `weight [O, C / groups, K]` and `bias [O]` on a device. Only the CPU has groups and dilation; for any other path
    /// they are written out as zeros.
    pub(crate) fn new(
        device: &Device,
        weight: &Array3<f32>,
        bias: Option<&Array1<f32>>,
        geometry: FilterGeometry,
    ) -> Result<Self> {
        let FilterGeometry { stride, dilation, groups } = geometry;
        let kernel = weight.dim().2;
        let (windows, numbers) = match device {
            Device::Cpu | Device::CpuWith(_) if kernel > 0 && groups > 0 => {
                let windows = Windows { kernel, stride, dilation };
                let packed = PackedFilters::new(&device.cpu_or_shared(), weight, bias, windows, groups)?;
                (windows, FilterNumbers::Packed(Arc::new(packed)))
            }
            _ => {
                let weight = written_out(weight, geometry)?;
                let outputs = [weight.dim().0];
                let bias =
                    bias.map_or_else(|| Tensor::zeros(device, &outputs), |bias| Tensor::from_array(device, bias));
                let windows = Windows { kernel: weight.dim().2, stride, dilation: 1 };
                (windows, FilterNumbers::Tensors(Tensor::from_array(device, &weight)?, bias?))
            }
        };
        Ok(Self { device: device.clone(), windows, has_bias: bias.is_some(), numbers })
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Copies the filters to the host, as the path holds them.
    pub(crate) fn weight(&self) -> Result<Array3<f32>> {
        match &self.numbers {
            FilterNumbers::Packed(filters) => Ok(filters.unpack().0),
            FilterNumbers::Tensors(weight, _) => weight.to_array(),
        }
    }

    /// Copies the bias to the host, if there is one: `[O]`.
    pub(crate) fn bias(&self) -> Result<Option<Array1<f32>>> {
        let bias = || match &self.numbers {
            FilterNumbers::Packed(filters) => Ok(filters.unpack().1),
            FilterNumbers::Tensors(_, bias) => bias.to_array(),
        };
        self.has_bias.then(bias).transpose()
    }

    /// Convolves `x [N, C, L]` with `padding` zeros before and behind it; returns `[N, O, L']`.
    pub(crate) fn record(&self, recorder: &mut Recorder, x: &Tensor, padding: [usize; 2]) -> Result<Tensor> {
        const OP: &str = "conv1d";
        let [before, behind] = padding;
        match &self.numbers {
            FilterNumbers::Packed(filters) => {
                x.check_device(OP, "x", recorder.device())?;
                self.device.check_same(OP, "weight", recorder.device())?;
                let weight_shape = [filters.outputs(), filters.channels(), self.windows.span()];
                let shape = ops::conv1d_shape(x.shape(), weight_shape, self.windows.stride, padding)?;
                let [_, _, length] = shape;
                elements(OP, "the result", &shape)?;
                let (filters, own) = (Arc::clone(filters), x.shape()[2]);
                path::run_on_cpu(recorder, OP, &shape, [x], move |_, [numbers], y| {
                    filters.convolve(cpu::Signal { numbers, length: own, before }, length, y)
                })
            }
            FilterNumbers::Tensors(weight, bias) => {
                let stride = self.windows.stride;
                if before == behind {
                    return ops::conv1d(recorder, x, weight, bias, Conv1dGeometry { stride, padding: before });
                }
                let x = ops::pad1d(recorder, x, before, behind, PadMode::Zero)?;
                ops::conv1d(recorder, &x, weight, bias, Conv1dGeometry { stride, padding: 0 })
            }
        }
    }
}

/// The most weights of filters whose groups and dilation are written out as zeros.
const LARGEST: usize = 1 << 24;

/// The filters `[O, C, (K - 1) dilation + 1]` that give the same convolution without groups and dilation.
fn written_out(weight: &Array3<f32>, geometry: FilterGeometry) -> Result<Array3<f32>> {
    const OP: &str = "conv1d";
    let FilterGeometry { dilation, groups, .. } = geometry;
    let (out, inner, kernel) = weight.dim();
    if groups == 1 && dilation == 1 {
        return memory::owned(OP, weight);
    }
    let span = kernel.saturating_sub(1).checked_mul(dilation).and_then(|span| span.checked_add(1));
    let size = span.and_then(|span| [out, inner, groups].into_iter().try_fold(span, usize::checked_mul));
    let (Some(span), true) = (span, size.is_some_and(|size| size <= LARGEST)) else {
        let found = format!("groups {groups}, dilation {dilation} for weights {:?}", weight.shape());
        let expected = "at most 16777216 weights when written out, or a CPU device";
        return Err(Error::Value { op: OP, what: "groups and dilation", expected, found });
    };
    let mut written = memory::zero_array(OP, (out, inner * groups, span))?;
    for ((o, c, k), &w) in weight.indexed_iter() {
        let first = o / (out / groups) * inner;
        written[[o, first + c, k * dilation]] = w;
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that differ from each other.
    fn number(at: usize) -> f32 {
        ((at * 37 % 101) as f32 - 50.0) / 60.0
    }

    #[test]
    fn groups_dilation_and_unequal_padding_give_the_same_on_the_cpu_and_written_out() -> Result<()> {
        for (groups, dilation, stride, padding) in
            [(1, 1, 1, [0, 0]), (3, 1, 2, [2, 2]), (2, 3, 1, [1, 4]), (6, 2, 3, [0, 5])]
        {
            let (out, channels, kernel, length) = (12, 2, 3, 11);
            let weight = Array3::from_shape_fn((out, channels, kernel), |(o, c, k)| number(o * 6 + c * 3 + k));
            let bias = Array1::from_shape_fn(out, |o| number(o + 7));
            let geometry = FilterGeometry { stride, dilation, groups };
            let of = |device: &Device| -> Result<(Vec<usize>, Vec<f32>)> {
                let filters = ConstantFilters::new(device, &weight, Some(&bias), geometry)?;
                let len = 2 * groups * channels * length;
                let x = Tensor::from_vec(device, &[2, groups * channels, length], (0..len).map(number).collect())?;
                let mut recorder = device.recorder();
                let y = filters.record(&mut recorder, &x, padding)?;
                recorder.submit()?;
                Ok((y.shape().to_vec(), y.to_vec()?))
            };
            let ((shape, truth), (own, y)) = (of(&Device::Reference)?, of(&Device::Cpu)?);
            assert_eq!(own, shape, "{geometry:?}");
            let far = truth.iter().zip(&y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < 1e-5, "{geometry:?}: {far}");
        }
        Ok(())
    }

    #[test]
    fn weights_come_back_from_the_panels() -> Result<()> {
        let weight = Array2::from_shape_fn((70, 5), |(o, i)| number(o * 5 + i));
        let bias = Array1::from_shape_fn(70, number);
        for device in [Device::Reference, Device::Cpu] {
            let matrix = ConstantMatrix::new(&device, &weight, Some(&bias))?;
            assert_eq!((matrix.weight()?, matrix.bias()?), (weight.clone(), Some(bias.clone())), "{device}");
            assert_eq!(ConstantMatrix::new(&device, &weight, None)?.bias()?, None, "{device}");
        }
        Ok(())
    }
}

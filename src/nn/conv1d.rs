//! One-dimensional convolution.

use std::fmt;
use std::sync::Arc;

use ndarray::{Array1, Array3};

use crate::error::{Result, check_shape};
use crate::ops::Conv1dGeometry;
use crate::path::{ConstantFilters, Device, FilterGeometry, Recorder};
use crate::tensor::Tensor;

/// `torch.nn.Conv1d` without groups or dilation.
#[derive(Clone)]
pub struct Conv1d {
    filters: Arc<ConstantFilters>,
    padding: usize,
}

impl fmt::Debug for Conv1d {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conv1d").field("padding", &self.padding).finish_non_exhaustive()
    }
}

impl Conv1d {
    /// Puts the weights on the device. The CPU packs them for its registers.
    ///
    /// # Shapes
    /// `weight [O, C, K]`, `bias [O]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if they do not fit; [`Error::Limit`](crate::Error::Limit).
    pub fn new(
        device: &Device,
        weight: &Array3<f32>,
        bias: Option<&Array1<f32>>,
        geometry: Conv1dGeometry,
    ) -> Result<Self> {
        let Conv1dGeometry { stride, padding } = geometry;
        Self::with_groups(device, weight, bias, FilterGeometry { stride, dilation: 1, groups: 1 }, padding)
    }

    /// A convolution with groups and dilation: `weight [O, C / groups, K]`.
    pub(crate) fn with_groups(
        device: &Device,
        weight: &Array3<f32>,
        bias: Option<&Array1<f32>>,
        geometry: FilterGeometry,
        padding: usize,
    ) -> Result<Self> {
        if let Some(bias) = bias {
            check_shape("Conv1d::new", "bias", &[weight.dim().0], bias.shape())?;
        }
        Ok(Self { filters: Arc::new(ConstantFilters::new(device, weight, bias, geometry)?), padding })
    }

    /// Copies the weight to the host: `[O, C, K]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_weight(&self) -> Result<Array3<f32>> {
        self.filters.weight()
    }

    /// Copies the bias to the host, if there is one: `[O]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_bias(&self) -> Result<Option<Array1<f32>>> {
        self.filters.bias()
    }

    /// Applies the convolution; the result stays on the device.
    ///
    /// # Shapes
    /// `x [N, C, L]`; returns `[N, O, (L + 2 padding - K) / stride + 1]`.
    ///
    /// # Errors
    /// As [`ops::conv1d`](crate::ops::conv1d).
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, Tensor, nn::Conv1d, ops::Conv1dGeometry};
    /// use ndarray::{Array3, array};
    /// let difference = array![[[1.0, -1.0]]];
    /// let conv = Conv1d::new(&Device::Cpu, &difference, None, Conv1dGeometry { stride: 1, padding: 0 })?;
    /// let x = Tensor::from_array(&Device::Cpu, &array![[[5.0, 3.0, 4.0]]])?;
    /// let y: Array3<f32> = conv.forward(&x)?.to_array()?;
    /// assert_eq!(y, array![[[2.0, -1.0]]]);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut recorder = self.filters.device().recorder();
        let y = self.record(&mut recorder, x)?;
        recorder.submit()?;
        Ok(y)
    }

    /// Records [`Conv1d::forward`].
    ///
    /// # Errors
    /// As [`ops::conv1d`](crate::ops::conv1d).
    pub fn record(&self, recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
        self.record_padded(recorder, x, [self.padding, self.padding])
    }

    /// [`Conv1d::record`] with other numbers of zeros before and behind the signal.
    pub(crate) fn record_padded(&self, recorder: &mut Recorder, x: &Tensor, padding: [usize; 2]) -> Result<Tensor> {
        self.filters.record(recorder, x, padding)
    }
}

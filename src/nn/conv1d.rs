//! One-dimensional convolution.

use ndarray::{Array1, Array3};

use crate::error::{Result, check_shape};
use crate::ops::{self, Conv1dGeometry};
use crate::path::{Device, Recorder};
use crate::tensor::Tensor;

/// `torch.nn.Conv1d` without groups or dilation.
#[derive(Clone, Debug)]
pub struct Conv1d {
    weight: Tensor,
    /// Zeros if the layer has none.
    bias: Tensor,
    has_bias: bool,
    geometry: Conv1dGeometry,
}

impl Conv1d {
    /// Uploads the weights.
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
        let outputs = [weight.dim().0];
        if let Some(bias) = bias {
            check_shape("Conv1d::new", "bias", &outputs, bias.shape())?;
        }
        Ok(Self {
            weight: Tensor::from_array(device, weight)?,
            bias: bias.map_or_else(|| Tensor::zeros(device, &outputs), |bias| Tensor::from_array(device, bias))?,
            has_bias: bias.is_some(),
            geometry,
        })
    }

    /// Copies the weight to the host: `[O, C, K]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_weight(&self) -> Result<Array3<f32>> {
        self.weight.to_array()
    }

    /// Copies the bias to the host, if there is one: `[O]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_bias(&self) -> Result<Option<Array1<f32>>> {
        self.has_bias.then(|| self.bias.to_array()).transpose()
    }

    /// Applies the convolution; the result stays on the device.
    ///
    /// # Shapes
    /// `x [N, C, L]`; returns `[N, O, (L + 2 padding - K) / stride + 1]`.
    ///
    /// # Errors
    /// As [`ops::conv1d`].
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
        let mut recorder = self.weight.device().recorder();
        let y = self.record(&mut recorder, x)?;
        recorder.submit()?;
        Ok(y)
    }

    /// Records [`Conv1d::forward`].
    ///
    /// # Errors
    /// As [`ops::conv1d`].
    pub fn record(&self, recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
        ops::conv1d(recorder, x, &self.weight, &self.bias, self.geometry)
    }
}

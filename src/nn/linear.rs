//! The affine map.

use ndarray::{Array1, Array2, Ix2};

use crate::error::{Result, axes, check_shape, elements};
use crate::ops;
use crate::path::{Device, Recorder};
use crate::tensor::Tensor;

/// `y = x W^T + b` (`torch.nn.Linear`).
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[in, out]`
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Uploads the weights.
    ///
    /// # Shapes
    /// `weight [out, in]`, `bias [out]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if they do not fit; [`Error::Limit`](crate::Error::Limit).
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, Tensor, nn::Linear};
    /// use ndarray::{Array2, array};
    /// let linear = Linear::new(&Device::Cpu, &array![[1.0, 2.0]], Some(&array![0.5]))?;
    /// let x = Tensor::from_array(&Device::Cpu, &array![[3.0, 4.0]])?;
    /// let y: Array2<f32> = linear.forward(&x)?.to_array()?;
    /// assert_eq!(y, array![[11.5]]);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn new(device: &Device, weight: &Array2<f32>, bias: Option<&Array1<f32>>) -> Result<Self> {
        if let Some(bias) = bias {
            check_shape("Linear::new", "bias", &[weight.nrows()], bias.shape())?;
        }
        Ok(Self {
            weight: Tensor::from_array(device, &weight.t())?,
            bias: bias.map(|bias| Tensor::from_array(device, bias)).transpose()?,
        })
    }

    /// Copies the weight to the host: `[out, in]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_weight(&self) -> Result<Array2<f32>> {
        Ok(self.weight.to_array::<Ix2>()?.reversed_axes())
    }

    /// Copies the bias to the host, if there is one: `[out]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_bias(&self) -> Result<Option<Array1<f32>>> {
        self.bias.as_ref().map(Tensor::to_array).transpose()
    }

    /// Applies the map; the result stays on the device.
    ///
    /// # Shapes
    /// `x [.., in]`; returns `[.., out]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape), [`Error::DeviceMismatch`](crate::Error::DeviceMismatch).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut recorder = self.weight.device().recorder();
        let y = self.record(&mut recorder, x)?;
        recorder.submit()?;
        Ok(y)
    }

    /// Records [`Linear::forward`].
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn record(&self, recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
        const OP: &str = "Linear";
        let [inputs, outputs] = axes(OP, "weight", "[in, out]", self.weight.shape())?;
        let outer = match x.shape().split_last() {
            Some((&last, outer)) if last == inputs => outer,
            _ => {
                let expected = format!("[.., {inputs}]");
                return Err(crate::Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() });
            }
        };
        let rows = x.reshape(&[elements(OP, "x without its last axis", outer)?, inputs])?;
        let y = ops::matmul(recorder, &rows, &self.weight, self.bias.as_ref())?;
        y.reshape(&[outer, &[outputs]].concat())
    }
}

//! The affine map.

use std::fmt;
use std::sync::Arc;

use ndarray::{Array1, Array2};

use crate::error::{Result, check_shape, elements};
use crate::path::{ConstantMatrix, Device, Recorder};
use crate::tensor::Tensor;

/// `y = x W^T + b` (`torch.nn.Linear`).
#[derive(Clone)]
pub struct Linear {
    matrix: Arc<ConstantMatrix>,
}

impl fmt::Debug for Linear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [inputs, outputs] = self.matrix.sizes();
        f.debug_struct("Linear").field("inputs", &inputs).field("outputs", &outputs).finish_non_exhaustive()
    }
}

impl Linear {
    /// Puts the weights on the device. The CPU packs them for its registers.
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
        Ok(Self { matrix: Arc::new(ConstantMatrix::new(device, weight, bias)?) })
    }

    /// Copies the weight to the host: `[out, in]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_weight(&self) -> Result<Array2<f32>> {
        self.matrix.weight()
    }

    /// Copies the bias to the host, if there is one: `[out]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_bias(&self) -> Result<Option<Array1<f32>>> {
        self.matrix.bias()
    }

    /// Applies the map; the result stays on the device.
    ///
    /// # Shapes
    /// `x [.., in]`; returns `[.., out]`.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape), [`Error::DeviceMismatch`](crate::Error::DeviceMismatch).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut recorder = self.matrix.device().recorder();
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
        let [inputs, outputs] = self.matrix.sizes();
        let outer = match x.shape().split_last() {
            Some((&last, outer)) if last == inputs => outer,
            _ => {
                let expected = format!("[.., {inputs}]");
                return Err(crate::Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() });
            }
        };
        let rows = elements(OP, "x without its last axis", outer)?;
        let y = self.matrix.record(recorder, x, rows)?;
        y.reshape(&[outer, &[outputs]].concat())
    }
}

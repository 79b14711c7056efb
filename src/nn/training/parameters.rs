//! A layer's parameters as tensors.

use ndarray::{Array, ArrayD, Dimension};

use super::OP;
use crate::cell::Parameters;
use crate::cpu;
use crate::error::Result;
use crate::memory;
use crate::ops::host;
use crate::tensor::{Device, Tensor};

/// The parameters of one layer and direction on a device, or their gradients: names and shapes as
/// [`Cell::parameters`](crate::cell::Cell::parameters) says.
#[derive(Clone, Debug)]
pub struct ParameterTensors {
    pub(super) named: Vec<(&'static str, Tensor)>,
}

impl ParameterTensors {
    /// Uploads parameters.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) where they do not fit the device.
    pub fn from_host(device: &Device, p: &Parameters) -> Result<Self> {
        let upload = |(name, array)| Ok((name, Tensor::from_array(device, &array)?));
        Ok(Self { named: p.named().into_iter().map(upload).collect::<Result<_>>()? })
    }

    /// Moves parameters to a device.
    pub(crate) fn moved(device: &Device, p: Parameters) -> Result<Self> {
        let upload = |(name, array): (_, ArrayD<f32>)| {
            let shape = array.shape().to_vec();
            let numbers = if array.is_standard_layout() {
                array.into_raw_vec_and_offset().0
            } else {
                memory::elements_of(OP, &array)?
            };
            Ok((name, Tensor::from_vec(device, &shape, numbers)?))
        };
        Ok(Self { named: p.into_named().into_iter().map(upload).collect::<Result<_>>()? })
    }

    /// The numbers of parameters that lie on the host.
    pub(super) fn on_host(&self) -> Result<cpu::NamedParameters<'_>> {
        self.named.iter().map(|(name, tensor)| Ok((*name, host(OP, name, tensor)?))).collect()
    }

    /// Names and tensors, in the order of [`Cell::parameters`](crate::cell::Cell::parameters).
    pub fn named(&self) -> &[(&'static str, Tensor)] {
        &self.named
    }

    /// A parameter by its name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.named.iter().find(|(named, _)| *named == name).map(|(_, tensor)| tensor)
    }

    /// Copies the parameters to the host.
    ///
    /// # Errors
    /// What a read-back may meet.
    pub fn to_host(&self) -> Result<Parameters> {
        fn read<D: Dimension>(tensor: Option<&Tensor>) -> Result<Option<Array<f32, D>>> {
            tensor.map(Tensor::to_array).transpose()
        }
        Ok(Parameters {
            weight_ih: read(self.get("weight_ih"))?.unwrap_or_default(),
            weight_hh: read(self.get("weight_hh"))?.unwrap_or_default(),
            bias_ih: read(self.get("bias_ih"))?,
            bias_hh: read(self.get("bias_hh"))?,
            weight_hr: read(self.get("weight_hr"))?,
            peephole: read(self.get("peephole"))?,
        })
    }
}

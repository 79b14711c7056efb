//! A layer's parameters as tensors.

use ndarray::{Array, ArrayD, Dimension};

use super::Device;
use crate::cell::Parameters;
use crate::cpu;
use crate::error::{Error, Result};
use crate::gpu::{self, GpuDevice};
use crate::memory;
use crate::tensor::Tensor;

const OP: &str = "TrainableRecurrent";

/// The parameters of one layer and direction on a device, or their gradients: names and shapes as
/// [`Cell::parameters`](crate::cell::Cell::parameters) says.
#[derive(Clone, Debug)]
pub struct ParameterTensors {
    pub(crate) named: Vec<(&'static str, Tensor)>,
}

impl ParameterTensors {
    /// Uploads parameters.
    ///
    /// # Errors
    /// [`Error::Limit`](crate::Error::Limit) if they do not fit the device.
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

    /// The elements of parameters that lie on the host.
    pub(super) fn on_host(&self) -> Result<cpu::NamedParameters<'_>> {
        self.named.iter().map(|(name, tensor)| Ok((*name, tensor.host(OP, name)?))).collect()
    }

    /// The parameters as buffers of a GPU.
    pub(super) fn buffers(&self) -> Result<gpu::ParameterBuffers> {
        let get = |name: &'static str| -> Result<Option<gpu::Buffer>> {
            self.get(name).map(|tensor| tensor.buffer(OP, name).cloned()).transpose()
        };
        let needed = |name: &'static str| {
            get(name)?.ok_or_else(|| Error::Shape {
                op: OP,
                what: name,
                expected: "present".to_owned(),
                found: Vec::new(),
            })
        };
        Ok(gpu::ParameterBuffers {
            weight_ih: needed("weight_ih")?,
            weight_hh: needed("weight_hh")?,
            bias: get("bias_ih")?.zip(get("bias_hh")?).map(|(ih, hh)| [ih, hh]),
            weight_hr: get("weight_hr")?,
            peephole: get("peephole")?,
        })
    }

    /// Turns buffers into tensors with the names and shapes of these parameters.
    pub(super) fn of_buffers(&self, device: &GpuDevice, buffers: &gpu::ParameterBuffers) -> Self {
        let gpu::ParameterBuffers { weight_ih, weight_hh, bias, weight_hr, peephole } = buffers;
        let [bias_ih, bias_hh] = bias.as_ref().map_or([None; 2], |[ih, hh]| [Some(ih), Some(hh)]);
        let buffer = |name: &str| match name {
            "weight_ih" => Some(weight_ih),
            "weight_hh" => Some(weight_hh),
            "bias_ih" => bias_ih,
            "bias_hh" => bias_hh,
            "weight_hr" => weight_hr.as_ref(),
            _ => peephole.as_ref(),
        };
        let named = self
            .named
            .iter()
            .filter_map(|(name, like)| Some((*name, Tensor::from_buffer(device, like.shape(), buffer(name)?.clone()))));
        Self { named: named.collect() }
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
    /// The errors of a read-back.
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

//! The memory of tensors.

use std::sync::Arc;

use super::Device;
use crate::error::Result;
use crate::gpu;
use crate::memory;

/// The memory of a tensor. Clones share it.
#[derive(Clone)]
pub(crate) enum Storage {
    Host(Arc<Vec<f32>>),
    Gpu(gpu::Buffer),
}

impl Storage {
    /// Moves elements to a device.
    pub(crate) fn from_vec(device: &Device, data: Vec<f32>) -> Result<Self> {
        Ok(match device {
            Device::Gpu(gpu) => Self::Gpu(gpu::Buffer::from_slice(gpu, "tensor", &data)?),
            Device::Reference | Device::Cpu | Device::CpuWith(_) => Self::Host(Arc::new(data)),
        })
    }

    /// Zeros on a device.
    pub(crate) fn zeros(device: &Device, op: &'static str, len: usize) -> Result<Self> {
        Ok(match device {
            Device::Gpu(gpu) => Self::Gpu(gpu::Buffer::zeros(gpu, "tensor", len)?),
            Device::Reference | Device::Cpu | Device::CpuWith(_) => Self::Host(Arc::new(memory::zeros(op, len)?)),
        })
    }

    pub(crate) fn host(&self) -> Option<&Arc<Vec<f32>>> {
        match self {
            Self::Host(data) => Some(data),
            Self::Gpu(_) => None,
        }
    }

    pub(crate) fn buffer(&self) -> Option<&gpu::Buffer> {
        match self {
            Self::Host(_) => None,
            Self::Gpu(buffer) => Some(buffer),
        }
    }

    /// The elements on the host for writing. Shared memory is copied first.
    pub(crate) fn host_mut(&mut self, op: &'static str) -> Option<Result<&mut [f32]>> {
        let Self::Host(data) = self else { return None };
        if Arc::get_mut(data).is_none() {
            match memory::copied(op, data) {
                Ok(copy) => *data = Arc::new(copy),
                Err(error) => return Some(Err(error)),
            }
        }
        Some(Ok(Arc::make_mut(data).as_mut_slice()))
    }

    /// Whether a clone or a recorder holds the memory as well.
    pub(crate) fn is_shared(&self) -> bool {
        match self {
            Self::Host(data) => Arc::strong_count(data) > 1,
            Self::Gpu(buffer) => buffer.is_shared(),
        }
    }
}

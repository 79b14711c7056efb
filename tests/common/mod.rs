//! What several test files share.

#![allow(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod case;

use gatewise::Device;
#[cfg(feature = "gpu")]
use gatewise::gpu::{GpuDevice, GpuOptions};
use ndarray::{ArrayBase, Data, Dimension};

/// The machine's GPU, a software one included: a machine without any fails the tests.
#[cfg(feature = "gpu")]
pub(crate) fn gpu() -> GpuDevice {
    GpuDevice::new(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine")
}

/// Every device of the machine.
#[cfg(feature = "gpu")]
pub(crate) fn devices() -> Vec<Device> {
    vec![Device::Reference, Device::Cpu, Device::Gpu(gpu())]
}

/// Every bit of an array: equal also where both are the same NaN.
pub(crate) fn bits<S: Data<Elem = f32>, D: Dimension>(array: &ArrayBase<S, D>) -> Vec<u32> {
    array.iter().map(|x| x.to_bits()).collect()
}

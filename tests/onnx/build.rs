//! Devices, and comparison.

use gatewise::Device;
use gatewise::gpu::GpuOptions;
use ndarray::ArrayD;

/// Every device; a machine without a Vulkan driver fails here.
pub(crate) fn devices() -> Vec<Device> {
    let gpu = Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine");
    vec![Device::Reference, Device::Cpu, gpu]
}

/// Floats that are close: 2e-5 of the larger of 1 and the right value. A NaN is close to a NaN alone.
pub(crate) fn assert_close(context: &str, found: &ArrayD<f32>, right: &ArrayD<f32>) {
    assert_eq!(found.shape(), right.shape(), "{context}: shapes");
    for ((at, &found), &right) in found.indexed_iter().zip(right) {
        let close = (found - right).abs() <= 2e-5 * right.abs().max(1.0);
        let same = found == right || (found.is_nan() && right.is_nan());
        assert!(close || same, "{context}: {found} at {at:?}, not {right}");
    }
}

//! The devices under test, and the comparison of floats.

use gatewise::Device;
use gatewise::gpu::GpuOptions;
use ndarray::ArrayD;

/// All devices. A machine without a Vulkan driver fails here.
pub(crate) fn devices() -> Vec<Device> {
    let gpu = Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine");
    vec![Device::Reference, Device::Cpu, gpu]
}

/// Whether floats differ by at most 2e-5 times the larger of 1 and the expected value. NaN is close to NaN only.
pub(crate) fn assert_close(context: &str, found: &ArrayD<f32>, right: &ArrayD<f32>) {
    assert_eq!(found.shape(), right.shape(), "{context}: shapes");
    for ((at, &found), &right) in found.indexed_iter().zip(right) {
        let close = (found - right).abs() <= 2e-5 * right.abs().max(1.0);
        let same = found == right || (found.is_nan() && right.is_nan());
        assert!(close || same, "{context}: {found} at {at:?}, not {right}");
    }
}

//! Helpers that several test files share.

#![allow(dead_code, reason = "every test file uses a part of it")]

pub(crate) mod case;

#[cfg(feature = "gpu")]
use std::sync::OnceLock;

#[cfg(feature = "gpu")]
use gatewise::Device;
use gatewise::cell::{Cell, GruCell, Reset};
#[cfg(feature = "gpu")]
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::plan::PlanKind;
use ndarray::{ArrayBase, Data, Dimension};

/// The machine's GPU, a software one included: a machine without any fails the tests.
#[cfg(feature = "gpu")]
pub(crate) fn gpu() -> GpuDevice {
    GpuDevice::new(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine")
}

/// The machine's GPU opened by a caller with other limits than the adapter's.
#[cfg(feature = "gpu")]
pub(crate) fn gpu_with(limits: impl Fn(&mut wgpu::Limits)) -> GpuDevice {
    let [gpu] = gpus_with(limits);
    gpu
}

/// Several openings of the machine's GPU, all through one instance.
#[cfg(feature = "gpu")]
pub(crate) fn gpus_with<const N: usize>(limits: impl Fn(&mut wgpu::Limits)) -> [GpuDevice; N] {
    wgpu_devices(limits).map(|(info, device, queue)| GpuDevice::from_wgpu(&info, device, queue).expect("enough"))
}

/// A caller's own devices, all through one instance, with other limits than the adapter's.
#[cfg(feature = "gpu")]
pub(crate) fn wgpu_devices<const N: usize>(
    limits: impl Fn(&mut wgpu::Limits),
) -> [(wgpu::AdapterInfo, wgpu::Device, wgpu::Queue); N] {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().next().expect("install mesa-vulkan-drivers and libvulkan1");
    std::array::from_fn(|_| {
        let mut required_limits = adapter.limits();
        limits(&mut required_limits);
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("lower limits");
        (adapter.get_info(), device, queue)
    })
}

/// Every device of the machine. All tests of a program share the GPU and its compiled pipelines. A test that counts or loses its
/// device opens its own.
#[cfg(feature = "gpu")]
pub(crate) fn devices() -> Vec<Device> {
    static GPU: OnceLock<GpuDevice> = OnceLock::new();
    vec![Device::Reference, Device::Cpu, Device::Gpu(GPU.get_or_init(gpu).clone())]
}

/// The documented reason why a kind of plan cannot run a cell in so many directions.
pub(crate) fn refusal(kind: PlanKind, cell: &Cell, directions: usize) -> Option<&'static str> {
    let two_products = cell.projection().is_some() || matches!(cell, Cell::Gru(GruCell { reset: Reset::Before, .. }));
    match kind {
        PlanKind::Wave if directions != 1 => Some("two directions"),
        PlanKind::Wave | PlanKind::CooperativeScan if two_products => Some("two dependent products per step"),
        _ => None,
    }
}

/// Every bit of an array: equal also where both are the same NaN.
pub(crate) fn bits<S: Data<Elem = f32>, D: Dimension>(array: &ArrayBase<S, D>) -> Vec<u32> {
    array.iter().map(|x| x.to_bits()).collect()
}

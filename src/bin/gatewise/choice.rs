//! The `--device` option.

use clap::ValueEnum;
use gatewise::cpu::CpuOptions;
use gatewise::{Device, Result};

/// Where a command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    /// A hardware GPU if there is one, else the CPU.
    Auto,
    /// The CPU path.
    Cpu,
    /// A GPU, a software adapter if there is no hardware.
    Gpu,
    /// The specification's plain loops.
    Reference,
}

impl DeviceChoice {
    /// Opens the device, the CPU path with a number of threads.
    pub(crate) fn open_with(self, threads: Option<usize>) -> Result<Device> {
        match (self.open()?, threads) {
            (Device::Cpu, Some(_)) => Device::cpu_with(&CpuOptions { threads, ..Default::default() }),
            (device, _) => Ok(device),
        }
    }

    /// Opens the device.
    pub(crate) fn open(self) -> Result<Device> {
        match self {
            Self::Auto => Ok(Device::auto()),
            Self::Cpu => Ok(Device::Cpu),
            Self::Gpu => open_gpu(),
            Self::Reference => Ok(Device::Reference),
        }
    }
}

#[cfg(feature = "gpu")]
fn open_gpu() -> Result<Device> {
    Device::gpu(&gatewise::gpu::GpuOptions { software: true, ..Default::default() })
}

#[cfg(not(feature = "gpu"))]
fn open_gpu() -> Result<Device> {
    Err(gatewise::Error::NoAdapter {
        wanted: "any adapter".to_owned(),
        reason: "this program was built without the feature `gpu`".to_owned(),
    })
}

/// How machine-readable output names a device, and the adapter of a GPU.
pub(crate) fn adapter(device: &Device) -> (&'static str, Option<String>) {
    match device {
        Device::Reference => ("reference", None),
        Device::Cpu | Device::CpuWith(_) => ("cpu", None),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => ("gpu", Some(gpu.adapter().name.clone())),
        other => ("other", Some(other.to_string())),
    }
}

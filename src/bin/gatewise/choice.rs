//! Options that several commands take: `--device`, `--plan`, `--cell`.

use clap::ValueEnum;
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Reset, RnnCell};
use gatewise::cpu::CpuOptions;
use gatewise::plan::PlanKind;
use gatewise::{Device, Error, Result};

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
    pub(crate) fn open_with(self, threads: Option<usize>, plan: Option<PlanKind>) -> Result<Device> {
        match (self.open_planned(plan)?, threads) {
            (Device::Cpu, Some(_)) => Device::cpu_with(&CpuOptions { threads, ..Default::default() }),
            (device, _) => Ok(device),
        }
    }

    /// Opens the device.
    pub(crate) fn open(self) -> Result<Device> {
        self.open_planned(None)
    }

    /// Opens the device; on a GPU every recurrent stack runs by the given kind of plan.
    pub(crate) fn open_planned(self, plan: Option<PlanKind>) -> Result<Device> {
        match self {
            Self::Auto => Ok(Device::auto()),
            Self::Cpu => Ok(Device::Cpu),
            Self::Gpu => open_gpu(plan),
            Self::Reference => Ok(Device::Reference),
        }
    }
}

#[cfg(feature = "gpu")]
fn open_gpu(plan: Option<PlanKind>) -> Result<Device> {
    Device::gpu(&options(plan))
}

/// Opens a GPU whose plans are chosen by measuring; what was found is kept for later runs.
#[cfg(feature = "gpu")]
pub(crate) fn open_tuned(plan: Option<PlanKind>) -> Result<Device> {
    let tuning = cache_folder().ok_or_else(|| Error::Value {
        op: "bench",
        what: "--autotune",
        expected: "a folder for caches: set XDG_CACHE_HOME",
        found: "none that can be written to".to_owned(),
    })?;
    Device::gpu(&gatewise::gpu::GpuOptions { tuning: Some(tuning), ..options(plan) })
}

#[cfg(feature = "gpu")]
fn options(plan: Option<PlanKind>) -> gatewise::gpu::GpuOptions {
    gatewise::gpu::GpuOptions { software: true, plan, pipeline_cache: cache_folder(), ..Default::default() }
}

/// Where this user's caches lie, if it is there or can be made.
#[cfg(feature = "gpu")]
fn cache_folder() -> Option<std::path::PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(std::path::PathBuf::from);
    let home = || {
        let below = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
        set("HOME").map(|home| home.join(below))
    };
    let folder = set("XDG_CACHE_HOME").or_else(|| set("LOCALAPPDATA")).or_else(home)?.join("gatewise");
    std::fs::create_dir_all(&folder).ok().map(|()| folder)
}

#[cfg(not(feature = "gpu"))]
pub(crate) fn open_tuned(plan: Option<PlanKind>) -> Result<Device> {
    open_gpu(plan)
}

#[cfg(not(feature = "gpu"))]
fn open_gpu(_plan: Option<PlanKind>) -> Result<Device> {
    Err(Error::NoAdapter {
        wanted: "any adapter".to_owned(),
        reason: "this program was built without the feature `gpu`".to_owned(),
    })
}

/// The kinds of plan that a device's calls ran by since this was last asked, joined by `+`; `none` where no plan is at work.
pub(crate) fn plans(device: &Device) -> String {
    let taken: Vec<&str> = match device {
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu.take_plans().into_iter().map(PlanKind::name).collect(),
        _ => Vec::new(),
    };
    if taken.is_empty() { "none".to_owned() } else { taken.join("+") }
}

/// A cell by the name that commands and suite files give it.
pub(crate) fn cell(op: &'static str, name: &str) -> Result<Cell> {
    match name {
        "rnn" | "rnn_tanh" => Ok(RnnCell::default().into()),
        "rnn_relu" => Ok(RnnCell { activation: Activation::Relu, ..RnnCell::default() }.into()),
        "lstm" => Ok(LstmCell::default().into()),
        "gru" => Ok(GruCell::default().into()),
        "gru_reset_before" => Ok(GruCell { reset: Reset::Before, ..GruCell::default() }.into()),
        _ => Err(Error::Value {
            op,
            what: "cell",
            expected: "rnn, rnn_relu, lstm, gru or gru_reset_before",
            found: name.to_owned(),
        }),
    }
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

//! Options that several commands take: `--device`, `--simd`, `--plan`, `--matrices`, `--cell`.

use clap::{Args, ValueEnum};
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Reset, RnnCell};
use gatewise::cpu::{CpuOptions, Instructions};
#[cfg(feature = "gpu")]
use gatewise::files;
use gatewise::plan::PlanKind;
use gatewise::{Device, Error, Result, Tensor};

/// Options that choose how a GPU runs recurrent stacks.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Schedule {
    /// Forces this kind of plan on every recurrent stack that runs on a GPU.
    #[arg(long)]
    plan: Option<PlanKind>,
    /// Multiplies with the GPU's cooperative matrices if they keep the precision (experimental); an error if it has none.
    #[arg(long)]
    matrices: bool,
}

/// The option that chooses the instruction set of the CPU path.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct Simd {
    /// The instruction set of the CPU path: avx512, avx2, neon or portable; by default the fastest that the processor has.
    #[arg(long, value_name = "SET")]
    pub(crate) simd: Option<Instructions>,
}

impl Simd {
    /// The options of a CPU device with this number of threads.
    pub(crate) fn options(self, threads: Option<usize>) -> CpuOptions {
        CpuOptions { threads, instructions: self.simd }
    }
}

/// The device that a command runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DeviceChoice {
    /// A hardware GPU if there is one, otherwise the CPU.
    Auto,
    /// The CPU path.
    Cpu,
    /// A GPU; a software adapter if there is no hardware.
    Gpu,
    /// The reference: plain loops that define the results.
    Reference,
}

impl Schedule {
    /// The first of these options that was given.
    pub(crate) fn given(self) -> Option<String> {
        self.plan.map(|kind| format!("--plan {kind}")).or_else(|| self.matrices.then(|| "--matrices".to_owned()))
    }

    /// Refuses these options unless a GPU was asked for by name: other devices would ignore them.
    pub(crate) fn check(self, op: &'static str, gpu: bool) -> Result<()> {
        match self.given() {
            Some(option) if !gpu => Err(Error::Unsupported { op, option, by: "without --device gpu" }),
            _ => Ok(()),
        }
    }
}

impl DeviceChoice {
    /// Opens the device; the CPU path gets these options.
    pub(crate) fn open_with(self, cpu: &CpuOptions, schedule: Schedule) -> Result<Device> {
        let given = *cpu != CpuOptions::default();
        // With an option of the CPU path, `auto` means the CPU path.
        let choice = if given && self == Self::Auto { Self::Cpu } else { self };
        if cpu.instructions.is_some() && choice != Self::Cpu {
            let (option, by) = ("--simd".to_owned(), "without --device cpu");
            return Err(Error::Unsupported { op: "--device", option, by });
        }
        match choice.open_planned(schedule)? {
            Device::Cpu if given => Device::cpu_with(cpu),
            device => Ok(device),
        }
    }

    /// Opens the device; the CPU path gets this instruction set.
    pub(crate) fn open(self, simd: Simd) -> Result<Device> {
        self.open_with(&simd.options(None), Schedule::default())
    }

    /// Opens the device; a GPU runs recurrent stacks as the schedule says.
    pub(crate) fn open_planned(self, schedule: Schedule) -> Result<Device> {
        match self {
            Self::Auto => Ok(Device::auto()),
            Self::Cpu => Ok(Device::Cpu),
            Self::Gpu => open_gpu(schedule),
            Self::Reference => Ok(Device::Reference),
        }
    }
}

#[cfg(feature = "gpu")]
fn open_gpu(schedule: Schedule) -> Result<Device> {
    Device::gpu(&options(schedule))
}

/// Opens a GPU whose plans are chosen by measurement; the choices are kept for later runs.
#[cfg(feature = "gpu")]
pub(crate) fn open_tuned(schedule: Schedule) -> Result<Device> {
    let tuning = cache_folder().ok_or_else(|| Error::Value {
        op: "bench",
        what: "--autotune",
        expected: "a folder for caches: set XDG_CACHE_HOME",
        found: "none that can be written to".to_owned(),
    })?;
    // The choices may take hours to measure, so their file must be writable.
    files::check(tuning.join("tuning"))?;
    Device::gpu(&gatewise::gpu::GpuOptions { tuning: Some(tuning), ..options(schedule) })
}

#[cfg(feature = "gpu")]
fn options(Schedule { plan, matrices }: Schedule) -> gatewise::gpu::GpuOptions {
    gatewise::gpu::GpuOptions { software: true, plan, matrices, pipeline_cache: cache_folder(), ..Default::default() }
}

/// The folder of this user's caches, if it exists or can be created.
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
pub(crate) fn open_tuned(schedule: Schedule) -> Result<Device> {
    open_gpu(schedule)
}

#[cfg(not(feature = "gpu"))]
fn open_gpu(_schedule: Schedule) -> Result<Device> {
    Err(Error::NoAdapter {
        wanted: "any adapter".to_owned(),
        reason: "this program was built without the feature `gpu`".to_owned(),
    })
}

/// Takes the kinds of plan that ran on a device since the last call of this function, joined by `+`; `none` if there were none.
pub(crate) fn plans(device: &Device) -> String {
    let taken: Vec<&str> = match device {
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => gpu.take_plans().into_iter().map(PlanKind::name).collect(),
        _ => Vec::new(),
    };
    if taken.is_empty() { "none".to_owned() } else { taken.join("+") }
}

/// The cell with this name in commands and suite files.
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

/// Refuses an f32 array whose size overflows or exceeds the free memory; `axes` names the axes of `sizes`.
pub(crate) fn holdable(op: &'static str, what: &'static str, axes: &str, sizes: &[usize]) -> Result<()> {
    // An axis of size 0 counts as 1: other arrays have the remaining axes without it.
    let elements = sizes.iter().try_fold(1_usize, |elements, &size| elements.checked_mul(size.max(1)));
    let holds = |elements| Vec::<f32>::new().try_reserve_exact(elements).is_ok();
    if elements.is_some_and(holds) {
        return Ok(());
    }
    Err(Error::Shape { op, what, expected: format!("an array {axes} that memory holds"), found: sizes.to_vec() })
}

/// Refuses work that needs more bytes at the same time than the free memory.
pub(crate) fn fits(op: &'static str, what: &str, bytes: u64) -> Result<()> {
    // A tensor of zeros reserves memory without touching it.
    let holds = |numbers| Tensor::zeros(&Device::Cpu, &[numbers]).is_ok();
    if usize::try_from(bytes.div_ceil(4)).is_ok_and(holds) {
        return Ok(());
    }
    let message =
        format!("{what} take {bytes} bytes at the same time, more than are left; take fewer steps, rows or units");
    Err(Error::OutOfMemory { op, message })
}

/// Computes numbers one after another; an error if memory is short.
pub(crate) fn numbers(op: &'static str, len: usize, number: impl FnMut(usize) -> f32) -> Result<Vec<f32>> {
    let mut numbers = Vec::new();
    if numbers.try_reserve_exact(len).is_err() {
        fits(op, "the numbers", 4 * len as u64)?;
    }
    numbers.extend((0..len).map(number));
    Ok(numbers)
}

/// A device's name in machine-readable output, and the adapter's name of a GPU.
pub(crate) fn adapter(device: &Device) -> (&'static str, Option<String>) {
    match device {
        Device::Reference => ("reference", None),
        Device::Cpu | Device::CpuWith(_) => ("cpu", None),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => ("gpu", Some(gpu.adapter().name.clone())),
        other => ("other", Some(other.to_string())),
    }
}

//! The one place that tells the reference, the CPU and the GPU apart. An operation passes its work for the host and its
//! work for a GPU to [`run`], which does the one that the recorder's device needs.

mod constant;
#[cfg(feature = "gpu")]
mod encoded;
mod host;
mod parameters;
mod recorder;
#[cfg_attr(
    not(any(feature = "onnx", feature = "keras")),
    allow(dead_code, reason = "only graphs of files are replayed")
)]
mod replay;
mod sequence;
mod stack;
mod state;
mod storage;
mod training;

use std::fmt;

use ndarray::{Array, Dimension};

use crate::cpu::{CpuDevice, CpuOptions};
use crate::error::{Error, Result};
use crate::gpu::{self, GpuDevice, GpuOptions};
use crate::memory;
use crate::tensor::Tensor;

pub(crate) use constant::{ConstantFilters, ConstantMatrix, FilterGeometry};
#[cfg(feature = "gpu")]
pub use encoded::EncodedCommands;
pub(crate) use host::{HostPath, put, run, run_broadcast, run_each, run_each_broadcast, run_list, run_on_cpu};
pub use parameters::ParameterTensors;
pub use recorder::{ReadBack, Recorder};
#[cfg(any(feature = "onnx", feature = "keras"))]
pub(crate) use replay::{CallInput, CallInputs, Kept, KnownInput, Replay, Replayable};
pub use sequence::DeviceSequence;
pub(crate) use stack::{PackedStack, StackCall, forward_on_cpu, plan};
pub(crate) use state::{StateTensors, state_arrays};
pub(crate) use storage::Storage;
pub(crate) use training::{PassShapes, PathTape, TrainingPass, reference_stack};

/// A device: layers and tensors live on it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Device {
    /// The specification's plain loops in `f64`: slow, and the standard that every other device is compared with.
    Reference,
    /// The CPU path with one thread per physical core and the fastest instructions.
    Cpu,
    /// The CPU path with options of its own. Tensors and states are the same as on [`Device::Cpu`]; only layers that
    /// are built here follow the options.
    CpuWith(CpuDevice),
    /// A GPU.
    Gpu(GpuDevice),
}

impl Device {
    /// A hardware GPU if the machine has one that opens, else the CPU. A software adapter is never taken: the CPU path is
    /// faster.
    pub fn auto() -> Self {
        if let Ok(gpu) = GpuDevice::new(&GpuOptions::default()) {
            return Self::Gpu(gpu);
        }
        Self::Cpu
    }

    /// The CPU path with a number of threads or instructions of the caller's choice.
    ///
    /// # Errors
    /// [`Error::Value`] for 0 threads or more than 1,024; [`Error::Unsupported`] for instructions that the processor
    /// lacks.
    ///
    /// ```
    /// use gatewise::{Device, cpu::CpuOptions, nn::Lstm};
    /// let device = Device::cpu_with(&CpuOptions::new().threads(2))?;
    /// let lstm = Lstm::config(3, 4).random(&device, 7)?;
    /// # let _ = lstm;
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn cpu_with(options: &CpuOptions) -> Result<Self> {
        Ok(Self::CpuWith(CpuDevice::new(options)?))
    }

    /// The CPU behind this device, if it is one.
    pub fn cpu(&self) -> Option<CpuDevice> {
        match self {
            Self::Cpu => Some(CpuDevice::shared()),
            Self::CpuWith(cpu) => Some(cpu.clone()),
            _ => None,
        }
    }

    /// The CPU behind this device; the shared CPU for any other device.
    fn cpu_or_shared(&self) -> CpuDevice {
        self.cpu().unwrap_or_else(CpuDevice::shared)
    }

    /// A GPU; software adapters only if the options allow them.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if none fits.
    ///
    /// ```
    /// use gatewise::{Device, gpu::GpuOptions};
    /// let device = Device::gpu(&GpuOptions::new().software(true))?;
    /// println!("{device}");
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    #[cfg(feature = "gpu")]
    pub fn gpu(options: &GpuOptions) -> Result<Self> {
        Ok(Self::Gpu(GpuDevice::new(options)?))
    }

    /// Opens a GPU as [`Device::gpu`] does, without blocking.
    ///
    /// # Errors
    /// As [`Device::gpu`].
    #[cfg(feature = "gpu")]
    pub async fn gpu_async(options: &GpuOptions) -> Result<Self> {
        Ok(Self::Gpu(GpuDevice::new_async(options).await?))
    }

    /// The GPU behind this device, if it is one.
    pub(crate) fn as_gpu(&self) -> Option<&GpuDevice> {
        match self {
            Self::Gpu(gpu) => Some(gpu),
            _ => None,
        }
    }

    /// Refuses an argument that lives here instead of on the operation's device.
    pub(crate) fn check_same(&self, op: &'static str, what: &'static str, expected: &Self) -> Result<()> {
        if self.is_same(expected) {
            return Ok(());
        }
        let (found, expected) = (self.to_string(), expected.to_string());
        let found = if found == expected { format!("another opening of {found}") } else { found };
        Err(Error::DeviceMismatch { op, what, expected, found })
    }

    /// Whether two values name the same device.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Reference, Self::Reference) => true,
            (Self::Cpu | Self::CpuWith(_), Self::Cpu | Self::CpuWith(_)) => true,
            (Self::Gpu(a), Self::Gpu(b)) => a.is_same(b),
            _ => false,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference => f.write_str("reference"),
            Self::Cpu | Self::CpuWith(_) => f.write_str("cpu"),
            Self::Gpu(gpu) => write!(f, "gpu ({}, {})", gpu.adapter().name, gpu.adapter().backend),
        }
    }
}

/// Carries out an operation: `host` on the reference and the CPU, `gpu` on a GPU. No replay can run it again.
pub(crate) fn dispatch<T>(
    recorder: &mut Recorder,
    host: impl FnOnce(HostPath, &Device) -> Result<T>,
    gpu: impl FnOnce(&mut gpu::Recorder) -> Result<T>,
) -> Result<T> {
    if let Some(recorder) = recorder.gpu() {
        return gpu(recorder);
    }
    if let Some(recording) = recorder.recording() {
        recording.refuse();
    }
    host(recorder.host_path(), recorder.device())
}

/// Carries out an operation of training whose result is one tensor of `shape`. `host` returns the result's elements.
pub(crate) fn compute(
    recorder: &mut Recorder,
    shape: &[usize],
    host: impl FnOnce(HostPath) -> Result<Vec<f32>>,
    gpu: impl FnOnce(&mut gpu::Recorder) -> Result<gpu::Buffer>,
) -> Result<Tensor> {
    dispatch(
        recorder,
        |path, device| Tensor::from_vec(device, shape, host(path)?),
        |recorder| {
            let buffer = gpu(recorder)?;
            Ok(Tensor::from_buffer(recorder.device(), shape, buffer))
        },
    )
}

/// Calls a function of the reference in the precision of a host path: `f64` on the reference, `f32` on the CPU. Returns
/// the elements of its result in `f32`.
macro_rules! in_precision {
    ($path:expr, $op:expr, $($name:ident = $elements:expr),+; $result:expr) => {
        $path.choose(
            || {
                $(let $name = $crate::path::widened($op, $elements)?;)+
                $(let $name = $name.as_slice();)+
                $crate::path::rounded($op, &$crate::path::IntoElements::into_elements($result))
            },
            |_| {
                $(let $name: &[f32] = $elements;)+
                Ok($crate::path::IntoElements::into_elements($result))
            },
        )
    };
}
pub(crate) use in_precision;

/// Converts operands to `f64`, in which the reference computes.
pub(crate) fn widened(op: &'static str, x: &[f32]) -> Result<Vec<f64>> {
    memory::collected(op, x.len(), x.iter().map(|&x| f64::from(x)))
}

/// Rounds results of the reference to `f32`.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
pub(crate) fn rounded(op: &'static str, x: &[f64]) -> Result<Vec<f32>> {
    memory::collected(op, x.len(), x.iter().map(|&x| x as f32))
}

/// The result of a host operation as its elements in order.
pub(crate) trait IntoElements<F> {
    fn into_elements(self) -> Vec<F>;
}

impl<F> IntoElements<F> for Vec<F> {
    fn into_elements(self) -> Vec<F> {
        self
    }
}

/// The array is contiguous, as host operations make them.
impl<F, D: Dimension> IntoElements<F> for Array<F, D> {
    fn into_elements(self) -> Vec<F> {
        self.into_raw_vec_and_offset().0
    }
}

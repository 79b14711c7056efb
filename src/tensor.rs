//! Devices, and the arrays that live on them.

use std::fmt;
use std::sync::Arc;

use ndarray::{Array, ArrayBase, ArrayD, ArrayView, ArrayView3, Axis, Data, Dimension, Ix3, IxDyn};

use crate::cpu::{CpuDevice, CpuOptions};
use crate::error::{Error, Result, check_shape, count, elements};
use crate::gpu::{self, GpuDevice, GpuOptions};
use crate::memory;

/// Where layers and tensors live.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Device {
    /// The specification's plain loops, computed in `f64`: slow, and what every other device is compared with.
    Reference,
    /// The CPU path: a thread a physical core, the fastest instructions.
    Cpu,
    /// The CPU path with options of its own. Tensors and states are the same as on [`Device::Cpu`]; only a layer built here
    /// works differently.
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
    /// [`Error::Value`] for 0 threads; [`Error::Unsupported`] for instructions that the processor lacks.
    ///
    /// ```
    /// use gatewise::{Device, cpu::CpuOptions, nn::Lstm};
    /// let device = Device::cpu_with(&CpuOptions { threads: Some(2), ..Default::default() })?;
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

    /// A GPU, software adapters included where the options allow them.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where none fits.
    ///
    /// ```
    /// use gatewise::{Device, gpu::GpuOptions};
    /// let device = Device::gpu(&GpuOptions { software: true, ..Default::default() })?;
    /// println!("{device}");
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    #[cfg(feature = "gpu")]
    pub fn gpu(options: &GpuOptions) -> Result<Self> {
        Ok(Self::Gpu(GpuDevice::new(options)?))
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

/// An array of `f32` on a device, contiguous, last axis fastest. Cheap to clone: clones share their memory, which no
/// operation changes.
#[derive(Clone)]
pub struct Tensor {
    device: Device,
    shape: Vec<usize>,
    storage: Storage,
}

#[derive(Clone)]
pub(crate) enum Storage {
    Host(Arc<Vec<f32>>),
    Gpu(gpu::Buffer),
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor {:?} on {}", self.shape, self.device)
    }
}

impl Tensor {
    /// Copies a host array of any layout to a device.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::OutOfMemory`] where it does not fit the device.
    pub fn from_array<S, D>(device: &Device, array: &ArrayBase<S, D>) -> Result<Self>
    where
        S: Data<Elem = f32>,
        D: Dimension,
    {
        Self::from_vec(device, array.shape(), memory::elements_of("Tensor::from_array", array)?)
    }

    /// Moves a host vector of `shape` to a device.
    ///
    /// # Errors
    /// [`Error::Shape`] where the vector's length is not the shape's; as [`Tensor::from_array`] otherwise.
    pub fn from_vec(device: &Device, shape: &[usize], data: Vec<f32>) -> Result<Self> {
        const OP: &str = "Tensor::from_vec";
        check_shape(OP, "data", &[elements(OP, "shape", shape)?], &[data.len()])?;
        let storage = match device {
            Device::Reference | Device::Cpu | Device::CpuWith(_) => Storage::Host(Arc::new(data)),
            Device::Gpu(gpu) => Storage::Gpu(gpu::Buffer::from_slice(gpu, "tensor", &data)?),
        };
        Ok(Self { device: device.clone(), shape: shape.to_vec(), storage })
    }

    /// Zeros of `shape` on a device.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn zeros(device: &Device, shape: &[usize]) -> Result<Self> {
        const OP: &str = "Tensor::zeros";
        let len = elements(OP, "shape", shape)?;
        let storage = match device {
            Device::Reference | Device::Cpu | Device::CpuWith(_) => Storage::Host(Arc::new(memory::zeros(OP, len)?)),
            Device::Gpu(gpu) => Storage::Gpu(gpu::Buffer::zeros(gpu, "tensor", len)?),
        };
        Ok(Self { device: device.clone(), shape: shape.to_vec(), storage })
    }

    /// Takes a caller's buffer as a tensor without copying it. It must come from the device's own `wgpu::Device`; wgpu cannot
    /// tell a buffer of another `wgpu::Instance` apart.
    ///
    /// # Errors
    /// [`Error::Value`] unless the buffer is the device's own, has the usages `STORAGE`, `COPY_SRC` and `COPY_DST` and room
    /// for `shape`; [`Error::DeviceLost`].
    #[cfg(feature = "gpu")]
    pub fn from_wgpu_buffer(device: &GpuDevice, buffer: wgpu::Buffer, shape: &[usize]) -> Result<Self> {
        let len = elements("Tensor::from_wgpu_buffer", "shape", shape)?;
        let buffer = gpu::Buffer::from_wgpu(device, buffer, len)?;
        Ok(Self { device: Device::Gpu(device.clone()), shape: shape.to_vec(), storage: Storage::Gpu(buffer) })
    }

    /// The buffer behind a tensor on the GPU, for a caller's own kernels: the tensor's elements from offset 0 on. Its memory
    /// is not reused after the tensor is gone.
    #[cfg(feature = "gpu")]
    pub fn wgpu_buffer(&self) -> Option<&wgpu::Buffer> {
        match &self.storage {
            Storage::Gpu(buffer) => Some(buffer.share()),
            Storage::Host(_) => None,
        }
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Its shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // It was counted when the tensor was made.
        count(&self.shape).unwrap_or_default()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same elements under another shape; no copy.
    ///
    /// # Errors
    /// [`Error::Shape`] where the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        const OP: &str = "reshape";
        let len = elements(OP, "shape", shape)?;
        if len != self.len() {
            let expected = format!("{len} elements for {shape:?}");
            return Err(Error::Shape { op: OP, what: "tensor", expected, found: self.shape.clone() });
        }
        Ok(Self { shape: shape.to_vec(), ..self.clone() })
    }

    /// Copies the tensor to the host, and waits for what computes it.
    ///
    /// # Errors
    /// [`Error::Shape`] where the rank is not `D`'s; [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`] where the
    /// read-back fails.
    pub fn to_array<D: Dimension>(&self) -> Result<Array<f32, D>> {
        shaped(&self.shape, self.to_vec()?)
    }

    /// [`Tensor::to_array`] without blocking: the only way back to the host in a browser, and the way for a thread that has
    /// other work meanwhile.
    ///
    /// # Errors
    /// As [`Tensor::to_array`].
    ///
    /// ```
    /// use gatewise::{Device, Tensor};
    /// # pollster::block_on(async {
    /// let tensor = Tensor::zeros(&Device::auto(), &[2, 3])?;
    /// let array: ndarray::Array2<f32> = tensor.to_array_async().await?;
    /// assert_eq!(array.dim(), (2, 3));
    /// # Ok::<(), gatewise::Error>(())
    /// # }).unwrap();
    /// ```
    pub async fn to_array_async<D: Dimension>(&self) -> Result<Array<f32, D>> {
        shaped(&self.shape, self.to_vec_async().await?)
    }

    /// Copies the elements to the host, and waits for what computes them.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`] where the read-back fails; [`Error::Unsupported`] on a
    /// browser's GPU, where nothing may wait.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        self.read_back()?.wait()
    }

    /// [`Tensor::to_vec`] without blocking.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub async fn to_vec_async(&self) -> Result<Vec<f32>> {
        self.read_back()?.arrive().await
    }

    /// Starts the copy to the host without waiting for it.
    ///
    /// # Errors
    /// As [`Recorder::submit_and_read`](crate::ops::Recorder::submit_and_read).
    pub fn read_back(&self) -> Result<ReadBack> {
        self.device.recorder().submit_and_read(self)
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The elements of a host tensor for writing; a copy of its own where clones share its memory.
    pub(crate) fn host_mut(&mut self, op: &'static str, what: &'static str) -> Result<&mut [f32]> {
        match &mut self.storage {
            Storage::Host(data) => {
                if Arc::get_mut(data).is_none() {
                    *data = Arc::new(memory::copied(op, data)?);
                }
                Ok(Arc::make_mut(data).as_mut_slice())
            }
            Storage::Gpu(_) => {
                Err(Error::DeviceMismatch { op, what, expected: "the host".to_owned(), found: self.device.to_string() })
            }
        }
    }

    /// Whether a clone or a recorder holds the memory as well.
    pub(crate) fn is_shared(&self) -> bool {
        match &self.storage {
            Storage::Gpu(buffer) => buffer.is_shared(),
            Storage::Host(data) => Arc::strong_count(data) > 1,
        }
    }

    pub(crate) fn from_buffer(device: &GpuDevice, shape: &[usize], buffer: gpu::Buffer) -> Self {
        Self { device: Device::Gpu(device.clone()), shape: shape.to_vec(), storage: Storage::Gpu(buffer) }
    }

    /// Memory of the tensor's shape and device, contents unspecified.
    pub(crate) fn uninitialized_like(&self) -> Result<Self> {
        match &self.device {
            Device::Gpu(gpu) => Ok(Self::from_buffer(gpu, &self.shape, gpu::Buffer::new(gpu, "tensor", self.len())?)),
            device => Self::zeros(device, &self.shape),
        }
    }

    /// Refuses a tensor that lives elsewhere than the operation.
    pub(crate) fn check_device(&self, op: &'static str, what: &'static str, device: &Device) -> Result<()> {
        self.device.check_same(op, what, device)
    }
}

/// A tensor's elements on their way to the host: the device works on, the caller waits when it wants to. Dropped, it costs
/// nothing but the copy.
#[must_use = "the elements arrive when waited for or awaited"]
pub struct ReadBack {
    pub(crate) shape: Vec<usize>,
    pub(crate) source: Source,
}

/// Where they come from.
pub(crate) enum Source {
    Host(Arc<Vec<f32>>),
    Gpu(gpu::ReadBack),
}

impl fmt::Debug for ReadBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadBack").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl ReadBack {
    /// Waits for the elements.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub fn wait(self) -> Result<Vec<f32>> {
        match self.source {
            Source::Host(data) => memory::copied("read-back", &data),
            Source::Gpu(read) => read.wait(),
        }
    }

    /// [`ReadBack::wait`] as an array.
    ///
    /// # Errors
    /// As [`Tensor::to_array`].
    pub fn wait_array<D: Dimension>(self) -> Result<Array<f32, D>> {
        let shape = self.shape.clone();
        shaped(&shape, self.wait()?)
    }

    /// The elements once they are there, without blocking.
    ///
    /// # Errors
    /// As [`Tensor::to_vec`].
    pub async fn arrive(self) -> Result<Vec<f32>> {
        match self.source {
            Source::Host(data) => memory::copied("read-back", &data),
            Source::Gpu(read) => read.arrive().await,
        }
    }
}

/// A tensor's elements as an array of the rank asked for.
fn shaped<D: Dimension>(shape: &[usize], data: Vec<f32>) -> Result<Array<f32, D>> {
    let wrong_rank = || Error::Shape {
        op: "to_array",
        what: "tensor",
        expected: D::NDIM.map_or_else(String::new, |rank| format!("of rank {rank}")),
        found: shape.to_vec(),
    };
    let array = ArrayD::from_shape_vec(IxDyn(shape), data).map_err(|_| wrong_rank())?;
    array.into_dimensionality().map_err(|_| wrong_rank())
}

/// A host vector under a shape that it is known to fit.
pub(crate) fn view<'a, F, D: Dimension>(op: &'static str, data: &'a [F], shape: D) -> Result<ArrayView<'a, F, D>> {
    let found = vec![data.len()];
    let expected = format!("{:?}", shape.slice());
    ArrayView::from_shape(shape, data).map_err(|_| Error::Shape { op, what: "data", expected, found })
}

/// `[B, T, I]` seen as `[T, B, I]`, or the other way round: PyTorch's `batch_first` without a copy.
///
/// ```
/// let keras = ndarray::Array3::<f32>::zeros((2, 7, 3)); // [B, T, I]
/// assert_eq!(gatewise::batch_first(&keras).shape(), &[7, 2, 3]);
/// ```
pub fn batch_first<S: Data<Elem = f32>>(array: &ArrayBase<S, Ix3>) -> ArrayView3<'_, f32> {
    let mut view = array.view();
    view.swap_axes(0, 1);
    debug_assert_eq!(view.len_of(Axis(0)), array.len_of(Axis(1)));
    view
}

//! The arrays that live on devices.

use std::fmt;
use std::sync::Arc;

use ndarray::{Array, ArrayBase, ArrayD, ArrayView, ArrayView3, Axis, Data, Dimension, Ix3, IxDyn};

use crate::error::{Error, Result, check_shape, count, elements};
use crate::gpu::{self, GpuDevice};
use crate::memory;
pub(crate) use crate::path::{Device, ReadBack};
use crate::path::{Recorder, Storage};

/// An array of `f32` on a device, contiguous, last axis fastest. Cheap to clone: clones share their memory, which no
/// operation changes.
#[derive(Clone)]
pub struct Tensor {
    device: Device,
    shape: Arc<[usize]>,
    storage: Storage,
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
    /// [`Error::Limit`] or [`Error::OutOfMemory`] if it does not fit the device.
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
    /// [`Error::Shape`] if the vector's length differs from the number of elements; otherwise as [`Tensor::from_array`].
    pub fn from_vec(device: &Device, shape: &[usize], data: Vec<f32>) -> Result<Self> {
        const OP: &str = "Tensor::from_vec";
        check_shape(OP, "data", &[elements(OP, "shape", shape)?], &[data.len()])?;
        Ok(Self { device: device.clone(), shape: shape.into(), storage: Storage::from_vec(device, data)? })
    }

    /// Zeros of `shape` on a device.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn zeros(device: &Device, shape: &[usize]) -> Result<Self> {
        const OP: &str = "Tensor::zeros";
        let len = elements(OP, "shape", shape)?;
        Ok(Self { device: device.clone(), shape: shape.into(), storage: Storage::zeros(device, OP, len)? })
    }

    /// Takes a caller's buffer as a tensor without copying it. Calls read it, and
    /// [`Recurrent::record_into`](crate::nn::Recurrent::record_into) writes to it. It must come from the device's own `wgpu::Device`; wgpu
    /// cannot recognise a buffer of another `wgpu::Instance`.
    ///
    /// # Errors
    /// [`Error::Value`] unless the buffer is the device's own, has the usages `STORAGE`, `COPY_SRC` and `COPY_DST` and room
    /// for `shape`; [`Error::DeviceLost`].
    #[cfg(feature = "gpu")]
    pub fn from_wgpu_buffer(device: &GpuDevice, buffer: wgpu::Buffer, shape: &[usize]) -> Result<Self> {
        let len = elements("Tensor::from_wgpu_buffer", "shape", shape)?;
        let buffer = gpu::Buffer::from_wgpu(device, buffer, len)?;
        Ok(Self { device: Device::Gpu(device.clone()), shape: shape.into(), storage: Storage::Gpu(buffer) })
    }

    /// The buffer of a tensor on the GPU, for a caller's own kernels. The tensor's elements begin at offset 0. The memory is
    /// not reused after the tensor is gone.
    #[cfg(feature = "gpu")]
    pub fn wgpu_buffer(&self) -> Option<&wgpu::Buffer> {
        self.storage.buffer().map(gpu::Buffer::share)
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
        // The number was checked when the tensor was made, so it does not overflow.
        count(&self.shape).unwrap_or_default()
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Views the elements under another shape, without a copy.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        const OP: &str = "reshape";
        let len = elements(OP, "shape", shape)?;
        if len != self.len() {
            let expected = format!("{len} elements for {shape:?}");
            return Err(Error::Shape { op: OP, what: "tensor", expected, found: self.shape.to_vec() });
        }
        Ok(Self { shape: shape.into(), ..self.clone() })
    }

    /// Waits until the tensor is computed, and copies it to the host.
    ///
    /// # Errors
    /// [`Error::Shape`] if the rank is not that of `D`; [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`] if the
    /// read-back fails.
    pub fn to_array<D: Dimension>(&self) -> Result<Array<f32, D>> {
        shaped(&self.shape, self.to_vec()?)
    }

    /// [`Tensor::to_array`] without blocking, for a thread that has other work meanwhile. In a browser there is no
    /// other way to the host.
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

    /// Waits until the elements are computed, and copies them to the host.
    ///
    /// # Errors
    /// [`Error::DeviceLost`], [`Error::OutOfMemory`] or [`Error::Gpu`] if the read-back fails; [`Error::Unsupported`]
    /// on a browser's GPU, where no thread may wait.
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
    /// As [`Recorder::submit_and_read`](crate::Recorder::submit_and_read).
    pub fn read_back(&self) -> Result<ReadBack> {
        self.device.recorder().submit_and_read(self)
    }

    /// The elements of a tensor on the host.
    pub(crate) fn host(&self, op: &'static str, what: &'static str) -> Result<&[f32]> {
        self.shared_host(op, what).map(|elements| elements.as_slice())
    }

    /// The shared memory of a tensor on the host.
    pub(crate) fn shared_host(&self, op: &'static str, what: &'static str) -> Result<&Arc<Vec<f32>>> {
        self.storage.host().ok_or_else(|| elsewhere(&self.device, op, what, "the host"))
    }

    /// The elements of a tensor on the host for writing. If clones share its memory, the tensor first takes a copy of its own.
    pub(crate) fn host_mut(&mut self, op: &'static str, what: &'static str) -> Result<&mut [f32]> {
        let Self { device, storage, .. } = self;
        storage.host_mut(op).unwrap_or_else(|| Err(elsewhere(device, op, what, "the host")))
    }

    /// The buffer of a tensor on a GPU.
    pub(crate) fn buffer(&self, op: &'static str, what: &'static str) -> Result<&gpu::Buffer> {
        self.storage.buffer().ok_or_else(|| elsewhere(&self.device, op, what, "the GPU"))
    }

    /// The buffer of a tensor on a GPU for writing. A caller's own buffer is written in place. If others hold memory of the
    /// library, the tensor first gets other memory, whose contents are unspecified.
    pub(crate) fn output_buffer(&mut self, op: &'static str, what: &'static str) -> Result<&gpu::Buffer> {
        let buffer = self.buffer(op, what)?;
        if let Some(gpu) = self.device.as_gpu().filter(|_| buffer.is_shared() && !buffer.is_of_caller()) {
            self.storage = Storage::Gpu(gpu::Buffer::new(gpu, "tensor", self.len())?);
        }
        self.buffer(op, what)
    }

    /// Whether the elements lie on the host.
    pub(crate) fn is_on_host(&self) -> bool {
        self.storage.host().is_some()
    }

    /// Whether a clone or a recorder holds the memory as well.
    pub(crate) fn is_shared(&self) -> bool {
        self.storage.is_shared()
    }

    /// A tensor on the host that shares its parts.
    pub(crate) fn from_shared(device: &Device, shape: &Arc<[usize]>, data: &Arc<Vec<f32>>) -> Self {
        Self { device: device.clone(), shape: Arc::clone(shape), storage: Storage::Host(Arc::clone(data)) }
    }

    /// Its shape, which clones share.
    pub(crate) fn shared_shape(&self) -> &Arc<[usize]> {
        &self.shape
    }

    pub(crate) fn from_buffer(device: &GpuDevice, shape: &[usize], buffer: gpu::Buffer) -> Self {
        Self { device: Device::Gpu(device.clone()), shape: shape.into(), storage: Storage::Gpu(buffer) }
    }

    /// Records a copy of the tensor. On the host the two share their memory until one of them is written to.
    pub(crate) fn record_copy(&self, op: &'static str, recorder: &mut Recorder) -> Result<Self> {
        self.check_device(op, "state", recorder.device())?;
        let Some(gpu) = recorder.gpu() else { return Ok(self.clone()) };
        let to = gpu::Buffer::new(gpu.device(), "tensor", self.len())?;
        gpu.copy((self.buffer(op, "state")?, 0), (&to, 0), self.len());
        Ok(Self::from_buffer(gpu.device(), &self.shape, to))
    }

    /// Refuses a tensor that lives elsewhere than the operation.
    pub(crate) fn check_device(&self, op: &'static str, what: &'static str, device: &Device) -> Result<()> {
        self.device.check_same(op, what, device)
    }
}

/// Turns a tensor's elements into an array of rank `D`.
pub(crate) fn shaped<D: Dimension>(shape: &[usize], data: Vec<f32>) -> Result<Array<f32, D>> {
    let wrong_rank = || Error::Shape {
        op: "to_array",
        what: "tensor",
        expected: D::NDIM.map_or_else(String::new, |rank| format!("of rank {rank}")),
        found: shape.to_vec(),
    };
    let array = ArrayD::from_shape_vec(IxDyn(shape), data).map_err(|_| wrong_rank())?;
    array.into_dimensionality().map_err(|_| wrong_rank())
}

fn elsewhere(device: &Device, op: &'static str, what: &'static str, expected: &str) -> Error {
    Error::DeviceMismatch { op, what, expected: expected.to_owned(), found: device.to_string() }
}

/// Views a host vector under a shape that it fits.
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

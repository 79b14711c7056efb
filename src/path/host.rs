//! Operations on the host: how an operation states its work, and what it reads.

use super::Recorder;
use super::replay::{HostWork, PlacedInputs, Repeat, Work};
use crate::cpu::CpuDevice;
use crate::error::{Error, Result, elements};
use crate::gpu;
use crate::memory;
use crate::tensor::Tensor;

/// A path that computes on the host.
#[derive(Clone, Debug)]
pub(crate) enum HostPath {
    Reference,
    Cpu(CpuDevice),
}

impl HostPath {
    /// Runs the computation of this path.
    pub(crate) fn choose<T>(&self, reference: impl FnOnce() -> T, cpu: impl FnOnce(&CpuDevice) -> T) -> T {
        match self {
            Self::Reference => reference(),
            Self::Cpu(device) => cpu(device),
        }
    }

    /// Writes the result of this path's computation to `y`.
    pub(crate) fn write(
        &self,
        y: &mut [f32],
        reference: impl FnOnce() -> Result<Vec<f32>>,
        cpu: impl FnOnce(&CpuDevice, &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Reference => put(reference()?, y),
            Self::Cpu(device) => cpu(device, y),
        }
    }
}

/// The elements that an operation on the host reads.
pub(crate) enum HostInputs<'a> {
    Tensors { op: &'static str, tensors: &'a [&'a Tensor] },
    Placed(PlacedInputs<'a>),
}

impl HostInputs<'_> {
    /// The elements of one input.
    pub(crate) fn get(&self, at: usize) -> Result<&[f32]> {
        match self {
            Self::Tensors { op, tensors } => tensors.get(at).map_or(Ok(&[]), |tensor| tensor.host(op, "input")),
            Self::Placed(inputs) => Ok(inputs.get(at)),
        }
    }

    /// The elements of the first `N` inputs.
    fn all<const N: usize>(&self) -> Result<[&[f32]; N]> {
        let mut found: [&[f32]; N] = [&[]; N];
        for (at, slot) in found.iter_mut().enumerate() {
            *slot = self.get(at)?;
        }
        Ok(found)
    }
}

/// How the elements of a result depend on the elements of the inputs.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    Whole,
    Each,
    Repeat(Repeat),
}

/// Carries out an operation whose result is one tensor of `shape`. The inputs lie on the recorder's device.
///
/// `host` gets the inputs' elements and the memory of the result, whose numbers it must all write: they may have any
/// value before. It owns its parameters, because it may run again with other elements of the same number. It may keep
/// memory of its own for that.
pub(crate) fn run<const N: usize>(
    recorder: &mut Recorder,
    op: &'static str,
    shape: &[usize],
    inputs: [&Tensor; N],
    mut host: impl FnMut(&HostPath, [&[f32]; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    gpu: impl FnOnce(&mut gpu::Recorder) -> Result<gpu::Buffer>,
) -> Result<Tensor> {
    run_list(recorder, op, shape, &inputs, move |path, inputs, y| host(path, inputs.all()?, y), gpu)
}

/// [`run`] with any number of inputs.
pub(crate) fn run_list(
    recorder: &mut Recorder,
    op: &'static str,
    shape: &[usize],
    inputs: &[&Tensor],
    host: impl FnMut(&HostPath, &HostInputs<'_>, &mut [f32]) -> Result<()> + Send + Sync + 'static,
    gpu: impl FnOnce(&mut gpu::Recorder) -> Result<gpu::Buffer>,
) -> Result<Tensor> {
    let call = HostCall { op, shape, inputs, pattern: Pattern::Whole };
    call.run(recorder, host, gpu)
}

/// [`run`] for an operation whose result has the shape of its first input, and whose element at each place depends on
/// the inputs' elements at the same place alone. `host` may also be called for a part of the places.
pub(crate) fn run_each<const N: usize>(
    recorder: &mut Recorder,
    op: &'static str,
    inputs: [&Tensor; N],
    mut host: impl FnMut(&HostPath, [&[f32]; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    gpu: impl FnOnce(&mut gpu::Recorder) -> Result<gpu::Buffer>,
) -> Result<Tensor> {
    let shape = inputs.first().map_or(&[][..], |first| first.shape());
    let call = HostCall { op, shape, inputs: &inputs, pattern: Pattern::Each };
    call.run(recorder, move |path, inputs, y| host(path, inputs.all()?, y), gpu)
}

/// [`run`] for an operation that broadcasts its input to `shape`.
pub(crate) fn run_broadcast(
    recorder: &mut Recorder,
    op: &'static str,
    shape: &[usize],
    x: &Tensor,
    mut host: impl FnMut(&HostPath, &[f32], &mut [f32]) -> Result<()> + Send + Sync + 'static,
    gpu: impl FnOnce(&mut gpu::Recorder) -> Result<gpu::Buffer>,
) -> Result<Tensor> {
    let pattern = Repeat::of(x.shape(), shape).map_or(Pattern::Whole, Pattern::Repeat);
    let call = HostCall { op, shape, inputs: &[x], pattern };
    call.run(recorder, move |path, inputs, y| host(path, inputs.get(0)?, y), gpu)
}

/// [`run_on_cpu`] for an element-wise operation on two inputs that broadcast to `shape`. `kernel` gets the inputs' shapes and
/// the result's. It may also be called for a part of the result, with as many elements of each input; then all shapes
/// are that one number.
pub(crate) fn run_each_broadcast(
    recorder: &mut Recorder,
    op: &'static str,
    shape: &[usize],
    inputs: [&Tensor; 2],
    kernel: impl Fn(&CpuDevice, [(&[f32], &[usize]); 2], &[usize], &mut [f32]) + Copy + Send + Sync + 'static,
) -> Result<Tensor> {
    let [a_shape, b_shape, own] = [inputs[0].shape(), inputs[1].shape(), shape].map(<[usize]>::to_vec);
    let mut host: HostWork = Box::new(move |path, inputs, y| {
        let [a, b] = inputs.all()?;
        path.choose(|| (), |cpu| kernel(cpu, [(a, &a_shape), (b, &b_shape)], &own, y));
        Ok(())
    });
    let mut y = memory::zeros(op, elements(op, "the result", shape)?)?;
    host(&recorder.host_path(), &HostInputs::Tensors { op, tensors: &inputs }, &mut y)?;
    let y = Tensor::from_vec(recorder.device(), shape, y)?;
    let Some(recording) = recorder.recording() else { return Ok(y) };
    let each: HostWork = Box::new(move |path, inputs, y| {
        let ([a, b], size) = (inputs.all()?, [y.len()]);
        path.choose(|| (), |cpu| kernel(cpu, [(a, &size), (b, &size)], &size, y));
        Ok(())
    });
    recording.broadcast(inputs, &y, each, host)?;
    Ok(y)
}

/// A call of an operation with one result.
struct HostCall<'a> {
    op: &'static str,
    shape: &'a [usize],
    inputs: &'a [&'a Tensor],
    pattern: Pattern,
}

impl HostCall<'_> {
    fn run(
        &self,
        recorder: &mut Recorder,
        mut host: impl FnMut(&HostPath, &HostInputs<'_>, &mut [f32]) -> Result<()> + Send + Sync + 'static,
        gpu: impl FnOnce(&mut gpu::Recorder) -> Result<gpu::Buffer>,
    ) -> Result<Tensor> {
        let Self { op, shape, inputs, pattern } = *self;
        if let Some(recorder) = recorder.gpu() {
            let buffer = gpu(recorder)?;
            return Ok(Tensor::from_buffer(recorder.device(), shape, buffer));
        }
        let mut y = memory::zeros(op, elements(op, "the result", shape)?)?;
        host(&recorder.host_path(), &HostInputs::Tensors { op, tensors: inputs }, &mut y)?;
        let y = Tensor::from_vec(recorder.device(), shape, y)?;
        if let Some(recording) = recorder.recording() {
            let work = match pattern {
                Pattern::Whole => Work::Whole(Box::new(host)),
                Pattern::Each => Work::Each(Box::new(host)),
                Pattern::Repeat(repeat) => Work::Repeat(repeat),
            };
            recording.step(inputs, &[&y], work)?;
        }
        Ok(y)
    }
}

/// [`run`] for an operation that only the CPU has in this form. The recorder's device is a CPU.
pub(crate) fn run_on_cpu<const N: usize>(
    recorder: &mut Recorder,
    op: &'static str,
    shape: &[usize],
    inputs: [&Tensor; N],
    mut kernel: impl FnMut(&CpuDevice, [&[f32]; N], &mut [f32]) -> Result<()> + Send + Sync + 'static,
) -> Result<Tensor> {
    let refused = move |found: &str| Error::DeviceMismatch {
        op,
        what: "recorder",
        expected: "cpu".to_owned(),
        found: found.to_owned(),
    };
    let host = move |path: &HostPath, inputs: [&[f32]; N], y: &mut [f32]| match path {
        HostPath::Cpu(device) => kernel(device, inputs, y),
        HostPath::Reference => Err(refused("reference")),
    };
    run(recorder, op, shape, inputs, host, |_| Err(refused("gpu")))
}

/// Writes a result that has memory of its own to the memory of an operation.
pub(crate) fn put(result: impl super::IntoElements<f32>, y: &mut [f32]) -> Result<()> {
    y.copy_from_slice(&result.into_elements());
    Ok(())
}

//! Recurrent stacks: layers and directions around one cell.

use std::sync::Arc;

use ndarray::{Array3, ArrayView3, ArrayViewMut3, Axis, Dim, Ix3};

use super::config::Config;
use super::state::State;
use crate::cell::{Cell, GruCell, LstmCell, Parameters, RnnCell, Sequence};
use crate::error::Error;
use crate::error::{Result, axes, check_shape, elements};
use crate::gpu;
use crate::ops::resident;
use crate::ops::{Recorder, host};
use crate::reference::LayerState;
use crate::tensor::{Device, Tensor, view};
use crate::{cpu, memory, reference};

const OP: &str = "Recurrent";

/// A stack of Elman layers (`torch.nn.RNN`).
pub type Rnn = Recurrent<RnnCell>;
/// A stack of LSTM layers (`torch.nn.LSTM`).
pub type Lstm = Recurrent<LstmCell>;
/// A stack of GRU layers (`torch.nn.GRU`).
pub type Gru = Recurrent<GruCell>;

impl<C: Default + Clone + Into<Cell>> Recurrent<C> {
    /// The configuration of PyTorch's layer of this kind: `input` features, `hidden` units, one forward layer.
    pub fn config(input: usize, hidden: usize) -> Config<C> {
        Config::new(C::default(), input, hidden)
    }
}

/// A recurrent stack on a device: weights, layers, directions. Cheap to clone.
///
/// # Examples
/// ```
/// use gatewise::{Device, Tensor, nn::Lstm};
/// use ndarray::Array3;
///
/// let device = Device::auto();
/// let lstm = Lstm::config(3, 4).layers(2).random(&device, 7)?;
/// let mut state = lstm.zero_state(2)?;
/// let x = Tensor::from_array(&device, &Array3::<f32>::ones((5, 2, 3)))?; // [T, B, I]
/// let y: Array3<f32> = lstm.forward(&x, &mut state)?.to_array()?;
/// assert_eq!(y.shape(), &[5, 2, 4]);
/// assert_eq!(state.h()?.shape(), &[2, 2, 4]); // [layers, B, H]
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone)]
pub struct Recurrent<C = Cell> {
    config: Config<C>,
    device: Device,
    weights: Arc<Weights>,
}

enum Weights {
    Reference(Vec<Vec<Parameters<f64>>>),
    Cpu(cpu::Stack),
    Gpu(gpu::LayerStack),
}

impl<C: std::fmt::Debug> std::fmt::Debug for Recurrent<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recurrent").field("config", &self.config).field("device", &self.device).finish_non_exhaustive()
    }
}

impl<C: Clone + Into<Cell>> Recurrent<C> {
    /// Packs parameters that [`Config::build`] has checked for the path of their device.
    pub(super) fn upload(config: Config<C>, device: &Device, parameters: &[Vec<Parameters>]) -> Result<Self> {
        let cells = config.cells();
        let weights = match device {
            Device::Reference => {
                let wide = |layer: &Vec<Parameters>| layer.iter().map(|p| p.mapped(OP, f64::from)).collect();
                Weights::Reference(parameters.iter().map(wide).collect::<Result<_>>()?)
            }
            Device::Cpu | Device::CpuWith(_) => {
                let cpu = device.cpu().unwrap_or_else(cpu::CpuDevice::shared);
                let (sizes, merge) = ((config.input, config.hidden), config.merge.op());
                let (directions, weight_type) = (&config.directions, config.weight_type);
                Weights::Cpu(cpu::Stack::new(&cpu, &cells, directions, merge, sizes, parameters, weight_type)?)
            }
            Device::Gpu(gpu) => {
                let problem = config.problem(0, 0);
                let (directions, merge) = (&config.directions, config.merge.op());
                let kind = config.plan.or(gpu.plan_kind());
                Weights::Gpu(gpu::LayerStack::new(gpu, problem, directions, merge, kind, parameters)?)
            }
        };
        Ok(Self { config, device: device.clone(), weights: Arc::new(weights) })
    }

    /// The device the stack lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the stack is made of.
    pub(crate) fn configuration(&self) -> &Config<C> {
        &self.config
    }

    /// Copies the weights to the host, `[layer][direction]`: the values that the layer computes with. Those of a narrow
    /// [`WeightType`](crate::cell::WeightType) come back as it has rounded them. Where a GPU adds the two biases up once and
    /// for all, the sum comes back as `bias_ih`, and `bias_hh` is zero; only what must stay apart (the candidate's biases of a
    /// GRU that resets after the matmul) does.
    ///
    /// # Errors
    /// What a read-back may meet: [`Error::DeviceLost`], [`Error::OutOfMemory`].
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, nn::Gru};
    /// let config = Gru::config(3, 4).layers(2);
    /// let parameters = config.random_parameters(7)?;
    /// let gru = config.build(&Device::Cpu, parameters.clone())?;
    /// assert_eq!(gru.parameters()?, parameters);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        match &*self.weights {
            Weights::Reference(layers) => {
                layers.iter().map(|layer| layer.iter().map(|p| p.mapped(OP, narrow)).collect()).collect()
            }
            Weights::Cpu(stack) => stack.parameters(),
            Weights::Gpu(stack) => stack.parameters(),
        }
    }

    /// Width of the output.
    pub fn output_size(&self) -> usize {
        self.config.output_size()
    }

    /// Runs the whole sequence through all layers and directions in one submission, and advances the state.
    ///
    /// # Shapes
    /// `x [T, B, input]`; returns `[T, B, output_size]` on the same device. `T` may be 0.
    ///
    /// # Errors
    /// [`Error::Shape`] where `x` or the state does not fit, [`Error::DeviceMismatch`], [`Error::Limit`],
    /// [`Error::DeviceLost`]; the state then keeps its value.
    pub fn forward(&self, x: &Tensor, state: &mut State) -> Result<Tensor> {
        self.forward_sequence(x, state, &Sequence::new())
    }

    /// [`Recurrent::forward`] with lengths, masks or resets.
    ///
    /// # Errors
    /// As [`Recurrent::forward`], and [`Error::Shape`] or [`Error::Value`] where the instructions do not fit.
    pub fn forward_sequence(&self, x: &Tensor, state: &mut State, sequence: &Sequence) -> Result<Tensor> {
        let mut recorder = self.device.recorder();
        let y = self.record(&mut recorder, x, state, sequence)?;
        recorder.submit()?;
        Ok(y)
    }

    /// [`Recurrent::forward`] from a host array into a host array. On the CPU a call allocates nothing once a call of the
    /// same `T` and `B` has been made with the same state, if both arrays are contiguous. On a GPU the call and the read-back
    /// of its result are one submission, and the state advances once the result has arrived.
    ///
    /// # Shapes
    /// `x [T, B, input]`, `y [T, B, output_size]`.
    ///
    /// # Errors
    /// As [`Recurrent::forward`], and [`Error::Shape`] where `y` does not fit. The state then keeps its value, and `y` its
    /// elements.
    ///
    /// ```
    /// use gatewise::{Device, nn::Lstm};
    /// use ndarray::Array3;
    ///
    /// let lstm = Lstm::config(3, 4).random(&Device::Cpu, 7)?;
    /// let mut state = lstm.zero_state(1)?;
    /// let mut y = Array3::zeros((1, 1, 4));
    /// for step in 0..10 {
    ///     let x = Array3::from_elem((1, 1, 3), step as f32);
    ///     lstm.forward_into(x.view(), &mut state, y.view_mut())?;
    /// }
    /// assert!(y.iter().all(|y| y.abs() < 1.0));
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn forward_into(&self, x: ArrayView3<'_, f32>, state: &mut State, mut y: ArrayViewMut3<'_, f32>) -> Result<()> {
        let (time, batch, input) = x.dim();
        check_shape(OP, "x", &[time, batch, self.config.input], &[time, batch, input])?;
        check_shape(OP, "y", &[time, batch, self.output_size()], y.shape())?;
        state.check("Recurrent", &self.device, self.config.state_shapes(batch))?;
        if let (Weights::Cpu(stack), Some(x), Some(y)) = (&*self.weights, x.as_slice(), y.as_slice_mut()) {
            return on_cpu(stack, [time, batch], x, y, state, &Sequence::new());
        }
        let x = Tensor::from_array(&self.device, &x)?;
        let mut recorder = self.device.recorder();
        let mut next = state.record_next(&mut recorder)?;
        let output = self.record(&mut recorder, &x, &mut next, &Sequence::new())?;
        y.assign(&recorder.submit_and_read(&output)?.wait_array::<Ix3>()?);
        *state = next;
        Ok(())
    }

    /// Records [`Recurrent::forward_sequence`] beside other operations. On a GPU the state advances when the recorder is
    /// submitted, on the host at once.
    ///
    /// # Errors
    /// As [`Recurrent::forward_sequence`].
    pub fn record(
        &self,
        recorder: &mut Recorder,
        x: &Tensor,
        state: &mut State,
        sequence: &Sequence,
    ) -> Result<Tensor> {
        x.check_device(OP, "x", &self.device)?;
        recorder.device().check_same(OP, "recorder", &self.device)?;
        let [time, batch, input] = axes(OP, "x", "[T, B, input]", x.shape())?;
        check_shape(OP, "x", &[time, batch, self.config.input], &[time, batch, input])?;
        state.check("Recurrent", &self.device, self.config.state_shapes(batch))?;
        if batch == 0 {
            // A call without rows may have any number of steps, and no path may walk them.
            sequence.check(time, batch)?;
            return Tensor::zeros(&self.device, &[time, batch, self.output_size()]);
        }
        let call = Call { time, batch, x };
        match &*self.weights {
            Weights::Reference(layers) => self.on_host(&call, state, |at, x, state| {
                let (cell, p) = (&self.config.cells()[at.1], &layers[at.0][at.1]);
                let mut state64 = state.mapped(OP, f64::from)?;
                let x = memory::mapped(OP, &x, f64::from)?;
                let direction = self.config.directions[at.1];
                let y = reference::layer(cell, p, direction, sequence, x.view(), &mut state64)?;
                *state = state64.mapped(OP, narrow)?;
                memory::mapped(OP, &y, narrow)
            }),
            Weights::Cpu(stack) => {
                let mut y = memory::zeros(OP, elements(OP, "y", &[time, batch, self.output_size()])?)?;
                on_cpu(stack, [time, batch], host(OP, "x", x)?, &mut y, state, sequence)?;
                Tensor::from_vec(&self.device, &[time, batch, self.output_size()], y)
            }
            Weights::Gpu(stack) => self.on_gpu(recorder, stack, &call, sequence, state),
        }
    }

    fn on_gpu(
        &self,
        recorder: &mut Recorder,
        stack: &gpu::LayerStack,
        call: &Call<'_>,
        sequence: &Sequence,
        state: &mut State,
    ) -> Result<Tensor> {
        let Call { time, batch, x } = *call;
        let Some(recorder) = recorder.gpu() else {
            return Err(Error::DeviceMismatch {
                op: OP,
                what: "recorder",
                expected: self.device.to_string(),
                found: "the host".to_owned(),
            });
        };
        let gpu = recorder.device().clone();
        let flags = match sequence.flags(time, batch)? {
            Some(flags) => Some(gpu::Buffer::from_slice(&gpu, "flags", &flags.into_raw_vec_and_offset().0)?),
            None => None,
        };
        let (initial_h, initial_s) = state.initial();
        let initial_h = initial_h.map(|h| resident(OP, "state", h)).transpose()?;
        let initial_s = initial_s.map(|s| resident(OP, "state", s)).transpose()?;
        let s = state.s.as_ref().map(|s| resident(OP, "state", s)).transpose()?;
        let x = resident(OP, "x", x)?;
        let run = gpu::SequenceInput { x, time, batch, flags, resets: sequence.resets(), pad: sequence.padding() };
        let run_state =
            gpu::StateBuffers { h: resident(OP, "state", &state.h)?, s, initial: initial_h.map(|h| (h, initial_s)) };
        let y = gpu::forward(recorder, stack, &run, &run_state)?;
        Ok(Tensor::from_buffer(&gpu, &[time, batch, self.output_size()], y))
    }

    /// Drives the layers of a host device; `one` runs the layer and direction `at`.
    fn on_host(
        &self,
        call: &Call<'_>,
        state: &mut State,
        one: impl Fn((usize, usize), ArrayView3<'_, f32>, &mut LayerState<f32>) -> Result<Array3<f32>>,
    ) -> Result<Tensor> {
        let Call { time, batch, x } = *call;
        let directions = self.config.directions.len();
        let (h_shape, s_shape) = self.config.state_shapes(batch);
        let s_shape = s_shape.unwrap_or([h_shape[0], batch, 0]);
        let read = |tensor: Option<&Tensor>, shape: [usize; 3]| match tensor {
            Some(tensor) => tensor.to_array(),
            None => memory::zero_array(OP, shape),
        };
        let (initial_h, initial_s) = state.initial();
        let (initial_h, initial_s) = (read(initial_h, h_shape)?, read(initial_s, s_shape)?);
        let mut h: Array3<f32> = state.h.to_array()?;
        let mut s = read(state.s.as_ref(), s_shape)?;
        let mut below = memory::owned(OP, &view(OP, host(OP, "x", x)?, Dim([time, batch, self.config.input]))?)?;
        for layer in 0..self.config.layers {
            let mut outputs = Vec::new();
            for direction in 0..directions {
                let row = layer * directions + direction;
                let of = |array: &Array3<f32>| memory::owned(OP, &array.index_axis(Axis(0), row));
                let mut layer_state =
                    LayerState { h: of(&h)?, s: of(&s)?, initial_h: of(&initial_h)?, initial_s: of(&initial_s)? };
                outputs.push(one((layer, direction), below.view(), &mut layer_state)?);
                h.index_axis_mut(Axis(0), row).assign(&layer_state.h);
                s.index_axis_mut(Axis(0), row).assign(&layer_state.s);
            }
            below = self.merged(outputs)?;
        }
        let y = Tensor::from_array(&self.device, &below)?;
        let s = state.s.as_ref().map(|_| Tensor::from_array(&self.device, &s)).transpose()?;
        state.h = Tensor::from_array(&self.device, &h)?;
        state.s = s;
        Ok(y)
    }

    fn merged(&self, outputs: Vec<Array3<f32>>) -> Result<Array3<f32>> {
        reference::merged(self.config.merge.op(), outputs)
    }
}

/// A call on the CPU path, its shapes checked.
fn on_cpu(
    stack: &cpu::Stack,
    [time, batch]: [usize; 2],
    x: &[f32],
    y: &mut [f32],
    state: &mut State,
    sequence: &Sequence,
) -> Result<()> {
    let flags = sequence.flags(time, batch)?;
    let State { h, s, initial, workspace } = state;
    let (initial_h, initial_s) = initial.tensors();
    let initial_h = initial_h.map(|h| host(OP, "state", h)).transpose()?;
    let initial_s = initial_s.map(|s| host(OP, "state", s)).transpose()?;
    let h = h.host_mut(OP, "state")?;
    let s = match s {
        Some(s) => s.host_mut(OP, "state")?,
        None => &mut [],
    };
    let flags = flags.as_ref().and_then(|flags| flags.as_slice());
    let pad = sequence.padding();
    stack.forward(cpu::StackCall { time, batch, x, y, flags, pad, h, s, initial_h, initial_s }, workspace)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
fn narrow(x: f64) -> f32 {
    x as f32
}

/// One call's input.
struct Call<'a> {
    time: usize,
    batch: usize,
    x: &'a Tensor,
}

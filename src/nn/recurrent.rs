//! Recurrent stacks: layers and directions around one cell.

use std::sync::Arc;

use ndarray::{Array2, Array3, ArrayView3, Axis, Dim, concatenate};

use super::config::Config;
use super::state::{Initial, State};
use crate::cell::{Cell, GruCell, LstmCell, Parameters, RnnCell, Sequence};
use crate::error::{Error, Result, axes, check_shape};
#[cfg(feature = "gpu")]
use crate::gpu;
#[cfg(feature = "gpu")]
use crate::ops::resident;
use crate::ops::{Recorder, host};
use crate::plan::Plan;
use crate::reference::LayerState;
use crate::tensor::{Device, Tensor, view};
use crate::{cpu, reference};

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
    Cpu(Vec<Vec<cpu::LayerWeights>>),
    #[cfg(feature = "gpu")]
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
                let wide = |layer: &Vec<Parameters>| layer.iter().map(|p| p.map(f64::from)).collect();
                Weights::Reference(parameters.iter().map(wide).collect())
            }
            Device::Cpu => {
                let pack = |layer: &Vec<Parameters>| {
                    cells.iter().zip(layer).map(|(cell, p)| cpu::LayerWeights::new(cell, config.hidden, p)).collect()
                };
                Weights::Cpu(parameters.iter().map(pack).collect())
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                let sizes = (config.input, config.hidden);
                let merge = config.merge.op();
                Weights::Gpu(gpu::LayerStack::new(gpu, &cells, &config.directions, merge, sizes, parameters)?)
            }
        };
        Ok(Self { config, device: device.clone(), weights: Arc::new(weights) })
    }

    /// The device the stack lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Width of the output.
    pub fn output_size(&self) -> usize {
        self.config.output_size()
    }

    /// The schedule of a call on this stack's device.
    ///
    /// # Errors
    /// [`Error::Limit`] where the call does not fit the device.
    pub fn plan(&self, time: usize, batch: usize) -> Result<Plan> {
        let limits = match &self.device {
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => gpu.plan_limits(),
            device => crate::plan::Limits { adapter: device.to_string(), binding_bytes: u64::MAX, loop_cap: None },
        };
        Plan::new(self.config.problem(time, batch), &limits)
    }

    fn state_shapes(&self, batch: usize) -> ([usize; 3], Option<[usize; 3]>) {
        let Config { hidden, layers, directions, .. } = &self.config;
        let rows = layers * directions.len();
        let s = self.config.cell().has_cell_state().then_some([rows, batch, *hidden]);
        ([rows, batch, self.config.out()], s)
    }

    /// A state of zeros for `batch` rows.
    ///
    /// # Errors
    /// [`Error::Limit`] where it does not fit the device.
    pub fn zero_state(&self, batch: usize) -> Result<State> {
        let (h, s) = self.state_shapes(batch);
        Ok(State {
            h: Tensor::zeros(&self.device, &h)?,
            s: s.map(|s| Tensor::zeros(&self.device, &s)).transpose()?,
            initial: Initial::Zero,
        })
    }

    /// A state of the given value, PyTorch's `h_0` and `c_0`; also what restores one that was read back.
    ///
    /// # Shapes
    /// `h [layers directions, B, O]`, `s [layers directions, B, hidden]`, present exactly for an LSTM.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not fit; [`Error::Limit`].
    pub fn state(&self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<State> {
        const OP: &str = "state";
        let (h_shape, s_shape) = self.state_shapes(h.len_of(Axis(1)));
        check_shape(OP, "h", &h_shape, h.shape())?;
        check_shape(OP, "s", s_shape.as_ref().map_or(&[], |s| &s[..]), s.as_ref().map_or(&[], |s| s.shape()))?;
        let upload = || -> Result<(Tensor, Option<Tensor>)> {
            let s = s.as_ref().map(|s| Tensor::from_array(&self.device, s)).transpose()?;
            Ok((Tensor::from_array(&self.device, &h)?, s))
        };
        let (initial_h, initial_s) = upload()?;
        let (h, s) = upload()?;
        Ok(State { h, s, initial: Initial::Given { h: initial_h, s: initial_s } })
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
        const OP: &str = "Recurrent";
        x.check_device(OP, "x", &self.device)?;
        state.h.check_device(OP, "state", &self.device)?;
        recorder.device().check_same(OP, "recorder", &self.device)?;
        let [time, batch, input] = axes(OP, "x", "[T, B, input]", x.shape())?;
        check_shape(OP, "x", &[time, batch, self.config.input], &[time, batch, input])?;
        let (h_shape, s_shape) = self.state_shapes(batch);
        check_shape(OP, "the state's h", &h_shape, state.h.shape())?;
        let s = state.s.as_ref().map_or(&[][..], Tensor::shape);
        check_shape(OP, "the state's s", s_shape.as_ref().map_or(&[], |s| &s[..]), s)?;
        let call = Call { time, batch, x };
        match &*self.weights {
            Weights::Reference(layers) => self.on_host(&call, state, |at, x, state| {
                let (cell, p) = (&self.config.cells()[at.1], &layers[at.0][at.1]);
                let wide = |x: &Array2<f32>| x.mapv(f64::from);
                let mut state64 = LayerState {
                    h: wide(&state.h),
                    s: wide(&state.s),
                    initial_h: wide(&state.initial_h),
                    initial_s: wide(&state.initial_s),
                };
                let x = x.mapv(f64::from);
                let direction = self.config.directions[at.1];
                let y = reference::layer(cell, p, direction, sequence, x.view(), &mut state64)?;
                state.h = state64.h.mapv(narrow);
                state.s = state64.s.mapv(narrow);
                Ok(y.mapv(narrow))
            }),
            Weights::Cpu(layers) => self.on_host(&call, state, |at, x, state| {
                cpu::layer(&layers[at.0][at.1], self.config.directions[at.1], sequence, x, state)
            }),
            #[cfg(feature = "gpu")]
            Weights::Gpu(stack) => self.on_gpu(recorder, stack, &call, sequence, state),
        }
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(
        &self,
        recorder: &mut Recorder,
        stack: &gpu::LayerStack,
        call: &Call<'_>,
        sequence: &Sequence,
        state: &mut State,
    ) -> Result<Tensor> {
        const OP: &str = "Recurrent";
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
        let (initial_h, initial_s) = match &state.initial {
            Initial::Zero => (None, None),
            Initial::Given { h, s } => (Some(resident(OP, "state", h)?), s.as_ref()),
        };
        let initial_s = initial_s.map(|s| resident(OP, "state", s)).transpose()?;
        let s = state.s.as_ref().map(|s| resident(OP, "state", s)).transpose()?;
        let x = resident(OP, "x", x)?;
        let run = gpu::Run { x, time, batch, flags, resets: sequence.resets(), pad: sequence.padding() };
        let run_state =
            gpu::RunState { h: resident(OP, "state", &state.h)?, s, initial: initial_h.map(|h| (h, initial_s)) };
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
        const OP: &str = "Recurrent";
        let Call { time, batch, x } = *call;
        let directions = self.config.directions.len();
        let (h_shape, s_shape) = self.state_shapes(batch);
        let s_shape = s_shape.unwrap_or([h_shape[0], batch, 0]);
        let read = |tensor: Option<&Tensor>, shape: [usize; 3]| match tensor {
            Some(tensor) => tensor.to_array(),
            None => Ok(Array3::zeros(shape)),
        };
        let (initial_h, initial_s) = match &state.initial {
            Initial::Zero => (None, None),
            Initial::Given { h, s } => (Some(h), s.as_ref()),
        };
        let (initial_h, initial_s) = (read(initial_h, h_shape)?, read(initial_s, s_shape)?);
        let mut h: Array3<f32> = state.h.to_array()?;
        let mut s = read(state.s.as_ref(), s_shape)?;
        let mut below = view(OP, host(OP, "x", x)?, Dim([time, batch, self.config.input]))?.to_owned();
        for layer in 0..self.config.layers {
            let mut outputs = Vec::new();
            for direction in 0..directions {
                let row = layer * directions + direction;
                let of = |array: &Array3<f32>| array.index_axis(Axis(0), row).to_owned();
                let mut layer_state =
                    LayerState { h: of(&h), s: of(&s), initial_h: of(&initial_h), initial_s: of(&initial_s) };
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
        let views: Vec<_> = outputs.iter().map(|y| y.view()).collect();
        match (self.config.merge.op(), views.as_slice()) {
            (Some(op), [forward, reverse]) => {
                let (time, batch, out) = forward.dim();
                let flat = |y: &Array3<f32>| y.to_shape((time * batch, out)).map(|y| y.into_owned());
                let wrong = |e: ndarray::ShapeError| Error::Shape {
                    op: "Recurrent",
                    what: "the directions' outputs",
                    expected: e.to_string(),
                    found: reverse.shape().to_vec(),
                };
                let (a, b) = (flat(&outputs[0]).map_err(wrong)?, flat(&outputs[1]).map_err(wrong)?);
                reference::binary(op, a.view(), b.view()).into_shape_with_order((time, batch, out)).map_err(wrong)
            }
            _ => concatenate(Axis(2), &views).map_err(|e| Error::Shape {
                op: "Recurrent",
                what: "the directions' outputs",
                expected: e.to_string(),
                found: views.first().map_or_else(Vec::new, |y| y.shape().to_vec()),
            }),
        }
    }
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

//! Recurrent stacks: layers and directions around one cell.

use std::sync::Arc;

use ndarray::{ArrayView3, ArrayViewMut3, Ix3};

use super::config::Config;
use super::state::State;
use crate::cell::{Cell, GruCell, LstmCell, Parameters, RnnCell, Sequence};
use crate::error::{Result, axes, check_shape};
use crate::path::{self, Device, DeviceSequence, PackedStack, Recorder, StackCall};
use crate::tensor::Tensor;

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
/// assert_eq!(state.to_h()?.shape(), &[2, 2, 4]); // [layers, B, H]
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone)]
pub struct Recurrent<C = Cell> {
    config: Config<C>,
    device: Device,
    stack: Arc<PackedStack>,
}

impl<C: std::fmt::Debug> std::fmt::Debug for Recurrent<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recurrent").field("config", &self.config).field("device", &self.device).finish_non_exhaustive()
    }
}

impl<C: Clone + Into<Cell>> Recurrent<C> {
    /// Packs parameters that [`Config::build`] has checked for the path of their device.
    pub(super) fn upload(config: Config<C>, device: &Device, parameters: &[Vec<Parameters>]) -> Result<Self> {
        let (problem, merge) = (config.problem(0, 0), config.merge.op());
        let stack = PackedStack::new(device, problem, &config.directions, merge, config.plan, parameters)?;
        Ok(Self { config, device: device.clone(), stack: Arc::new(stack) })
    }

    /// The device the stack lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The configuration of the stack.
    pub(crate) fn configuration(&self) -> &Config<C> {
        &self.config
    }

    /// Copies the weights to the host, `[layer][direction]`, as the layer computes with them. If they are stored in a narrow
    /// [`WeightType`](crate::cell::WeightType), they come back rounded. A GPU stores the sum of the two biases: it comes back
    /// as `bias_ih`, and `bias_hh` is zero. Only the candidate's biases of a GRU that resets after the matmul stay apart.
    ///
    /// # Errors
    /// The errors of a read-back: [`Error::DeviceLost`](crate::Error::DeviceLost),
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
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
        self.stack.parameters()
    }

    /// Runs the whole sequence through all layers and directions in one submission, and advances the state.
    ///
    /// # Shapes
    /// `x [T, B, input]`; returns `[T, B, output_size]` on the same device. `T` may be 0.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if `x` or the state does not fit,
    /// [`Error::DeviceMismatch`](crate::Error::DeviceMismatch), [`Error::Limit`](crate::Error::Limit),
    /// [`Error::DeviceLost`](crate::Error::DeviceLost); the state then keeps its value.
    pub fn forward(&self, x: &Tensor, state: &mut State) -> Result<Tensor> {
        self.forward_sequence(x, state, &Sequence::new())
    }

    /// [`Recurrent::forward`] with lengths, masks or resets: a `&Sequence`, or a [`DeviceSequence`] if they lie on the device.
    ///
    /// # Errors
    /// As [`Recurrent::forward`], and [`Error::Shape`](crate::Error::Shape) or [`Error::Value`](crate::Error::Value) if the
    /// instructions do not fit, [`Error::DeviceMismatch`](crate::Error::DeviceMismatch) if their tensors live elsewhere.
    pub fn forward_sequence<'a>(
        &self,
        x: &Tensor,
        state: &mut State,
        sequence: impl Into<DeviceSequence<'a>>,
    ) -> Result<Tensor> {
        let mut recorder = self.device.recorder();
        let y = self.record(&mut recorder, x, state, sequence)?;
        recorder.submit()?;
        Ok(y)
    }

    /// [`Recurrent::forward`] from a host array into a host array. On the CPU, if both arrays are contiguous, a second
    /// call with the same `T`, `B` and state allocates nothing. On a GPU the call and the read-back of its result are
    /// one submission, and the state advances once the result has arrived.
    ///
    /// # Shapes
    /// `x [T, B, input]`, `y [T, B, output_size]`.
    ///
    /// # Errors
    /// As [`Recurrent::forward`], and [`Error::Shape`](crate::Error::Shape) if `y` does not fit. The state then keeps its
    /// value, and `y` its elements.
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
        if let (Some(stack), Some(x), Some(y)) = (self.stack.cpu(), x.as_slice(), y.as_slice_mut()) {
            return path::forward_on_cpu(stack, [time, batch], x, (y, false), state.tensors_mut(), &Sequence::new());
        }
        let x = Tensor::from_array(&self.device, &x)?;
        let mut recorder = self.device.recorder();
        let mut next = state.record_next(&mut recorder)?;
        let output = self.record(&mut recorder, &x, &mut next, &Sequence::new())?;
        y.assign(&recorder.submit_and_read(&output)?.wait_array::<Ix3>()?);
        *state = next;
        Ok(())
    }

    /// Records [`Recurrent::forward_sequence`] together with other operations. On a GPU the state advances when the recorder is
    /// submitted, on the host at once.
    ///
    /// # Errors
    /// As [`Recurrent::forward_sequence`].
    pub fn record<'a>(
        &self,
        recorder: &mut Recorder,
        x: &Tensor,
        state: &mut State,
        sequence: impl Into<DeviceSequence<'a>>,
    ) -> Result<Tensor> {
        let call = self.checked(recorder, x, state, sequence.into())?;
        if state.batch() == 0 {
            // A call without rows may have any number of steps, so no path may loop over them.
            return Tensor::zeros(&self.device, &[x.shape()[0], 0, self.output_size()]);
        }
        self.stack.record(recorder, &call, state.tensors_mut())
    }

    /// [`Recurrent::record`] into an existing tensor, for example a caller's own buffer
    /// ([`Tensor::from_wgpu_buffer`]): no memory is allocated for the output, and nothing is copied.
    ///
    /// A caller's own buffer is written in place, also one that a clone of `y` shares or that
    /// [`Tensor::wgpu_buffer`] has handed out. Clones of any other tensor keep their elements: `y` then gets other memory. On
    /// the reference it always does.
    ///
    /// # Shapes
    /// `y [T, B, output_size]`
    ///
    /// # Errors
    /// As [`Recurrent::record`], and [`Error::Shape`](crate::Error::Shape) if `y` does not fit,
    /// [`Error::Value`](crate::Error::Value) if it shares a caller's buffer with `x`, a mask, resets or the state's initial value.
    /// The state then keeps its value.
    ///
    /// ```
    /// use gatewise::{Device, Tensor, cell::Sequence, nn::Gru};
    /// let device = Device::auto();
    /// let gru = Gru::config(3, 4).random(&device, 7)?;
    /// let mut state = gru.zero_state(1)?;
    /// let x = Tensor::zeros(&device, &[5, 1, 3])?;
    /// let mut y = Tensor::zeros(&device, &[5, 1, 4])?;
    /// for _ in 0..3 {
    ///     let mut recorder = device.recorder();
    ///     gru.record_into(&mut recorder, &x, &mut state, &Sequence::new(), &mut y)?;
    ///     recorder.submit()?;
    /// }
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn record_into<'a>(
        &self,
        recorder: &mut Recorder,
        x: &Tensor,
        state: &mut State,
        sequence: impl Into<DeviceSequence<'a>>,
        y: &mut Tensor,
    ) -> Result<()> {
        let call = self.checked(recorder, x, state, sequence.into())?;
        y.check_device(OP, "y", &self.device)?;
        check_shape(OP, "y", &[x.shape()[0], x.shape()[1], self.output_size()], y.shape())?;
        if y.is_empty() {
            return Ok(());
        }
        self.stack.record_into(recorder, &call, state.tensors_mut(), y)
    }

    /// A call whose arguments fit the stack.
    fn checked<'a>(
        &self,
        recorder: &Recorder,
        x: &'a Tensor,
        state: &State,
        sequence: DeviceSequence<'a>,
    ) -> Result<StackCall<'a>> {
        x.check_device(OP, "x", &self.device)?;
        recorder.device().check_same(OP, "recorder", &self.device)?;
        let [time, batch, input] = axes(OP, "x", "[T, B, input]", x.shape())?;
        check_shape(OP, "x", &[time, batch, self.config.input], &[time, batch, input])?;
        state.check("Recurrent", &self.device, self.config.state_shapes(batch))?;
        sequence.check(&self.device, time, batch)?;
        Ok(StackCall { x, sequence, width: self.output_size() })
    }
}

//! The state of a recurrent stack, as a value.

mod rows;
mod saved;
mod stacks;

use ndarray::{Array3, ArrayView3};

use crate::cpu;
use crate::error::{Result, check_shape};
use crate::memory;
use crate::path::{Device, Recorder, StateTensors};
use crate::tensor::Tensor;

pub use self::saved::SavedState;

const OP: &str = "State";

/// The memory of a stack between calls: `h`, and `s` for an LSTM. It lives on the layer's device and is read back only
/// when asked for. A call advances it in place, and a call that fails leaves it as it was.
///
/// A state has two values. The next step starts from the *current* value, and every call changes it. A reset returns to the
/// *initial* value, by [`State::reset`] or inside a [`Sequence`](crate::cell::Sequence), and no call changes it.
///
/// | made by | current value | initial value |
/// | --- | --- | --- |
/// | [`Recurrent::zero_state`](super::Recurrent::zero_state) | zeros | zeros |
/// | [`Recurrent::state`](super::Recurrent::state)`(h, s)` | `h`, `s` | zeros |
/// | [`Recurrent::initial_state`](super::Recurrent::initial_state)`(h, s)` | `h`, `s` | `h`, `s` |
/// | [`State::set`]`(h, s)` | `h`, `s` | unchanged |
/// | [`State::set_initial`]`(h, s)` | unchanged | `h`, `s` |
/// | [`Recurrent::restore`](super::Recurrent::restore), [`State::try_clone`], [`State::rows`], [`State::join`] | as the original | as the original |
///
/// # Examples
/// ```
/// use gatewise::{Device, Tensor, nn::Gru};
/// use ndarray::Array3;
/// let gru = Gru::config(3, 4).random(&Device::Cpu, 7)?;
/// let h0 = Array3::from_elem((1, 2, 4), 0.5); // [layers directions, B, O]
/// let mut state = gru.initial_state(h0.view(), None)?;
/// gru.forward(&Tensor::zeros(&Device::Cpu, &[5, 2, 3])?, &mut state)?;
/// state.reset()?;
/// assert_eq!(state.to_h()?, h0);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Debug)]
pub struct State {
    /// `[layers directions, B, O]`, index `layer * directions + direction` as in PyTorch.
    pub(super) h: Tensor,
    /// `[layers directions, B, hidden]`
    pub(super) s: Option<Tensor>,
    pub(super) initial: Initial,
    /// Buffers of the CPU path, kept from call to call.
    pub(super) workspace: cpu::Workspace,
}

/// The value that a reset returns to. Clones share it: nothing writes to it.
#[derive(Clone, Debug)]
pub(super) enum Initial {
    Zero,
    Given { h: Tensor, s: Option<Tensor> },
}

/// Shapes of `h` and, for an LSTM, of `s`.
pub(super) type Shapes = ([usize; 3], Option<[usize; 3]>);

/// A value of `h` and, for an LSTM, of `s` on the host.
type HostValue<'a> = (ArrayView3<'a, f32>, Option<ArrayView3<'a, f32>>);

impl Initial {
    /// Uploads a value of the host. Zeros need no memory.
    fn upload(device: &Device, shapes: Shapes, (h, s): HostValue<'_>) -> Result<Self> {
        check_value("state", shapes, h.shape(), s.as_ref().map(|s| s.shape()))?;
        if h.iter().chain(s.iter().flatten()).all(|x| x.to_bits() == 0) {
            return Ok(Self::Zero);
        }
        let (h, s) = upload(device, shapes, (h, s))?;
        Ok(Self::Given { h, s })
    }

    /// `h` and `s`; zeros if absent.
    pub(super) fn tensors(&self) -> (Option<&Tensor>, Option<&Tensor>) {
        match self {
            Self::Zero => (None, None),
            Self::Given { h, s } => (Some(h), s.as_ref()),
        }
    }
}

impl State {
    fn new((h, s): (Tensor, Option<Tensor>), initial: Initial) -> Self {
        Self { h, s, initial, workspace: cpu::Workspace::default() }
    }

    pub(super) fn zero(device: &Device, (h, s): Shapes) -> Result<Self> {
        let s = s.map(|s| Tensor::zeros(device, &s)).transpose()?;
        Ok(Self::new((Tensor::zeros(device, &h)?, s), Initial::Zero))
    }

    /// A state whose current value is given on the host; the initial value is zero.
    pub(super) fn with_current(device: &Device, shapes: Shapes, value: HostValue<'_>) -> Result<Self> {
        Ok(Self::new(upload(device, shapes, value)?, Initial::Zero))
    }

    /// A state whose current and initial value is given on the host.
    pub(super) fn with_initial(device: &Device, shapes: Shapes, value: HostValue<'_>) -> Result<Self> {
        // Calls change the current value in place, so the initial one has memory of its own.
        let initial = Initial::upload(device, shapes, value)?;
        Ok(Self::new(upload(device, shapes, value)?, initial))
    }

    /// A state whose current value is on the device already; the initial value is zero.
    pub(super) fn record_with_current(
        recorder: &mut Recorder,
        shapes: Shapes,
        h: &Tensor,
        s: Option<&Tensor>,
    ) -> Result<Self> {
        check_value("state", shapes, h.shape(), s.map(Tensor::shape))?;
        Ok(Self::new(
            (h.record_copy(OP, recorder)?, s.map(|s| s.record_copy(OP, recorder)).transpose()?),
            Initial::Zero,
        ))
    }

    /// A state whose current and initial value is on the device already.
    pub(super) fn record_with_initial(
        recorder: &mut Recorder,
        shapes: Shapes,
        h: &Tensor,
        s: Option<&Tensor>,
    ) -> Result<Self> {
        let initial = Initial::Given { h: h.clone(), s: s.cloned() };
        Ok(Self { initial, ..Self::record_with_current(recorder, shapes, h, s)? })
    }

    /// Records a state with the same initial value and another current value.
    pub(crate) fn record_at(&self, recorder: &mut Recorder, h: &Tensor, s: Option<&Tensor>) -> Result<Self> {
        Ok(Self { initial: self.initial.clone(), ..Self::record_with_current(recorder, self.shapes(), h, s)? })
    }

    /// Records [`State::try_clone`].
    pub(crate) fn record_clone(&self, recorder: &mut Recorder) -> Result<Self> {
        self.record_at(recorder, &self.h, self.s.as_ref())
    }

    /// Records a copy for one call to advance. The caller puts it in this state's place once the call's result is on
    /// the host. So a call that fails before that leaves this state as it was. The CPU path's buffers move to the copy.
    pub(crate) fn record_next(&mut self, recorder: &mut Recorder) -> Result<Self> {
        let next = self.record_clone(recorder)?;
        Ok(Self { workspace: std::mem::take(&mut self.workspace), ..next })
    }

    /// `h`, then `s` if there is one.
    #[cfg(feature = "models")]
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        std::iter::once(&self.h).chain(&self.s)
    }

    /// Refuses a state of another device or shape.
    pub(super) fn check(&self, op: &'static str, device: &Device, (h, s): Shapes) -> Result<()> {
        self.h.check_device(op, "state", device)?;
        check_shape(op, "the state's h", &h, self.h.shape())?;
        let found = self.s.as_ref().map_or(&[][..], Tensor::shape);
        check_shape(op, "the state's s", s.as_ref().map_or(&[], |s| &s[..]), found)
    }

    fn shapes(&self) -> Shapes {
        let of = |tensor: &Tensor| std::array::from_fn(|axis| tensor.shape()[axis]);
        (of(&self.h), self.s.as_ref().map(of))
    }

    /// The initial value; zeros if absent.
    pub(super) fn initial(&self) -> (Option<&Tensor>, Option<&Tensor>) {
        self.initial.tensors()
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        self.h.device()
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.h.shape()[1]
    }

    /// Copies `h` to the host: PyTorch's `h_n`, `[layers directions, B, O]`.
    ///
    /// # Errors
    /// The errors of a read-back, such as [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn to_h(&self) -> Result<Array3<f32>> {
        self.h.to_array()
    }

    /// Copies the cell state to the host: PyTorch's `c_n`, `[layers directions, B, hidden]`; `None` unless the cell is an
    /// LSTM.
    ///
    /// # Errors
    /// As [`State::to_h`].
    pub fn to_s(&self) -> Result<Option<Array3<f32>>> {
        self.s.as_ref().map(Tensor::to_array).transpose()
    }

    /// Copies the cell state to the host, under PyTorch's name: [`State::to_s`].
    ///
    /// # Errors
    /// As [`State::to_h`].
    pub fn to_c(&self) -> Result<Option<Array3<f32>>> {
        self.to_s()
    }

    /// Records a copy of `h` on the device, for example for the layers that follow. Nothing is read back.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn h_tensor(&self, recorder: &mut Recorder) -> Result<Tensor> {
        self.h.record_copy(OP, recorder)
    }

    /// Records a copy of the cell state on the device; `None` unless the cell is an LSTM. Nothing is read back.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn s_tensor(&self, recorder: &mut Recorder) -> Result<Option<Tensor>> {
        self.s.as_ref().map(|s| s.record_copy(OP, recorder)).transpose()
    }

    /// Copies the initial value of `h` to the host, `[layers directions, B, O]`.
    ///
    /// # Errors
    /// As [`State::to_h`].
    pub fn to_initial_h(&self) -> Result<Array3<f32>> {
        let (h, _) = self.initial();
        h.map_or_else(|| memory::zero_array(OP, self.shapes().0), Tensor::to_array)
    }

    /// Copies the initial value of the cell state to the host, `[layers directions, B, hidden]`; `None` unless the cell is an
    /// LSTM.
    ///
    /// # Errors
    /// As [`State::to_h`].
    pub fn to_initial_s(&self) -> Result<Option<Array3<f32>>> {
        let (_, s) = self.initial();
        let Some(shape) = self.shapes().1 else { return Ok(None) };
        s.map_or_else(|| memory::zero_array(OP, shape), Tensor::to_array).map(Some)
    }

    /// Sets the current value. The initial value, which a reset returns to, stays.
    ///
    /// # Shapes
    /// As [`Recurrent::state`](super::Recurrent::state), for as many rows as the state has.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) if they do not fit; as [`Tensor::from_array`]. The state then keeps its value.
    ///
    /// # Examples
    /// A snapshot of the current value, taken and put back:
    /// ```
    /// use gatewise::{Device, Tensor, nn::Gru};
    /// let device = Device::auto();
    /// let gru = Gru::config(3, 4).random(&device, 7)?;
    /// let mut state = gru.zero_state(2)?;
    /// let x = Tensor::zeros(&device, &[5, 2, 3])?;
    /// gru.forward(&x, &mut state)?;
    /// let h = state.to_h()?;
    /// gru.forward(&x, &mut state)?;
    /// state.set(h.view(), None)?;
    /// assert_eq!(state.to_h()?, h);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn set(&mut self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<()> {
        (self.h, self.s) = upload(self.device(), self.shapes(), (h, s))?;
        Ok(())
    }

    /// Sets the initial value, which a reset returns to. The current value stays.
    ///
    /// # Shapes
    /// As [`State::set`].
    ///
    /// # Errors
    /// As [`State::set`].
    pub fn set_initial(&mut self, h: ArrayView3<'_, f32>, s: Option<ArrayView3<'_, f32>>) -> Result<()> {
        self.initial = Initial::upload(self.device(), self.shapes(), (h, s))?;
        Ok(())
    }

    /// Copies the state with both of its values.
    ///
    /// # Errors
    /// As [`Tensor::from_array`].
    pub fn try_clone(&self) -> Result<Self> {
        let mut recorder = self.device().recorder();
        let clone = self.record_clone(&mut recorder)?;
        recorder.submit()?;
        Ok(clone)
    }

    /// Returns to the initial value, to begin another sequence. On the host nothing is allocated, unless a tensor of
    /// [`State::h_tensor`] or [`State::s_tensor`] shares the memory.
    ///
    /// # Errors
    /// As [`Tensor::from_array`]; the state then keeps its value.
    pub fn reset(&mut self) -> Result<()> {
        self.tensors_mut().reset()
    }

    /// The state as a path reads and advances it.
    pub(super) fn tensors_mut(&mut self) -> StateTensors<'_> {
        let Self { h, s, initial, workspace } = self;
        let (initial_h, initial_s) = initial.tensors();
        StateTensors { h, s, initial: [initial_h, initial_s], workspace }
    }
}

/// Refuses a value whose shapes differ from those of a state.
fn check_value(op: &'static str, (h, s): Shapes, found_h: &[usize], found_s: Option<&[usize]>) -> Result<()> {
    check_shape(op, "h", &h, found_h)?;
    check_shape(op, "s", s.as_ref().map_or(&[], |s| &s[..]), found_s.unwrap_or_default())
}

/// Puts a value of the host on a device.
fn upload(device: &Device, shapes: Shapes, (h, s): HostValue<'_>) -> Result<(Tensor, Option<Tensor>)> {
    check_value("state", shapes, h.shape(), s.as_ref().map(|s| s.shape()))?;
    Ok((Tensor::from_array(device, &h)?, s.map(|s| Tensor::from_array(device, &s)).transpose()?))
}

//! Instructions of a call whose mask and resets lie on the device.

use std::borrow::Cow;

use super::Device;
use crate::cell::Sequence;
use crate::error::{Result, check_shape};
use crate::gpu;
use crate::tensor::Tensor;

const OP: &str = "sequence";

/// The instructions of a call without any.
static PLAIN: Sequence = Sequence::new();

/// A [`Sequence`] whose mask and resets may be tensors on the layer's device, for example the results of kernels that ran
/// before. They never come to the host. Every method that takes instructions takes this type or a `&Sequence`.
///
/// A tensor has the shape `[T, B]`. An element says no if it is 0 or -0, and otherwise yes; a NaN, an infinity or a denormal
/// says yes. The results have the bits that a host mask with the same answers gives. A call's tensors are read when its
/// commands run. [`ops::permute`](crate::ops::permute) turns a tensor of `[B, T]` into `[T, B]`.
///
/// ```
/// use gatewise::{Device, Tensor, cell::Sequence, nn::{DeviceSequence, Gru}};
/// let device = Device::auto();
/// let gru = Gru::config(3, 4).random(&device, 7)?;
/// let mut state = gru.zero_state(2)?;
/// let x = Tensor::zeros(&device, &[5, 2, 3])?;
/// let loud = Tensor::from_vec(&device, &[5, 2], vec![1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0])?;
/// let lengths = Sequence::new().lengths([5, 3]);
/// let y = gru.forward_sequence(&x, &mut state, DeviceSequence::from(&lengths).mask(&loud))?;
/// assert_eq!(y.shape(), [5, 2, 4]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct DeviceSequence<'a> {
    host: &'a Sequence,
    mask: Option<&'a Tensor>,
    reset: Option<&'a Tensor>,
}

impl Default for DeviceSequence<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> From<&'a Sequence> for DeviceSequence<'a> {
    /// The instructions of the host, to which tensors can be added.
    fn from(host: &'a Sequence) -> Self {
        Self { host, mask: None, reset: None }
    }
}

impl<'a> DeviceSequence<'a> {
    /// Every step of every row counts.
    pub fn new() -> Self {
        Self::from(&PLAIN)
    }

    /// `mask[[t, b]]` 0 skips step `t` of row `b`, as [`Sequence::mask`] does. A step counts only if the host's lengths and mask
    /// let it count as well. Shape `[T, B]`.
    pub fn mask(mut self, mask: &'a Tensor) -> Self {
        self.mask = Some(mask);
        self
    }

    /// `reset[[t, b]]` other than 0 returns row `b` to the state's initial value before step `t`, as [`Sequence::reset`]
    /// does. Resets of the host count as well. Shape `[T, B]`.
    pub fn reset(mut self, reset: &'a Tensor) -> Self {
        self.reset = Some(reset);
        self
    }

    /// The tensors, each with its name.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&'static str, &'a Tensor)> {
        let named = [("mask", self.mask), ("reset", self.reset)];
        named.into_iter().filter_map(|(what, tensor)| Some((what, tensor?)))
    }

    /// Refuses instructions that do not fit a call on a device.
    pub(crate) fn check(&self, device: &Device, time: usize, batch: usize) -> Result<()> {
        self.host.check(time, batch)?;
        for (what, tensor) in self.tensors() {
            tensor.check_device(OP, what, device)?;
            check_shape(OP, what, &[time, batch], tensor.shape())?;
        }
        Ok(())
    }

    /// The instructions as a [`Sequence`], for a path that computes on the host. There the tensors' elements are read.
    pub(super) fn on_host(&self, time: usize, batch: usize) -> Result<Cow<'a, Sequence>> {
        if self.tensors().next().is_none() {
            return Ok(Cow::Borrowed(self.host));
        }
        let numbers = |tensor: Option<&'a Tensor>, what| tensor.map(|tensor| tensor.host(OP, what)).transpose();
        let (mask, reset) = (numbers(self.mask, "mask")?, numbers(self.reset, "reset")?);
        self.host.with_numbers([time, batch], mask, reset).map(Cow::Owned)
    }

    /// The input of a call on a GPU. Records the kernel that joins the tensors with the host's instructions.
    pub(super) fn on_gpu<'x>(
        &self,
        recorder: &mut gpu::Recorder,
        x: &'x gpu::Buffer,
        [time, batch]: [usize; 2],
    ) -> Result<gpu::SequenceInput<'x>> {
        let flags = match self.host.flags(time, batch)? {
            Some(flags) => {
                let words = flags.into_raw_vec_and_offset().0;
                Some(gpu::Buffer::from_slice(recorder.device(), "flags", &words)?)
            }
            None => None,
        };
        let buffer = |tensor: Option<&'a Tensor>, what| tensor.map(|tensor| tensor.buffer(OP, what)).transpose();
        let (mask, reset) = (buffer(self.mask, "mask")?, buffer(self.reset, "reset")?);
        let flags = match (mask, reset) {
            (None, None) => flags,
            _ => Some(gpu::sequence_flags(recorder, flags.as_ref(), mask, reset, time * batch)?),
        };
        let (resets, pad) = (self.host.resets() || reset.is_some(), self.host.padding());
        Ok(gpu::SequenceInput { x, time, batch, flags, resets, pad })
    }
}

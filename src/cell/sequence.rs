//! Instructions of a call about its time steps: lengths, masks, resets.

use std::ops::Range;

use ndarray::{ArcArray2, Array2, s};

use crate::error::{Error, Result, check_shape};
use crate::memory;

const OP: &str = "sequence";

/// The output at a step that a row skips.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pad {
    /// Zero, as PyTorch's packed sequences and ONNX's `sequence_lens`.
    #[default]
    Zero,
    /// The output of the row's last valid step, zero before the first, as Keras.
    Hold,
}

/// Per-row, per-step instructions of one call. The default is the plain case: every step of every row counts.
///
/// A skipped step leaves the row's state untouched, in either direction of time. So a reverse layer starts at the row's
/// last valid step, as in PyTorch and ONNX.
///
/// Masks and resets that lie on a device are given as a [`DeviceSequence`](crate::nn::DeviceSequence).
///
/// ```
/// use gatewise::cell::{Pad, Sequence};
/// let padded = Sequence::new().lengths([5, 3, 0]).pad(Pad::Zero);
/// # let _ = padded;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    lengths: Option<Vec<usize>>,
    // Clones and parts share their memory.
    mask: Option<ArcArray2<bool>>,
    reset: Option<ArcArray2<bool>>,
    pad: Pad,
}

/// Bit of a flag word: the row takes part in the step.
pub(crate) const VALID: u32 = 1;
/// Bit of a flag word: the row's state returns to its initial value before the step.
pub(crate) const RESET: u32 = 2;

/// Whether a number of a mask or of resets means yes: any number but 0 and -0 does, also a NaN or a denormal.
pub(crate) fn is_set(x: f32) -> bool {
    x.to_bits() << 1 != 0
}

impl Sequence {
    /// Every step of every row counts.
    pub const fn new() -> Self {
        Self { lengths: None, mask: None, reset: None, pad: Pad::Zero }
    }

    /// Row `b` ends after `lengths[b]` steps; 0 is legal and leaves the row's state as it was.
    pub fn lengths(mut self, lengths: impl IntoIterator<Item = usize>) -> Self {
        self.lengths = Some(lengths.into_iter().collect());
        self
    }

    /// `mask[[t, b]]` false skips step `t` of row `b` (Keras' masks). Shape `[T, B]`.
    pub fn mask(mut self, mask: Array2<bool>) -> Self {
        self.mask = Some(mask.into_shared());
        self
    }

    /// `reset[[t, b]]` true returns row `b` to the state's initial value before step `t`, as episodes of reinforcement
    /// learning need (haiku's `ResetCore`). Shape `[T, B]`.
    pub fn reset(mut self, reset: Array2<bool>) -> Self {
        self.reset = Some(reset.into_shared());
        self
    }

    /// Sets the output at skipped steps.
    pub fn pad(mut self, pad: Pad) -> Self {
        self.pad = pad;
        self
    }

    /// The instructions for a range of steps.
    pub(crate) fn part(&self, steps: Range<usize>) -> Self {
        let cut = |array: &ArcArray2<bool>| {
            let end = steps.end.min(array.nrows());
            array.clone().slice_move(s![steps.start.min(end)..end, ..])
        };
        let left = |&length: &usize| length.saturating_sub(steps.start).min(steps.len());
        Self {
            lengths: self.lengths.as_ref().map(|lengths| lengths.iter().map(left).collect()),
            mask: self.mask.as_ref().map(cut),
            reset: self.reset.as_ref().map(cut),
            pad: self.pad,
        }
    }

    /// Which rows take part in which steps, by lengths and mask, `[T, B]`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Value`] if the instructions do not fit; [`Error::OutOfMemory`].
    pub fn valid(&self, time: usize, batch: usize) -> Result<Array2<bool>> {
        match self.flags(time, batch)? {
            Some(flags) => memory::mapped(OP, &flags, |word| word & VALID != 0),
            None => memory::full(OP, (time, batch), true),
        }
    }

    /// The output at skipped steps.
    pub fn padding(&self) -> Pad {
        self.pad
    }

    /// Whether some step may reset a row.
    pub(crate) fn resets(&self) -> bool {
        self.reset.is_some()
    }

    /// The instructions together with a mask and resets as numbers `[time, batch]` ([`is_set`]): a step counts if both masks say so,
    /// and a row is reset if either says so.
    pub(crate) fn with_numbers(
        &self,
        [time, batch]: [usize; 2],
        mask: Option<&[f32]>,
        reset: Option<&[f32]>,
    ) -> Result<Self> {
        self.check(time, batch)?;
        let joined = |own: &Option<ArcArray2<bool>>, numbers: Option<&[f32]>, join: fn(bool, bool) -> bool| {
            let Some(numbers) = numbers else { return Ok(own.clone()) };
            let of = |(t, b)| {
                let set = is_set(numbers[t * batch + b]);
                own.as_ref().map_or(set, |own| join(own[[t, b]], set))
            };
            memory::array(OP, (time, batch), of).map(|array| Some(array.into_shared()))
        };
        Ok(Self {
            lengths: self.lengths.clone(),
            mask: joined(&self.mask, mask, |a, b| a && b)?,
            reset: joined(&self.reset, reset, |a, b| a || b)?,
            pad: self.pad,
        })
    }

    /// Refuses instructions that do not fit a call.
    pub(crate) fn check(&self, time: usize, batch: usize) -> Result<()> {
        if let Some(lengths) = &self.lengths {
            check_shape(OP, "lengths", &[batch], &[lengths.len()])?;
            if let Some(&found) = lengths.iter().find(|&&length| length > time) {
                return Err(Error::Value { op: OP, what: "lengths", expected: "at most T", found: found.to_string() });
            }
        }
        for (what, array) in [("mask", &self.mask), ("reset", &self.reset)] {
            if let Some(array) = array {
                check_shape(OP, what, &[time, batch], array.shape())?;
            }
        }
        Ok(())
    }

    /// One word of flags (`VALID`, `RESET`) per step and row, `[T, B]`; `None` if every step of every row counts.
    pub(crate) fn flags(&self, time: usize, batch: usize) -> Result<Option<Array2<u32>>> {
        self.check(time, batch)?;
        if self.lengths.is_none() && self.mask.is_none() && self.reset.is_none() {
            return Ok(None);
        }
        let flags = memory::array(OP, (time, batch), |(t, b)| {
            let valid = self.lengths.as_ref().is_none_or(|l| t < l[b]) && self.mask.as_ref().is_none_or(|m| m[[t, b]]);
            let reset = self.reset.as_ref().is_some_and(|r| r[[t, b]]);
            u32::from(valid) * VALID + u32::from(reset) * RESET
        })?;
        Ok(Some(flags))
    }
}

//! The end of a training step: the global norm of the gradients, the verdict on the step, the update of every parameter.

use super::Recorder;
use crate::error::{Result, check_shape};
use crate::gpu;
use crate::memory;
use crate::op::{Clip, Update};
use crate::path::{self, Device, HostPath, ReadBack, in_precision};
use crate::reference::{Real, clip_coefficient};
use crate::tensor::Tensor;

/// Words of a verdict.
const WORDS: usize = 5;
/// The loss.
const LOSS: usize = 0;
/// The norm of all gradients before they are scaled.
const NORM: usize = 1;
/// The factor of all gradients; 0 once a step is bad.
const COEFFICIENT: usize = 2;
/// 1, or 0 once the loss or the norm was NaN or infinite. From then on the verdict stays as it is.
const GOOD: usize = 3;
/// The step that was judged, as an integer.
const STEP: usize = 4;

/// Whether a training step was good, on the device. [`optimizer_step`] reads it there: if a step's loss or gradient is NaN or
/// infinite, neither that step nor any later one changes anything.
#[derive(Clone, Debug)]
pub(crate) struct Verdict(Tensor);

/// A verdict on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VerdictWords {
    pub(crate) loss: f32,
    pub(crate) norm: f32,
    pub(crate) good: bool,
    pub(crate) step: u32,
}

impl Verdict {
    /// The verdict before the first step.
    pub(crate) fn fresh(device: &Device) -> Result<Self> {
        let mut words = [0.0; WORDS];
        words[GOOD] = 1.0;
        Ok(Self(Tensor::from_vec(device, &[WORDS], words.to_vec())?))
    }

    /// Its words on the device, `[5]`.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.0
    }
}

impl VerdictWords {
    /// Waits for the words of a verdict.
    pub(crate) fn wait(read: ReadBack) -> Result<Self> {
        let words = read.wait()?;
        Ok(Self { loss: words[LOSS], norm: words[NORM], good: words[GOOD] == 1.0, step: words[STEP].to_bits() })
    }
}

/// Judges a step: computes the norm of all gradients after clipping by value, and the factor that keeps the norm within
/// its limit.
///
/// # Shapes
/// `loss []`
pub(crate) fn judge_step(
    recorder: &mut Recorder,
    clip: &Clip,
    step: u32,
    loss: &Tensor,
    gradients: &[&Tensor],
    before: &Verdict,
) -> Result<Verdict> {
    const OP: &str = "judge_step";
    check_shape(OP, "loss", &[], loss.shape())?;
    loss.check_device(OP, "loss", recorder.device())?;
    for gradient in gradients {
        gradient.check_device(OP, "gradient", recorder.device())?;
    }
    path::dispatch(
        recorder,
        |_, device| judge_on_host(OP, device, clip, step, loss, gradients, before),
        |gpu| {
            let buffers = gradients.iter().map(|gradient| Ok((gradient.buffer(OP, "gradient")?, gradient.len())));
            let gradients = buffers.collect::<Result<Vec<_>>>()?;
            let (loss, before) = (loss.buffer(OP, "loss")?, before.0.buffer(OP, "verdict")?);
            let verdict = gpu::judge_step(gpu, clip, step, loss, &gradients, before, WORDS)?;
            Ok(Verdict(Tensor::from_buffer(gpu.device(), &[WORDS], verdict)))
        },
    )
}

fn judge_on_host(
    op: &'static str,
    device: &Device,
    clip: &Clip,
    step: u32,
    loss: &Tensor,
    gradients: &[&Tensor],
    before: &Verdict,
) -> Result<Verdict> {
    if before.0.host(op, "verdict")?[GOOD] != 1.0 {
        return Ok(before.clone());
    }
    // In 64 bits no square overflows or vanishes; the kernels scale by a power of two instead.
    let mut squares = 0.0;
    for gradient in gradients {
        let square = |&g: &f32| f64::from(clip.clamp(g)).powi(2);
        squares += gradient.host(op, "gradient")?.iter().map(square).sum::<f64>();
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    let (loss, norm) = (loss.host(op, "loss")?[0], squares.sqrt() as f32);
    let mut words = [loss, norm, 0.0, 0.0, f32::from_bits(step)];
    if loss.is_finite() && norm.is_finite() {
        (words[COEFFICIENT], words[GOOD]) = (clip_coefficient(norm, clip.norm), 1.0);
    }
    Ok(Verdict(Tensor::from_vec(device, &[WORDS], words.to_vec())?))
}

/// A parameter with the values that its rule remembers of it.
pub(crate) struct Moved {
    pub(crate) parameter: Tensor,
    /// `[slots, elements]`
    pub(crate) slots: Tensor,
}

/// Updates one parameter if the step was good; else both values come back as they were.
pub(crate) fn optimizer_step(
    recorder: &mut Recorder,
    update: &Update,
    clip: &Clip,
    verdict: &Verdict,
    now: &Moved,
    gradient: &Tensor,
) -> Result<Moved> {
    const OP: &str = "optimizer_step";
    let Moved { parameter, slots } = now;
    let len = parameter.len();
    check_shape(OP, "gradient", parameter.shape(), gradient.shape())?;
    check_shape(OP, "slots", &[update.rule.slots().len(), len], slots.shape())?;
    for (what, tensor) in [("parameter", parameter), ("gradient", gradient), ("slots", slots)] {
        tensor.check_device(OP, what, recorder.device())?;
    }
    path::dispatch(
        recorder,
        |path, device| step_on_host(OP, (path, device), update, clip, verdict, now, gradient),
        |gpu| {
            let inputs = [
                parameter.buffer(OP, "parameter")?,
                gradient.buffer(OP, "gradient")?,
                slots.buffer(OP, "slots")?,
                verdict.0.buffer(OP, "verdict")?,
            ];
            let [moved, kept] = gpu::optimizer_step(gpu, update, clip, inputs, len)?;
            Ok(Moved {
                parameter: Tensor::from_buffer(gpu.device(), parameter.shape(), moved),
                slots: Tensor::from_buffer(gpu.device(), slots.shape(), kept),
            })
        },
    )
}

fn step_on_host(
    op: &'static str,
    (path, device): (HostPath, &Device),
    update: &Update,
    clip: &Clip,
    verdict: &Verdict,
    now: &Moved,
    gradient: &Tensor,
) -> Result<Moved> {
    let Moved { parameter, slots } = now;
    let verdict = verdict.0.host(op, "verdict")?;
    if verdict[GOOD] != 1.0 {
        return Ok(Moved { parameter: parameter.clone(), slots: slots.clone() });
    }
    let c = &verdict[COEFFICIENT..=COEFFICIENT];
    let (p, g, kept) = (parameter.host(op, "parameter")?, gradient.host(op, "gradient")?, slots.host(op, "slots")?);
    let mut both = in_precision!(path, op, p = p, g = g, kept = kept, c = c;
        update_all(op, update, clip, c[0], p, g, kept)?)?;
    let kept = memory::copied(op, &both[parameter.len()..])?;
    both.truncate(parameter.len());
    Ok(Moved {
        parameter: Tensor::from_vec(device, parameter.shape(), both)?,
        slots: Tensor::from_vec(device, slots.shape(), kept)?,
    })
}

/// Updates all elements; returns the parameters, followed by the slots.
fn update_all<F: Real>(
    op: &'static str,
    update: &Update,
    clip: &Clip,
    coefficient: F,
    p: &[F],
    g: &[F],
    kept: &[F],
) -> Result<Vec<F>> {
    let (len, count) = (p.len(), update.rule.slots().len());
    let mut both = memory::room(op, p.len() + kept.len())?;
    both.extend_from_slice(p);
    both.extend_from_slice(kept);
    let mut slots = [F::zero(); MOST_SLOTS];
    for at in 0..len {
        let slots = &mut slots[..count];
        for (slot, value) in slots.iter_mut().enumerate() {
            *value = kept[slot * len + at];
        }
        both[at] = update.apply(p[at], coefficient * clip.clamp(g[at]), slots);
        for (slot, &value) in slots.iter().enumerate() {
            both[(slot + 1) * len + at] = value;
        }
    }
    Ok(both)
}

/// The most values that a rule remembers of an element.
const MOST_SLOTS: usize = 3;

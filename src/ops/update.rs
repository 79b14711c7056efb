//! The end of a training step: the global norm of the gradients, the verdict on the step, the update of every parameter.

use super::resident;
use super::{Recorder, host, on_host};
use crate::error::{Result, check_shape};
use crate::gpu;
use crate::memory;
use crate::op::{Clip, Update};
use crate::reference::clip_coefficient;
use crate::tensor::{Device, ReadBack, Tensor};

/// Words of a verdict.
const WORDS: usize = 5;
/// The loss, and the norm of all gradients before they were scaled.
const LOSS: usize = 0;
const NORM: usize = 1;
/// The factor of all gradients; 0 once a step was bad.
const COEFFICIENT: usize = 2;
/// 1, or 0 once the loss or the norm was no finite number. From then on the verdict stays as it is.
const GOOD: usize = 3;
/// The step it was given at, as an integer.
const STEP: usize = 4;

/// What became of a training step, on the device: [`optimizer_step`] reads it there, so that a step whose loss or gradient is no
/// finite number changes nothing, nor does any later one.
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
    /// That on no step yet.
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

/// Judges a step: the norm of all gradients, each clamped by value first, and the factor that keeps it below the limit.
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
    if let Some(gpu) = recorder.gpu() {
        let lengths: Vec<usize> = gradients.iter().map(|gradient| gradient.len()).collect();
        let buffers =
            gradients.iter().map(|gradient| resident(OP, "gradient", gradient)).collect::<Result<Vec<_>>>()?;
        let gradients: Vec<(&gpu::Buffer, usize)> = buffers.into_iter().zip(lengths).collect();
        let (loss, before) = (resident(OP, "loss", loss)?, resident(OP, "verdict", &before.0)?);
        let verdict = gpu::judge_step(gpu, clip, step, loss, &gradients, before, WORDS)?;
        return Ok(Verdict(Tensor::from_buffer(gpu.device(), &[WORDS], verdict)));
    }
    if host(OP, "verdict", &before.0)?[GOOD] != 1.0 {
        return Ok(before.clone());
    }
    // In 64 bits no square overflows or vanishes; the kernels scale by a power of two instead.
    let mut squares = 0.0;
    for gradient in gradients {
        let square = |&g: &f32| f64::from(clip.clamp(g)).powi(2);
        squares += host(OP, "gradient", gradient)?.iter().map(square).sum::<f64>();
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    let (loss, norm) = (host(OP, "loss", loss)?[0], squares.sqrt() as f32);
    let mut words = [loss, norm, 0.0, 0.0, f32::from_bits(step)];
    if loss.is_finite() && norm.is_finite() {
        (words[COEFFICIENT], words[GOOD]) = (clip_coefficient(norm, clip.norm), 1.0);
    }
    Ok(Verdict(Tensor::from_vec(recorder.device(), &[WORDS], words.to_vec())?))
}

/// A parameter with what its rule remembers of it.
pub(crate) struct Moved {
    pub(crate) parameter: Tensor,
    /// `[slots, elements]`
    pub(crate) slots: Tensor,
}

/// One parameter's update, where the step was good; else both come back as they were.
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
    check_shape(OP, "what the rule remembers", &[update.rule.slots().len(), len], slots.shape())?;
    for (what, tensor) in [("parameter", parameter), ("gradient", gradient), ("slots", slots)] {
        tensor.check_device(OP, what, recorder.device())?;
    }
    if let Some(gpu) = recorder.gpu() {
        let inputs = [
            resident(OP, "parameter", parameter)?,
            resident(OP, "gradient", gradient)?,
            resident(OP, "slots", slots)?,
            resident(OP, "verdict", &verdict.0)?,
        ];
        let [moved, kept] = gpu::optimizer_step(gpu, update, clip, inputs, len)?;
        return Ok(Moved {
            parameter: Tensor::from_buffer(gpu.device(), parameter.shape(), moved),
            slots: Tensor::from_buffer(gpu.device(), slots.shape(), kept),
        });
    }
    let verdict = host(OP, "verdict", &verdict.0)?;
    if verdict[GOOD] != 1.0 {
        return Ok(Moved { parameter: parameter.clone(), slots: slots.clone() });
    }
    let coefficient = verdict[COEFFICIENT];
    let (p, g, kept) = (host(OP, "parameter", parameter)?, host(OP, "gradient", gradient)?, host(OP, "slots", slots)?);
    let mut both = on_host!(OP, recorder.device(), p = p, g = g, kept = kept, c = std::slice::from_ref(&coefficient);
        update_all(OP, update, clip, c[0], p, g, kept)?);
    let kept = memory::copied(OP, &both[len..])?;
    both.truncate(len);
    Ok(Moved {
        parameter: Tensor::from_vec(recorder.device(), parameter.shape(), both)?,
        slots: Tensor::from_vec(recorder.device(), slots.shape(), kept)?,
    })
}

/// All elements; returns the parameters and behind them the slots.
fn update_all<F: crate::reference::Real>(
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

/// What a rule remembers at most of an element.
const MOST_SLOTS: usize = 3;

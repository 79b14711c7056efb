//! The end of a training step: norm, verdict, update. Shapes are checked by [`ops`](crate::ops).

use bytemuck::Zeroable;

use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{JUDGE_STEP, OPTIMIZER_STEP, PARTIAL_SUMS};
use crate::gpu::kept::uniform::uniform;
use crate::gpu::ops::{WORKGROUP_SIZE, check_loops, fold, grid, produce, word, work_of_rows};
use crate::gpu::submit::recorder::Recorder;
use crate::op::{Adam, Clip, RmsProp, Rule, Sgd, Update};
use crate::plan::Work;

/// Elements that a workgroup of `partial_sums` adds up.
pub(super) const RUN: usize = 64 * WORKGROUP_SIZE;

uniform! {
    struct PartialSumsDims { count: u32, y_offset: u32, limit: f32 }
    struct JudgeStepDims { count: u32, step: u32, limit: f32 }
    /// `shaders/train/optimizer_step.wgsl` describes the fields for each rule.
    struct OptimizerStepDims {
        count: u32,
        first: u32,
        limit: f32,
        rate: f32,
        decay: f32,
        momentum: f32,
        dampened: f32,
        kept: f32,
        rest: f32,
        eps: f32,
        root: f32,
    }
}

/// Records the sum or the norm of every [`RUN`] consecutive elements of `x`, written to `y` from `y_offset` on. If there is a limit, each
/// element is clamped first.
pub(super) fn partial_sums(
    recorder: &mut Recorder,
    (x, count): (&Buffer, usize),
    limit: Option<f32>,
    norm: bool,
    (y, y_offset): (&Buffer, usize),
) -> Result<()> {
    let op = PARTIAL_SUMS.name;
    let device = recorder.device().clone();
    // The kernel also counts up to the end of the last run.
    word(&device, op, count.next_multiple_of(RUN))?;
    let dims = PartialSumsDims {
        count: word(&device, op, count)?,
        y_offset: word(&device, op, y_offset)?,
        limit: limit.unwrap_or_default(),
    };
    let constants = vec![("NORM", u32::from(norm)), ("CLAMPED", u32::from(limit.is_some()))];
    let work = Work::each(count, 0).iterations(RUN / WORKGROUP_SIZE);
    let grid = fold(&device, op, count.div_ceil(RUN), work)?;
    let bound = recorder.bind(&PARTIAL_SUMS, &constants, [x, y].map(Buffer::clone))?;
    recorder.dispatch(bound, &dims, &grid)
}

/// Records the verdict on a step, a buffer of `words` words.
pub(crate) fn judge_step(
    recorder: &mut Recorder,
    clip: &Clip,
    step: u32,
    loss: &Buffer,
    gradients: &[(&Buffer, usize)],
    before: &Buffer,
    words: usize,
) -> Result<Buffer> {
    let op = JUDGE_STEP.name;
    let device = recorder.device().clone();
    let count = gradients.iter().map(|(_, len)| len.div_ceil(RUN)).sum::<usize>();
    let partial = Buffer::new(&device, op, count)?;
    let mut offset = 0;
    for &(gradient, len) in gradients {
        partial_sums(recorder, (gradient, len), clip.value, true, (&partial, offset))?;
        offset += len.div_ceil(RUN);
    }
    // The norm reads its elements twice.
    check_loops(&device, op, 2 * count.div_ceil(WORKGROUP_SIZE) + WORKGROUP_SIZE)?;
    recorder.has_passing_numbers();
    let dims = JudgeStepDims { count: word(&device, op, count)?, step, limit: clip.norm.unwrap_or_default() };
    let constants = vec![("CLIPPED", u32::from(clip.norm.is_some()))];
    let grid = grid(&device, op, [1, 1, 1], work_of_rows([1, count], 1))?;
    produce(recorder, &JUDGE_STEP, &constants, &[loss, &partial, before], &dims, words, &grid)
}

/// Records the update of one parameter. The inputs are parameter, gradient, slots and verdict. Returns the new parameter and slots.
pub(crate) fn optimizer_step(
    recorder: &mut Recorder,
    update: &Update,
    clip: &Clip,
    inputs: [&Buffer; 4],
    len: usize,
) -> Result<[Buffer; 2]> {
    let op = OPTIMIZER_STEP.name;
    let device = recorder.device().clone();
    let slots = update.rule.slots().len();
    word(&device, op, (slots + 1) * len)?;
    let (dims, flags) = numbers(update);
    let dims = OptimizerStepDims { count: word(&device, op, len)?, limit: clip.value.unwrap_or_default(), ..dims };
    let clamped = ("CLAMPED", u32::from(clip.value.is_some()));
    let constants = flags.into_iter().chain([clamped]).collect();
    let (moved, kept) = (Buffer::new(&device, op, len)?, Buffer::new(&device, op, slots * len)?);
    let buffers: Vec<Buffer> = inputs.into_iter().chain([&moved, &kept]).cloned().collect();
    let bound = recorder.bind(&OPTIMIZER_STEP, &constants, buffers)?;
    let work = Work::each(len, 3 + 2 * slots).products(40 * len as u64);
    recorder.dispatch(bound, &dims, &fold(&device, op, len.div_ceil(WORKGROUP_SIZE), work)?)?;
    Ok([moved, kept])
}

/// The numbers of a rule at a step, as the kernel's uniform holds them, and the rule's options as `override`s.
#[expect(clippy::cast_possible_truncation, reason = "kernels compute in f32")]
fn numbers(update: &Update) -> (OptimizerStepDims, Vec<(&'static str, u32)>) {
    let Update { rule, rate, step, .. } = *update;
    let narrow = |x: f64| x as f32;
    let first = u32::from(step == 1);
    let rate_only = OptimizerStepDims { first, rate: narrow(rate), ..OptimizerStepDims::zeroed() };
    match rule {
        Rule::Sgd(Sgd { momentum, dampening, nesterov, weight_decay }) => {
            let dims = OptimizerStepDims {
                decay: narrow(weight_decay),
                momentum: narrow(momentum),
                dampened: narrow(1.0 - dampening),
                ..rate_only
            };
            let flags = [("RULE", 0), ("MOMENTUM", u32::from(momentum != 0.0)), ("NESTEROV", u32::from(nesterov))];
            (dims, flags.to_vec())
        }
        Rule::RmsProp(RmsProp { alpha, eps, weight_decay, momentum, centered }) => {
            let dims = OptimizerStepDims {
                decay: narrow(weight_decay),
                momentum: narrow(momentum),
                kept: narrow(alpha),
                rest: narrow(1.0 - alpha),
                eps: narrow(eps),
                ..rate_only
            };
            let flags = [("RULE", 1), ("MOMENTUM", u32::from(momentum != 0.0)), ("CENTERED", u32::from(centered))];
            (dims, flags.to_vec())
        }
        Rule::Adam(Adam { betas, eps, weight_decay, decoupled, amsgrad }) => {
            let (size, root) = update.corrections();
            let dims = OptimizerStepDims {
                rate: narrow(size),
                decay: narrow(if decoupled { 1.0 - rate * weight_decay } else { weight_decay }),
                dampened: narrow(1.0 - betas[0]),
                kept: narrow(betas[1]),
                rest: narrow(1.0 - betas[1]),
                eps: narrow(eps),
                root: narrow(root),
                ..rate_only
            };
            let flags = [("RULE", 2), ("DECOUPLED", u32::from(decoupled)), ("AMSGRAD", u32::from(amsgrad))];
            (dims, flags.to_vec())
        }
    }
}

//! Losses and their gradients. Shapes are checked by [`ops`](crate::ops).

use super::update::{RUN, partial_sums};
use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{
    Constants, POINT_LOSS, POINT_LOSS_GRAD, SOFTMAX_CROSS_ENTROPY, SOFTMAX_CROSS_ENTROPY_GRAD, TOTAL_SUM,
};
use crate::gpu::kept::uniform::uniform;
use crate::gpu::ops::{WORKGROUP_SIZE, check_loops, each, fold, grid, produce, word, work_of_rows};
use crate::gpu::submit::recorder::Recorder;
use crate::op::PointLoss;

uniform! {
    struct LossDims { rows: u32, columns: u32 }
    struct LossGradDims { rows: u32, columns: u32, scale: f32 }
    struct TotalSumDims { count: u32, scale: f32 }
}

fn sizes(recorder: &Recorder, op: &'static str, [rows, columns]: [usize; 2]) -> Result<LossDims> {
    let n = |size: usize| word(recorder.device(), op, size);
    n(rows * columns)?;
    Ok(LossDims { rows: n(rows)?, columns: n(columns)? })
}

/// Records `scale` times the sum of the first `count` elements.
pub(crate) fn sum(recorder: &mut Recorder, x: &Buffer, count: usize, scale: f32) -> Result<Buffer> {
    let op = TOTAL_SUM.name;
    let device = recorder.device().clone();
    let parts = count.div_ceil(RUN);
    let (x, count) = if parts > 1 {
        let partial = Buffer::new(&device, op, parts)?;
        partial_sums(recorder, (x, count), None, false, (&partial, 0))?;
        (partial, parts)
    } else {
        (x.clone(), count)
    };
    check_loops(&device, op, count.div_ceil(WORKGROUP_SIZE) + WORKGROUP_SIZE)?;
    let dims = TotalSumDims { count: word(&device, op, count)?, scale };
    let grid = grid(&device, op, [1, 1, 1], work_of_rows([1, count], 1))?;
    produce(recorder, &TOTAL_SUM, &Constants::new(), &[&x], &dims, 1, &grid)
}

/// Records the cross-entropy of every row of `x [rows, columns]`.
pub(crate) fn softmax_cross_entropy(
    recorder: &mut Recorder,
    x: &Buffer,
    targets: &Buffer,
    size: [usize; 2],
) -> Result<Buffer> {
    let op = SOFTMAX_CROSS_ENTROPY.name;
    let device = recorder.device().clone();
    check_loops(&device, op, 2 * (size[1].div_ceil(WORKGROUP_SIZE) + WORKGROUP_SIZE))?;
    let dims = sizes(recorder, op, size)?;
    let grid = fold(&device, op, size[0], work_of_rows(size, 2))?;
    produce(recorder, &SOFTMAX_CROSS_ENTROPY, &Constants::new(), &[x, targets], &dims, size[0], &grid)
}

/// Records the gradient with respect to the scores. The inputs are scores, targets, and the gradient with respect to the loss.
pub(crate) fn softmax_cross_entropy_grad(
    recorder: &mut Recorder,
    inputs: [&Buffer; 3],
    size: [usize; 2],
    scale: f32,
) -> Result<Buffer> {
    let op = SOFTMAX_CROSS_ENTROPY_GRAD.name;
    let device = recorder.device().clone();
    check_loops(&device, op, 3 * (size[1].div_ceil(WORKGROUP_SIZE) + WORKGROUP_SIZE))?;
    let LossDims { rows, columns } = sizes(recorder, op, size)?;
    let dims = LossGradDims { rows, columns, scale };
    let grid = fold(&device, op, size[0], work_of_rows(size, 4))?;
    produce(recorder, &SOFTMAX_CROSS_ENTROPY_GRAD, &Constants::new(), &inputs, &dims, size[0] * size[1], &grid)
}

/// Records the loss of every element. The inputs are predictions, goals, and the rows' weights.
pub(crate) fn point_loss(
    recorder: &mut Recorder,
    loss: PointLoss,
    inputs: [&Buffer; 3],
    size: [usize; 2],
) -> Result<Buffer> {
    let dims = sizes(recorder, POINT_LOSS.name, size)?;
    each(recorder, &POINT_LOSS, &vec![("LOSS", loss as u32)], &inputs, &dims, size[0] * size[1])
}

/// Records the gradient with respect to the predictions. The inputs are those of [`point_loss`] and the gradient with respect to the
/// loss.
pub(crate) fn point_loss_grad(
    recorder: &mut Recorder,
    loss: PointLoss,
    inputs: [&Buffer; 4],
    size: [usize; 2],
    scale: f32,
) -> Result<Buffer> {
    let LossDims { rows, columns } = sizes(recorder, POINT_LOSS_GRAD.name, size)?;
    let dims = LossGradDims { rows, columns, scale };
    each(recorder, &POINT_LOSS_GRAD, &vec![("LOSS", loss as u32)], &inputs, &dims, size[0] * size[1])
}

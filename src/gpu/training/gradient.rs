//! Gradients of the operations around the cells. Shapes are checked by [`ops`](crate::ops).

use crate::cell::Activation;
use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{
    CONV1D_GRAD_INPUT, CONV1D_GRAD_WEIGHT, Constants, GATHER_ROWS_GRAD, MEAN_STEPS, MEAN_STEPS_GRAD, UNARY_GRAD,
};
use crate::gpu::kept::uniform::uniform;
use crate::gpu::ops::{WORKGROUP_SIZE, check_loops, conv1d_dims, each, each_of, fold, produce, word};
use crate::gpu::submit::recorder::Recorder;
use crate::memory;
use crate::op::Conv1dGeometry;
use crate::plan::Work;

uniform! {
    struct UnaryGradDims { count: u32, alpha: f32, beta: f32 }
    struct GatherRowsGradDims { rows: u32, columns: u32 }
    /// The uniform of the weighted sum over steps and of its gradient.
    struct MeanStepsDims { steps: u32, rows: u32, columns: u32 }
}

/// Records the gradient with respect to an activation's argument, `dy act'(x)` of `len` elements.
pub(crate) fn unary_grad(
    recorder: &mut Recorder,
    activation: Activation,
    [x, dy]: [&Buffer; 2],
    len: usize,
) -> Result<Buffer> {
    let (code, alpha, beta) = activation.code();
    let dims = UnaryGradDims { count: word(recorder.device(), UNARY_GRAD.name, len)?, alpha, beta };
    each(recorder, &UNARY_GRAD, &vec![("ACTIVATION", code)], &[x, dy], &dims, len)
}

/// Records the gradient with respect to a table of `count` rows, from which `rows` were picked; `dy [rows, columns]`.
pub(crate) fn gather_rows_grad(
    recorder: &mut Recorder,
    count: usize,
    rows: &[usize],
    dy: &Buffer,
    columns: usize,
) -> Result<Buffer> {
    let op = GATHER_ROWS_GRAD.name;
    let device = recorder.device().clone();
    word(&device, op, rows.len() * columns)?;
    let mut begins = memory::zeros::<u32>(op, count + 1)?;
    rows.iter().for_each(|&row| begins[row + 1] += 1);
    let most = begins.iter().max().copied().unwrap_or_default();
    check_loops(&device, op, most as usize)?;
    for row in 0..count {
        begins[row + 1] += begins[row];
    }
    // A stable sort, so that the gradient of each row is added up in the order of the picks.
    let mut next = memory::copied(op, &begins)?;
    let mut places = memory::zeros::<u32>(op, rows.len())?;
    for (place, &row) in (0_u32..).zip(rows) {
        places[next[row] as usize] = place;
        next[row] += 1;
    }
    let (begins, places) =
        (Buffer::from_slice(&device, "begins", &begins)?, Buffer::from_slice(&device, "places", &places)?);
    let dims = GatherRowsGradDims { rows: word(&device, op, count)?, columns: word(&device, op, columns)? };
    let (len, picked) = (count * columns, (places.words() * columns) as u64);
    let work = Work::each(len, 2).products(8 * (len as u64 + picked)).iterations(most as usize);
    each_of(recorder, &GATHER_ROWS_GRAD, &Constants::new(), &[&begins, &places, dy], &dims, (len, work))
}

/// Records a convolution's gradient with respect to the signal `[count, channels, length]`; `weight [out, channels, kernel]`.
pub(crate) fn conv1d_grad_input(
    recorder: &mut Recorder,
    [count, channels, length]: [usize; 3],
    (weight, [out, kernel]): (&Buffer, [usize; 2]),
    dy: &Buffer,
    geometry: Conv1dGeometry,
) -> Result<Buffer> {
    let op = CONV1D_GRAD_INPUT.name;
    let windows = kernel.div_ceil(geometry.stride.max(1));
    check_loops(&recorder.device().clone(), op, out * (windows + 1))?;
    let dims = conv1d_dims(recorder, op, [count, channels, length], [out, kernel], geometry)?;
    let (len, terms) = (count * channels * length, out * windows);
    // A multiply-add takes two loads and their indices.
    let work = Work::each(len, 2).products(4 * len as u64 * terms as u64).iterations(terms);
    each_of(recorder, &CONV1D_GRAD_INPUT, &Constants::new(), &[weight, dy], &dims, (len, work))
}

/// Records a convolution's gradient with respect to the weights `[out, channels, kernel]`; `x [count, channels, length]`.
pub(crate) fn conv1d_grad_weight(
    recorder: &mut Recorder,
    [out, channels, kernel]: [usize; 3],
    (x, [count, length]): (&Buffer, [usize; 2]),
    dy: &Buffer,
    geometry: Conv1dGeometry,
) -> Result<Buffer> {
    let op = CONV1D_GRAD_WEIGHT.name;
    let device = recorder.device().clone();
    let dims = conv1d_dims(recorder, op, [count, channels, length], [out, kernel], geometry)?;
    let windows = count * geometry.output_length(length, kernel);
    check_loops(&device, op, windows.div_ceil(WORKGROUP_SIZE) + WORKGROUP_SIZE)?;
    let weights = out * channels * kernel;
    // One division, two loads and their indices per multiply-add.
    let products = (8 * weights as u64).saturating_mul(windows as u64);
    let work = Work::of(products, products / 8).iterations(windows.div_ceil(WORKGROUP_SIZE));
    let grid = fold(&device, op, weights, work)?;
    produce(recorder, &CONV1D_GRAD_WEIGHT, &Constants::new(), &[x, dy], &dims, weights, &grid)
}

/// Records the weighted sum of the steps of `x [time, batch, width]`.
pub(crate) fn mean_steps(
    recorder: &mut Recorder,
    x: &Buffer,
    weights: &Buffer,
    [time, batch, width]: [usize; 3],
) -> Result<Buffer> {
    let op = MEAN_STEPS.name;
    check_loops(&recorder.device().clone(), op, time)?;
    let dims = steps_dims(recorder, op, [time, batch, width])?;
    let (len, all) = (batch * width, (time * batch * width) as u64);
    let work = Work::of(4 * all, 8 * all).iterations(time);
    each_of(recorder, &MEAN_STEPS, &Constants::new(), &[x, weights], &dims, (len, work))
}

/// Records the gradient with respect to the steps `[time, batch, width]` of a weighted sum.
pub(crate) fn mean_steps_grad(
    recorder: &mut Recorder,
    weights: &Buffer,
    dy: &Buffer,
    [time, batch, width]: [usize; 3],
) -> Result<Buffer> {
    let dims = steps_dims(recorder, MEAN_STEPS_GRAD.name, [time, batch, width])?;
    each(recorder, &MEAN_STEPS_GRAD, &Constants::new(), &[weights, dy], &dims, time * batch * width)
}

fn steps_dims(recorder: &Recorder, op: &'static str, [time, batch, width]: [usize; 3]) -> Result<MeanStepsDims> {
    let n = |size: usize| word(recorder.device(), op, size);
    n(time * batch * width)?;
    Ok(MeanStepsDims { steps: n(time)?, rows: n(batch)?, columns: n(width)? })
}

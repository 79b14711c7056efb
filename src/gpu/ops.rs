//! The host side of the kernels around the cells: uniforms, grids, outputs. [`ops`](crate::ops) checks the shapes.

use super::strided::{self, Axis, Matrix, longest_loop, matmul_strided};
use crate::cell::Activation;
use crate::error::Result;
use crate::gpu::arguments::{MatmulSize, Operand};
use crate::gpu::kept::OnDevice;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{
    ARGMAX_ROWS, BINARY, CONV1D, Constants, Kernel, MATH, MATMUL, MATMUL_ROWS, PAD1D, REDUCE_ROWS, SUM_COLUMNS, UNARY,
};
use crate::gpu::kept::uniform::{Uniform, uniform};
use crate::gpu::submit::GpuDevice;
use crate::gpu::submit::recorder::Recorder;
use crate::op::{Binary, Conv1dGeometry, Math, PadMode, Reduction};
use crate::plan::{BUSY, Cut, Grid, Limits, Work};

/// Invocations of a workgroup, as the kernels' `WORKGROUP_SIZE` declares it.
pub(super) const WORKGROUP_SIZE: usize = 64;
/// Below this number of rows, `matmul_rows` wastes less work than the tiles of `matmul`.
const TILED_FROM_ROWS: usize = 16;
/// Rows and columns of the tile that a workgroup of `matmul` or `matmul_strided` computes.
pub(super) const TILE: usize = 64;

uniform! {
    struct MatmulDims { rows: u32, depth: u32, columns: u32, a_row: u32, y_offset: u32, has_bias: u32 }
    /// The uniform of a convolution and of its gradients.
    pub(super) struct Conv1dDims {
        count: u32,
        channels: u32,
        length: u32,
        out_channels: u32,
        out_length: u32,
        kernel: u32,
        stride: u32,
        padding: u32,
    }
    struct Pad1dDims { count: u32, length: u32, left: u32, out_length: u32 }
    struct BinaryDims { rows: u32, columns: u32, a_stride: u32, a_offset: u32, b_stride: u32, b_offset: u32 }
    struct ReduceRowsDims { rows: u32, columns: u32 }
    struct SumColumnsDims { rows: u32, columns: u32 }
    struct ArgmaxRowsDims { rows: u32, columns: u32 }
    struct MathDims { count: u32 }
    struct UnaryDims { count: u32, alpha: f32, beta: f32 }
}

/// Converts a size to 32 bits, in which kernels count.
pub(super) fn word(device: &GpuDevice, op: &'static str, size: usize) -> Result<u32> {
    device.resources().word(op, size)
}

/// Refuses loops that the driver would cut short.
pub(super) fn check_loops(device: &GpuDevice, op: &'static str, iterations: usize) -> Result<()> {
    let cap = device.plan_limits().loop_cap.unwrap_or(u64::MAX);
    device.resources().limit(op, "loop iterations of one invocation", iterations as u64, cap)
}

/// Returns the grid, or the error of operation `op` if the dispatch cannot be divided into short parts.
pub(super) fn cut(device: &GpuDevice, op: &'static str, grid: Cut) -> Result<Grid> {
    grid.map_err(|overlong| overlong.error(op, &device.adapter().name))
}

/// A grid of `whole` workgroups along each axis, divided into parts if the dispatch would take too long.
pub(super) fn grid(device: &GpuDevice, op: &'static str, whole: [usize; 3], work: Work) -> Result<Grid> {
    cut(device, op, Grid::of(device.plan_limits().bounds(), whole, work))
}

/// A grid of `count` workgroups. If one axis is too short, they are folded into two; if the dispatch would take too long, it is divided
/// into parts.
pub(super) fn fold(device: &GpuDevice, op: &'static str, count: usize, work: Work) -> Result<Grid> {
    word(device, op, count)?;
    cut(device, op, Grid::folded(device.plan_limits().bounds(), count, work))
}

/// Records a kernel that computes `len` elements into a new buffer: one per invocation, from one element of every input.
pub(super) fn each<D: Uniform>(
    recorder: &mut Recorder,
    kernel: &'static Kernel,
    constants: &Constants,
    inputs: &[&Buffer],
    dims: &D,
    len: usize,
) -> Result<Buffer> {
    let work = Work::each(len, inputs.len());
    each_of(recorder, kernel, constants, inputs, dims, (len, work))
}

/// Records a kernel as [`each`] does, for elements that take more than a few instructions: `work` is the work of all of them.
pub(super) fn each_of<D: Uniform>(
    recorder: &mut Recorder,
    kernel: &'static Kernel,
    constants: &Constants,
    inputs: &[&Buffer],
    dims: &D,
    (len, work): (usize, Work),
) -> Result<Buffer> {
    word(recorder.device(), kernel.name, len)?;
    let grid = fold(recorder.device(), kernel.name, len.div_ceil(WORKGROUP_SIZE), work)?;
    produce(recorder, kernel, constants, inputs, dims, len, &grid)
}

pub(super) fn produce<D: Uniform>(
    recorder: &mut Recorder,
    kernel: &'static Kernel,
    constants: &Constants,
    inputs: &[&Buffer],
    dims: &D,
    len: usize,
    grid: &Grid,
) -> Result<Buffer> {
    let y = Buffer::new(recorder.device(), kernel.name, len)?;
    let buffers: Vec<Buffer> = inputs.iter().copied().chain([&y]).cloned().collect();
    let bound = recorder.bind(kernel, constants, buffers)?;
    recorder.dispatch(bound, dims, grid)?;
    Ok(y)
}

/// Computes `y = a b + bias` into a new buffer, for `a [rows, depth]`, `b [depth, columns]` and `bias [columns]`. An operand
/// that lies transposed has its two axes exchanged.
pub(crate) fn matmul(
    recorder: &mut Recorder,
    (a, a_transposed): (&Buffer, bool),
    (b, b_transposed): (&Buffer, bool),
    bias: Option<&Buffer>,
    size: MatmulSize,
) -> Result<Buffer> {
    let op = MATMUL.name;
    let MatmulSize { rows, depth, columns } = size;
    let device = recorder.device().clone();
    word(&device, op, rows * columns)?;
    word(&device, op, rows * depth)?;
    let cap = device.plan_limits().loop_cap.unwrap_or(u64::MAX);
    let (kernel, grid) = kernel_of(device.plan_limits(), size);
    if 2 * depth as u64 > cap || grid.map_or(true, |grid| leaves_idle(&grid)) {
        return deep_matmul(recorder, (a, a_transposed), (b, b_transposed), bias, size);
    }
    let grid = cut(&device, op, grid)?;
    let dims = MatmulDims {
        rows: word(&device, op, rows)?,
        depth: word(&device, op, depth)?,
        columns: word(&device, op, columns)?,
        a_row: 0,
        y_offset: 0,
        has_bias: u32::from(bias.is_some()),
    };
    // Without a bias the binding still needs a buffer; `has_bias` says that it is not read.
    let flags = [("A_TRANSPOSED", a_transposed), ("B_TRANSPOSED", b_transposed)];
    let constants = flags.into_iter().filter(|(_, transposed)| *transposed).map(|(name, _)| (name, 1)).collect();
    produce(recorder, kernel, &constants, &[a, b, bias.unwrap_or(b)], &dims, rows * columns, &grid)
}

/// The kernel of a product, and its grid.
fn kernel_of(limits: &Limits, size: MatmulSize) -> (&'static Kernel, Cut) {
    let MatmulSize { rows, columns, .. } = size;
    if rows < TILED_FROM_ROWS {
        let workgroups = (rows * columns).div_ceil(WORKGROUP_SIZE);
        return (&MATMUL_ROWS, Grid::folded(limits.bounds(), workgroups, work_by_rows(size)));
    }
    let whole = [columns.div_ceil(TILE), rows.div_ceil(TILE), 1];
    (&MATMUL, Grid::of(limits.bounds(), whole, work_by_tiles(size)))
}

/// Whether a grid is cut into parts of too few workgroups to fill a large GPU.
fn leaves_idle(grid: &Grid) -> bool {
    grid.count() > 1 && grid.part().into_iter().product::<usize>() < BUSY.min(grid.whole().into_iter().product())
}

/// Multiplies one slice of the depth after another; each adds to the sums of the slices before it.
fn deep_matmul(
    recorder: &mut Recorder,
    (a, a_transposed): (&Buffer, bool),
    (b, b_transposed): (&Buffer, bool),
    bias: Option<&Buffer>,
    MatmulSize { rows, depth, columns }: MatmulSize,
) -> Result<Buffer> {
    let y = Buffer::new(recorder.device(), MATMUL.name, rows * columns)?;
    let matrix = |buffer, transposed: bool, [outer, along]: [usize; 2]| {
        let [outer, depth] = if transposed { [1, outer] } else { [along, 1] }.map(Axis::of);
        Matrix { buffer, offset: 0, outer, depth }
    };
    let (a, b) = (matrix(a, a_transposed, [rows, depth]), matrix(b, !b_transposed, [columns, depth]));
    matmul_strided(recorder, (a, b), [rows, depth, columns], (&y, 0), false)?;
    let Some(bias) = bias else { return Ok(y) };
    let (y, bias) =
        (Operand { buffer: &y, stride: columns, offset: 0 }, Operand { buffer: bias, stride: 0, offset: 0 });
    binary(recorder, Binary::Add, y, bias, [rows, columns])
}

/// The work of a tiled product.
pub(super) fn work_by_tiles(MatmulSize { rows, depth, columns }: MatmulSize) -> Work {
    let [rows, depth, columns] = [rows.next_multiple_of(TILE), depth, columns.next_multiple_of(TILE)].map(|n| n as u64);
    let products = rows.saturating_mul(depth).saturating_mul(columns);
    // A tile reads a row and a column of 64 elements at every place of the depth.
    let bytes = (products / TILE as u64).saturating_mul(8).saturating_add(4 * rows.saturating_mul(columns));
    Work::of(products, bytes).iterations(depth.div_ceil(16) as usize)
}

/// The work of a product if one invocation computes the whole depth of its element.
fn work_by_rows(MatmulSize { rows, depth, columns }: MatmulSize) -> Work {
    let products = (rows as u64).saturating_mul(depth as u64).saturating_mul(columns as u64);
    Work::of(products.saturating_mul(2), products.saturating_mul(4)).iterations(depth)
}

/// Convolves `x [count, channels, length]` with `weight [out_channels, channels, kernel]` and adds `bias [out_channels]`.
pub(crate) fn conv1d(
    recorder: &mut Recorder,
    x: (&Buffer, [usize; 3]),
    weight: (&Buffer, [usize; 3]),
    bias: &Buffer,
    geometry: Conv1dGeometry,
) -> Result<Buffer> {
    let op = CONV1D.name;
    let (x, signal) = x;
    let (weight, [out, channels, kernel]) = weight;
    check_loops(recorder.device(), op, channels * (kernel + 1))?;
    let dims = conv1d_dims(recorder, op, signal, [out, kernel], geometry)?;
    let len = signal[0] * out * geometry.output_length(signal[2], kernel);
    let taps = channels * kernel;
    // A multiply-add takes two loads and their indices.
    let work = Work::each(len, 2).products(2 * len as u64 * taps as u64).iterations(taps);
    each_of(recorder, &CONV1D, &Constants::new(), &[x, weight, bias], &dims, (len, work))
}

/// Sizes of a convolution of `[count, channels, length]` with `out` filters of `kernel` places.
pub(super) fn conv1d_dims(
    recorder: &Recorder,
    op: &'static str,
    [count, channels, length]: [usize; 3],
    [out, kernel]: [usize; 2],
    geometry: Conv1dGeometry,
) -> Result<Conv1dDims> {
    let n = |size: usize| word(recorder.device(), op, size);
    let out_length = geometry.output_length(length, kernel);
    n(count * out * out_length)?;
    n(count * channels * length)?;
    // The kernels count places in the padded signal. A stride beyond its end leads to no second window, so it is shortened.
    let padded = length + 2 * geometry.padding;
    n(padded)?;
    Ok(Conv1dDims {
        count: n(count)?,
        channels: n(channels)?,
        length: n(length)?,
        out_channels: n(out)?,
        out_length: n(out_length)?,
        kernel: n(kernel)?,
        stride: n(geometry.stride.min(padded.max(1)))?,
        padding: n(geometry.padding)?,
    })
}

/// Pads the rows of `x [count, length]`.
pub(crate) fn pad1d(
    recorder: &mut Recorder,
    x: (&Buffer, [usize; 2]),
    (left, right): (usize, usize),
    mode: PadMode,
) -> Result<Buffer> {
    let op = PAD1D.name;
    let device = recorder.device().clone();
    let (x, [count, length]) = x;
    let out_length = left + length + right;
    let dims = Pad1dDims {
        count: word(&device, op, count)?,
        length: word(&device, op, length)?,
        left: word(&device, op, left)?,
        out_length: word(&device, op, out_length)?,
    };
    let constants = vec![("REFLECT", u32::from(mode == PadMode::Reflect))];
    each(recorder, &PAD1D, &constants, &[x], &dims, count * out_length)
}

/// An activation of `len` elements.
pub(crate) fn unary(recorder: &mut Recorder, activation: Activation, x: &Buffer, len: usize) -> Result<Buffer> {
    let (code, alpha, beta) = activation.code();
    let dims = UnaryDims { count: word(recorder.device(), UNARY.name, len)?, alpha, beta };
    each(recorder, &UNARY, &vec![("ACTIVATION", code)], &[x], &dims, len)
}

/// An elementary function of `len` elements.
pub(crate) fn math(recorder: &mut Recorder, function: Math, x: &Buffer, len: usize) -> Result<Buffer> {
    let dims = MathDims { count: word(recorder.device(), MATH.name, len)? };
    each(recorder, &MATH, &vec![("FUNCTION", function as u32)], &[x], &dims, len)
}

/// An operation on two operands of `rows` by `columns`.
pub(crate) fn binary(
    recorder: &mut Recorder,
    op: Binary,
    a: Operand<'_>,
    b: Operand<'_>,
    size: [usize; 2],
) -> Result<Buffer> {
    binary_into(recorder, op, a, b, size, None)
}

/// [`binary`] into the buffer `y`, if one is given.
pub(super) fn binary_into(
    recorder: &mut Recorder,
    op: Binary,
    a: Operand<'_>,
    b: Operand<'_>,
    [rows, columns]: [usize; 2],
    y: Option<&Buffer>,
) -> Result<Buffer> {
    let name = BINARY.name;
    let device = recorder.device().clone();
    let dims = BinaryDims {
        rows: word(&device, name, rows)?,
        columns: word(&device, name, columns)?,
        a_stride: word(&device, name, a.stride)?,
        a_offset: word(&device, name, a.offset)?,
        b_stride: word(&device, name, b.stride)?,
        b_offset: word(&device, name, b.offset)?,
    };
    word(&device, name, rows * a.stride.max(b.stride))?;
    let len = rows * columns;
    word(&device, name, len)?;
    let grid = fold(&device, name, len.div_ceil(WORKGROUP_SIZE), Work::each(len, 2))?;
    let y = y.map_or_else(|| Buffer::new(&device, name, len), |y| Ok(y.clone()))?;
    let buffers = [a.buffer, b.buffer, &y].map(Buffer::clone);
    let bound = recorder.bind(&BINARY, &vec![("OPERATION", op as u32)], buffers)?;
    recorder.dispatch(bound, &dims, &grid)?;
    Ok(y)
}

/// The work of a kernel with one workgroup per row, which reads the row `times` times.
pub(super) fn work_of_rows([rows, columns]: [usize; 2], times: usize) -> Work {
    let elements = (rows as u64).saturating_mul(columns as u64).saturating_mul(times as u64);
    Work::of(elements.saturating_mul(8), elements.saturating_mul(4))
        .iterations(times * columns.div_ceil(WORKGROUP_SIZE))
}

/// A reduction of every row of `x [rows, columns]`.
pub(crate) fn reduce_rows(
    recorder: &mut Recorder,
    op: Reduction,
    x: &Buffer,
    [rows, columns]: [usize; 2],
) -> Result<Buffer> {
    let name = REDUCE_ROWS.name;
    let device = recorder.device().clone();
    check_loops(&device, name, columns.div_ceil(WORKGROUP_SIZE) + WORKGROUP_SIZE)?;
    let dims = ReduceRowsDims { rows: word(&device, name, rows)?, columns: word(&device, name, columns)? };
    word(&device, name, rows * columns)?;
    let grid = fold(&device, name, rows, work_of_rows([rows, columns], 1))?;
    produce(recorder, &REDUCE_ROWS, &vec![("REDUCTION", op as u32)], &[x], &dims, rows, &grid)
}

/// The sum of every column of `x [rows, columns]`.
pub(crate) fn sum_columns(recorder: &mut Recorder, x: &Buffer, [rows, columns]: [usize; 2]) -> Result<Buffer> {
    /// Columns of a workgroup, and also the number of invocations that share a column.
    const SIDE: usize = 16;
    let name = SUM_COLUMNS.name;
    let device = recorder.device().clone();
    let iterations = rows.div_ceil(SIDE) + SIDE;
    if iterations > longest_loop(device.plan_limits()) {
        let y = Buffer::new(&device, name, columns)?;
        strided::sum_columns(recorder, (x, &y), [rows, columns])?;
        return Ok(y);
    }
    let dims = SumColumnsDims { rows: word(&device, name, rows)?, columns: word(&device, name, columns)? };
    word(&device, name, rows * columns)?;
    let work = Work::of((rows * columns) as u64, 4 * (rows * columns) as u64).iterations(iterations);
    let grid = fold(&device, name, columns.div_ceil(SIDE), work)?;
    produce(recorder, &SUM_COLUMNS, &Constants::new(), &[x], &dims, columns, &grid)
}

/// The column of the largest element of every row of `x [rows, columns]`, as `f32`.
pub(crate) fn argmax_rows(recorder: &mut Recorder, x: &Buffer, [rows, columns]: [usize; 2]) -> Result<Buffer> {
    let name = ARGMAX_ROWS.name;
    let device = recorder.device().clone();
    check_loops(&device, name, columns.div_ceil(WORKGROUP_SIZE) + WORKGROUP_SIZE)?;
    let dims = ArgmaxRowsDims { rows: word(&device, name, rows)?, columns: word(&device, name, columns)? };
    word(&device, name, rows * columns)?;
    let grid = fold(&device, name, rows, work_of_rows([rows, columns], 1))?;
    produce(recorder, &ARGMAX_ROWS, &Constants::new(), &[x], &dims, rows, &grid)
}

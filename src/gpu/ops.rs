//! The host side of the kernels around the cells: dims, grid, output. Shapes are checked by [`ops`](crate::ops).

use super::buffer::Buffer;
use super::context::GpuDevice;
use super::kernel::{
    ARGMAX_ROWS, BINARY, CONV1D, Constants, Kernel, MATH, MATMUL, MATMUL_ROWS, PAD1D, REDUCE_ROWS, SUM_COLUMNS, UNARY,
};
use super::recorder::Recorder;
use super::uniform::{Uniform, uniform};
use crate::cell::Activation;
use crate::error::{Error, Result};
use crate::reference::{Binary, Conv1dGeometry, Math, PadMode, Reduction};

/// Invocations of a workgroup, as the kernels' `WORKGROUP_SIZE` declares it.
pub(super) const WORKGROUP_SIZE: usize = 64;
/// Below this number of rows `matmul_rows` wastes less than `matmul`'s tiles do.
const TILED_FROM_ROWS: usize = 16;
/// Rows and columns of the tile that a workgroup of `matmul` or `matmul_strided` computes.
pub(super) const TILE: usize = 64;

uniform! {
    struct MatmulDims { rows: u32, depth: u32, columns: u32, a_row: u32, y_offset: u32, has_bias: u32 }
    /// Of a convolution and of its gradients.
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

/// A size as the kernels count: 32 bits.
pub(super) fn word(device: &GpuDevice, op: &'static str, size: usize) -> Result<u32> {
    u32::try_from(size).map_err(|_| Error::Limit {
        op,
        what: "elements",
        needed: size as u64,
        limit: u64::from(u32::MAX),
        adapter: device.adapter().name.clone(),
    })
}

/// Refuses loops that the driver would cut short.
pub(super) fn check_loops(device: &GpuDevice, op: &'static str, iterations: usize) -> Result<()> {
    let cap = device.plan_limits().loop_cap.unwrap_or(u64::MAX);
    device.context().limit(op, "loop iterations of one invocation", iterations as u64, cap)
}

/// Workgroups for `count` of them, folded into two axes where one is too short.
pub(super) fn fold(device: &GpuDevice, op: &'static str, count: usize) -> Result<[u32; 3]> {
    let widest = device.context().limits.max_compute_workgroups_per_dimension;
    let count = word(device, op, count)?;
    if count <= widest { Ok([count, 1, 1]) } else { Ok([widest, count.div_ceil(widest), 1]) }
}

/// Records a kernel that computes `len` elements, one an invocation, into a new buffer.
pub(super) fn each<D: Uniform>(
    recorder: &mut Recorder,
    kernel: &'static Kernel,
    constants: &Constants,
    inputs: &[&Buffer],
    dims: &D,
    len: usize,
) -> Result<Buffer> {
    let grid = fold(recorder.device(), kernel.name, len.div_ceil(WORKGROUP_SIZE))?;
    word(recorder.device(), kernel.name, len)?;
    produce(recorder, kernel, constants, inputs, dims, len, grid)
}

pub(super) fn produce<D: Uniform>(
    recorder: &mut Recorder,
    kernel: &'static Kernel,
    constants: &Constants,
    inputs: &[&Buffer],
    dims: &D,
    len: usize,
    grid: [u32; 3],
) -> Result<Buffer> {
    let y = Buffer::new(recorder.device(), kernel.name, len)?;
    let buffers: Vec<Buffer> = inputs.iter().copied().chain([&y]).cloned().collect();
    let bound = recorder.bind(kernel, constants, buffers)?;
    recorder.dispatch(bound, dims, grid)?;
    Ok(y)
}

/// Sizes of a matrix product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatmulSize {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) columns: usize,
}

/// `y = a b + bias` into a new buffer. `a [rows, depth]`, `b [depth, columns]`, or the other way round where they lie
/// transposed; `bias [columns]`.
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
    check_loops(&device, op, 2 * depth)?;
    word(&device, op, rows * columns)?;
    word(&device, op, rows * depth)?;
    let dims = MatmulDims {
        rows: word(&device, op, rows)?,
        depth: word(&device, op, depth)?,
        columns: word(&device, op, columns)?,
        a_row: 0,
        y_offset: 0,
        has_bias: u32::from(bias.is_some()),
    };
    let (kernel, grid) = if rows < TILED_FROM_ROWS {
        (&MATMUL_ROWS, fold(&device, op, (rows * columns).div_ceil(WORKGROUP_SIZE))?)
    } else {
        (&MATMUL, [word(&device, op, columns.div_ceil(TILE))?, word(&device, op, rows.div_ceil(TILE))?, 1])
    };
    // The binding must hold something; `has_bias` says that it is not read.
    let flags = [("A_TRANSPOSED", a_transposed), ("B_TRANSPOSED", b_transposed)];
    let constants = flags.into_iter().filter(|(_, transposed)| *transposed).map(|(name, _)| (name, 1)).collect();
    produce(recorder, kernel, &constants, &[a, b, bias.unwrap_or(b)], &dims, rows * columns, grid)
}

/// `x [count, channels, length]`, `weight [out_channels, channels, kernel]`, `bias [out_channels]`.
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
    each(recorder, &CONV1D, &Constants::new(), &[x, weight, bias], &dims, len)
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
    // The kernels' places in the padded signal. A stride beyond its end leads to no window.
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

/// `x [count, length]`.
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

/// An operand of `binary`: `columns` elements of every row, from `offset` on, rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) buffer: &'a Buffer,
    pub(crate) stride: usize,
    pub(crate) offset: usize,
}

/// An operation on two operands of `rows` by `columns`.
pub(crate) fn binary(
    recorder: &mut Recorder,
    op: Binary,
    a: Operand<'_>,
    b: Operand<'_>,
    [rows, columns]: [usize; 2],
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
    each(recorder, &BINARY, &vec![("OPERATION", op as u32)], &[a.buffer, b.buffer], &dims, rows * columns)
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
    let grid = fold(&device, name, rows)?;
    produce(recorder, &REDUCE_ROWS, &vec![("REDUCTION", op as u32)], &[x], &dims, rows, grid)
}

/// The sum of every column of `x [rows, columns]`.
pub(crate) fn sum_columns(recorder: &mut Recorder, x: &Buffer, [rows, columns]: [usize; 2]) -> Result<Buffer> {
    /// Columns of a workgroup, and invocations that share one.
    const SIDE: usize = 16;
    let name = SUM_COLUMNS.name;
    let device = recorder.device().clone();
    check_loops(&device, name, rows.div_ceil(SIDE) + SIDE)?;
    let dims = SumColumnsDims { rows: word(&device, name, rows)?, columns: word(&device, name, columns)? };
    word(&device, name, rows * columns)?;
    let grid = fold(&device, name, columns.div_ceil(SIDE))?;
    produce(recorder, &SUM_COLUMNS, &Constants::new(), &[x], &dims, columns, grid)
}

/// The column of the largest element of every row of `x [rows, columns]`, as `f32`.
pub(crate) fn argmax_rows(recorder: &mut Recorder, x: &Buffer, [rows, columns]: [usize; 2]) -> Result<Buffer> {
    let name = ARGMAX_ROWS.name;
    let device = recorder.device().clone();
    check_loops(&device, name, columns.div_ceil(WORKGROUP_SIZE) + WORKGROUP_SIZE)?;
    let dims = ArgmaxRowsDims { rows: word(&device, name, rows)?, columns: word(&device, name, columns)? };
    word(&device, name, rows * columns)?;
    let grid = fold(&device, name, rows)?;
    produce(recorder, &ARGMAX_ROWS, &Constants::new(), &[x], &dims, rows, grid)
}

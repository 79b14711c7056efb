//! The host side of the kernels that compute gradients: strided products, strided sums and masks.

use super::arguments::MatmulSize;
use super::ops::{TILE, WORKGROUP_SIZE, each, fold, grid, word, work_by_tiles};
use crate::cell::Draw;
use crate::error::{Error, Result};
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{
    Constants, DROPOUT, Kernel, MATMUL_STRIDED, MATMUL_STRIDED_LANES, SILENCE, SUM_STRIDED,
};
use crate::gpu::kept::uniform::uniform;
use crate::gpu::submit::recorder::Recorder;
use crate::plan::{Limits, Work};

uniform! {
    /// Mirrors the struct in `shaders/matmul/strided_dims.wgsl`.
    struct MatmulStridedDims {
        rows: u32,
        depth: u32,
        columns: u32,
        a_offset: u32,
        a_row: i32,
        a_depth: i32,
        gap: u32,
        gap_row: u32,
        gap_depth: u32,
        b_offset: u32,
        b_depth: i32,
        b_column: i32,
        y_offset: u32,
    }
}

uniform! {
    /// Mirrors the struct in `shaders/reduce/sum_strided.wgsl`.
    struct SumStridedDims {
        outer: u32,
        terms: u32,
        columns: u32,
        offset: u32,
        outer_stride: u32,
        term_stride: i32,
        gap: u32,
        gap_column: u32,
        y_offset: u32,
    }
}

uniform! {
    /// Mirrors the struct in `shaders/elementwise/dropout.wgsl`.
    struct DropoutDims {
        key: [u32; 4],
        threshold: u32,
        scale: f32,
        count: u32,
        period: u32,
        from_offset: u32,
        to_offset: u32,
        unused: [u32; 2],
    }
}

uniform! {
    /// Mirrors the struct in `shaders/elementwise/silence.wgsl`.
    struct SilenceDims {
        count: u32,
        columns: u32,
    }
}

/// Elements of an axis that are left out: index `at` and all later ones lie `elements` elements further on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) at: usize,
    pub(super) elements: usize,
}

/// An axis of an operand: the distance of its elements, their order, and the elements that are left out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis {
    pub(super) stride: usize,
    pub(super) descending: bool,
    pub(super) gap: Option<Gap>,
}

impl Axis {
    pub(super) fn of(stride: usize) -> Self {
        Self { stride, descending: false, gap: None }
    }

    pub(super) fn descending(self, descending: bool) -> Self {
        Self { descending, ..self }
    }

    pub(super) fn gap(self, gap: Option<Gap>) -> Self {
        Self { gap, ..self }
    }

    /// For the part from index `begin` on of an axis of `len` elements: the offset of its first element, and the signed stride.
    fn part(&self, device: &super::GpuDevice, op: &'static str, len: usize, begin: usize) -> Result<(usize, i32)> {
        let stride = i32::try_from(self.stride).map_err(|_| Error::Limit {
            op,
            what: "a stride in elements",
            needed: self.stride as u64,
            limit: i32::MAX as u64,
            adapter: device.adapter().name.clone(),
        })?;
        Ok(if self.descending { ((len - 1 - begin) * self.stride, -stride) } else { (begin * self.stride, stride) })
    }
}

/// An operand of a product: where it begins, and its axes.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) buffer: &'a Buffer,
    pub(super) offset: usize,
    /// Rows of the left operand, or columns of the right one.
    pub(super) outer: Axis,
    pub(super) depth: Axis,
}

impl Matrix<'_> {
    /// Whether the matrix can be read in aligned words of four elements along its axis of stride 1.
    fn in_words(&self) -> bool {
        let [along, across] =
            if self.outer.stride < self.depth.stride { [self.outer, self.depth] } else { [self.depth, self.outer] };
        let whole = |size: usize| size.is_multiple_of(WORD);
        let gap = |axis: Axis| axis.gap.is_none_or(|gap| whole(gap.at) && whole(gap.elements));
        let axes = along.stride == 1 && !along.descending && whole(across.stride) && gap(along) && gap(across);
        axes && whole(self.offset) && self.buffer.in_whole_words()
    }
}

/// Elements of a word.
const WORD: usize = 4;

/// The kernel of a product, and the rows and columns of a workgroup.
struct ProductTile {
    kernel: &'static Kernel,
    rows: usize,
    columns: usize,
    /// The fields of the kernel's uniform.
    constants: Constants,
}

impl ProductTile {
    fn of(
        limits: &Limits,
        (a, b): (&Matrix<'_>, &Matrix<'_>),
        [rows, depth, columns]: [usize; 3],
        y_offset: usize,
    ) -> Self {
        let by_rows = a.outer.stride == 1;
        let sizes = rows > 0 && columns > 0 && columns.is_multiple_of(WORD) && y_offset.is_multiple_of(WORD);
        let a_in_words = a.in_words() && (by_rows || depth.is_multiple_of(WORD));
        let tile: u16 = if by_rows || rows > 8 { 32 } else { 8 };
        let fits = rows.div_ceil(usize::from(tile)) <= usize::from(u16::MAX);
        if limits.shares_lanes() && sizes && fits && a_in_words && b.in_words() && b.outer.stride == 1 {
            let units = u16::try_from(limits.subgroup_most).unwrap_or(u16::MAX);
            let constants = vec![("ROWS", u32::from(tile)), ("UNITS", u32::from(units))];
            let (rows, columns) = (usize::from(tile), WORD * usize::from(units));
            return Self { kernel: &MATMUL_STRIDED_LANES, rows, columns, constants };
        }
        Self { kernel: &MATMUL_STRIDED, rows: TILE, columns: TILE, constants: Constants::new() }
    }
}

/// Largest number of iterations of one loop that neither the driver nor a watchdog cuts short.
pub(super) fn longest_loop(limits: &Limits) -> usize {
    let cap = usize::try_from(limits.loop_cap.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    cap.min(limits.watchdog.iterations())
}

/// Longest slice of a product's depth for one dispatch: the driver completes its loop and the loop within, and it is short enough
/// for the watchdog. A long depth is cut before a large grid, so that all workgroups stay busy, but not into slices of fewer than
/// 1,024 elements if one workgroup can compute these in time.
fn longest_depth(limits: &Limits, [rows, columns]: [usize; 2]) -> usize {
    const LEAST: usize = 1024;
    let cap = usize::try_from(limits.loop_cap.unwrap_or(u64::MAX) / 2).unwrap_or(usize::MAX);
    let capped = cap.next_multiple_of(TILE) - TILE;
    let fitting = |rows, depth, columns| {
        limits.bounds().fitting(work_by_tiles(MatmulSize { rows, depth, columns })).saturating_mul(depth)
    };
    // A single workgroup must be short enough, too.
    let least = LEAST.min(fitting(TILE, TILE, TILE));
    let watched = fitting(rows, LEAST, columns).max(least).min(limits.watchdog.iterations().saturating_mul(16));
    capped.min((watched / TILE).max(1).saturating_mul(TILE))
}

/// Computes `y = a b`, or `y += a b` if `accumulate`, from element `y_offset` on. `[rows, depth, columns]` are the product's sizes.
pub(super) fn matmul_strided(
    recorder: &mut Recorder,
    (a, b): (Matrix<'_>, Matrix<'_>),
    [rows, depth, columns]: [usize; 3],
    (y, y_offset): (&Buffer, usize),
    accumulate: bool,
) -> Result<()> {
    let device = recorder.device().clone();
    let tile = ProductTile::of(device.plan_limits(), (&a, &b), [rows, depth, columns], y_offset);
    let op = tile.kernel.name;
    let n = |size: usize| word(&device, op, size);
    n(y_offset + rows * columns)?;
    let whole = [columns.div_ceil(tile.columns), rows.div_ceil(tile.rows), 1];
    let by_rows = u32::from(a.outer.stride < a.depth.stride);
    let (_, a_row) = a.outer.part(&device, op, rows, 0)?;
    let (_, b_column) = b.outer.part(&device, op, columns, 0)?;
    let longest = longest_depth(device.plan_limits(), [rows, columns]);
    let mut begin = 0;
    loop {
        let piece = longest.min(depth - begin);
        let (a_first, a_depth) = if depth > 0 { a.depth.part(&device, op, depth, begin)? } else { (0, 0) };
        let (b_first, b_depth) = if depth > 0 { b.depth.part(&device, op, depth, begin)? } else { (0, 0) };
        let gap = a.outer.gap.or(a.depth.gap);
        let at = |gap: Option<Gap>, before: usize| gap.map_or(Ok(u32::MAX), |gap| n(gap.at.saturating_sub(before)));
        let dims = MatmulStridedDims {
            rows: n(rows)?,
            depth: n(piece)?,
            columns: n(columns)?,
            a_offset: n(a.offset + a_first)?,
            a_row,
            a_depth,
            gap: n(gap.map_or(0, |gap| gap.elements))?,
            gap_row: at(a.outer.gap, 0)?,
            gap_depth: at(a.depth.gap, begin)?,
            b_offset: n(b.offset + b_first)?,
            b_depth,
            b_column,
            y_offset: n(y_offset)?,
        };
        let mut constants = vec![("ACCUMULATE", u32::from(accumulate || begin > 0)), ("A_BY_ROWS", by_rows)];
        constants.extend(tile.constants.iter().copied());
        let bound = recorder.bind(tile.kernel, &constants, [a.buffer, b.buffer, y].map(Buffer::clone))?;
        let work = work_by_tiles(MatmulSize { rows, depth: piece, columns });
        recorder.dispatch(bound, &dims, &grid(&device, op, whole, work)?)?;
        begin += piece;
        if begin >= depth {
            return Ok(());
        }
    }
}

/// Sums of an array `[outer, terms, columns]`.
#[derive(Clone, Copy)]
pub(super) struct Sum<'a> {
    pub(super) x: &'a Buffer,
    pub(super) offset: usize,
    pub(super) outer: usize,
    pub(super) outer_stride: usize,
    pub(super) terms: usize,
    pub(super) term: Axis,
    pub(super) columns: usize,
    /// The columns that are left out.
    pub(super) gap: Option<Gap>,
}

/// Computes the sums over the terms as `y [outer, columns]` from element `y_offset` on, or adds them to `y` if `accumulate`.
pub(super) fn sum_strided(
    recorder: &mut Recorder,
    sum: &Sum<'_>,
    (y, y_offset): (&Buffer, usize),
    accumulate: bool,
) -> Result<()> {
    let op = SUM_STRIDED.name;
    let device = recorder.device().clone();
    let n = |size: usize| word(&device, op, size);
    let count = sum.outer * sum.columns;
    n(y_offset + count)?;
    let longest = longest_loop(device.plan_limits()) / 2;
    let mut begin = 0;
    loop {
        let piece = longest.min(sum.terms - begin);
        let (first, term_stride) = if sum.terms > 0 { sum.term.part(&device, op, sum.terms, begin)? } else { (0, 0) };
        let dims = SumStridedDims {
            outer: n(sum.outer)?,
            terms: n(piece)?,
            columns: n(sum.columns)?,
            offset: n(sum.offset + first)?,
            outer_stride: n(sum.outer_stride)?,
            term_stride,
            gap: n(sum.gap.map_or(0, |gap| gap.elements))?,
            gap_column: sum.gap.map_or(Ok(u32::MAX), |gap| n(gap.at))?,
            y_offset: n(y_offset)?,
        };
        let constants = vec![("ACCUMULATE", u32::from(accumulate || begin > 0))];
        let bound = recorder.bind(&SUM_STRIDED, &constants, [sum.x, y].map(Buffer::clone))?;
        let all = (count as u64).saturating_mul(piece as u64 + 1);
        let work = Work::of(2 * all, 4 * all).iterations(piece);
        recorder.dispatch(bound, &dims, &fold(&device, op, count.div_ceil(WORKGROUP_SIZE), work)?)?;
        begin += piece;
        if begin >= sum.terms {
            return Ok(());
        }
    }
}

/// Sums every column of `x [rows, columns]` row by row: for more rows than the invocations of a workgroup can share.
pub(super) fn sum_columns(
    recorder: &mut Recorder,
    (x, y): (&Buffer, &Buffer),
    [rows, columns]: [usize; 2],
) -> Result<()> {
    let (outer, outer_stride, term) = (1, 0, Axis::of(columns));
    let sum = Sum { x, offset: 0, outer, outer_stride, terms: rows, term, columns, gap: None };
    sum_strided(recorder, &sum, (y, 0), false)
}

/// Multiplies `count` elements of `x` from `from` on by a mask that repeats after `period` elements; writes them to `y` from `to` on.
pub(super) fn dropout_into(
    recorder: &mut Recorder,
    draw: &Draw,
    (x, from): (&Buffer, usize),
    (y, to): (&Buffer, usize),
    [count, period]: [usize; 2],
) -> Result<()> {
    let op = DROPOUT.name;
    let device = recorder.device().clone();
    let n = |size: usize| word(&device, op, size);
    let dims = DropoutDims {
        key: draw.key,
        threshold: draw.threshold,
        scale: draw.scale(),
        count: n(count)?,
        period: n(period.max(1))?,
        from_offset: n(from)?,
        to_offset: n(to)?,
        unused: [0; 2],
    };
    n(from.max(to) + count)?;
    let work = Work::each(count, 1).products(40 * count as u64);
    let grid = fold(&device, op, count.div_ceil(WORKGROUP_SIZE), work)?;
    // The mask's key differs in every training step.
    recorder.has_passing_numbers();
    let bound = recorder.bind(&DROPOUT, &Constants::new(), [x, y].map(Buffer::clone))?;
    recorder.dispatch(bound, &dims, &grid)
}

/// Multiplies `x` by a mask of `len` elements into a new buffer.
pub(crate) fn dropout(recorder: &mut Recorder, draw: &Draw, x: &Buffer, len: usize) -> Result<Buffer> {
    let y = Buffer::new(recorder.device(), DROPOUT.name, len)?;
    dropout_into(recorder, draw, (x, 0), (&y, 0), [len, len])?;
    Ok(y)
}

/// Copies `x [rows, columns]` to a new buffer, with zeros in the rows that `flags` marks as skipped.
pub(super) fn silence(
    recorder: &mut Recorder,
    x: &Buffer,
    flags: &Buffer,
    [rows, columns]: [usize; 2],
) -> Result<Buffer> {
    let device = recorder.device().clone();
    let n = |size: usize| word(&device, SILENCE.name, size);
    let dims = SilenceDims { count: n(rows * columns)?, columns: n(columns)? };
    each(recorder, &SILENCE, &Constants::new(), &[x, flags], &dims, rows * columns)
}

//! Matrix products: rows times a constant matrix that was packed when it was loaded, or a matrix that is packed for one call.
#![allow(unsafe_code)]

use std::ops::Range;

use ndarray::{Array1, Array2};

use super::super::device::CpuDevice;
use super::super::math::{load_part, store_part};
use super::super::memory::SharedSlice;
use super::super::pack::{Operand, PanelLayout, Panels};
use super::super::product::{OperandRows, Product, ProductTarget};
use super::super::simd::{Kernel, Simd, Verified};
use super::super::stored::{PanelSlice, PanelWeights};
use super::layout::transpose;
use super::scratch::{split, wanted_threads, with_scratch};
use crate::cell::WeightType;
use crate::error::Result;

const OP: &str = "matmul";

/// Rows that are multiplied by all panels before the next rows, so that they stay in the cache.
const ROW_CHUNK: usize = 48;

/// The gates of a panel that holds the columns of one matrix.
const ONE_GATE: &[usize] = &[0];

/// The layout of a matrix of `columns` columns. Of the panel widths the one that pads the columns least.
pub(super) fn panel_layout(set: Verified, columns: usize) -> PanelLayout {
    let of = |blocks: usize| PanelLayout::new(ONE_GATE, blocks, columns, set);
    let padded = |layout: &PanelLayout| layout.panels() * layout.width();
    let (wide, narrow) = (of(4), of(3));
    if padded(&narrow) < padded(&wide) { narrow } else { wide }
}

/// Some consecutive strips of f32 numbers.
fn narrow(panels: PanelSlice<'_>, width: usize, range: Range<usize>) -> PanelSlice<'_> {
    let columns = range.start * width..range.end * width;
    let weights = match panels.weights {
        PanelWeights::F32(n) => PanelWeights::F32(&n[columns.start * panels.depth..columns.end * panels.depth]),
        other => other,
    };
    let (scale, bias) = (&panels.scale[columns.clone()], &panels.bias[columns]);
    PanelSlice { weights, scale, bias, count: range.len(), ..panels }
}

/// A matrix in strips of `width` columns, and how many of all columns are its own.
#[derive(Clone, Copy)]
pub(super) struct PanelMatrix<'a> {
    pub(super) panels: PanelSlice<'a>,
    pub(super) width: usize,
    pub(super) columns: usize,
}

impl PanelMatrix<'_> {
    /// Numbers that [`PanelMatrix::multiply`] needs besides its result.
    pub(super) fn spare_len(&self, rows: usize) -> usize {
        if self.columns.is_multiple_of(self.width) { 0 } else { rows.min(ROW_CHUNK) * self.width }
    }

    /// Computes `out [rows, columns] = rows x matrix + bias`.
    pub(super) fn multiply(&self, set: Verified, rows: OperandRows<'_>, out: &mut [f32], spare: &mut [f32]) {
        let mut first = 0;
        while first < rows.count {
            let chunk = first..rows.count.min(first + ROW_CHUNK);
            let out = &mut out[first * self.columns..chunk.end * self.columns];
            first = chunk.end;
            self.multiply_chunk(set, rows.slice(chunk), out, spare);
        }
    }

    fn multiply_chunk(&self, set: Verified, rows: OperandRows<'_>, out: &mut [f32], spare: &mut [f32]) {
        let (width, columns) = (self.width, self.columns);
        let (full, rest) = (columns / width, columns % width);
        if full > 0 {
            let panels = narrow(self.panels, width, 0..full);
            let target = ProductTarget { numbers: &mut *out, panel_stride: width, row_stride: columns };
            set.run(Product { panels, rows, target });
        }
        if rest > 0 {
            let panels = narrow(self.panels, width, full..full + 1);
            let target = ProductTarget { numbers: &mut *spare, panel_stride: 0, row_stride: width };
            set.run(Product { panels, rows, target });
            for (out, row) in out.chunks_exact_mut(columns).zip(spare.chunks_exact(width)) {
                out[full * width..].copy_from_slice(&row[..rest]);
            }
        }
    }

    /// [`PanelMatrix::multiply`] on the device's threads.
    fn multiply_on(&self, device: &CpuDevice, rows: OperandRows<'_>, out: &mut [f32]) -> Result<()> {
        let set = device.verified();
        let (columns, depth) = (self.columns, self.panels.depth);
        let work = rows.count.saturating_mul(columns).saturating_mul(depth);
        let threads = wanted_threads(device, work);
        if rows.count == 1 && threads > 1 {
            return self.multiply_row_on(device, rows, out);
        }
        let spare = self.spare_len(rows.count);
        with_scratch(OP, threads * spare, |scratch| {
            let (out, scratch) = (SharedSlice::new(out), SharedSlice::new(scratch));
            split(device, rows.count, work, |thread, part| {
                if part.is_empty() {
                    return;
                }
                // SAFETY: the parts of the threads are disjoint rows of the result, and each thread has its own spare
                // numbers.
                let (out, spare) = unsafe {
                    (out.write(part.start * columns, part.len() * columns), scratch.write(thread * spare, spare))
                };
                self.multiply(set, rows.slice(part), out, spare);
            });
        })
    }

    /// A single row on the device's threads, each of which multiplies it by some of the strips.
    fn multiply_row_on(&self, device: &CpuDevice, row: OperandRows<'_>, out: &mut [f32]) -> Result<()> {
        let (set, width) = (device.verified(), self.width);
        let threads = device.threads();
        with_scratch(OP, threads * width, |scratch| {
            let (out, scratch) = (SharedSlice::new(out), SharedSlice::new(scratch));
            split(device, self.columns.div_ceil(width), self.columns * self.panels.depth, |thread, part| {
                let columns = part.start * width..self.columns.min(part.end * width);
                if part.is_empty() {
                    return;
                }
                // SAFETY: the parts of the threads are disjoint columns of the row, and each thread has its own spare
                // numbers.
                let (out, spare) =
                    unsafe { (out.write(columns.start, columns.len()), scratch.write(thread * width, width)) };
                let panels = narrow(self.panels, width, part);
                PanelMatrix { panels, width, columns: columns.len() }.multiply(set, row, out, spare);
            });
        })
    }
}

/// A constant matrix with its bias, packed for the processor of a device.
pub(crate) struct PackedMatrix {
    device: CpuDevice,
    panels: Panels,
}

impl PackedMatrix {
    /// Packs `weight [N, K]`, by whose transpose rows are multiplied, and `bias [N]`.
    pub(crate) fn new(device: &CpuDevice, weight: &Array2<f32>, bias: Option<&Array1<f32>>) -> Result<Self> {
        let layout = panel_layout(device.verified(), weight.nrows());
        let panels = Panels::new(layout, weight, bias, (WeightType::F32, Operand::Input), device.verified())?;
        Ok(Self { device: device.clone(), panels })
    }

    /// Numbers per row of the operand and of the result.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        [self.panels.depth, self.panels.layout.units]
    }

    /// Copies the matrix and its bias out of the panels: `[N, K]`, `[N]`.
    pub(crate) fn unpack(&self) -> (Array2<f32>, Array1<f32>) {
        let [depth, columns] = self.sizes();
        let (mut weight, mut bias) = (Array2::zeros((columns, depth)), Array1::zeros(columns));
        self.panels.unpack(weight.view_mut(), Some(&mut bias));
        (weight, bias)
    }

    pub(super) fn matrix(&self) -> PanelMatrix<'_> {
        let layout = self.panels.layout;
        let panels = self.panels.slice(0..layout.panels());
        PanelMatrix { panels, width: layout.strip_width(), columns: layout.units }
    }

    /// Computes `out = x W^T + bias` for `x [rows, K]`, `out [rows, N]`.
    pub(crate) fn multiply(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        let [depth, columns] = self.sizes();
        let count = out.len().checked_div(columns).unwrap_or(0);
        let rows = OperandRows { numbers: x, stride: depth, count };
        self.matrix().multiply_on(&self.device, rows, out)
    }
}

/// A matrix that may be read as its transpose.
#[derive(Clone, Copy)]
pub(crate) struct MatrixOperand<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) transposed: bool,
}

/// From this many rows on, the right matrix is packed for the call.
const PACK_ROWS: usize = 8;

/// Computes `out [M, N] = a [M, K] b [K, N] + bias [N]`. A transposed operand is stored as its transpose.
pub(crate) fn matmul(
    device: &CpuDevice,
    [rows, depth, columns]: [usize; 3],
    a: MatrixOperand<'_>,
    b: MatrixOperand<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) -> Result<()> {
    if a.transposed && rows > 1 && depth > 1 {
        return with_scratch(OP, rows * depth, |scratch| {
            transpose((a.numbers, rows), [depth, rows], (&mut *scratch, depth));
            let a = MatrixOperand { numbers: scratch, transposed: false };
            matmul(device, [rows, depth, columns], a, b, bias, out)
        })?;
    }
    let operand = OperandRows { numbers: a.numbers, stride: depth, count: rows };
    if rows >= PACK_ROWS {
        return with_packed(device, b, [depth, columns], bias, |matrix| matrix.multiply_on(device, operand, out))?;
    }
    let set = device.verified();
    if b.transposed && depth > 1 {
        set.run(RowDots { rows: operand, matrix: b.numbers, bias, out });
    } else {
        set.run(RowSums { rows: operand, matrix: b.numbers, depth, columns, bias, out });
    }
    Ok(())
}

/// Packs a matrix for one call.
pub(super) fn with_packed<T>(
    device: &CpuDevice,
    b: MatrixOperand<'_>,
    [depth, columns]: [usize; 2],
    bias: Option<&[f32]>,
    work: impl FnOnce(PanelMatrix<'_>) -> T,
) -> Result<T> {
    let layout = panel_layout(device.verified(), columns);
    let width = layout.strip_width();
    let count = columns.div_ceil(width);
    with_scratch(OP, count * width * (depth + 2), |scratch| {
        let (numbers, rest) = scratch.split_at_mut(count * width * depth);
        let (scale, shift) = rest.split_at_mut(count * width);
        scale.fill(1.0);
        shift.fill(0.0);
        if let Some(bias) = bias {
            shift[..columns].copy_from_slice(bias);
        }
        pack(b, [depth, columns], width, numbers);
        let (weights, vectors) = (PanelWeights::F32(numbers), layout.strip());
        let panels = PanelSlice { weights, scale, bias: shift, depth, vectors, count, last_first: false };
        work(PanelMatrix { panels, width, columns })
    })
}

/// Copies a matrix into strips `[strips, depth, width]`, with zeros beyond its last column.
fn pack(b: MatrixOperand<'_>, [depth, columns]: [usize; 2], width: usize, panels: &mut [f32]) {
    if depth == 0 {
        return;
    }
    for (at, panel) in panels.chunks_exact_mut(depth * width).enumerate() {
        let (first, count) = (at * width, width.min(columns - at * width));
        if count < width {
            panel.fill(0.0);
        }
        if b.transposed {
            transpose((&b.numbers[first * depth..], depth), [count, depth], (panel, width));
        } else {
            for (row, to) in b.numbers.chunks_exact(columns).zip(panel.chunks_exact_mut(width)) {
                to[..count].copy_from_slice(&row[first..first + count]);
            }
        }
    }
}

/// Products of a few rows with a matrix `[depth, columns]` that is read once per tile of rows.
struct RowSums<'a> {
    rows: OperandRows<'a>,
    matrix: &'a [f32],
    depth: usize,
    columns: usize,
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl RowSums<'_> {
    /// `R` rows from `first` on, `V` registers of columns at a time.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(&mut self, v: S, first: usize) {
        let (columns, depth) = (self.columns, self.depth);
        let mut at = 0;
        while at < columns {
            let count = (columns - at).min(V * S::LANES);
            let mut start = [v.splat(0.0); V];
            if let Some(bias) = self.bias {
                for (part, start) in start.iter_mut().enumerate() {
                    *start = load_part(v, &bias[at..at + count][(part * S::LANES).min(count)..]);
                }
            }
            let mut sums = [start; R];
            for k in 0..depth {
                let row = &self.matrix[k * columns + at..k * columns + at + count];
                let mut weights = [v.splat(0.0); V];
                for (part, weights) in weights.iter_mut().enumerate() {
                    *weights = load_part(v, &row[(part * S::LANES).min(count)..]);
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = v.splat(self.rows.numbers[(first + row) * self.rows.stride + k]);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = v.fma(x, weights, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                let out = &mut self.out[(first + row) * columns + at..][..count];
                for (sum, out) in sums.into_iter().zip(out.chunks_mut(S::LANES)) {
                    store_part(v, out, sum);
                }
            }
            at += V * S::LANES;
        }
    }
}

impl Kernel for RowSums<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, v: S) {
        let mut first = 0;
        while first + 4 <= self.rows.count {
            self.tile::<S, 4, 2>(v, first);
            first += 4;
        }
        while first < self.rows.count {
            self.tile::<S, 1, 4>(v, first);
            first += 1;
        }
    }
}

/// Products of a few rows with a matrix that is stored as its transpose: one dot product per number.
struct RowDots<'a> {
    rows: OperandRows<'a>,
    /// `[columns, depth]`, with the depth of the rows' stride.
    matrix: &'a [f32],
    bias: Option<&'a [f32]>,
    out: &'a mut [f32],
}

impl Kernel for RowDots<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let depth = self.rows.stride;
        let columns = self.matrix.len() / depth;
        for row in 0..self.rows.count {
            let x = &self.rows.numbers[row * depth..(row + 1) * depth];
            let out = &mut self.out[row * columns..(row + 1) * columns];
            for (column, (y, w)) in out.iter_mut().zip(self.matrix.chunks_exact(depth)).enumerate() {
                *y = dot(v, x, w) + self.bias.map_or(0.0, |bias| bias[column]);
            }
        }
    }
}

/// The dot product of two slices of one length, in an order that depends on the registers' width alone.
#[inline(always)]
fn dot<S: Simd>(v: S, x: &[f32], w: &[f32]) -> f32 {
    let mut sums = [v.splat(0.0); 4];
    let (mut at, len) = (0, x.len().min(w.len()));
    while at < len {
        for (part, sum) in sums.iter_mut().enumerate() {
            let from = (at + part * S::LANES).min(len);
            let to = (from + S::LANES).min(len);
            *sum = v.fma(load_part(v, &x[from..to]), load_part(v, &w[from..to]), *sum);
        }
        at += 4 * S::LANES;
    }
    super::reduce::sum_lanes(v, v.add(v.add(sums[0], sums[1]), v.add(sums[2], sums[3])))
}

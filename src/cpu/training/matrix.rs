//! Matrices packed for products from the left.

use ndarray::{ArrayView2, Axis};

use crate::cpu::buffer_cache::CachedBuffer;
use crate::cpu::device::CpuDevice;
use crate::cpu::product::{OperandRows, Product, ProductTarget};
use crate::cpu::simd::Verified;
use crate::cpu::stored::{PanelSlice, PanelWeights};
use crate::error::Result;

/// Registers of a panel, which the set's tiles may take in several strips.
const VECTORS: usize = 4;
/// Numbers of the left operand that are multiplied by all panels at once, so that they stay in the second-level cache.
const CACHED_NUMBERS: usize = 1 << 16;

/// A matrix and a bias, packed for `y = x M + b`.
pub(super) struct PackedMatrix {
    /// `[panels, depth, width]`
    numbers: CachedBuffer,
    /// `[panels, width]`
    scale: CachedBuffer,
    bias: CachedBuffer,
    depth: usize,
    set: Verified,
}

impl PackedMatrix {
    /// Packs `weight [columns, depth]`, in any memory layout.
    pub(super) fn new(device: &CpuDevice, weight: ArrayView2<'_, f32>, bias: Option<&[f32]>) -> Result<Self> {
        let (set, buffers) = (device.verified(), device.buffers());
        let (columns, depth) = weight.dim();
        let width = set.strip(VECTORS) * set.lanes();
        let stride = columns.next_multiple_of(width);
        let mut numbers = buffers.take(stride * depth)?;
        let panels = numbers.chunks_exact_mut((width * depth).max(1));
        for (panel, weight) in panels.zip(weight.axis_chunks_iter(Axis(0), width)) {
            if weight.nrows() < width {
                panel.fill(0.0);
            }
            transpose(weight, panel.chunks_exact_mut(width).map(|row| &mut row[..weight.nrows()]));
        }
        let mut scale = buffers.take(stride)?;
        scale.fill(1.0);
        let mut padded = buffers.zeros(stride)?;
        if let Some(bias) = bias {
            padded[..columns].copy_from_slice(bias);
        }
        Ok(Self { numbers, scale, bias: padded, depth, set })
    }

    /// Numbers per row of the product: the columns, padded to whole panels.
    pub(super) fn stride(&self) -> usize {
        self.scale.len()
    }

    /// Multiplies `count` rows, which are `stride` apart in `numbers`. Rows of `out` are [`PackedMatrix::stride`] apart.
    pub(super) fn multiply(&self, numbers: &[f32], stride: usize, count: usize, out: &mut [f32]) {
        let (depth, row_stride) = (self.depth, self.stride());
        let vectors = self.set.strip(VECTORS);
        let panel_stride = vectors * self.set.lanes();
        let panels = PanelSlice {
            weights: PanelWeights::F32(&self.numbers),
            scale: &self.scale,
            bias: &self.bias,
            depth,
            vectors,
            count: row_stride / panel_stride,
            last_first: false,
        };
        let all = OperandRows { numbers, stride, count };
        let rows_at_once = (CACHED_NUMBERS / depth.max(1)).max(1);
        for first in (0..count).step_by(rows_at_once) {
            let rows = all.slice(first..count.min(first + rows_at_once));
            let target = ProductTarget { numbers: &mut out[first * row_stride..], panel_stride, row_stride };
            self.set.run(Product { panels, rows, target });
        }
    }
}

/// Writes the columns of a matrix to rows. If the columns are contiguous, it copies whole rows; otherwise it copies
/// square blocks, so that neither reads nor writes stride through memory.
fn transpose<'a>(matrix: ArrayView2<'_, f32>, rows: impl Iterator<Item = &'a mut [f32]>) {
    const SIDE: usize = 16;
    if matrix.strides()[0] == 1 || matrix.nrows() == 1 {
        for (column, row) in matrix.columns().into_iter().zip(rows) {
            match column.to_slice() {
                Some(column) => row.copy_from_slice(column),
                None => row.iter_mut().zip(column).for_each(|(to, &from)| *to = from),
            }
        }
        return;
    }
    let mut rows: Vec<&mut [f32]> = rows.collect();
    for (first, some) in (0..).step_by(SIDE).zip(matrix.axis_chunks_iter(Axis(0), SIDE)) {
        for (rows, square) in rows.chunks_mut(SIDE).zip(some.axis_chunks_iter(Axis(1), SIDE)) {
            let mut numbers = [[0.0; SIDE]; SIDE];
            for (to, from) in numbers.iter_mut().zip(square.rows()) {
                to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
            }
            for (column, row) in rows.iter_mut().enumerate() {
                let row = &mut row[first..first + square.nrows()];
                row.iter_mut().zip(&numbers).for_each(|(to, from)| *to = from[column]);
            }
        }
    }
}

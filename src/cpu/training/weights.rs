//! A layer's weights as both passes read them.

use ndarray::{ArrayView2, Axis, IxDyn, s};

use super::{NamedParameters, OP};
use crate::cell::{Cell, GruCell, Parameters, Reset};
use crate::cpu::buffer_cache::CachedBuffer;
use crate::cpu::device::CpuDevice;
use crate::cpu::pack::PanelSlice;
use crate::cpu::product::{OperandRows, Product, ProductTarget};
use crate::cpu::simd::Verified;
use crate::cpu::stored::PanelWeights;
use crate::error::Result;
use crate::memory;

/// Registers of a panel.
const VECTORS: usize = 4;
/// Numbers of the left operand that stay in the second cache while all panels pass.
const CACHED: usize = 1 << 16;

/// A matrix packed for products from the left, `y = x M + b`.
pub(super) struct Matrix {
    /// `[panels, depth, width]`
    numbers: CachedBuffer,
    /// `[panels, width]`
    scale: CachedBuffer,
    bias: CachedBuffer,
    depth: usize,
    set: Verified,
}

impl Matrix {
    /// `weight [columns, depth]`, whatever its layout in memory.
    fn new(device: &CpuDevice, weight: ArrayView2<'_, f32>, bias: Option<&[f32]>) -> Result<Self> {
        let (set, scratch) = (device.verified(), device.buffers());
        let (columns, depth) = weight.dim();
        let width = VECTORS * set.lanes();
        let stride = columns.next_multiple_of(width);
        let mut numbers = scratch.take(stride * depth)?;
        let panels = numbers.chunks_exact_mut((width * depth).max(1));
        for (panel, weight) in panels.zip(weight.axis_chunks_iter(Axis(0), width)) {
            if weight.nrows() < width {
                panel.fill(0.0);
            }
            transpose(weight, panel.chunks_exact_mut(width).map(|row| &mut row[..weight.nrows()]));
        }
        let mut scale = scratch.take(stride)?;
        scale.fill(1.0);
        let mut padded = scratch.zeros(stride)?;
        if let Some(bias) = bias {
            padded[..columns].copy_from_slice(bias);
        }
        Ok(Self { numbers, scale, bias: padded, depth, set })
    }

    /// Numbers of a row of the product: its columns, padded to whole panels.
    pub(super) fn stride(&self) -> usize {
        self.scale.len()
    }

    /// The product of the first numbers of `count` rows, `stride` apart; rows of `out` are [`Matrix::stride`] apart.
    pub(super) fn multiply(&self, numbers: &[f32], stride: usize, count: usize, out: &mut [f32]) {
        let (depth, row_stride) = (self.depth, self.stride());
        let panel_stride = VECTORS * self.set.lanes();
        let panels = PanelSlice {
            weights: PanelWeights::F32(&self.numbers),
            scale: &self.scale,
            bias: &self.bias,
            depth,
            vectors: VECTORS,
            count: row_stride / panel_stride,
            last_first: false,
        };
        let all = OperandRows { numbers, stride, count };
        let together = (CACHED / depth.max(1)).max(1);
        for first in (0..count).step_by(together) {
            let rows = all.slice(first..count.min(first + together));
            let target = ProductTarget { numbers: &mut out[first * row_stride..], panel_stride, row_stride };
            self.set.run(Product { panels, rows, target });
        }
    }
}

/// Writes the columns of a matrix to rows: by whole rows where the columns lie in one piece, else by squares, so that neither
/// side strides through memory.
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

/// One layer and direction.
pub(super) struct LayerWeights {
    pub(super) cell: Cell,
    pub(super) input: usize,
    pub(super) hidden: usize,
    pub(super) out: usize,
    /// `x` to all gates, with `b_ih`.
    pub(super) x: Matrix,
    /// `h` to the gates of a step's first product, with `b_hh`: all of them, or `r` and `z` where the GRU resets before.
    pub(super) h: Matrix,
    /// `r h` to the candidate of a GRU that resets before, or the state to its projection.
    pub(super) second: Option<Matrix>,
    /// The transposes: gradients by the gates to those by `x`, `h` and the second product's operand.
    pub(super) x_back: Matrix,
    pub(super) h_back: Matrix,
    pub(super) second_back: Option<Matrix>,
    /// `[3 hidden]`, or nothing.
    pub(super) peephole: Vec<f32>,
    pub(super) set: Verified,
}

impl LayerWeights {
    /// Packs parameters that fit the cell.
    pub(super) fn new(
        cell: &Cell,
        [input, hidden]: [usize; 2],
        named: &NamedParameters<'_>,
        device: &CpuDevice,
    ) -> Result<Self> {
        let given = |name| named.iter().find(|(named, _)| *named == name).map(|(_, numbers)| *numbers);
        let weight = |name, columns: usize| {
            let numbers = given(name).unwrap_or_default();
            ArrayView2::from_shape((numbers.len() / columns.max(1), columns), numbers)
                .unwrap_or_else(|_| unreachable!("{name} has the shape that the cell says"))
        };
        let matrix = |weight, bias| Matrix::new(device, weight, bias);
        let out = cell.output_size(hidden);
        let (ih, hh) = (weight("weight_ih", input), weight("weight_hh", out));
        let first = if resets_before(cell) { 2 * hidden } else { cell.gates().len() * hidden };
        let (h, candidate) = (hh.slice(s![..first, ..]), hh.slice(s![first.., ..]));
        let (bias_h, bias_candidate) = given("bias_hh").map(|bias| bias.split_at(first)).unzip();
        let (second, second_back) = if cell.projection().is_some() {
            let weight = weight("weight_hr", hidden);
            (Some(matrix(weight, None)?), Some(matrix(weight.reversed_axes(), None)?))
        } else if resets_before(cell) {
            (Some(matrix(candidate, bias_candidate)?), Some(matrix(candidate.reversed_axes(), None)?))
        } else {
            (None, None)
        };
        Ok(Self {
            cell: *cell,
            input,
            hidden,
            out,
            x: matrix(ih, given("bias_ih"))?,
            h: matrix(h, bias_h)?,
            second,
            x_back: matrix(ih.reversed_axes(), None)?,
            h_back: matrix(h.reversed_axes(), None)?,
            second_back,
            peephole: memory::copied(OP, given("peephole").unwrap_or_default())?,
            set: device.verified(),
        })
    }

    /// Gradients of zero.
    pub(super) fn zero_parameters(&self) -> Result<Parameters> {
        Parameters::collect(&self.cell, self.input, self.hidden, |spec| memory::zero_array(OP, IxDyn(&spec.shape)))
    }

    /// Rows of gates.
    pub(super) fn gates(&self) -> usize {
        self.cell.gates().len() * self.hidden
    }

    /// Gates of a step's first product.
    pub(super) fn first_gates(&self) -> usize {
        if resets_before(&self.cell) { 2 * self.hidden } else { self.gates() }
    }

    /// Multiply-adds of one step of one row, forward.
    pub(super) fn step_work(&self) -> usize {
        self.gates() * (self.input + self.out)
    }
}

pub(super) fn resets_before(cell: &Cell) -> bool {
    matches!(cell, Cell::Gru(GruCell { reset: Reset::Before, .. }))
}

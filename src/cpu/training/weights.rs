//! A layer's weights as both passes read them.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use crate::cell::{Cell, GruCell, Parameters, Reset};
use crate::cpu::pack::{Panels, transpose};
use crate::cpu::product::{Product, Rows, Target};
use crate::cpu::simd::Verified;

/// A matrix packed for products from the left, `y = x M + b`.
pub(super) struct Matrix {
    panels: Panels,
    set: Verified,
}

impl Matrix {
    /// `weight [columns, depth]`.
    fn new(weight: ArrayView2<'_, f32>, bias: Option<ArrayView1<'_, f32>>, set: Verified) -> Self {
        Self { panels: Panels::plain(weight, bias, set.lanes()), set }
    }

    /// Numbers of a row of the product: its columns, padded to whole panels.
    pub(super) fn stride(&self) -> usize {
        self.panels.layout.panels() * self.panels.layout.width()
    }

    /// The product of the first numbers of `count` rows, `stride` apart; rows of `out` are [`Matrix::stride`] apart.
    pub(super) fn multiply(&self, numbers: &[f32], stride: usize, count: usize, out: &mut [f32]) {
        let (panel_stride, row_stride) = (self.panels.layout.width(), self.stride());
        let panels = self.panels.run(0..self.panels.layout.panels());
        let target = Target { numbers: out, panel_stride, row_stride };
        self.set.run(Product { panels, rows: Rows { numbers, stride, count }, target });
    }
}

/// `into += a^T b`, by the kernel of the forward products. Every element is one sum over the rows of both in their order.
pub(super) fn add_transposed_product(
    set: Verified,
    mut into: ArrayViewMut2<'_, f32>,
    a: ArrayView2<'_, f32>,
    b: ArrayView2<'_, f32>,
) {
    let (depth, count) = a.dim();
    if into.is_empty() || depth == 0 {
        return;
    }
    let b = Matrix::new(b.reversed_axes(), None, set);
    let mut numbers = vec![0.0; count * depth];
    transpose(a, numbers.chunks_exact_mut(depth));
    let stride = b.stride();
    let mut product = vec![0.0; count * stride];
    b.multiply(&numbers, depth, count, &mut product);
    for (mut into, product) in into.rows_mut().into_iter().zip(product.chunks_exact(stride)) {
        into += &ArrayView1::from(&product[..into.len()]);
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
    pub(super) fn new(cell: &Cell, hidden: usize, p: &Parameters, set: Verified) -> Self {
        let first = if resets_before(cell) { 2 * hidden } else { cell.gates().len() * hidden };
        let (h, candidate) = p.weight_hh.view().split_at(Axis(0), first);
        let bias = |range: Range<usize>| p.bias_hh.as_ref().map(|bias| bias.slice(s![range]));
        let matrix = |weight, bias| Matrix::new(weight, bias, set);
        let (second, second_back) = match &p.weight_hr {
            Some(weight) => (Some(matrix(weight.view(), None)), Some(matrix(weight.t(), None))),
            None if resets_before(cell) => {
                let bias = bias(first..first + hidden);
                (Some(matrix(candidate, bias)), Some(matrix(candidate.reversed_axes(), None)))
            }
            None => (None, None),
        };
        Self {
            cell: *cell,
            input: p.weight_ih.ncols(),
            hidden,
            out: cell.output_size(hidden),
            x: matrix(p.weight_ih.view(), p.bias_ih.as_ref().map(|bias| bias.view())),
            h: matrix(h, bias(0..first)),
            second,
            x_back: matrix(p.weight_ih.t(), None),
            h_back: matrix(h.reversed_axes(), None),
            second_back,
            peephole: p.peephole.as_ref().map(|p| p.iter().copied().collect()).unwrap_or_default(),
            set,
        }
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

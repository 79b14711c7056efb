//! A layer's weights, packed for the forward and the backward pass.

use ndarray::{ArrayView2, IxDyn, s};

use super::matrix::PackedMatrix;
use super::{NamedParameters, OP};
use crate::cell::{Cell, Parameters};
use crate::cpu::device::CpuDevice;
use crate::cpu::simd::Verified;
use crate::error::Result;
use crate::memory;

/// The weights of one layer and direction, packed for both passes.
pub(super) struct LayerWeights {
    pub(super) cell: Cell,
    pub(super) input: usize,
    pub(super) hidden: usize,
    pub(super) out: usize,
    /// `U` of all gates with `b_ih`.
    pub(super) x: PackedMatrix,
    /// `W` with `b_hh` of the gates in a step's first product: all gates, or `r` and `z` if a GRU resets before the product.
    pub(super) h: PackedMatrix,
    /// `W_n` of a GRU that resets before the product, or the projection `W_hr`.
    pub(super) second: Option<PackedMatrix>,
    /// The transposes, for the gradients with respect to `x`, `h` and the second product's operand.
    pub(super) x_back: PackedMatrix,
    pub(super) h_back: PackedMatrix,
    pub(super) second_back: Option<PackedMatrix>,
    /// Peephole weights, `[3, hidden]`; empty without peepholes.
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
        let matrix = |weight, bias| PackedMatrix::new(device, weight, bias);
        let out = cell.output_size(hidden);
        let (ih, hh) = (weight("weight_ih", input), weight("weight_hh", out));
        let first = if cell.resets_before() { 2 * hidden } else { cell.gates().len() * hidden };
        let (h, candidate) = (hh.slice(s![..first, ..]), hh.slice(s![first.., ..]));
        let (bias_h, bias_candidate) = given("bias_hh").map(|bias| bias.split_at(first)).unzip();
        let (second, second_back) = if cell.projection().is_some() {
            let weight = weight("weight_hr", hidden);
            (Some(matrix(weight, None)?), Some(matrix(weight.reversed_axes(), None)?))
        } else if cell.resets_before() {
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

    /// Zeros in the shapes of the parameters, to which gradients are added.
    pub(super) fn zero_parameters(&self) -> Result<Parameters> {
        Parameters::collect(&self.cell, self.input, self.hidden, |spec| memory::zero_array(OP, IxDyn(&spec.shape)))
    }

    /// Width of all gates.
    pub(super) fn gates(&self) -> usize {
        self.cell.gates().len() * self.hidden
    }

    /// Width of the gates in a step's first product.
    pub(super) fn first_gates(&self) -> usize {
        if self.resets_before() { 2 * self.hidden } else { self.gates() }
    }

    /// Multiply-adds of one step of one row, forward.
    pub(super) fn step_work(&self) -> usize {
        self.gates() * (self.input + self.out)
    }

    /// Whether a GRU resets `h` before the product with `W_n`.
    pub(super) fn resets_before(&self) -> bool {
        self.cell.resets_before()
    }

    /// Whether a GRU resets after the product, so that the candidate's two parts have gradients of their own.
    pub(super) fn resets_after(&self) -> bool {
        self.cell.resets_after()
    }

    /// Whether the cell projects its state.
    pub(super) fn projects(&self) -> bool {
        self.cell.projection().is_some()
    }
}

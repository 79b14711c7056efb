//! One recurrent layer in one direction: the input's side of all steps as one matrix product, then a product and an
//! element-wise update a step.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, Array3, ArrayView2, ArrayView3, ArrayViewMut2, Axis, s};

use super::ops::matmul;
use crate::cell::{Cell, Pad, Parameters, RESET, Reset, Sequence, VALID};
use crate::error::Result;
use crate::reference::{Direction, LayerState, gru_gate, gru_update, lstm_update, rnn_update};

/// A layer's weights, transposed for products from the left.
pub(crate) struct LayerWeights {
    cell: Cell,
    hidden: usize,
    /// `[input, gates hidden]`
    weight_ih: Array2<f32>,
    bias_ih: Option<Array1<f32>>,
    /// `[O, gates hidden]`
    weight_hh: Array2<f32>,
    bias_hh: Option<Array1<f32>>,
    /// `[hidden, O]`
    weight_hr: Option<Array2<f32>>,
    peephole: Option<Array2<f32>>,
}

impl LayerWeights {
    /// Packs parameters that fit the cell.
    pub(crate) fn new(cell: &Cell, hidden: usize, p: &Parameters) -> Self {
        let transposed = |weight: &Array2<f32>| weight.t().as_standard_layout().into_owned();
        Self {
            cell: *cell,
            hidden,
            weight_ih: transposed(&p.weight_ih),
            bias_ih: p.bias_ih.clone(),
            weight_hh: transposed(&p.weight_hh),
            bias_hh: p.bias_hh.clone(),
            weight_hr: p.weight_hr.as_ref().map(transposed),
            peephole: p.peephole.clone(),
        }
    }

    /// `h W + b_hh` for the gate columns `from..`.
    fn state_side(&self, h: ArrayView2<'_, f32>, from: usize, into: ArrayViewMut2<'_, f32>) {
        let mut into = into;
        let columns = into.ncols();
        match &self.bias_hh {
            Some(bias) => into.assign(&bias.slice(s![from..from + columns])),
            None => into.fill(0.0),
        }
        general_mat_mul(1.0, &h, &self.weight_hh.slice(s![.., from..from + columns]), 1.0, &mut into);
    }
}

/// A layer over a batch, as [`reference::layer`](crate::reference::layer) specifies it.
pub(crate) fn layer(
    weights: &LayerWeights,
    direction: Direction,
    sequence: &Sequence,
    x: ArrayView3<'_, f32>,
    state: &mut LayerState<f32>,
) -> Result<Array3<f32>> {
    let (time, batch, input) = x.dim();
    let LayerState { h, s, initial_h, initial_s } = state;
    let (hidden, out) = (weights.hidden, h.ncols());
    let gates = weights.weight_hh.ncols();
    let flags = sequence.flags(time, batch)?;
    let rows = x.to_shape((time * batch, input)).map(|x| x.into_owned()).unwrap_or_else(|_| Array2::zeros((0, input)));
    let gates_x = matmul(rows.view(), weights.weight_ih.view(), weights.bias_ih.as_ref().map(|b| b.view()));

    let mut y = Array3::zeros((time, batch, out));
    let mut held = Array2::<f32>::zeros((batch, out));
    let mut a = Array2::zeros((batch, gates));
    let mut m = Array2::zeros((batch, hidden));
    let mut m_out = Array2::zeros((batch, out));
    for k in 0..time {
        let t = match direction {
            Direction::Forward => k,
            Direction::Reverse => time - 1 - k,
        };
        let flag = |row: usize| flags.as_ref().map_or(VALID, |flags| flags[[t, row]]);
        for row in (0..batch).filter(|&row| flag(row) & RESET != 0) {
            h.row_mut(row).assign(&initial_h.row(row));
            s.row_mut(row).assign(&initial_s.row(row));
        }
        let x_t = gates_x.slice(s![t * batch..(t + 1) * batch, ..]);
        let step = Step { weights, x: x_t, h, valid: &|row| flag(row) & VALID != 0 };
        step.run(&mut a, &mut m, s);
        let new_h = match &weights.weight_hr {
            Some(weight_hr) => {
                general_mat_mul(1.0, &m, weight_hr, 0.0, &mut m_out);
                &m_out
            }
            None => &m,
        };
        for row in 0..batch {
            if flag(row) & VALID != 0 {
                h.row_mut(row).assign(&new_h.row(row));
                held.row_mut(row).assign(&new_h.row(row));
            } else if sequence.padding() == Pad::Zero {
                held.row_mut(row).fill(0.0);
            }
        }
        y.index_axis_mut(Axis(0), t).assign(&held);
    }
    Ok(y)
}

/// One time step of all rows.
struct Step<'a> {
    weights: &'a LayerWeights,
    /// `[batch, gates hidden]`
    x: ArrayView2<'a, f32>,
    /// `[batch, O]`
    h: &'a Array2<f32>,
    valid: &'a dyn Fn(usize) -> bool,
}

impl Step<'_> {
    /// Computes `m [batch, hidden]`, the new state before any projection, and updates `s` of the valid rows.
    fn run(&self, a: &mut Array2<f32>, m: &mut Array2<f32>, s: &mut Array2<f32>) {
        let Self { weights, x, h, valid } = self;
        let hidden = weights.hidden;
        let rows = (0..h.nrows()).filter(|&row| valid(row));
        if let Cell::Gru(cell) = &weights.cell
            && cell.reset == Reset::Before
        {
            weights.state_side(h.view(), 0, a.slice_mut(s![.., ..2 * hidden]));
            for row in rows.clone() {
                for u in 0..hidden {
                    m[[row, u]] = gru_gate(cell, x[[row, u]] + a[[row, u]]) * h[[row, u]];
                }
            }
            weights.state_side(m.view(), 2 * hidden, a.slice_mut(s![.., 2 * hidden..]));
        } else {
            weights.state_side(h.view(), 0, a.view_mut());
        }
        for row in rows {
            for u in 0..hidden {
                let at = |gate: usize| [row, gate * hidden + u];
                let sum = |gate: usize| x[at(gate)] + a[at(gate)];
                match &weights.cell {
                    Cell::Rnn(cell) => m[[row, u]] = rnn_update(cell, sum(0)),
                    Cell::Lstm(cell) => {
                        let p = weights.peephole.as_ref().map_or([0.0; 3], |p| [p[[0, u]], p[[1, u]], p[[2, u]]]);
                        let gates = weights.cell.gates().len();
                        let pre: [f32; 4] = std::array::from_fn(|g| if g < gates { sum(g) } else { 0.0 });
                        (m[[row, u]], s[[row, u]]) = lstm_update(cell, &pre, p, s[[row, u]]);
                    }
                    Cell::Gru(cell) => {
                        let state_side = match cell.reset {
                            Reset::Before => a[at(2)],
                            Reset::After => gru_gate(cell, sum(0)) * a[at(2)],
                        };
                        m[[row, u]] = gru_update(cell, gru_gate(cell, sum(1)), x[at(2)] + state_side, h[[row, u]]);
                    }
                }
            }
        }
    }
}

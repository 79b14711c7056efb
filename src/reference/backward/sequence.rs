//! Back-propagation through time over a whole sequence.

use ndarray::{Array2, Array3, ArrayView2, ArrayView3};

use super::{StepGradient, gru_step_backward, lstm_step_backward, rnn_step_backward};
use crate::cell::{Cell, Pad, Parameters, RESET, Sequence, VALID};
use crate::error::{Result, check_shape};
use crate::reference::{Direction, LayerState, Real, RowState, step};

/// One step of any cell backwards for one row: from the gradients by the state after the step to those by what entered it.
/// The parameters' gradients are added to `dp`.
pub fn step_backward<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    x: &[F],
    state: &RowState<F>,
    d_next: &RowState<F>,
    dp: &mut Parameters<F>,
) -> StepGradient<F> {
    match cell {
        Cell::Rnn(cell) => rnn_step_backward(cell, p, x, &state.h, &d_next.h, dp),
        Cell::Gru(cell) => gru_step_backward(cell, p, x, &state.h, &d_next.h, dp),
        Cell::Lstm(cell) => lstm_step_backward(cell, p, x, (&state.h, &state.s), (&d_next.h, &d_next.s), dp),
    }
}

/// Gradients of one layer and direction over a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerGradient<F> {
    /// By the input, `[T, B, input]`.
    pub x: Array3<F>,
    /// By the parameters, summed over steps and rows.
    pub parameters: Parameters<F>,
    /// By the state before the first step, and by the value that a reset returns to.
    pub state: LayerState<F>,
}

/// [`layer`](super::super::layer) backwards.
///
/// `state` is the one before the first step; `d_h` and `d_s` are the gradients by the state after the last. At a skipped step
/// the state's gradient passes unchanged; a step after a reset hands its gradient to the initial value.
///
/// # Shapes
/// `x [T, B, input]`, `dy [T, B, O]`, `d_h [B, O]`, `d_s [B, hidden]` (`[B, 0]` unless the cell is an LSTM).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when an argument does not fit.
pub fn layer_backward<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    direction: Direction,
    sequence: &Sequence,
    (x, state): (ArrayView3<'_, F>, &LayerState<F>),
    (dy, d_h, d_s): (ArrayView3<'_, F>, ArrayView2<'_, F>, ArrayView2<'_, F>),
) -> Result<LayerGradient<F>> {
    const OP: &str = "reference::layer_backward";
    let (time, batch, input) = x.dim();
    let hidden = p.weight_hh.nrows() / cell.gates().len();
    p.check(cell, input, hidden)?;
    let out = cell.output_size(hidden);
    check_shape(OP, "dy", &[time, batch, out], dy.shape())?;
    for (what, array, d) in [("d_h", &state.h, &d_h), ("d_s", &state.s, &d_s)] {
        check_shape(OP, what, array.shape(), d.shape())?;
    }
    let flags = sequence.flags(time, batch)?;
    let place = |k: usize| match direction {
        Direction::Forward => k,
        Direction::Reverse => time - 1 - k,
    };
    let zeros = |like: &Array2<F>| Array2::zeros(like.raw_dim());
    let mut gradient = LayerGradient {
        x: Array3::zeros(x.raw_dim()),
        parameters: p.map(|_| F::zero()),
        state: LayerState {
            h: zeros(&state.h),
            s: zeros(&state.s),
            initial_h: zeros(&state.initial_h),
            initial_s: zeros(&state.initial_s),
        },
    };
    for b in 0..batch {
        let flag = |k: usize| flags.as_ref().map_or(VALID, |flags| flags[[place(k), b]]);
        let input_at = |k: usize| -> Vec<F> { (0..input).map(|i| x[[place(k), b, i]]).collect() };
        let initial = RowState { h: state.initial_h.row(b).to_vec(), s: state.initial_s.row(b).to_vec() };
        // Forward once more: the state that each step starts from.
        let mut row = RowState { h: state.h.row(b).to_vec(), s: state.s.row(b).to_vec() };
        let mut before = Vec::with_capacity(time);
        for k in 0..time {
            if flag(k) & RESET != 0 {
                row = initial.clone();
            }
            before.push(row.clone());
            if flag(k) & VALID != 0 {
                row = step(cell, p, &input_at(k), &row);
            }
        }
        let mut d = RowState { h: d_h.row(b).to_vec(), s: d_s.row(b).to_vec() };
        // What later steps ask of the output that they repeat.
        let mut held = vec![F::zero(); out];
        for k in (0..time).rev() {
            let dy = (0..out).map(|u| dy[[place(k), b, u]]);
            let flag = flag(k);
            if flag & VALID != 0 {
                dy.enumerate().for_each(|(u, dy)| d.h[u] = d.h[u] + dy + held[u]);
                held.fill(F::zero());
                let back = step_backward(cell, p, &input_at(k), &before[k], &d, &mut gradient.parameters);
                for (i, dx) in back.x.into_iter().enumerate() {
                    gradient.x[[place(k), b, i]] = dx;
                }
                d = RowState { h: back.h, s: back.s };
            } else if sequence.padding() == Pad::Hold {
                dy.enumerate().for_each(|(u, dy)| held[u] = held[u] + dy);
            } else {
                held.fill(F::zero());
            }
            if flag & RESET != 0 {
                add(&mut gradient.state.initial_h, b, &d.h);
                add(&mut gradient.state.initial_s, b, &d.s);
                d.h.fill(F::zero());
                d.s.fill(F::zero());
            }
        }
        add(&mut gradient.state.h, b, &d.h);
        add(&mut gradient.state.s, b, &d.s);
    }
    Ok(gradient)
}

fn add<F: Real>(to: &mut Array2<F>, row: usize, values: &[F]) {
    for (u, &value) in values.iter().enumerate() {
        to[[row, u]] = to[[row, u]] + value;
    }
}

//! A cell over a whole sequence.

use ndarray::{Array2, Array3, ArrayView3};

use super::{Real, gru_step, lstm_step, rnn_step};
use crate::cell::{Cell, Pad, Parameters, Sequence};
use crate::cell::{RESET, VALID};
use crate::error::{Result, check_shape};

/// The state of one row: `h [O]` and, for an LSTM, `s [hidden]` (empty otherwise).
#[derive(Clone, Debug, PartialEq)]
pub struct RowState<F> {
    /// Hidden state.
    pub h: Vec<F>,
    /// Cell state.
    pub s: Vec<F>,
}

/// The state of one layer and direction over a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerState<F> {
    /// Hidden state, `[B, O]`.
    pub h: Array2<F>,
    /// Cell state, `[B, hidden]`; `[B, 0]` unless the cell is an LSTM.
    pub s: Array2<F>,
    /// What a reset returns `h` to.
    pub initial_h: Array2<F>,
    /// What a reset returns `s` to.
    pub initial_s: Array2<F>,
}

/// The order in which a layer walks through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first step to the last.
    Forward,
    /// From the last step to the first; outputs stay at their step's place.
    Reverse,
}

/// One step of any cell for one row.
pub fn step<F: Real>(cell: &Cell, p: &Parameters<F>, x: &[F], state: &RowState<F>) -> RowState<F> {
    match cell {
        Cell::Rnn(cell) => RowState { h: rnn_step(cell, p, x, &state.h), s: Vec::new() },
        Cell::Gru(cell) => RowState { h: gru_step(cell, p, x, &state.h), s: Vec::new() },
        Cell::Lstm(cell) => {
            let (h, s) = lstm_step(cell, p, x, &state.h, &state.s);
            RowState { h, s }
        }
    }
}

/// One layer in one direction over a batch: the loop that every path must agree with.
///
/// `state` enters as it is before the first step and leaves as it is after the last.
///
/// # Shapes
/// `x [T, B, input]`; returns `y [T, B, O]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when parameters, state or the sequence's instructions do not fit.
pub fn layer<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    direction: Direction,
    sequence: &Sequence,
    x: ArrayView3<'_, F>,
    state: &mut LayerState<F>,
) -> Result<Array3<F>> {
    const OP: &str = "reference::layer";
    let (time, batch, input) = x.dim();
    let rows = p.weight_hh.nrows();
    let hidden = rows / cell.gates().len();
    p.check(cell, input, hidden)?;
    let out = cell.output_size(hidden);
    let cell_width = if cell.has_cell_state() { hidden } else { 0 };
    for (what, width, array) in [
        ("h", out, &state.h),
        ("s", cell_width, &state.s),
        ("initial h", out, &state.initial_h),
        ("initial s", cell_width, &state.initial_s),
    ] {
        check_shape(OP, what, &[batch, width], array.shape())?;
    }
    let flags = sequence.flags(time, batch)?;

    let mut y = Array3::zeros((time, batch, out));
    for b in 0..batch {
        let mut row = RowState { h: state.h.row(b).to_vec(), s: state.s.row(b).to_vec() };
        let mut held = vec![F::zero(); out];
        for k in 0..time {
            let t = match direction {
                Direction::Forward => k,
                Direction::Reverse => time - 1 - k,
            };
            let flag = flags.as_ref().map_or(VALID, |flags| flags[[t, b]]);
            if flag & RESET != 0 {
                row = RowState { h: state.initial_h.row(b).to_vec(), s: state.initial_s.row(b).to_vec() };
            }
            if flag & VALID != 0 {
                let x: Vec<F> = (0..input).map(|i| x[[t, b, i]]).collect();
                row = step(cell, p, &x, &row);
                held.clone_from(&row.h);
            } else if sequence.padding() == Pad::Zero {
                held.fill(F::zero());
            }
            for u in 0..out {
                y[[t, b, u]] = held[u];
            }
        }
        for u in 0..out {
            state.h[[b, u]] = row.h[u];
        }
        for u in 0..cell_width {
            state.s[[b, u]] = row.s[u];
        }
    }
    Ok(y)
}

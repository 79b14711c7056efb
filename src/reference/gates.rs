//! The gates of a layer, step by step, and how much of the state and of a gradient they let through.

use ndarray::{Array3, ArrayView3};

use super::lstm::lstm_unit;
use super::rnn::{input, recurrent};
use super::sequence::run_steps;
use super::{LayerState, Real, RowState, activate_derivative, gru_gate, lstm_gates};
use crate::cell::{Cell, Direction, LstmCell, Mix, Noise, Parameters, Sequence};
use crate::error::Result;
use crate::memory;

/// The openings of one unit's gates at one step, and the share of a gradient that they let through.
///
/// ```text
///            written   kept   read   carry           slope
/// LSTM       i         f      o      f               o output'(s')
/// GRU        1 - z     z      r      z               1
/// lectures'  z         1 - z  r      1 - z           1               the GRU whose z takes the new state
/// RNN        1         0      1      0               1
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnitGates<F> {
    /// How much of the candidate goes into the state.
    pub written: F,
    /// How much of the old state stays; the rest is forgotten.
    pub kept: F,
    /// How much of the state is read: by the output of an LSTM, by the candidate of a GRU.
    pub read: F,
    /// The derivative of the unit's new state with respect to its old one, without the paths through products. For an
    /// LSTM, it is `f`, or zero beyond the cell clip.
    pub carry: F,
    /// The derivative of the output (before its projection) with respect to the unit's state.
    pub slope: F,
}

/// The gates of every unit at one step of one row, from the state before it.
pub fn unit_gates<F: Real>(cell: &Cell, p: &Parameters<F>, x: &[F], state: &RowState<F>) -> Vec<UnitGates<F>> {
    let (zero, one) = (F::zero(), F::one());
    let hidden = p.weight_hh.nrows() / cell.gates().len();
    let of_unit = |u: usize| match cell {
        Cell::Rnn(_) => UnitGates { written: one, kept: zero, read: one, carry: zero, slope: one },
        Cell::Lstm(cell) => lstm_unit_gates(cell, p, x, state, (u, hidden)),
        Cell::Gru(cell) => {
            let gate = |row: usize| gru_gate(cell, input(p, row, x) + recurrent(p, row, &state.h));
            let (r, z) = (gate(u), gate(hidden + u));
            let (written, kept) = match cell.mix {
                Mix::KeepsOld => (one - z, z),
                Mix::TakesNew => (z, one - z),
            };
            UnitGates { written, kept, read: r, carry: kept, slope: one }
        }
    };
    (0..hidden).map(of_unit).collect()
}

fn lstm_unit_gates<F: Real>(
    cell: &LstmCell,
    p: &Parameters<F>,
    x: &[F],
    state: &RowState<F>,
    (u, hidden): (usize, usize),
) -> UnitGates<F> {
    let (a, peephole) = lstm_unit(p, x, &state.h, (u, hidden));
    let gates = lstm_gates(cell, &a, peephole, state.s[u]);
    let clipped = cell.cell_clip.is_some_and(|limit| gates.unclipped.abs() > F::of(limit));
    UnitGates {
        written: gates.i,
        kept: gates.f,
        read: gates.o,
        carry: if clipped { F::zero() } else { gates.f },
        slope: gates.o * activate_derivative(cell.output, gates.s_next),
    }
}

/// The gates of one layer and direction at every step of every row; `None` if a row skips a step.
///
/// # Shapes
/// As [`layer`](super::layer); returns `[T, B, hidden]`.
///
/// # Errors
/// As [`layer`](super::layer).
pub fn layer_gates<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    direction: Direction,
    sequence: &Sequence,
    x: ArrayView3<'_, F>,
    state: &LayerState<F>,
) -> Result<Array3<Option<UnitGates<F>>>> {
    const OP: &str = "reference::layer_gates";
    let (time, batch, _) = x.dim();
    let mut gates = memory::full(OP, (time, batch, p.weight_hh.nrows() / cell.gates().len()), None)?;
    let mut state = state.mapped(OP, |x| x)?;
    run_steps(cell, p, direction, sequence, (&Noise::default(), 0), x, &mut state, |(t, b), x, before| {
        for (u, unit) in unit_gates(cell, p, x, before).into_iter().enumerate() {
            gates[[t, b, u]] = Some(unit);
        }
    })?;
    Ok(gates)
}

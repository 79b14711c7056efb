//! A cell over a whole sequence.

use ndarray::{Array2, Array3, ArrayView3};

use super::gru::gru_step_masked;
use super::{Real, lstm_step, rnn_step};
use crate::cell::{Cell, Direction, Draw, Mask, Noise, Pad, Parameters, Sequence};
use crate::cell::{RESET, VALID};
use crate::error::{Result, check_shape};
use crate::memory;

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
    /// The value that a reset returns `h` to.
    pub initial_h: Array2<F>,
    /// The value that a reset returns `s` to.
    pub initial_s: Array2<F>,
}

impl<F: Copy> LayerState<F> {
    /// Converts the state to another number type.
    pub(crate) fn mapped<G>(&self, op: &'static str, mut of: impl FnMut(F) -> G) -> Result<LayerState<G>> {
        Ok(LayerState {
            h: memory::mapped(op, &self.h, &mut of)?,
            s: memory::mapped(op, &self.s, &mut of)?,
            initial_h: memory::mapped(op, &self.initial_h, &mut of)?,
            initial_s: memory::mapped(op, &self.initial_s, &mut of)?,
        })
    }
}

/// One step of any cell for one row.
pub fn step<F: Real>(cell: &Cell, p: &Parameters<F>, x: &[F], state: &RowState<F>) -> RowState<F> {
    step_masked(cell, p, x, state, &state.h)
}

/// [`step`] in which the recurrent products read `masked` instead of the state's `h`.
fn step_masked<F: Real>(cell: &Cell, p: &Parameters<F>, x: &[F], state: &RowState<F>, masked: &[F]) -> RowState<F> {
    match cell {
        Cell::Rnn(cell) => RowState { h: rnn_step(cell, p, x, masked), s: Vec::new() },
        Cell::Gru(cell) => RowState { h: gru_step_masked(cell, p, x, &state.h, masked), s: Vec::new() },
        Cell::Lstm(cell) => {
            let (h, s) = lstm_step(cell, p, x, masked, &state.s);
            RowState { h, s }
        }
    }
}

/// The masks of one layer and direction.
pub(super) struct Masks {
    recurrent: Option<Draw>,
    zoneout_h: Option<Draw>,
    zoneout_s: Option<Draw>,
    batch: usize,
}

impl Masks {
    /// The masks of row `layer * directions + direction` of a stack.
    pub(super) fn new(noise: &Noise, row: usize, batch: usize) -> Self {
        Self {
            recurrent: noise.draw(Mask::Recurrent { row }),
            zoneout_h: noise.draw(Mask::ZoneoutH { row }),
            zoneout_s: noise.draw(Mask::ZoneoutS { row }),
            batch,
        }
    }

    /// Factors of row `b`'s `h` in the recurrent products: one per unit, the same for every step.
    pub(super) fn recurrent<F: Real>(&self, b: usize, width: usize) -> Vec<F> {
        let factor = |u: usize| self.recurrent.map_or(1.0, |draw| draw.factor(b * width + u));
        (0..width).map(|u| F::of(factor(u))).collect()
    }

    /// Which units of `h` and of `s` take their new value in step `t` of row `b`.
    pub(super) fn moves(&self, t: usize, b: usize, out: usize, hidden: usize) -> [Vec<bool>; 2] {
        let of = |draw: Option<Draw>, width: usize| {
            let first = (t * self.batch + b) * width;
            (0..width).map(|u| draw.is_none_or(|draw| draw.keeps(first + u))).collect()
        };
        [of(self.zoneout_h, out), of(self.zoneout_s, hidden)]
    }

    /// One step with its masks.
    pub(super) fn step<F: Real>(
        &self,
        cell: &Cell,
        p: &Parameters<F>,
        x: &[F],
        (t, b): (usize, usize),
        state: &RowState<F>,
    ) -> RowState<F> {
        let factors: Vec<F> = self.recurrent(b, state.h.len());
        let masked: Vec<F> = state.h.iter().zip(&factors).map(|(&h, &factor)| h * factor).collect();
        let mut new = step_masked(cell, p, x, state, &masked);
        let [h, s] = self.moves(t, b, state.h.len(), state.s.len());
        for (new, old, moves) in [(&mut new.h, &state.h, h), (&mut new.s, &state.s, s)] {
            for ((new, &old), moves) in new.iter_mut().zip(old).zip(moves) {
                *new = if moves { *new } else { old };
            }
        }
        new
    }
}

/// One layer in one direction over a batch: the loop that every path must agree with.
///
/// On entry, `state` is the state before the first step; on return, the state after the last one.
///
/// # Shapes
/// `x [T, B, input]`; returns `y [T, B, O]`.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when parameters, state or the sequence's instructions do not fit;
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory). The state is then as it was.
pub fn layer<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    direction: Direction,
    sequence: &Sequence,
    x: ArrayView3<'_, F>,
    state: &mut LayerState<F>,
) -> Result<Array3<F>> {
    layer_with_noise(cell, p, direction, sequence, (&Noise::default(), 0), x, state)
}

/// [`layer`] with the noise of training. `noise` comes with the layer's and direction's row in its stack,
/// `layer * directions + direction`. Dropout between layers is applied by the stack.
///
/// # Errors
/// As [`layer`].
pub fn layer_with_noise<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    direction: Direction,
    sequence: &Sequence,
    (noise, row_in_stack): (&Noise, usize),
    x: ArrayView3<'_, F>,
    state: &mut LayerState<F>,
) -> Result<Array3<F>> {
    run_steps(cell, p, direction, sequence, (noise, row_in_stack), x, state, |_, _, _| ())
}

/// [`layer_with_noise`] that calls `step` before each valid step of a row, with `(t, b)`, the input and the state
/// before it.
#[expect(clippy::too_many_arguments, reason = "the arguments of `layer_with_noise` and one more")]
pub(super) fn run_steps<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    direction: Direction,
    sequence: &Sequence,
    (noise, row_in_stack): (&Noise, usize),
    x: ArrayView3<'_, F>,
    state: &mut LayerState<F>,
    mut step: impl FnMut((usize, usize), &[F], &RowState<F>),
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

    let masks = Masks::new(noise, row_in_stack, batch);
    let mut y = memory::full(OP, (time, batch, out), F::zero())?;
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
                step((t, b), &x, &row);
                row = masks.step(cell, p, &x, (t, b), &row);
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

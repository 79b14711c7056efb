//! Back-propagation through time over a whole sequence.

use ndarray::{Array2, Array3, ArrayView1, ArrayView2, ArrayView3};

use super::gru::gru_step_backward_masked;
use super::{StepGradient, clip, gru_step_backward, lstm_step_backward, rnn_step_backward};
use crate::cell::{Cell, Direction, Noise, Pad, Parameters, RESET, Sequence, VALID};
use crate::error::{Result, check_shape};
use crate::memory;
use crate::reference::sequence::Masks;
use crate::reference::{LayerState, Real, RowState};

/// One step of any cell backwards for one row: returns the gradients with respect to everything that the step read.
/// `d_next` is the gradient with respect to the state after the step. The parameters' gradients are added to `dp`.
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

/// [`step_backward`] of a step whose products read `h` times `factors`.
fn step_backward_masked<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    x: &[F],
    (state, factors): (&RowState<F>, &[F]),
    d_next: &RowState<F>,
    dp: &mut Parameters<F>,
) -> StepGradient<F> {
    let times = |h: &[F]| -> Vec<F> { h.iter().zip(factors).map(|(&h, &factor)| h * factor).collect() };
    let masked = RowState { h: times(&state.h), s: state.s.clone() };
    match cell {
        Cell::Gru(cell) => {
            let (mut d, mix) = gru_step_backward_masked(cell, p, x, (&state.h, &masked.h), &d_next.h, dp);
            d.h = times(&d.h).into_iter().zip(mix).map(|(d, mix)| d + mix).collect();
            d
        }
        _ => {
            let mut d = step_backward(cell, p, x, &masked, d_next, dp);
            d.h = times(&d.h);
            d
        }
    }
}

/// Removes the gradients of the elements that keep their value from `d` and returns them, with zeros for all other
/// elements.
fn split<F: Real>(d: &mut [F], moves: &[bool]) -> Vec<F> {
    d.iter_mut().zip(moves).map(|(d, &moves)| if moves { F::zero() } else { std::mem::replace(d, F::zero()) }).collect()
}

/// Gradients of one layer and direction over a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerGradient<F> {
    /// With respect to the input, `[T, B, input]`.
    pub x: Array3<F>,
    /// With respect to the parameters, summed over steps and rows.
    pub parameters: Parameters<F>,
    /// With respect to the state before the first step, and to the value that a reset returns to.
    pub state: LayerState<F>,
    /// With respect to `h` after each step, `[T, B, O]`, through the step's own output and all later ones. At a skipped step it
    /// is the state's gradient on its way to earlier steps.
    pub h: Array3<F>,
    /// With respect to the cell state after each step, `[T, B, hidden]` (`[T, B, 0]` unless the cell is an LSTM), including the
    /// path through the step's own output.
    pub s: Array3<F>,
}

/// [`layer`](super::super::layer) backwards.
///
/// `state` is the state before the first step; `d_h` and `d_s` are the gradients with respect to the state after the last. At a
/// skipped step the state's gradient passes unchanged; a step after a reset passes its gradient to the initial value.
///
/// # Shapes
/// `x [T, B, input]`, `dy [T, B, O]`, `d_h [B, O]`, `d_s [B, hidden]` (`[B, 0]` unless the cell is an LSTM).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when an argument does not fit; [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn layer_backward<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    direction: Direction,
    sequence: &Sequence,
    (x, state): (ArrayView3<'_, F>, &LayerState<F>),
    (dy, d_h, d_s): (ArrayView3<'_, F>, ArrayView2<'_, F>, ArrayView2<'_, F>),
) -> Result<LayerGradient<F>> {
    let training = Training { noise: Noise::default(), row: 0, clip: None };
    layer_backward_with_noise(cell, p, direction, sequence, &training, (x, state), (dy, d_h, d_s))
}

/// The options of a training pass that concern a layer's backward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// The noise of the forward pass.
    pub noise: Noise,
    /// The layer's and direction's row in its stack, `layer * directions + direction`.
    pub row: usize,
    /// Clamp of the gradient with respect to the state to `[-clip, clip]` between two steps.
    pub clip: Option<f32>,
}

/// [`layer_with_noise`](super::super::layer_with_noise) backwards.
///
/// # Errors
/// As [`layer_backward`].
pub fn layer_backward_with_noise<F: Real>(
    cell: &Cell,
    p: &Parameters<F>,
    direction: Direction,
    sequence: &Sequence,
    training: &Training,
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
    let mut gradient = LayerGradient {
        x: memory::full(OP, x.raw_dim(), F::zero())?,
        parameters: p.mapped(OP, |_| F::zero())?,
        state: state.mapped(OP, |_| F::zero())?,
        h: memory::full(OP, (time, batch, out), F::zero())?,
        s: memory::full(OP, (time, batch, state.s.ncols()), F::zero())?,
    };
    // The state that each step of a row starts from.
    let mut before_h = memory::full(OP, (time, out), F::zero())?;
    let mut before_s = memory::full(OP, (time, state.s.ncols()), F::zero())?;
    let masks = Masks::new(&training.noise, training.row, batch);
    for b in 0..batch {
        let factors: Vec<F> = masks.recurrent(b, out);
        let flag = |k: usize| flags.as_ref().map_or(VALID, |flags| flags[[place(k), b]]);
        let input_at = |k: usize| -> Vec<F> { (0..input).map(|i| x[[place(k), b, i]]).collect() };
        let initial = RowState { h: state.initial_h.row(b).to_vec(), s: state.initial_s.row(b).to_vec() };
        // The forward pass again, for the states.
        let mut row = RowState { h: state.h.row(b).to_vec(), s: state.s.row(b).to_vec() };
        for k in 0..time {
            if flag(k) & RESET != 0 {
                row = initial.clone();
            }
            before_h.row_mut(k).assign(&ArrayView1::from(&row.h));
            before_s.row_mut(k).assign(&ArrayView1::from(&row.s));
            if flag(k) & VALID != 0 {
                row = masks.step(cell, p, &input_at(k), (place(k), b), &row);
            }
        }
        let mut d = RowState { h: d_h.row(b).to_vec(), s: d_s.row(b).to_vec() };
        // The gradient from later steps that repeat this output (`Pad::Hold`).
        let mut held = vec![F::zero(); out];
        for k in (0..time).rev() {
            let dy = (0..out).map(|u| dy[[place(k), b, u]]);
            let flag = flag(k);
            if flag & VALID != 0 {
                dy.enumerate().for_each(|(u, dy)| d.h[u] = d.h[u] + dy + held[u]);
                held.fill(F::zero());
                put(&mut gradient.h, (place(k), b), &d.h);
                // The gradients that bypass the step by zoneout.
                let moves = masks.moves(place(k), b, out, d.s.len());
                let kept = RowState { h: split(&mut d.h, &moves[0]), s: split(&mut d.s, &moves[1]) };
                let before = RowState { h: before_h.row(k).to_vec(), s: before_s.row(k).to_vec() };
                let (x, state) = (input_at(k), (&before, factors.as_slice()));
                let back = step_backward_masked(cell, p, &x, state, &d, &mut gradient.parameters);
                put(&mut gradient.x, (place(k), b), &back.x);
                let past_step: Vec<F> = back.s_next.iter().zip(&kept.s).map(|(&d, &kept)| d + kept).collect();
                put(&mut gradient.s, (place(k), b), &past_step);
                let sum =
                    |a: Vec<F>, b: Vec<F>| a.into_iter().zip(b).map(|(a, b)| clip(a + b, training.clip)).collect();
                d = RowState { h: sum(back.h, kept.h), s: sum(back.s, kept.s) };
            } else {
                put(&mut gradient.h, (place(k), b), &d.h);
                put(&mut gradient.s, (place(k), b), &d.s);
                if sequence.padding() == Pad::Hold {
                    dy.enumerate().for_each(|(u, dy)| held[u] = held[u] + dy);
                } else {
                    held.fill(F::zero());
                }
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

fn put<F: Real>(to: &mut Array3<F>, (t, b): (usize, usize), values: &[F]) {
    for (u, &value) in values.iter().enumerate() {
        to[[t, b, u]] = value;
    }
}

fn add<F: Real>(to: &mut Array2<F>, row: usize, values: &[F]) {
    for (u, &value) in values.iter().enumerate() {
        to[[row, u]] = to[[row, u]] + value;
    }
}

//! Operations of a graph over time: recurrent stacks, and reductions of their outputs.

use super::{Graph, Mode, Var};
use crate::cell::{Cell, Noise, Sequence};
use crate::error::{Error, Result, axes};
use crate::memory;
use crate::nn::{DeviceSequence, State, StateGradient, Tape, TrainableRecurrent, TrainingOptions};
use crate::ops::{self, Binary, Recorder};
use crate::tensor::Tensor;

/// The output and the final state of a recurrent stack, as values that gradients flow through.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct RecurrentOutput {
    /// The output of every step, `[T, B, output_size]`.
    pub y: Var,
    /// The final hidden state, `[layers directions, B, O]`.
    pub h: Var,
    /// The final cell state, `[layers directions, B, hidden]`; `None` unless the cell is an LSTM.
    pub s: Option<Var>,
}

/// The state that a recurrent stack starts from.
pub(in crate::train) struct StartState<'a> {
    pub(in crate::train) h: Var,
    pub(in crate::train) s: Option<Var>,
    /// The state whose initial value resets return to; if `None`, they return to `h` and `s`.
    pub(in crate::train) begun: Option<&'a State>,
}

/// The backward pass of a stack that has started from a state which gradients flow into.
struct StatefulBackward {
    tape: Tape,
    y_shape: Vec<usize>,
    h_shape: Vec<usize>,
    s_shape: Option<Vec<usize>>,
    /// Whether resets return to the start state, which then receives their gradient too.
    resets_to_start: bool,
}

impl StatefulBackward {
    /// The gradients with respect to `x`, `h`, `s` (for an LSTM) and the parameters, from the gradients with respect to `y` and
    /// the final state.
    fn run(self, recorder: &mut Recorder, d_outputs: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let gradient_of = |at: usize, shape: &[usize], recorder: &Recorder| match d_outputs.get(at) {
            Some(Some(d)) => Ok(d.clone()),
            _ => Tensor::zeros(recorder.device(), shape),
        };
        let d_y = gradient_of(0, &self.y_shape, recorder)?;
        let d_state = StateGradient {
            h: gradient_of(1, &self.h_shape, recorder)?,
            s: self.s_shape.as_ref().map(|shape| gradient_of(2, shape, recorder)).transpose()?,
        };
        let d = self.tape.record_backward(recorder, &d_y, Some(&d_state))?;
        let mut sum = |at_start: &Tensor, at_resets: &Tensor| match self.resets_to_start {
            true => ops::binary(recorder, Binary::Add, at_start, at_resets),
            false => Ok(at_start.clone()),
        };
        let d_h = sum(&d.state.h, &d.initial.h)?;
        let d_s = match (&d.state.s, &d.initial.s) {
            (Some(at_start), Some(at_resets)) => Some(sum(at_start, at_resets)?),
            _ => None,
        };
        let states = [d.x.clone(), d_h].into_iter().chain(d_s);
        Ok(states.chain(d.tensors().cloned()).map(Some).collect())
    }
}

impl Graph {
    /// Runs a stack with the given parameters and advances a state that no gradient flows into. Back-propagation is truncated
    /// at this state.
    pub(in crate::train) fn recurrent(
        &mut self,
        stack: &TrainableRecurrent<Cell>,
        parameters: &[Var],
        x: Var,
        state: &mut State,
        sequence: DeviceSequence<'_>,
        options: &TrainingOptions,
    ) -> Result<Var> {
        let options = self.with_noise(options);
        let x_value = self.value(x)?.clone();
        let (y, tape) = stack.record_training(&mut self.recorder, &x_value, state, sequence, &options)?;
        let inputs: Vec<Var> = [x].iter().chain(parameters).copied().collect();
        let [y] = self.operation(&inputs, [y], move |recorder, dy, wanted| {
            let Some(dy) = &dy[0] else { return Ok(vec![None; wanted.len()]) };
            let d = tape.record_backward(recorder, dy, None)?;
            Ok(std::iter::once(&d.x).chain(d.tensors()).cloned().map(Some).collect())
        });
        Ok(y)
    }

    /// Runs a stack as [`Graph::recurrent`] does, but gradients also flow into the start state and from the final state.
    pub(in crate::train) fn recurrent_from(
        &mut self,
        stack: &TrainableRecurrent<Cell>,
        parameters: &[Var],
        x: Var,
        StartState { h, s, begun }: StartState<'_>,
        sequence: DeviceSequence<'_>,
        options: &TrainingOptions,
    ) -> Result<RecurrentOutput> {
        let options = self.with_noise(options);
        let x_value = self.value(x)?.clone();
        let (h_value, s_value) = (self.value(h)?.clone(), s.map(|s| self.value(s).cloned()).transpose()?);
        let mut state = match begun {
            Some(begun) => begun.record_at(&mut self.recorder, &h_value, s_value.as_ref())?,
            None => stack.record_initial_state(&mut self.recorder, &h_value, s_value.as_ref())?,
        };
        let (y, tape) = stack.record_training(&mut self.recorder, &x_value, &mut state, sequence, &options)?;
        let (h_after, s_after) = (state.h_tensor(&mut self.recorder)?, state.s_tensor(&mut self.recorder)?);
        let inputs: Vec<Var> = [x, h].into_iter().chain(s).chain(parameters.iter().copied()).collect();
        let pass = StatefulBackward {
            tape,
            y_shape: y.shape().to_vec(),
            h_shape: h_value.shape().to_vec(),
            s_shape: s_value.as_ref().map(|s| s.shape().to_vec()),
            resets_to_start: begun.is_none(),
        };
        let backward = |recorder: &mut Recorder, dy: &[Option<Tensor>], _: &[bool]| pass.run(recorder, dy);
        Ok(match s_after {
            Some(s_after) => {
                let [y, h, s] = self.operation(&inputs, [y, h_after, s_after], backward);
                RecurrentOutput { y, h, s: Some(s) }
            }
            None => {
                let [y, h] = self.operation(&inputs, [y, h_after], backward);
                RecurrentOutput { y, h, s: None }
            }
        })
    }

    /// The options with the seed and the step of this graph, and without noise in [`Mode::Evaluation`].
    fn with_noise(&mut self, options: &TrainingOptions) -> TrainingOptions {
        // Every stack counts its masks from the same number, so each stack of a model needs a seed of its own.
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let at = self.next_draw() as u64;
        let noise = match self.mode {
            Mode::Evaluation => Noise::default(),
            Mode::Training { seed, step } => {
                Noise { seed: seed.wrapping_add(at.wrapping_mul(GOLDEN)), step, ..options.noise }
            }
        };
        TrainingOptions { noise, ..*options }
    }

    /// The output of the last valid step of every row.
    ///
    /// # Shapes
    /// `y [T, B, W]`; returns `[B, W]`.
    ///
    /// # Errors
    /// [`Error::Value`] for a row without a valid step; [`Error::Shape`] if `y` or the sequence does not fit.
    pub fn last_step(&mut self, y: Var, sequence: &Sequence) -> Result<Var> {
        const OP: &str = "last_step";
        let [time, batch, width] = axes(OP, "y", "[T, B, W]", self.shape(y)?)?;
        let valid = sequence.valid(time, batch)?;
        let last = |row: usize| (0..time).rev().find(|&t| valid[[t, row]]).map(|t| t * batch + row);
        let rows = (0..batch).map(|row| last(row).ok_or_else(|| without_steps(OP, row))).collect::<Result<Vec<_>>>()?;
        let flat = self.reshape(y, &[time * batch, width])?;
        self.embedding(flat, &rows)
    }

    /// The mean output over the valid steps of every row.
    ///
    /// # Shapes
    /// `y [T, B, W]`; returns `[B, W]`.
    ///
    /// # Errors
    /// As [`Graph::last_step`].
    pub fn mean_over_steps(&mut self, y: Var, sequence: &Sequence) -> Result<Var> {
        const OP: &str = "mean_over_steps";
        let [time, batch, _] = axes(OP, "y", "[T, B, W]", self.shape(y)?)?;
        let valid = sequence.valid(time, batch)?;
        let counts: Vec<usize> = valid.columns().into_iter().map(|row| row.iter().filter(|&&v| v).count()).collect();
        if let Some(row) = counts.iter().position(|&count| count == 0) {
            return Err(without_steps(OP, row));
        }
        let share = |(t, b)| if valid[[t, b]] { 1.0 / counts[b] as f32 } else { 0.0 };
        let weights = memory::array(OP, (time, batch), share)?.into_raw_vec_and_offset().0;
        let weights = Tensor::from_vec(self.device(), &[time, batch], weights)?;
        let value = self.value(y)?.clone();
        let mean = ops::mean_steps(&mut self.recorder, &value, &weights)?;
        Ok(self.unary(y, mean, move |recorder, dy| ops::mean_steps_grad(recorder, &weights, dy)))
    }
}

fn without_steps(op: &'static str, row: usize) -> Error {
    let (expected, found) = ("at least one valid step in every row", format!("none in row {row}"));
    Error::Value { op, what: "sequence", expected, found }
}

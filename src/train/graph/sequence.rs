//! Operations over time: recurrent stacks, and what becomes of their outputs.

use super::{Graph, Mode, Var};
use crate::cell::{Cell, Noise, Sequence};
use crate::error::{Error, Result, axes};
use crate::memory;
use crate::nn::{State, StateGradient, TrainableRecurrent, TrainingOptions};
use crate::ops::{self, Binary, Recorder};
use crate::tensor::Tensor;

/// What a recurrent stack leaves behind, as values that gradients flow through.
#[derive(Clone, Copy, Debug)]
pub struct Stepped {
    /// `[T, B, output_size]`
    pub y: Var,
    /// `[layers directions, B, O]`
    pub h: Var,
    /// `[layers directions, B, hidden]`, present exactly for an LSTM.
    pub s: Option<Var>,
}

/// The state that a recurrent stack starts from.
pub(in crate::train) struct Start<'a> {
    pub(in crate::train) h: Var,
    pub(in crate::train) s: Option<Var>,
    /// A reset returns to what this state began with, or where there is none to `h` and `s` themselves.
    pub(in crate::train) begun: Option<&'a State>,
}

impl Graph {
    /// Runs a stack whose parameters are `parameters`, and advances a state that no gradient flows into: where a sequence is
    /// cut, truncated back-propagation stops.
    pub(in crate::train) fn recurrent(
        &mut self,
        stack: &TrainableRecurrent<Cell>,
        parameters: &[Var],
        x: Var,
        state: &mut State,
        sequence: &Sequence,
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

    /// [`Graph::recurrent`] from a state that gradients flow into, to one that they flow from.
    pub(in crate::train) fn recurrent_from(
        &mut self,
        stack: &TrainableRecurrent<Cell>,
        parameters: &[Var],
        x: Var,
        Start { h, s, begun }: Start<'_>,
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<Stepped> {
        let options = self.with_noise(options);
        let x_value = self.value(x)?.clone();
        let (h_value, s_value) = (self.value(h)?.clone(), s.map(|s| self.value(s).cloned()).transpose()?);
        let mut state = match begun {
            Some(begun) => begun.record_at(&mut self.recorder, &h_value, s_value.as_ref())?,
            None => stack.record_initial_state(&mut self.recorder, &h_value, s_value.as_ref())?,
        };
        let itself = begun.is_none();
        let (y, tape) = stack.record_training(&mut self.recorder, &x_value, &mut state, sequence, &options)?;
        let (h_after, s_after) = (state.h_tensor(&mut self.recorder)?, state.s_tensor(&mut self.recorder)?);
        let shapes = (y.shape().to_vec(), h_value.shape().to_vec(), s_value.as_ref().map(|s| s.shape().to_vec()));
        let inputs: Vec<Var> = [x, h].into_iter().chain(s).chain(parameters.iter().copied()).collect();
        let backward = move |recorder: &mut Recorder, dy: &[Option<Tensor>], _: &[bool]| {
            let filled = |d: Option<&Tensor>, shape: &[usize], recorder: &Recorder| match d {
                Some(d) => Ok(d.clone()),
                None => Tensor::zeros(recorder.device(), shape),
            };
            let (y_shape, h_shape, s_shape) = &shapes;
            let d_y = filled(dy[0].as_ref(), y_shape, recorder)?;
            let of_s = |shape: &Vec<usize>| filled(dy.get(2).and_then(Option::as_ref), shape, recorder);
            let d_state = StateGradient {
                h: filled(dy[1].as_ref(), h_shape, recorder)?,
                s: s_shape.as_ref().map(of_s).transpose()?,
            };
            let d = tape.record_backward(recorder, &d_y, Some(&d_state))?;
            let mut both = |at_first: &Tensor, at_resets: &Tensor| {
                if itself { ops::binary(recorder, Binary::Add, at_first, at_resets) } else { Ok(at_first.clone()) }
            };
            let d_h = both(&d.state.h, &d.initial.h)?;
            let d_s = match (&d.state.s, &d.initial.s) {
                (Some(a), Some(b)) => Some(both(a, b)?),
                _ => None,
            };
            let states = [d.x.clone(), d_h].into_iter().chain(d_s);
            Ok(states.chain(d.tensors().cloned()).map(Some).collect())
        };
        Ok(match s_after {
            Some(s_after) => {
                let [y, h, s] = self.operation(&inputs, [y, h_after, s_after], backward);
                Stepped { y, h, s: Some(s) }
            }
            None => {
                let [y, h] = self.operation(&inputs, [y, h_after], backward);
                Stepped { y, h, s: None }
            }
        })
    }

    /// The options with the graph's own masks; none outside training.
    fn with_noise(&mut self, options: &TrainingOptions) -> TrainingOptions {
        // Two stacks of one model number their masks alike, so their seeds differ.
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

    /// Every row's last valid step.
    ///
    /// # Shapes
    /// `y [T, B, W]`; returns `[B, W]`.
    ///
    /// # Errors
    /// [`Error::Value`] for a row without a valid step; [`Error::Shape`] where `y` or the sequence does not fit.
    pub fn last_step(&mut self, y: Var, sequence: &Sequence) -> Result<Var> {
        const OP: &str = "last_step";
        let [time, batch, width] = axes(OP, "y", "[T, B, W]", self.shape(y)?)?;
        let valid = sequence.valid(time, batch)?;
        let last = |row: usize| (0..time).rev().find(|&t| valid[[t, row]]).map(|t| t * batch + row);
        let rows = (0..batch).map(|row| last(row).ok_or_else(|| without_steps(OP, row))).collect::<Result<Vec<_>>>()?;
        let flat = self.reshape(y, &[time * batch, width])?;
        self.embedding(flat, &rows)
    }

    /// The mean over every row's valid steps.
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

//! The norms of a loss gradient at every step back in time, which show whether it vanishes or explodes.

mod path;
mod report;

use ndarray::{Array3, ArrayView3, Axis};

use self::path::{carried, spectral_norm};
use crate::cell::{Cell, Direction, Sequence};
use crate::error::Result;
use crate::memory;
use crate::nn::{Config, State, TrainableRecurrent};
use crate::reference::{LayerPass, UnitGates, layer_gates};
use crate::tensor::Tensor;

const OP: &str = "gradient_flow";

/// The gradient of one loss at every step of a recurrent stack.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct GradientFlow {
    /// One entry per layer and direction, layer by layer.
    pub layers: Vec<LayerFlow>,
}

/// The gradient within one layer and direction.
///
/// Every norm is the Euclidean norm over all rows of the batch and all units. Index `t`, from 0 to `T - 1`, is the step's
/// position in time for both directions.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LayerFlow {
    /// The layer, counted from 0.
    pub layer: usize,
    /// The direction of time.
    pub direction: Direction,
    /// `"rnn"`, `"lstm"` or `"gru"`.
    pub cell: &'static str,
    /// Norms of `dL/dh_t`, `[T]`: the gradient with respect to the hidden state after step `t`, through the output of that step
    /// and through all later steps.
    pub h: Vec<f64>,
    /// Norms of `dL/ds_t`, `[T]`, including the path through `h_t`; `None` unless the cell is an LSTM.
    pub s: Option<Vec<f64>>,
    /// Norms of the gradient that reaches step `t` through the state alone, without a recurrent matrix, `[T]`.
    ///
    /// For one loss at the last step of an LSTM this is the lectures' `t_0 = L'(h_T) D(o * sigma'(s)) D(prod f_i)`. As long as
    /// every forget gate is open, it neither vanishes nor explodes. The path of a GRU goes through its update gates. An RNN has
    /// no such path, so only the gradient of the step's own output is left.
    pub path: Vec<f64>,
    /// Mean openings of the gates at every step; `None` for an RNN, which has no gates.
    pub openings: Option<Openings>,
    /// The greatest singular value of each gate's recurrent matrix, in the order of
    /// [`Cell::gates`](crate::cell::Cell::gates).
    pub recurrent_norms: Vec<(&'static str, f64)>,
    /// The bound of the exploding path, `log10(norm(W)^n)`, `[T]`, where `n` steps lie between `t` and the last step.
    ///
    /// `W` is the recurrent matrix: of an RNN, of an LSTM's output gate (the lectures' `W_o`), or of a GRU's candidate. The path
    /// multiplies by `W` once per step, and by slopes of activations that are at most 1. Above 0 the gradient may explode;
    /// below 0 it must vanish.
    pub bound_log10: Vec<f64>,
}

/// Mean openings of gates at every step, `[T]` each, over the units of all rows that take the step; NaN if no row takes it.
///
/// ```text
///            written   kept     read
/// LSTM       i         f        o
/// GRU        1 - z     z        r        as PyTorch writes it
/// GRU        z         1 - z    r        as the lectures write it
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Openings {
    /// The share of the candidate that goes into the state.
    pub written: Vec<f64>,
    /// The share of the state that is kept.
    pub kept: Vec<f64>,
    /// The share of the state that is read.
    pub read: Vec<f64>,
}

/// Follows the gradient of a loss back through a stack, step by step.
///
/// The reference computes the numbers in `f64`, whatever device the stack lives on: the parameters, `x`, the state and `dy` are
/// copied to the host. Values down to `1e-300` are represented there; `f32` ends at `1e-45`.
///
/// # Shapes
/// `x [T, B, input]`; `dy [T, B, output_size]`, the gradient of the loss with respect to the stack's output.
///
/// # Errors
/// As [`TrainableRecurrent::forward_training`]; [`Error::Shape`](crate::Error::Shape) if `dy` does not fit;
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
///
/// # Examples
/// A loss at the last step, and how much of it reaches the first:
/// ```
/// use gatewise::{Device, Tensor, cell::Sequence, nn::Lstm, train::gradient_flow};
/// use ndarray::{Array3, s};
///
/// let device = Device::Cpu;
/// let config = Lstm::config(3, 4);
/// let lstm = config.trainable(&device, &config.random_parameters(7)?)?;
/// let x = Tensor::from_array(&device, &Array3::<f32>::ones((20, 2, 3)))?;
/// let mut dy = Array3::<f32>::zeros((20, 2, 4));
/// dy.slice_mut(s![19, .., ..]).fill(1.0);
/// let dy = Tensor::from_array(&device, &dy)?;
/// let flow = gradient_flow(&lstm, &x, &lstm.zero_state(2)?, &Sequence::new(), &dy)?;
/// let layer = &flow.layers[0];
/// assert!(layer.h[0] < layer.h[19]);
/// println!("{flow}");
/// # Ok::<(), gatewise::Error>(())
/// ```
///
/// # Sources
/// Hochreiter, "Untersuchungen zu dynamischen neuronalen Netzen" (1991); Bengio, Simard and Frasconi, "Learning long-term
/// dependencies with gradient descent is difficult" (1994); Pascanu, Mikolov and Bengio, "On the difficulty of training
/// recurrent neural networks" (2013) for the bound.
pub fn gradient_flow<C: Clone + Into<Cell>>(
    stack: &TrainableRecurrent<C>,
    x: &Tensor,
    state: &State,
    sequence: &Sequence,
    dy: &Tensor,
) -> Result<GradientFlow> {
    let mut layers = Vec::new();
    stack.show_gradients(x, state, sequence, dy, |pass| {
        layers.push(layer_flow(pass, sequence)?);
        Ok(())
    })?;
    // The backward pass visits the last layer first, and the directions of a layer in order; the sort is stable.
    layers.sort_by_key(|flow| flow.layer);
    Ok(GradientFlow { layers })
}

/// The most bytes of memory that [`gradient_flow`] holds at once, apart from its arguments, for `time` steps of `batch` rows.
///
/// # Errors
/// [`Error::Value`](crate::Error::Value) for an impossible configuration.
///
/// # Examples
/// ```
/// use gatewise::{nn::Lstm, train::gradient_flow_bytes};
/// assert!(gradient_flow_bytes(&Lstm::config(4, 32), 200_000, 64)? > 1 << 35);
/// # Ok::<(), gatewise::Error>(())
/// ```
pub fn gradient_flow_bytes<C: Clone + Into<Cell>>(config: &Config<C>, time: usize, batch: usize) -> Result<u64> {
    // Per unit and step: the gates, the gradient along the state, and one intermediate value of the second pass.
    const UNIT_BYTES: usize = size_of::<Option<UnitGates<f64>>>() + 2 * size_of::<f64>();
    // Per step, layer and direction: norms and openings.
    const STEP_BYTES: usize = 7 * size_of::<f64>();
    let bytes = config.reference_pass_bytes(time, batch, UNIT_BYTES as u128)?;
    let results = (config.parameter_places().len() * STEP_BYTES) as u128;
    Ok(u64::try_from(bytes.saturating_add(results.saturating_mul(time as u128))).unwrap_or(u64::MAX))
}

/// The norms and openings of one layer and direction.
fn layer_flow(pass: &LayerPass<'_>, sequence: &Sequence) -> Result<LayerFlow> {
    let LayerPass { layer, direction, cell, parameters, x, state, gradient, .. } = *pass;
    let gates = layer_gates(cell, parameters, direction, sequence, x, state)?;
    let time = x.len_of(Axis(0));
    let gated = !matches!(cell, Cell::Rnn(_));
    let hidden = parameters.weight_hh.nrows() / cell.gates().len();
    let norm_of = |(at, &gate): (usize, &&'static str)| {
        Ok((gate, spectral_norm(parameters.weight_hh.slice(ndarray::s![at * hidden..(at + 1) * hidden, ..]))?))
    };
    let recurrent_norms: Vec<_> = cell.gates().iter().enumerate().map(norm_of).collect::<Result<_>>()?;
    let exploding = match cell {
        Cell::Rnn(_) => "h",
        Cell::Lstm(_) => "o",
        Cell::Gru(_) => "n",
    };
    let factor = recurrent_norms.iter().find(|(gate, _)| *gate == exploding).map_or(0.0, |(_, norm)| *norm);
    let steps_left = |t: usize| match direction {
        Direction::Forward => time - 1 - t,
        Direction::Reverse => t,
    };
    // Zero steps mean a factor of 1, even if `factor` is 0 and its logarithm minus infinity.
    let bound = |t| if steps_left(t) == 0 { 0.0 } else { steps_left(t) as f64 * factor.log10() };
    Ok(LayerFlow {
        layer,
        direction,
        cell: cell.name(),
        h: step_norms(gradient.h.view())?,
        s: cell.has_cell_state().then(|| step_norms(gradient.s.view())).transpose()?,
        path: step_norms(carried(pass, &gates, sequence)?.view())?,
        openings: gated.then(|| openings(&gates)).transpose()?,
        recurrent_norms,
        bound_log10: memory::collected(OP, time, (0..time).map(bound))?,
    })
}

/// The Euclidean norm of the numbers of each step.
fn step_norms(numbers: ArrayView3<'_, f64>) -> Result<Vec<f64>> {
    let norm = |step: ndarray::ArrayView2<'_, f64>| {
        // Scaled by the greatest element, because the squares of tiny gradients would underflow.
        let greatest = step.iter().fold(0.0, |most: f64, &d| if d.is_nan() { d } else { most.max(d.abs()) });
        if greatest == 0.0 || !greatest.is_finite() {
            return greatest;
        }
        greatest * step.iter().map(|&d| (d / greatest).powi(2)).sum::<f64>().sqrt()
    };
    memory::collected(OP, numbers.len_of(Axis(0)), numbers.axis_iter(Axis(0)).map(norm))
}

/// The mean opening of every gate at every step.
fn openings(gates: &Array3<Option<UnitGates<f64>>>) -> Result<Openings> {
    let means = |of: fn(&UnitGates<f64>) -> f64| {
        let mean = |step: ndarray::ArrayView2<'_, Option<UnitGates<f64>>>| {
            let (sum, count) =
                step.iter().flatten().fold((0.0, 0.0), |(sum, count), gates| (sum + of(gates), count + 1.0));
            sum / count
        };
        memory::collected(OP, gates.len_of(Axis(0)), gates.axis_iter(Axis(0)).map(mean))
    };
    Ok(Openings {
        written: means(|gates| gates.written)?,
        kept: means(|gates| gates.kept)?,
        read: means(|gates| gates.read)?,
    })
}

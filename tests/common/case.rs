//! A call of a stack as a value: its arrays, how to run it, and what it should compute.

use gatewise::cell::{Cell, Direction, Pad, ParameterSpec, Parameters, Sequence, WeightType};
use gatewise::nn::{Config, Merge, Recurrent, State};
use gatewise::reference::{LayerState, layer};
use gatewise::{Device, Tensor};
use ndarray::{Array2, Array3, Axis, concatenate};

/// The directions of a stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Directions {
    Forward,
    Reverse,
    Both(Merge),
}

/// The lengths, masks and resets of a call; densities are in per cent of all steps.
#[derive(Clone, Debug)]
pub(crate) struct Instructions {
    pub(crate) lengths: Option<Vec<usize>>,
    pub(crate) masked: Option<u8>,
    pub(crate) reset: Option<u8>,
    pub(crate) pad: Pad,
}

/// One call of one stack. Arrays follow from the seed.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) cell: Cell,
    pub(crate) reverse_cell: Option<Cell>,
    pub(crate) input: usize,
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) directions: Directions,
    pub(crate) time: usize,
    pub(crate) batch: usize,
    pub(crate) instructions: Instructions,
    pub(crate) weight_type: WeightType,
    pub(crate) given_state: bool,
    pub(crate) seed: u64,
}

/// The arrays of a call.
#[derive(Clone)]
pub(crate) struct Arrays<F> {
    pub(crate) parameters: Vec<Vec<Parameters<F>>>,
    pub(crate) x: Array3<F>,
    pub(crate) h: Array3<F>,
    pub(crate) s: Array3<F>,
}

impl Arrays<f32> {
    /// The same call for some of the steps and rows, in the given order.
    pub(crate) fn part(&self, steps: &[usize], rows: &[usize]) -> Self {
        Self {
            parameters: self.parameters.clone(),
            x: self.x.select(Axis(0), steps).select(Axis(1), rows),
            h: self.h.select(Axis(1), rows),
            s: self.s.select(Axis(1), rows),
        }
    }

    /// The same arrays, every number moved by up to `relative` of itself.
    fn nudged(&self, relative: f64, seed: u64) -> Arrays<f64> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut nudge = |x: f32| f64::from(x) * (1.0 + relative * (2.0 * rng.f64() - 1.0));
        Arrays {
            parameters: self.parameters.iter().map(|l| l.iter().map(|p| p.map(&mut nudge)).collect()).collect(),
            x: self.x.mapv(&mut nudge),
            h: self.h.mapv(&mut nudge),
            s: self.s.mapv(&mut nudge),
        }
    }
}

/// The output and the last state of a call. `s` is empty unless the cell is an LSTM.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome<F> {
    pub(crate) y: Array3<F>,
    pub(crate) h: Array3<F>,
    pub(crate) s: Array3<F>,
}

impl Case {
    pub(crate) fn config(&self) -> Config {
        let config = Config::new(self.cell, self.input, self.hidden).layers(self.layers);
        let config = config.weight_type(self.weight_type);
        let config = match self.directions {
            Directions::Forward => config,
            Directions::Reverse => config.reverse(),
            Directions::Both(merge) => config.bidirectional(merge),
        };
        match self.reverse_cell {
            Some(cell) => config.reverse_cell(cell),
            None => config,
        }
    }

    /// Direction and cell, in the order of the state's rows.
    pub(crate) fn ways(&self) -> Vec<(Direction, Cell)> {
        let reverse = self.reverse_cell.unwrap_or(self.cell);
        match self.directions {
            Directions::Forward => vec![(Direction::Forward, self.cell)],
            Directions::Reverse => vec![(Direction::Reverse, reverse)],
            Directions::Both(_) => vec![(Direction::Forward, self.cell), (Direction::Reverse, reverse)],
        }
    }

    pub(crate) fn arrays(&self) -> Arrays<f32> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let bound = 1.2 / (self.hidden as f32).sqrt();
        let fetch = |_, _, spec: &ParameterSpec| {
            Ok(ndarray::ArrayD::from_shape_simple_fn(spec.shape.as_slice(), || (2.0 * rng.f32() - 1.0) * bound))
        };
        let parameters = self.config().collect(fetch).expect("the shapes asked for");
        let mut rng = fastrand::Rng::with_seed(self.seed ^ 0xa5a5);
        let mut uniform = |dim: (usize, usize, usize)| Array3::from_shape_simple_fn(dim, || 2.0 * rng.f32() - 1.0);
        let rows = self.layers * self.ways().len();
        let x = uniform((self.time, self.batch, self.input));
        let mut h = uniform((rows, self.batch, self.cell.output_size(self.hidden)));
        let s_width = if self.cell.has_cell_state() { self.hidden } else { 0 };
        let mut s = uniform((rows, self.batch, s_width));
        if !self.given_state {
            h.fill(0.0);
            s.fill(0.0);
        }
        Arrays { parameters, x, h, s }
    }

    /// Draws `percent` of all steps.
    fn drawn(&self, percent: u8, salt: u64) -> Array2<bool> {
        let mut rng = fastrand::Rng::with_seed(self.seed ^ salt);
        Array2::from_shape_simple_fn((self.time, self.batch), || rng.u8(0..100) < percent)
    }

    /// `true` where a row takes part in a step, as the mask says.
    pub(crate) fn mask(&self) -> Option<Array2<bool>> {
        self.instructions.masked.map(|percent| self.drawn(percent, 1).mapv(|masked| !masked))
    }

    pub(crate) fn resets(&self) -> Option<Array2<bool>> {
        self.instructions.reset.map(|percent| self.drawn(percent, 2))
    }

    /// `true` where a row takes part in a step, mask and lengths together.
    pub(crate) fn valid(&self) -> Array2<bool> {
        let mask = self.mask();
        Array2::from_shape_fn((self.time, self.batch), |(t, b)| {
            mask.as_ref().is_none_or(|mask| mask[[t, b]])
                && self.instructions.lengths.as_ref().is_none_or(|lengths| t < lengths[b])
        })
    }

    pub(crate) fn sequence(&self) -> Sequence {
        let mut sequence = Sequence::new().pad(self.instructions.pad);
        if let Some(lengths) = &self.instructions.lengths {
            sequence = sequence.lengths(lengths.iter().copied());
        }
        if let Some(mask) = self.mask() {
            sequence = sequence.mask(mask);
        }
        match self.resets() {
            Some(reset) => sequence.reset(reset),
            None => sequence,
        }
    }

    /// The same instructions for some of the steps and rows, in the given order.
    pub(crate) fn sequence_of(&self, steps: &[usize], rows: &[usize]) -> Sequence {
        let part = |whole: Array2<bool>| whole.select(Axis(0), steps).select(Axis(1), rows);
        let sequence = Sequence::new().pad(self.instructions.pad).mask(part(self.valid()));
        match self.resets() {
            Some(reset) => sequence.reset(part(reset)),
            None => sequence,
        }
    }

    pub(crate) fn stack(&self, device: &Device, arrays: &Arrays<f32>) -> Recurrent {
        self.config().build(device, arrays.parameters.clone()).expect("a legal configuration")
    }

    pub(crate) fn state(&self, stack: &Recurrent, arrays: &Arrays<f32>) -> State {
        if self.given_state {
            let s = self.cell.has_cell_state().then(|| arrays.s.view());
            stack.initial_state(arrays.h.view(), s).expect("a state that fits")
        } else {
            stack.zero_state(arrays.h.dim().1).expect("a state")
        }
    }

    /// One call on a device.
    pub(crate) fn call(&self, device: &Device, arrays: &Arrays<f32>, sequence: &Sequence) -> Outcome<f32> {
        let stack = self.stack(device, arrays);
        let mut state = self.state(&stack, arrays);
        let y = forward(&stack, &arrays.x, &mut state, sequence);
        outcome(y, &state)
    }

    /// The call that the case describes.
    pub(crate) fn run(&self, device: &Device, arrays: &Arrays<f32>) -> Outcome<f32> {
        self.call(device, arrays, &self.sequence())
    }

    /// The whole call by the specification, one layer and direction after another, in `f64`.
    pub(crate) fn expected(&self, arrays: &Arrays<f64>) -> Outcome<f64> {
        let ways = self.ways();
        let sequence = self.sequence();
        let (mut h, mut s) = (arrays.h.clone(), arrays.s.clone());
        let mut below = arrays.x.clone();
        for (at, parameters) in arrays.parameters.iter().enumerate() {
            let mut outputs = Vec::new();
            for (way, ((direction, cell), p)) in ways.iter().zip(parameters).enumerate() {
                let row = at * ways.len() + way;
                let of = |array: &Array3<f64>| array.index_axis(Axis(0), row).to_owned();
                let mut state = LayerState { h: of(&h), s: of(&s), initial_h: of(&h), initial_s: of(&s) };
                outputs.push(layer(cell, p, *direction, &sequence, below.view(), &mut state).expect("fits"));
                h.index_axis_mut(Axis(0), row).assign(&state.h);
                s.index_axis_mut(Axis(0), row).assign(&state.s);
            }
            below = self.merged(outputs);
        }
        Outcome { y: below, h, s }
    }

    /// The output of a layer, merged from its directions' outputs.
    pub(crate) fn merged(&self, mut outputs: Vec<Array3<f64>>) -> Array3<f64> {
        match (self.directions, &outputs[..]) {
            (Directions::Both(Merge::Concat), [a, b]) => {
                concatenate(Axis(2), &[a.view(), b.view()]).expect("one shape")
            }
            (Directions::Both(Merge::Sum), [a, b]) => a + b,
            (Directions::Both(Merge::Mul), [a, b]) => a * b,
            (Directions::Both(Merge::Ave), [a, b]) => (a + b) / 2.0,
            _ => outputs.remove(0),
        }
    }

    /// The same arrays with the weights that the case's type can hold.
    fn rounded(&self, arrays: &Arrays<f32>) -> Arrays<f32> {
        let mut rounded = arrays.clone();
        for p in rounded.parameters.iter_mut().flatten() {
            *p = self.weight_type.round_parameters(p.clone());
        }
        rounded
    }

    /// The expected outcome, and how far `f32` may stray from it. The distance is the effect of moving every number by a few
    /// units in its last place, and a floor for the activations' own rounding. `None` if the call is too sensitive to tell
    /// right from wrong.
    pub(crate) fn expectation(&self, arrays: &Arrays<f32>) -> Option<(Outcome<f64>, f64)> {
        let arrays = self.rounded(arrays);
        let exact = self.expected(&arrays.nudged(0.0, 0));
        let largest = |outcome: &Outcome<f64>| fold(outcome, |x| x.abs());
        let mut tolerance = 4e-6 * (1.0 + largest(&exact));
        for seed in 1..=3 {
            let nudged = self.expected(&arrays.nudged(2.4e-7, seed));
            let parts = Outcome { y: nudged.y - &exact.y, h: nudged.h - &exact.h, s: nudged.s - &exact.s };
            tolerance += 8.0 * largest(&parts);
        }
        // False for a NaN, too: unbounded cells overflow.
        let telling = largest(&exact) < 1e4 && tolerance < 1e-3 * (1.0 + largest(&exact));
        telling.then_some((exact, tolerance))
    }
}

/// The largest value of `f`, NaN if there is one.
fn fold(outcome: &Outcome<f64>, f: impl Fn(f64) -> f64) -> f64 {
    let all = outcome.y.iter().chain(&outcome.h).chain(&outcome.s);
    all.map(|&x| f(x)).fold(0.0, |most, x| if x > most || x.is_nan() { x } else { most })
}

pub(crate) fn forward(stack: &Recurrent, x: &Array3<f32>, state: &mut State, sequence: &Sequence) -> Array3<f32> {
    let x = Tensor::from_array(stack.device(), x).expect("input");
    stack.forward_sequence(&x, state, sequence).and_then(|y| y.to_array()).expect("a legal call")
}

pub(crate) fn outcome(y: Array3<f32>, state: &State) -> Outcome<f32> {
    let h = state.to_h().expect("h");
    let s = state.to_s().expect("s").unwrap_or_else(|| Array3::zeros((h.dim().0, h.dim().1, 0)));
    Outcome { y, h, s }
}

impl Outcome<f32> {
    /// The largest distance to another outcome of the same shapes.
    pub(crate) fn distance(&self, other: &Outcome<f64>) -> f64 {
        assert_eq!((self.y.dim(), self.h.dim(), self.s.dim()), (other.y.dim(), other.h.dim(), other.s.dim()));
        let minus = |a: &Array3<f32>, b: &Array3<f64>| a.mapv(f64::from) - b;
        let parts = Outcome { y: minus(&self.y, &other.y), h: minus(&self.h, &other.h), s: minus(&self.s, &other.s) };
        fold(&parts, f64::abs)
    }

    /// Some of the steps and rows, in the given order.
    pub(crate) fn part(&self, steps: &[usize], rows: &[usize]) -> Self {
        Self {
            y: self.y.select(Axis(0), steps).select(Axis(1), rows),
            h: self.h.select(Axis(1), rows),
            s: self.s.select(Axis(1), rows),
        }
    }

    pub(crate) fn wide(&self) -> Outcome<f64> {
        Outcome { y: self.y.mapv(f64::from), h: self.h.mapv(f64::from), s: self.s.mapv(f64::from) }
    }

    /// Every bit of the outcome.
    pub(crate) fn bits(&self) -> Vec<u32> {
        [&self.y, &self.h, &self.s].into_iter().flat_map(super::bits).collect()
    }
}

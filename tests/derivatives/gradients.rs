//! Gradients of the reference against central differences in `f64`: every cell, every option, every kind of sequence.

use gatewise::cell::{
    Activation, Cell, Direction, Forget, GruCell, LstmCell, Mix, Pad, Parameters, Reset, RnnCell, Sequence,
};
use gatewise::reference::{LayerGradient, LayerState, layer, layer_backward};
use ndarray::{Array2, Array3, ArrayD};

const TIME: usize = 5;
const BATCH: usize = 2;
const INPUT: usize = 3;
const HIDDEN: usize = 4;

/// Everything a layer's loss depends on.
#[derive(Clone)]
struct Problem {
    cell: Cell,
    direction: Direction,
    sequence: Sequence,
    p: Parameters<f64>,
    x: Array3<f64>,
    state: LayerState<f64>,
    /// The loss is the sum of the outputs and the last state, weighed by these.
    weights: (Array3<f64>, Array2<f64>, Array2<f64>),
}

impl Problem {
    fn new(cell: impl Into<Cell>, direction: Direction, sequence: Sequence, seed: u64) -> Self {
        let cell = cell.into();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut random = |scale: f64| scale * (2.0 * rng.f64() - 1.0);
        let p = Parameters::collect(&cell, INPUT, HIDDEN, |spec| {
            Ok(ArrayD::from_shape_simple_fn(spec.shape.as_slice(), || random(0.9)))
        })
        .expect("parameters that fit");
        let (out, s) = (cell.output_size(HIDDEN), if cell.has_cell_state() { HIDDEN } else { 0 });
        let mut matrix = |width: usize| Array2::from_shape_simple_fn((BATCH, width), || random(0.8));
        let state = LayerState { h: matrix(out), s: matrix(s), initial_h: matrix(out), initial_s: matrix(s) };
        let last = (matrix(out), matrix(s));
        let mut sequence_of = |width: usize| Array3::from_shape_simple_fn((TIME, BATCH, width), || random(1.3));
        let x = sequence_of(INPUT);
        Self { cell, direction, sequence, p, x, state, weights: (sequence_of(out), last.0, last.1) }
    }

    fn loss(&self) -> f64 {
        let mut state = self.state.clone();
        let y = layer(&self.cell, &self.p, self.direction, &self.sequence, self.x.view(), &mut state).expect("runs");
        (&y * &self.weights.0).sum() + (&state.h * &self.weights.1).sum() + (&state.s * &self.weights.2).sum()
    }

    fn gradient(&self) -> LayerGradient<f64> {
        let (dy, d_h, d_s) = &self.weights;
        let inputs = (self.x.view(), &self.state);
        layer_backward(&self.cell, &self.p, self.direction, &self.sequence, inputs, (dy.view(), d_h.view(), d_s.view()))
            .expect("runs")
    }

    /// Compares one tensor's gradient, element by element.
    fn compare(&self, what: &str, gradient: &[f64], mut element: impl FnMut(&mut Self, usize) -> &mut f64) {
        const STEP: f64 = 1e-6;
        for (at, &got) in gradient.iter().enumerate() {
            let mut moved = self.clone();
            *element(&mut moved, at) += STEP;
            let above = moved.loss();
            *element(&mut moved, at) -= 2.0 * STEP;
            let expected = (above - moved.loss()) / (2.0 * STEP);
            let error = (got - expected).abs() / expected.abs().max(1.0);
            assert!(error < 3e-7, "{:?} {what}[{at}]: {got} by the equations, {expected} by differences", self.cell);
        }
    }

    fn check(&self) {
        let gradient = self.gradient();
        let flat = |array: &Array2<f64>| -> Vec<f64> { array.iter().copied().collect() };
        let x: Vec<f64> = gradient.x.iter().copied().collect();
        self.compare("x", &x, |p, at| p.x.iter_mut().nth(at).expect("an element"));
        let states: [(&str, &Array2<f64>, StateOf); 4] = [
            ("h", &gradient.state.h, |p| &mut p.state.h),
            ("s", &gradient.state.s, |p| &mut p.state.s),
            ("initial h", &gradient.state.initial_h, |p| &mut p.state.initial_h),
            ("initial s", &gradient.state.initial_s, |p| &mut p.state.initial_s),
        ];
        for (name, gradient, of) in states {
            self.compare(name, &flat(gradient), |p, at| of(p).iter_mut().nth(at).expect("an element"));
        }
        for (name, gradient) in gradient.parameters.named() {
            let gradient: Vec<f64> = gradient.iter().copied().collect();
            self.compare(name, &gradient, |p, at| parameter(&mut p.p, name, at));
        }
    }
}

/// Picks one array of a problem's state.
type StateOf = fn(&mut Problem) -> &mut Array2<f64>;

fn parameter<'a>(p: &'a mut Parameters<f64>, name: &str, at: usize) -> &'a mut f64 {
    let matrix = |array: Option<&'a mut Array2<f64>>| array.and_then(|array| array.iter_mut().nth(at));
    match name {
        "weight_ih" => matrix(Some(&mut p.weight_ih)),
        "weight_hh" => matrix(Some(&mut p.weight_hh)),
        "weight_hr" => matrix(p.weight_hr.as_mut()),
        "peephole" => matrix(p.peephole.as_mut()),
        "bias_ih" => p.bias_ih.as_mut().and_then(|bias| bias.get_mut(at)),
        _ => p.bias_hh.as_mut().and_then(|bias| bias.get_mut(at)),
    }
    .expect("an element")
}

fn cells() -> Vec<Cell> {
    let mut cells: Vec<Cell> = vec![
        RnnCell::default().into(),
        RnnCell { gate_clip: Some(0.7), bias: false, ..Default::default() }.into(),
        LstmCell::default().into(),
        LstmCell::LECTURE.into(),
        LstmCell { forget: Forget::Never, peephole: true, ..Default::default() }.into(),
        LstmCell { forget: Forget::Coupled, peephole: true, ..Default::default() }.into(),
        LstmCell { peephole: true, cell_clip: Some(0.6), gate_clip: Some(0.9), ..Default::default() }.into(),
        LstmCell { projection: Some(2), bias: false, ..Default::default() }.into(),
        LstmCell { projection: Some(3), peephole: true, ..Default::default() }.into(),
        GruCell::default().into(),
        GruCell::LECTURE.into(),
        GruCell { reset: Reset::Before, gate_clip: Some(0.8), ..Default::default() }.into(),
        GruCell { mix: Mix::TakesNew, bias: false, ..Default::default() }.into(),
    ];
    let more = [Activation::ScaledTanh { alpha: 1.2, beta: 0.7 }, Activation::Affine { alpha: 0.6, beta: 0.2 }];
    for activation in Activation::ALL.into_iter().chain([Activation::HARD_SIGMOID_KERAS3]).chain(more) {
        cells.push(RnnCell { activation, ..Default::default() }.into());
        cells.push(LstmCell { candidate: activation, output: activation, ..Default::default() }.into());
        // Unbounded gates multiply the state by itself: differences of such outputs are too coarse.
        let bounded = match activation {
            Activation::Tanh | Activation::Sigmoid | Activation::Softsign => true,
            other => matches!(other, Activation::ScaledTanh { .. } | Activation::HardSigmoid { .. }),
        };
        let gate = if bounded { activation } else { Activation::Sigmoid };
        cells.push(GruCell { gate, candidate: activation, reset: Reset::Before, ..Default::default() }.into());
    }
    cells
}

#[test]
fn every_cell_agrees_with_central_differences() {
    for (seed, cell) in (0..).zip(cells()) {
        Problem::new(cell, Direction::Forward, Sequence::new(), seed).check();
    }
}

#[test]
fn lengths_masks_resets_and_padding_agree_in_both_directions() {
    let mask = || Array2::from_shape_fn((TIME, BATCH), |(t, b)| (t + 2 * b) % 3 != 0);
    let reset = || Array2::from_shape_fn((TIME, BATCH), |(t, b)| (t + b) % 3 == 1);
    let sequences = [
        Sequence::new().lengths([3, 0]),
        Sequence::new().mask(mask()).pad(Pad::Hold),
        Sequence::new().mask(mask()).reset(reset()).pad(Pad::Hold),
        Sequence::new().lengths([4, 5]).reset(reset()),
    ];
    let cells: [Cell; 3] = [
        RnnCell::default().into(),
        LstmCell { peephole: true, ..Default::default() }.into(),
        GruCell::default().into(),
    ];
    for sequence in sequences {
        for direction in [Direction::Forward, Direction::Reverse] {
            for cell in cells {
                Problem::new(cell, direction, sequence.clone(), 5).check();
            }
        }
    }
}

#[test]
fn a_sequence_without_steps_hands_the_states_gradient_through() {
    let mut problem = Problem::new(LstmCell::default(), Direction::Forward, Sequence::new(), 3);
    problem.x = Array3::zeros((0, BATCH, INPUT));
    problem.weights.0 = Array3::zeros((0, BATCH, HIDDEN));
    let gradient = problem.gradient();
    assert_eq!(gradient.state.h, problem.weights.1);
    assert_eq!(gradient.state.s, problem.weights.2);
    assert!(gradient.parameters.weight_hh.iter().all(|&d| d == 0.0));
}

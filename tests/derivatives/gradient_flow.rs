//! The flow of gradients through time, compared with central differences, with explicit products, and with known networks.

use gatewise::cell::{Activation, Cell, Direction, GruCell, LstmCell, Mix, Pad, Parameters, Reset, RnnCell, Sequence};
use gatewise::nn::{Config, Merge};
use gatewise::reference::{LayerState, activate, activate_derivative, layer};
use gatewise::train::{GradientFlow, gradient_flow};
use gatewise::{Device, Error, Tensor};
use ndarray::{Array2, Array3, ArrayD, Axis, concatenate, s};

const TIME: usize = 5;
const BATCH: usize = 2;
const INPUT: usize = 3;
const HIDDEN: usize = 4;

/// An element of the state that is perturbed after the step at place `t`.
#[derive(Clone, Copy)]
struct Nudge {
    layer: usize,
    at: usize,
    t: usize,
    of: State,
    element: (usize, usize),
    by: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    H,
    S,
}

struct Problem {
    cell: Cell,
    config: Config<Cell>,
    layers: usize,
    directions: Vec<Direction>,
    parameters: Vec<Vec<Parameters>>,
    x: Array3<f32>,
    /// The weights of the outputs in the loss.
    weights: Array3<f32>,
}

impl Problem {
    fn new(cell: impl Into<Cell>, layers: usize, both: bool, seed: u64) -> Self {
        let cell = cell.into();
        let config = Config::new(cell, INPUT, HIDDEN).layers(layers);
        let (config, directions) = if both {
            (config.bidirectional(Merge::Concat), vec![Direction::Forward, Direction::Reverse])
        } else {
            (config, vec![Direction::Forward])
        };
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut random = |scale: f32| scale * (2.0 * rng.f32() - 1.0);
        let parameters = config
            .collect(|_, _, spec| Ok(ArrayD::from_shape_simple_fn(spec.shape.as_slice(), || random(0.9))))
            .expect("parameters that fit");
        let width = config.output_size();
        let x = Array3::from_shape_simple_fn((TIME, BATCH, INPUT), || random(1.3));
        let weights = Array3::from_shape_simple_fn((TIME, BATCH, width), || random(1.0));
        Self { cell, config, layers, directions, parameters, x, weights }
    }

    /// A loss at the last step only.
    fn last_only(mut self) -> Self {
        self.weights.slice_mut(s![..TIME - 1, .., ..]).fill(0.0);
        self
    }

    fn flow_with(&self, device: &Device, sequence: &Sequence) -> GradientFlow {
        let stack = self.config.trainable(device, &self.parameters).expect("a stack");
        let (x, dy) = (Tensor::from_array(device, &self.x), Tensor::from_array(device, &self.weights));
        let state = stack.zero_state(self.x.dim().1).expect("a state");
        gradient_flow(&stack, &x.expect("x"), &state, sequence, &dy.expect("dy")).expect("a flow")
    }

    fn flow(&self) -> GradientFlow {
        self.flow_with(&Device::Reference, &Sequence::new())
    }

    fn wide(&self, layer: usize, at: usize) -> Parameters<f64> {
        self.parameters[layer][at].map(f64::from)
    }

    /// The loss if one number of a state is perturbed between one step and the next.
    fn loss(&self, nudge: Nudge) -> f64 {
        let mut x = self.x.mapv(f64::from);
        for l in 0..self.layers {
            let outputs: Vec<_> = (0..self.directions.len())
                .map(|at| self.run(l, at, &x, Some(nudge).filter(|n| (n.layer, n.at) == (l, at))))
                .collect();
            let views: Vec<_> = outputs.iter().map(|y| y.view()).collect();
            x = concatenate(Axis(2), &views).expect("outputs of one shape");
        }
        (&x * &self.weights.mapv(f64::from)).sum()
    }

    fn run(&self, l: usize, at: usize, x: &Array3<f64>, nudge: Option<Nudge>) -> Array3<f64> {
        let (p, direction) = (self.wide(l, at), self.directions[at]);
        let out = self.cell.output_size(HIDDEN);
        let zeros = |width: usize| Array2::zeros((BATCH, width));
        let cells = if self.cell.has_cell_state() { HIDDEN } else { 0 };
        let mut state = LayerState { h: zeros(out), s: zeros(cells), initial_h: zeros(out), initial_s: zeros(cells) };
        let part = |x: ndarray::ArrayView3<'_, f64>, state: &mut LayerState<f64>| {
            layer(&self.cell, &p, direction, &Sequence::new(), x, state).expect("runs")
        };
        let Some(n) = nudge else { return part(x.view(), &mut state) };
        let (before, after) = match direction {
            Direction::Forward => (x.slice(s![..n.t, .., ..]), x.slice(s![n.t + 1.., .., ..])),
            Direction::Reverse => (x.slice(s![n.t + 1.., .., ..]), x.slice(s![..n.t, .., ..])),
        };
        let early = part(before, &mut state);
        let h_before = state.h.clone();
        let mut now = part(x.slice(s![n.t..=n.t, .., ..]), &mut state);
        match n.of {
            State::H => state.h[n.element] += n.by,
            State::S => {
                state.s[n.element] += n.by;
                let b = n.element.0;
                let h = self.read_out(
                    &p,
                    &x.slice(s![n.t, b, ..]).to_vec(),
                    &h_before.row(b).to_vec(),
                    &state.s.row(b).to_vec(),
                );
                state.h.row_mut(b).assign(&ndarray::arr1(&h));
            }
        }
        now.index_axis_mut(Axis(0), 0).assign(&state.h);
        let late = part(after, &mut state);
        let parts = match direction {
            Direction::Forward => [early.view(), now.view(), late.view()],
            Direction::Reverse => [late.view(), now.view(), early.view()],
        };
        concatenate(Axis(0), &parts).expect("steps of one width")
    }

    /// `h = W_hr (o output(s))` for a given cell state, from the equations as the textbooks write them.
    fn read_out(&self, p: &Parameters<f64>, x: &[f64], h: &[f64], s: &[f64]) -> Vec<f64> {
        let Cell::Lstm(cell) = self.cell else { panic!("only an LSTM has a cell state") };
        let first = self.cell.gates().iter().position(|gate| *gate == "o").expect("the gate o") * HIDDEN;
        let m: Vec<f64> = (0..HIDDEN)
            .map(|u| {
                let peephole = p.peephole.as_ref().map_or(0.0, |w| w[[2, u]] * s[u]);
                activate(cell.gate, before(p, first + u, x, h) + peephole) * activate(cell.output, s[u])
            })
            .collect();
        match &p.weight_hr {
            Some(weight) => weight.dot(&ndarray::arr1(&m)).to_vec(),
            None => m,
        }
    }

    /// The norm of the gradient with respect to a state after a step, by central differences.
    fn difference(&self, layer: usize, at: usize, t: usize, of: State) -> f64 {
        const STEP: f64 = 1e-5;
        let width = if of == State::H { self.cell.output_size(HIDDEN) } else { HIDDEN };
        let mut sum = 0.0;
        for element in (0..BATCH).flat_map(|b| (0..width).map(move |u| (b, u))) {
            let loss = |by: f64| self.loss(Nudge { layer, at, t, of, element, by });
            sum += ((loss(STEP) - loss(-STEP)) / (2.0 * STEP)).powi(2);
        }
        sum.sqrt()
    }
}

/// The gate arguments `U x + b_ih + W h + b_hh`.
fn before(p: &Parameters<f64>, row: usize, x: &[f64], h: &[f64]) -> f64 {
    let dot = |a: ndarray::ArrayView1<'_, f64>, b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let bias = |bias: &Option<ndarray::Array1<f64>>| bias.as_ref().map_or(0.0, |b| b[row]);
    dot(p.weight_ih.row(row), x) + bias(&p.bias_ih) + dot(p.weight_hh.row(row), h) + bias(&p.bias_hh)
}

fn close(what: &str, got: f64, expected: f64, tolerance: f64) {
    assert!((got - expected).abs() <= tolerance * (1e-3 + expected.abs()), "{what}: {got} instead of {expected}");
}

/// Every cell, with the options that change the path of a gradient.
fn cells() -> Vec<Cell> {
    let lstm = LstmCell::default();
    let gru = GruCell::default();
    vec![
        RnnCell::default().into(),
        RnnCell::LECTURE.into(),
        lstm.into(),
        LstmCell::LECTURE.into(),
        LstmCell { forget: gatewise::cell::Forget::Coupled, ..lstm }.into(),
        LstmCell { forget: gatewise::cell::Forget::Never, ..lstm }.into(),
        LstmCell { peephole: true, ..lstm }.into(),
        LstmCell { projection: Some(3), ..lstm }.into(),
        gru.into(),
        GruCell { reset: Reset::Before, ..gru }.into(),
        GruCell::LECTURE.into(),
    ]
}

#[test]
fn gradients_by_the_state_after_each_step_are_central_differences() {
    for (seed, cell) in (1..).zip(cells()) {
        let problem = Problem::new(cell, 1, false, seed);
        let flow = problem.flow();
        assert_eq!(flow.layers.len(), 1);
        for t in 0..TIME {
            close(&format!("{cell:?} dh at {t}"), flow.layers[0].h[t], problem.difference(0, 0, t, State::H), 1e-7);
            assert_eq!(flow.layers[0].s.is_some(), cell.has_cell_state());
            if let Some(s) = &flow.layers[0].s {
                close(&format!("{cell:?} ds at {t}"), s[t], problem.difference(0, 0, t, State::S), 1e-7);
            }
        }
    }
}

#[test]
fn gradients_of_every_layer_and_direction_are_central_differences() {
    for cell in [Cell::from(RnnCell::default()), LstmCell::default().into(), GruCell::default().into()] {
        let problem = Problem::new(cell, 2, true, 31);
        let flow = problem.flow();
        let places: Vec<_> = flow.layers.iter().map(|flow| (flow.layer, flow.direction)).collect();
        let directions = [Direction::Forward, Direction::Reverse];
        assert_eq!(places, [(0, directions[0]), (0, directions[1]), (1, directions[0]), (1, directions[1])]);
        for (row, flow) in flow.layers.iter().enumerate() {
            for t in 0..TIME {
                let what = format!("{} row {row} at {t}", cell.name());
                close(&what, flow.h[t], problem.difference(flow.layer, row % 2, t, State::H), 1e-7);
                if let Some(s) = &flow.s {
                    close(&what, s[t], problem.difference(flow.layer, row % 2, t, State::S), 1e-7);
                }
            }
        }
    }
}

/// `t_0 = L'(h_T) D(o * output'(s)) D(prod f_i)`, multiplied out.
#[test]
fn the_path_of_an_lstm_is_the_product_of_its_forget_gates() {
    for cell in [LstmCell::default(), LstmCell::LECTURE] {
        let problem = Problem::new(cell, 1, false, 5).last_only();
        let p = problem.wide(0, 0);
        let (mut forget, mut read) = (Vec::new(), Vec::new());
        for b in 0..BATCH {
            let (mut h, mut s) = (vec![0.0; HIDDEN], vec![0.0; HIDDEN]);
            let mut of_row = Vec::new();
            for t in 0..TIME {
                let x: Vec<f64> = problem.x.slice(s![t, b, ..]).iter().map(|&x| f64::from(x)).collect();
                let gate = |block: usize, activation: Activation| -> Vec<f64> {
                    (0..HIDDEN).map(|u| activate(activation, before(&p, block * HIDDEN + u, &x, &h))).collect()
                };
                let (i, f) = (gate(0, cell.gate), gate(1, cell.gate));
                let (g, o) = (gate(2, cell.candidate), gate(3, cell.gate));
                s = (0..HIDDEN).map(|u| f[u] * s[u] + i[u] * g[u]).collect();
                h = (0..HIDDEN).map(|u| o[u] * activate(cell.output, s[u])).collect();
                of_row.push(f);
                if t == TIME - 1 {
                    read.push((0..HIDDEN).map(|u| o[u] * activate_derivative(cell.output, s[u])).collect::<Vec<_>>());
                }
            }
            forget.push(of_row);
        }
        let flow = problem.flow();
        for t in 0..TIME {
            let mut sum = 0.0;
            for (b, u) in (0..BATCH).flat_map(|b| (0..HIDDEN).map(move |u| (b, u))) {
                let product: f64 = (t + 1..TIME).map(|later| forget[b][later][u]).product();
                sum += (f64::from(problem.weights[[TIME - 1, b, u]]) * read[b][u] * product).powi(2);
            }
            close(&format!("path at {t}"), flow.layers[0].path[t], sum.sqrt(), 1e-12);
            let kept = forget.iter().flat_map(|row| &row[t]).sum::<f64>() / (BATCH * HIDDEN) as f64;
            close("mean forget gate", flow.layers[0].openings.as_ref().expect("gates").kept[t], kept, 1e-12);
        }
    }
}

/// Without recurrent matrices, the state is the only path back.
#[test]
fn without_recurrent_products_the_path_is_the_whole_gradient() {
    for cell in cells() {
        let mut problem = Problem::new(cell, 1, false, 8);
        problem.parameters[0][0].weight_hh.fill(0.0);
        let flow = &problem.flow().layers[0];
        // A peephole is another path back.
        if cell.peephole() {
            continue;
        }
        let whole = flow.s.as_ref().unwrap_or(&flow.h);
        for t in 0..TIME {
            close(&format!("{cell:?} at {t}"), flow.path[t], whole[t], 1e-12);
        }
        assert!(flow.path[0] > 0.0);
    }
}

#[test]
fn gates_of_a_gru_say_what_is_written_kept_and_read() {
    let means = |mix: Mix| {
        let flow = Problem::new(GruCell { mix, ..GruCell::default() }, 1, false, 4).flow();
        flow.layers[0].openings.clone().expect("gates")
    };
    let (keeps, takes) = (means(Mix::KeepsOld), means(Mix::TakesNew));
    // The gates of the first step do not depend on the mix; only their roles do.
    assert_eq!((keeps.written[0], keeps.kept[0]), (takes.kept[0], takes.written[0]));
    assert!((keeps.written[0] - keeps.kept[0]).abs() > 1e-3);
    for openings in [keeps, takes] {
        assert!(openings.written.iter().zip(&openings.kept).all(|(w, k)| (w + k - 1.0).abs() < 1e-12));
        assert_eq!(openings.read.len(), TIME);
    }
    assert!(Problem::new(RnnCell::default(), 1, false, 4).flow().layers[0].openings.is_none());
}

#[test]
fn a_linear_network_explodes_exactly_along_its_bound() {
    const LONG: usize = 1000;
    let cell = RnnCell { activation: Activation::Identity, ..RnnCell::default() };
    let mut problem = Problem::new(cell, 1, false, 2);
    for factor in [2.0, 0.5] {
        problem.parameters[0][0].weight_hh = Array2::from_diag(&ndarray::arr1(&[factor; HIDDEN]));
        problem.x = Array3::zeros((LONG, BATCH, INPUT));
        problem.weights = Array3::zeros((LONG, BATCH, HIDDEN));
        problem.weights.slice_mut(s![LONG - 1, .., ..]).fill(0.5);
        let flow = &problem.flow().layers[0];
        let loss = flow.h[LONG - 1];
        close("the loss", loss, 0.5 * ((BATCH * HIDDEN) as f64).sqrt(), 1e-12);
        assert_eq!(flow.recurrent_norms[0].0, "h");
        close("the norm", flow.recurrent_norms[0].1, f64::from(factor), 1e-12);
        for t in [0, LONG - 300, LONG - 2, LONG - 1] {
            let steps = (LONG - 1 - t) as f64;
            close("the bound", flow.bound_log10[t], steps * f64::from(factor).log10(), 1e-12);
            close("the gradient", (flow.h[t] / loss).log10(), flow.bound_log10[t], 1e-9);
        }
        assert_eq!(flow.bound_log10[LONG - 1], 0.0);
    }
}

#[test]
fn an_open_forget_gate_lets_a_gradient_through_a_thousand_steps_and_an_rnn_does_not() {
    const LONG: usize = 1000;
    let last = |cell: Cell| {
        let mut problem = Problem::new(cell, 1, false, 9);
        problem.x = Array3::from_shape_fn((LONG, BATCH, INPUT), |(t, b, i)| ((t * 7 + b * 3 + i) as f32).sin());
        problem.weights = Array3::zeros((LONG, BATCH, HIDDEN));
        problem.weights.slice_mut(s![LONG - 1, .., ..]).fill(1.0);
        let p = &mut problem.parameters[0][0];
        p.weight_hh *= 0.6;
        if let (Cell::Lstm(_), Some(bias)) = (cell, &mut p.bias_ih) {
            // The input gate is nearly closed, so that the state does not saturate; the forget gate is nearly open.
            bias.slice_mut(s![..HIDDEN]).fill(-6.0);
            bias.slice_mut(s![HIDDEN..2 * HIDDEN]).fill(12.0);
        }
        let flow = &problem.flow().layers[0];
        let norms = flow.s.as_ref().unwrap_or(&flow.h);
        norms[0] / norms[LONG - 1]
    };
    let (rnn, lstm) = (last(RnnCell::default().into()), last(LstmCell::default().into()));
    assert!(rnn < 1e-100 && rnn > 0.0, "{rnn}: f64 still tells it from nothing");
    assert!(lstm > 0.1, "{lstm}");
}

#[test]
fn rows_of_any_length_flow_as_if_alone() {
    let lengths = [5, 3];
    for cell in [Cell::from(LstmCell::default()), GruCell::default().into(), RnnCell::default().into()] {
        for both in [false, true] {
            let problem = Problem::new(cell, 2, both, 12);
            let whole = problem.flow_with(&Device::Reference, &Sequence::new().lengths(lengths));
            let alone: Vec<GradientFlow> = (0..BATCH)
                .map(|b| {
                    let mut row = Problem::new(cell, 2, both, 12);
                    row.x = problem.x.slice(s![..lengths[b], b..=b, ..]).to_owned();
                    row.weights = problem.weights.slice(s![..lengths[b], b..=b, ..]).to_owned();
                    row.flow()
                })
                .collect();
            for (at, flow) in whole.layers.iter().enumerate() {
                for t in 0..TIME {
                    let rows = || alone.iter().map(|flow| &flow.layers[at]).filter(|flow| t < flow.h.len());
                    let norm = |of: &dyn Fn(&gatewise::train::LayerFlow) -> f64| {
                        rows().map(|flow| of(flow).powi(2)).sum::<f64>().sqrt()
                    };
                    if flow.direction == Direction::Forward || t < 3 {
                        close("dh", flow.h[t], norm(&|flow| flow.h[t]), 1e-12);
                        close("path", flow.path[t], norm(&|flow| flow.path[t]), 1e-12);
                    }
                    if let Some(openings) = &flow.openings {
                        let kept = |flow: &gatewise::train::LayerFlow| flow.openings.as_ref().expect("gates").kept[t];
                        let mean = rows().map(kept).sum::<f64>() / rows().count() as f64;
                        close("kept", openings.kept[t], mean, 1e-12);
                    }
                }
            }
        }
    }
}

#[test]
fn a_step_that_no_row_takes_has_no_openings_and_passes_the_gradient_on() {
    let problem = Problem::new(LstmCell::default(), 1, false, 3).last_only();
    let mask = Array2::from_shape_fn((TIME, BATCH), |(t, _)| t != 2);
    for pad in [Pad::Zero, Pad::Hold] {
        let whole = problem.flow_with(&Device::Reference, &Sequence::new().mask(mask.clone()).pad(pad));
        let [flow] = &whole.layers[..] else { panic!("one layer, not {}", whole.layers.len()) };
        assert!(flow.openings.as_ref().expect("gates").kept[2].is_nan());
        assert_eq!((flow.h[2], flow.path[2] > 0.0), (flow.h[1], true));
        let json = whole.to_json();
        assert!(json["layers"][0]["openings"]["kept"][2].is_null());
        let csv = whole.to_csv();
        let line = csv.lines().nth(3).expect("step 2").split(',').collect::<Vec<_>>();
        assert_eq!(line[..4], ["0", "forward", "lstm", "2"]);
        assert_eq!((line[4].parse::<f64>().expect("a number"), line[8]), (flow.h[2], ""));
    }
    // A held output passes its gradient to the step that computed it.
    let mask = Array2::from_shape_fn((TIME, BATCH), |(t, _)| t < 3);
    let reaches = |pad: Pad| {
        let flow = problem.flow_with(&Device::Reference, &Sequence::new().mask(mask.clone()).pad(pad));
        (flow.layers[0].path[0], flow.layers[0].h[0])
    };
    assert_eq!(reaches(Pad::Zero), (0.0, 0.0));
    assert!(reaches(Pad::Hold).0 > 0.0 && reaches(Pad::Hold).1 > 0.0);
}

#[test]
fn nothing_flows_back_past_a_reset() {
    for cell in cells() {
        let problem = Problem::new(cell, 1, false, 3).last_only();
        let reset = Array2::from_shape_fn((TIME, BATCH), |(t, _)| t == 2);
        let flow = problem.flow_with(&Device::Reference, &Sequence::new().reset(reset));
        let flow = &flow.layers[0];
        assert_eq!((&flow.h[..2], &flow.path[..2]), (&[0.0; 2][..], &[0.0; 2][..]), "{cell:?}");
        assert!(flow.h[2] > 0.0);
    }
}

#[test]
fn the_flow_is_the_same_on_every_device() {
    let problem = Problem::new(LstmCell::default(), 2, true, 6);
    let reference = problem.flow();
    assert_eq!(problem.flow_with(&Device::Cpu, &Sequence::new()), reference);
    #[cfg(feature = "gpu")]
    {
        let options = gatewise::gpu::GpuOptions { software: true, ..Default::default() };
        let gpu = Device::gpu(&options).expect("an adapter: install mesa-vulkan-drivers");
        assert_eq!(problem.flow_with(&gpu, &Sequence::new()), reference);
    }
}

#[test]
fn a_flow_can_be_read() {
    let flow = Problem::new(LstmCell::default(), 1, false, 6).flow();
    let text = flow.to_string();
    assert!(text.starts_with("layer 0, forward, lstm; norms of recurrent matrices: i "), "{text}");
    assert_eq!(text.lines().count(), 2 + TIME);
    let json = flow.to_json();
    for t in 0..TIME {
        assert_eq!(json["layers"][0]["dh"][t].as_f64(), Some(flow.layers[0].h[t]));
    }
    assert_eq!(flow.to_csv().lines().count(), 1 + TIME);
}

#[test]
fn what_does_not_fit_is_refused() {
    let problem = Problem::new(LstmCell::default(), 1, false, 6);
    let device = Device::Cpu;
    let stack = problem.config.trainable(&device, &problem.parameters).expect("a stack");
    let x = Tensor::from_array(&device, &problem.x).expect("x");
    let state = stack.zero_state(BATCH).expect("a state");
    let dy = Tensor::zeros(&device, &[TIME, BATCH, HIDDEN + 1]).expect("dy");
    let refused = gradient_flow(&stack, &x, &state, &Sequence::new(), &dy);
    assert!(matches!(refused, Err(Error::Shape { what: "dy", .. })), "{refused:?}");
    let dy = Tensor::zeros(&device, &[TIME, BATCH, HIDDEN]).expect("dy");
    let refused = gradient_flow(&stack, &x, &stack.zero_state(BATCH + 1).expect("a state"), &Sequence::new(), &dy);
    assert!(matches!(refused, Err(Error::Shape { .. })), "{refused:?}");
}

//! Truncated back-propagation: the steps that a window runs; values and gradients equal those of the definition.

use gatewise::cell::{LstmCell, Sequence};
use gatewise::nn::{Config, TrainingOptions};
use gatewise::train::{CarriedState, Graph, LossOptions, Mode, Parameters, RecurrentModule, Sgd, Tbptt, Trainer};
use gatewise::{Device, Result, Tensor};
use ndarray::{Array2, Array3, Axis, s};

use crate::{assert_close, devices};

const TIME: usize = 11;
const BATCH: usize = 2;

#[test]
fn windows_cover_every_loss_once() {
    let windows = |k1, k2, time| -> Vec<[usize; 6]> {
        let windows = Tbptt::new(k1, k2).expect("at least 1").windows(time);
        let numbers = |w: gatewise::train::Window| {
            [w.carried.start, w.carried.end, w.steps.start, w.steps.end, w.losses.start, w.losses.end]
        };
        windows.map(numbers).collect()
    };
    assert_eq!(windows(4, 4, 10), [[0, 0, 0, 4, 0, 4], [4, 4, 4, 8, 4, 8], [8, 8, 8, 10, 8, 10]]);
    assert_eq!(windows(4, 6, 10), [[0, 0, 0, 4, 0, 4], [2, 2, 2, 8, 4, 8], [6, 6, 6, 10, 8, 10]]);
    assert_eq!(windows(4, 1, 6), [[0, 3, 3, 4, 3, 4], [4, 5, 5, 6, 5, 6]]);
    assert_eq!(windows(3, 100, 7), [[0, 0, 0, 3, 0, 3], [0, 0, 0, 6, 3, 6], [0, 0, 0, 7, 6, 7]]);
    assert!(windows(3, 3, 0).is_empty());
}

/// A sequence with every instruction. The gradients of the windows are compared with one pass over the same steps, from the state
/// that an unbroken pass has there.
#[test]
fn gradients_are_those_of_the_windows_steps() {
    let config = Config::new(LstmCell::default(), 2, 3).layers(2);
    let sequence = Sequence::new()
        .lengths([TIME, 7])
        .reset(Array2::from_shape_fn((TIME, BATCH), |(t, b)| (t, b) == (3, 0) || (t, b) == (5, 1)));
    let mut rng = fastrand::Rng::with_seed(4);
    let x = Array3::from_shape_simple_fn((TIME, BATCH, 2), || 2.0 * rng.f32() - 1.0);
    let goal = Array3::from_shape_simple_fn((TIME, BATCH, 3), || 2.0 * rng.f32() - 1.0);
    let h = Array3::from_shape_simple_fn((2, BATCH, 3), || rng.f32() - 0.5);
    let options = TrainingOptions::default();
    for device in devices() {
        let result = (|| -> Result<()> {
            let mut parameters = Parameters::new(&device, 6);
            let stack = RecurrentModule::new(&mut parameters, "lstm.", &config)?;
            let begin = || stack.stack(&parameters)?.initial_state(h.view(), Some(h.view()));
            let upload = |array: &Array3<f32>, steps: std::ops::Range<usize>| {
                Tensor::from_array(&device, &array.slice(s![steps, .., ..]))
            };
            // An unbroken pass over the first steps; the test cuts the instructions by hand, not by the code under test.
            let cut = |steps: std::ops::Range<usize>| {
                let lengths = [TIME, 7].map(|length: usize| length.saturating_sub(steps.start).min(steps.len()));
                let reset = |(t, b)| (t + steps.start, b) == (3, 0) || (t + steps.start, b) == (5, 1);
                Sequence::new().lengths(lengths).reset(Array2::from_shape_fn((steps.len(), BATCH), reset))
            };
            for (k1, k2) in [(4, 4), (3, 5), (4, 2), (2, 20), (20, 3)] {
                let mut carry = CarriedState::new(begin()?);
                for window in Tbptt::new(k1, k2)?.windows(TIME) {
                    let outcome = |broken: bool, carry: &mut CarriedState| -> Result<Vec<Vec<f32>>> {
                        let mut graph = Graph::new(&parameters, Mode::Evaluation);
                        let y = if broken {
                            let x = graph.input(&upload(&x, window.inputs())?);
                            carry.forward(&mut graph, &stack, x, &window, &sequence, &options)?
                        } else {
                            let (steps, first) = (window.steps.clone(), window.losses.start - window.steps.start);
                            let mut state = begin()?;
                            let before = graph.input(&upload(&x, 0..steps.start)?);
                            stack.forward(&mut graph, before, Some(&mut state), &cut(0..steps.start), &options)?;
                            let x = graph.input(&upload(&x, steps.clone())?);
                            let y = stack.forward(&mut graph, x, Some(&mut state), &cut(steps), &options)?;
                            let count = window.losses.len();
                            graph.slice(y, gatewise::ops::Slice { axis: 0, start: first, step: 1, count })?
                        };
                        let loss = graph.mean_squared_error(
                            y,
                            &upload(&goal, window.losses.clone())?,
                            &LossOptions::default(),
                        )?;
                        let gradients = graph.backward(loss)?;
                        let value = graph.value(y)?.clone();
                        graph.submit()?;
                        let by = stack.ids().iter().filter_map(|&id| gradients.parameter(id));
                        std::iter::once(&value).chain(by).map(Tensor::to_vec).collect()
                    };
                    let (got, expected) = (outcome(true, &mut carry)?, outcome(false, &mut carry)?);
                    carry.advance();
                    assert_eq!(got.len(), 9);
                    for (got, expected) in got.iter().zip(&expected) {
                        assert_close(&format!("{k1}, {k2} on {device}: {window:?}"), got, expected, 1e-5);
                    }
                }
            }
            Ok(())
        })();
        result.unwrap_or_else(|error| panic!("{device}: {error}"));
    }
}

/// After a failed step the window runs again from the state before it.
#[test]
fn a_window_that_failed_leaves_the_state() {
    let mut parameters = Parameters::new(&Device::Cpu, 6);
    let stack =
        RecurrentModule::new(&mut parameters, "lstm.", &Config::new(LstmCell::default(), 2, 3)).expect("a stack");
    let mut trainer = Trainer::new(parameters, Sgd::default(), 0.0).expect("a trainer");
    let x = Tensor::from_array(&Device::Cpu, &Array3::from_elem((4, BATCH, 2), 0.3)).expect("an upload");
    let mut carry = CarriedState::new(stack.zero_state(&Device::Cpu, BATCH).expect("a state"));
    let windows: Vec<_> = Tbptt::new(2, 2).expect("a plan").windows(4).collect();
    let mut step = |carry: &mut CarriedState, at: usize| -> Result<f32> {
        let report = trainer.step(|graph| {
            let x = x.to_array::<ndarray::Ix3>()?.slice_axis(Axis(0), windows[at].inputs().into()).to_owned();
            let x = graph.input(&Tensor::from_array(&Device::Cpu, &x)?);
            let y = carry.forward(graph, &stack, x, &windows[at], &Sequence::new(), &TrainingOptions::default())?;
            let goal = Tensor::zeros(&Device::Cpu, graph.value(y)?.shape())?;
            graph.mean_squared_error(y, &goal, &LossOptions::default())
        })?;
        Ok(report.loss)
    };
    let first = step(&mut carry, 0).expect("a step");
    assert_eq!(step(&mut carry, 0).expect("again"), first, "not advanced");
    carry.advance();
    step(&mut carry, 0).expect_err("it is behind");
    assert_ne!(step(&mut carry, 1).expect("the next"), first);
    let h = carry.state().to_h().expect("h");
    assert!(h.iter().any(|&h| h != 0.0));
}

//! Training passes of recurrent stacks: output, state and gradients of every path compared with the reference, and the reference
//! with noise compared with central differences.

mod common;

#[cfg(feature = "gpu")]
use std::sync::OnceLock;

use gatewise::cell::{
    Activation, Cell, Forget, GruCell, LstmCell, Mix, Noise, Pad, Parameters, Reset, RnnCell, Sequence,
};
#[cfg(feature = "gpu")]
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{Config, Merge, StateGradient, TrainingOptions};
#[cfg(feature = "gpu")]
use gatewise::plan::AdapterClass;
use gatewise::{Device, Tensor};
use ndarray::{Array2, Array3, ArrayD};

const TIME: usize = 6;
/// More rows than one block of the CPU path has.
const BATCH: usize = 11;
const INPUT: usize = 5;
const HIDDEN: usize = 7;
/// Input and hidden units: once no multiples of four, once multiples, whose words the products of a software adapter read.
const SIZES: [[usize; 2]; 2] = [[INPUT, HIDDEN], [8, 12]];

/// The devices whose passes are compared with the reference's: the CPU, and the GPU.
fn devices() -> Vec<Device> {
    #[cfg(not(feature = "gpu"))]
    return vec![Device::Cpu];
    #[cfg(feature = "gpu")]
    vec![Device::Cpu, gpus()[0].clone()]
}

/// The GPU with its own schedule, with that of hardware, and without subgroups.
#[cfg(feature = "gpu")]
fn gpus() -> &'static [Device; 3] {
    static GPUS: OnceLock<[Device; 3]> = OnceLock::new();
    GPUS.get_or_init(|| {
        let options = GpuOptions { software: true, ..Default::default() };
        let hardware = GpuOptions { class: Some(AdapterClass::Hardware), ..options.clone() };
        [options.clone(), hardware, GpuOptions { no_subgroups: true, ..options }]
            .map(|options| Device::Gpu(GpuDevice::new(&options).expect("install mesa-vulkan-drivers and libvulkan1")))
    })
}

#[derive(Clone)]
struct Problem {
    config: Config<Cell>,
    sequence: Sequence,
    options: TrainingOptions,
    parameters: Vec<Vec<Parameters>>,
    x: Array3<f32>,
    h: Array3<f32>,
    s: Option<Array3<f32>>,
    /// The weights of the output and the last state in the loss.
    weights: (Array3<f32>, Array3<f32>, Option<Array3<f32>>),
}

/// All results of a pass by name.
struct Outcome(Vec<(String, Vec<f32>)>);

impl Problem {
    fn new(config: Config<Cell>, sequence: Sequence, seed: u64) -> Self {
        Self::of_time(config, sequence, TIME, seed)
    }

    fn of_time(config: Config<Cell>, sequence: Sequence, time: usize, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut random = |scale: f32| scale * (2.0 * rng.f32() - 1.0);
        let parameters = config
            .collect(|_, _, spec| Ok(ArrayD::from_shape_simple_fn(spec.shape.as_slice(), || random(0.6))))
            .expect("parameters that fit");
        let zero =
            config.trainable(&Device::Reference, &parameters).expect("a stack").zero_state(BATCH).expect("a state");
        let (h_shape, s_shape) = (zero.to_h().expect("h").dim(), zero.to_s().expect("s").map(|s| s.dim()));
        let mut array = |shape: (usize, usize, usize)| Array3::from_shape_simple_fn(shape, || random(0.9));
        Self {
            sequence,
            options: TrainingOptions::default(),
            x: array((time, BATCH, parameters[0][0].weight_ih.dim().1)),
            h: array(h_shape),
            s: s_shape.map(&mut array),
            weights: (array((time, BATCH, config.output_size())), array(h_shape), s_shape.map(&mut array)),
            config,
            parameters,
        }
    }

    fn run(&self, device: &Device) -> Outcome {
        let upload = |array: &Array3<f32>| Tensor::from_array(device, array).expect("an upload");
        let stack = self.config.trainable(device, &self.parameters).expect("a stack");
        let mut state = stack.initial_state(self.h.view(), self.s.as_ref().map(|s| s.view())).expect("a state");
        let mut recorder = device.recorder();
        let x = upload(&self.x);
        let (y, tape) = stack
            .record_training(&mut recorder, &x, &mut state, &self.sequence, &self.options)
            .expect("a forward pass");
        let (dy, d_h, d_s) = &self.weights;
        let d_state = StateGradient { h: upload(d_h), s: d_s.as_ref().map(upload) };
        let d = tape.record_backward(&mut recorder, &upload(dy), Some(&d_state)).expect("a backward pass");
        recorder.submit().expect("a submission");
        let read = |tensor: &Tensor| tensor.to_vec().expect("a read-back");
        let mut outcome = vec![("y".to_owned(), read(&y)), ("h".to_owned(), flat(&state.to_h().expect("h")))];
        outcome.extend(state.to_s().expect("s").map(|s| ("s".to_owned(), flat(&s))));
        outcome.extend([("dx".to_owned(), read(&d.x))]);
        for (name, gradient) in [("state", &d.state), ("initial", &d.initial)] {
            outcome.push((format!("d {name} h"), read(&gradient.h)));
            outcome.extend(gradient.s.as_ref().map(|s| (format!("d {name} s"), read(s))));
        }
        for ((place, _), gradient) in stack.tensors().zip(d.tensors()) {
            outcome.push((format!("d {} {:?} {}", place.layer, place.direction, place.name), read(gradient)));
        }
        Outcome(outcome)
    }

    /// The loss of one run on the reference, in `f64` from its `f32` outputs.
    fn loss(&self) -> f64 {
        let Outcome(outcome) = self.run(&Device::Reference);
        let weighed = |name: &str, weights: &Array3<f32>| -> f64 {
            let (_, values) = outcome.iter().find(|(found, _)| found == name).expect("an output");
            values.iter().zip(weights).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum()
        };
        let (y, h, s) = &self.weights;
        weighed("y", y) + weighed("h", h) + s.as_ref().map_or(0.0, |s| weighed("s", s))
    }

    /// Compares every device with the reference.
    fn compare(&self, what: &str) {
        let expected = self.run(&Device::Reference);
        for device in devices() {
            self.run(&device).compare(&expected, &format!("{what} on {device}: {:?}", self.config));
        }
    }
}

impl Outcome {
    fn compare(&self, expected: &Self, what: &str) {
        assert_eq!(self.0.len(), expected.0.len());
        for ((name, got), (expected_name, expected)) in self.0.iter().zip(&expected.0) {
            assert_eq!((name, got.len()), (expected_name, expected.len()));
            let largest = expected.iter().fold(1e-3_f32, |most, x| most.max(x.abs()));
            for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
                let error = (got - expected).abs() / largest;
                assert!(error < 1e-5, "{what}: {name}[{at}] is {got}, not {expected}");
            }
        }
    }
}

fn flat(array: &Array3<f32>) -> Vec<f32> {
    array.iter().copied().collect()
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
        LstmCell { projection: Some(3), bias: false, ..Default::default() }.into(),
        LstmCell { projection: Some(5), peephole: true, ..Default::default() }.into(),
        GruCell::default().into(),
        GruCell::LECTURE.into(),
        GruCell { reset: Reset::Before, gate_clip: Some(0.8), ..Default::default() }.into(),
        GruCell { mix: Mix::TakesNew, bias: false, ..Default::default() }.into(),
    ];
    for activation in Activation::ALL.into_iter().chain([Activation::HARD_SIGMOID_KERAS3]) {
        cells.push(RnnCell { activation, ..Default::default() }.into());
        cells.push(LstmCell { candidate: activation, output: activation, ..Default::default() }.into());
        cells.push(GruCell { candidate: activation, reset: Reset::Before, ..Default::default() }.into());
    }
    cells
}

/// One cell of each kind, with the options that affect the state most.
fn three() -> [Cell; 4] {
    [
        RnnCell::default().into(),
        LstmCell { peephole: true, projection: Some(4), ..Default::default() }.into(),
        GruCell::default().into(),
        GruCell::LECTURE.into(),
    ]
}

fn mask() -> Array2<bool> {
    Array2::from_shape_fn((TIME, BATCH), |(t, b)| (t + 2 * b) % 3 != 0)
}

fn reset() -> Array2<bool> {
    Array2::from_shape_fn((TIME, BATCH), |(t, b)| (t + b) % 4 == 1)
}

fn lengths() -> Vec<usize> {
    (0..BATCH).map(|b| (5 * b) % (TIME + 1)).collect()
}

fn noise() -> Noise {
    Noise { seed: 3 << 33, step: 5, dropout: 0.3, recurrent_dropout: 0.25, zoneout_h: 0.2, zoneout_s: 0.4 }
}

#[test]
fn every_cell_agrees_with_the_reference() {
    for (seed, cell) in (0..).zip(cells()) {
        Problem::new(Config::new(cell, INPUT, HIDDEN), Sequence::new(), seed).compare("plain");
    }
}

#[test]
fn layers_directions_and_merges_agree() {
    for cell in three() {
        let plain = Config::new(cell, INPUT, HIDDEN);
        let mut configs = vec![plain.clone().layers(3), plain.clone().reverse()];
        for merge in [Merge::Concat, Merge::Sum, Merge::Mul, Merge::Ave] {
            configs.push(plain.clone().layers(2).bidirectional(merge));
        }
        for (seed, config) in (20..).zip(configs) {
            Problem::new(config, Sequence::new(), seed).compare("stack");
        }
    }
}

#[cfg(feature = "gpu")]
#[test]
fn every_schedule_of_the_gpu_agrees() {
    for (cell, [input, hidden]) in three().into_iter().flat_map(|cell| SIZES.map(|sizes| (cell, sizes))) {
        let config = Config::new(cell, input, hidden).layers(2).bidirectional(Merge::Mul);
        let mut problem = Problem::new(config, Sequence::new().mask(mask()).reset(reset()).pad(Pad::Hold), 50);
        problem.options = TrainingOptions { noise: noise(), recurrent_clip: Some(0.3), checkpoint: None };
        let expected = problem.run(&Device::Reference);
        for device in gpus() {
            problem.run(device).compare(&expected, &format!("schedule on {device}: {hidden} of {cell:?}"));
        }
    }
}

#[test]
fn lengths_masks_resets_and_padding_agree() {
    let sequences = [
        Sequence::new().lengths(lengths()),
        Sequence::new().mask(mask()).pad(Pad::Hold),
        Sequence::new().mask(mask()).reset(reset()).pad(Pad::Hold),
        Sequence::new().lengths(lengths()).reset(reset()),
    ];
    for cell in three() {
        for (seed, sequence) in (40..).zip(&sequences) {
            let config = Config::new(cell, INPUT, HIDDEN).layers(2).bidirectional(Merge::Concat);
            Problem::new(config, sequence.clone(), seed).compare("sequence");
        }
    }
}

#[test]
fn noise_and_the_recurrent_clip_agree_on_every_path() {
    for cell in three() {
        let config = Config::new(cell, INPUT, HIDDEN).layers(2).bidirectional(Merge::Concat);
        let mut problem = Problem::new(config, Sequence::new().mask(mask()).reset(reset()), 60);
        let plain = problem.run(&Device::Reference);
        problem.options.noise = noise();
        problem.compare("noise");
        let noisy = problem.run(&Device::Reference);
        assert_ne!(plain.0[0].1, noisy.0[0].1, "noise changes the output");
        problem.options.recurrent_clip = Some(0.05);
        problem.compare("noise and clip");
        let clipped = problem.run(&Device::Reference);
        let gradient = |outcome: &Outcome| outcome.0.iter().find(|(name, _)| name == "dx").map(|(_, d)| d.clone());
        assert_eq!(noisy.0[0].1, clipped.0[0].1, "a clip of the gradient leaves the output");
        assert_ne!(gradient(&noisy), gradient(&clipped), "it changes the gradient");
    }
}

#[test]
fn a_sequence_without_steps_hands_the_states_gradient_through() {
    for device in [Device::Reference].into_iter().chain(devices()) {
        let problem = Problem::of_time(Config::new(LstmCell::default().into(), INPUT, HIDDEN), Sequence::new(), 0, 1);
        let Outcome(outcome) = problem.run(&device);
        let of = |name: &str| outcome.iter().find(|(found, _)| found == name).map(|(_, values)| values.clone());
        assert_eq!(of("d state h"), Some(flat(&problem.weights.1)));
        assert_eq!(of("d state s"), problem.weights.2.as_ref().map(flat));
        assert!(outcome.iter().filter(|(name, _)| name.contains("weight")).all(|(_, d)| d.iter().all(|&d| d == 0.0)));
    }
}

#[test]
fn gradients_with_noise_agree_with_central_differences() {
    const STEP: f32 = 1.0 / 64.0;
    for cell in three() {
        let config = Config::new(cell, INPUT, HIDDEN).layers(2);
        let mut problem = Problem::new(config, Sequence::new().mask(mask()).reset(reset()).pad(Pad::Hold), 70);
        problem.options.noise = noise();
        let Outcome(outcome) = problem.run(&Device::Reference);
        let of = |name: &str| &outcome.iter().find(|(found, _)| found == name).expect("a gradient").1;
        let compare = |name: &str, at: usize, element: &dyn Fn(&mut Problem) -> &mut f32| {
            let difference = |step: f32| {
                let mut moved = problem.clone();
                *element(&mut moved) += step;
                let above = moved.loss();
                *element(&mut moved) -= 2.0 * step;
                (above - moved.loss()) / f64::from(2.0 * step)
            };
            // Richardson: the error of order step^2 cancels out.
            let expected = (4.0 * difference(STEP / 2.0) - difference(STEP)) / 3.0;
            let got = f64::from(of(name)[at]);
            assert!(
                (got - expected).abs() < 2e-3 * expected.abs().max(1.0),
                "{cell:?}: {name}[{at}] {got}, {expected}"
            );
        };
        for at in (0..TIME * BATCH * INPUT).step_by(37) {
            compare("dx", at, &|p| p.x.iter_mut().nth(at).expect("an element"));
        }
        let rows = problem.parameters[0][0].weight_hh.len();
        for at in (0..rows).step_by(11) {
            compare("d 0 Forward weight_hh", at, &|p| p.parameters[0][0].weight_hh.iter_mut().nth(at).expect("one"));
        }
        for at in (0..BATCH * problem.h.dim().2).step_by(5) {
            // The sequence begins with the state, and a reset returns to it.
            let both = f64::from(of("d state h")[at] + of("d initial h")[at]);
            let mut moved = problem.clone();
            let mut loss = |step: f32| {
                *moved.h.iter_mut().nth(at).expect("one") += step;
                moved.loss()
            };
            let expected = (loss(STEP) - loss(-2.0 * STEP)) / f64::from(2.0 * STEP);
            assert!((both - expected).abs() < 5e-3 * expected.abs().max(1.0), "{cell:?}: h[{at}] {both}, {expected}");
        }
    }
}

#[test]
fn checkpoints_give_the_same_bits() {
    for device in devices() {
        // The CPU path's chunks are whole groups of 64 steps.
        let (time, checkpoints) = if device.to_string().contains("cpu") { (150, [1, 80]) } else { (9, [1, 4]) };
        for (cell, [input, hidden]) in three().into_iter().flat_map(|cell| SIZES.map(|sizes| (cell, sizes))) {
            let config = Config::new(cell, input, hidden).layers(2).bidirectional(Merge::Mul);
            let sequence = Sequence::new().lengths((0..BATCH).map(|b| 7 * b % (time + 1))).pad(Pad::Hold);
            let mut problem = Problem::of_time(config, sequence, time, 90);
            problem.options.noise = noise();
            let bits = |problem: &Problem| -> Vec<(String, Vec<u32>)> {
                let of = |(name, values): (String, Vec<f32>)| (name, values.into_iter().map(f32::to_bits).collect());
                problem.run(&device).0.into_iter().map(of).collect()
            };
            let whole = bits(&problem);
            for checkpoint in checkpoints {
                problem.options.checkpoint = Some(checkpoint);
                for ((name, got), (_, expected)) in bits(&problem).iter().zip(&whole) {
                    assert_eq!(
                        got, expected,
                        "{name} with a checkpoint every {checkpoint} steps on {device}: {cell:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let config = Config::new(GruCell::default().into(), INPUT, 40).layers(2).bidirectional(Merge::Mul);
    let problem = Problem::of_time(config, Sequence::new(), 30, 5);
    let of = |threads: usize| {
        let options = gatewise::cpu::CpuOptions { threads: Some(threads), ..Default::default() };
        problem.run(&Device::cpu_with(&options).expect("threads")).0
    };
    let bits = |outcome: Vec<(String, Vec<f32>)>| -> Vec<u32> {
        outcome.iter().flat_map(|(_, values)| values.iter().map(|x| x.to_bits())).collect()
    };
    let one = bits(of(1));
    for threads in [2, 3] {
        assert_eq!(one, bits(of(threads)), "{threads} threads");
    }
}

#[test]
fn the_trained_stack_frozen_is_the_stack() {
    for device in [Device::Reference].into_iter().chain(devices()) {
        let config = Config::new(LstmCell::default(), INPUT, HIDDEN).layers(2);
        let parameters = config.random_parameters(3).expect("parameters");
        let stack = config.trainable(&device, &parameters).expect("a stack");
        let x = Tensor::from_array(
            &device,
            &Array3::from_shape_fn((4, 2, INPUT), |(t, b, i)| ((t + 3 * b + i) as f32).sin()),
        );
        let x = x.expect("an upload");
        let (mut a, mut b) = (stack.zero_state(2).expect("a state"), stack.zero_state(2).expect("a state"));
        let (y, _) = stack.forward_training(&x, &mut a, &Sequence::new()).expect("a pass");
        let frozen = stack.freeze().expect("a frozen stack").forward(&x, &mut b).expect("a pass");
        for (y, frozen) in y.to_vec().expect("y").iter().zip(frozen.to_vec().expect("y")) {
            assert!((y - frozen).abs() < 1e-6, "{y} {frozen} on {device}");
        }
        assert_eq!(stack.parameters().expect("parameters"), parameters);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let config = Config::new(LstmCell::default(), INPUT, HIDDEN);
    let parameters = config.random_parameters(3).expect("parameters");
    let device = Device::Cpu;
    let mut stack = config.trainable(&device, &parameters).expect("a stack");
    let mut state = stack.zero_state(2).expect("a state");
    let tensor = |shape: &[usize]| Tensor::zeros(&device, shape).expect("zeros");
    let (_, tape) = stack.forward_training(&tensor(&[3, 2, INPUT]), &mut state, &Sequence::new()).expect("a pass");
    let state_gradient = |h: &[usize], s: Option<&[usize]>| StateGradient { h: tensor(h), s: s.map(tensor) };
    let dy = tensor(&[3, 2, HIDDEN]);
    let messages = [
        tape.backward(&tensor(&[2, 2, HIDDEN]), None).map(|_| ()).expect_err("dy of another length"),
        tape.backward(&dy, Some(&state_gradient(&[1, 2, HIDDEN], None)))
            .map(|_| ())
            .expect_err("no gradient with respect to s"),
        tape.backward(&Tensor::zeros(&Device::Reference, &[3, 2, HIDDEN]).expect("zeros"), None)
            .map(|_| ())
            .expect_err("dy of another device"),
        stack.replace([tensor(&[2])]).expect_err("too few parameters"),
        config
            .clone()
            .weight_type(gatewise::cell::WeightType::F16)
            .trainable(&device, &parameters)
            .map(|_| ())
            .expect_err("narrow weights"),
        stack
            .record_training(
                &mut device.recorder(),
                &tensor(&[3, 2, INPUT]),
                &mut state,
                &Sequence::new(),
                &TrainingOptions { recurrent_clip: Some(0.0), ..Default::default() },
            )
            .map(|_| ())
            .expect_err("a clip of zero"),
    ]
    .map(|error| error.to_string());
    for (message, words) in messages.iter().zip([
        "dy must be [3, 2, 7]",
        "the gradient with respect to s",
        "lives on reference",
        "parameters",
        "F16",
        "recurrent_clip",
    ]) {
        assert!(message.contains(words), "{message}");
    }
}

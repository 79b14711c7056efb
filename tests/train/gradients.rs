//! Every operation of a graph: gradients of the reference compared with central differences, and results and gradients of the
//! other paths compared with those of the reference.

use std::rc::Rc;

use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Noise, RnnCell, Sequence};
use gatewise::nn::{Config, Merge, TrainingOptions};
use gatewise::ops::{Conv1dGeometry, Slice};
use gatewise::train::{
    CrossEntropyOptions, Graph, LossOptions, Mode, ParameterId, Parameters, RecurrentModule, Reduce, Var,
};
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array2, ArrayD, IxDyn};

use crate::{assert_close, devices, upload};

type Build = Rc<dyn Fn(&mut Graph, &[Var]) -> Result<Var>>;

/// Makes the parameters of a case on a device, and the function of them.
type OnDevice = Box<dyn Fn(&Device) -> (Parameters, Build)>;

/// A function of several arrays. Its gradient is the gradient of a weighted sum of its results.
struct Case {
    name: String,
    /// The variables, followed by the values of the parameters.
    inputs: Vec<ArrayD<f32>>,
    make: OnDevice,
}

/// The result and the gradients of a case.
struct Outcome {
    y: Vec<f32>,
    gradients: Vec<Vec<f32>>,
}

fn random(seed: u64, shape: &[usize], scale: f32) -> ArrayD<f32> {
    let mut rng = fastrand::Rng::with_seed(seed);
    ArrayD::from_shape_simple_fn(IxDyn(shape), || scale * (2.0 * rng.f32() - 1.0))
}

fn case(
    name: impl Into<String>,
    shapes: &[&[usize]],
    build: impl Fn(&mut Graph, &[Var]) -> Result<Var> + 'static,
) -> Case {
    let build: Build = Rc::new(build);
    Case::of(name, shapes, move |device| (Parameters::new(device, 5), Rc::clone(&build)))
}

impl Case {
    fn of(
        name: impl Into<String>,
        shapes: &[&[usize]],
        make: impl Fn(&Device) -> (Parameters, Build) + 'static,
    ) -> Self {
        let inputs = (0..).zip(shapes).map(|(at, shape)| random(11 + at, shape, 1.3)).collect();
        Self { name: name.into(), inputs, make: Box::new(make) }
    }

    fn run(&self, device: &Device, inputs: &[ArrayD<f32>]) -> Result<Outcome> {
        let (mut parameters, build) = (self.make)(device);
        let (given, values) = inputs.split_at(inputs.len() - parameters.len());
        let names: Vec<String> = parameters.named().map(|(name, _)| name.to_owned()).collect();
        let ids: Vec<ParameterId> = names.iter().filter_map(|name| parameters.find(name)).collect();
        for (&id, value) in ids.iter().zip(values) {
            parameters.set(id, upload(device, value))?;
        }
        let mut graph = Graph::new(&parameters, Mode::Training { seed: 3, step: 8 });
        let vars: Vec<Var> = given.iter().map(|input| graph.variable(&upload(device, input))).collect();
        let y = build(&mut graph, &vars)?;
        let value = graph.value(y)?.clone();
        let weights = graph.input(&upload(device, &random(77, value.shape(), 1.0)));
        let weighed = graph.mul(y, weights)?;
        let loss = graph.sum(weighed)?;
        let gradients = graph.backward(loss)?;
        graph.submit()?;
        let by_variable = vars.iter().map(|&var| gradients.var(var));
        let by_parameter = ids.iter().map(|&id| gradients.parameter(id));
        let read = |tensor: Option<&Tensor>| tensor.map_or_else(|| Ok(Vec::new()), Tensor::to_vec);
        Ok(Outcome { y: value.to_vec()?, gradients: by_variable.chain(by_parameter).map(read).collect::<Result<_>>()? })
    }

    /// The weighted sum in `f64`, from the results of a device in `f32`.
    fn sum(&self, device: &Device, inputs: &[ArrayD<f32>]) -> f64 {
        let y = self.run(device, inputs).expect("a run").y;
        let weights = random(77, &[y.len()], 1.0);
        y.iter().zip(&weights).map(|(&y, &w)| f64::from(y) * f64::from(w)).sum()
    }

    fn check(&self) {
        let expected = self.run(&Device::Reference, &self.inputs).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        // Only a sample of each input is tested. A stack has many parameters, which other tests cover.
        let sampled = if (self.make)(&Device::Reference).0.is_empty() { 12 } else { 2 };
        self.check_differences(&Device::Reference, &expected, sampled);
        for device in devices().iter().filter(|device| !matches!(device, Device::Reference)) {
            let what = format!("{} on {device}", self.name);
            let got = self.run(device, &self.inputs).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_close(&what, &got.y, &expected.y, 2e-5);
            for (at, (got, expected)) in got.gradients.iter().zip(&expected.gradients).enumerate() {
                assert_close(&format!("{what}, gradient {at}"), got, expected, 5e-5);
            }
        }
    }

    /// Compares `sampled` gradients of every input with central differences of the same device.
    fn check_differences(&self, device: &Device, outcome: &Outcome, sampled: usize) {
        const STEP: f32 = 1e-2;
        for (at, gradient) in outcome.gradients.iter().enumerate() {
            assert_eq!(gradient.len(), self.inputs[at].len(), "{}: gradient {at}", self.name);
            let largest = gradient.iter().fold(0.1_f64, |most, &d| most.max(f64::from(d).abs()));
            let every = gradient.len().div_ceil(sampled).max(1);
            for element in (0..gradient.len()).step_by(every) {
                let moved = |by: f32| {
                    let mut inputs = self.inputs.clone();
                    if let Some(x) = inputs[at].iter_mut().nth(element) {
                        *x += by;
                    }
                    self.sum(device, &inputs)
                };
                let difference = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
                let error = (difference - f64::from(gradient[element])).abs();
                let found = gradient[element];
                assert!(
                    error < 2e-3 * largest,
                    "{}: gradient {at}[{element}] is {found}, by differences {difference}",
                    self.name
                );
            }
        }
    }
}

#[test]
fn affine_maps_and_convolutions() {
    case("linear", &[&[5, 3], &[4, 3], &[4]], |g, v| g.linear(v[0], v[1], Some(v[2]))).check();
    case("linear without bias", &[&[2, 3, 5], &[4, 5]], |g, v| g.linear(v[0], v[1], None)).check();
    case("linear, many rows", &[&[70, 9], &[66, 9], &[66]], |g, v| g.linear(v[0], v[1], Some(v[2]))).check();
    for (stride, padding) in [(1, 0), (2, 1), (3, 2), (1, 4)] {
        let geometry = Conv1dGeometry { stride, padding };
        let shapes: [&[usize]; 3] = [&[2, 3, 11], &[4, 3, 3], &[4]];
        let name = format!("conv1d, stride {stride}, padding {padding}");
        case(name, &shapes, move |g, v| g.conv1d(v[0], v[1], v[2], geometry)).check();
    }
    let geometry = Conv1dGeometry { stride: 1, padding: 1 };
    case("conv1d, long", &[&[3, 2, 90], &[3, 2, 5], &[3]], move |g, v| g.conv1d(v[0], v[1], v[2], geometry)).check();
}

#[test]
fn activations() {
    let others = [
        Activation::LeakyRelu { alpha: 0.3 },
        Activation::ThresholdedRelu { alpha: 0.4 },
        Activation::ScaledTanh { alpha: 1.7, beta: 0.6 },
        Activation::HARD_SIGMOID_KERAS3,
        Activation::HardSigmoid { alpha: 0.9, beta: 0.2 },
        Activation::Elu { alpha: 0.7 },
        Activation::Affine { alpha: 0.6, beta: -0.3 },
    ];
    for activation in Activation::ALL.into_iter().chain(others) {
        let mut case = case(format!("{activation:?}"), &[&[9, 8]], move |g, v| g.activation(activation, v[0]));
        // No activation has a corner within the step of a difference.
        let corners = [0.0, 0.4, 1.0, -2.5, 2.5, -3.0, 3.0, -0.2222, 0.8889];
        let shift = |x: &f32| if corners.iter().any(|c: &f32| (c - x).abs() < 0.02) { x + 0.05 } else { *x };
        case.inputs[0] = case.inputs[0].map(|x| shift(&shift(&(x * 3.0))));
        case.check();
    }
}

#[test]
fn elements_and_layout() {
    let shapes: [&[usize]; 2] = [&[3, 4], &[3, 4]];
    case("add", &shapes, |g, v| g.add(v[0], v[1])).check();
    case("mul", &shapes, |g, v| g.mul(v[0], v[1])).check();
    case("a value used three times", &[&[3, 4]], |g, v| {
        let square = g.mul(v[0], v[0])?;
        g.add(square, v[0])
    })
    .check();
    case("scale", &[&[7]], |g, v| g.scale(v[0], -2.5)).check();
    case("reshape and permute", &[&[2, 3, 4]], |g, v| {
        let x = g.permute(v[0], &[2, 0, 1])?;
        g.reshape(x, &[8, 3])
    })
    .check();
    case("concat", &[&[2, 3], &[2, 1], &[2, 4]], |g, v| g.concat(v, 1)).check();
    case("slice", &[&[3, 7]], |g, v| g.slice(v[0], Slice { axis: 1, start: 5, step: -2, count: 3 })).check();
    case("embedding", &[&[6, 5]], |g, v| g.embedding(v[0], &[2, 0, 2, 5, 2, 0, 1])).check();
    case("embedding, large", &[&[40, 9]], |g, v| {
        let symbols: Vec<usize> = (0..150).map(|at| (at * at + 3) % 37).collect();
        g.embedding(v[0], &symbols)
    })
    .check();
    case("dropout", &[&[9, 8]], |g, v| g.dropout(v[0], 0.4)).check();
    case("a sum beside others", &[&[5000]], |g, v| {
        let sum = g.sum(v[0])?;
        g.mul(sum, sum)
    })
    .check();
}

#[test]
fn steps_of_sequences() {
    let lengths = || Sequence::new().lengths([6, 1, 4]);
    let mask = || {
        let mask = Array2::from_shape_fn((6, 3), |(t, b)| (t + b) % 3 != 2 && t + 2 * b < 8);
        Sequence::new().mask(mask)
    };
    for sequence in [Sequence::new(), lengths(), mask()] {
        let other = sequence.clone();
        case("last step", &[&[6, 3, 5]], move |g, v| g.last_step(v[0], &sequence)).check();
        case("mean over steps", &[&[6, 3, 5]], move |g, v| g.mean_over_steps(v[0], &other)).check();
    }
}

#[test]
fn losses() {
    for reduce in [Reduce::Mean, Reduce::Sum] {
        let options = CrossEntropyOptions::default().reduce(reduce).ignore_index(-1);
        let name = format!("cross entropy, {reduce:?}");
        case(name, &[&[2, 3, 5]], move |g, v| g.cross_entropy(v[0], &[4, -1, 0, 2, 2, -1], &options)).check();
        let name = format!("cross entropy of many classes, {reduce:?}");
        let targets: Vec<i64> = (0..70).map(|row| (row * 31) % 130).collect();
        case(name, &[&[70, 130]], move |g, v| g.cross_entropy(v[0], &targets, &options)).check();

        let mask = Array2::from_shape_fn((4, 3), |(t, b)| t + b < 4 && t != 1);
        for loss in [LossOptions::default().reduce(reduce), LossOptions::masked(&mask).reduce(reduce)] {
            let goal = |g: &Graph| Ok::<_, Error>(upload(g.device(), &random(5, &[4, 3, 2], 0.5).mapv(|y| y + 0.5)));
            let other = loss.clone();
            let name = format!("mean squared error, {loss:?}");
            case(name, &[&[4, 3, 2]], move |g, v| g.mean_squared_error(v[0], &goal(g)?, &other)).check();
            let name = format!("binary cross entropy, {loss:?}");
            case(name, &[&[4, 3, 2]], move |g, v| g.binary_cross_entropy(v[0], &goal(g)?, &loss)).check();
        }
    }
}

/// Losses and gradients of PyTorch, at scores where a plain formula overflows.
#[test]
fn losses_are_pytorchs() {
    let file = super::pytorch();
    let get = |name: &str| file.get::<IxDyn>(name).expect("a tensor");
    let targets: Vec<i64> = get("loss.targets").iter().map(|&target| target as i64).collect();
    for device in devices() {
        for (name, reduce) in [("mean", Reduce::Mean), ("sum", Reduce::Sum)] {
            for loss in ["cross_entropy", "binary", "squared"] {
                let parameters = Parameters::new(&device, 1);
                let mut graph = Graph::new(&parameters, Mode::Evaluation);
                let x = get(if loss == "cross_entropy" { "loss.x" } else { "loss.logits" });
                let x = graph.variable(&upload(&device, &x));
                let (goals, options) = (upload(&device, &get("loss.goals")), LossOptions::default().reduce(reduce));
                let value = match loss {
                    "cross_entropy" => {
                        let options = CrossEntropyOptions::default().reduce(reduce);
                        graph.cross_entropy(x, &targets, &options)
                    }
                    "binary" => graph.binary_cross_entropy(x, &goals, &options),
                    _ => graph.mean_squared_error(x, &goals, &options),
                }
                .expect("a loss");
                let tensor = graph.value(value).expect("its own").clone();
                let gradients = graph.backward(value).expect("a backward pass");
                graph.submit().expect("a submission");
                let what = format!("{loss} {name} on {device}");
                let read = |tensor: &Tensor| tensor.to_vec().expect("a read-back");
                let expected = get(&format!("loss.{loss}.{name}"));
                assert_close(&what, &read(&tensor), &expected.into_raw_vec_and_offset().0, 1e-5);
                let expected = get(&format!("loss.{loss}.{name}.gradient"));
                let got = read(gradients.var(x).expect("a gradient"));
                assert_close(&format!("gradient of {what}"), &got, &expected.into_raw_vec_and_offset().0, 1e-5);
            }
        }
    }
}

/// Gradients of a recurrent stack in a graph with respect to its parameters, its input and its state.
fn recurrent(config: &Config<Cell>, sequence: Sequence, from_state: bool) -> Case {
    let has_s = config.zero_state(&Device::Cpu, 3).expect("a state").to_s().expect("s").is_some();
    let rows = config.parameter_places().iter().filter(|place| place.name == "weight_hh").count();
    let shapes: [&[usize]; 3] = [&[5, 3, 2], &[rows, 3, 4], &[rows, 3, 4]];
    let used = if !from_state { 1 } else { 2 + usize::from(has_s) };
    let options = TrainingOptions {
        noise: Noise { dropout: 0.2, recurrent_dropout: 0.2, ..Noise::default() },
        ..TrainingOptions::default()
    };
    let name = format!("recurrent, from a state: {from_state}, {config:?}");
    let config = config.clone();
    let mut case = Case::of(name, &shapes[..used], move |device| {
        let mut parameters = Parameters::new(device, 9);
        let stack = RecurrentModule::new(&mut parameters, "rnn.", &config).expect("a stack");
        let sequence = sequence.clone();
        let build = move |g: &mut Graph, v: &[Var]| {
            if !from_state {
                return stack.forward(g, v[0], None, &sequence, &options);
            }
            let stepped = stack.forward_from(g, v[0], (v[1], v.get(2).copied()), &sequence, &options)?;
            let parts = [Some(stepped.y), Some(stepped.h), stepped.s].into_iter().flatten();
            let flat = |var| {
                let len = g.value(var)?.len();
                g.reshape(var, &[len])
            };
            let parts = parts.map(flat).collect::<Result<Vec<_>>>()?;
            g.concat(&parts, 0)
        };
        (parameters, Rc::new(build))
    });
    let (parameters, _) = (case.make)(&Device::Cpu);
    case.inputs.extend(parameters.named().map(|(_, tensor)| tensor.to_array().expect("a read-back")));
    case
}

fn plain_cells() -> [Cell; 3] {
    [RnnCell::default().into(), LstmCell::default().into(), GruCell::default().into()]
}

#[test]
fn recurrent_stacks() {
    let lengths = Sequence::new().lengths([5, 2, 4]);
    let reset = Sequence::new().reset(Array2::from_shape_fn((5, 3), |(t, b)| t == 2 && b != 1));
    let [rnn, lstm, gru] = plain_cells();
    for from_state in [false, true] {
        let lstm = Config::new(lstm, 2, 4).layers(2).bidirectional(Merge::Concat);
        recurrent(&lstm, lengths.clone(), from_state).check();
        recurrent(&Config::new(gru, 2, 4).layers(2), reset.clone(), from_state).check();
        recurrent(&Config::new(rnn, 2, 4), Sequence::new(), from_state).check();
    }
}

/// Gradients with respect to every number of parameters, input and state, by central differences alone.
#[test]
fn gradients_on_the_gpu_are_the_slopes_of_its_own_results() {
    let gpu = devices().into_iter().find(|device| matches!(device, Device::Gpu(_))).expect("a GPU");
    for cell in plain_cells() {
        let case = recurrent(&Config::new(cell, 2, 4), Sequence::new().lengths([5, 2, 4]), true);
        let outcome = case.run(&gpu, &case.inputs).expect("a run");
        case.check_differences(&gpu, &outcome, usize::MAX);
    }
}

/// Masks depend on seed and step, not on the device.
#[test]
fn masks_follow_seed_and_step() {
    let draw = |device: &Device, mode: Mode| -> Result<Vec<Vec<f32>>> {
        let parameters = Parameters::new(device, 1);
        let mut graph = Graph::new(&parameters, mode);
        let x = graph.input(&upload(device, &ArrayD::ones(IxDyn(&[40, 10]))));
        let (a, b) = (graph.dropout(x, 0.3)?, graph.dropout(x, 0.3)?);
        let values = [a, b].map(|var| graph.value(var).expect("its own").clone());
        graph.submit()?;
        values.iter().map(Tensor::to_vec).collect()
    };
    let training = |seed, step| Mode::Training { seed, step };
    let expected = draw(&Device::Reference, training(7, 2)).expect("masks");
    let kept = expected[0].iter().filter(|&&x| x > 0.0).count();
    assert!((240..320).contains(&kept), "{kept} of 400");
    assert_ne!(expected[0], expected[1], "two operations of one graph");
    for device in devices() {
        assert_eq!(draw(&device, training(7, 2)).expect("masks"), expected, "{device}");
        assert_ne!(draw(&device, training(7, 3)).expect("masks"), expected, "{device}");
        assert_ne!(draw(&device, training(8, 2)).expect("masks"), expected, "{device}");
    }
    let still = draw(&Device::Cpu, Mode::Evaluation).expect("no masks");
    assert!(still.iter().flatten().all(|&x| x == 1.0));
}

/// A gradient reaches the parameters that a loss depends on, and no other.
#[test]
fn what_a_loss_does_not_depend_on_has_no_gradient() {
    let mut parameters = Parameters::new(&Device::Cpu, 1);
    let [a, b, c] = ["a", "b", "c"].map(|name| parameters.uniform(name, &[3], 1.0).expect("a parameter"));
    let mut graph = Graph::new(&parameters, Mode::Evaluation);
    let [a_var, b_var] = [a, b].map(|id| graph.parameter(id).expect("a leaf"));
    let _unused = graph.mul(a_var, b_var).expect("a product");
    let loss = graph.sum(a_var).expect("a sum");
    let gradients = graph.backward(loss).expect("a backward pass");
    assert_eq!(gradients.parameter(a).expect("a gradient").to_vec().expect("ones"), [1.0; 3]);
    assert!(gradients.parameter(b).is_none() && gradients.parameter(c).is_none());
}

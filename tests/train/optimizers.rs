//! Update rules, clipping and schedules compared with PyTorch's, step by step.

use gatewise::train::{
    Adam, Clip, Graph, Mode, Optimizer, ParameterId, Parameters, Plateau, RmsProp, Rule, Schedule, Sgd,
};
use gatewise::{Device, Tensor};
use ndarray::{Array1, ArrayD, Axis, Ix1, IxDyn};

use crate::{assert_close, devices, pytorch, upload};

fn rules() -> Vec<(&'static str, Rule, f64)> {
    let sgd = Sgd::default();
    let rms_prop = RmsProp::default();
    let adam = Adam::default();
    let with_decay = RmsProp { momentum: 0.7, weight_decay: 0.05, ..rms_prop };
    vec![
        ("sgd", sgd.into(), 0.1),
        ("sgd_decay", Sgd { weight_decay: 0.05, ..sgd }.into(), 0.1),
        ("momentum", Sgd { momentum: 0.9, ..sgd }.into(), 0.1),
        ("momentum_dampening", Sgd { momentum: 0.8, dampening: 0.3, weight_decay: 0.05, ..sgd }.into(), 0.1),
        ("nesterov", Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.05, ..sgd }.into(), 0.1),
        ("rmsprop", RmsProp { alpha: 0.9, eps: 1e-6, ..rms_prop }.into(), 0.01),
        ("rmsprop_momentum", with_decay.into(), 0.01),
        ("rmsprop_centered", RmsProp { centered: true, ..rms_prop }.into(), 0.01),
        ("rmsprop_both", RmsProp { centered: true, ..with_decay }.into(), 0.01),
        ("adam", Adam { betas: [0.8, 0.95], eps: 1e-6, ..adam }.into(), 0.05),
        ("adam_decay", Adam { weight_decay: 0.05, ..adam }.into(), 0.05),
        ("adam_amsgrad", Adam { betas: [0.9, 0.5], amsgrad: true, ..adam }.into(), 0.05),
        ("adamw", Adam::W.into(), 0.05),
        ("adamw_amsgrad", Adam { weight_decay: 0.2, amsgrad: true, ..Adam::W }.into(), 0.05),
    ]
}

/// A run over given gradients: the loss is the sum of each parameter times its gradient.
struct OptimizerRun {
    parameters: Parameters,
    ids: [ParameterId; 2],
    gradients: [ArrayD<f32>; 2],
    optimizer: Optimizer,
    rate: f64,
}

const NAMES: [&str; 2] = ["a", "b"];

impl OptimizerRun {
    fn new(device: &Device, rule: Rule, rate: f64, clip: Clip) -> Self {
        let file = pytorch();
        let mut parameters = Parameters::new(device, 1);
        let ids = NAMES.map(|name| {
            let start: ArrayD<f32> = file.get(&format!("start.{name}")).expect("a start");
            parameters.add(name, &start).expect("a parameter")
        });
        let gradients = NAMES.map(|name| file.get::<IxDyn>(&format!("gradients.{name}")).expect("gradients"));
        let optimizer = Optimizer::new(rule).expect("a rule").clip(clip).expect("limits");
        Self { parameters, ids, gradients, optimizer, rate }
    }

    fn step(&mut self, step: usize) {
        let device = self.parameters.device().clone();
        let mut graph = Graph::new(&self.parameters, Mode::Evaluation);
        let parts = [0, 1].map(|at| {
            let gradient = upload(&device, &self.gradients[at].index_axis(Axis(0), step).to_owned());
            let (p, gradient) = (graph.parameter(self.ids[at]).expect("a leaf"), graph.input(&gradient));
            let product = graph.mul(p, gradient).expect("a product");
            graph.sum(product).expect("a sum")
        });
        let loss = graph.add(parts[0], parts[1]).expect("a loss");
        self.optimizer.step(graph, loss, &mut self.parameters, self.rate).expect("a step");
    }

    fn values(&self) -> [Vec<f32>; 2] {
        self.ids.map(|id| self.parameters.get(id).expect("a parameter").to_vec().expect("a read-back"))
    }

    /// Makes all steps and compares each with PyTorch's; returns the norms.
    fn compare(&mut self, what: &str, key: &str) -> Vec<f32> {
        let file = pytorch();
        let after = NAMES.map(|name| file.get::<IxDyn>(&format!("{key}.{name}")).expect("steps"));
        let mut norms = Vec::new();
        for step in 0..after[0].len_of(Axis(0)) {
            self.step(step);
            for (values, after) in self.values().iter().zip(&after) {
                let expected: Vec<f32> = after.index_axis(Axis(0), step).iter().copied().collect();
                assert_close(&format!("{what}, step {step}"), values, &expected, 4e-6);
            }
            let report = self.optimizer.report().expect("finite numbers").expect("a step");
            norms.push(report.1);
        }
        norms
    }
}

#[test]
fn rules_are_pytorchs() {
    for device in devices() {
        for (name, rule, rate) in rules() {
            let mut run = OptimizerRun::new(&device, rule, rate, Clip::default());
            run.compare(&format!("{name} on {device}"), &format!("after.{name}"));
        }
    }
}

#[test]
fn clipping_is_pytorchs() {
    let file = pytorch();
    for device in devices() {
        let both = Clip { value: Some(0.4), norm: Some(0.9) };
        for (name, clip) in [("norm", Clip::norm(1.5)), ("value", Clip::value(0.4)), ("both", both)] {
            let momentum = Sgd { momentum: 0.9, ..Sgd::default() }.into();
            let what = format!("clip by {name} on {device}");
            let norms = OptimizerRun::new(&device, momentum, 0.1, clip).compare(&what, &format!("clipped.{name}"));
            let expected: Array1<f32> = file.get(&format!("norms.{name}")).expect("norms");
            assert_close(&what, &norms, expected.as_slice().expect("contiguous"), 2e-6);
        }
    }
}

/// Every path computes the same in its own precision: after one step they differ only by rounding.
#[test]
fn a_parameter_larger_than_a_workgroup_moves_alike_on_every_path() {
    for (name, rule, rate) in rules() {
        let run = |device: &Device| -> Vec<Vec<f32>> {
            let mut parameters = Parameters::new(device, 3);
            let id = parameters.uniform("p", &[9, 577], 1.0).expect("a parameter");
            let mut optimizer = Optimizer::new(rule).expect("a rule").clip(Clip::norm(0.5)).expect("a limit");
            let mut after = Vec::new();
            for step in 0..3 {
                let mut graph = Graph::new(&parameters, Mode::Evaluation);
                let p = graph.parameter(id).expect("a leaf");
                let target = Parameters::new(device, 40 + step).uniform_tensor(&[9, 577]);
                let loss = graph.mean_squared_error(p, &target, &Default::default()).expect("a loss");
                optimizer.step(graph, loss, &mut parameters, rate).expect("a step");
                let (loss, norm) = optimizer.report().expect("finite").expect("a step");
                after.push(vec![loss, norm]);
                after.push(parameters.get(id).expect("it").to_vec().expect("a read-back"));
            }
            after
        };
        let expected = run(&Device::Reference);
        for device in devices() {
            for (at, (got, expected)) in run(&device).iter().zip(&expected).enumerate() {
                assert_close(&format!("{name} on {device}, {at}"), got, expected, 2e-5);
            }
        }
    }
}

/// The mean square of a constant gradient equals the square of its mean except for rounding, so their difference may be below 0.
#[test]
fn centered_rms_prop_survives_a_gradient_that_does_not_change() {
    // In f32 the difference is negative for half of 500 gradients somewhere between the steps 130 and 200.
    let (steps, len, alpha) = (250, 500, 0.9);
    let rule: Rule = RmsProp { centered: true, alpha, ..RmsProp::default() }.into();
    for device in devices() {
        let mut parameters = Parameters::new(&device, 5);
        let id = parameters.uniform("p", &[len], 1.0).expect("a parameter");
        let gradient = Parameters::new(&device, 6).uniform_tensor(&[len]);
        let mut optimizer = Optimizer::new(rule).expect("a rule");
        for _ in 0..steps {
            let mut graph = Graph::new(&parameters, Mode::Evaluation);
            let (p, gradient) = (graph.parameter(id).expect("a leaf"), graph.input(&gradient));
            let product = graph.mul(p, gradient).expect("a product");
            let loss = graph.sum(product).expect("a loss");
            optimizer.step(graph, loss, &mut parameters, 1e-9).expect("a step");
        }
        let values = parameters.get(id).expect("it").to_vec().expect("a read-back");
        let odd = values.iter().filter(|p| !p.is_finite()).count();
        assert_eq!(odd, 0, "{odd} parameters are not finite after {steps} steps on {device}");
        optimizer.report().expect("finite numbers");
    }
}

/// An f32 can hold such a norm, but not its square.
#[test]
fn a_large_gradient_is_clipped_alike_on_every_path_and_an_endless_one_refused() {
    let step = |device: &Device, scale: f32| {
        let mut parameters = Parameters::new(device, 5);
        let id = parameters.add("p", &ArrayD::zeros(vec![5000])).expect("a parameter");
        let gradient =
            upload(device, &ArrayD::from_shape_fn(vec![5000], |at| if at[0] % 2 == 0 { scale } else { -1.0 }));
        let mut optimizer = Optimizer::new(Sgd::default()).expect("a rule").clip(Clip::norm(1.0)).expect("a limit");
        let mut graph = Graph::new(&parameters, Mode::Evaluation);
        let (p, gradient) = (graph.parameter(id).expect("a leaf"), graph.input(&gradient));
        let product = graph.mul(p, gradient).expect("a product");
        let loss = graph.sum(product).expect("a loss");
        optimizer.step(graph, loss, &mut parameters, 1.0).expect("recorded");
        let norm = optimizer.report().map(|report| report.expect("a step").1);
        (norm, parameters.get(id).expect("it").to_vec().expect("a read-back"))
    };
    for device in devices() {
        for scale in [2e19, 1e30, 1e36] {
            let (norm, moved) = step(&device, scale);
            let (norm, expected) = (norm.expect("a finite norm"), scale * 50.0);
            assert!((norm / expected - 1.0).abs() < 1e-5, "{device}: norm {norm}, expected {expected}");
            assert_close(&format!("{scale:e} on {device}"), &moved[..1], &[-0.02], 1e-5);
            assert!(moved[1] >= 0.0 && moved[1] < 1e-18, "{device}: {}", moved[1]);
        }
        // 50 times this is beyond f32 on every path, and no parameter moves.
        let (norm, moved) = step(&device, 1e37);
        assert!(matches!(norm, Err(gatewise::Error::Diverged { step: 1, .. })), "{device}: {norm:?}");
        assert!(moved.iter().all(|&p| p == 0.0), "{device}");
    }
}

trait Drawn {
    fn uniform_tensor(self, shape: &[usize]) -> Tensor;
}

impl Drawn for Parameters {
    fn uniform_tensor(mut self, shape: &[usize]) -> Tensor {
        let id = self.uniform("t", shape, 1.0).expect("a tensor");
        self.get(id).expect("it").clone()
    }
}

#[test]
fn schedules_are_pytorchs() {
    let file = pytorch();
    let cosine = Schedule::Cosine { steps: 30, floor: 0.01 };
    let schedules = [
        ("step", Schedule::Step { every: 7, gamma: 0.3 }),
        ("exponential", Schedule::Exponential { gamma: 0.93 }),
        ("cosine", Schedule::Cosine { steps: 15, floor: 0.02 }),
        ("warm_up", Schedule::WarmUp { steps: 6, from: 0.1, then: Box::new(cosine) }),
    ];
    for (name, schedule) in schedules {
        let expected = file.get::<Ix1>(&format!("rates.{name}")).expect("rates");
        for (step, &expected) in (0..).zip(&expected) {
            let rate = schedule.rate(0.5, step);
            assert!((rate - f64::from(expected)).abs() < 1e-7, "{name} {step}: {rate}, expected {expected}");
        }
    }
    assert_eq!(Schedule::Constant.rate(0.5, 1000), 0.5);
}

#[test]
fn a_plateau_is_pytorchs() {
    let file = pytorch();
    let (numbers, expected) = (file.get::<Ix1>("plateau.numbers"), file.get::<Ix1>("rates.plateau"));
    let mut plateau = Plateau::default().factor(0.5).patience(2).threshold(0.01).cooldown(2).floor(0.04);
    for (at, (&number, &expected)) in numbers.expect("numbers").iter().zip(&expected.expect("rates")).enumerate() {
        let rate = plateau.rate(0.5);
        assert!((rate - f64::from(expected)).abs() < 1e-7, "{at}: {rate}, expected {expected}");
        plateau.observe(f64::from(number));
    }
}

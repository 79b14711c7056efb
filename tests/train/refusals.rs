//! Misuse is one clear error that names the place, and changes nothing.

use gatewise::cell::{Activation, Sequence};
use gatewise::nn::{Lstm, TrainingOptions};
use gatewise::ops::{Conv1dGeometry, Slice};
use gatewise::train::{
    Adam, CarriedState, Checkpoint, Clip, CrossEntropyOptions, Graph, LinearModule, LossOptions, Mode, Optimizer,
    Parameters, RecurrentModule, RmsProp, Rule, Sgd, Tbptt, Trainer, Var,
};
use gatewise::{Device, Result, Tensor};
use ndarray::{Array2, ArrayD, IxDyn, array};

use crate::{devices, upload};

fn refused<T>(result: Result<T>, words: &[&str]) {
    let message = match result {
        Ok(_) => panic!("not refused: {words:?}"),
        Err(error) => error.to_string(),
    };
    assert!(words.iter().all(|word| message.contains(word)) && !message.contains('\n'), "{message:?} lacks {words:?}");
}

fn graph(device: &Device) -> Graph {
    Graph::new(&Parameters::new(device, 1), Mode::Evaluation)
}

fn zeros(graph: &mut Graph, shape: &[usize]) -> Var {
    let tensor = upload(graph.device(), &ArrayD::zeros(IxDyn(shape)));
    graph.variable(&tensor)
}

#[test]
fn losses_refuse_what_has_no_loss() {
    for device in devices() {
        let g = &mut graph(&device);
        let options = CrossEntropyOptions::default();
        let x = zeros(g, &[3, 4]);
        refused(g.cross_entropy(x, &[0, 4, 1], &options), &["cross_entropy", "targets", "4 at 1", "4 classes"]);
        refused(g.cross_entropy(x, &[0, -7, 1], &options), &["-7 at 1"]);
        refused(g.cross_entropy(x, &[0, 1], &options), &["targets", "[3]", "[2]"]);
        refused(g.cross_entropy(x, &[-100; 3], &options), &["targets", "not ignored", "3 times -100"]);
        let empty = zeros(g, &[0, 4]);
        refused(g.cross_entropy(empty, &[], &options), &["at least one row", "[0, 4]"]);
        let scalar = zeros(g, &[]);
        refused(g.cross_entropy(scalar, &[0], &options), &["[.., C]", "[]"]);
        let other = upload(&device, &ArrayD::zeros(IxDyn(&[3, 5])));
        refused(g.mean_squared_error(x, &other, &LossOptions::default()), &["mean_squared_error", "[3, 4]", "[3, 5]"]);
        let same = upload(&device, &ArrayD::zeros(IxDyn(&[3, 4])));
        let nothing = LossOptions::masked(&Array2::from_elem((3, 4), false));
        refused(g.binary_cross_entropy(x, &same, &nothing), &["binary_cross_entropy", "mask", "at least one element"]);
        let long = LossOptions::masked(&Array2::from_elem((4, 4), true));
        refused(g.binary_cross_entropy(x, &same, &long), &["mask", "[3, 4]", "[4, 4]"]);
        let none = upload(&device, &ArrayD::zeros(IxDyn(&[0, 4])));
        refused(g.mean_squared_error(empty, &none, &LossOptions::default()), &["at least one element", "[0, 4]"]);
    }
    let (g, elsewhere) = (&mut graph(&Device::Cpu), upload(&Device::Reference, &ArrayD::zeros(IxDyn(&[2]))));
    let x = zeros(g, &[2]);
    refused(g.mean_squared_error(x, &elsewhere, &LossOptions::default()), &["lives on reference", "cpu"]);
}

#[test]
fn operations_name_both_shapes() {
    let g = &mut graph(&Device::Cpu);
    let (x, w) = (zeros(g, &[2, 3]), zeros(g, &[4, 5]));
    refused(g.linear(x, w, None), &["linear", "[.., 5]", "[2, 3]"]);
    refused(g.add(x, w), &["[2, 3]", "[4, 5]"]);
    refused(g.embedding(x, &[0, 2]), &["2 at 1 of a table of 2 rows"]);
    refused(g.dropout(x, 1.0), &["dropout", "below 1"]);
    refused(g.concat(&[x, w], 0), &["concat"]);
    let y = zeros(g, &[3, 2, 4]);
    refused(g.last_step(y, &Sequence::new().lengths([3, 0])), &["last_step", "none in row 1"]);
    refused(g.mean_over_steps(y, &Sequence::new().lengths([0, 3])), &["mean_over_steps", "none in row 0"]);
    refused(g.last_step(x, &Sequence::new()), &["[T, B, W]", "[2, 3]"]);
    refused(g.backward(x), &["loss", "[]", "[2, 3]"]);
    let given = upload(&Device::Cpu, &ArrayD::zeros(IxDyn(&[])));
    let given = g.input(&given);
    refused(g.backward(given), &["loss", "depends on a parameter"]);
}

/// Every operation that takes a value is given two values of another graph: one whose number this graph lacks, and one whose
/// number it has.
#[test]
fn values_of_another_graph_are_refused() {
    let (mut g, other) = (graph(&Device::Cpu), &mut graph(&Device::Cpu));
    let own = zeros(&mut g, &[3, 2, 4]);
    let foreign = [zeros(other, &[3, 2, 4]), zeros(other, &[3, 2, 4])];
    let target = upload(&Device::Cpu, &ArrayD::zeros(IxDyn(&[3, 2, 4])));
    let mut parameters = Parameters::new(&Device::Cpu, 1);
    let stack = RecurrentModule::new(&mut parameters, "a.", &Lstm::config(4, 3)).expect("a stack");
    let (sequence, options) = (Sequence::new(), TrainingOptions::default());
    let words = ["var", "a value of this graph", "another graph"];
    for x in foreign {
        refused(g.value(x).cloned(), &words);
        let weight = zeros(&mut g, &[4, 4]);
        refused(g.linear(x, weight, None), &words);
        refused(g.linear(own, x, None), &words);
        refused(g.linear(own, weight, Some(x)), &words);
        refused(g.embedding(x, &[0]), &words);
        refused(g.conv1d(x, own, own, Conv1dGeometry { stride: 1, padding: 0 }), &words);
        refused(g.activation(Activation::Tanh, x), &words);
        refused(g.dropout(x, 0.5), &words);
        refused(g.reshape(x, &[24]), &words);
        refused(g.permute(x, &[1, 0, 2]), &words);
        refused(g.slice(x, Slice { axis: 0, start: 0, step: 1, count: 1 }), &words);
        refused(g.concat(&[own, x], 0), &words);
        refused(g.add(own, x), &words);
        refused(g.mul(x, own), &words);
        refused(g.scale(x, 2.0), &words);
        refused(g.sum(x), &words);
        refused(g.last_step(x, &sequence), &words);
        refused(g.mean_over_steps(x, &sequence), &words);
        refused(g.cross_entropy(x, &[0; 6], &CrossEntropyOptions::default()), &words);
        refused(g.mean_squared_error(x, &target, &LossOptions::default()), &words);
        refused(g.binary_cross_entropy(x, &target, &LossOptions::default()), &words);
        refused(g.backward(x), &words);
        let mut in_stack = Graph::new(&parameters, Mode::Evaluation);
        refused(stack.forward(&mut in_stack, x, None, &sequence, &options), &words);
        let x_own = zeros(&mut in_stack, &[3, 2, 4]);
        refused(stack.forward_from(&mut in_stack, x_own, (x, Some(x)), &sequence, &options), &words);
    }
    let loss = g.sum(own).expect("a sum");
    let gradients = g.backward(loss).expect("a backward pass");
    assert!(gradients.var(own).is_some() && foreign.iter().all(|&x| gradients.var(x).is_none()));
}

#[test]
fn parameters_have_their_own_names_and_shapes() {
    let mut parameters = Parameters::new(&Device::Cpu, 1);
    let layer = LinearModule::new(&mut parameters, "a.", [3, 2]).expect("a layer");
    refused(LinearModule::new(&mut parameters, "a.", [3, 2]), &["name", "a.weight"]);
    let wrong = Tensor::zeros(&Device::Cpu, &[3, 2]).expect("zeros");
    refused(parameters.set(layer.weight, wrong), &["[2, 3]", "[3, 2]"]);
    let elsewhere = Tensor::zeros(&Device::Reference, &[2, 3]).expect("zeros");
    refused(parameters.set(layer.weight, elsewhere), &["reference"]);
}

#[test]
fn ids_of_other_parameters_are_refused() {
    let new = || {
        let mut parameters = Parameters::new(&Device::Cpu, 1);
        let layer = LinearModule::new(&mut parameters, "a.", [3, 2]).expect("a layer");
        (parameters, layer)
    };
    let ((mut parameters, own), (other, theirs)) = (new(), new());
    assert_ne!(own.weight, theirs.weight);
    let (words, value) = (["id", "one of these parameters", "other parameters"], || {
        upload(&Device::Cpu, &ArrayD::zeros(IxDyn(&[2, 3])))
    });
    for empty in [&parameters, &Parameters::new(&Device::Cpu, 1)] {
        refused(empty.get(theirs.weight).cloned(), &words);
        refused(empty.name(theirs.weight).map(str::to_owned), &words);
        refused(empty.clone().set(theirs.weight, value()), &words);
        let mut graph = Graph::new(empty, Mode::Evaluation);
        refused(graph.parameter(theirs.weight), &["id", "one of the graph's parameters", "other parameters"]);
    }

    // A clone has the same parameters, except those that are added later to one of the two.
    let mut clone = parameters.clone();
    clone.set(own.weight, value()).expect("its own id");
    assert_eq!(parameters.find("a.bias"), clone.find("a.bias"));
    let bias = value().to_array::<IxDyn>().expect("zeros");
    let (later, in_clone) =
        (parameters.add("later", &bias).expect("one more"), clone.add("later", &bias).expect("one more"));
    refused(parameters.get(in_clone).cloned(), &words);
    refused(clone.get(later).cloned(), &words);

    // A step is refused if the graph or the optimiser belongs to other parameters.
    let loss = |parameters: &Parameters, layer: &LinearModule| {
        let mut graph = Graph::new(parameters, Mode::Evaluation);
        let weight = graph.parameter(layer.weight).expect("a weight");
        let loss = graph.sum(weight).expect("a sum");
        (graph, loss)
    };
    let (mut graph, sum) = loss(&other, &theirs);
    let gradients = graph.backward(sum).expect("a backward pass");
    assert!(gradients.parameter(theirs.weight).is_some() && gradients.parameter(own.weight).is_none());
    let mut optimizer = Optimizer::new(Sgd::default()).expect("a rule");
    let before = parameters.weights().expect("weights").to_bytes().expect("bytes");
    let (graph, sum) = loss(&other, &theirs);
    refused(optimizer.step(graph, sum, &mut parameters, 0.5), &words);
    assert_eq!((optimizer.steps(), parameters.weights().expect("weights").to_bytes().expect("bytes")), (0, before));
    let (graph, sum) = loss(&parameters, &own);
    optimizer.step(graph, sum, &mut parameters, 0.5).expect("its own");
    let (graph, sum) = loss(&other, &theirs);
    let words = ["parameters", "the optimiser's earlier steps", "other parameters"];
    refused(optimizer.step(graph, sum, &mut other.clone(), 0.5), &words);
    parameters.add("latest", &bias).expect("one more");
    let (graph, sum) = loss(&parameters, &own);
    optimizer.step(graph, sum, &mut parameters, 0.5).expect("its own and one more");
    assert_eq!(optimizer.steps(), 2);
}

#[test]
fn rules_and_limits_are_checked() {
    let rules: [(Rule, &str); 6] = [
        (Sgd { momentum: -0.1, ..Sgd::default() }.into(), "momentum"),
        (Sgd { nesterov: true, ..Sgd::default() }.into(), "nesterov"),
        (Sgd { momentum: 0.9, dampening: 0.1, nesterov: true, ..Sgd::default() }.into(), "dampening"),
        (RmsProp { alpha: f64::NAN, ..RmsProp::default() }.into(), "alpha"),
        (Adam { betas: [0.9, 1.0], ..Adam::default() }.into(), "betas"),
        (Adam { eps: -1.0, ..Adam::default() }.into(), "eps"),
    ];
    for (rule, word) in rules {
        refused(Optimizer::new(rule), &[word]);
    }
    for clip in [Clip::norm(0.0), Clip::value(f32::NAN), Clip::norm(-1.0)] {
        refused(Optimizer::new(Sgd::default()).and_then(|optimizer| optimizer.clip(clip)), &["clip", "positive"]);
    }
    for rate in [-0.1, f64::NAN, f64::INFINITY] {
        refused(Trainer::new(Parameters::new(&Device::Cpu, 1), Sgd::default(), rate), &["rate"]);
    }
}

#[test]
fn truncation_and_checkpoints_are_checked() {
    refused(Tbptt::new(0, 3), &["tbptt", "k1"]);
    refused(Tbptt::new(3, 0), &["tbptt", "k2"]);
    let mut parameters = Parameters::new(&Device::Cpu, 1);
    let forward = RecurrentModule::new(&mut parameters, "a.", &Lstm::config(2, 3)).expect("a stack");
    let both = Lstm::config(2, 3).bidirectional(gatewise::nn::Merge::Concat);
    let both = RecurrentModule::new(&mut parameters, "b.", &both).expect("a stack");
    let windows: Vec<_> = Tbptt::new(2, 2).expect("a plan").windows(6).collect();
    let mut graph = Graph::new(&parameters, Mode::Evaluation);
    let x = zeros(&mut graph, &[2, 1, 2]);
    let (sequence, options) = (Sequence::new(), TrainingOptions::default());
    let mut carry = CarriedState::new(both.zero_state(&Device::Cpu, 1).expect("a state"));
    refused(carry.forward(&mut graph, &both, x, &windows[0], &sequence, &options), &["reverse direction", "truncated"]);
    let mut carry = CarriedState::new(forward.zero_state(&Device::Cpu, 1).expect("a state"));
    refused(carry.forward(&mut graph, &forward, x, &windows[1], &sequence, &options), &["window", "2 instead of 0"]);
    let short = zeros(&mut graph, &[1, 1, 2]);
    refused(
        carry.forward(&mut graph, &forward, short, &windows[0], &sequence, &options),
        &["steps of x", "[2]", "[1]"],
    );

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    parameters.weights().expect("numbers").save(&path).expect("a file");
    refused(Checkpoint::read(&path), &["weights.safetensors", "no checkpoint"]);
    refused(Checkpoint::read(folder.path().join("none")), &["none"]);
    let mut one = Trainer::new(parameters, Adam::default(), 0.1).expect("a trainer");
    let checkpoint = one.checkpoint().expect("a checkpoint");
    let mut other = Parameters::new(&Device::Cpu, 1);
    other.add("c", &array![1.0_f32]).expect("a parameter");
    let mut other = Trainer::new(other, Adam::default(), 0.1).expect("a trainer");
    refused(other.restore(&checkpoint), &["parameter.c", "only"]);
    let mut slower = Trainer::new(Parameters::new(&Device::Cpu, 1), Sgd::default(), 0.1).expect("a trainer");
    refused(slower.restore(&checkpoint), &["slots", "exp_avg"]);
}

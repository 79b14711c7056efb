//! Replays on the CPU: the same bits as the interpreter, whatever the calls before were.

use std::thread;

use gatewise::onnx::{Input, OnnxModel, OnnxOptions, Outputs};
use gatewise::{Device, Tensor};
use ndarray::{ArrayD, IxDyn};

use crate::graph::{GraphBuilder, set_axes, speech_model};
use crate::stored::{FOLDER, borrowed, inputs, path};

/// The outputs as words, which tell NaN and signs of zero apart.
fn words(outputs: &Outputs) -> Vec<(String, Vec<usize>, Vec<u64>)> {
    let one = |(name, output): (&str, &gatewise::onnx::Output)| {
        let words = match output.ints() {
            Ok(ints) => ints.iter().map(|&x| x as u64).collect(),
            Err(_) => match output.to_array::<IxDyn>() {
                Ok(x) => x.iter().map(|x| x.to_bits().into()).collect(),
                Err(_) => output.bools().expect("booleans").iter().map(|&x| x.into()).collect(),
            },
        };
        (name.to_owned(), output.shape().to_vec(), words)
    };
    outputs.iter().map(one).collect()
}

/// The first run of a fresh copy, which the interpreter does.
fn interpreted(model: &OnnxModel, inputs: &[(&str, Input)]) -> Vec<(String, Vec<usize>, Vec<u64>)> {
    let fresh = model.to(&Device::Cpu).expect("fits");
    let outputs = fresh.run(inputs).expect("runs");
    assert_eq!(replays(&fresh), 0);
    words(&outputs)
}

fn replays(model: &OnnxModel) -> usize {
    let text = format!("{model:?}");
    let count = text.split("replays: ").nth(1).and_then(|rest| rest.split([' ', ',', '}']).next());
    count.and_then(|count| count.parse().ok()).expect("a number of replays")
}

/// The inputs of one call: all floats are changed by the call's number.
fn changed(inputs: &[(String, Input)], call: usize) -> Vec<(String, Input)> {
    let change = |input: &Input| match input {
        Input::Float(x) => Input::Float(x.mapv(|x| x * (1.0 - 0.1 * call as f32) + 0.01 * call as f32)),
        other => other.clone(),
    };
    inputs.iter().map(|(name, input)| (name.clone(), change(input))).collect()
}

#[test]
fn every_fixture_gives_the_same_bits_in_every_call() {
    let mut replayed = Vec::new();
    for entry in std::fs::read_dir(FOLDER).expect("a folder") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        let Some(fixture) = name.strip_suffix(".onnx").filter(|stem| *stem != "gru_without_attribute") else {
            continue;
        };
        let model = OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound");
        let model = model.to(&Device::Cpu).expect("fits");
        let inputs = inputs(fixture);
        let mut outputs = Outputs::default();
        for call in 0..6 {
            let inputs = changed(&inputs, call % 4);
            model.run_into(&borrowed(&inputs), &mut outputs).expect("runs");
            assert_eq!(words(&outputs), interpreted(&model, &borrowed(&inputs)), "{fixture}, call {call}");
        }
        replayed.extend((replays(&model) > 0).then(|| fixture.to_owned()));
    }
    for fixture in ["silero_front", "lstm_lengths", "gru_before", "embedding_lstm", "operators_layout"] {
        assert!(replayed.iter().any(|name| name == fixture), "{fixture} is not among {replayed:?}");
    }
}

fn array(shape: &[usize], seed: usize) -> ArrayD<f32> {
    let mut at = seed as f32;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        at += 1.0;
        (at * 1.3).sin() * 2.0
    })
}

/// A graph of many element-wise nodes, with sizes around a block's.
fn random_graph(random: &mut fastrand::Rng, width: i64) -> OnnxModel {
    let mut graph = GraphBuilder::new(&["x", "y"]);
    let mut known = vec!["x".to_owned(), "y".to_owned()];
    for step in 0..24 {
        let one = known[random.usize(..known.len())].clone();
        let other = match random.usize(..6) {
            0 => graph.weight(&[width], step),
            1 => graph.weight(&[1], step),
            2 => {
                let mean = graph.node("ReduceMean", &[&one]);
                set_axes(&mut graph);
                mean
            }
            3 => {
                let weight = graph.weight(&[width, width], step);
                graph.node("MatMul", &[&one, &weight])
            }
            _ => known[random.usize(..known.len())].clone(),
        };
        let made = match random.usize(..9) {
            0 => graph.node("Add", &[&one, &other]),
            1 => graph.node("Sub", &[&other, &one]),
            2 => graph.node("Mul", &[&one, &other]),
            3 => graph.node("Max", &[&one, &other]),
            4 => graph.node("Tanh", &[&one]),
            5 => graph.node("Relu", &[&one]),
            6 => graph.node("Softmax", &[&one]),
            7 => {
                let greater = graph.node("Greater", &[&one, &other]);
                graph.node("Where", &[&greater, &one, &other])
            }
            _ => {
                let turned = graph.transpose(&one, &[0, 2, 1]);
                let turned = graph.node("Sigmoid", &[&turned]);
                graph.transpose(&turned, &[0, 2, 1])
            }
        };
        known.push(made);
    }
    let last = known.len() - 1;
    let twice = graph.node("Identity", &[&known[last]]);
    let input = graph.node("Identity", &["x"]);
    graph.model(&[&known[last], &known[last / 2 + 1], &twice, &input, &known[last - 3]])
}

#[test]
fn random_graphs_give_the_same_bits_for_changing_shapes() {
    let mut random = fastrand::Rng::with_seed(5);
    for seed in 0..12 {
        let width = [3, 16, 40][seed % 3];
        let model = random_graph(&mut random, width as i64).to(&Device::Cpu).expect("fits");
        let mut outputs = Outputs::default();
        for call in 0..14 {
            let shape = [[1, 3, width], [2, 5, width], [4, 130, width]][call % 7 % 3];
            let (x, y) = (array(&shape, seed + call), array(&shape, 2 * seed + 3 * call));
            let inputs = [("x", Input::from(x)), ("y", Input::from(y))];
            let right = interpreted(&model, &inputs);
            let held = outputs.clone();
            let before = words(&held);
            model.run_into(&inputs, &mut outputs).expect("runs");
            assert_eq!(words(&outputs), right, "graph {seed}, call {call}");
            assert_eq!(words(&held), before, "graph {seed}: call {call} changed the outputs of the call before");
        }
        assert_eq!(replays(&model), 3, "graph {seed}");
    }
}

#[test]
fn one_tensor_for_two_inputs_is_not_remembered() {
    let mut graph = GraphBuilder::new(&["x", "y"]);
    let sum = graph.node("Sub", &["x", "y"]);
    let model = graph.model(&[&sum]).to(&Device::Cpu).expect("fits");
    let tensor = |seed| Tensor::from_array(&Device::Cpu, &array(&[2, 3], seed)).expect("fits");
    let (a, b) = (tensor(1), tensor(7));
    let run = |x: &Tensor, y: &Tensor| words(&model.run(&[("x", x.into()), ("y", y.into())]).expect("runs"));
    for _ in 0..3 {
        assert!(run(&a, &a)[0].2.iter().all(|&word| word == 0));
    }
    assert_eq!(replays(&model), 1);
    assert_eq!(run(&a, &b), interpreted(&model, &[("x", (&a).into()), ("y", (&b).into())]));
    assert!(run(&a, &b)[0].2.iter().any(|&word| word != 0));
}

/// The index of a gathered row is computed from floats.
#[test]
fn a_decision_by_floats_is_taken_in_every_call() {
    let mut graph = GraphBuilder::new(&["x"]);
    let table = graph.weight(&[5, 3], 1);
    let index = graph.node_of::<1>("Cast", &["x"], &[("to", 7)])[0].clone();
    let row = graph.node("Gather", &[&table, &index]);
    let row = graph.node("Tanh", &[&row]);
    let model = graph.model(&[&row]).to(&Device::Cpu).expect("fits");
    let rows: Vec<_> = [0.0, 0.0, 0.0, 3.0, 1.0, 1.0, 4.0]
        .into_iter()
        .map(|row| {
            let inputs = [("x", Input::from(ndarray::arr1(&[row])))];
            let found = words(&model.run(&inputs).expect("runs"));
            assert_eq!(found, interpreted(&model, &inputs), "row {row}");
            found
        })
        .collect();
    assert!(rows[0] == rows[1] && rows[2] != rows[3] && rows[3] != rows[4] && rows[4] == rows[5]);
    assert_eq!(replays(&model), 0);
}

#[test]
fn several_threads_run_one_model_at_once() {
    let model = speech_model().to(&Device::Cpu).expect("fits");
    let inputs = |thread: usize, call: usize| {
        let state = |seed| Input::from(array(&[1, 2, 16], seed));
        [("x", Input::from(array(&[1, 2, 24], 10 * thread + call))), ("h", state(thread)), ("c", state(call))]
    };
    let right: Vec<Vec<_>> =
        (0..3).map(|thread| (0..20).map(|call| interpreted(&model, &inputs(thread, call))).collect()).collect();
    thread::scope(|scope| {
        for (thread, right) in right.iter().enumerate() {
            let (model, inputs) = (&model, &inputs);
            scope.spawn(move || {
                for round in 0..5 {
                    for (call, right) in right.iter().enumerate() {
                        let found = model.run(&inputs(thread, call)).expect("runs");
                        assert_eq!(&words(&found), right, "thread {thread}, call {call}, round {round}");
                    }
                }
            });
        }
    });
    assert!((1..=3).contains(&replays(&model)));
}

#[test]
fn a_call_that_is_refused_leaves_the_outputs_and_the_replays() {
    let model = speech_model().to(&Device::Cpu).expect("fits");
    let good = |seed| {
        let state = || Input::from(array(&[1, 1, 16], seed));
        [("x", Input::from(array(&[1, 1, 24], seed))), ("h", state()), ("c", state())]
    };
    let mut outputs = Outputs::default();
    for seed in 0..3 {
        model.run_into(&good(seed), &mut outputs).expect("runs");
    }
    let before = words(&outputs);
    let mut bad = good(4);
    bad[0].1 = Input::from(array(&[1, 1, 23], 0));
    for _ in 0..3 {
        assert!(model.run_into(&bad, &mut outputs).is_err());
        assert_eq!(words(&outputs), before);
    }
    model.run_into(&good(5), &mut outputs).expect("runs");
    assert_eq!((words(&outputs), replays(&model)), (interpreted(&model, &good(5)), 1));
}

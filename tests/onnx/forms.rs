//! Forms of the recurrent operators that onnxruntime does not run, compared with forms that it runs: the batch as the first
//! axis, and outputs and initial states that are left out.

use gatewise::onnx::proto::{
    AttributeProto, AttributeType, DataType, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    TensorType, TypeProto, ValueInfoProto,
};
use gatewise::onnx::{Input, OnnxModel, OnnxOptions};
use ndarray::{ArrayD, Axis};

use crate::build::{assert_close, devices};
use crate::stored::{Stored, borrowed, inputs, path, stored};

/// A fixture with free shapes and one change.
fn changed(fixture: &str, change: impl FnOnce(&mut ModelProto)) -> OnnxModel {
    let bytes = std::fs::read(path(fixture)).expect("a fixture");
    let mut model = ModelProto::decode(&bytes[..]).expect("sound");
    let graph = model.graph.as_mut().expect("a graph");
    for info in &mut graph.input {
        info.r#type.iter_mut().flat_map(|kind| &mut kind.tensor_type).for_each(|tensor| tensor.shape = None);
    }
    change(&mut model);
    OnnxModel::from_proto(fixture, &model, &OnnxOptions::default()).expect("sound")
}

fn expected(fixture: &str) -> Vec<(String, ArrayD<f32>)> {
    let float = |(name, x)| match x {
        Stored::Float(x) => (name, x),
        _ => panic!("{name} is not of floats"),
    };
    stored(fixture, "output.").into_iter().map(float).collect()
}

/// Swaps the time and batch axes of the arrays that have them: X `[T, B, I]`, states `[D, B, H]`, Y `[T, D, B, H]`.
fn batch_first(name: &str, x: &ArrayD<f32>) -> ArrayD<f32> {
    let order: &[usize] = if name == "Y" { &[2, 0, 1, 3] } else { &[1, 0, 2] };
    x.view().permuted_axes(order.to_vec()).as_standard_layout().into_owned()
}

#[test]
fn batches_come_first_where_the_layout_says_so() {
    for fixture in ["lstm_peephole_clip", "lstm_lengths", "gru_after", "gru_before_lengths", "rnn_lengths"] {
        let layout =
            AttributeProto { name: "layout".to_owned(), r#type: AttributeType::Int as i32, i: 1, ..Default::default() };
        let model =
            changed(fixture, |model| model.graph.as_mut().expect("a graph").node[0].attribute.push(layout.clone()));
        let inputs: Vec<(String, Input)> = inputs(fixture)
            .into_iter()
            .map(|(name, input)| match input {
                Input::Float(x) => (name.clone(), batch_first(&name, &x).into()),
                other => (name, other),
            })
            .collect();
        for device in devices() {
            let outputs = model.to(&device).and_then(|model| model.run(&borrowed(&inputs))).expect("runs");
            for (name, right) in expected(fixture) {
                let found = outputs.get(&name).and_then(|output| output.to_array()).expect("floats");
                assert_close(&format!("{fixture}, {device}: {name}"), &found, &batch_first(&name, &right));
            }
        }
    }
}

#[test]
fn outputs_that_are_left_out_cost_nothing_and_change_nothing() {
    for fixture in ["lstm_peephole_clip", "gru_after"] {
        for (name, right) in expected(fixture) {
            let model = changed(fixture, |model| {
                let graph = model.graph.as_mut().expect("a graph");
                graph.output.retain(|info| info.name == name);
                let others = graph.node[0].output.iter_mut().filter(|output| **output != name);
                others.for_each(String::clear);
            });
            for device in devices() {
                let outputs = model.to(&device).and_then(|model| model.run(&borrowed(&inputs(fixture)))).expect("runs");
                assert_eq!(outputs.iter().count(), 1);
                let found = outputs.get(&name).and_then(|output| output.to_array()).expect("floats");
                assert_close(&format!("{fixture}, {device}: {name} alone"), &found, &right);
            }
        }
    }
}

#[test]
fn a_state_that_is_left_out_is_zero() {
    let fixture = "lstm_peephole_clip";
    for (absent, slot) in [("h0", 5), ("c0", 6)] {
        let model = changed(fixture, |model| {
            let graph = model.graph.as_mut().expect("a graph");
            graph.input.retain(|info| info.name != absent);
            graph.node[0].input[slot].clear();
        });
        let all = OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound");
        let zeroed: Vec<(String, Input)> = inputs(fixture)
            .into_iter()
            .map(|(name, input)| match input {
                Input::Float(x) if name == absent => (name, ArrayD::<f32>::zeros(x.raw_dim()).into()),
                other => (name, other),
            })
            .collect();
        let given: Vec<(String, Input)> = zeroed.iter().filter(|(name, _)| name != absent).cloned().collect();
        for device in devices() {
            let y = |model: &OnnxModel, inputs: &[(String, Input)]| -> ArrayD<f32> {
                let outputs = model.to(&device).and_then(|model| model.run(&borrowed(inputs))).expect("runs");
                outputs.get("Y").and_then(|output| output.to_array()).expect("floats")
            };
            let right = y(&all, &zeroed);
            assert_close(&format!("{device}: without {absent}"), &y(&model, &given), &right);
            let with = y(&all, &inputs(fixture));
            let first = |y: &ArrayD<f32>| y.index_axis(Axis(0), 0).to_owned();
            let apart = first(&with).iter().zip(first(&right).iter()).any(|(a, b)| (a - b).abs() > 1e-2);
            assert!(apart, "{absent} makes a difference");
        }
    }
}

/// The model `z = Where(c, x, y)`.
fn choice() -> OnnxModel {
    let value = |name: &str, kind: DataType| {
        let tensor_type = Some(TensorType { elem_type: kind as i32, shape: None });
        ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { tensor_type }) }
    };
    let node = NodeProto {
        input: ["c", "x", "y"].map(str::to_owned).to_vec(),
        output: vec!["z".to_owned()],
        op_type: "Where".to_owned(),
        ..Default::default()
    };
    let graph = GraphProto {
        node: vec![node],
        input: vec![value("c", DataType::Bool), value("x", DataType::Float), value("y", DataType::Float)],
        output: vec![value("z", DataType::Float)],
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: String::new(), version: 14 }];
    let model = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..Default::default() };
    OnnxModel::from_proto("choice", &model, &OnnxOptions::default()).expect("sound")
}

#[test]
fn a_choice_keeps_the_signs_of_zeros_and_what_is_not_finite() {
    const ODD: [f32; 6] = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.5];
    let pairs: Vec<(f32, f32)> = ODD.into_iter().flat_map(|x| ODD.map(|y| (x, y))).collect();
    let shape = [2, pairs.len()];
    let column = |of: fn(&(f32, f32)) -> f32| ArrayD::from_shape_fn(shape.as_slice(), |at| of(&pairs[at[1]]));
    let c = ArrayD::from_shape_fn(shape.as_slice(), |at| at[0] == 0);
    let model = choice();
    for device in devices() {
        let inputs = [("c", Input::Bool(c.clone())), ("x", column(|p| p.0).into()), ("y", column(|p| p.1).into())];
        let outputs = model.to(&device).and_then(|model| model.run(&inputs)).expect("runs");
        let z: ArrayD<f32> = outputs.get("z").and_then(|output| output.to_array()).expect("floats");
        for (at, (x, y)) in pairs.iter().enumerate() {
            for (row, right) in [x, y].into_iter().enumerate() {
                let found = z[[row, at]];
                let same = found.to_bits() == right.to_bits() || (found.is_nan() && right.is_nan());
                assert!(same, "{device}: Where({}, {x}, {y}) = {found}", row == 0);
            }
        }
    }
}

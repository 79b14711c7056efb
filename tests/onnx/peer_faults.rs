//! Faults of other engines. Each test would fail there: it uses data on which right and wrong results differ, and compares with
//! outputs of onnxruntime, PyTorch and Keras.
//!
//! Every test first compares the right computation with the stored output. Then it computes the faulty result of the same data and
//! checks that it differs. The faults are numbered F1 to F11; each test says which engine has it.

use crate::build::{assert_close, devices};
use crate::stored::{Stored, arrays, borrowed, inputs, path, stored};
use gatewise::cell::{Cell, GruCell, LstmCell, Reset, RnnCell, Sequence};
use gatewise::nn::{Config, Recurrent, State};
use gatewise::onnx::proto::{AttributeProto, AttributeType, Message, ModelProto, NodeProto};
use gatewise::onnx::{Extent, GruReset, Input, OnnxModel, OnnxOptions, Warning};
use gatewise::weights::layout::{KerasArrays, OnnxArrays};
use gatewise::{Device, Tensor};
use ndarray::{Array, Array2, Array3, Array4, ArrayD, Axis, Dimension, IxDyn};

/// A difference that no rounding explains.
const APART: f32 = 1e-2;

/// The largest difference of two arrays of one shape.
fn distance<D: Dimension>(a: &Array<f32, D>, b: &Array<f32, D>) -> f32 {
    assert_eq!(a.shape(), b.shape());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn assert_apart<D: Dimension>(context: &str, wrong: &Array<f32, D>, right: &Array<f32, D>) {
    let distance = distance(wrong, right);
    assert!(distance > APART, "{context}: the data cannot tell the fault, {distance:e}");
}

fn floats(stored: Vec<(String, Stored)>) -> Vec<(String, ArrayD<f32>)> {
    let float = |(name, x)| match x {
        Stored::Float(x) => (name, x),
        _ => panic!("{name} is not of floats"),
    };
    stored.into_iter().map(float).collect()
}

/// The outputs that onnxruntime computed.
fn expected(fixture: &str) -> Vec<(String, ArrayD<f32>)> {
    floats(stored(fixture, "output."))
}

fn message(fixture: &str) -> ModelProto {
    ModelProto::decode(&std::fs::read(path(fixture)).expect("a fixture")[..]).expect("sound")
}

/// A fixture with its only recurrent node changed.
fn changed(fixture: &str, change: impl Fn(&mut NodeProto)) -> OnnxModel {
    let mut model = message(fixture);
    let nodes = &mut model.graph.as_mut().expect("a graph").node;
    let recurrent = |node: &&mut NodeProto| ["RNN", "GRU", "LSTM"].contains(&node.op_type.as_str());
    nodes.iter_mut().filter(recurrent).for_each(change);
    OnnxModel::from_proto(fixture, &model, &OnnxOptions::default()).expect("sound")
}

fn run(model: &OnnxModel, inputs: &[(String, Input)], output: &str) -> ArrayD<f32> {
    model.run(&borrowed(inputs)).and_then(|outputs| outputs.get(output)?.to_array()).expect("runs")
}

/// A fixture is right on every device, and wrong without these attributes.
fn depends_on(fixture: &str, attributes: &[&str]) {
    let inputs = inputs(fixture);
    let model = OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound");
    for device in devices() {
        let model = model.to(&device).expect("fits");
        for (name, right) in expected(fixture) {
            assert_close(&format!("{fixture}, {device}: {name}"), &run(&model, &inputs, &name), &right);
        }
    }
    let without = changed(fixture, |node| {
        let before = node.attribute.len();
        node.attribute.retain(|attribute| !attributes.contains(&attribute.name.as_str()));
        assert_eq!(node.attribute.len() + attributes.len(), before, "{fixture} has these attributes");
    });
    let (name, right) = expected(fixture).into_iter().find(|(name, _)| name == "Y").expect("an output");
    assert_apart(&format!("{fixture} without {attributes:?}"), &run(&without, &inputs, &name), &right);
}

/// tract reads none of these attributes.
#[test]
fn f1_attributes_that_change_the_cell_are_honoured() {
    depends_on("lstm_activations", &["activations", "activation_alpha", "activation_beta"]);
    depends_on("gru_activations", &["activations", "activation_alpha", "activation_beta"]);
    depends_on("rnn_reverse_relu", &["activations"]);
    depends_on("lstm_peephole_clip", &["clip"]);
    depends_on("gru_before", &["clip"]);
    depends_on("lstm_coupled", &["input_forget"]);
}

/// An attribute that is not understood is refused by its name.
#[test]
fn f1_an_attribute_that_nobody_knows_is_refused() {
    let mut model = message("gru_before");
    let node = &mut model.graph.as_mut().expect("a graph").node[0];
    let r#type = AttributeType::Int as i32;
    node.attribute.push(AttributeProto { name: "output_sequence".to_owned(), r#type, i: 1, ..Default::default() });
    let error = OnnxModel::from_proto("m.onnx", &model, &OnnxOptions::default()).expect_err("unknown here");
    assert!(error.to_string().contains("output_sequence"), "{error}");
}

/// tract panics.
#[test]
fn f2_a_batch_that_is_free_needs_no_initial_state() {
    let fixture = "lstm_no_state";
    let model = OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound");
    let shapes: Vec<_> = model.inputs().map(|info| info.shape.clone().expect("a shape")).collect();
    assert_eq!(shapes.len(), 1, "no initial state");
    assert_eq!(shapes[0][1], Extent::Named("batch".to_owned()));
    let right = expected(fixture).into_iter().find(|(name, _)| name == "Y").expect("an output").1;
    let Some((_, Stored::Float(x))) = stored(fixture, "input.").pop() else { panic!("X is of floats") };
    for device in devices() {
        let model = model.to(&device).expect("fits");
        // The same model with one row, with the stored rows, and with more rows.
        for rows in [vec![1], vec![0, 1, 2], vec![2, 0, 0, 1, 2, 1, 0]] {
            let inputs = [("X".to_owned(), x.select(Axis(1), &rows).into())];
            let context = format!("{device}: rows {rows:?}");
            assert_close(&context, &run(&model, &inputs, "Y"), &right.select(Axis(2), &rows));
        }
    }
}

/// The arrays of a golden case.
struct Golden {
    arrays: Vec<(String, ArrayD<f32>)>,
}

impl Golden {
    fn open(name: &str) -> Self {
        let path = format!("{}/tests/golden/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Self { arrays: floats(arrays(&path, "")) }
    }

    fn get<D: Dimension>(&self, name: &str) -> Array<f32, D> {
        let (_, array) = self.arrays.iter().find(|(own, _)| own == name).expect("an array of the case");
        array.clone().into_dimensionality().expect("its rank")
    }

    /// The layer of an ONNX operator for one direction.
    fn layer<C: Clone + Into<Cell>>(
        &self,
        cell: C,
        configure: fn(Config<C>) -> Config<C>,
        device: &Device,
    ) -> Recurrent<C> {
        let first = |name: &str| self.get::<ndarray::Ix3>(name).remove_axis(Axis(0));
        let (w, r) = (first("W"), first("R"));
        let config = configure(Config::new(cell.clone(), w.ncols(), r.ncols()));
        let b = self.get::<ndarray::Ix2>("B").remove_axis(Axis(0));
        let parameters = OnnxArrays { w, r, b: Some(b), p: None }.to_parameters(&cell.into()).expect("fits");
        config.build(device, vec![vec![parameters]]).expect("fits")
    }

    fn state<C: Clone + Into<Cell>>(&self, layer: &Recurrent<C>) -> State {
        let c = self.arrays.iter().any(|(name, _)| name == "initial_c").then(|| self.get("initial_c"));
        let c: Option<Array3<f32>> = c;
        layer.initial_state(self.get("initial_h").view(), c.as_ref().map(|c| c.view())).expect("fits")
    }

    /// The output, `[T, B, H]`.
    fn y(&self) -> Array3<f32> {
        self.get::<ndarray::Ix4>("expect.Y").remove_axis(Axis(1))
    }
}

fn forward<C: Clone + Into<Cell>>(layer: &Recurrent<C>, x: &Array3<f32>, state: &mut State) -> Array3<f32> {
    let x = Tensor::from_array(layer.device(), x).expect("input");
    layer.forward(&x, state).and_then(|y| y.to_array()).expect("forward")
}

/// burn clamps the new state instead: the cell state of an LSTM, the hidden state of an RNN and a GRU.
#[test]
fn f3_clip_clamps_what_activations_read_and_no_state() {
    const CLIP: f32 = 0.6;
    let clip = Some(CLIP);
    /// Runs step by step and clamps the hidden state after each.
    fn hidden_clamped<C: Clone + Into<Cell>>(case: &Golden, layer: &Recurrent<C>) -> Array3<f32> {
        let (x, mut h): (Array3<f32>, Array3<f32>) = (case.get("X"), case.get("initial_h"));
        let steps: Vec<Array3<f32>> = x
            .axis_chunks_iter(Axis(0), 1)
            .map(|x| {
                let mut state = layer.initial_state(h.view(), None).expect("fits");
                forward(layer, &x.to_owned(), &mut state);
                h = state.to_h().expect("h").mapv(|h| h.clamp(-CLIP, CLIP));
                h.clone()
            })
            .collect();
        let steps: Vec<_> = steps.iter().map(|step| step.view()).collect();
        ndarray::concatenate(Axis(0), &steps).expect("one shape")
    }
    for device in devices() {
        let (rnn, gru, lstm) =
            (Golden::open("onnxrt__rnn_clip"), Golden::open("onnxrt__gru_clip"), Golden::open("onnxrt__lstm_clip"));
        let before = GruCell { reset: Reset::Before, ..Default::default() };

        let right = rnn.layer(RnnCell { gate_clip: clip, ..Default::default() }, |c| c, &device);
        let y = forward(&right, &rnn.get("X"), &mut rnn.state(&right));
        assert_close(&format!("RNN, {device}"), &y.into_dyn(), &rnn.y().into_dyn());
        assert_apart("RNN", &hidden_clamped(&rnn, &rnn.layer(RnnCell::default(), |c| c, &device)), &rnn.y());

        let right = gru.layer(GruCell { gate_clip: clip, ..before }, |c| c, &device);
        let y = forward(&right, &gru.get("X"), &mut gru.state(&right));
        assert_close(&format!("GRU, {device}"), &y.into_dyn(), &gru.y().into_dyn());
        assert_apart("GRU", &hidden_clamped(&gru, &gru.layer(before, |c| c, &device)), &gru.y());

        let right = lstm.layer(LstmCell { gate_clip: clip, ..Default::default() }, |c| c, &device);
        let y = forward(&right, &lstm.get("X"), &mut lstm.state(&right));
        assert_close(&format!("LSTM, {device}"), &y.into_dyn(), &lstm.y().into_dyn());
        let wrong = lstm.layer(LstmCell { cell_clip: clip, ..Default::default() }, |c| c, &device);
        assert_apart("LSTM", &forward(&wrong, &lstm.get("X"), &mut lstm.state(&wrong)), &lstm.y());
    }
}

/// burn-onnx uses burn's own default activations in an LSTM.
#[test]
fn f4_an_lstms_activations_have_the_files_parameters() {
    let fixture = "lstm_activations";
    // HardSigmoid, LeakyRelu, ScaledTanh and Elu have an alpha each; the first and the third also a beta.
    let wrong = changed(fixture, |node| {
        for (name, stated, defaults) in [
            ("activation_alpha", &[0.3, 0.15, 0.7, 1.3][..], &[0.2, 0.01, 0.7, 1.3][..]),
            ("activation_beta", &[0.4, 1.2], &[0.5, 1.2]),
        ] {
            let attribute = node.attribute.iter_mut().find(|attribute| attribute.name == name).expect("an attribute");
            assert_eq!(attribute.floats, stated);
            attribute.floats = defaults.to_vec();
        }
    });
    let (_, right) = expected(fixture).into_iter().find(|(name, _)| name == "Y").expect("an output");
    assert_apart("defaults", &run(&wrong, &inputs(fixture), "Y"), &right);
    let model = OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound");
    for device in devices() {
        let y = run(&model.to(&device).expect("fits"), &inputs(fixture), "Y");
        assert_close(&device.to_string(), &y, &right);
    }
}

/// burn's `Gru::forward` drops the final state, and has neither a reverse direction nor the batch as the first axis.
#[test]
fn f5_a_gru_returns_its_final_state_runs_in_reverse_and_takes_batches_first() {
    let case = Golden::open("onnxrt__gru_reverse");
    let cell = GruCell { reset: Reset::Before, ..Default::default() };
    let x: Array3<f32> = case.get("X");
    let right: Array3<f32> = case.get("expect.Y_h");
    for device in devices() {
        let layer = case.layer(cell, Config::reverse, &device);
        let mut state = case.state(&layer);
        let y = forward(&layer, &x, &mut state);
        assert_close(&format!("Y, {device}"), &y.into_dyn(), &case.y().into_dyn());
        assert_close(&format!("Y_h, {device}"), &state.to_h().expect("h").into_dyn(), &right.clone().into_dyn());

        let batch_first = Tensor::from_array(&device, &x.view().permuted_axes([1, 0, 2])).expect("input");
        let mut recorder = device.recorder();
        let mut state = case.state(&layer);
        let x = gatewise::ops::permute(&mut recorder, &batch_first, &[1, 0, 2]).expect("fits");
        let y = layer.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("fits");
        let y = gatewise::ops::permute(&mut recorder, &y, &[1, 0, 2]).expect("fits");
        recorder.submit().expect("runs");
        let expected = case.y().permuted_axes([1, 0, 2]).as_standard_layout().into_owned();
        assert_close(&format!("batch first, {device}"), &y.to_array().expect("y"), &expected.into_dyn());
    }
    let forwards = case.layer(cell, |c| c, &Device::Reference);
    assert_apart("forward", &forward(&forwards, &x, &mut case.state(&forwards)), &case.y());
}

/// burn's `LstmState::new(cell, hidden)` is the reverse of PyTorch's (h, c).
#[test]
fn f6_the_state_is_h_then_c() {
    let case = Golden::open("onnxrt__lstm_forward");
    let (h, c): (Array3<f32>, Array3<f32>) = (case.get("initial_h"), case.get("initial_c"));
    for device in devices() {
        let layer = case.layer(LstmCell::default(), |c| c, &device);
        let mut state = layer.initial_state(h.view(), Some(c.view())).expect("fits");
        let y = forward(&layer, &case.get("X"), &mut state);
        let context = device.to_string();
        assert_close(&context, &y.into_dyn(), &case.y().into_dyn());
        assert_close(&context, &state.to_h().expect("h").into_dyn(), &case.get("expect.Y_h"));
        assert_close(&context, &state.to_s().expect("s").expect("an LSTM's").into_dyn(), &case.get("expect.Y_c"));
        let mut swapped = layer.initial_state(c.view(), Some(h.view())).expect("the shapes cannot tell");
        assert_apart("swapped", &forward(&layer, &case.get("X"), &mut swapped), &case.y());
    }
}

/// candle-onnx stacks on the wrong axis and only renames the axes.
#[test]
fn f7_an_lstms_y_is_time_direction_batch_hidden() {
    let fixture = "lstm_peephole_clip";
    let right = expected(fixture).into_iter().find(|(name, _)| name == "Y").expect("an output").1;
    let right: Array4<f32> = right.into_dimensionality().expect("four axes");
    let (time, directions, batch, hidden) = right.dim();
    assert!(time > 1 && batch > 1 && time != batch && directions == 1);
    let model = OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound");
    for device in devices() {
        let y = run(&model.to(&device).expect("fits"), &inputs(fixture), "Y");
        assert_close(&device.to_string(), &y, &right.clone().into_dyn());
    }
    let batch_first: Vec<f32> = right.view().permuted_axes([2, 0, 1, 3]).iter().copied().collect();
    let renamed = Array4::from_shape_vec((time, 1, batch, hidden), batch_first).expect("as many");
    assert_apart("renamed axes", &renamed, &right);
}

/// candle's GRU concatenates the steps, while its LSTM stacks them.
#[test]
fn f8_every_kind_of_layer_stacks_its_steps_alike() {
    fn steps_are_states<C: Clone + Default + Into<Cell>>(device: &Device) {
        let layer: Recurrent<C> = Recurrent::<C>::config(3, 4).random(device, 8).expect("fits");
        let x = Array3::from_shape_fn((5, 2, 3), |(t, b, i)| ((t * 17 + b * 5 + i) as f32).sin());
        let y = forward(&layer, &x, &mut layer.zero_state(2).expect("state"));
        assert_eq!(y.dim(), (5, 2, 4));
        let mut state = layer.zero_state(2).expect("state");
        for (x, y) in x.axis_chunks_iter(Axis(0), 1).zip(y.outer_iter()) {
            forward(&layer, &x.to_owned(), &mut state);
            let h: Array2<f32> = state.to_h().expect("h").remove_axis(Axis(0));
            assert!(distance(&h, &y.to_owned()) < 1e-6);
        }
        assert_apart("steps", &y.index_axis(Axis(0), 4).to_owned(), &y.index_axis(Axis(0), 0).to_owned());
    }
    for device in devices() {
        steps_are_states::<RnnCell>(&device);
        steps_are_states::<LstmCell>(&device);
        steps_are_states::<GruCell>(&device);
    }
}

/// TF.js throws an exception.
#[test]
fn f9_keras_default_gru_resets_after_the_matmul() {
    let case = Golden::open("keras__gru_after_tanh_sigmoid");
    let kernels = KerasArrays {
        kernel: case.get("kernel"),
        recurrent_kernel: case.get("recurrent_kernel"),
        bias: Some(case.get("bias")),
    };
    let cell = GruCell::default();
    let parameters = kernels.to_parameters(&cell.into()).expect("two biases");
    let time_major = |x: Array3<f32>| x.permuted_axes([1, 0, 2]).as_standard_layout().into_owned();
    let (x, right) = (time_major(case.get("x")), time_major(case.get("y")));
    let h = case.get::<ndarray::Ix2>("init_h").insert_axis(Axis(0));
    let build = |cell: GruCell, device: &Device| {
        let config = Config::new(cell, x.dim().2, right.dim().2);
        let layer = config.build(device, vec![vec![parameters.clone()]]).expect("fits");
        let mut state = layer.initial_state(h.view(), None).expect("fits");
        forward(&layer, &x, &mut state)
    };
    for device in devices() {
        assert_close(&device.to_string(), &build(cell, &device).into_dyn(), &right.clone().into_dyn());
    }
    let before = GruCell { reset: Reset::Before, ..cell };
    assert_apart("reset before", &build(before, &Device::Reference), &right);
}

/// ONNX's own reference implementation reads neither lengths nor what F1 lists: outputs here are onnxruntime's.
#[test]
fn f10_lengths_end_a_row_where_they_say() {
    let fixture = "lstm_lengths";
    let model = OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound");
    for device in devices() {
        let model = model.to(&device).expect("fits");
        for (name, right) in expected(fixture) {
            assert_close(&format!("{device}: {name}"), &run(&model, &inputs(fixture), &name), &right);
        }
    }
    let without = changed(fixture, |node| node.input[4].clear());
    for (name, right) in expected(fixture) {
        assert_apart(&name, &run(&without, &inputs(fixture), &name), &right);
    }
}

/// onnxscript and PyTorch export a GRU without `linear_before_reset=1`.
#[test]
fn f11_a_gru_from_pytorch_resets_after_the_matmul_whatever_its_file_says() {
    let fixture = "gru_without_attribute";
    let right = floats(stored(fixture, "output."));
    let y = |name: &str| -> ArrayD<f32> { right.iter().find(|(own, _)| own == name).expect("stored").1.clone() };
    let (after, before) = (y("y"), y("stated.y"));
    assert_apart("the two", &after, &before);
    let open = |gru_reset| {
        let options = OnnxOptions::default().gru_reset(gru_reset);
        OnnxModel::from_file(path(fixture), &options).expect("sound")
    };
    for device in devices() {
        for (reset, right) in [(GruReset::Auto, &after), (GruReset::After, &after), (GruReset::Before, &before)] {
            let y = run(&open(reset).to(&device).expect("fits"), &inputs(fixture), "y");
            assert_close(&format!("{device}: {reset:?}"), &y, right);
        }
    }
    let auto = open(GruReset::Auto);
    assert!(matches!(auto.warnings(), [Warning::SuspectGruReset { .. }]), "{:?}", auto.warnings());
    assert!(auto.warnings()[0].to_string().contains("linear_before_reset"));
    let after = open(GruReset::After);
    let overridden = |w: &Warning| matches!(w, Warning::OverriddenGruReset { stated, used, .. } if stated != used);
    assert!(after.warnings().len() == 1 && overridden(&after.warnings()[0]), "{:?}", after.warnings());
    assert!(open(GruReset::Before).warnings().is_empty(), "what the file says is no override");

    // There is no warning for another producer, and none for a file of PyTorch with the attribute.
    let mut other = message(fixture);
    other.producer_name = "tf2onnx".to_owned();
    let other = OnnxModel::from_proto("m.onnx", &other, &OnnxOptions::default()).expect("sound");
    assert!(other.warnings().is_empty());
    assert_close("another producer", &run(&other, &inputs(fixture), "y"), &before);
    let sound = OnnxModel::from_file(path("bidirectional_gru"), &OnnxOptions::default()).expect("sound");
    assert!(sound.warnings().is_empty());
    let options = OnnxOptions::default().gru_reset(GruReset::Before);
    let overruled = OnnxModel::from_file(path("bidirectional_gru"), &options).expect("sound");
    assert!(overridden(&overruled.warnings()[0]));
}

#[test]
fn the_comparisons_can_fail() {
    let (a, b) = (ArrayD::from_elem(IxDyn(&[2]), 1.0), ArrayD::from_elem(IxDyn(&[2]), 1.0 + 2.0 * APART));
    assert!(std::panic::catch_unwind(|| assert_apart("equal", &a, &a)).is_err());
    assert!(std::panic::catch_unwind(|| assert_close("apart", &a, &b)).is_err());
    assert_apart("apart", &a, &b);
}

//! Exported models with the outputs that onnxruntime computed (`tests/fixtures/onnx/generate.py`).

use gatewise::onnx::{Input, OnnxModel, OnnxOptions};
use gatewise::{Device, Tensor};
use ndarray::IxDyn;

use crate::build::{assert_close, devices};
use crate::stored::{FOLDER, Stored, borrowed, inputs, path, stored};

/// Runs a fixture on every device and compares every output.
fn agree(fixture: &str) {
    let model =
        OnnxModel::from_file(path(fixture), &OnnxOptions::default()).unwrap_or_else(|e| panic!("{fixture}: {e}"));
    assert!(model.warnings().is_empty() && model.check().is_empty(), "{fixture}: {:?}", model.warnings());
    for device in devices() {
        let model = model.to(&device).expect("fits");
        let outputs = model.run(&borrowed(&inputs(fixture))).unwrap_or_else(|e| panic!("{fixture}, {device}: {e}"));
        let right = stored(fixture, "output.");
        assert_eq!(outputs.iter().count(), right.len(), "{fixture}");
        for (name, right) in right {
            let output = outputs.get(&name).expect("an output of the fixture");
            let context = format!("{fixture}, {device}: {name}");
            match right {
                Stored::Float(right) => {
                    assert_close(
                        &context,
                        &output.to_array::<IxDyn>().unwrap_or_else(|e| panic!("{context}: {e}")),
                        &right,
                    );
                }
                Stored::Int(right) => {
                    assert_eq!(output.ints().unwrap_or_else(|e| panic!("{context}: {e}")), &right, "{context}")
                }
                Stored::Bool(right) => {
                    assert_eq!(output.bools().unwrap_or_else(|e| panic!("{context}: {e}")), right, "{context}")
                }
            }
        }
    }
}

/// One test per fixture.
macro_rules! fixtures {
    ($($name:ident),+ $(,)?) => {$(
        #[test]
        fn $name() {
            agree(stringify!($name));
        }
    )+

        /// Every file of the folder has a test.
        #[test]
        fn no_fixture_is_left_out() {
            let mut tested = vec![$(stringify!($name)),+];
            // This fixture needs another reset and has its own tests.
            tested.push("gru_without_attribute");
            for entry in std::fs::read_dir(FOLDER).expect("a folder") {
                let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
                if let Some(stem) = name.strip_suffix(".onnx") {
                    assert!(tested.contains(&stem), "{name}");
                }
            }
        }
    };
}

fixtures! {
    embedding_lstm,
    embedding_lstm_opset9,
    embedding_lstm_opset17,
    bidirectional_gru,
    silero_front,
    packed_lstm,
    rnn_reverse_relu,
    rnn_lengths,
    gru_before,
    gru_after,
    gru_before_lengths,
    gru_no_bias,
    lstm_peephole_clip,
    lstm_coupled,
    lstm_lengths,
    lstm_no_state,
    lstm_activations,
    gru_activations,
    rnn_softplus,
    lstm_default_parameters,
    operators_elementwise,
    operators_layout,
    operators_reduction,
    operators_integers,
    operators_older,
    operators_newer,
}

/// A state goes from call to call on the device; the pieces of a sequence equal the whole.
#[test]
fn a_state_stays_on_the_device_between_calls() {
    let fixture = "lstm_peephole_clip";
    let model = OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound");
    let Some((_, Stored::Float(x))) = stored(fixture, "input.").pop().filter(|(name, _)| name == "h0") else {
        panic!("h0 is the last input by name");
    };
    assert_eq!(x.shape(), [1, 3, 4]);
    for device in devices() {
        let model = model.to(&device).expect("fits");
        let inputs = inputs(fixture);
        let whole = model.run(&borrowed(&inputs)).expect("runs");
        let Some((_, Input::Float(x))) = inputs.iter().find(|(name, _)| name == "X").cloned() else {
            panic!("X is of floats");
        };
        let state = |name: &str| inputs.iter().find(|(own, _)| own == name).expect("a state").1.clone();
        let (mut h, mut c) = (state("h0"), state("c0"));
        let mut pieces = Vec::new();
        for range in [0..2, 2..5] {
            let piece = x.slice_axis(ndarray::Axis(0), range.into()).to_owned();
            let outputs = model.run(&[("X", piece.into()), ("h0", h), ("c0", c)]).expect("runs");
            let resident: &Tensor = outputs.get("Y_h").and_then(|y| y.tensor()).expect("floats");
            assert!(resident.device().is_same(&device));
            (h, c) = (resident.into(), outputs.get("Y_c").and_then(|y| y.tensor()).expect("floats").into());
            pieces.push(outputs.get("Y").and_then(|y| y.to_array::<IxDyn>()).expect("floats"));
        }
        let views: Vec<_> = pieces.iter().map(|piece| piece.view()).collect();
        let pieces = ndarray::concatenate(ndarray::Axis(0), &views).expect("fits");
        let whole = whole.get("Y").and_then(|y| y.to_array::<IxDyn>()).expect("floats");
        assert_close(&device.to_string(), &pieces, &whole);
    }
}

#[test]
fn a_run_is_one_submission() {
    for fixture in ["embedding_lstm", "bidirectional_gru", "silero_front"] {
        let gpu = devices().pop().expect("a GPU");
        let Device::Gpu(device) = &gpu else { panic!("{gpu} is no GPU") };
        let model =
            OnnxModel::from_file(path(fixture), &OnnxOptions::default()).expect("sound").to(&gpu).expect("fits");
        let inputs = inputs(fixture);
        let before = device.counters().submits;
        let outputs = model.run(&borrowed(&inputs)).expect("runs");
        assert_eq!(device.counters().submits, before + 1, "{fixture}");
        drop(outputs);
    }
}

//! Weights that are NaN or infinite, and options without a bound.

use std::fs;
use std::path::Path;

use gatewise::onnx::proto::{DataType, Message, ModelProto};
use ndarray::Array3;
use ndarray_npy::write_npy;
use tempfile::TempDir;

use crate::{ROOT, refused, run, text, with_element};

#[test]
fn a_detector_of_weights_that_are_not_finite_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("w.safetensors");
    for (value, found) in [(f32::NAN, "1 NaN, 0 infinite"), (f32::NEG_INFINITY, "0 NaN, 1 infinite")] {
        with_element("silero_vad_16k.safetensors", "lstm_cell.weight_hh", value, &path);
        for device in ["reference", "cpu", "cpu --json"] {
            let said = refused(folder.path(), &format!("vad --weights w.safetensors --device {device}"));
            assert!(said.contains("w.safetensors: lstm_cell.weight_hh: expected finite weights"), "{said}");
            assert!(said.contains(found) && said.contains("first at 10"), "{said}");
        }
    }
    with_element("silero_vad_16k.safetensors", "lstm_cell.weight_hh", 0.01, &path);
    assert!(run(folder.path(), "vad --weights w.safetensors --device cpu").status.success());
}

#[test]
fn a_trained_model_of_weights_that_are_not_finite_is_refused() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("w.safetensors");
    let name = "sentiment_lstm.safetensors";
    let weights = gatewise::weights::Weights::from_file(format!("{ROOT}/models/{name}")).expect("weights");
    let tensor = weights.names().find(|name| name.contains("weight_hh")).expect("a cell's weights").to_owned();
    with_element(name, &tensor, f32::NAN, &path);
    let said = refused(folder.path(), "sentiment fine --weights w.safetensors");
    assert!(said.contains(&tensor) && said.contains("expected finite weights, found 1 NaN"), "{said}");
}

#[test]
fn a_models_weights_that_are_not_finite_are_warned_of() {
    let folder = TempDir::new().expect("a folder");
    let bytes = fs::read(format!("{ROOT}/tests/fixtures/onnx/lstm_no_state.onnx")).expect("a fixture");
    let mut model = ModelProto::decode(&bytes[..]).expect("sound");
    let tensors = model.graph.iter_mut().flat_map(|graph| &mut graph.initializer);
    let mut floats = tensors.filter(|tensor| tensor.data_type == DataType::Float as i32 && !tensor.raw_data.is_empty());
    let tensor = floats.next().expect("weights");
    let mut raw = tensor.raw_data.to_vec();
    raw[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    tensor.raw_data = raw.into();
    fs::write(folder.path().join("m.onnx"), model.encode_to_vec()).expect("a file");
    write_npy(folder.path().join("x.npy"), &Array3::<f32>::zeros((5, 3, 2))).expect("a file");
    let arguments = "run m.onnx --device cpu --input X=x.npy --output out";
    let output = run(folder.path(), arguments);
    assert!(output.status.success());
    assert!(text(&output.stderr).contains("gatewise: warning: not finite: "), "{}", text(&output.stderr));
    let output = run(folder.path(), &format!("{arguments} --json"));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["not_finite"].as_array().map(Vec::len), Some(1));
}

#[test]
fn numbers_without_an_end_are_refused_by_name() {
    let folder = Path::new(ROOT);
    let bench = "bench --device cpu --no-roofline --suite smoke";
    for (option, value) in [
        ("--budget-ms", "inf"),
        ("--budget-ms", "1e308"),
        ("--budget-ms", "NaN"),
        ("--budget-ms", "3600001"),
        ("--min-runs", "18446744073709551615"),
        ("--min-runs", "100001"),
        ("--most-s", "NaN"),
        ("--most-s", "inf"),
    ] {
        let said = refused(folder, &format!("{bench} {option} {value}"));
        assert!(said.contains(&format!("bench: {option} must be ")), "{said}");
    }
    assert_eq!(run(folder, &format!("{bench} --budget-ms -1")).status.code(), Some(2));
    let said = refused(folder, "generate --length 16777217");
    assert!(said.contains("generate: --length must be at most 16777216, got 16777217"), "{said}");
}

#[test]
fn options_of_a_gpu_are_refused_where_none_was_asked_for() {
    let folder = Path::new(ROOT);
    for device in ["cpu", "reference", "cpu,auto"] {
        for option in ["--matrices", "--plan scan", "--autotune"] {
            let said = refused(folder, &format!("bench --suite smoke --no-roofline --device {device} {option}"));
            assert!(said.contains(&format!("bench: {option} is not supported without --device gpu")), "{said}");
        }
    }
    for option in ["--matrices", "--plan scan"] {
        let said = refused(folder, &format!("verify tests/golden --device cpu {option}"));
        assert!(said.contains(&format!("verify: {option} is not supported without --device gpu")), "{said}");
    }
}

//! `gatewise run`: a model over NumPy files, and its refusals.
#![cfg(all(feature = "gpu", feature = "cli", feature = "onnx"))]

use std::path::Path;
use std::process::{Command, Output};

use gatewise::Device;
use gatewise::onnx::{OnnxModel, OnnxOptions};
use ndarray::{Array2, Array3};
use ndarray_npy::{read_npy, write_npy};

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/onnx/embedding_lstm.onnx");

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gatewise")).arg("run").args(arguments).output().expect("the program runs")
}

fn tokens() -> Array2<i64> {
    Array2::from_shape_fn((7, 2), |(t, b)| i64::try_from(t + 3 * b).expect("small"))
}

#[test]
fn every_device_writes_what_the_library_returns() {
    let folder = tempfile::tempdir().expect("a folder");
    let input = folder.path().join("tokens.npy");
    write_npy(&input, &tokens()).expect("a file");
    let model = OnnxModel::from_file(MODEL, &OnnxOptions::default()).expect("a model");
    let outputs = model.to(&Device::Reference).expect("fits").run(&[("tokens", tokens().into())]).expect("runs");
    let expected: Array3<f32> = outputs.get("probabilities").expect("there").to_array().expect("floats");
    for device in ["reference", "cpu", "gpu"] {
        let out = folder.path().join(device).display().to_string();
        let argument = format!("tokens={}", input.display());
        let done = run(&[MODEL, "--input", &argument, "--output", &out, "--device", device, "--json"]);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
        assert_eq!(report["device"], device);
        let got: Array3<f32> = read_npy(Path::new(&out).join("probabilities.npy")).expect("an output");
        assert_eq!(got.dim(), expected.dim());
        assert!(got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{device}");
    }
}

#[test]
fn bad_input_is_one_line_and_exit_code_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out").display().to_string();
    let text = folder.path().join("text.npy");
    std::fs::write(&text, "not an array").expect("a file");
    let text = format!("tokens={}", text.display());
    for (arguments, words) in [
        (vec!["no such model.onnx", "--check"], "no such model.onnx"),
        (vec![MODEL, "--output", &out], "tokens"),
        (vec![MODEL, "--input", "tokens", "--output", &out], "NAME=FILE.npy"),
        (vec![MODEL, "--input", "tokens=absent.npy", "--output", &out], "absent.npy"),
        (vec![MODEL, "--input", &text, "--output", &out], "a .npy file of"),
        (vec![MODEL, "--input", &text], "--output DIR"),
    ] {
        let done = run(&arguments);
        let message = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.lines().count() == 1 && message.contains(words), "{arguments:?}: {message}");
    }
}

#[test]
fn a_check_lists_inputs_and_outputs() {
    let done = run(&[MODEL, "--check"]);
    let text = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0));
    assert!(text.contains("reads   \"tokens\"") && text.contains("returns \"probabilities\""), "{text}");
}

//! `gatewise run`: a model over NumPy files, and its refusals.
#![cfg(feature = "gpu")]

use std::path::Path;
use std::process::{Command, Output};

use gatewise::Device;
use gatewise::onnx::proto::{DataType, Message, ModelProto};
use gatewise::onnx::{OnnxModel, OnnxOptions};
use ndarray::{Array2, Array3};
use ndarray_npy::{read_npy, write_npy};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/onnx");
const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/onnx/embedding_lstm.onnx");

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
    std::fs::write(folder.path().join("empty.npy"), "").expect("a file");
    let empty = format!("tokens={}", folder.path().join("empty.npy").display());
    // A header that asks for more memory than there is.
    let absurd = folder.path().join("absurd.npy");
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999, 99999999), }\n";
    let length = u16::try_from(header.len()).expect("short").to_le_bytes();
    std::fs::write(&absurd, [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes()].concat()).expect("a file");
    let absurd = format!("tokens={}", absurd.display());
    for (arguments, words) in [
        (vec!["no such model.onnx", "--check"], "no such model.onnx"),
        (vec![MODEL, "--output", &out], "tokens"),
        (vec![MODEL, "--input", "tokens", "--output", &out], "NAME=FILE.npy"),
        (vec![MODEL, "--input", "tokens=absent.npy", "--output", &out], "absent.npy"),
        (vec![MODEL, "--input", &text, "--output", &out], "a .npy file of"),
        (vec![MODEL, "--input", &absurd, "--output", &out], "tokens: cut short"),
        (vec![MODEL, "--input", &empty, "--output", &out], "tokens: expected a .npy file of"),
        (vec![MODEL, "--input", &text], "--output DIR"),
    ] {
        let done = run(&arguments);
        let message = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.lines().count() == 1 && message.contains(words), "{arguments:?}: {message}");
    }
}

#[test]
fn a_model_alone_is_answered_with_what_it_needs() {
    let done = run(&[MODEL]);
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(text.starts_with("reads   \"tokens\" int64 [") && text.contains("\nreturns \"probabilities\""), "{text}");
    let example =
        text.lines().last().and_then(|line| line.strip_prefix("to run it: gatewise run ")).expect("an example");
    let model = Path::new(MODEL).display().to_string();
    assert_eq!(example, format!("{model} --input tokens=tokens.npy --output out"));

    // The example runs.
    let folder = tempfile::tempdir().expect("a folder");
    write_npy(folder.path().join("tokens.npy"), &tokens()).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewise"));
    let done = command.arg("run").args(example.split(' ')).current_dir(folder.path()).output().expect("it runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(folder.path().join("out/probabilities.npy").exists());

    let json = run(&[MODEL, "--json"]);
    assert_eq!((json.status.code(), json.stdout.len()), (Some(2), 0), "programs get an error");
}

#[test]
fn a_check_lists_inputs_and_outputs() {
    let done = run(&[MODEL, "--check"]);
    let text = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0));
    assert!(text.contains("reads   \"tokens\"") && text.contains("returns \"probabilities\""), "{text}");
}

/// A fixture with something changed, as a file.
fn changed(folder: &Path, fixture: &str, change: impl FnOnce(&mut ModelProto)) -> String {
    let bytes = std::fs::read(format!("{FOLDER}/{fixture}.onnx")).expect("a fixture");
    let mut model = ModelProto::decode(&bytes[..]).expect("sound");
    change(&mut model);
    let path = folder.join("changed.onnx");
    std::fs::write(&path, model.encode_to_vec()).expect("a file");
    path.display().to_string()
}

#[test]
fn a_check_of_weights_that_are_no_numbers_exits_with_1() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = changed(folder.path(), "embedding_lstm", |model| {
        let tensor = model
            .graph
            .iter_mut()
            .flat_map(|graph| &mut graph.initializer)
            .find(|tensor| tensor.data_type == DataType::Float as i32 && !tensor.raw_data.is_empty())
            .expect("weights");
        let mut bytes = tensor.raw_data.to_vec();
        bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
        tensor.raw_data = bytes.into();
    });
    let done = run(&[&model, "--check"]);
    let text = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(1));
    assert!(text.contains("not finite: ") && text.contains("1 NaN, 0 infinite, first at 1"), "{text}");
    let done = run(&[&model, "--check", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(report["not_finite"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_grus_reset_is_warned_of_and_overruled() {
    let model = format!("{FOLDER}/gru_without_attribute.onnx");
    for (choice, words) in
        [("auto", "without linear_before_reset=1"), ("after", "the caller chose after"), ("before", "")]
    {
        let done = run(&[&model, "--check", "--gru-reset", choice]);
        let message = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(0));
        assert!(message.contains(words) && message.is_empty() == words.is_empty(), "{choice}: {message}");
    }
}

#[test]
fn outputs_that_would_share_a_file_are_refused_before_anything_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = changed(folder.path(), "gru_no_bias", |model| {
        let graph = model.graph.as_mut().expect("a graph");
        for (name, new) in [("Y", "out/a"), ("Y_h", "out:a")] {
            let names = graph.node.iter_mut().flat_map(|node| &mut node.output);
            let names = names.chain(graph.output.iter_mut().map(|info| &mut info.name));
            names.filter(|known| *known == name).for_each(|known| *known = new.to_owned());
        }
    });
    let input = folder.path().join("x.npy");
    write_npy(&input, &Array3::<f32>::zeros((5, 3, 2))).expect("a file");
    let out = folder.path().join("out");
    let argument = format!("X={}", input.display());
    let done = run(&[&model, "--input", &argument, "--output", &out.display().to_string(), "--device", "cpu"]);
    let message = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2));
    assert!(message.contains("out/a") && message.contains("out:a") && !out.exists(), "{message}");
}

#[test]
fn integers_go_in_and_out_in_their_own_width() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = format!("{FOLDER}/rnn_lengths.onnx");
    let save = |name: &str| folder.path().join(name);
    write_npy(save("x.npy"), &Array3::<f32>::zeros((5, 3, 2))).expect("a file");
    write_npy(save("h.npy"), &Array3::<f32>::zeros((2, 3, 4))).expect("a file");
    let (x, h) = (format!("X={}", save("x.npy").display()), format!("h0={}", save("h.npy").display()));
    let out = save("out").display().to_string();
    let lengths = |name: &str| {
        let lens = format!("lens={}", save(name).display());
        run(&[&model, "--input", &x, "--input", &h, "--input", &lens, "--output", &out, "--device", "cpu"])
    };
    write_npy(save("i16.npy"), &ndarray::array![5_i16, 1, 2]).expect("a file");
    write_npy(save("u32.npy"), &ndarray::array![5_u32, 1, 2]).expect("a file");
    write_npy(save("far.npy"), &ndarray::array![1_i64 << 40, 1, 2]).expect("a file");
    assert_eq!(lengths("i16.npy").status.code(), Some(0));
    assert_eq!(lengths("u32.npy").status.code(), Some(0));
    let far = lengths("far.npy");
    assert_eq!(far.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&far.stderr).contains("integers of the declared width"));
}

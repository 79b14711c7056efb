//! Names out of a stranger's file: escaped and cut, wherever they are shown.

use std::fs;
use std::path::Path;

use gatewise::onnx::proto::{Message, ModelProto};
use gatewise::onnx::{OnnxModel, OnnxOptions};
use ndarray::Array3;
use ndarray_npy::write_npy;
use tempfile::TempDir;

use crate::{ROOT, refused, run, text};

/// The fixture with a change of its message.
fn model(change: impl FnOnce(&mut ModelProto)) -> Vec<u8> {
    let bytes = fs::read(format!("{ROOT}/tests/fixtures/onnx/lstm_no_state.onnx")).expect("a fixture");
    let mut model = ModelProto::decode(&bytes[..]).expect("sound");
    change(&mut model);
    model.encode_to_vec()
}

/// Gives the last output another name.
fn rename_output(model: &mut ModelProto, name: &str) {
    let graph = model.graph.as_mut().expect("a graph");
    let old = graph.output.last().expect("an output").name.clone();
    let names = graph.node.iter_mut().flat_map(|node| &mut node.output);
    let names = names.chain(graph.output.iter_mut().map(|info| &mut info.name));
    names.filter(|known| **known == old).for_each(|known| *known = name.to_owned());
}

#[test]
fn a_name_with_control_characters_is_escaped() {
    let folder = TempDir::new().expect("a folder");
    fs::write(folder.path().join("m.onnx"), model(|model| rename_output(model, "\u{1b}[2J\u{0}y"))).expect("a file");
    write_npy(folder.path().join("x.npy"), &Array3::<f32>::zeros((5, 3, 2))).expect("a file");
    for arguments in ["run m.onnx --check", "run m.onnx --device cpu --input X=x.npy --output out"] {
        let output = run(folder.path(), arguments);
        let out = text(&output.stdout);
        assert!(output.status.success(), "{arguments}: {}", text(&output.stderr));
        assert!(out.contains(r"\u{1b}[2J") && !out.contains(['\u{1b}', '\0']), "{arguments}: {out:?}");
    }
    assert!(folder.path().join("out/__2J_y.npy").exists());
}

#[test]
fn a_long_list_of_inputs_is_cut() {
    let many = model(|model| {
        let graph = model.graph.as_mut().expect("a graph");
        let info = graph.input.first().expect("an input").clone();
        for at in 0..2000 {
            let mut info = info.clone();
            info.name = format!("input{at}");
            graph.input.push(info);
        }
    });
    let model = OnnxModel::from_bytes("m.onnx", &many, &OnnxOptions::default()).expect("sound");
    for error in
        [model.run(&[]).map(drop), model.run(&[("z", Array3::<f32>::zeros((5, 3, 2)).into_dyn().into())]).map(drop)]
    {
        let said = error.expect_err("inputs are missing").to_string();
        assert!(said.len() < 700 && said.contains("input0") && said.contains(" more"), "{said}");
    }
}

#[test]
fn a_suites_names_are_escaped_in_its_table() {
    let folder = TempDir::new().expect("a folder");
    let suite = r#"[{"name":"\u001b[2Ja","cell":"lstm","I":4,"H":8,"layers":1,"T":2,"B":1}]"#;
    fs::write(folder.path().join("suite.json"), suite).expect("a file");
    let bench = "bench --device cpu --budget-ms 1 --min-runs 1 --no-roofline --suite suite.json";
    let out = text(&run(folder.path(), bench).stdout);
    assert!(out.contains(r"\u{1b}[2Ja") && !out.contains('\u{1b}'), "{out:?}");
    let out = text(&run(folder.path(), &format!("{bench} --json")).stdout);
    assert!(out.contains(r"\u001b[2Ja") && !out.contains('\u{1b}'), "{out:?}");
}

#[test]
fn paths_are_escaped_and_cut() {
    let said = refused(Path::new(ROOT), "vad absent\u{1b}\n.wav");
    assert!(said.contains(r"absent\u{1b}\n.wav"), "{said}");
    let said = refused(Path::new(ROOT), &format!("vad {}", "a/".repeat(1500)));
    assert!(said.contains(" more ..."), "{said}");
}

//! Every golden case on every device, through the command that users prove their own machine with.
#![cfg(feature = "gpu")]

mod common;

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde_json::Value;

fn verify(arguments: &[&str]) -> Output {
    Command::new(common::program()).arg("verify").args(arguments).output().expect("the program runs")
}

/// The folder of the cases.
fn cases() -> String {
    common::root().join("tests/golden").display().to_string()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn every_case_passes_on_every_device() {
    let output = verify(&[&cases(), "--grads", "--json"]);
    let lines = lines(&output);
    let (summary, lines) = lines.split_last().expect("a summary");
    let mut passed: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in lines {
        let (kind, device) = (line["kind"].as_str().expect("kind"), line["device"].as_str().expect("device"));
        if kind == "train" {
            assert!(line["max_grad_err"].as_f64().is_some_and(|error| error < 1e-4), "{line}");
        }
        assert_eq!(line["pass"], true, "{line}");
        assert!(line["max_abs_err"].as_f64() <= line["tol"].as_f64(), "{line}");
        if ["torch", "keras", "lecture"].contains(&kind) {
            let error = line["max_grad_err"].as_f64().expect("gradients");
            assert!(error < 3e-4, "{line}");
        } else if kind != "train" {
            assert!(line["max_grad_err"].is_null(), "{line}");
        }
        *passed.entry((kind, device)).or_default() += 1;
    }
    for device in ["reference", "cpu", "gpu"] {
        for (kind, count) in
            [("torch", 58), ("keras", 35), ("lecture", 24), ("onnxrt", 44), ("silero", 2), ("real", 4), ("train", 9)]
        {
            assert_eq!(passed.get(&(kind, device)), Some(&count), "{kind} on {device}");
        }
    }
    assert_eq!(summary["summary"]["failed"], 0);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_wrong_expectation_fails_and_the_exit_status_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let golden = cases();
    let golden = golden.as_str();
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{golden}/manifest.json")).expect("the manifest"))
            .expect("JSON");
    let name = "lstm_L1_lens";
    let case = manifest["cases"].as_array().expect("cases").iter().find(|c| c["name"] == name).expect("the case");
    let file = case["file"].as_str().expect("file");
    let whole = std::fs::read(format!("{golden}/{file}")).expect("the case's file");
    let mut bytes = whole.clone();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..header]).expect("a header");
    let at = header + tensors["y"]["data_offsets"][0].as_u64().expect("an offset") as usize;
    let write = |bytes: &[u8]| std::fs::write(folder.path().join(file), bytes).expect("a copy");
    let json = serde_json::json!({ "cases": [case] }).to_string();
    std::fs::write(folder.path().join("manifest.json"), json).expect("a manifest");
    let path = folder.path().display().to_string();
    let run = || verify(&[&path, "--json"]);

    write(&bytes);
    assert_eq!(run().status.code(), Some(0));
    let y = f32::from_le_bytes(bytes[at..at + 4].try_into().expect("a float"));
    for (slip, error) in [(y + 1e-3, Some(1e-3)), (f32::NAN, None)] {
        bytes[at..at + 4].copy_from_slice(&slip.to_le_bytes());
        write(&bytes);
        let output = run();
        assert_eq!(output.status.code(), Some(1));
        let lines = lines(&output);
        assert_eq!(lines[0]["pass"], false);
        assert_eq!(lines[0]["max_abs_err"].as_f64().map(|e| (e * 1e4).round() / 1e4), error);
        assert_eq!(lines[3]["summary"]["failed"], 3);
    }
    write(&whole);
    let gradient = &tensors["grad.weight_hh_l0"]["data_offsets"];
    let [first, last] = [0, 1].map(|at| header + gradient[at].as_u64().expect("an offset") as usize);
    let largest = whole[first..last].as_chunks().0.iter().map(|x| f32::from_le_bytes(*x).abs()).fold(0.0, f32::max);
    let d = f32::from_le_bytes(whole[first..first + 4].try_into().expect("a float"));
    let mut slipped = whole.clone();
    slipped[first..first + 4].copy_from_slice(&(d + 0.01 * largest).to_le_bytes());
    write(&slipped);
    assert_eq!(run().status.code(), Some(0), "nobody asked for gradients");
    let output = verify(&[&path, "--json", "--grads"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines(&output)[3]["summary"]["failed"], 3);
    assert!(lines(&output)[0]["max_grad_err"].as_f64().is_some_and(|error| (0.009..0.011).contains(&error)));

    write(&bytes[..bytes.len() - 1]);
    let output = run();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.lines().count() == 1 && message.contains(file) && message.contains("safetensors"), "{message}");
}

#[test]
fn a_folder_without_cases_and_a_case_that_is_not_there_are_bad_input() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let golden = cases();
    let golden = golden.as_str();
    std::fs::create_dir(folder.path().join("empty")).expect("a folder");
    std::fs::write(folder.path().join("empty/manifest.json"), r#"{"cases": []}"#).expect("a manifest");
    let empty = folder.path().join("empty").display().to_string();
    for (arguments, words) in [
        (vec![path.as_str()], "manifest.json"),
        (vec![empty.as_str()], "at least one"),
        (vec![golden, "--case", "no such case"], "no such case"),
    ] {
        let output = verify(&arguments);
        assert_eq!(output.status.code(), Some(2));
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.lines().count() == 1 && message.contains(words), "{message}");
    }
}

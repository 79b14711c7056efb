//! Standard output or standard error goes away.

use std::fs::{self, File, OpenOptions};
use std::io::pipe;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{ROOT, command, recording, refused, text, wait};

/// A standard output on a disk that is full.
fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").expect("Linux has it")
}

fn reader_gone() -> Stdio {
    let (reader, writer) = pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Every command, in a folder with what they read.
fn commands(folder: &Path) -> Vec<String> {
    recording(&folder.join("in.wav"));
    let suite = r#"[{"name":"a","cell":"lstm","I":4,"H":8,"layers":1,"T":2,"B":1}]"#;
    fs::write(folder.join("suite.json"), suite).expect("a file");
    fs::write(folder.join("text.txt"), "ab ba. ".repeat(400)).expect("a file");
    let trained = "train text text.txt --cell gru --hidden 4 --width 4 --batch 4 --window 16 --epochs 1 --out text";
    assert_eq!(crate::run(folder, trained).status.code(), Some(0));
    let model = format!("{ROOT}/tests/fixtures/onnx/lstm_no_state.onnx");
    let train = "train copy --symbols 2 --lag 3 --hidden 4 --batch 2 --epochs 1 --cell rnn --out run";
    let bench = "bench --device cpu --suite suite.json --budget-ms 1 --min-runs 1 --no-roofline";
    [
        "--help".to_owned(),
        "vad --help".to_owned(),
        "--version".to_owned(),
        "devices".to_owned(),
        "devices --json".to_owned(),
        "plan -I 4 -H 8 -T 3".to_owned(),
        "plan -I 4 -H 8 -T 3 --json".to_owned(),
        "vad in.wav --device cpu".to_owned(),
        "vad in.wav --device cpu --json".to_owned(),
        "flow --time 5 --hidden 4 --batch 1".to_owned(),
        "flow --time 5 --hidden 4 --batch 1 --json".to_owned(),
        format!("run {model} --check"),
        format!("run {model} --check --json"),
        format!("verify {ROOT}/tests/golden --case rnn_tanh_T1_B1 --device cpu"),
        format!("verify {ROOT}/tests/golden --case rnn_tanh_T1_B1 --device cpu --json"),
        bench.to_owned(),
        format!("{bench} --json"),
        format!("sentiment fine --weights {ROOT}/models/sentiment_lstm.safetensors"),
        format!("sentiment fine --json --weights {ROOT}/models/sentiment_lstm.safetensors"),
        "generate --weights text/best.safetensors --length 5".to_owned(),
        train.to_owned(),
        format!("{train} --json"),
    ]
    .into()
}

/// Exit code and standard error.
fn end(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program runs");
    wait(&mut child);
    let output = child.wait_with_output().expect("its output");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn a_full_disk_is_one_line_and_a_reader_that_is_gone_none() {
    let folder = TempDir::new().expect("a folder");
    for arguments in commands(folder.path()) {
        let with = |out: Stdio| {
            let _ = fs::remove_dir_all(folder.path().join("run"));
            let mut command = command(folder.path(), &arguments);
            command.stdout(out);
            end(command)
        };
        let (code, said) = with(full().into());
        let line = said.trim_end();
        assert!(code == Some(2) && line.lines().count() == 1, "{arguments}: {code:?}, {said}");
        assert!(line.starts_with("gatewise: standard output: ") && line.contains("os error 28"), "{arguments}: {said}");
        assert_eq!(with(reader_gone()), (Some(141), String::new()), "{arguments}");
    }
}

#[test]
fn a_command_ends_as_it_should_where_nobody_hears_its_errors() {
    let folder = TempDir::new().expect("a folder");
    let grus = format!("run {ROOT}/tests/fixtures/onnx/gru_without_attribute.onnx --check");
    let warned = grus.as_str();
    for (arguments, expected) in [("vad absent.wav", 2), ("vad --nonsense", 2), (warned, 0)] {
        for err in [full().into(), reader_gone()] {
            let mut child =
                command(folder.path(), arguments).stdout(Stdio::null()).stderr(err).spawn().expect("the program runs");
            wait(&mut child);
            let status = child.wait().expect("its status");
            assert_eq!(status.code(), Some(expected), "{arguments}");
        }
    }
}

#[test]
fn files_are_written_before_the_output_fails() {
    let folder = TempDir::new().expect("a folder");
    recording(&folder.path().join("in.wav"));
    let mut command = command(folder.path(), "vad in.wav --device cpu --probs p.csv --plot p.svg");
    command.stdout(full());
    assert_eq!(end(command).0, Some(2));
    assert_eq!(fs::read_to_string(folder.path().join("p.csv")).expect("written").lines().count(), 1 + 47);
    assert!(folder.path().join("p.svg").exists());
}

#[test]
fn outputs_go_to_the_standard_output_where_it_is_named() {
    let folder = TempDir::new().expect("a folder");
    recording(&folder.path().join("in.wav"));
    let lines = |out: &str| out.lines().filter(|line| line.contains(',')).count();
    // Through a pipe, and into a file that the shell has opened.
    let output = crate::run(folder.path(), "vad in.wav --device cpu --probs /dev/stdout");
    let out = text(&output.stdout);
    assert!(output.status.success() && out.starts_with("seconds,probability\n0.000,"), "{out}");
    assert!(lines(&out) >= 48 && out.contains("segment(s)"), "{out}");
    let mut command = command(folder.path(), "vad in.wav --device cpu --probs /dev/stdout --plot /dev/null");
    command.stdout(File::create(folder.path().join("out.txt")).expect("a file"));
    assert_eq!(end(command), (Some(0), String::new()));
    let out = fs::read_to_string(folder.path().join("out.txt")).expect("text");
    assert!(lines(&out) >= 48 && out.contains("segment(s)"), "{out}");
    // One stream for two outputs would be neither.
    let said = refused(folder.path(), "vad in.wav --device cpu --probs /dev/stdout --plot /dev/stdout");
    assert!(said.contains("the same file as --probs /dev/stdout"), "{said}");
}

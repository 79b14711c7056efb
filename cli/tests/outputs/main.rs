//! The files that the commands write: none over an input, none half written, and no panic if standard output or error goes
//! away. The commands also show texts of strangers' files safely.
#![cfg(feature = "gpu")]

mod files;
#[cfg(target_os = "linux")]
mod gone;
mod names;
mod numbers;
#[cfg(target_os = "linux")]
mod special;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gatewise::weights::Weights;
use ndarray::ArrayD;

/// The repository's folder.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The program with arguments that stand apart by blanks.
fn command(folder: &Path, arguments: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gatewise"));
    command.args(arguments.split(' ')).current_dir(folder).stdin(Stdio::null());
    command.env("XDG_CACHE_HOME", folder.join("cache")).env_remove("RUST_BACKTRACE");
    command
}

/// Runs it to its end, which comes soon.
fn finish(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    wait(&mut child);
    child.wait_with_output().expect("its output")
}

/// Waits for a program whose output fits into a pipe.
fn wait(child: &mut std::process::Child) {
    let began = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().expect("ended");
            panic!("no end after a minute");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn run(folder: &Path, arguments: &str) -> Output {
    finish(&mut command(folder, arguments))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The one line of a refusal.
fn refused(folder: &Path, arguments: &str) -> String {
    let output = run(folder, arguments);
    one_line(&output, arguments)
}

fn one_line(output: &Output, arguments: &str) -> String {
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""), "{arguments}: {said}");
    let line = said.trim_end_matches('\n');
    assert!(!line.chars().any(char::is_control) && line.chars().count() < 2000, "{arguments}: {said:?}");
    line.to_owned()
}

/// A second and a half of a sound at 16 kHz.
fn recording(path: &Path) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).expect("a WAV");
    (0..24_000_i16).for_each(|at| writer.write_sample(at % 977).expect("a sample"));
    writer.finalize().expect("a WAV");
}

/// A file of weights of the repository with one element changed.
fn with_element(name: &str, tensor: &str, value: f32, path: &Path) {
    let weights = Weights::from_file(PathBuf::from(ROOT).join("models").join(name)).expect("weights");
    let mut changed = Weights::new();
    for name in weights.names() {
        let mut array: ArrayD<f32> = weights.get(name).expect("a tensor");
        if name == tensor {
            *array.iter_mut().nth(10).expect("an element") = value;
        }
        changed.insert(name, array).expect("a new name");
    }
    for key in ["job", "cell", "symbols", "inputs", "hidden", "layers", "outputs", "vocabulary"] {
        if let Ok(value) = weights.metadata(key) {
            changed.note(key, value);
        }
    }
    changed.save(path).expect("written");
}

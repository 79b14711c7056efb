//! Files that a command reads: streamed, hostile, missing, or too long for memory.
#![cfg(feature = "gpu")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gatewise::Device;
use gatewise::models::SileroVad;
use gatewise::weights::Weights;
use serde_json::{Value, json};

fn gatewise(arguments: &[&str]) -> Output {
    Command::new(common::program()).args(arguments).stdin(Stdio::null()).output().expect("it runs")
}

/// Runs to exit code 2 and returns the one line on standard error.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
    let output = gatewise(arguments);
    let line = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {line}");
    assert!(line.lines().count() == 1 && line.len() < 2_000, "{arguments:?}: {line}");
    assert!(!line.trim_end().contains(char::is_control), "{arguments:?}: {line:?}");
    line
}

fn name(folder: &tempfile::TempDir, file: &str) -> String {
    folder.path().join(file).display().to_string()
}

/// A folder with a FIFO in it, which nobody writes to.
#[cfg(target_os = "linux")]
fn with_fifo(file: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let made = Command::new("mkfifo").arg(folder.path().join(file)).status().expect("mkfifo");
    assert!(made.success());
    folder
}

/// A 16-bit WAV whose header claims `claimed` bytes of samples, for `samples` to follow.
fn header(rate: u32, channels: u16, claimed: u32) -> Vec<u8> {
    let frame = channels * 2;
    let mut bytes = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0".to_vec();
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate.to_le_bytes());
    bytes.extend((rate * u32::from(frame)).to_le_bytes());
    bytes.extend(frame.to_le_bytes());
    bytes.extend(b"\x10\0data");
    bytes.extend(claimed.to_le_bytes());
    bytes
}

/// The first 1.6 seconds of a sentence that ships with the program, as a file holds them.
fn sentence() -> Vec<u8> {
    let path = common::root().join("cli/assets/sense_and_sensibility_01_austen_64kb-0870.wav");
    let samples = hound::WavReader::open(path).expect("the recording").into_samples::<i16>();
    samples.take(25_600).flat_map(|sample| sample.expect("a sample").to_le_bytes()).collect()
}

fn report(arguments: &[&str]) -> Value {
    let output = gatewise(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_streamed_wav_is_detected_like_a_whole_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let samples = sentence();
    let write = |file: &str, claimed: usize| {
        let head = header(16_000, 1, u32::try_from(claimed).expect("32 bits"));
        fs::write(folder.path().join(file), [head, samples.clone()].concat()).expect("a file");
        report(&["vad", &name(&folder, file), "--device", "cpu", "--json"])
    };
    let whole = write("whole.wav", samples.len());
    assert_eq!(whole["segments"].as_array().map(Vec::len), Some(1), "{whole}");
    for claimed in [0xffff_ffff, 0x7fff_f000, 0x8000_0000, 0] {
        let streamed = write("streamed.wav", claimed);
        for field in ["seconds", "frames", "segments"] {
            assert_eq!(streamed[field], whole[field], "{claimed:#x}");
        }
    }
    fs::write(folder.path().join("cut.wav"), [header(16_000, 1, 1 << 20), samples].concat()).expect("a file");
    assert!(refused(&["vad", &name(&folder, "cut.wav"), "--device", "cpu"]).contains("the end of the file after"));
}

#[test]
fn a_recording_read_in_blocks_gives_the_numbers_of_the_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    let samples = [sentence(), vec![0; 2]].concat();
    let head = header(16_000, 1, u32::try_from(samples.len()).expect("32 bits"));
    fs::write(folder.path().join("x.wav"), [&head, &samples[..]].concat()).expect("a file");
    let (wav, csv, svg) = (name(&folder, "x.wav"), name(&folder, "p.csv"), name(&folder, "p.svg"));
    let said = report(&["vad", &wav, "--device", "cpu", "--json", "--probs", &csv, "--plot", &svg]);
    let weights = Weights::from_file(common::root().join("models/silero_vad_16k.safetensors")).expect("weights");
    let floats: Vec<f32> =
        samples.as_chunks().0.iter().map(|&sample| f32::from(i16::from_le_bytes(sample)) / 32768.0).collect();
    let vad = SileroVad::new(&Device::Cpu, &weights).expect("a detector");
    let expected = vad.probabilities(&floats).expect("probabilities");
    assert!(expected.len() == 51 && said["frames"] == expected.len(), "{said}");
    let written = fs::read_to_string(&csv).expect("rows");
    let rows = written.lines().skip(1).map(|row| row.split_once(',').expect("two columns").1.to_owned());
    assert!(rows.eq(expected.iter().map(|p| format!("{p:.6}"))));
    assert!(fs::read_to_string(&svg).expect("a picture").starts_with("<svg"));
}

/// The most memory of a process in KiB, asked of the kernel again and again until the process ends. The figure after its end
/// would count the memory of the process that started it as well.
#[cfg(target_os = "linux")]
fn peak(arguments: &[&str]) -> u64 {
    let mut child = Command::new(common::program()).args(arguments).stdout(Stdio::null()).spawn().expect("it runs");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(most);
        if let Some(ended) = child.try_wait().expect("a child") {
            break ended;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    assert!(ended.success() && most > 0, "{arguments:?}: {ended}");
    most
}

#[cfg(target_os = "linux")]
#[test]
fn a_long_recording_takes_the_memory_of_a_block() {
    const RATE: u32 = 768_000;
    let folder = tempfile::tempdir().expect("a folder");
    let (wav, plot) = (name(&folder, "long.wav"), name(&folder, "p.svg"));
    // Silence, which takes no room on the disk. As f32 at its own rate, 12 seconds would be 37 MB.
    let vad = |seconds: u32| {
        let size = RATE * 2 * 2 * seconds;
        let mut file = File::create(&wav).expect("a file");
        file.write_all(&header(RATE, 2, size)).expect("a header");
        file.set_len(44 + u64::from(size)).expect("room");
        peak(&["vad", &wav, "--device", "cpu", "--plot", &plot])
    };
    let (short, long) = (vad(1), vad(12));
    assert!(long < short + (16 << 10), "{short} KiB for 1 second, {long} KiB for 12");
}

#[cfg(target_os = "linux")]
#[test]
fn a_sentence_of_many_words_takes_memory_in_proportion() {
    let weights = common::root().join("models/sentiment_lstm.safetensors").display().to_string();
    let text = |words: usize| "a lovely film, never dull ".repeat(words / 6);
    let of = |words: usize| peak(&["sentiment", &text(words), "--weights", &weights, "--json"]);
    let (some, many) = (of(600), of(4_800));
    assert!(many - some < 60 << 10, "{some} KiB for 600 words, {many} KiB for 4,800");
}

#[test]
fn a_word_is_judged_by_the_words_up_to_it() {
    let weights = common::root().join("models/sentiment_lstm.safetensors").display().to_string();
    let words = ["a", "dull", "plot", ",", "yet", "a", "lovely", "film"];
    let say = |count: usize| report(&["sentiment", &words[..count].join(" "), "--weights", &weights, "--json"]);
    let whole = say(words.len());
    for count in 1..=words.len() {
        let part = say(count);
        let praise = part["praise"].as_f64().expect("a share");
        let step = whole["words"][count - 1]["praise"].as_f64().expect("a share");
        assert!((praise - step).abs() < 1e-6, "{count} words: {praise} and {step}");
    }
    assert!((whole["praise"].as_f64().expect("a share") - 0.011_356_98).abs() < 1e-6, "{whole}");
}

#[test]
fn a_hostile_npy_file_is_refused_in_one_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = common::root().join("tests/fixtures/onnx/lstm_no_state.onnx").display().to_string();
    let array = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
    let twice = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'shape': (99999999999,), }".to_owned();
    for (header, words) in [
        ("[".repeat(30) + &"]".repeat(30), "expected '{'"),
        ("[".repeat(30_000), "expected '{'"),
        (array("(0xfffffffffff,)"), "expected ','"),
        (array("(0,18446744073709551615)"), "at most"),
        (array("(99999999999,)"), "cut short"),
        (twice, "once, found 'shape' twice"),
    ] {
        let header = header + "\n";
        let length = u16::try_from(header.len()).expect("short").to_le_bytes();
        let bytes = [b"\x93NUMPY\x01\0", &length[..], header.as_bytes(), &[0; 20]].concat();
        fs::write(folder.path().join("x.npy"), bytes).expect("a file");
        let (input, output) = (format!("X={}", name(&folder, "x.npy")), name(&folder, "out"));
        let line = refused(&["run", &model, "--input", &input, "--device", "cpu", "--output", &output]);
        assert!(line.contains(words), "{line}");
        assert!(!Path::new(&output).exists());
    }
}

/// A folder with a manifest of such cases: name, kind and file.
fn golden(folder: &Path, cases: &[(&str, &str)]) -> PathBuf {
    let source = common::root().join("tests/golden");
    let manifest: Value =
        serde_json::from_slice(&fs::read(source.join("manifest.json")).expect("a manifest")).expect("JSON");
    let whole = manifest["cases"].as_array().expect("cases").iter().find(|case| case["name"] == "gru_L1");
    let whole = whole.expect("a case");
    let file = whole["file"].as_str().expect("a file");
    fs::copy(source.join(file), folder.join("whole.safetensors")).expect("a copy");
    let case = |&(name, file): &(&str, &str)| {
        let mut case = whole.clone();
        (case["name"], case["file"]) = (json!(name), json!(file));
        case
    };
    let cases: Vec<Value> = cases.iter().map(case).collect();
    fs::write(folder.join("manifest.json"), json!({ "cases": cases }).to_string()).expect("a manifest");
    folder.to_owned()
}

#[test]
fn a_case_that_cannot_be_read_fails_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases = [
        ("first", "whole.safetensors"),
        ("lost", "none.safetensors"),
        ("broken", "cut"),
        ("last", "whole.safetensors"),
    ];
    let path = golden(folder.path(), &cases).display().to_string();
    let whole = fs::read(folder.path().join("whole.safetensors")).expect("a file");
    fs::write(folder.path().join("cut"), &whole[..whole.len() - 1]).expect("a file");
    let output = gatewise(&["verify", &path, "--device", "cpu", "--json"]);
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(
        line.lines().count() == 1 && line.contains("case lost, the first of 2") && line.contains("none.safetensors")
    );
    let text = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let passes: Vec<_> = lines.iter().map(|line| line["pass"].as_bool()).collect();
    assert_eq!(passes, [Some(true), Some(false), Some(false), Some(true), None]);
    assert!(lines[1]["error"].as_str().is_some_and(|error| error.contains("none.safetensors")), "{}", lines[1]);
    assert!(lines[2]["error"].as_str().is_some_and(|error| error.contains("whole safetensors")), "{}", lines[2]);
    assert!(
        lines[0].get("error").is_none() && lines[4]["summary"] == json!({"passed": 2, "failed": 2, "unsupported": 0})
    );

    let output = gatewise(&["verify", &path, "--device", "cpu"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.code() == Some(2) && text.contains("2 passed, 2 failed, 0 unsupported"), "{text}");
    assert!(text.lines().any(|line| line.contains("lost") && line.contains("FAIL: ")), "{text}");
}

#[test]
fn nothing_outside_of_a_manifests_folder_is_read() {
    let root = tempfile::tempdir().expect("a folder");
    let folder = root.path().join("cases");
    fs::create_dir(&folder).expect("a folder");
    golden(&folder, &[]);
    fs::copy(folder.join("whole.safetensors"), root.path().join("outside")).expect("a copy");
    let outside = root.path().join("outside").display().to_string();
    let files = ["../outside", &outside, "/dev/zero", ".", "\u{1b}[31mred\n\n"];
    for file in files {
        let path = golden(&folder, &[("\u{1b}[2J", file)]).display().to_string();
        refused(&["verify", &path, "--device", "cpu"]);
        let output = gatewise(&["verify", &path, "--device", "cpu"]);
        assert!(!output.stdout.contains(&0x1b), "{}", String::from_utf8_lossy(&output.stdout));
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(&outside, folder.join("link")).expect("a link");
        let path = golden(&folder, &[("a", "link")]).display().to_string();
        assert!(refused(&["verify", &path, "--device", "cpu"]).contains("not a link out"));
    }
}

#[test]
fn sizes_that_a_manifest_makes_up_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = common::root().join("tests/golden");
    let manifest: Value =
        serde_json::from_slice(&fs::read(source.join("manifest.json")).expect("a manifest")).expect("JSON");
    let cases = manifest["cases"].as_array().expect("cases");
    let huge = (1_u64 << 62) + 1;
    for (kind, case, field, value) in [
        ("torch", "gru_L1", "dims", json!({"I": huge, "H": huge})),
        ("torch", "gru_L1", "layers", json!(huge)),
        ("torch", "lstm_proj_L1", "proj_size", json!(huge)),
        ("lecture", "gru_sigmoid", "dims", json!({"I": 4, "H": huge})),
        ("train", "gru_adam_tag", "dims", json!({"T": 7, "B": 2, "I": 5, "H": huge, "C": 4})),
        ("train", "gru_adam_tag", "dims", json!({"T": huge, "B": huge, "I": 5, "H": 8, "C": 4})),
        ("train", "gru_adam_tag", "layers", json!(huge)),
        ("train", "gru_adam_tag", "steps", json!(u64::MAX)),
    ] {
        let found = cases.iter().find(|found| found["name"] == case && found["kind"] == kind);
        let mut entry = found.unwrap_or_else(|| panic!("{kind} {case}")).clone();
        let file = entry["file"].as_str().expect("a file").to_owned();
        fs::copy(source.join(&file), folder.path().join(&file)).expect("a copy");
        entry[field] = value;
        let text = json!({ "cases": [entry] }).to_string();
        fs::write(folder.path().join("manifest.json"), text).expect("a manifest");
        refused(&["verify", &folder.path().display().to_string(), "--device", "cpu"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_fifo_or_a_device_is_refused_and_not_waited_for() {
    let folder = with_fifo("fifo");
    let fifo = name(&folder, "fifo");
    assert!(refused(&["vad", &fifo, "--device", "cpu"]).contains("found a FIFO"));
    assert!(refused(&["vad", "/dev/zero", "--device", "cpu"]).contains("found a character device"));
    let model = common::root().join("tests/fixtures/onnx/lstm_no_state.onnx").display().to_string();
    for (path, words) in [(&fifo[..], "found a FIFO"), ("/dev/zero", "found a character device")] {
        let (input, output) = (format!("X={path}"), name(&folder, "out"));
        assert!(refused(&["run", &model, "--input", &input, "--device", "cpu", "--output", &output]).contains(words));
    }
    let path = golden(folder.path(), &[("a", "fifo")]).display().to_string();
    assert!(refused(&["verify", &path, "--device", "cpu"]).contains("found a FIFO"));
    let folder = with_fifo("manifest.json");
    assert!(refused(&["verify", &folder.path().display().to_string()]).contains("found a FIFO"));
}

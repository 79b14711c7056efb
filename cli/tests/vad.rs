//! Speech detection: streams equal whole recordings, bad audio is refused, and the command keeps its contract.
#![cfg(feature = "gpu")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use gatewise::gpu::GpuOptions;
use gatewise::models::{Segment, SegmentOptions, SileroVad, speech_segments};
use gatewise::weights::Weights;
use gatewise::{Device, Error};

fn recording() -> Vec<f32> {
    let path = root().join("cli/assets/sense_and_sensibility_01_austen_64kb-0930.wav");
    let samples = hound::WavReader::open(path).expect("the recording").into_samples::<i16>();
    samples.map(|sample| f32::from(sample.expect("a sample")) / 32768.0).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn detector(device: &Device) -> SileroVad {
    let weights = Weights::from_file(root().join("models/silero_vad_16k.safetensors")).expect("weights");
    SileroVad::new(device, &weights).expect("detector")
}

fn gpu() -> Device {
    Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine")
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
}

#[test]
fn a_stream_in_pieces_equals_the_whole_recording() {
    let samples = recording();
    for device in [Device::Cpu, gpu()] {
        let vad = detector(&device);
        let whole = vad.probabilities(&samples).expect("whole");
        assert_eq!(whole.len(), samples.len().div_ceil(512));
        let mut stream = vad.stream().expect("stream");
        let mut pieces = Vec::new();
        let mut at = 0;
        for size in [1, 511, 512, 513, 0, 7, 5000, 160, 4096].into_iter().cycle() {
            let end = (at + size).min(samples.len());
            pieces.extend(stream.push(&samples[at..end]).expect("push"));
            at = end;
            if at == samples.len() {
                break;
            }
        }
        pieces.extend(stream.finish().expect("finish"));
        // The front of a piece is a matrix product of another size; its sums may round differently.
        let difference = largest_difference(&whole, &pieces);
        assert!(difference < 1e-5, "{device}: {difference}");
    }
}

#[test]
fn a_refused_piece_leaves_the_stream_as_it_was() {
    let samples = recording();
    for device in [Device::Reference, Device::Cpu, gpu()] {
        let vad = detector(&device);
        let (mut plain, mut troubled) = (vad.stream().expect("stream"), vad.stream().expect("stream"));
        let mut expected = plain.push(&samples[..3000]).expect("push");
        let mut got = troubled.push(&samples[..3000]).expect("push");
        let before = troubled.state().expect("state");
        let mut broken = samples[3000..5000].to_vec();
        broken[1234] = f32::NAN;
        let error = troubled.push(&broken).expect_err("NaN");
        assert!(matches!(error, Error::NotFinite { index: 1234, .. }), "{error}");
        assert_eq!(troubled.state().expect("state"), before);
        expected.extend(plain.push(&samples[3000..5000]).expect("push"));
        got.extend(troubled.push(&samples[3000..5000]).expect("push"));
        assert_eq!(got, expected, "{device}");
    }
}

#[test]
fn less_than_a_frame_is_refused() {
    let error = detector(&Device::Cpu).probabilities(&[0.0; 511]).expect_err("short");
    assert!(matches!(error, Error::Shape { what: "samples", .. }), "{error}");
}

#[test]
fn segments_follow_the_thresholds() {
    let options = SegmentOptions::default();
    let of = |spans: &[(std::ops::Range<usize>, f32)]| {
        let mut probabilities = vec![0.0; 200];
        for (range, p) in spans {
            probabilities[range.clone()].fill(*p);
        }
        let frames = |x: f64| (x / 0.032 * 100.0).round() / 100.0;
        let segments = speech_segments(&probabilities, 200 * 512, &options);
        segments.iter().map(|&Segment { start, end, .. }| (frames(start), frames(end))).collect::<Vec<_>>()
    };
    let pad = 0.94; // 30 ms in frames
    // Between the thresholds speech goes on but does not begin.
    assert_eq!(of(&[(20..30, 0.4)]), []);
    assert_eq!(of(&[(10..20, 0.9), (20..30, 0.4)]), [(10.0 - pad, 30.0 + pad)]);
    // 96 ms of silence separate nothing, 128 ms do.
    assert_eq!(of(&[(10..20, 0.9), (23..33, 0.9)]), [(10.0 - pad, 33.0 + pad)]);
    assert_eq!(of(&[(10..20, 0.9), (25..35, 0.9)]), [(10.0 - pad, 20.0 + pad), (25.0 - pad, 35.0 + pad)]);
    // Less than 250 ms is dropped.
    assert_eq!(of(&[(10..17, 0.9)]), []);
    // Nothing is padded beyond the recording's ends.
    assert_eq!(of(&[(0..200, 0.9)]), [(0.0, 200.0)]);
}

fn gatewise(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gatewise")).args(arguments).current_dir(folder).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn the_command_finds_the_sentence_on_every_device() {
    let folder = tempfile::tempdir().expect("a folder");
    for device in ["reference", "cpu", "gpu"] {
        let output = gatewise(&["vad", "--device", device, "--json"], folder.path());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(report["device"].as_str().is_some_and(|name| name.starts_with(device)), "{report}");
        assert_eq!(report["frames"], 222);
        assert_eq!(report["segments"].as_array().map(Vec::len), Some(1), "{report}");
        let edge = |name: &str| report["segments"][0][name].as_f64().expect("a time");
        assert!((edge("start") - 0.194).abs() < 0.033 && (edge("end") - 6.91).abs() < 0.033, "{report}");
    }
}

#[test]
fn the_command_writes_probabilities_and_a_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = gatewise(&["vad", "--device", "cpu", "--probs", "p.csv", "--plot", "p.svg"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("device: cpu"));
    let csv = std::fs::read_to_string(folder.path().join("p.csv")).expect("p.csv");
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!((rows.len(), rows[0], &rows[2][..6]), (223, "seconds,probability", "0.032,"));
    assert!(std::fs::read_to_string(folder.path().join("p.svg")).expect("p.svg").starts_with("<svg"));
}

#[test]
fn compare_runs_both_paths_and_they_agree() {
    let output = gatewise(&["vad", "--compare", "--json"], &root());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let compare = &report["compare"];
    assert!(compare["max_abs_difference"].as_f64().is_some_and(|d| d < 1e-4), "{report}");
    assert!(compare["gpu_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{report}");
}

#[test]
fn bad_input_is_one_line_and_exit_code_two() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, spec: hound::WavSpec, samples: &[f32]| {
        let mut writer = hound::WavWriter::create(folder.path().join(name), spec).expect("a WAV");
        for &sample in samples {
            writer.write_sample(sample).expect("a sample");
        }
        writer.finalize().expect("a WAV");
    };
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    write("empty.wav", spec, &[]);
    write("eight.wav", spec, &[0.1; 8]);
    write("nan.wav", spec, &[&[0.0; 999], &[f32::NAN][..]].concat());
    std::fs::write(folder.path().join("text.wav"), "not a recording").expect("a file");
    let weights = std::fs::read(root().join("models/silero_vad_16k.safetensors")).expect("weights");
    std::fs::write(folder.path().join("cut.safetensors"), &weights[..weights.len() / 2]).expect("a file");
    // The header alone is changed, to as many bytes: a tensor of another name, of another shape, of another type.
    let edit = |name: &str, from: &str, to: &str| {
        let length = weights[..8].iter().rev().fold(0, |length, &byte| length << 8 | usize::from(byte));
        let header = text(&weights[8..8 + length]);
        assert!(header.contains(from), "{header}");
        let changed = header.replacen(from, to, 1);
        assert_eq!(changed.len(), length);
        std::fs::write(folder.path().join(name), [&weights[..8], changed.as_bytes(), &weights[8 + length..]].concat())
            .expect("a file");
    };
    edit("name.safetensors", "\"conv1.weight\"", "\"conv1.weihgt\"");
    edit("shape.safetensors", "[128,129,3]", "[129,128,3]");
    edit("dtype.safetensors", "\"F32\"", "\"I32\"");
    for (arguments, expected) in [
        (&["vad", "none.wav"][..], "none.wav"),
        (&["vad", "text.wav"], "text.wav: header"),
        (&["vad", "empty.wav"], "empty.wav: data"),
        (&["vad", "eight.wav"], "eight.wav: data: expected at least 512 samples"),
        (&["vad", "nan.wav"], "nan.wav: data: expected finite samples"),
        (&["vad", "--weights", "none.safetensors"], "none.safetensors"),
        (&["vad", "--weights", "cut.safetensors"], "cut.safetensors: the tensors' data: cut short"),
        (&["vad", "--weights", "name.safetensors"], "name.safetensors: conv1.weight: expected a tensor of this name"),
        (
            &["vad", "--weights", "shape.safetensors"],
            "shape.safetensors: conv1.weight: expected shape [128, 129, 3], found shape [129, 128, 3]",
        ),
        (
            &["vad", "--weights", "dtype.safetensors"],
            "dtype.safetensors: stft_conv.weight: expected elements of type F32",
        ),
        (&["vad", "--device", "cpu", "--plot", "no/such/folder.svg"], "folder.svg"),
    ] {
        let output = gatewise(arguments, folder.path());
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn a_gpu_that_is_not_there_is_refused_and_auto_takes_the_cpu() {
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_gatewise"))
            .args(arguments)
            .env("VK_DRIVER_FILES", "/nonexistent")
            .env("VK_ICD_FILENAMES", "/nonexistent")
            .output()
            .expect("runs")
    };
    let refused = run(&["vad", "--device", "gpu"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("no GPU adapter"), "{}", text(&refused.stderr));
    let auto = run(&["vad"]);
    assert!(auto.status.success());
    assert!(text(&auto.stdout).contains("device: cpu"));
}

#[test]
fn devices_lists_adapters_and_what_auto_takes() {
    let output = gatewise(&["devices", "--json"], &root());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(report["adapters"].as_array().is_some_and(|adapters| !adapters.is_empty()), "{report}");
    assert!(report["cpu"]["threads"].as_u64().is_some_and(|threads| threads > 0), "{report}");
    assert!(report["auto"].is_string(), "{report}");
}

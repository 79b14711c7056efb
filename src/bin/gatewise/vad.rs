//! `gatewise vad`: where a recording holds speech.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use gatewise::models::{Segment, SegmentOptions, SileroVad, speech_segments};
use gatewise::weights::Weights;
use gatewise::{Device, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::audio::{self, Recording};
use crate::choice::DeviceChoice;
use crate::plot::{self, SpeechPlot};

const SAMPLE_NAME: &str = "sense_and_sensibility_01_austen_64kb-0870.wav";
const SAMPLE: &[u8] = include_bytes!("../../../assets/sense_and_sensibility_01_austen_64kb-0870.wav");
const WEIGHTS_NAME: &str = "silero_vad_16k.safetensors";
const WEIGHTS: &[u8] = include_bytes!("../../../models/silero_vad_16k.safetensors");

#[derive(Args)]
pub(crate) struct Arguments {
    /// A recording: WAV, any sample rate, any number of channels. Without it, the sentence that ships with the program.
    wav: Option<PathBuf>,
    /// Another checkpoint of the same net, as safetensors.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Where to run.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Writes one row a frame: time, probability.
    #[arg(long, value_name = "FILE.csv")]
    probs: Option<PathBuf>,
    /// Draws waveform, probability and segments.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Runs GPU and CPU and compares their probabilities and times.
    #[arg(long, conflicts_with = "device")]
    compare: bool,
}

/// A finished detection.
struct Detection {
    device: Device,
    probabilities: Vec<f32>,
    elapsed: Duration,
}

#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    seconds: f64,
    sample_rate: u32,
    channels: u16,
    device: String,
    frames: usize,
    elapsed_ms: f64,
    segments: Vec<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compare: Option<Comparison>,
}

#[derive(Serialize)]
struct Span {
    start: f64,
    end: f64,
}

#[derive(Serialize)]
struct Comparison {
    gpu: String,
    cpu: String,
    max_abs_difference: f32,
    gpu_ms: f64,
    cpu_ms: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (name, recording) = match &arguments.wav {
        Some(path) => (path.display().to_string(), audio::read_wav(path)?),
        None => (SAMPLE_NAME.to_owned(), audio::read_wav_bytes(SAMPLE_NAME, SAMPLE)?),
    };
    if recording.samples.len() < SileroVad::FRAME {
        return Err(Error::Format {
            file: name,
            field: "data".to_owned(),
            expected: format!("at least {} samples at 16 kHz, one frame", SileroVad::FRAME),
            found: format!("{} samples", recording.samples.len()),
        });
    }
    let weights = match &arguments.weights {
        Some(path) => Weights::from_file(path)?,
        None => Weights::from_bytes(WEIGHTS_NAME, WEIGHTS)?,
    };
    let (detection, compare) = if arguments.compare {
        let gpu = detect(DeviceChoice::Gpu.open()?, &weights, &recording, arguments)?;
        let cpu = detect(Device::Cpu, &weights, &recording, arguments)?;
        let comparison = Comparison::of(&gpu, &cpu);
        (gpu, Some(comparison))
    } else {
        (detect(arguments.device.open()?, &weights, &recording, arguments)?, None)
    };

    let options = SegmentOptions::default();
    let segments = speech_segments(&detection.probabilities, recording.samples.len(), &options);
    if let Some(path) = &arguments.probs {
        write_probabilities(path, &detection.probabilities)?;
    }
    if let Some(path) = &arguments.plot {
        let spans: Vec<(f64, f64)> = segments.iter().map(|s| (s.start, s.end)).collect();
        plot::write_svg(
            path,
            &SpeechPlot {
                title: Path::new(&name).file_name().and_then(|name| name.to_str()).unwrap_or(&name),
                samples: &recording.samples,
                sample_rate: SileroVad::SAMPLE_RATE,
                probabilities: &detection.probabilities,
                frame_seconds: frame_start(1),
                threshold: options.threshold,
                segments: &spans,
            },
        )?;
    }

    let report = Report {
        file: &name,
        seconds: recording.seconds(),
        sample_rate: recording.source_rate,
        channels: recording.channels,
        device: detection.device.to_string(),
        frames: detection.probabilities.len(),
        elapsed_ms: milliseconds(detection.elapsed),
        segments: segments.iter().map(|&Segment { start, end }| Span { start, end }).collect(),
        compare,
    };
    if arguments.json {
        println!("{}", serde_json::json!(report));
    } else {
        report.print();
    }
    Ok(ExitCode::SUCCESS)
}

fn detect(device: Device, weights: &Weights, recording: &Recording, arguments: &Arguments) -> Result<Detection> {
    let vad = SileroVad::new(&device, weights)?;
    let frames = recording.samples.len().div_ceil(SileroVad::FRAME) as u64;
    // Drawn on standard error, and only where that is a terminal.
    let bar = if arguments.json { ProgressBar::hidden() } else { ProgressBar::new(frames) };
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {percent}% {eta}") {
        bar.set_style(style);
    }
    bar.set_message(device.to_string());
    let begin = Instant::now();
    let probabilities = vad.probabilities_with_progress(&recording.samples, |done| bar.set_position(done as u64));
    let elapsed = begin.elapsed();
    bar.finish_and_clear();
    Ok(Detection { device, probabilities: probabilities?, elapsed })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// When a frame begins, in seconds.
fn frame_start(frame: usize) -> f64 {
    (frame * SileroVad::FRAME) as f64 / f64::from(SileroVad::SAMPLE_RATE)
}

fn write_probabilities(path: &Path, probabilities: &[f32]) -> Result<()> {
    let rows = probabilities.iter().enumerate().map(|(frame, p)| format!("{:.3},{p:.6}\n", frame_start(frame)));
    let text: String = std::iter::once("seconds,probability\n".to_owned()).chain(rows).collect();
    fs::write(path, text).map_err(|error| Error::io(path, error))
}

impl Comparison {
    fn of(gpu: &Detection, cpu: &Detection) -> Self {
        let differences = gpu.probabilities.iter().zip(&cpu.probabilities).map(|(a, b)| (a - b).abs());
        Self {
            gpu: gpu.device.to_string(),
            cpu: cpu.device.to_string(),
            max_abs_difference: differences.fold(0.0, f32::max),
            gpu_ms: milliseconds(gpu.elapsed),
            cpu_ms: milliseconds(cpu.elapsed),
        }
    }
}

impl Report<'_> {
    fn print(&self) {
        let channels = match self.channels {
            1 => "mono".to_owned(),
            2 => "stereo".to_owned(),
            n => format!("{n} channels"),
        };
        println!("{}: {:.2} s, {} Hz, {channels}", self.file, self.seconds, self.sample_rate);
        println!("device: {}", self.device);
        for Span { start, end } in &self.segments {
            println!("speech {start:8.2} s .. {end:8.2} s");
        }
        let speech = self.segments.iter().fold(0.0, |sum, s| sum + s.end - s.start);
        println!(
            "{} segment(s), {speech:.2} s of speech; {} frames in {:.1} ms, {:.0} times real time",
            self.segments.len(),
            self.frames,
            self.elapsed_ms,
            self.seconds * 1e3 / self.elapsed_ms
        );
        if let Some(c) = &self.compare {
            println!("{}: {:.1} ms; {}: {:.1} ms", c.gpu, c.gpu_ms, c.cpu, c.cpu_ms);
            println!("largest difference of a probability: {:.1e}", c.max_abs_difference);
        }
    }
}

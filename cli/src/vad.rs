//! `gatewise vad`: finds the speech in a recording.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use gatewise::models::{Segment, SegmentOptions, SileroVad, VadStream, speech_segments};
use gatewise::text::shown;
use gatewise::weights::Weights;
use gatewise::{Device, Error, Result};
use serde::Serialize;

use crate::audio::Recording;
use crate::choice::{DeviceChoice, Simd};
use crate::output::{self, say};
use crate::plot::{self, Columns, SpeechPlot};
use crate::written::{self, given};

const SAMPLE_NAME: &str = "sense_and_sensibility_01_austen_64kb-0870.wav";
const SAMPLE: &[u8] = include_bytes!("../assets/sense_and_sensibility_01_austen_64kb-0870.wav");
const WEIGHTS_NAME: &str = "silero_vad_16k.safetensors";

/// Samples that are read and pushed at a time: 32.8 seconds, as many as the detector takes in one pass.
const BLOCK: usize = 1024 * SileroVad::FRAME;

#[derive(Args)]
pub(crate) struct Arguments {
    /// A recording: WAV, any sample rate, any number of channels. By default a sentence that ships with the program.
    wav: Option<PathBuf>,
    /// Another checkpoint of the same net: safetensors, or a state dict of PyTorch.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Where to run.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    simd: Simd,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Writes one row per frame: time, probability.
    #[arg(long, value_name = "FILE.csv")]
    probs: Option<PathBuf>,
    /// Draws the waveform, the probability and the segments.
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Runs on the GPU and on the CPU, and compares their probabilities and times.
    #[arg(long, conflicts_with = "device")]
    compare: bool,
}

/// A running detection on one device, with its results so far.
struct Detection {
    device: Device,
    stream: VadStream,
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
    arguments.check_files()?;
    let (name, mut recording) = match &arguments.wav {
        Some(path) => (path.display().to_string(), Recording::open(path)?),
        None => (SAMPLE_NAME.to_owned(), Recording::from_bytes(SAMPLE_NAME, SAMPLE)?),
    };
    if recording.len() < SileroVad::FRAME {
        return Err(Error::Format {
            file: name,
            field: "data".to_owned(),
            expected: format!("at least {} samples at 16 kHz, one frame", SileroVad::FRAME),
            found: format!("{} samples", recording.len()),
        });
    }
    let weights = match &arguments.weights {
        Some(path) => Weights::from_file(path)?,
        None => Weights::from_bytes(WEIGHTS_NAME, SileroVad::WEIGHTS)?,
    };
    let device = if arguments.compare { DeviceChoice::Gpu } else { arguments.device };
    let first = if arguments.compare { Simd::default() } else { arguments.simd };
    let mut detections = vec![Detection::new(device.open(first)?, &weights)?];
    if arguments.compare {
        detections.push(Detection::new(DeviceChoice::Cpu.open(arguments.simd)?, &weights)?);
    }
    let mut waveform = arguments.plot.is_some().then(|| Columns::new(recording.len()));
    detect(&mut recording, &mut detections, waveform.as_mut(), arguments.json)?;
    let compare = match &detections[..] {
        [gpu, cpu] => Some(Comparison::of(gpu, cpu)),
        _ => None,
    };
    let detection = &detections[0];

    let options = SegmentOptions::default();
    let segments = speech_segments(&detection.probabilities, recording.len(), &options);
    if let Some(path) = &arguments.probs {
        write_probabilities(path, &detection.probabilities)?;
    }
    if let (Some(path), Some(waveform)) = (&arguments.plot, &waveform) {
        let spans: Vec<(f64, f64)> = segments.iter().map(|s| (s.start, s.end)).collect();
        draw(path, &name, waveform, detection, (options.threshold, &spans))?;
    }

    let report = Report {
        file: &name,
        seconds: recording.seconds(),
        sample_rate: recording.source_rate(),
        channels: recording.channels(),
        device: detection.device.to_string(),
        frames: detection.probabilities.len(),
        elapsed_ms: milliseconds(detection.elapsed),
        segments: segments.iter().map(|&Segment { start, end, .. }| Span { start, end }).collect(),
        compare,
    };
    if arguments.json {
        say!("{}", serde_json::json!(report))?;
    } else {
        report.print()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws the detection with its threshold and segments.
fn draw(
    path: &Path,
    name: &str,
    samples: &Columns,
    detection: &Detection,
    (threshold, segments): (f32, &[(f64, f64)]),
) -> Result<()> {
    let title = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or(name);
    let plot = SpeechPlot {
        title,
        samples,
        sample_rate: SileroVad::SAMPLE_RATE,
        probabilities: &detection.probabilities,
        frame_seconds: frame_start(1),
        threshold,
        segments,
    };
    plot::write_svg(path, &plot)
}

impl Arguments {
    /// Refuses outputs that cannot be written or that are inputs, before anything is read.
    fn check_files(&self) -> Result<()> {
        self.plot.as_deref().map_or(Ok(()), plot::check_name)?;
        let outputs = given(&[("--probs", &self.probs), ("--plot", &self.plot)]);
        written::check("vad", &outputs, &given(&[("the recording", &self.wav), ("--weights", &self.weights)]))
    }
}

/// Pushes the recording through every detection, with a bar on standard error if that is a terminal.
fn detect(
    recording: &mut Recording<'_>,
    detections: &mut [Detection],
    waveform: Option<&mut Columns>,
    json: bool,
) -> Result<()> {
    let frames = recording.len().div_ceil(SileroVad::FRAME) as u64;
    let bar = output::bar(json, frames, "{msg} [{bar:40}] {percent} %, {eta} left");
    let devices: Vec<String> = detections.iter().map(|detection| detection.device.to_string()).collect();
    bar.set_message(devices.join(", "));
    push_blocks(recording, detections, waveform, |frames| bar.inc(frames as u64))
}

/// Pushes the recording block by block and pads its last frame with silence; calls `done` with the number of whole frames of each
/// block.
fn push_blocks(
    recording: &mut Recording<'_>,
    detections: &mut [Detection],
    mut waveform: Option<&mut Columns>,
    done: impl Fn(usize),
) -> Result<()> {
    loop {
        let block = recording.next(BLOCK)?;
        if block.is_empty() {
            break;
        }
        if let Some(waveform) = &mut waveform {
            waveform.push(&block);
        }
        detections.iter_mut().try_for_each(|detection| detection.push(&block))?;
        done(block.len() / SileroVad::FRAME);
    }
    let missing = recording.len().next_multiple_of(SileroVad::FRAME) - recording.len();
    detections.iter_mut().try_for_each(|detection| detection.push(&vec![0.0; missing]))
}

impl Detection {
    fn new(device: Device, weights: &Weights) -> Result<Self> {
        let stream = SileroVad::new(&device, weights)?.stream()?;
        Ok(Self { device, stream, probabilities: Vec::new(), elapsed: Duration::ZERO })
    }

    fn push(&mut self, samples: &[f32]) -> Result<()> {
        let begin = Instant::now();
        self.probabilities.extend(self.stream.push(samples)?);
        self.elapsed += begin.elapsed();
        Ok(())
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The start of a frame in seconds.
fn frame_start(frame: usize) -> f64 {
    (frame * SileroVad::FRAME) as f64 / f64::from(SileroVad::SAMPLE_RATE)
}

fn write_probabilities(path: &Path, probabilities: &[f32]) -> Result<()> {
    let rows = probabilities.iter().enumerate().map(|(frame, p)| format!("{:.3},{p:.6}\n", frame_start(frame)));
    let text: String = std::iter::once("seconds,probability\n".to_owned()).chain(rows).collect();
    written::write(path, text.as_bytes())
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
    fn print(&self) -> Result<()> {
        let channels = match self.channels {
            1 => "mono".to_owned(),
            2 => "stereo".to_owned(),
            n => format!("{n} channels"),
        };
        say!("{}: {:.2} s, {} Hz, {channels}", shown(self.file), self.seconds, self.sample_rate)?;
        say!("device: {}", self.device)?;
        for Span { start, end } in &self.segments {
            say!("speech {start:8.2} s .. {end:8.2} s")?;
        }
        let speech = self.segments.iter().fold(0.0, |sum, s| sum + s.end - s.start);
        say!(
            "{} segment(s), {speech:.2} s of speech; {} frames in {:.1} ms, {:.0} times real time",
            self.segments.len(),
            self.frames,
            self.elapsed_ms,
            self.seconds * 1e3 / self.elapsed_ms
        )?;
        if let Some(c) = &self.compare {
            say!("{}: {:.1} ms; {}: {:.1} ms", c.gpu, c.gpu_ms, c.cpu, c.cpu_ms)?;
            say!("largest difference of a probability: {:.1e}", c.max_abs_difference)?;
        }
        Ok(())
    }
}

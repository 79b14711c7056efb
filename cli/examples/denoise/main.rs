//! Takes the noise out of a recording, as RNNoise does: its net on the GPU, its signal path on the CPU.
//!
//! `cargo run --release --example denoise -- IN.wav OUT.wav`: any sample rate, any number of channels; the output has the input's
//! rate, length and sample format.

mod suppress;
pub(crate) mod wav;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use gatewise::models::RnNoise;
use gatewise::weights::Weights;
use gatewise::{Device, Error, Result};

use suppress::Suppressor;

/// Frames per submission, 5 seconds of sound.
const BLOCK: usize = 500;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output] = &arguments[..] else {
        eprintln!("usage: denoise IN.wav OUT.wav");
        return ExitCode::from(2);
    };
    let begin = Instant::now();
    match denoise(&Device::auto(), Path::new(input), Path::new(output)) {
        Ok(report) => {
            let Report { device, seconds, channels, speech } = report;
            let factor = seconds / begin.elapsed().as_secs_f64();
            println!("{output}: {seconds:.2} s, {channels} channel(s), {speech:.2} s of speech");
            println!("device: {device}; {factor:.0} times real time");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// The facts that the summary prints.
pub(crate) struct Report {
    pub(crate) device: Device,
    pub(crate) seconds: f64,
    pub(crate) channels: usize,
    /// Seconds of speech in the first channel.
    pub(crate) speech: f64,
}

/// Reads a recording, denoises it and writes it.
pub(crate) fn denoise(device: &Device, input: &Path, output: &Path) -> Result<Report> {
    let mut recording = wav::read(input)?;
    let rate = recording.spec.sample_rate;
    let length = recording.channels.first().map_or(0, Vec::len);
    if length == 0 || rate == 0 {
        return Err(Error::Format {
            file: input.display().to_string(),
            field: "data".to_owned(),
            expected: "at least one sample".to_owned(),
            found: format!("{length} at {rate} Hz"),
        });
    }
    let channels = &mut recording.channels;
    for samples in channels.iter_mut() {
        *samples = wav::resample(input, samples, rate, RnNoise::SAMPLE_RATE)?;
    }
    let weights = Weights::from_file(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/rnnoise.safetensors"))?;
    let vad = suppress(&RnNoise::new(device, &weights)?, channels)?;
    for samples in channels.iter_mut() {
        *samples = wav::resample(output, samples, RnNoise::SAMPLE_RATE, rate)?;
        samples.resize(length, 0.0);
    }
    wav::write(output, &recording)?;
    let frame = RnNoise::FRAME as f64 / f64::from(RnNoise::SAMPLE_RATE);
    Ok(Report {
        device: device.clone(),
        seconds: length as f64 / f64::from(rate),
        channels: recording.channels.len(),
        speech: vad.iter().filter(|&&probability| probability >= 0.5).count() as f64 * frame,
    })
}

/// Denoises the channels of a whole recording at 48 kHz, in place; returns the first channel's probabilities of speech.
pub(crate) fn suppress(net: &RnNoise, channels: &mut [Vec<f32>]) -> Result<Vec<f32>> {
    let length = channels.first().map_or(0, Vec::len);
    // The output is one frame late: one more frame goes in, and the first output frame is dropped.
    let whole = length.next_multiple_of(RnNoise::FRAME) + RnNoise::FRAME;
    let mut suppressor = Suppressor::new(net, channels.len())?;
    let mut vad = Vec::new();
    let mut denoised = vec![Vec::with_capacity(whole); channels.len()];
    for first in (0..whole).step_by(BLOCK * RnNoise::FRAME) {
        let count = (whole - first).min(BLOCK * RnNoise::FRAME);
        let piece = |samples: &Vec<f32>| {
            let sound = samples.iter().skip(first).copied();
            sound.chain(std::iter::repeat(0.0)).take(count).collect()
        };
        let mut block: Vec<Vec<f32>> = channels.iter().map(piece).collect();
        vad.extend(suppressor.process(&mut block)?.vad.column(0));
        denoised.iter_mut().zip(block).for_each(|(all, block)| all.extend(block));
    }
    for (samples, denoised) in channels.iter_mut().zip(denoised) {
        *samples = denoised[RnNoise::FRAME..][..length].to_vec();
    }
    Ok(vad)
}

//! The denoiser of the examples: it takes noise away, leaves speech, and does what nnnoiseless does.
#![cfg(feature = "gpu")]

#[allow(dead_code, reason = "the example's own `main` does not run here")]
#[path = "../examples/denoise/main.rs"]
mod denoise;

use std::path::{Path, PathBuf};

use denoise::{suppress, wav};
use gatewise::gpu::GpuOptions;
use gatewise::models::RnNoise;
use gatewise::weights::Weights;
use gatewise::{Device, Error};
use hound::{SampleFormat, WavSpec};
use nnnoiseless::DenoiseState;

const FRAME: usize = RnNoise::FRAME;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn net(device: &Device) -> RnNoise {
    let weights = Weights::from_file(root().join("../models/rnnoise.safetensors")).expect("weights");
    RnNoise::new(device, &weights).expect("the net")
}

fn devices() -> [Device; 2] {
    let gpu = Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine");
    [Device::Cpu, gpu]
}

fn sentence() -> PathBuf {
    root().join("assets/sense_and_sensibility_01_austen_64kb-0880.wav")
}

/// The sentence twice at 48 kHz, silence around it, and the same under white noise of this amplitude.
fn recordings(amplitude: f32) -> (Vec<f32>, Vec<f32>) {
    let recording = wav::read(&sentence()).expect("the recording");
    let rate = recording.spec.sample_rate;
    let speech = wav::resample(&sentence(), &recording.channels[0], rate, RnNoise::SAMPLE_RATE).expect("48 kHz");
    let silence = vec![0.0; 36_000];
    let clean = [silence.clone(), speech.clone(), silence.clone(), speech, silence].concat();
    let mut rng = fastrand::Rng::with_seed(7);
    let noisy = clean.iter().map(|sample| sample + amplitude * (2.0 * rng.f32() - 1.0)).collect();
    (clean, noisy)
}

fn power(samples: impl Iterator<Item = f32>) -> f64 {
    let (sum, count) = samples.fold((0.0, 0), |(sum, count), x| (sum + f64::from(x) * f64::from(x), count + 1));
    sum / f64::from(count.max(1))
}

fn decibels(ratio: f64) -> f64 {
    10.0 * ratio.log10()
}

#[test]
fn noise_falls_in_pauses_and_speech_stays() {
    let (clean, noisy) = recordings(0.02);
    for device in devices() {
        let mut out = vec![noisy.clone()];
        let vad = suppress(&net(&device), &mut out).expect("runs");
        let [out] = &out[..] else { panic!("one channel") };
        assert_eq!(out.len(), clean.len());
        // A frame is pause where the clean recording is next to silent around it, speech where it is loud. RNNoise lets a noise
        // pass until it has heard a voice beside it, so what lies before the first word is not counted.
        let loudness: Vec<f64> = clean.chunks_exact(FRAME).map(|frame| power(frame.iter().copied()).sqrt()).collect();
        let speech: Vec<usize> = (0..loudness.len()).filter(|&t| loudness[t] > 0.05).collect();
        let around = |t: usize| loudness[t.saturating_sub(10)..(t + 3).min(loudness.len())].iter().copied();
        let pauses: Vec<usize> = (speech[0]..loudness.len()).filter(|&t| around(t).all(|level| level < 1e-3)).collect();
        assert!(pauses.len() > 50 && speech.len() > 50, "{} pauses, {} of speech", pauses.len(), speech.len());
        let of = |samples: &[f32], frames: &[usize]| -> Vec<f32> {
            frames.iter().flat_map(|t| samples[t * FRAME..(t + 1) * FRAME].to_vec()).collect()
        };
        let level = |samples: &[f32], frames: &[usize]| power(of(samples, frames).into_iter());
        let fallen = decibels(level(&noisy, &pauses) / level(out, &pauses));
        assert!(fallen > 20.0, "{device}: noise in pauses fell by {fallen:.1} dB");
        let kept = decibels(level(out, &speech) / level(&clean, &speech));
        assert!(kept.abs() < 3.0, "{device}: speech changed by {kept:.1} dB");
        // In its place: a frame too late it would differ by more than its own power.
        let pairs = of(out, &speech).into_iter().zip(of(&clean, &speech));
        let error = power(pairs.map(|(got, clean)| got - clean)) / level(&clean, &speech);
        assert!(error < 0.2, "{device}: {error}");
        let heard = |frames: &[usize]| frames.iter().map(|&t| vad[t]).sum::<f32>() / frames.len() as f32;
        assert!(heard(&speech) > 0.8 && heard(&pauses) < 0.3, "{device}: {} {}", heard(&speech), heard(&pauses));
    }
}

#[test]
fn the_output_is_nnnoiseless_own() {
    let (clean, noisy) = recordings(0.02);
    // Digital silence, too: then the net does not run.
    let quiet: Vec<f32> = clean[24_000..].iter().zip(&noisy).map(|(clean, noisy)| clean + 0.2 * noisy).collect();
    let channels = [clean, noisy, quiet].map(|samples| samples[..120 * FRAME + 100].to_vec());
    let expected: Vec<Vec<f32>> = channels
        .iter()
        .map(|samples| {
            let mut state = DenoiseState::new();
            let padded = samples.iter().copied().chain(std::iter::repeat_n(0.0, 2 * FRAME));
            let padded: Vec<f32> = padded.map(|sample| sample * 32768.0).collect();
            let mut out = vec![0.0; FRAME];
            let mut all = Vec::new();
            for frame in padded.chunks_exact(FRAME) {
                state.process_frame(&mut out, frame);
                all.extend(out.iter().map(|sample| sample / 32768.0));
            }
            all[FRAME..][..samples.len()].to_vec()
        })
        .collect();
    for device in devices() {
        let mut out = channels.to_vec();
        suppress(&net(&device), &mut out).expect("runs");
        for (channel, (out, expected)) in out.iter().zip(&expected).enumerate() {
            let difference = power(out.iter().zip(expected).map(|(a, b)| a - b));
            let ratio = decibels(power(expected.iter().copied()) / difference);
            // nnnoiseless looks its tanh up in a table of six digits.
            assert!(ratio > 60.0, "{device}: channel {channel}: only {ratio:.1} dB above the difference");
        }
    }
}

#[test]
fn files_keep_their_rate_length_and_format() {
    let folder = tempfile::tempdir().expect("a folder");
    let speech = wav::read(&sentence()).expect("the recording");
    let source_rate = speech.spec.sample_rate;
    for (rate, channels, sample_format, bits_per_sample) in
        [(44_100, 2, SampleFormat::Int, 16), (8_000, 1, SampleFormat::Int, 24), (48_000, 1, SampleFormat::Float, 32)]
    {
        let spec = WavSpec { channels, sample_rate: rate, bits_per_sample, sample_format };
        let clean = wav::resample(&sentence(), &speech.channels[0], source_rate, rate).expect("resampled");
        let mut rng = fastrand::Rng::with_seed(u64::from(rate));
        let mut noisy = || clean.iter().map(|x| x + 0.01 * (2.0 * rng.f32() - 1.0)).collect::<Vec<f32>>();
        let mut sides: Vec<Vec<f32>> = (0..channels).map(|_| noisy()).collect();
        if let [_, other] = &mut sides[..] {
            other.iter_mut().for_each(|sample| *sample *= 0.5);
        }
        let (input, output) = (folder.path().join("in.wav"), folder.path().join("out.wav"));
        wav::write(&input, &wav::Recording { spec, channels: sides }).expect("written");
        let report = denoise::denoise(&Device::Cpu, &input, &output).expect("runs");
        let out = wav::read(&output).expect("read");
        assert_eq!(out.spec, spec);
        assert_eq!(report.channels, usize::from(channels));
        let seconds = clean.len() as f64 / f64::from(rate);
        assert!((report.seconds - seconds).abs() < 1e-9 && report.speech > 0.3 * seconds, "{}", report.speech);
        for (at, samples) in out.channels.iter().enumerate() {
            assert_eq!(samples.len(), clean.len());
            let scale = if at == 1 { 0.5 } else { 1.0 };
            let error = power(samples.iter().zip(&clean).map(|(got, clean)| got - scale * clean));
            let error = error / power(clean.iter().map(|clean| scale * clean));
            assert!(error < 0.2, "{rate} Hz, channel {at}: {error}");
        }
    }
}

#[test]
fn files_that_are_no_recordings_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("in.wav"), folder.path().join("out.wav"));
    let error = denoise::denoise(&Device::Cpu, &input, &output).err().expect("no file");
    assert!(matches!(&error, Error::Io { path, .. } if *path == input), "{error}");
    std::fs::write(&input, b"no recording").expect("written");
    let error = denoise::denoise(&Device::Cpu, &input, &output).err().expect("no WAV");
    assert!(error.to_string().contains("in.wav"), "{error}");
    let spec = WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: SampleFormat::Int };
    wav::write(&input, &wav::Recording { spec, channels: vec![Vec::new()] }).expect("written");
    let error = denoise::denoise(&Device::Cpu, &input, &output).err().expect("nothing in it");
    assert!(matches!(error, Error::Format { .. }), "{error}");
    assert!(!output.exists());
}

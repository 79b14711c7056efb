//! Reads and writes WAV files of any sample rate and number of channels, and resamples them.

use std::path::Path;

use gatewise::{Error, Result};
use hound::{SampleFormat, WavReader, WavSpec, WavWriter};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

/// A recording: its samples by channel, full scale [-1, 1].
pub(crate) struct Recording {
    pub(crate) spec: WavSpec,
    pub(crate) channels: Vec<Vec<f32>>,
}

/// The magnitude of the lowest integer sample, which is full scale.
fn full_scale(spec: WavSpec) -> f32 {
    2_f32.powi(i32::from(spec.bits_per_sample) - 1)
}

/// Reads a file of integers or 32-bit floats.
pub(crate) fn read(path: &Path) -> Result<Recording> {
    let mut reader = WavReader::open(path).map_err(|error| refusal(path, error))?;
    let spec = reader.spec();
    let scale = full_scale(spec).recip();
    let samples: Vec<f32> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect::<hound::Result<_>>(),
        SampleFormat::Int => reader.samples::<i32>().map(|sample| sample.map(|x| x as f32 * scale)).collect(),
    }
    .map_err(|error| refusal(path, error))?;
    let count = usize::from(spec.channels);
    let channel = |at| samples.iter().skip(at).step_by(count).copied().collect();
    Ok(Recording { spec, channels: (0..count).map(channel).collect() })
}

/// Writes a file with the recording's own rate and sample format.
pub(crate) fn write(path: &Path, recording: &Recording) -> Result<()> {
    let refuse = |error| refusal(path, error);
    let mut writer = WavWriter::create(path, recording.spec).map_err(refuse)?;
    let scale = full_scale(recording.spec);
    for at in 0..recording.channels.first().map_or(0, Vec::len) {
        for channel in &recording.channels {
            match recording.spec.sample_format {
                SampleFormat::Float => writer.write_sample(channel[at]),
                SampleFormat::Int => {
                    writer.write_sample((channel[at] * scale).round().clamp(-scale, scale - 1.0) as i32)
                }
            }
            .map_err(refuse)?;
        }
    }
    writer.finalize().map_err(refuse)
}

/// Resamples `n` samples to `round(n * to / from)`, without a shift in time.
pub(crate) fn resample(path: &Path, samples: &[f32], from: u32, to: u32) -> Result<Vec<f32>> {
    if from == to || samples.is_empty() {
        return Ok(samples.to_vec());
    }
    let refused = |reason: String| Error::Format {
        file: path.display().to_string(),
        field: "sample rate".to_owned(),
        expected: format!("one to resample from {from} to {to} Hz"),
        found: reason,
    };
    let length = (samples.len() as f64 * f64::from(to) / f64::from(from)).round() as usize;
    // The filter is as long as one block. With 64 ms it is flat up to 97 % of the lower rate's band.
    let block = from as usize * 64 / 1000;
    let mut resampled = Fft::new(from as usize, to as usize, block, 1, FixedSync::Both)
        .map_err(|error| refused(error.to_string()))?
        .process_all(
            &InterleavedSlice::new(samples, 1, samples.len()).map_err(|error| refused(error.to_string()))?,
            samples.len(),
            None,
        )
        .map_err(|error| refused(error.to_string()))?
        .take_data();
    resampled.resize(length, 0.0);
    Ok(resampled)
}

fn refusal(path: &Path, error: hound::Error) -> Error {
    match error {
        hound::Error::IoError(error) => Error::io(path, error),
        other => Error::Format {
            file: path.display().to_string(),
            field: "WAV".to_owned(),
            expected: "integers or 32-bit floats".to_owned(),
            found: other.to_string(),
        },
    }
}

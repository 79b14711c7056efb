//! Recordings: WAV files of any common layout, read as one channel at the detector's rate.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::ops::RangeInclusive;
use std::path::Path;

use gatewise::{Error, Result};
use hound::{SampleFormat, WavReader};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

/// Samples per second of every [`Recording`].
pub(crate) const SAMPLE_RATE: u32 = 16_000;

/// The rates worth resampling: below there is no speech left, above no sound card records.
const SOURCE_RATES: RangeInclusive<u32> = 1_000..=768_000;

/// The longest format chunk in use, that of `WAVE_FORMAT_EXTENSIBLE`.
const LONGEST_FORMAT: u32 = 40;

/// Far beyond every scale in use, integers written as floats included, and far below what overflows in a transform.
const LOUDEST: f64 = 1e12;

const CODECS: &str = "8, 16, 24 or 32 bit integers or 32 bit floats";

/// One channel of sound at [`SAMPLE_RATE`].
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    /// Full scale is [-1, 1]. A float file may go beyond it, and so may the ripple that resampling adds at a jump.
    pub(crate) samples: Vec<f32>,
    /// The file's own rate in Hz.
    pub(crate) source_rate: u32,
    /// How many channels were averaged.
    pub(crate) channels: u16,
}

impl Recording {
    /// The length in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.samples.len() as f64 / f64::from(SAMPLE_RATE)
    }
}

/// Reads a WAV file: channels are averaged, other rates are resampled to [`SAMPLE_RATE`].
pub(crate) fn read_wav(path: &Path) -> Result<Recording> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    read(path, BufReader::new(file))
}

/// [`read_wav`] for a file held in memory; errors call it `name`.
pub(crate) fn read_wav_bytes(name: &str, bytes: &[u8]) -> Result<Recording> {
    read(Path::new(name), bytes)
}

fn read(file: &Path, mut source: impl BufRead) -> Result<Recording> {
    let header = read_header(file, &mut source)?;
    let mut reader = WavReader::new(Cursor::new(&header).chain(source)).map_err(|e| refusal(file, &header, e))?;
    let spec = reader.spec();
    if !SOURCE_RATES.contains(&spec.sample_rate) {
        let expected = format!("{} to {} Hz", SOURCE_RATES.start(), SOURCE_RATES.end());
        return Err(format_error(file, "sample rate", expected, format!("{} Hz", spec.sample_rate)));
    }
    if reader.len() == 0 {
        return Err(format_error(file, "data", "at least one sample", "none"));
    }
    let mono = match (spec.sample_format, spec.bits_per_sample) {
        (SampleFormat::Int, bits @ (8 | 16 | 24 | 32)) => {
            let full_scale = f64::from(1_u32 << (bits - 1));
            average_channels(file, &header, &mut reader, |sample: i32| f64::from(sample) / full_scale)?
        }
        (SampleFormat::Float, 32) => average_channels(file, &header, &mut reader, |sample: f32| f64::from(sample))?,
        (SampleFormat::Int, bits) => return Err(format_error(file, "codec", CODECS, format!("{bits} bit integers"))),
        (SampleFormat::Float, bits) => return Err(format_error(file, "codec", CODECS, format!("{bits} bit floats"))),
    };
    let samples = if spec.sample_rate == SAMPLE_RATE { mono } else { resample(file, &mono, spec.sample_rate)? };
    Ok(Recording { samples, source_rate: spec.sample_rate, channels: spec.channels })
}

/// Reads up to the first sample and returns the part of the header that says what follows.
///
/// The other chunks are left out because `hound` overlooks the byte that pads a chunk of odd length, and would take
/// what comes after such a chunk for noise.
fn read_header(file: &Path, source: &mut impl BufRead) -> Result<Vec<u8>> {
    if source.fill_buf().map_err(|e| Error::io(file, e))?.is_empty() {
        return Err(format_error(file, "header", "a WAV file", "an empty file"));
    }
    let mut header = vec![0; 12];
    read_exact(file, source, &mut header)?;
    if !header.starts_with(b"RIFF") || !header.ends_with(b"WAVE") {
        return Err(format_error(file, "header", "a WAV file", "no RIFF/WAVE signature"));
    }
    loop {
        let mut chunk = [0; 8];
        read_exact(file, source, &mut chunk)?;
        let [a, b, c, d, length @ ..] = chunk;
        let length = u32::from_le_bytes(length);
        let padding = length % 2;
        match &[a, b, c, d] {
            b"data" => {
                header.extend(chunk);
                return Ok(header);
            }
            b"fmt " if length > LONGEST_FORMAT => {
                let expected = format!("a format of at most {LONGEST_FORMAT} bytes");
                return Err(format_error(file, "header", expected, format!("{length} bytes")));
            }
            b"fmt " => {
                let mut format = [0; LONGEST_FORMAT as usize];
                let format = &mut format[..length as usize];
                read_exact(file, source, format)?;
                header.extend(chunk);
                header.extend_from_slice(format);
                skip(file, source, u64::from(padding))?;
            }
            _ => skip(file, source, u64::from(length) + u64::from(padding))?,
        }
    }
}

fn read_exact(file: &Path, source: &mut impl BufRead, bytes: &mut [u8]) -> Result<()> {
    source.read_exact(bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => header_ended(file),
        _ => Error::io(file, e),
    })
}

fn skip(file: &Path, source: &mut impl BufRead, bytes: u64) -> Result<()> {
    let skipped = io::copy(&mut source.take(bytes), &mut io::sink()).map_err(|e| Error::io(file, e))?;
    if skipped == bytes { Ok(()) } else { Err(header_ended(file)) }
}

/// The mean over the channels of every frame, in f64 so that one channel comes through with every bit.
fn average_channels<R: Read, S: hound::Sample>(
    file: &Path,
    header: &[u8],
    reader: &mut WavReader<R>,
    scaled: impl Fn(S) -> f64,
) -> Result<Vec<f32>> {
    let channels = reader.spec().channels;
    let promised = reader.len();
    // The header's sample count is a claim, so the vector grows with what is really there.
    let mut mono = Vec::new();
    // x + -0.0 is x for every x; 0.0 would lose the sign of a lone -0.0.
    let mut sum = -0.0;
    let mut summed = 0;
    for (index, sample) in reader.samples::<S>().enumerate() {
        let sample = scaled(sample.map_err(|e| match e {
            hound::Error::IoError(e) if e.raw_os_error().is_none() => {
                format_error(file, "data", format!("{promised} samples"), format!("the end of the file after {index}"))
            }
            other => refusal(file, header, other),
        })?);
        // Written so that a NaN is refused too.
        if !(-LOUDEST..=LOUDEST).contains(&sample) {
            let expected = format!("finite samples within ±{LOUDEST:e}");
            return Err(format_error(file, "data", expected, format!("{sample:e} at {index}")));
        }
        sum += sample;
        summed += 1;
        if summed == channels {
            mono.push((sum / f64::from(channels)) as f32);
            (sum, summed) = (-0.0, 0);
        }
    }
    Ok(mono)
}

/// Brings `mono` to [`SAMPLE_RATE`]: `round(n * 16000 / rate)` samples, every event at its old time.
fn resample(file: &Path, mono: &[f32], rate: u32) -> Result<Vec<f32>> {
    let refused = |reason: String| {
        format_error(
            file,
            "sample rate",
            format!("one to resample to {SAMPLE_RATE} Hz"),
            format!("{rate} Hz: {reason}"),
        )
    };
    let (source, target) = (u128::from(rate), u128::from(SAMPLE_RATE));
    let length = usize::try_from((2 * mono.len() as u128 * target + source) / (2 * source))
        .map_err(|_| refused("more samples than can be addressed".to_owned()))?;
    if length == 0 {
        let expected = format!("at least one sample at {SAMPLE_RATE} Hz");
        return Err(format_error(file, "data", expected, format!("{} at {rate} Hz", mono.len())));
    }
    let rate = usize::try_from(rate).map_err(|e| refused(e.to_string()))?;
    // The filter is as long as one block; 64 ms keep it flat up to 97 % of the slower rate's band.
    let block = rate * 64 / 1000;
    let samples = Fft::new(rate, SAMPLE_RATE as usize, block, 1, FixedSync::Both)
        .map_err(|e| refused(e.to_string()))?
        .process_all(&InterleavedSlice::new(mono, 1, mono.len()).map_err(|e| refused(e.to_string()))?, mono.len(), None)
        .map_err(|e| refused(e.to_string()))?;
    let mut samples = samples.take_data();
    // The resampler rounds up.
    samples.resize(length, 0.0);
    Ok(samples)
}

/// What `hound` refuses, in the words of the file.
fn refusal(file: &Path, header: &[u8], error: hound::Error) -> Error {
    match error {
        hound::Error::IoError(e) if e.raw_os_error().is_some() => Error::io(file, e),
        hound::Error::IoError(_) => header_ended(file),
        hound::Error::FormatError(reason) if reason.starts_with("bits per sample") => {
            format_error(file, "codec", CODECS, format!("another depth ({reason})"))
        }
        hound::Error::FormatError(reason) => format_error(file, "header", "a well-formed WAV header", reason),
        _ => {
            // The format is the first chunk kept, its first field the codec.
            let codec = match header.get(20..22) {
                Some(&[low, high]) => format!("codec {:#06x} or its depth", u16::from_le_bytes([low, high])),
                _ => "another codec".to_owned(),
            };
            format_error(file, "codec", CODECS, codec)
        }
    }
}

fn header_ended(file: &Path) -> Error {
    format_error(file, "header", "a complete WAV header", "the end of the file")
}

fn format_error(file: &Path, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::Format {
        file: file.display().to_string(),
        field: field.to_owned(),
        expected: expected.into(),
        found: found.into(),
    }
}

#[cfg(test)]
mod tests;

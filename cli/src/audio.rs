//! Recordings: WAV files of any common layout, read block by block and converted to one channel at the detector's rate.

mod header;
mod resample;

use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use gatewise::{Error, Result};
use hound::{SampleFormat, WavReader};

use self::header::{Header, refusal};
use self::resample::Resampler;
use crate::file;

/// Samples per second of every [`Recording`].
pub(crate) const SAMPLE_RATE: u32 = 16_000;

/// The accepted rates in Hz: lower rates hold no speech, and no sound card records higher ones.
const SOURCE_RATES: RangeInclusive<u32> = 1_000..=768_000;

/// The largest accepted magnitude: above every scale in use, even integers stored as floats, and far below an overflow in a transform.
const LOUDEST: f64 = 1e12;

/// The approximate number of bytes that are decoded at a time. At least one frame is decoded.
const BLOCK: usize = 1 << 16;

const CODECS: &str = "8, 16, 24 or 32 bit integers or 32 bit floats";

/// One channel of sound at [`SAMPLE_RATE`]; only one block is in memory.
pub(crate) struct Recording<'a> {
    frames: Frames<'a>,
    resampler: Option<Resampler>,
    /// Samples at [`SAMPLE_RATE`] that [`Recording::next`] has not returned yet.
    ready: Vec<f32>,
    /// The number of samples not yet returned.
    left: usize,
    length: usize,
}

impl Recording<'static> {
    /// Opens a WAV file: channels are averaged, other rates are resampled to [`SAMPLE_RATE`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (file, length) = file::open(path)?;
        Self::new(path, BufReader::new(file), length)
    }
}

impl<'a> Recording<'a> {
    /// Opens a file held in memory as [`Recording::open`] does; errors call it `name`.
    pub(crate) fn from_bytes(name: &str, bytes: &'a [u8]) -> Result<Self> {
        Self::new(Path::new(name), bytes, bytes.len() as u64)
    }

    fn new(file: &Path, mut source: impl BufRead + 'a, length: u64) -> Result<Self> {
        let header = Header::read(file, &mut source, length)?;
        let rate = header.spec.sample_rate;
        let count = header.data / header.frame_bytes as u64;
        let frames = Frames { file: file.to_owned(), header, source: Box::new(source), count, read: 0 };
        let resampler = (rate != SAMPLE_RATE).then(|| Resampler::new(file, rate)).transpose()?;
        let length = resample::length(file, count, rate)?;
        Ok(Self { frames, resampler, ready: Vec::new(), left: length, length })
    }

    /// The number of samples, read or not.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// The length in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.length as f64 / f64::from(SAMPLE_RATE)
    }

    /// The file's own rate in Hz.
    pub(crate) fn source_rate(&self) -> u32 {
        self.frames.header.spec.sample_rate
    }

    /// The number of channels of the file, which are averaged.
    pub(crate) fn channels(&self) -> u16 {
        self.frames.header.spec.channels
    }

    /// Returns the next `count` samples, fewer at the end of the recording, and none after it.
    ///
    /// Full scale is [-1, 1]. Samples of a float file may lie outside, and so may the ripple that resampling adds at a jump.
    pub(crate) fn next(&mut self, count: usize) -> Result<Vec<f32>> {
        let count = count.min(self.left);
        while self.ready.len() < count {
            match &mut self.resampler {
                Some(resampler) => resampler.process(&mut self.frames, &mut self.ready)?,
                None => {
                    let block = (BLOCK / self.frames.header.frame_bytes).max(1);
                    self.frames.next(block, &mut self.ready)?;
                }
            }
        }
        self.left -= count;
        let later = self.ready.split_off(count);
        Ok(std::mem::replace(&mut self.ready, later))
    }

    /// Returns all samples that are left.
    pub(crate) fn rest(mut self) -> Result<Vec<f32>> {
        self.next(usize::MAX)
    }
}

/// The frames of a file, each the mean of its channels, at the file's own rate.
struct Frames<'a> {
    file: PathBuf,
    header: Header,
    source: Box<dyn BufRead + 'a>,
    count: u64,
    read: u64,
}

impl Frames<'_> {
    /// Appends at most `count` frames to `mono`; returns their number.
    fn next(&mut self, count: usize, mono: &mut Vec<f32>) -> Result<usize> {
        let Header { spec, frame_bytes, .. } = self.header;
        let count = usize::try_from(self.count - self.read).map_or(count, |left| left.min(count));
        let mut left = count;
        while left > 0 {
            let frames = left.min((BLOCK / frame_bytes).max(1));
            let mut bytes = self.header.with_samples(frames * frame_bytes);
            let start = bytes.len();
            bytes.resize(start + frames * frame_bytes, 0);
            self.fill(&mut bytes[start..])?;
            let mut reader = WavReader::new(&bytes[..]).map_err(|e| refusal(&self.file, &bytes, e))?;
            match spec.sample_format {
                SampleFormat::Int => {
                    let full_scale = f64::from(1_u32 << (spec.bits_per_sample - 1));
                    self.average(&mut reader, mono, |sample: i32| f64::from(sample) / full_scale)?;
                }
                SampleFormat::Float => self.average(&mut reader, mono, |sample: f32| f64::from(sample))?,
            }
            self.read += frames as u64;
            left -= frames;
        }
        Ok(count)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        // If the file is short, `read_exact` would not say how many bytes it has.
        let mut filled = 0;
        while filled < bytes.len() {
            match self.source.read(&mut bytes[filled..]) {
                Ok(0) => {
                    let sample = self.header.frame_bytes as u64 / u64::from(self.header.spec.channels);
                    let whole = self.header.data / sample;
                    let there = (self.read * self.header.frame_bytes as u64 + filled as u64) / sample;
                    let found = format!("the end of the file after {there}");
                    return Err(format_error(&self.file, "data", format!("{whole} samples"), found));
                }
                Ok(read) => filled += read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(&self.file, e)),
            }
        }
        Ok(())
    }

    /// Appends the mean over the channels of every frame, in f64, so that a single channel keeps every bit.
    fn average<S: hound::Sample>(
        &self,
        reader: &mut WavReader<&[u8]>,
        mono: &mut Vec<f32>,
        scaled: impl Fn(S) -> f64,
    ) -> Result<()> {
        let channels = self.header.spec.channels;
        // -0.0 + x is x for every x; 0.0 would lose the sign of a single -0.0.
        let mut sum = -0.0;
        let mut summed = 0;
        for (index, sample) in reader.samples::<S>().enumerate() {
            let sample = scaled(sample.map_err(|e| refusal(&self.file, &self.header.with_samples(0), e))?);
            // The condition is negated so that NaN is refused, too.
            if !(-LOUDEST..=LOUDEST).contains(&sample) {
                let index = self.read * u64::from(channels) + index as u64;
                let expected = format!("finite samples within ±{LOUDEST:e}");
                return Err(format_error(&self.file, "data", expected, format!("{sample:e} at {index}")));
            }
            sum += sample;
            summed += 1;
            if summed == channels {
                mono.push((sum / f64::from(channels)) as f32);
                (sum, summed) = (-0.0, 0);
            }
        }
        Ok(())
    }
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

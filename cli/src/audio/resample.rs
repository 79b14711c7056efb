//! Resamples recordings to the detector's rate, chunk by chunk.

use std::path::{Path, PathBuf};

use gatewise::{Error, Result};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Indexing, Resampler as _};

use super::{Frames, SAMPLE_RATE, format_error};

/// Resamples frames to [`SAMPLE_RATE`] without a shift in time.
pub(super) struct Resampler {
    file: PathBuf,
    rate: u32,
    filter: Fft<f32>,
    chunk: Vec<f32>,
    /// The number of leading samples, from the filter's delay, that are still to be dropped.
    delay: usize,
}

impl Resampler {
    pub(super) fn new(file: &Path, rate: u32) -> Result<Self> {
        let source = usize::try_from(rate).map_err(|e| refused(file, rate, &e.to_string()))?;
        // The filter is as long as one block. With 64 ms it is flat up to 97 % of the lower rate's band.
        let block = source * 64 / 1000;
        let filter = Fft::new(source, SAMPLE_RATE as usize, block, 1, FixedSync::Both)
            .map_err(|e| refused(file, rate, &e.to_string()))?;
        let delay = filter.output_delay();
        Ok(Self { file: file.to_owned(), rate, filter, chunk: Vec::new(), delay })
    }

    /// Resamples one chunk of frames, padded with silence after the last frame, and appends the result to `samples`.
    pub(super) fn process(&mut self, frames: &mut Frames<'_>, samples: &mut Vec<f32>) -> Result<()> {
        let size = self.filter.input_frames_next();
        self.chunk.clear();
        let there = frames.next(size, &mut self.chunk)?;
        let wrong = |e: &dyn std::fmt::Display| refused(&self.file, self.rate, &e.to_string());
        let chunk = InterleavedSlice::new(&self.chunk, 1, there).map_err(|e| wrong(&e))?;
        let partial = Indexing { partial_len: Some(there), ..Indexing::default() };
        let done = self.filter.process(&chunk, Some(&partial)).map_err(|e| wrong(&e))?.take_data();
        let skipped = self.delay.min(done.len());
        self.delay -= skipped;
        samples.extend_from_slice(&done[skipped..]);
        Ok(())
    }
}

/// The number of samples after resampling, rounded to the nearest.
pub(super) fn length(file: &Path, frames: u64, rate: u32) -> Result<usize> {
    let (source, target) = (u128::from(rate), u128::from(SAMPLE_RATE));
    let length = usize::try_from((2 * u128::from(frames) * target + source) / (2 * source))
        .map_err(|_| refused(file, rate, "more samples than can be addressed"))?;
    if length == 0 {
        let expected = format!("at least one sample at {SAMPLE_RATE} Hz");
        return Err(format_error(file, "data", expected, format!("{frames} at {rate} Hz")));
    }
    Ok(length)
}

fn refused(file: &Path, rate: u32, reason: &str) -> Error {
    let expected = format!("one to resample to {SAMPLE_RATE} Hz");
    format_error(file, "sample rate", expected, format!("{rate} Hz: {reason}"))
}

//! RNNoise's signal path around the net. Features and pitch filter come from the crate `nnnoiseless`; gains, their smoothing
//! and the synthesis follow RNNoise's `denoise.c` (<https://github.com/xiph/rnnoise>, BSD-3-Clause, (c) 2017 Mozilla, (c) 2007-2017
//! Jean-Marc Valin, (c) 2005-2017 Xiph.Org Foundation) and `nnnoiseless/src/denoise.rs` (BSD-3-Clause, (c) 2020 Joe Neeman).
//!
//! A frame's features do not depend on its gains. So the features of many frames are computed first. Then the net runs over these
//! frames of all channels at once. Last, every frame gets its gains.

use std::f64::consts::FRAC_PI_2;

use easyfft::prelude::*;
use gatewise::Result;
use gatewise::models::{RnNoise, RnNoiseStream, Suppression};
use ndarray::{Array2, Array3, s};
use nnnoiseless::DenoiseFeatures;

const FRAME: usize = RnNoise::FRAME;
const BANDS: usize = RnNoise::BANDS;
/// The peaks of the bands' triangles, in units of 200 Hz (`eband5ms`).
const BAND_PEAKS: [usize; BANDS] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 34, 40, 48, 60, 78, 100];
/// Bins of a spectrum, 50 Hz each, per unit of [`BAND_PEAKS`].
const BINS_PER_UNIT: usize = 4;
/// The smallest part of a band's gain that a frame keeps from the frame before.
const DECAY: f32 = 0.6;
/// The factor to the scale of 16-bit integers, on which the features are computed.
const FULL_SCALE: f32 = 32768.0;

/// A running suppression, whose output is one frame (10 ms) late.
pub(crate) struct Suppressor {
    stream: RnNoiseStream,
    channels: Vec<Channel>,
    window: Vec<f32>,
}

struct Channel {
    analysis: Box<DenoiseFeatures>,
    gains: [f32; BANDS],
    /// The second half of the frame before, windowed.
    overlap: Vec<f32>,
}

/// A frame between analysis and synthesis.
struct Frame {
    analysis: Box<DenoiseFeatures>,
    silent: bool,
}

impl Suppressor {
    /// A suppressor for this many channels, which are independent of each other.
    pub(crate) fn new(net: &RnNoise, channels: usize) -> Result<Self> {
        let channel =
            || Channel { analysis: Box::new(DenoiseFeatures::new()), gains: [0.0; BANDS], overlap: vec![0.0; FRAME] };
        let half = |i: usize| {
            let sine = (FRAC_PI_2 * (i as f64 + 0.5) / FRAME as f64).sin();
            (FRAC_PI_2 * sine * sine).sin() as f32
        };
        let window = (0..FRAME).chain((0..FRAME).rev()).map(half).collect();
        Ok(Self {
            stream: net.stream(channels)?,
            channels: std::iter::repeat_with(channel).take(channels).collect(),
            window,
        })
    }

    /// Denoises whole frames of every channel in place, at 48 kHz with full scale [-1, 1]. The output is one frame late. Also returns
    /// the net's result.
    pub(crate) fn process(&mut self, sound: &mut [Vec<f32>]) -> Result<Suppression> {
        let count = sound.first().map_or(0, |samples| samples.len() / FRAME);
        let mut features = Array3::zeros((count, sound.len(), RnNoise::FEATURES));
        let mut heard = Array2::from_elem((count, sound.len()), true);
        let mut frames: Vec<Vec<Frame>> = Vec::with_capacity(sound.len());
        for (at, (channel, samples)) in self.channels.iter_mut().zip(sound.iter()).enumerate() {
            let analyzed = samples.chunks_exact(FRAME).map(|frame| channel.analyze(frame)).collect::<Vec<_>>();
            for (t, frame) in analyzed.iter().enumerate() {
                features
                    .slice_mut(s![t, at, ..])
                    .iter_mut()
                    .zip(frame.analysis.features())
                    .for_each(|(to, x)| *to = *x);
                heard[[t, at]] = !frame.silent;
            }
            frames.push(analyzed);
        }
        let result = self.stream.push(features.view(), Some(heard.view()))?;
        for (at, (samples, frames)) in sound.iter_mut().zip(frames).enumerate() {
            for (t, (out, mut frame)) in samples.chunks_exact_mut(FRAME).zip(frames).enumerate() {
                let mut gains = [0.0; BANDS];
                gains.iter_mut().zip(result.gains.slice(s![t, at, ..])).for_each(|(to, gain)| *to = *gain);
                self.channels[at].synthesize(&mut frame, gains, &self.window, out);
            }
        }
        Ok(result)
    }
}

impl Channel {
    fn analyze(&mut self, samples: &[f32]) -> Frame {
        let scaled: Vec<f32> = samples.iter().map(|sample| sample * FULL_SCALE).collect();
        self.analysis.shift_and_filter_input(&scaled);
        let silent = self.analysis.compute_frame_features();
        Frame { analysis: self.analysis.clone(), silent }
    }

    /// Applies the gains to the spectrum, and adds the frame's first half to the second half of the frame before.
    fn synthesize(&mut self, frame: &mut Frame, mut gains: [f32; BANDS], window: &[f32], out: &mut [f32]) {
        if !frame.silent {
            frame.analysis.pitch_filter(&gains);
            for (gain, last) in gains.iter_mut().zip(&mut self.gains) {
                *gain = gain.max(DECAY * *last);
                *last = *gain;
            }
            frame.analysis.x *= &bin_gains(&gains)[..];
        }
        // The analysis divides by FRAME, the inverse transform multiplies by its length.
        let scale = 0.5 / FULL_SCALE;
        let sound = frame.analysis.x.real_ifft();
        let mut windowed = sound.iter().zip(window).map(|(sample, weight)| sample * weight * scale);
        for (out, overlap) in out.iter_mut().zip(&self.overlap) {
            *out = overlap + windowed.next().unwrap_or(0.0);
        }
        self.overlap = windowed.collect();
    }
}

/// The gain of every bin, interpolated between the peaks of the bands (`interp_band_gain`). Above the last peak, 20 kHz, it is 0.
fn bin_gains(gains: &[f32; BANDS]) -> [f32; FRAME + 1] {
    let mut bins = [0.0; FRAME + 1];
    for (peaks, gains) in BAND_PEAKS.windows(2).zip(gains.windows(2)) {
        let (first, width) = (peaks[0] * BINS_PER_UNIT, (peaks[1] - peaks[0]) * BINS_PER_UNIT);
        for j in 0..width {
            let fraction = j as f32 / width as f32;
            bins[first + j] = (1.0 - fraction) * gains[0] + fraction * gains[1];
        }
    }
    bins
}

//! Whole models, built from the layers: a speech detector and a noise suppressor.

mod arrays;
mod rnnoise;
mod silero;
mod speech;

pub use rnnoise::{RnNoise, RnNoiseStream, RnNoiseTrace, Suppression};
pub use silero::{SileroVad, VadStream, VadTrace};
pub use speech::{Segment, SegmentOptions, speech_segments};

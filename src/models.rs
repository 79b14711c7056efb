//! Whole models with a job, built from the layers.

mod arrays;
mod rnnoise;
mod silero;
mod speech;

pub use rnnoise::{RnNoise, RnNoiseStream, RnNoiseTrace, Suppression};
pub use silero::{SileroVad, VadStream, VadTrace};
pub use speech::{Segment, SegmentOptions, speech_segments};

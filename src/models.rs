//! Whole models with a job, built from the layers.

mod silero;
mod speech;

pub use silero::{SileroVad, VadStream, VadTrace};
pub use speech::{Segment, SegmentOptions, speech_segments};

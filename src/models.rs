//! Whole models with a job, built from the layers.

mod arrays;
mod g2p;
mod rnnoise;
mod silero;
mod speech;
mod symbols;
mod thai;
mod uzmorph;

pub use g2p::{G2p, G2pTrace};
pub use rnnoise::{RnNoise, RnNoiseStream, RnNoiseTrace, Suppression};
pub use silero::{SileroVad, VadStream, VadTrace};
pub use speech::{Segment, SegmentOptions, speech_segments};
pub use thai::{ThaiSegmenter, ThaiTrace};
pub use uzmorph::{Morphology, UzMorph, UzMorphTrace, UzVocabulary};

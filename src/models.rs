//! Whole models, built from the layers: a speech detector and a noise suppressor.
//!
//! # Examples
//! ```
//! use gatewise::{Device, models::SileroVad, weights::Weights};
//!
//! let weights = Weights::from_bytes("silero_vad_16k.safetensors", SileroVad::WEIGHTS)?;
//! let vad = SileroVad::new(&Device::auto(), &weights)?;
//! let probabilities = vad.probabilities(&[0.0; 16_000])?; // one second of silence
//! assert_eq!(probabilities.len(), 32); // one per 32 ms
//! assert!(probabilities.iter().all(|&speech| speech < 0.5));
//! # Ok::<(), gatewise::Error>(())
//! ```

mod arrays;
mod rnnoise;
mod silero;
mod speech;

pub use rnnoise::{RnNoise, RnNoiseStream, RnNoiseTrace, Suppression};
pub use silero::{SileroVad, VadStream, VadTrace};
pub use speech::{Segment, SegmentOptions, speech_segments};

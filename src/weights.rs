//! Weights from other frameworks: right or refused.

mod safetensors;

pub use safetensors::Weights;

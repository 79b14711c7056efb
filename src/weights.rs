//! Weights from other frameworks: right or refused.

pub mod layout;
mod safetensors;

pub use safetensors::Weights;

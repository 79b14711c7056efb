//! Weights from other frameworks: right or refused.

pub mod layout;
mod safetensors;

pub use safetensors::Weights;
#[cfg(feature = "onnx")]
pub(crate) use safetensors::words;

#![doc = include_str!("../README.md")]

pub mod text;

pub mod cell;
mod error;
pub mod files;
mod memory;
pub mod op;
pub mod reference;

pub mod plan;

pub mod cpu;
#[cfg(feature = "gpu")]
pub mod gpu;

pub mod ops;
mod tensor;

pub mod nn;

pub mod weights;

pub mod train;

#[cfg(feature = "onnx")]
pub mod onnx;

#[cfg(feature = "models")]
pub mod models;

#[cfg(all(test, feature = "gpu", feature = "onnx", feature = "keras", feature = "models"))]
mod tests;

pub use error::{Error, Result};
pub use ops::Recorder;
pub use tensor::{Device, ReadBack, Tensor, batch_first};

#![doc = include_str!("../README.md")]
// The schedules of the GPU are planned, printed and tested in every build; without a GPU some of their parts have no user.
#![cfg_attr(not(feature = "gpu"), allow(dead_code, unused_imports))]

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
#[cfg(not(feature = "gpu"))]
#[path = "gpu/absent.rs"]
mod gpu;

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

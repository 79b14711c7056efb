//! Recurrent networks (RNN, LSTM, GRU and their variants) on any GPU that wgpu reaches, and on the CPU.
//!
//! ```
//! use gatewise::{Device, Tensor, nn::Lstm};
//! use ndarray::Array3;
//!
//! let device = Device::auto(); // a hardware GPU if there is one, else the CPU
//! let lstm = Lstm::config(8, 16).layers(2).random(&device, 7)?;
//! let mut state = lstm.zero_state(4)?; // h and s, on the device
//!
//! let x = Array3::<f32>::ones((10, 4, 8)); // time-major: [T, B, I]
//! let y = lstm.forward(&Tensor::from_array(&device, &x)?, &mut state)?; // one submission
//! let y: Array3<f32> = y.to_array()?; // the read-back
//! assert_eq!(y.shape(), &[10, 4, 16]);
//! # Ok::<(), gatewise::Error>(())
//! ```
//!
//! A cell is described once, as data ([`cell`]). The [reference](mod@reference) says what is right, in plain loops over
//! `f32` or `f64`. The CPU path and the GPU path compute the same, fast. Weights and states live on their layer's
//! device and are read back only when asked for. If a path does not support an option, it returns an [`Error`] that
//! names the option.
//!
//! | to | see |
//! | --- | --- |
//! | choose a device, hold arrays on it | [`Device`], [`Tensor`] |
//! | build layers, keep states | [`nn`] |
//! | add operations around them, in one submission | [`ops`], [`Recorder`] |
//! | load and save weights | [`weights`] (PyTorch's checkpoints: feature `torch`), `onnx` (feature `onnx`), `weights::keras` (feature `keras`) |
//! | train | [`train`] |
//! | run whole models | `models` (feature `models`) |
//! | see the schedule of a call | [`plan`] |

// The schedules of the GPU are planned, printed and tested in every build; without the feature `gpu` some of their
// parts are unused. In a browser nothing waits for the GPU, so parts of waiting, timing and tuning are unused.
#![cfg_attr(any(not(feature = "gpu"), target_arch = "wasm32"), allow(dead_code, unused_imports))]
// Without this feature some parts of a plan are neither reachable nor used.
#![cfg_attr(not(feature = "unstable-internals"), allow(dead_code, unused_imports, unreachable_pub))]

/// Declares an item that is public with the feature `unstable-internals`, and visible in the crate alone without it.
macro_rules! unstable {
    ($(#[$attribute:meta])* pub $($item:tt)*) => {
        #[cfg(feature = "unstable-internals")]
        $(#[$attribute])*
        pub $($item)*

        #[cfg(not(feature = "unstable-internals"))]
        $(#[$attribute])*
        pub(crate) $($item)*
    };
}

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
mod path;
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

/// Host arrays of this version are the inputs and outputs of every layer.
pub use ndarray;
/// Devices and buffers of this version can be shared with [`gpu::GpuDevice`] and [`Tensor`].
#[cfg(feature = "gpu")]
pub use wgpu;

pub use error::{Error, Result};
#[cfg(feature = "gpu")]
pub use path::EncodedCommands;
pub use path::{Device, ReadBack, Recorder};
pub use tensor::{Tensor, batch_first};

/// Runs the code of the README as documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeDoctests;

//! The CPU path: the same calls as the GPU path, by packed weights, vector registers and a few threads.
//!
//! ```text
//! pack       weights in panels: all gates of a block of units side by side          (once, when a layer is built)
//! product    the micro-kernel: rows times a panel, in tiles that fill the registers
//! update     gates, activations, new state: on the product of one panel, while it is in the first cache
//! layer      input projection of a chunk of steps, then step by step product and update; a thread owns some panels
//! stack      layers and directions, and the threads among them
//! training   the same with what gradients need kept, and backwards; a thread owns some rows of the batch
//! outer      sums of outer products, which the weights' gradients are
//! ```
//!
//! `unsafe` is confined to the modules that say so at their top: registers, kernels, and memory that threads share.

mod device;
mod layer;
mod math;
mod memory;
mod ops;
mod outer;
mod pack;
mod peaks;
mod pool;
mod product;
mod round;
mod scratch;
mod simd;
mod stack;
mod state;
mod training;
mod update;

pub use device::{CpuDevice, CpuOptions};
pub use peaks::Peaks;
pub use simd::Instructions;

pub(crate) use ops::{conv1d, matmul};
pub(crate) use stack::{Stack, StackCall, Workspace};
pub(crate) use training::{
    NamedParameters, TrainingCall, TrainingGradient, TrainingStack, TrainingSteps, TrainingTape,
};

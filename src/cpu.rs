//! The CPU path: the same calls as on the GPU path, with packed weights, vector registers and a few threads.
//!
//! ```text
//! pack stored     weights in panels that hold all gates of a block of units; done once, when a layer is built
//! active          the rows that take part in a step; a product leaves out the others
//! product         the micro-kernel: rows times a panel, in tiles that fill the registers
//! equations       the cells' forward equations on one register, for inference and training
//! update          inference: the equations on the product of some panels, while it is in the first-level cache
//! layer           input projection of a chunk of steps, then product and update step by step; the threads claim panels
//! stack           layers and directions, and how threads share them
//! training        the passes with gradients; a thread owns some rows of the batch
//! outer           sums of outer products, which are the weights' gradients
//! ops             the operations around the cells: products, convolutions, element-wise operations, reductions, layout
//! phases          how threads share the work of a call without waiting for a thread that does not come
//! memory pool     shared buffers and the threads; `buffer_cache` keeps buffers between training passes
//! ```
//!
//! `unsafe` is confined to the modules that allow it at their top: registers, kernels, and memory that threads share.

mod active;
mod buffer_cache;
mod device;
mod equations;
mod layer;
mod math;
mod memory;
mod ops;
mod outer;
mod pack;
#[cfg(feature = "unstable-internals")]
mod peaks;
mod phases;
mod pool;
mod product;
mod round;
mod simd;
mod stack;
mod state;
mod stored;
mod training;
mod update;

pub use device::{CpuDevice, CpuOptions};
#[cfg(feature = "unstable-internals")]
pub use peaks::Peaks;
pub use simd::Instructions;

pub(crate) use ops::{
    MatrixOperand, PackedFilters, PackedMatrix, Signal, Windows, activation, binary, binary_halves, conv1d,
    gather_rows, math, matmul, pad_rows, reduce_rows, softmax_rows, strided_copy,
};
pub(crate) use stack::{Stack, StackCall, Workspace};
pub(crate) use training::{
    NamedParameters, TrainingCall, TrainingGradient, TrainingStack, TrainingSteps, TrainingTape,
};

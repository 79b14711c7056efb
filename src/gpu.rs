//! The GPU path: the only room that names `wgpu`.
//!
//! [`GpuDevice`] owns (or borrows) a `wgpu::Device` and `Queue`; [`Kernel`]s are WGSL files in one table; a recorder collects
//! dispatches and copies and hands them over in one submission, or a few where one would keep a slow GPU too long.
//!
//! # After a loss
//!
//! A driver that fails, a GPU that is unplugged or an owner that destroys it makes every call on the device end in
//! [`Error::DeviceLost`](crate::Error::DeviceLost), at once and for good. Nothing on the device can be read any more. The way
//! back: open a device anew, build the layers there from their weights, and go on from the last state that was read back.
//!
//! ```
//! use gatewise::{Device, Error, Tensor, gpu::GpuOptions, nn::Lstm};
//! use ndarray::Array3;
//!
//! let options = GpuOptions { software: true, ..Default::default() };
//! let build = || -> gatewise::Result<Lstm> { Lstm::config(3, 4).random(&Device::gpu(&options)?, 7) };
//! let mut lstm = build()?;
//! let mut state = lstm.zero_state(1)?;
//! let mut saved = (state.to_h()?, state.to_s()?);
//! for _ in 0..3 {
//!     let step = |lstm: &Lstm, state: &mut _| -> gatewise::Result<Vec<f32>> {
//!         lstm.forward(&Tensor::from_array(lstm.device(), &Array3::ones((5, 1, 3)))?, state)?.to_vec()
//!     };
//!     let y = match step(&lstm, &mut state) {
//!         Err(Error::DeviceLost { .. }) => {
//!             lstm = build()?;
//!             state = lstm.state(saved.0.view(), saved.1.as_ref().map(|s| s.view()))?;
//!             step(&lstm, &mut state)?
//!         }
//!         y => y?,
//!     };
//!     assert_eq!(y.len(), 5 * 4);
//!     saved = (state.to_h()?, state.to_s()?);
//! }
//! # Ok::<(), Error>(())
//! ```

mod adapter;
mod bindings;
mod buffer;
mod contained;
mod context;
mod counters;
#[cfg(test)]
pub(crate) mod faults;
mod kernel;
mod layout;
mod limits;
mod liveness;
mod ops;
mod part;
mod peaks;
mod pipeline_cache;
mod pool;
mod profile;
mod readback;
mod recent;
mod recorder;
mod recurrent;
mod reflection;
mod specialize;
mod strided;
mod training;
mod tuning;
mod uniform;
mod watch;

pub use adapter::{AdapterSummary, GpuOptions, adapters};
pub use context::GpuDevice;
pub use counters::Counters;
pub use kernel::{KERNELS, Kernel, KernelRun};
pub use peaks::Peaks;
pub use profile::{Detail, Profile};
pub use recurrent::KernelCell;

pub(crate) use buffer::Buffer;
pub(crate) use layout::{RowWords, gather_rows, strided_copy};
pub(crate) use ops::{
    MatmulSize, Operand, argmax_rows, binary, conv1d, math, matmul, pad1d, reduce_rows, sum_columns, unary,
};
pub(crate) use readback::ReadBack;
pub(crate) use recorder::Recorder;
pub(crate) use recurrent::{
    IncomingGradient, LayerStack, ParameterBuffers, SequenceInput, StateBuffers, TrainingGradient, TrainingInput,
    TrainingStack, TrainingTape, forward, forward_training,
};
pub(crate) use strided::dropout;
pub(crate) use training::{
    conv1d_grad_input, conv1d_grad_weight, gather_rows_grad, judge_step, mean_steps, mean_steps_grad, optimizer_step,
    point_loss, point_loss_grad, softmax_cross_entropy, softmax_cross_entropy_grad, sum, unary_grad,
};

//! The GPU path: the only module that uses `wgpu`, apart from functions of `tensor.rs` and
//! `path/encoded.rs` that share buffers and encoders with a caller.
//!
//! [`GpuDevice`] owns a `wgpu::Device` and a `Queue`, which it has opened or a caller has passed in. Kernels are WGSL files in one table.
//! A recorder collects dispatches and copies. It submits them at once, or in a few submissions if one would take too long on a slow GPU.
//!
//! The layers, from the bottom up: `device` (adapter, limits, loss), `kept` (memory, pipelines, bind groups, tuning), `arguments` (plain data), `submit` (recorder,
//! read-back, handle), then the operations. Each layer names only the layers below it (`tests/gpu_layers.rs`).
//!
//! # A caller's own device, buffers and commands
//!
//! A caller that computes with wgpu itself shares everything with the library, and nothing comes to the host:
//!
//! | to | see |
//! | --- | --- |
//! | use an own device | [`GpuDevice::from_wgpu`], [`GpuDevice::required_limits`], [`GpuDevice::optional_features`] |
//! | read an own buffer | [`Tensor::from_wgpu_buffer`](crate::Tensor::from_wgpu_buffer) |
//! | write to an own buffer | [`Recurrent::record_into`](crate::nn::Recurrent::record_into) |
//! | read a result in an own kernel | [`Tensor::wgpu_buffer`](crate::Tensor::wgpu_buffer) |
//! | give masks and resets from an own kernel | [`DeviceSequence`](crate::nn::DeviceSequence) |
//! | have one submission with own passes | [`Recorder::encode`](crate::Recorder::encode) |
//!
//! `examples/own_encoder.rs` does all of it in one submission.
//!
//! # After a loss
//!
//! If a driver fails, a GPU is unplugged or its owner destroys the device, the device is lost: every call on it returns
//! [`Error::DeviceLost`](crate::Error::DeviceLost) from then on, and nothing on it can be read any more. To go on, open a device anew,
//! build the layers there from their weights, and continue from the last state that was read back.
//!
//! ```
//! use gatewise::{Device, Error, Tensor, gpu::GpuOptions, nn::Lstm};
//! use ndarray::Array3;
//!
//! let options = GpuOptions::new().software(true);
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

mod arguments;
mod device;
mod kept;
#[cfg(feature = "unstable-internals")]
mod kernel_run;
mod layout;
mod ops;
#[cfg(all(feature = "unstable-internals", not(target_arch = "wasm32")))]
mod peaks;
mod recurrent;
mod strided;
mod submit;
mod training;

#[cfg(not(target_arch = "wasm32"))]
pub use device::adapter::adapters;
pub use device::adapter::{AdapterSummary, GpuOptions};
pub use device::counters::Counters;
pub use submit::GpuDevice;
pub use submit::profile::{Detail, Profile};

#[cfg(all(feature = "unstable-internals", not(target_arch = "wasm32")))]
pub use peaks::Peaks;
#[cfg(feature = "unstable-internals")]
pub use {
    kept::kernel::{KERNELS, Kernel},
    kernel_run::KernelRun,
    recurrent::KernelCell,
};

pub(crate) use arguments::{
    IncomingGradient, MatmulSize, Operand, ParameterBuffers, RowWords, SequenceInput, StateBuffers, TrainingGradient,
    TrainingInput, TrainingStack,
};
#[cfg(all(test, feature = "onnx", feature = "keras", feature = "models"))]
pub(crate) use device::faults;
pub(crate) use kept::buffer::Buffer;
pub(crate) use layout::{gather_rows, strided_copy};
pub(crate) use ops::{argmax_rows, binary, conv1d, math, matmul, pad1d, reduce_rows, sum_columns, unary};
pub(crate) use recurrent::{LayerStack, TrainingTape, forward, forward_training, sequence_flags};
pub(crate) use strided::dropout;
pub(crate) use submit::readback::{ReadBack, UnsubmittedReads};
pub(crate) use submit::recorder::Recorder;
pub(crate) use training::{
    conv1d_grad_input, conv1d_grad_weight, gather_rows_grad, judge_step, mean_steps, mean_steps_grad, optimizer_step,
    point_loss, point_loss_grad, softmax_cross_entropy, softmax_cross_entropy_grad, sum, unary_grad,
};

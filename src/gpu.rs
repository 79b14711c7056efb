//! The GPU path: the only room that names `wgpu`.
//!
//! [`GpuDevice`] owns (or borrows) a `wgpu::Device` and `Queue`; [`Kernel`]s are WGSL files in one table; a recorder collects
//! dispatches and copies and hands them over in one submission.

mod adapter;
mod bindings;
mod buffer;
mod context;
mod counters;
mod kernel;
mod layout;
mod ops;
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
    Incoming, LayerStack, ParameterBuffers, Run, RunState, TrainingGradient, TrainingRun, TrainingStack, TrainingTape,
    forward, forward_training,
};
pub(crate) use strided::dropout;
pub(crate) use training::{
    conv1d_grad_input, conv1d_grad_weight, gather_rows_grad, judge_step, mean_steps, mean_steps_grad, optimizer_step,
    point_loss, point_loss_grad, softmax_cross_entropy, softmax_cross_entropy_grad, sum, unary_grad,
};

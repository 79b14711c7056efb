//! The table of kernels, and their pipelines.

use std::any::TypeId;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::buffer::Buffer;
use super::context::{Context, GpuDevice, lock};
use super::counters::count;
use super::pipeline_cache::PipelineCache;
use super::recent::Recent;
use super::recorder::Recorder;
use super::reflection::Variant;
use super::uniform::{Declared, Uniform};
use crate::error::Result;

/// A compute kernel: a WGSL file, its entry point, its label, all under one name.
#[derive(Debug)]
pub struct Kernel {
    /// File stem, entry point and label.
    pub name: &'static str,
    /// The files it is made of, below `shaders/`: shared fragments first, its own file last.
    pub files: &'static [&'static str],
    /// Their text, one after another: what the driver compiles.
    pub source: &'static str,
}

impl Kernel {
    /// Whether it is one of [`KERNELS`] rather than a caller's.
    pub(super) fn is_own(&'static self) -> bool {
        KERNELS.iter().any(|own| std::ptr::eq(*own, self))
    }
}

macro_rules! kernels {
    ($($(#[$doc:meta])* $static:ident = $name:literal: [$($file:literal),+];)+) => {
        $(
            $(#[$doc])*
            pub(crate) static $static: Kernel = Kernel {
                name: $name,
                files: &[$($file),+],
                source: concat!($(include_str!(concat!("../../shaders/", $file)), "\n"),+),
            };
        )+
        /// Every kernel of the crate.
        pub static KERNELS: &[&Kernel] = &[$(&$static),+];
    };
}

kernels! {
    /// `y = a b + bias` for many rows.
    MATMUL = "matmul": ["matmul/dims.wgsl", "matmul/product.wgsl", "matmul/matmul.wgsl"];
    /// `y = a b + bias` for few rows.
    MATMUL_ROWS = "matmul_rows": ["common/index.wgsl", "matmul/dims.wgsl", "matmul/matmul_rows.wgsl"];
    /// One-dimensional convolution.
    CONV1D = "conv1d": ["common/index.wgsl", "conv/dims.wgsl", "conv/conv1d.wgsl"];
    /// Padding of the last axis.
    PAD1D = "pad1d": ["common/index.wgsl", "conv/pad1d.wgsl"];
    /// An activation of every element.
    UNARY = "unary": ["common/index.wgsl", "common/activation.wgsl", "elementwise/unary.wgsl"];
    /// An elementary function of every element.
    MATH = "math": ["common/index.wgsl", "common/activation.wgsl", "elementwise/math.wgsl"];
    /// An operation on two operands.
    BINARY = "binary": ["common/index.wgsl", "common/activation.wgsl", "elementwise/binary.wgsl"];
    /// A reduction of every row.
    REDUCE_ROWS = "reduce_rows": ["common/activation.wgsl", "reduce/reduce_rows.wgsl"];
    /// The column of every row's largest element.
    ARGMAX_ROWS = "argmax_rows": ["common/activation.wgsl", "reduce/argmax_rows.wgsl"];
    /// The sum of every column.
    SUM_COLUMNS = "sum_columns": ["reduce/sum_columns.wgsl"];
    /// A copy between strided places.
    STRIDED_COPY = "strided_copy": ["common/index.wgsl", "layout/strided_copy.wgsl"];
    /// Rows of a table.
    GATHER_ROWS = "gather_rows": ["common/index.wgsl", "layout/gather_rows.wgsl"];
    /// The gradient by an activation's argument.
    UNARY_GRAD = "unary_grad": [
        "common/index.wgsl", "common/activation.wgsl", "common/activation_grad.wgsl", "elementwise/unary_grad.wgsl"
    ];
    /// The gradient by a table whose rows were picked.
    GATHER_ROWS_GRAD = "gather_rows_grad": ["common/index.wgsl", "layout/gather_rows_grad.wgsl"];
    /// The gradient by a convolution's signal.
    CONV1D_GRAD_INPUT = "conv1d_grad_input": ["common/index.wgsl", "conv/dims.wgsl", "conv/conv1d_grad_input.wgsl"];
    /// The gradient by a convolution's weights.
    CONV1D_GRAD_WEIGHT = "conv1d_grad_weight": ["conv/dims.wgsl", "conv/conv1d_grad_weight.wgsl"];
    /// The weighted sum over the first axis.
    MEAN_STEPS = "mean_steps": ["common/index.wgsl", "reduce/mean_steps.wgsl"];
    /// The gradient by what was summed.
    MEAN_STEPS_GRAD = "mean_steps_grad": ["common/index.wgsl", "reduce/mean_steps_grad.wgsl"];
    /// Cross-entropy of scores and classes.
    SOFTMAX_CROSS_ENTROPY = "softmax_cross_entropy": [
        "common/activation.wgsl", "train/softmax.wgsl", "train/softmax_cross_entropy.wgsl"
    ];
    /// The gradient by the scores.
    SOFTMAX_CROSS_ENTROPY_GRAD = "softmax_cross_entropy_grad": [
        "common/activation.wgsl", "train/softmax.wgsl", "train/softmax_cross_entropy_grad.wgsl"
    ];
    /// A loss of every element.
    POINT_LOSS = "point_loss": [
        "common/index.wgsl", "common/activation.wgsl", "train/loss.wgsl", "train/point_loss.wgsl"
    ];
    /// The gradient by the predictions.
    POINT_LOSS_GRAD = "point_loss_grad": [
        "common/index.wgsl", "common/activation.wgsl", "train/loss.wgsl", "train/point_loss_grad.wgsl"
    ];
    /// Sums or norms of runs of elements.
    PARTIAL_SUMS = "partial_sums": [
        "common/activation.wgsl", "train/lanes.wgsl", "train/norm.wgsl", "train/partial_sums.wgsl"
    ];
    /// The sum of a whole buffer.
    TOTAL_SUM = "total_sum": ["train/lanes.wgsl", "train/total.wgsl", "train/total_sum.wgsl"];
    /// The verdict on a training step.
    JUDGE_STEP = "judge_step": ["train/lanes.wgsl", "train/norm.wgsl", "train/judge_step.wgsl"];
    /// A parameter's update.
    OPTIMIZER_STEP = "optimizer_step": [
        "common/index.wgsl", "common/activation.wgsl", "train/optimizer_step.wgsl"
    ];
    /// A copy: the memory's bandwidth.
    PEAK_COPY = "peak_copy": ["common/index.wgsl", "peaks/peak_copy.wgsl"];
    /// Reads of the same words over and over: a cache's bandwidth.
    PEAK_READ = "peak_read": ["common/index.wgsl", "peaks/peak_read.wgsl"];
    /// Multiply-adds: the arithmetic's rate.
    PEAK_FMA = "peak_fma": ["common/index.wgsl", "peaks/peak_fma.wgsl"];
    /// Hardly anything: the cost of a dispatch.
    PEAK_STEP = "peak_step": ["peaks/peak_step.wgsl"];
    /// The input's side of the gates of all steps.
    PROJECT_ROWS = "project_rows": [
        "common/tile.wgsl", "common/tile_rows.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "cell/project_input.wgsl", "cell/project_rows.wgsl"
    ];
    /// The same, rows shared within a subgroup.
    PROJECT_LANES = "project_lanes": [
        "common/tile.wgsl", "common/tile_lanes.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "cell/project_input.wgsl", "cell/project_lanes.wgsl"
    ];
    /// The same by the adapter's matrices of f16.
    PROJECT_MATRIX_HALF = "project_matrix_half": [
        "common/matrix_half.wgsl", "common/matrix.wgsl", "common/tile.wgsl", "common/tile_matrix.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "cell/project_input.wgsl", "cell/project_matrix.wgsl",
        "cell/project_matrix_half.wgsl"
    ];
    /// The same by those of f32.
    PROJECT_MATRIX_FLOAT = "project_matrix_float": [
        "common/matrix_float.wgsl", "common/matrix.wgsl", "common/tile.wgsl", "common/tile_matrix.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "cell/project_input.wgsl", "cell/project_matrix.wgsl",
        "cell/project_matrix_float.wgsl"
    ];
    /// One time step of a recurrent layer, or of all of them.
    RECURRENT_STEP = "recurrent_step": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_rows.wgsl",
        "common/tile_slices.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl", "cell/recurrent.wgsl",
        "cell/memory.wgsl", "cell/step_memory.wgsl", "cell/recurrent_step.wgsl"
    ];
    /// The same, rows shared within a subgroup.
    RECURRENT_STEP_LANES = "recurrent_step_lanes": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_lanes.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl",
        "cell/step_memory.wgsl", "cell/recurrent_step_lanes.wgsl"
    ];
    /// The same for many rows, by the adapter's matrices of f16.
    RECURRENT_STEP_MATRIX_HALF = "recurrent_step_matrix_half": [
        "common/matrix_half.wgsl", "common/matrix.wgsl", "common/activation.wgsl", "common/noise.wgsl",
        "common/cell.wgsl", "common/tile.wgsl", "common/tile_matrix.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/step_memory.wgsl", "cell/recurrent_step_matrix.wgsl",
        "cell/recurrent_step_matrix_half.wgsl"
    ];
    /// The same by those of f32.
    RECURRENT_STEP_MATRIX_FLOAT = "recurrent_step_matrix_float": [
        "common/matrix_float.wgsl", "common/matrix.wgsl", "common/activation.wgsl", "common/noise.wgsl",
        "common/cell.wgsl", "common/tile.wgsl", "common/tile_matrix.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/step_memory.wgsl", "cell/recurrent_step_matrix.wgsl",
        "cell/recurrent_step_matrix_float.wgsl"
    ];
    /// A chunk of time of a recurrent layer, or of all of them.
    SCAN_ROWS = "scan_rows": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_rows.wgsl", "common/kept.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/scan.wgsl",
        "cell/scan_memory.wgsl", "cell/scan_rows.wgsl"
    ];
    /// The same, rows shared within a subgroup.
    SCAN_LANES = "scan_lanes": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_lanes.wgsl", "common/kept.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/scan.wgsl",
        "cell/scan_memory.wgsl", "cell/scan_lanes.wgsl"
    ];
    /// A chunk of time of a recurrent layer, over several workgroups.
    SCAN_COOPERATIVE = "scan_cooperative": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_rows.wgsl",
        "common/tile_slices.wgsl", "common/kept.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/scan.wgsl", "cell/exchange_memory.wgsl", "cell/scan_cooperative.wgsl"
    ];
    /// One time step of a recurrent layer backwards.
    RECURRENT_STEP_GRAD = "recurrent_step_grad": [
        "common/activation.wgsl", "common/activation_grad.wgsl", "common/noise.wgsl", "common/cell.wgsl",
        "common/cell_grad.wgsl", "common/tile.wgsl", "common/tile_rows.wgsl", "common/tile_slices.wgsl",
        "cell/recurrent_grad.wgsl", "cell/recurrent_step_grad.wgsl"
    ];
    /// The same, rows shared within a subgroup.
    RECURRENT_STEP_GRAD_LANES = "recurrent_step_grad_lanes": [
        "common/activation.wgsl", "common/activation_grad.wgsl", "common/noise.wgsl", "common/cell.wgsl",
        "common/cell_grad.wgsl", "common/tile.wgsl", "common/tile_lanes.wgsl", "cell/recurrent_grad.wgsl",
        "cell/recurrent_step_grad_lanes.wgsl"
    ];
    /// Weights in the order of the products.
    PACK_WEIGHTS = "pack_weights": ["common/index.wgsl", "cell/pack_weights.wgsl"];
    /// Biases and peepholes in the order of the steps.
    PACK_VECTORS = "pack_vectors": ["common/index.wgsl", "cell/vector_rows.wgsl", "cell/pack_vectors.wgsl"];
    /// `y = a b` or `y += a b` by strides.
    MATMUL_STRIDED = "matmul_strided": [
        "matmul/strided_dims.wgsl", "matmul/product.wgsl", "matmul/matmul_strided.wgsl"
    ];
    /// The same, rows of `a` shared within a subgroup.
    MATMUL_STRIDED_LANES = "matmul_strided_lanes": ["matmul/strided_dims.wgsl", "matmul/matmul_strided_lanes.wgsl"];
    /// Sums along an axis.
    SUM_STRIDED = "sum_strided": ["common/index.wgsl", "reduce/sum_strided.wgsl"];
    /// A random mask.
    DROPOUT = "dropout": ["common/index.wgsl", "common/noise.wgsl", "elementwise/dropout.wgsl"];
    /// Zeros in the rows that a step skips.
    SILENCE = "silence": ["common/index.wgsl", "elementwise/silence.wgsl"];
}

/// Values of a kernel's `override`s.
pub(super) type Constants = Vec<(&'static str, u32)>;

/// Variants of a kernel of which a generation is kept. A model of more layers with shapes of their own than twice as many
/// compiles at every call.
const MOST_VARIANTS: usize = 128;

/// Compiled kernels by name and `override`s, the variants used last of each.
#[derive(Default)]
pub(super) struct Pipelines(HashMap<&'static str, Recent<Constants, Arc<Pipeline>>>);

impl Pipelines {
    fn get(&mut self, kernel: &'static Kernel, constants: &Constants) -> Option<Arc<Pipeline>> {
        self.0.get_mut(kernel.name)?.get(constants)
    }

    fn insert(&mut self, kernel: &'static Kernel, constants: Constants, pipeline: Arc<Pipeline>) {
        let variants = self.0.entry(kernel.name).or_insert_with(|| Recent::new(MOST_VARIANTS));
        variants.insert(constants, pipeline);
    }
}

/// A compiled kernel with the layout that its WGSL declares.
pub(super) struct Pipeline {
    pub(super) name: &'static str,
    /// Its source, and the values of the `override`s.
    pub(super) kernel: &'static Kernel,
    pub(super) constants: Constants,
    /// No other pipeline or buffer of the device has it; `None` for one that no later call will ask for.
    pub(super) number: Option<u64>,
    pub(super) raw: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    /// Bindings after the uniform at 0.
    pub(super) buffers: usize,
    /// The uniform at binding 0.
    pub(super) dims: Declared,
    /// The Rust struct that has been found to be the same.
    accepted: OnceLock<TypeId>,
}

impl Pipeline {
    /// Refuses a uniform that differs from the WGSL's.
    pub(super) fn accept<D: Uniform>(&self) -> Result<()> {
        let id = TypeId::of::<D>();
        if self.accepted.get() != Some(&id) {
            self.dims.check::<D>(self.name)?;
            // Whichever thread is first: both have found the same struct right.
            let _ = self.accepted.set(id);
        }
        Ok(())
    }
}

impl Context {
    /// The pipeline of a kernel, compiled at its first use.
    pub(super) fn pipeline(self: &Arc<Self>, kernel: &'static Kernel, constants: &Constants) -> Result<Arc<Pipeline>> {
        if let Some(pipeline) = lock(&self.pipelines).get(kernel, constants) {
            return Ok(pipeline);
        }
        let pipeline =
            Arc::new(Pipeline { number: Some(self.next_number()), ..self.compile(kernel, constants, Checks::Access)? });
        lock(&self.pipelines).insert(kernel, constants.clone(), Arc::clone(&pipeline));
        Ok(pipeline)
    }

    fn compile(&self, kernel: &'static Kernel, constants: &Constants, checks: Checks) -> Result<Pipeline> {
        let op = kernel.name;
        let variant = Variant::of(kernel, constants)?;
        // wgpu checks neither the memory (gfx-rs/wgpu#8946) nor a workgroup size that is an override.
        self.limit(
            op,
            "workgroup memory in bytes",
            variant.workgroup_bytes,
            u64::from(self.limits.max_compute_workgroup_storage_size),
        )?;
        let invocations = variant.workgroup.iter().map(|&size| u64::from(size)).product();
        let most = u64::from(self.limits.max_compute_invocations_per_workgroup);
        self.limit(op, "invocations of a workgroup", invocations, most)?;
        let limits = &self.limits;
        let longest = [
            limits.max_compute_workgroup_size_x,
            limits.max_compute_workgroup_size_y,
            limits.max_compute_workgroup_size_z,
        ];
        for (size, longest) in variant.workgroup.into_iter().zip(longest) {
            self.limit(op, "invocations of a workgroup along one axis", u64::from(size), u64::from(longest))?;
        }
        count(&self.counters.pipelines, 1);
        self.guarded(op, || {
            let layout = self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some(op),
                entries: &variant.entries,
            });
            let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(op),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let module = self.module(kernel, variant.module, checks);
            let raw = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(op),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some(op),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: self.pipeline_cache.as_ref().map(PipelineCache::raw),
            });
            let buffers = variant.entries.len() - 1;
            let (name, dims) = (op, variant.dims);
            let constants = constants.clone();
            Pipeline { name, kernel, constants, number: None, raw, layout, buffers, dims, accepted: OnceLock::new() }
        })
    }
}

/// What a compiled kernel checks while it runs.
#[derive(Clone, Copy)]
enum Checks {
    /// Every access to memory and every division. No loop is counted: that would keep drivers from unrolling it.
    Access,
    /// Every loop as well.
    All,
}

impl Context {
    fn module(&self, kernel: &'static Kernel, module: naga::Module, checks: Checks) -> wgpu::ShaderModule {
        let source = wgpu::ShaderSource::Naga(Cow::Owned(module));
        let descriptor = wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source };
        // A caller can make a `Kernel` of any text; only the crate's own are known to end.
        match checks {
            Checks::Access if kernel.is_own() => {
                let checks =
                    wgpu::ShaderRuntimeChecks { force_loop_bounding: false, ..wgpu::ShaderRuntimeChecks::checked() };
                #[expect(unsafe_code, reason = "a driver takes an endless loop for code that is never reached")]
                // SAFETY: what is asked for is that no loop is endless. Every loop of the crate's kernels counts towards a
                // bound in steps that are not 0 (`tests/shaders.rs` holds them to it), and the bounds are the host's own:
                // sizes of buffers, below 2^30 words, so that no counter overflows before it gets there.
                unsafe {
                    self.device.create_shader_module_trusted(descriptor, checks)
                }
            }
            _ => self.device.create_shader_module(descriptor),
        }
    }
}

/// One run of a kernel on host data: for tests of a kernel by itself, and for tools.
#[derive(Clone, Copy, Debug)]
pub struct KernelRun<'a> {
    /// Values of the kernel's `override`s.
    pub constants: &'a [(&'static str, u32)],
    /// The uniform at binding 0, in 32-bit words.
    pub dims: &'a [u32],
    /// The buffers from binding 1 on, in 32-bit words.
    pub buffers: &'a [Vec<u32>],
    /// Workgroups along each axis.
    pub grid: [u32; 3],
}

impl GpuDevice {
    /// Compiles a kernel anew and runs it once; returns every buffer as the kernel left it.
    ///
    /// # Errors
    /// [`Error::Gpu`](crate::Error::Gpu) where the WGSL, the bindings or the grid are refused; [`Error::Limit`](crate::Error::Limit).
    pub fn run_kernel(&self, kernel: &'static Kernel, run: &KernelRun<'_>) -> Result<Vec<Vec<u32>>> {
        let pipeline = Arc::new(self.context().compile(kernel, &run.constants.to_vec(), Checks::All)?);
        let upload = |words: &Vec<u32>| Buffer::from_slice(self, kernel.name, words);
        let buffers = run.buffers.iter().map(upload).collect::<Result<Vec<_>>>()?;
        let mut recorder = Recorder::new(self);
        let bound = recorder.bind_pipeline(pipeline, buffers.clone())?;
        recorder.dispatch_bytes(bound, bytemuck::cast_slice(run.dims), run.grid)?;
        recorder.submit()?;
        buffers.iter().zip(run.buffers).map(|(buffer, words)| buffer.read_from(0, words.len())).collect()
    }
}

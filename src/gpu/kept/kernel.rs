//! The table of kernels.

/// A compute kernel: its WGSL file, its entry point and its label share one name.
#[derive(Debug)]
pub struct Kernel {
    /// File stem, entry point and label.
    pub name: &'static str,
    /// Paths below `shaders/` of the files that make up the kernel: shared fragments first, its own file last.
    pub files: &'static [&'static str],
    /// The texts of all files, one after another.
    pub source: &'static str,
}

impl Kernel {
    /// Whether it is one of [`KERNELS`] rather than a caller's.
    pub(in crate::gpu) fn is_own(&'static self) -> bool {
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
                source: concat!($(include_str!(concat!("../../../shaders/", $file)), "\n"),+),
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
    /// A selection of rows of a table.
    GATHER_ROWS = "gather_rows": ["common/index.wgsl", "layout/gather_rows.wgsl"];
    /// The gradient with respect to an activation's argument.
    UNARY_GRAD = "unary_grad": [
        "common/index.wgsl", "common/activation.wgsl", "common/activation_grad.wgsl", "elementwise/unary_grad.wgsl"
    ];
    /// The gradient with respect to a table whose rows were picked.
    GATHER_ROWS_GRAD = "gather_rows_grad": ["common/index.wgsl", "layout/gather_rows_grad.wgsl"];
    /// The gradient with respect to a convolution's signal.
    CONV1D_GRAD_INPUT = "conv1d_grad_input": ["common/index.wgsl", "conv/dims.wgsl", "conv/conv1d_grad_input.wgsl"];
    /// The gradient with respect to a convolution's weights.
    CONV1D_GRAD_WEIGHT = "conv1d_grad_weight": ["conv/dims.wgsl", "conv/conv1d_grad_weight.wgsl"];
    /// The weighted sum over the first axis.
    MEAN_STEPS = "mean_steps": ["common/index.wgsl", "reduce/mean_steps.wgsl"];
    /// The gradient with respect to the summands of `mean_steps`.
    MEAN_STEPS_GRAD = "mean_steps_grad": ["common/index.wgsl", "reduce/mean_steps_grad.wgsl"];
    /// Cross-entropy of scores and classes.
    SOFTMAX_CROSS_ENTROPY = "softmax_cross_entropy": [
        "common/activation.wgsl", "train/softmax.wgsl", "train/softmax_cross_entropy.wgsl"
    ];
    /// The gradient of a cross-entropy with respect to the scores.
    SOFTMAX_CROSS_ENTROPY_GRAD = "softmax_cross_entropy_grad": [
        "common/activation.wgsl", "train/softmax.wgsl", "train/softmax_cross_entropy_grad.wgsl"
    ];
    /// A loss of every element.
    POINT_LOSS = "point_loss": [
        "common/index.wgsl", "common/activation.wgsl", "train/loss.wgsl", "train/point_loss.wgsl"
    ];
    /// The gradient of a pointwise loss with respect to the predictions.
    POINT_LOSS_GRAD = "point_loss_grad": [
        "common/index.wgsl", "common/activation.wgsl", "train/loss.wgsl", "train/point_loss_grad.wgsl"
    ];
    /// Sums or norms of consecutive elements, one per workgroup.
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
    /// A copy, which measures the memory's bandwidth.
    PEAK_COPY = "peak_copy": ["common/index.wgsl", "peaks/peak_copy.wgsl"];
    /// Repeated reads of the same words, which measure a cache's bandwidth.
    PEAK_READ = "peak_read": ["common/index.wgsl", "peaks/peak_read.wgsl"];
    /// Multiply-adds, which measure the rate of arithmetic.
    PEAK_FMA = "peak_fma": ["common/index.wgsl", "peaks/peak_fma.wgsl"];
    /// Hardly any work, which measures the cost of a dispatch.
    PEAK_STEP = "peak_step": ["peaks/peak_step.wgsl"];
    /// The input projection of all steps.
    PROJECT_ROWS = "project_rows": [
        "common/tile.wgsl", "common/tile_rows.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "cell/project_input.wgsl", "cell/project_rows.wgsl"
    ];
    /// The input projection, with rows shared within a subgroup.
    PROJECT_LANES = "project_lanes": [
        "common/tile.wgsl", "common/tile_lanes.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "cell/project_input.wgsl", "cell/project_lanes.wgsl"
    ];
    /// The input projection by the adapter's matrices of f16.
    PROJECT_MATRIX_HALF = "project_matrix_half": [
        "common/matrix_half.wgsl", "common/matrix.wgsl", "common/tile.wgsl", "common/tile_matrix.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "cell/project_input.wgsl", "cell/project_matrix.wgsl",
        "cell/project_matrix_half.wgsl"
    ];
    /// The input projection by the adapter's matrices of f32.
    PROJECT_MATRIX_FLOAT = "project_matrix_float": [
        "common/matrix_float.wgsl", "common/matrix.wgsl", "common/tile.wgsl", "common/tile_matrix.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "cell/project_input.wgsl", "cell/project_matrix.wgsl",
        "cell/project_matrix_float.wgsl"
    ];
    /// One time step of a recurrent layer, or of all layers.
    RECURRENT_STEP = "recurrent_step": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_rows.wgsl",
        "common/tile_slices.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl", "common/step.wgsl", "cell/recurrent.wgsl",
        "cell/memory.wgsl", "cell/step_memory.wgsl", "cell/recurrent_step.wgsl"
    ];
    /// One time step, with rows shared within a subgroup.
    RECURRENT_STEP_LANES = "recurrent_step_lanes": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_lanes.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "common/step.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl",
        "cell/step_memory.wgsl", "cell/recurrent_step_lanes.wgsl"
    ];
    /// One time step of many rows, by the adapter's matrices of f16.
    RECURRENT_STEP_MATRIX_HALF = "recurrent_step_matrix_half": [
        "common/matrix_half.wgsl", "common/matrix.wgsl", "common/activation.wgsl", "common/noise.wgsl",
        "common/cell.wgsl", "common/tile.wgsl", "common/tile_matrix.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "common/step.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/step_memory.wgsl", "cell/recurrent_step_matrix.wgsl",
        "cell/recurrent_step_matrix_half.wgsl"
    ];
    /// One time step of many rows, by the adapter's matrices of f32.
    RECURRENT_STEP_MATRIX_FLOAT = "recurrent_step_matrix_float": [
        "common/matrix_float.wgsl", "common/matrix.wgsl", "common/activation.wgsl", "common/noise.wgsl",
        "common/cell.wgsl", "common/tile.wgsl", "common/tile_matrix.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "common/step.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/step_memory.wgsl", "cell/recurrent_step_matrix.wgsl",
        "cell/recurrent_step_matrix_float.wgsl"
    ];
    /// A scan of a chunk of time of a recurrent layer, or of all layers.
    SCAN_ROWS = "scan_rows": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_rows.wgsl", "common/kept.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "common/step.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/scan.wgsl",
        "cell/scan_memory.wgsl", "cell/scan_rows.wgsl"
    ];
    /// A scan of a chunk of time, with rows shared within a subgroup.
    SCAN_LANES = "scan_lanes": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_lanes.wgsl", "common/kept.wgsl",
        "cell/vector_rows.wgsl", "cell/vectors.wgsl", "common/step.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/scan.wgsl",
        "cell/scan_memory.wgsl", "cell/scan_lanes.wgsl"
    ];
    /// A cooperative scan of a chunk of time.
    SCAN_COOPERATIVE = "scan_cooperative": [
        "common/activation.wgsl", "common/noise.wgsl", "common/cell.wgsl", "common/tile.wgsl", "common/tile_rows.wgsl",
        "common/tile_slices.wgsl", "common/kept.wgsl", "cell/vector_rows.wgsl", "cell/vectors.wgsl",
        "common/step.wgsl", "cell/recurrent.wgsl", "cell/memory.wgsl", "cell/scan.wgsl", "cell/exchange_memory.wgsl", "cell/scan_cooperative.wgsl"
    ];
    /// The backward pass of one time step of a recurrent layer.
    RECURRENT_STEP_GRAD = "recurrent_step_grad": [
        "common/activation.wgsl", "common/activation_grad.wgsl", "common/noise.wgsl", "common/cell.wgsl",
        "common/cell_grad.wgsl", "common/tile.wgsl", "common/tile_rows.wgsl", "common/tile_slices.wgsl",
        "common/step.wgsl", "cell/recurrent_grad.wgsl", "cell/recurrent_step_grad.wgsl"
    ];
    /// The backward pass of one time step, with rows shared within a subgroup.
    RECURRENT_STEP_GRAD_LANES = "recurrent_step_grad_lanes": [
        "common/activation.wgsl", "common/activation_grad.wgsl", "common/noise.wgsl", "common/cell.wgsl",
        "common/cell_grad.wgsl", "common/tile.wgsl", "common/tile_lanes.wgsl", "common/step.wgsl", "cell/recurrent_grad.wgsl",
        "cell/recurrent_step_grad_lanes.wgsl"
    ];
    /// A copy of weights in the order in which products read them.
    PACK_WEIGHTS = "pack_weights": ["common/index.wgsl", "cell/pack_weights.wgsl"];
    /// A copy of biases and peepholes in the order in which steps read them.
    PACK_VECTORS = "pack_vectors": ["common/index.wgsl", "cell/vector_rows.wgsl", "cell/pack_vectors.wgsl"];
    /// `y = a b` or `y += a b` by strides.
    MATMUL_STRIDED = "matmul_strided": [
        "matmul/strided_dims.wgsl", "matmul/product.wgsl", "matmul/matmul_strided.wgsl"
    ];
    /// `y = a b` or `y += a b` by strides, with rows of `a` shared within a subgroup.
    MATMUL_STRIDED_LANES = "matmul_strided_lanes": ["matmul/strided_dims.wgsl", "matmul/matmul_strided_lanes.wgsl"];
    /// Sums along an axis.
    SUM_STRIDED = "sum_strided": ["common/index.wgsl", "reduce/sum_strided.wgsl"];
    /// A product with a random mask.
    DROPOUT = "dropout": ["common/index.wgsl", "common/noise.wgsl", "elementwise/dropout.wgsl"];
    /// The flags of masks and resets that lie on the device.
    SEQUENCE_FLAGS = "sequence_flags": ["common/index.wgsl", "cell/sequence_flags.wgsl"];
    /// Zeros in the rows that a step skips.
    SILENCE = "silence": ["common/index.wgsl", "common/step.wgsl", "elementwise/silence.wgsl"];
}

/// Values of a kernel's `override`s.
pub(in crate::gpu) type Constants = Vec<(&'static str, u32)>;

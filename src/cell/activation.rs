//! Activation functions as data.

/// An element-wise activation. The list and the meaning of `alpha` and `beta` come from ONNX's recurrent operators
/// (`Operators.md`, LSTM). Constants name defaults of Keras and PyTorch that differ from ONNX's.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    Identity,
    /// `tanh(x)`
    Tanh,
    /// `1 / (1 + exp(-x))`, the lectures' sigma
    Sigmoid,
    /// `max(0, x)`
    Relu,
    /// `x` for `x >= 0`, else `alpha * x`
    LeakyRelu {
        /// Slope below zero.
        alpha: f32,
    },
    /// `x` for `x >= alpha`, else 0
    ThresholdedRelu {
        /// The threshold.
        alpha: f32,
    },
    /// `alpha * tanh(beta * x)`
    ScaledTanh {
        /// Scale of the output.
        alpha: f32,
        /// Scale of the input.
        beta: f32,
    },
    /// `clip(alpha * x + beta, 0, 1)`
    HardSigmoid {
        /// Slope.
        alpha: f32,
        /// Value at zero.
        beta: f32,
    },
    /// `x` for `x >= 0`, else `alpha * (exp(x) - 1)`
    Elu {
        /// Negated limit at minus infinity.
        alpha: f32,
    },
    /// `x / (1 + |x|)`
    Softsign,
    /// `ln(1 + exp(x))`
    Softplus,
    /// `alpha * x + beta`
    Affine {
        /// Slope.
        alpha: f32,
        /// Offset.
        beta: f32,
    },
}

impl Activation {
    /// Keras 3's and PyTorch's hard sigmoid, `clip(x / 6 + 1/2, 0, 1)`.
    pub const HARD_SIGMOID_KERAS3: Self = Self::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 };
    /// Keras 1 and 2's hard sigmoid and ONNX's default, `clip(0.2 x + 1/2, 0, 1)`.
    pub const HARD_SIGMOID_ONNX: Self = Self::HardSigmoid { alpha: 0.2, beta: 0.5 };

    /// The number by which kernels select the activation, then `alpha` and `beta` (0 if there are none).
    /// `shaders/common/activation.wgsl` declares the same numbers as constants, and a test compares the two.
    pub const fn code(self) -> (u32, f32, f32) {
        match self {
            Self::Identity => (0, 0.0, 0.0),
            Self::Tanh => (1, 0.0, 0.0),
            Self::Sigmoid => (2, 0.0, 0.0),
            Self::Relu => (3, 0.0, 0.0),
            Self::LeakyRelu { alpha } => (4, alpha, 0.0),
            Self::ThresholdedRelu { alpha } => (5, alpha, 0.0),
            Self::ScaledTanh { alpha, beta } => (6, alpha, beta),
            Self::HardSigmoid { alpha, beta } => (7, alpha, beta),
            Self::Elu { alpha } => (8, alpha, 0.0),
            Self::Softsign => (9, 0.0, 0.0),
            Self::Softplus => (10, 0.0, 0.0),
            Self::Affine { alpha, beta } => (11, alpha, beta),
        }
    }

    /// One value of each variant, with ONNX's default parameters.
    pub const ALL: [Self; 12] = [
        Self::Identity,
        Self::Tanh,
        Self::Sigmoid,
        Self::Relu,
        Self::LeakyRelu { alpha: 0.01 },
        Self::ThresholdedRelu { alpha: 1.0 },
        Self::ScaledTanh { alpha: 1.0, beta: 1.0 },
        Self::HARD_SIGMOID_ONNX,
        Self::Elu { alpha: 1.0 },
        Self::Softsign,
        Self::Softplus,
        Self::Affine { alpha: 1.0, beta: 0.0 },
    ];
}

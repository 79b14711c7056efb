//! The cell as data: which gates it has, how they are activated, which options it carries and which parameters it
//! needs. The [reference](crate::reference), the CPU path and the GPU kernels are all driven by this one description.
//!
//! Letters follow the lectures and PyTorch: `x` input, `h` hidden state, `s` cell state (PyTorch's `c`), gates `i`,
//! `f`, `o` and candidate `g` of an LSTM, gates `r`, `z` and candidate `n` of a GRU. "The lectures" are the course
//! whose cells the `LECTURE` constants describe: every activation is a sigmoid, `U` multiplies the input and `W` the
//! state.
//!
//! # Examples
//! ```
//! use gatewise::cell::{Activation, Cell, Forget, LstmCell};
//!
//! let cell = Cell::from(LstmCell { forget: Forget::Coupled, output: Activation::Sigmoid, ..LstmCell::default() });
//! assert_eq!(cell.gates().len(), 3); // i, g, o: the forget gate is 1 - i
//! ```

mod activation;
mod noise;
mod parameters;
mod sequence;
mod time;
mod weight_type;

pub use activation::Activation;
pub use noise::{Draw, Mask, Noise};
pub use parameters::{ParameterSpec, Parameters};
pub use sequence::{Pad, Sequence};
pub(crate) use sequence::{RESET, VALID};
pub use time::{Direction, Stage};
pub(crate) use weight_type::quantize;
pub use weight_type::{WeightType, quantize_row};

use crate::error::{Error, Result};

/// Any recurrent cell.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Cell {
    /// Elman's recurrent network.
    Rnn(RnnCell),
    /// Long short-term memory.
    Lstm(LstmCell),
    /// Gated recurrent unit.
    Gru(GruCell),
}

/// `h = act(W h + U x + b)` (Elman 1990; `torch.nn.RNN`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RnnCell {
    /// `act`.
    pub activation: Activation,
    /// Clamp of the activation's argument to `[-clip, clip]` (ONNX `clip`).
    pub gate_clip: Option<f32>,
    /// Whether the cell has biases.
    pub bias: bool,
}

/// How an LSTM forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forget {
    /// A gate of its own: `s = f s + i g` (Gers et al. 2000; `torch.nn.LSTM`).
    Gate,
    /// No forgetting: `s = s + i g` (Hochreiter & Schmidhuber 1997, the lectures' intermediate step).
    Never,
    /// Coupled to the input gate: `s = (1 - i) s + i g` (ONNX `input_forget`).
    Coupled,
}

/// Long short-term memory; brackets mark options.
///
/// ```text
/// i = gate(U_i x + W_i h + b_i [+ p_i s])     f likewise
/// g = candidate(U_g x + W_g h + b_g)
/// s' = f s + i g
/// o = gate(U_o x + W_o h + b_o [+ p_o s'])
/// h' = [W_hr] (o output(s'))
/// ```
///
/// [`LstmCell::default`] is PyTorch's cell, [`LstmCell::LECTURE`] the lectures' all-sigmoid form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LstmCell {
    /// Activation of `i`, `f` and `o`.
    pub gate: Activation,
    /// Activation of the candidate `g`.
    pub candidate: Activation,
    /// Activation of the cell state on its way to `h`.
    pub output: Activation,
    /// How the cell forgets.
    pub forget: Forget,
    /// Peephole connections: `i` and `f` see `s`, `o` sees the new `s` (ONNX `P`).
    pub peephole: bool,
    /// Width of the projected hidden state (PyTorch `proj_size`).
    pub projection: Option<usize>,
    /// Clamp of every gate's argument to `[-clip, clip]` (ONNX `clip`).
    pub gate_clip: Option<f32>,
    /// Clamp of the new cell state to `[-clip, clip]` (cuDNN's cell clip).
    pub cell_clip: Option<f32>,
    /// Whether the cell has biases.
    pub bias: bool,
}

/// The place where a GRU's reset gate acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// On the state, before the candidate's matmul: `n = candidate(U_n x + W_n (r h) + b_n)` (Cho et al. 2014; ONNX
    /// default; the lectures).
    Before,
    /// On the matmul's result: `n = candidate(U_n x + b_in + r (W_n h + b_hn))` (PyTorch, Keras' default, cuDNN).
    After,
}

/// The state that a GRU's update gate weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// The old state: `h' = (1 - z) n + z h` (PyTorch, Keras, ONNX).
    KeepsOld,
    /// The candidate: `h' = (1 - z) h + z n` (the lectures, where the gate is called `i`; haiku).
    TakesNew,
}

/// Gated recurrent unit.
///
/// ```text
/// r = gate(U_r x + W_r h + b_r)
/// z = gate(U_z x + W_z h + b_z)
/// n = candidate(..)            see `Reset`
/// h' = (1 - z) n + z h         see `Mix`
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GruCell {
    /// Activation of `r` and `z`.
    pub gate: Activation,
    /// Activation of the candidate `n`.
    pub candidate: Activation,
    /// The place where the reset gate acts.
    pub reset: Reset,
    /// The state that the update gate weighs.
    pub mix: Mix,
    /// Clamp of every gate's argument to `[-clip, clip]` (ONNX `clip`).
    pub gate_clip: Option<f32>,
    /// Whether the cell has biases.
    pub bias: bool,
}

impl Default for RnnCell {
    fn default() -> Self {
        Self { activation: Activation::Tanh, gate_clip: None, bias: true }
    }
}

impl RnnCell {
    /// The lectures' cell: sigmoid.
    pub const LECTURE: Self = Self { activation: Activation::Sigmoid, gate_clip: None, bias: true };
}

impl Default for LstmCell {
    fn default() -> Self {
        Self { candidate: Activation::Tanh, output: Activation::Tanh, ..Self::LECTURE }
    }
}

impl LstmCell {
    /// The lectures' cell: every activation a sigmoid.
    pub const LECTURE: Self = Self {
        gate: Activation::Sigmoid,
        candidate: Activation::Sigmoid,
        output: Activation::Sigmoid,
        forget: Forget::Gate,
        peephole: false,
        projection: None,
        gate_clip: None,
        cell_clip: None,
        bias: true,
    };
}

impl Default for GruCell {
    fn default() -> Self {
        Self { candidate: Activation::Tanh, reset: Reset::After, mix: Mix::KeepsOld, ..Self::LECTURE }
    }
}

impl GruCell {
    /// The lectures' cell: all sigmoid, reset before the matmul, the update gate weighing the candidate.
    pub const LECTURE: Self = Self {
        gate: Activation::Sigmoid,
        candidate: Activation::Sigmoid,
        reset: Reset::Before,
        mix: Mix::TakesNew,
        gate_clip: None,
        bias: true,
    };
}

macro_rules! from_cell {
    ($($variant:ident($cell:ty)),*) => {$(
        impl From<$cell> for Cell {
            fn from(cell: $cell) -> Self {
                Self::$variant(cell)
            }
        }
    )*};
}
from_cell!(Rnn(RnnCell), Lstm(LstmCell), Gru(GruCell));

impl Cell {
    /// `"rnn"`, `"lstm"` or `"gru"`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Rnn(_) => "rnn",
            Self::Lstm(_) => "lstm",
            Self::Gru(_) => "gru",
        }
    }

    /// The gates in the order in which [`Parameters`] stacks their rows: PyTorch's.
    pub const fn gates(&self) -> &'static [&'static str] {
        match self {
            Self::Rnn(_) => &["h"],
            Self::Lstm(LstmCell { forget: Forget::Gate, .. }) => &["i", "f", "g", "o"],
            Self::Lstm(_) => &["i", "g", "o"],
            Self::Gru(_) => &["r", "z", "n"],
        }
    }

    /// Whether the cell has biases.
    pub const fn bias(&self) -> bool {
        match self {
            Self::Rnn(c) => c.bias,
            Self::Lstm(c) => c.bias,
            Self::Gru(c) => c.bias,
        }
    }

    /// Whether the cell has a cell state `s` in addition to `h`.
    pub const fn has_cell_state(&self) -> bool {
        matches!(self, Self::Lstm(_))
    }

    /// Whether the cell has peephole weights.
    pub const fn peephole(&self) -> bool {
        matches!(self, Self::Lstm(LstmCell { peephole: true, .. }))
    }

    /// Whether the reset gate acts after the candidate's matmul (see [`Reset::After`]). The candidate's two parts, `U x
    /// + b_ih` and `W h + b_hh`, then have biases and gradients of their own.
    pub const fn resets_after(&self) -> bool {
        matches!(self, Self::Gru(GruCell { reset: Reset::After, .. }))
    }

    /// Whether the reset gate acts before the candidate's matmul (see [`Reset::Before`]).
    pub const fn resets_before(&self) -> bool {
        matches!(self, Self::Gru(GruCell { reset: Reset::Before, .. }))
    }

    /// Width of the projected hidden state; `None` if the cell does not project it.
    pub const fn projection(&self) -> Option<usize> {
        match self {
            Self::Lstm(c) => c.projection,
            _ => None,
        }
    }

    /// Width of `h` and of the output for `hidden` units: `hidden`, or the projection's width.
    pub const fn output_size(&self, hidden: usize) -> usize {
        match self.projection() {
            Some(width) => width,
            None => hidden,
        }
    }

    /// Refuses options outside their range.
    ///
    /// # Errors
    /// [`Error::Value`] for a clip that is not a positive number or a projection that is not in `1..hidden`.
    pub fn check(&self, hidden: usize) -> Result<()> {
        const OP: &str = "cell";
        let positive = |what: &'static str, clip: Option<f32>| match clip {
            Some(clip) if clip.is_nan() || clip <= 0.0 => {
                Err(Error::Value { op: OP, what, expected: "a positive number", found: clip.to_string() })
            }
            _ => Ok(()),
        };
        match self {
            Self::Rnn(c) => positive("gate_clip", c.gate_clip),
            Self::Gru(c) => positive("gate_clip", c.gate_clip),
            Self::Lstm(c) => {
                positive("gate_clip", c.gate_clip)?;
                positive("cell_clip", c.cell_clip)?;
                match c.projection {
                    Some(width) if width == 0 || width >= hidden => Err(Error::Value {
                        op: OP,
                        what: "projection",
                        expected: "at least 1 and below the hidden size",
                        found: width.to_string(),
                    }),
                    _ => Ok(()),
                }
            }
        }
    }
}

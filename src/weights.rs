//! Weights from other frameworks and back: right or refused.

mod export;
mod finite;
mod header;
#[cfg(feature = "keras")]
pub mod keras;
pub(crate) mod kind;
pub mod layout;
mod safetensors;
mod save;

pub use export::StateDict;
pub use finite::NonFinite;
pub use safetensors::Weights;
#[cfg(feature = "onnx")]
pub(crate) use safetensors::words;

use crate::cell::Direction;

/// PyTorch's name of a parameter of a stack: `weight_ih_l0`, `bias_hh_l1_reverse`.
pub fn torch_name(parameter: &str, layer: usize, direction: Direction) -> String {
    let reverse = if direction == Direction::Reverse { "_reverse" } else { "" };
    format!("{parameter}_l{layer}{reverse}")
}

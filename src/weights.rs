//! Reads and writes the weights of other frameworks. A file is read exactly or refused.
//!
//! [`Weights`] reads and writes safetensors files with PyTorch's names, and with the feature `torch` it reads PyTorch's own
//! checkpoints. [`Config::from_weights`](crate::nn::Config::from_weights) finds the sizes of a recurrent stack in them, and
//! [`Config::from_shapes`](crate::nn::Config::from_shapes) the kind of its cells as well. The module `keras` reads the files of
//! Keras. [`layout`] converts gate orders.
//!
//! # Examples
//! ```
//! use gatewise::{Device, nn::{Config, Lstm}, weights::Weights};
//! let lstm = Lstm::config(3, 4).layers(2).random(&Device::Cpu, 7)?;
//! let mut weights = Weights::new();
//! weights.add("encoder.", &lstm)?; // weights.save("encoder.safetensors")?
//!
//! let config = Config::from_weights(&weights, "encoder.", gatewise::cell::LstmCell::default())?;
//! let lstm = weights.recurrent("encoder.", &config, &Device::Cpu)?;
//! assert_eq!(lstm.output_size(), 4);
//! # Ok::<(), gatewise::Error>(())
//! ```

#[cfg(any(feature = "keras", feature = "torch"))]
mod archive;
mod configuration;
mod export;
mod file_name;
mod finite;
mod floats;
mod header;
#[cfg(feature = "keras")]
pub mod keras;
pub(crate) mod kind;
pub mod layout;
mod norm;
mod safetensors;
mod save;
mod stored;
#[cfg(feature = "torch")]
mod torch;

pub use configuration::StoredCell;
pub use export::StateDict;
pub(crate) use file_name::FileName;
pub use finite::NonFinite;
#[cfg(feature = "onnx")]
pub(crate) use floats::words;
pub use safetensors::Weights;
use stored::Stored;

use crate::cell::Direction;

/// PyTorch's name of a parameter of a stack. Layers are counted from 0.
///
/// # Examples
/// ```
/// use gatewise::{cell::Direction, weights::torch_name};
/// assert_eq!(torch_name("weight_ih", 0, Direction::Forward), "weight_ih_l0");
/// assert_eq!(torch_name("bias_hh", 1, Direction::Reverse), "bias_hh_l1_reverse");
/// ```
pub fn torch_name(parameter: &str, layer: usize, direction: Direction) -> String {
    let reverse = if direction == Direction::Reverse { "_reverse" } else { "" };
    format!("{parameter}_l{layer}{reverse}")
}

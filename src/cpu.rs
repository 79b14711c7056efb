//! The CPU path: the same calls as the GPU path, over `ndarray` and its matrix product.

mod ops;
mod recurrent;

pub(crate) use ops::{conv1d, matmul};
pub(crate) use recurrent::{LayerWeights, layer};

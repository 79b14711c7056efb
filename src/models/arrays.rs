//! Copies several results of a model to the host.

use ndarray::{Array, Dimension};

use crate::error::{Error, Result};
use crate::tensor::ReadBack;

/// Waits for `N` read-backs.
pub(super) fn arrays<D: Dimension, const N: usize>(reads: Vec<ReadBack>) -> Result<[Array<f32, D>; N]> {
    let arrays = reads.into_iter().map(ReadBack::wait_array).collect::<Result<Vec<_>>>()?;
    arrays.try_into().map_err(|arrays: Vec<_>| Error::Shape {
        op: "read-back",
        what: "tensors",
        expected: format!("[{N}]"),
        found: vec![arrays.len()],
    })
}

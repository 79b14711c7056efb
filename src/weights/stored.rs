//! The entries of a file of weights.

use ndarray::ArrayD;

use super::floats::FLOATS;
use super::{FileName, Weights};
use crate::error::Result;
use crate::text::listed;

/// An entry of a file of weights.
#[derive(Clone, Debug)]
pub(super) enum Stored {
    Floats(ArrayD<f32>),
    /// Elements that are not read; their type as messages call it.
    Other(String),
}

impl Weights {
    /// The tensor that the file has under exactly this name.
    pub(super) fn stored(&self, name: &str) -> Result<&ArrayD<f32>> {
        match self.tensors.get(name) {
            Some(Stored::Floats(array)) => Ok(array),
            Some(Stored::Other(kind)) => Err(FileName(&self.file).dtype(name, FLOATS, kind)),
            None => {
                let names: Vec<&str> = self.names().collect();
                Err(self.refuse(name, "a tensor of this name", &format!("only {}", listed(&names, ", "))))
            }
        }
    }

    /// The tensors whose elements are read, with their names.
    pub(super) fn floats(&self) -> impl Iterator<Item = (&str, &ArrayD<f32>)> {
        self.tensors.iter().filter_map(|(name, stored)| match stored {
            Stored::Floats(array) => Some((name.as_str(), array)),
            Stored::Other(_) => None,
        })
    }
}

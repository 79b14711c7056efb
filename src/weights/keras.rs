//! Keras' own files: right or refused.
//!
//! | file | written by | what is in it |
//! | --- | --- | --- |
//! | `.keras` | Keras 3, Keras 2.12 and later | a zip archive: configuration and weights |
//! | `.h5`, a whole model | Keras 2 and 3 ("legacy") | HDF5: configuration and weights |
//! | `.weights.h5` | Keras 3, Keras 2.12 and later | HDF5: weights alone, a group a layer |
//! | `.h5`, weights alone | Keras 2 | HDF5: weights alone, a list a layer |
//!
//! [`KerasFile::open`] reads any of them. With a configuration, [`KerasFile::layer`] and [`KerasFile::model`] give what computes as
//! Keras does, and [`KerasFile::recurrent`] this crate's own layer. Without one the caller says what a layer is
//! ([`KerasFile::recurrent_with`]), or takes single arrays ([`KerasFile::array`]).
//!
//! Carried out: SimpleRNN, LSTM, GRU, RNN around their cells and around StackedRNNCells, Bidirectional, CuDNNLSTM, CuDNNGRU,
//! TimeDistributed, Dense, Embedding, Conv1D, Masking, RepeatVector, Activation, ReLU, LeakyReLU, ELU, Softmax, what acts in
//! training only (Dropout and its like), and Sequential and Functional models of these, inside each other as well. What is not
//! carried out, an unknown layer or an unknown option, is refused with the layer and the field.
//!
//! Sources: Keras' `saving/saving_lib.py` and `legacy/saving/legacy_h5_format.py` for the files, its `layers/` for what they mean.

mod archive;
mod cells;
mod fields;
mod file;
mod graph;
mod hdf5;
mod parse;
mod run;
mod store;

pub use file::{KerasFile, KerasKind, KerasLayerInfo};
pub use run::{KerasCall, KerasInput, KerasLayer, KerasOutputs};

use crate::error::Error;

/// Groups and arrays in a file: no model comes near it.
const MOST_ARRAYS: usize = 1 << 17;

/// Bytes that the contents of a file of `size` bytes may take once they are inflated. Weights hardly shrink; a small file that
/// grows beyond all measure is no model.
fn memory_limit(size: usize) -> u64 {
    (64 << 20) + 32 * size as u64
}

/// The file that messages name.
#[derive(Clone, Copy)]
struct Source<'a> {
    file: &'a str,
}

impl Source<'_> {
    fn too_large(&self, field: &str, limit: &str, found: &str) -> Error {
        let (file, field) = (self.file.to_owned(), field.to_owned());
        Error::TooLarge { file, field, limit: limit.to_owned(), found: found.to_owned() }
    }

    fn refuse(&self, field: &str, expected: &str, found: &str) -> Error {
        Error::Format {
            file: self.file.to_owned(),
            field: field.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }
}

/// The versions of Keras, as far as they compute differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    /// Keras 2 and before.
    Keras2,
    Keras3,
}

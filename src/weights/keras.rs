//! Files of Keras: read exactly or refused.
//!
//! | file | written by | contents |
//! | --- | --- | --- |
//! | `.keras` | Keras 3, Keras 2.12 and later | a zip archive: configuration and weights |
//! | `.h5`, a whole model | Keras 2 and 3 ("legacy") | HDF5: configuration and weights |
//! | `.weights.h5` | Keras 3, Keras 2.12 and later | HDF5: weights alone, one group per layer |
//! | `.h5`, weights alone | Keras 2 | HDF5: weights alone, one list per layer |
//!
//! [`KerasFile::open`] reads all of them. If the file has a configuration, [`KerasFile::layer`] and [`KerasFile::model`] return
//! layers that compute as Keras does, and [`KerasFile::recurrent`] returns this crate's own layer. If the file has weights alone,
//! the caller describes the layer ([`KerasFile::recurrent_with`]) or takes single arrays ([`KerasFile::array`]).
//!
//! Supported layers:
//! * SimpleRNN, LSTM, GRU, CuDNNLSTM, CuDNNGRU, RNN around their cells or around StackedRNNCells, Bidirectional;
//! * Dense, Embedding, Conv1D, TimeDistributed, Masking, RepeatVector;
//! * Activation, ReLU, LeakyReLU, ELU, Softmax;
//! * layers that act in training only, for example Dropout;
//! * Sequential and Functional models of these, also nested.
//!
//! A layer or option that is not supported is refused; the error names the layer and the field.
//!
//! Sources: Keras' `saving/saving_lib.py` and `legacy/saving/legacy_h5_format.py` for the files, its `layers/` for the layers.
//!
//! # Examples
//! See [`KerasFile`] and [`KerasLayer`].

mod cells;
mod fields;
mod file;
mod hdf5;
mod model;
mod parse;
mod run;
mod store;

pub use file::{KerasFile, KerasKind, KerasLayerInfo};
pub use run::{KerasCall, KerasInput, KerasLayer, KerasOutputs};

use super::archive::memory_limit;
use super::{FileName, archive};

/// The most groups and arrays that a file may hold. No model comes near it.
const MOST_ARRAYS: usize = 1 << 17;

/// The generations of Keras, which compute some layers differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Generation {
    /// Keras 1 and 2.
    Keras2,
    /// Keras 3.
    Keras3,
}

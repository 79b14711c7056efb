//! Layers: recurrent stacks with their states, and the linear, convolution and embedding layers around them.

mod config;
mod conv1d;
mod embedding;
mod linear;
mod recurrent;
mod schedule;
mod sizes;
mod state;
mod training;
#[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
mod tuning;

pub use config::{Config, Merge};
pub use conv1d::Conv1d;
pub use embedding::Embedding;
pub use linear::Linear;
pub use recurrent::{Gru, Lstm, Recurrent, Rnn};
pub use state::{SavedState, State};
pub use training::{
    ParameterPlace, ParameterTensors, RecurrentGradient, StateGradient, Tape, TrainableRecurrent, TrainingOptions,
};
#[cfg(all(feature = "gpu", not(target_arch = "wasm32")))]
pub use tuning::Tuned;

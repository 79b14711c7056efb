//! Layers, built from the rooms below: recurrent stacks and what surrounds them.

mod conv1d;
mod embedding;
mod linear;
mod recurrent;
mod state;

pub use conv1d::Conv1d;
pub use embedding::Embedding;
pub use linear::Linear;
pub use recurrent::{Config, Gru, Lstm, Merge, Recurrent, Rnn};
pub use state::State;

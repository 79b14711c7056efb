//! Layers: recurrent stacks with their states, and the linear, convolution and embedding layers around them.
//!
//! # Examples
//! ```
//! use gatewise::{Device, Tensor, nn::{Gru, Linear}};
//! use ndarray::{Array1, Array2};
//!
//! let device = Device::Cpu;
//! let gru = Gru::config(3, 4).layers(2).random(&device, 7)?;
//! let head = Linear::new(&device, &Array2::zeros((5, 4)), Some(&Array1::zeros(5)))?; // [outputs, inputs]
//!
//! let mut state = gru.zero_state(2)?;
//! let y = gru.forward(&Tensor::zeros(&device, &[6, 2, 3])?, &mut state)?; // [T, B, I] to [T, B, H]
//! assert_eq!(head.forward(&y)?.shape(), [6, 2, 5]);
//! # Ok::<(), gatewise::Error>(())
//! ```

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

pub use crate::path::DeviceSequence;
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

//! The direction in which a layer goes through time, and the dependent stages of a time step.

use super::{Cell, GruCell, Reset};

/// The order in which a layer goes through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first step to the last.
    Forward,
    /// From the last step to the first; each output stays at its step's index.
    Reverse,
}

/// One of the dependent stages of a time step. A stage needs the results of the stage before it from all units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// The product, the gates and the state update at once.
    Whole = 0,
    /// The gates of a GRU that resets before the matmul.
    Reset = 1,
    /// The candidate and the state update of a GRU that resets before the matmul.
    Candidate = 2,
    /// The projection of an LSTM's hidden state.
    Project = 3,
}

impl Cell {
    /// The stages of one time step, in order.
    pub fn stages(&self) -> &'static [Stage] {
        match self {
            Self::Gru(GruCell { reset: Reset::Before, .. }) => &[Stage::Reset, Stage::Candidate],
            cell if cell.projection().is_some() => &[Stage::Whole, Stage::Project],
            _ => &[Stage::Whole],
        }
    }
}

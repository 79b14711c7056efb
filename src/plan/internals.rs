//! The parts of a plan and of a choice, for the program, the tests and the benchmarks.

use std::ops::Range;
use std::time::Duration;

use super::{Choice, Chunk, Longest, Plan, ProductTiles, Schedule, Tile};

impl Plan {
    /// How the steps become dispatches.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Chunks of time in processing order; every layer has the same ones.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// Directions that share their dispatches: all of them if their cells are the same.
    pub fn groups(&self) -> &[Range<usize>] {
        &self.groups
    }

    /// How the input projection is divided among workgroups.
    pub fn project(&self) -> &ProductTiles {
        &self.project
    }

    /// The estimated times of the longest dispatch and submission on a slow GPU. Neither exceeds the limits'
    /// [`Watchdog`](super::Watchdog).
    pub fn longest(&self) -> Longest {
        let (submissions, dispatch) = self.submissions();
        Longest { dispatch: Duration::from_nanos(dispatch), submission: submissions.longest() }
    }
}

impl Choice {
    /// How the input projection is tiled.
    pub fn project(&self) -> &Tile {
        &self.project
    }

    /// How a step is tiled; `None` if a step is no dispatch of its own.
    pub fn step(&self) -> Option<&Tile> {
        self.step.as_ref()
    }
}

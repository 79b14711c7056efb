//! Options that every job takes.

use std::path::PathBuf;

use gatewise::{Error, Result};

use crate::choice::{DeviceChoice, Simd};

/// Options that every job takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// The folder for checkpoints, the best weights and the pictures; by default `runs/JOB-CELL`.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Continues from the newest whole checkpoint, which must have been made with the same settings.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Removes the checkpoints and the best weights of an earlier run, and starts anew.
    #[arg(long, conflicts_with = "resume")]
    pub(crate) overwrite: bool,
    /// The largest number of epochs.
    #[arg(long)]
    pub(crate) epochs: Option<u64>,
    /// The number of epochs in a row without progress after which the run ends.
    #[arg(long)]
    pub(crate) patience: Option<u64>,
    /// The learning rate of the first step.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Hidden units.
    #[arg(long)]
    pub(crate) hidden: Option<usize>,
    /// Rows per batch.
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// The seed of the initial weights, the order of the data and dropout.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where to run.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Auto)]
    pub(crate) device: DeviceChoice,
    /// Threads of the CPU path, which `auto` then takes.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    #[command(flatten)]
    pub(crate) simd: Simd,
    /// The picture of the losses, an `.svg` or `.png`; by default `curve.svg` in the run's folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Prints one JSON line per epoch, and one at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    /// The number of rows per batch, if the user gave it.
    pub(crate) fn batch(&self) -> Result<Option<usize>> {
        self.batch.map(|batch| size("--batch", batch)).transpose()
    }
}

/// Refuses a number of rows or steps that is 0 or larger than 2^24.
pub(crate) fn size(what: &'static str, value: usize) -> Result<usize> {
    if (1..=1 << 24).contains(&value) {
        return Ok(value);
    }
    Err(Error::Value { op: "train", what, expected: "between 1 and 16777216", found: value.to_string() })
}

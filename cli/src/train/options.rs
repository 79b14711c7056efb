//! Options that every job takes.

use std::path::PathBuf;

use gatewise::{Error, Result};

use crate::choice::DeviceChoice;

/// Options that every job takes.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where checkpoints, the best weights and the pictures go; `runs/JOB-CELL` unless said otherwise.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Goes on from the newest checkpoint that is whole, with the settings that it was made with.
    #[arg(long)]
    pub(crate) resume: bool,
    /// Removes the checkpoints and the best weights of an earlier run, and begins anew.
    #[arg(long, conflicts_with = "resume")]
    pub(crate) overwrite: bool,
    /// The most epochs.
    #[arg(long)]
    pub(crate) epochs: Option<u64>,
    /// Epochs without progress after which the run ends.
    #[arg(long)]
    pub(crate) patience: Option<u64>,
    /// The learning rate.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// Hidden units.
    #[arg(long)]
    pub(crate) hidden: Option<usize>,
    /// Rows of a batch.
    #[arg(long)]
    pub(crate) batch: Option<usize>,
    /// Of the first weights, the order of the data and what is dropped.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where the job runs.
    #[arg(long, value_enum, default_value_t = DeviceChoice::Cpu)]
    pub(crate) device: DeviceChoice,
    /// Threads of the CPU path.
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// The picture of losses, an `.svg` or `.png`; `curve.svg` beside the checkpoints unless said otherwise.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
    /// Prints one JSON line an epoch, and one at the end.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    /// Rows of a batch, where the user says.
    pub(crate) fn batch(&self) -> Result<Option<usize>> {
        self.batch.map(|batch| size("--batch", batch)).transpose()
    }
}

/// A size that counts rows or steps.
pub(crate) fn size(what: &'static str, value: usize) -> Result<usize> {
    if (1..=1 << 24).contains(&value) {
        return Ok(value);
    }
    Err(Error::Value { op: "train", what, expected: "between 1 and 16777216", found: value.to_string() })
}

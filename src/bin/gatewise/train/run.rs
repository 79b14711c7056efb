//! The loop that all jobs share: epochs, checkpoints, early stop, the final line.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use gatewise::train::{Checkpoints, Graph, Parameters, Trainer, Var};
use gatewise::weights::Weights;
use gatewise::{Error, Result};
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::curve;
use crate::choice::{DeviceChoice, adapter};

/// What every job can be told.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Options {
    /// Where checkpoints, the best weights and the pictures go; `runs/JOB-CELL` unless said otherwise.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Goes on from the newest checkpoint that is whole.
    #[arg(long)]
    pub(crate) resume: bool,
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

/// How good a model is on data that it does not learn from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Score {
    pub(crate) loss: f32,
    pub(crate) accuracy: Option<f32>,
}

impl Score {
    fn beats(&self, other: &Self) -> bool {
        let accuracy = |score: &Self| score.accuracy.unwrap_or_default();
        accuracy(self) > accuracy(other) || (accuracy(self) == accuracy(other) && self.loss < other.loss)
    }
}

/// What to do after an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    /// On to the next stage of the curriculum.
    Stage,
    /// Nothing is left to learn.
    Done,
}

/// A model and its data.
pub(crate) trait Task {
    /// Everything that makes this run what it is; a checkpoint of other settings is not gone on from.
    fn settings(&self) -> String;
    /// What the file of the best weights says of the model.
    fn metadata(&self) -> Vec<(String, String)>;
    /// Prepares an epoch; returns its number of steps.
    fn begin(&mut self, epoch: u64, stage: u32) -> Result<usize>;
    /// Records the loss of one step.
    fn loss(&mut self, graph: &mut Graph, step: usize) -> Result<Var>;
    /// Hears that the step went well.
    fn stepped(&mut self) {}
    /// Scores the model between epochs.
    fn validate(&self, trainer: &Trainer, stage: u32) -> Result<Score>;
    /// Scores the final model.
    fn test(&self, trainer: &Trainer) -> Result<Score>;
    /// Judges an epoch's score.
    fn next(&self, _score: &Score, _stage: u32) -> Next {
        Next::GoOn
    }
}

/// One epoch in the records.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) epoch: u64,
    pub(crate) stage: u32,
    /// Mean of the steps' losses.
    pub(crate) training_loss: f32,
    pub(crate) validation: Score,
    pub(crate) gradient_norm: f32,
}

/// Where a run stands, besides its parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Progress {
    epoch: u64,
    stage: u32,
    best: Option<Score>,
    best_epoch: u64,
    history: Vec<Entry>,
    done: bool,
}

/// The limits of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) epochs: u64,
    pub(crate) patience: u64,
}

/// What a run came to.
pub(crate) enum Outcome {
    Finished(Finish),
    /// Stopped at a loss that is no number; the last good checkpoint is kept.
    Diverged,
}

pub(crate) struct Finish {
    pub(crate) score: Score,
    pub(crate) history: Vec<Entry>,
    pub(crate) best_epoch: u64,
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
    pub(crate) weights: PathBuf,
}

const CHECKPOINTS_KEPT: usize = 2;

/// Trains to the end or the early stop; the trainer then holds the best parameters.
pub(crate) fn train(
    out: &Path,
    options: &Options,
    limits: Limits,
    trainer: &mut Trainer,
    task: &mut impl Task,
) -> Result<Outcome> {
    let checkpoints = Checkpoints::new(out.join("checkpoints"), CHECKPOINTS_KEPT)?;
    let weights = out.join("best.safetensors");
    let started = Instant::now();
    let mut progress = begin(&checkpoints, options, trainer, task)?;
    let ended = |progress: &Progress| {
        progress.done
            || progress.epoch >= limits.epochs
            || (progress.best.is_some() && progress.epoch - progress.best_epoch > limits.patience)
    };
    while !ended(&progress) {
        let since = Instant::now();
        let steps = task.begin(progress.epoch, progress.stage)?;
        let bar = ProgressBar::new(steps as u64).with_message(format!("epoch {}", progress.epoch + 1));
        let (mut loss, mut norm) = (0.0, 0.0_f32);
        for step in 0..steps {
            let report = match trainer.step(|graph| task.loss(graph, step)) {
                Ok(report) => report,
                Err(error @ Error::Diverged { .. }) => {
                    bar.finish_and_clear();
                    eprintln!("gatewise: {error}; {}", kept(out, &checkpoints)?);
                    return Ok(Outcome::Diverged);
                }
                Err(error) => return Err(error),
            };
            task.stepped();
            loss += f64::from(report.loss);
            norm = norm.max(report.gradient_norm);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let validation = task.validate(trainer, progress.stage)?;
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
        let training_loss = (loss / steps.max(1) as f64) as f32;
        let (epoch, stage) = (progress.epoch + 1, progress.stage);
        let entry = Entry { epoch, stage, training_loss, validation, gradient_norm: norm };
        trainer.observe(f64::from(validation.loss));
        progress.epoch = epoch;
        progress.history.push(entry);
        if progress.best.is_none_or(|best| validation.beats(&best)) {
            (progress.best, progress.best_epoch) = (Some(validation), epoch);
            save(trainer.parameters(), &weights, task)?;
        }
        match task.next(&validation, stage) {
            Next::GoOn => {}
            Next::Stage => {
                // What was good enough for the last stage says nothing of the next.
                (progress.stage, progress.best, progress.best_epoch) = (stage + 1, None, epoch);
            }
            Next::Done => progress.done = true,
        }
        say(&entry, options.json, since.elapsed().as_secs_f64());
        let mut checkpoint = trainer.checkpoint()?;
        checkpoint.note("settings", &task.settings());
        checkpoint.note("progress", &json!(progress).to_string());
        checkpoints.write(&checkpoint)?;
    }
    if weights.exists() {
        trainer.parameters_mut().load(&Weights::from_file(&weights)?)?;
    }
    curve::write(options.plot.as_deref().unwrap_or(&out.join("curve.svg")), &task.settings(), &progress.history)?;
    Ok(Outcome::Finished(Finish {
        score: task.test(trainer)?,
        history: progress.history,
        best_epoch: progress.best_epoch,
        steps: trainer.steps(),
        seconds: started.elapsed().as_secs_f64(),
        weights,
    }))
}

/// Restores the newest whole checkpoint where asked to.
fn begin(checkpoints: &Checkpoints, options: &Options, trainer: &mut Trainer, task: &impl Task) -> Result<Progress> {
    let newest = checkpoints.latest(|path, error| {
        eprintln!("gatewise: {} is refused ({error}); trying the one before", path.display());
    })?;
    let Some(checkpoint) = newest else { return Ok(Progress::default()) };
    if !options.resume {
        return Err(Error::Value {
            op: "train",
            what: "--out",
            expected: "a folder without checkpoints of an earlier run, or --resume to go on",
            found: format!("one with a checkpoint of step {}", checkpoint.step()?),
        });
    }
    let (settings, noted) = (task.settings(), checkpoint.noted("settings").unwrap_or_default());
    if settings != noted {
        let expected = "the settings that the checkpoint was made with";
        let found = format!("{settings} instead of {noted}");
        return Err(Error::Value { op: "train", what: "--resume", expected, found });
    }
    let progress = checkpoint.noted("progress").unwrap_or_default();
    let progress = serde_json::from_str(progress).map_err(|error| Error::Format {
        file: "checkpoint".to_owned(),
        field: "note progress".to_owned(),
        expected: "the progress of a run".to_owned(),
        found: error.to_string(),
    })?;
    trainer.restore(&checkpoint)?;
    Ok(progress)
}

/// Which checkpoint a run that failed leaves behind.
fn kept(out: &Path, checkpoints: &Checkpoints) -> Result<String> {
    Ok(match checkpoints.latest(|_, _| ())? {
        Some(checkpoint) => {
            format!("the checkpoint of step {} is kept in {}", checkpoint.step()?, out.join("checkpoints").display())
        }
        None => "no epoch was finished, so there is no checkpoint".to_owned(),
    })
}

fn save(parameters: &Parameters, path: &Path, task: &impl Task) -> Result<()> {
    let mut weights = parameters.weights()?;
    task.metadata().iter().for_each(|(key, value)| weights.note(key, value));
    weights.save(path)
}

fn say(entry: &Entry, as_json: bool, seconds: f64) {
    let Entry { epoch, stage, training_loss, validation, gradient_norm } = entry;
    if as_json {
        println!(
            "{}",
            json!({
                "epoch": epoch, "stage": stage, "training_loss": training_loss, "validation_loss": validation.loss,
                "validation_accuracy": validation.accuracy, "gradient_norm": gradient_norm, "seconds": seconds,
            })
        );
        return;
    }
    let accuracy = validation.accuracy.map(|accuracy| format!(", accuracy {accuracy:.4}")).unwrap_or_default();
    println!(
        "epoch {epoch:>3}: training loss {training_loss:.4}, validation loss {:.4}{accuracy}, norm {gradient_norm:.2}, {seconds:.1} s",
        validation.loss
    );
}

/// The final line of a job.
pub(crate) fn finish(job: &str, cell: &str, options: &Options, trainer: &Trainer, outcome: &Outcome) -> ExitCode {
    let Outcome::Finished(finish) = outcome else { return ExitCode::from(1) };
    let Finish { score, best_epoch, steps, seconds, weights, history } = finish;
    let (device, name) = adapter(trainer.parameters().device());
    let parameters = trainer.parameters().elements();
    if options.json {
        println!(
            "{}",
            json!({
                "job": job, "cell": cell, "parameters": parameters, "epochs": history.len(), "best_epoch": best_epoch,
                "steps": steps, "loss": score.loss, "accuracy": score.accuracy, "seconds": seconds,
                "device": device, "adapter": name, "weights": weights.display().to_string(),
            })
        );
        return ExitCode::SUCCESS;
    }
    let accuracy = score.accuracy.map(|accuracy| format!("accuracy {accuracy:.4}, ")).unwrap_or_default();
    println!(
        "{job}, {cell}, {parameters} parameters: {accuracy}loss {:.4} on the test data; best of {} epochs: {best_epoch}; {steps} steps, {seconds:.1} s on {device}; weights: {}",
        score.loss,
        history.len(),
        weights.display(),
    );
    ExitCode::SUCCESS
}

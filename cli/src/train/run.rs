//! The loop that all jobs share: epochs, checkpoints, early stop, the final line.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use gatewise::train::{Graph, Trainer, Var};
use gatewise::{Error, Result};
use indicatif::ProgressBar;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::curve;
use super::folder::Part;
pub(crate) use super::options::{Options, size};
use super::settings::Settings;
use crate::choice::adapter;
use crate::output::{note, say};

/// How good a model is on data that it does not learn from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Score {
    /// Infinite where the model's answers overflow; never NaN, which JSON could not tell from it.
    #[serde(deserialize_with = "infinite_where_null")]
    pub(crate) loss: f32,
    pub(crate) accuracy: Option<f32>,
}

fn infinite_where_null<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f32, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::INFINITY))
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
    fn settings(&self) -> &Settings;
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
pub(crate) struct Progress {
    pub(crate) epoch: u64,
    pub(crate) stage: u32,
    pub(crate) best: Option<Score>,
    pub(crate) best_epoch: u64,
    /// The epoch whose parameters are in the file of the best weights; 0 before there are any.
    pub(crate) saved: u64,
    pub(crate) history: Vec<Entry>,
    pub(crate) done: bool,
}

impl Progress {
    fn ended(&self, limits: Limits) -> bool {
        self.done
            || self.epoch >= limits.epochs
            || (self.best.is_some() && self.epoch - self.best_epoch > limits.patience)
    }

    /// Takes note of an epoch; whether its parameters are the best so far.
    fn add(&mut self, entry: Entry, task: &impl Task) -> bool {
        self.epoch = entry.epoch;
        self.history.push(entry);
        let is_best = self.best.is_none_or(|best| entry.validation.beats(&best));
        if is_best {
            (self.best, self.best_epoch, self.saved) = (Some(entry.validation), entry.epoch, entry.epoch);
        }
        match task.next(&entry.validation, entry.stage) {
            Next::GoOn => {}
            Next::Stage => {
                // A score that was good enough for the last stage says nothing of the next.
                (self.stage, self.best, self.best_epoch) = (entry.stage + 1, None, entry.epoch);
            }
            Next::Done => self.done = true,
        }
        is_best
    }
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
    /// The file of the best weights; none where no epoch was trained.
    pub(crate) weights: Option<PathBuf>,
}

/// Trains to the end or the early stop; the trainer then holds the best parameters.
pub(crate) fn train(
    part: &mut Part,
    options: &Options,
    limits: Limits,
    trainer: &mut Trainer,
    task: &mut impl Task,
) -> Result<Outcome> {
    let started = Instant::now();
    let mut progress = part.begin(options, trainer, task)?;
    while !progress.ended(limits) {
        let since = Instant::now();
        let entry = match epoch(&progress, trainer, task) {
            Ok(entry) => entry,
            Err(error @ Error::Diverged { .. }) => {
                note!("{error}; {}; begin anew with a smaller --rate", part.kept()?);
                return Ok(Outcome::Diverged);
            }
            Err(error) => return Err(error),
        };
        trainer.observe(f64::from(entry.validation.loss));
        let best = progress.add(entry, task);
        let mut checkpoint = trainer.checkpoint()?;
        checkpoint.note("settings", &task.settings().note());
        checkpoint.note("progress", &json!(progress).to_string());
        // The weights come second: from the checkpoint they can be written again, and weights without a checkpoint are those of
        // a run that nobody goes on with.
        part.checkpoints.write(&checkpoint)?;
        if best {
            part.save_best(progress.saved, trainer, task)?;
        }
        // Whether anybody reads on or not, the epoch is kept.
        say_epoch(&entry, options.json, since.elapsed().as_secs_f64())?;
    }
    let weights = part.load_best(&progress, trainer)?.then(|| part.best.clone());
    if !progress.history.is_empty() {
        curve::write(&part.curve, task.settings().title(), &progress.history)?;
    }
    Ok(Outcome::Finished(Finish {
        score: task.test(trainer)?,
        history: progress.history,
        best_epoch: progress.best_epoch,
        steps: trainer.steps(),
        seconds: started.elapsed().as_secs_f64(),
        weights,
    }))
}

/// Trains one epoch and scores the model.
fn epoch(progress: &Progress, trainer: &mut Trainer, task: &mut impl Task) -> Result<Entry> {
    let (number, stage) = (progress.epoch + 1, progress.stage);
    let steps = task.begin(progress.epoch, stage)?;
    let bar = ProgressBar::new(steps as u64).with_message(format!("epoch {number}"));
    let (mut loss, mut norm) = (0.0, 0.0_f32);
    for step in 0..steps {
        let report = trainer.step(|graph| task.loss(graph, step)).inspect_err(|_| bar.finish_and_clear())?;
        task.stepped();
        loss += f64::from(report.loss);
        norm = norm.max(report.gradient_norm);
        bar.inc(1);
    }
    bar.finish_and_clear();
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    let training_loss = (loss / steps.max(1) as f64) as f32;
    let mut validation = task.validate(trainer, stage)?;
    if validation.loss.is_nan() {
        validation.loss = f32::INFINITY;
    }
    Ok(Entry { epoch: number, stage, training_loss, validation, gradient_norm: norm })
}

fn say_epoch(entry: &Entry, as_json: bool, seconds: f64) -> Result<()> {
    let Entry { epoch, stage, training_loss, validation, gradient_norm } = entry;
    if as_json {
        let line = json!({
            "epoch": epoch, "stage": stage, "training_loss": training_loss, "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy, "gradient_norm": gradient_norm, "seconds": seconds,
        });
        return say!("{line}");
    }
    let accuracy = validation.accuracy.map(|accuracy| format!(", accuracy {accuracy:.4}")).unwrap_or_default();
    say!(
        "epoch {epoch:>3}: training loss {training_loss:.4}, validation loss {:.4}{accuracy}, norm {gradient_norm:.2}, {seconds:.1} s",
        validation.loss
    )
}

/// The final line of a job.
pub(crate) fn finish(
    job: &str,
    cell: &str,
    options: &Options,
    trainer: &Trainer,
    outcome: &Outcome,
) -> Result<ExitCode> {
    let Outcome::Finished(finish) = outcome else { return Ok(ExitCode::from(1)) };
    let Finish { score, best_epoch, steps, seconds, weights, history } = finish;
    let (device, name) = adapter(trainer.parameters().device());
    let parameters = trainer.parameters().elements();
    if options.json {
        let line = json!({
            "job": job, "cell": cell, "parameters": parameters, "epochs": history.len(), "best_epoch": best_epoch,
            "steps": steps, "loss": score.loss, "accuracy": score.accuracy, "seconds": seconds,
            "device": device, "adapter": name, "weights": weights.as_ref().map(|path| path.display().to_string()),
        });
        say!("{line}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let accuracy = score.accuracy.map(|accuracy| format!("accuracy {accuracy:.4}, ")).unwrap_or_default();
    let end = match weights {
        Some(weights) => format!(
            "best of {} epochs: {best_epoch}; {steps} steps, {seconds:.1} s on {device}; weights: {}",
            history.len(),
            weights.display()
        ),
        None => "nothing was trained, and no weights were written".to_owned(),
    };
    say!("{job}, {cell}, {parameters} parameters: {accuracy}loss {:.4} on the test data; {end}", score.loss)?;
    Ok(ExitCode::SUCCESS)
}

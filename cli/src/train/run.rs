//! The loop of all jobs: epochs, checkpoints, early stop, the final report.

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
use crate::output::{self, Stream, note, say};

/// The quality of a model on data that it does not learn from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Score {
    /// Infinite if the model's answers overflow; never NaN, because JSON writes both as null.
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

/// The decision after an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    GoOn,
    /// Take the next stage of the curriculum.
    Stage,
    /// Nothing is left to learn.
    Done,
}

/// A model and its data.
pub(crate) trait Task {
    /// The settings that identify the run; a checkpoint with other settings is refused.
    fn settings(&self) -> &Settings;
    /// The metadata of the file of the best weights.
    fn metadata(&self) -> Vec<(String, String)>;
    /// Prepares an epoch; returns its number of steps.
    fn begin(&mut self, epoch: u64, stage: u32) -> Result<usize>;
    /// Records the loss of one step.
    fn loss(&mut self, graph: &mut Graph, step: usize) -> Result<Var>;
    /// Called after every step that succeeded.
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

/// The record of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    pub(crate) epoch: u64,
    pub(crate) stage: u32,
    /// The mean of the steps' losses.
    pub(crate) training_loss: f32,
    pub(crate) validation: Score,
    pub(crate) gradient_norm: f32,
}

/// The progress of a run. A checkpoint holds it as a note, next to the parameters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) epoch: u64,
    pub(crate) stage: u32,
    pub(crate) best: Option<Score>,
    pub(crate) best_epoch: u64,
    /// The epoch whose parameters are in the file of the best weights; 0 if there is no such file yet.
    pub(crate) saved: u64,
    pub(crate) history: Vec<EpochRecord>,
    pub(crate) done: bool,
}

impl Progress {
    fn ended(&self, limits: Limits) -> bool {
        self.done
            || self.epoch >= limits.epochs
            // As in Keras and Lightning, a patience of 0 waits for one epoch without progress, too.
            || (self.best.is_some() && self.epoch - self.best_epoch >= limits.patience.max(1))
    }

    /// Adds the record of an epoch; returns whether its parameters are the best so far.
    fn add(&mut self, entry: EpochRecord, task: &impl Task) -> bool {
        self.epoch = entry.epoch;
        self.history.push(entry);
        let is_best = self.best.is_none_or(|best| entry.validation.beats(&best));
        if is_best {
            (self.best, self.best_epoch, self.saved) = (Some(entry.validation), entry.epoch, entry.epoch);
        }
        match task.next(&entry.validation, entry.stage) {
            Next::GoOn => {}
            Next::Stage => {
                // Scores of different stages cannot be compared.
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

/// The end of a run.
pub(crate) enum Outcome {
    Finished(Finish),
    /// The loss was NaN or infinite; the last good checkpoint is kept.
    Diverged,
}

pub(crate) struct Finish {
    pub(crate) score: Score,
    pub(crate) history: Vec<EpochRecord>,
    pub(crate) best_epoch: u64,
    pub(crate) steps: u64,
    pub(crate) seconds: f64,
    /// The file of the best weights; `None` if no epoch was trained.
    pub(crate) weights: Option<PathBuf>,
    /// The picture of the losses; `None` if no epoch was trained.
    pub(crate) curve: Option<PathBuf>,
}

/// Trains until the last epoch or the early stop. Afterwards the trainer holds the best parameters.
pub(crate) fn train(
    part: &mut Part,
    options: &Options,
    limits: Limits,
    trainer: &mut Trainer,
    task: &mut impl Task,
) -> Result<Outcome> {
    let started = Instant::now();
    let mut progress = part.begin(options, trainer, task)?;
    let bar = RunBar::new(limits, options.json);
    while !progress.ended(limits) {
        let since = Instant::now();
        let entry = match epoch(&progress, trainer, task, &bar) {
            Ok(entry) => entry,
            Err(error @ Error::Diverged { .. }) => {
                drop(bar);
                note!("{error}; {}; start anew with a smaller --rate", part.kept()?);
                return Ok(Outcome::Diverged);
            }
            Err(error) => return Err(error),
        };
        trainer.observe(f64::from(entry.validation.loss));
        let best = progress.add(entry, task);
        let mut checkpoint = trainer.checkpoint()?;
        checkpoint.note("settings", &task.settings().note());
        checkpoint.note("progress", &json!(progress).to_string());
        // The checkpoint comes first: the weights can be written again from it. Weights without a checkpoint mean that somebody
        // removed the checkpoints.
        part.checkpoints.write(&checkpoint)?;
        if best {
            part.save_best(progress.saved, trainer, task)?;
        }
        // The epoch is on disk even if standard output has no reader any more.
        bar.0.suspend(|| say_epoch(&entry, best, options.json, since.elapsed().as_secs_f64()))?;
    }
    drop(bar);
    let weights = part.load_best(&progress, trainer)?.then(|| part.best.clone());
    let curve = (!progress.history.is_empty()).then(|| part.curve.clone());
    if curve.is_some() {
        curve::write(&part.curve, task.settings().title(), &progress.history, progress.saved)?;
    }
    Ok(Outcome::Finished(Finish {
        score: task.test(trainer)?,
        history: progress.history,
        best_epoch: progress.best_epoch,
        steps: trainer.steps(),
        seconds: started.elapsed().as_secs_f64(),
        weights,
        curve,
    }))
}

/// The progress bar of a whole run, on standard error if that is a terminal: epoch, loss, learning rate and remaining time.
struct RunBar(ProgressBar, Limits);

impl RunBar {
    fn new(limits: Limits, json: bool) -> Self {
        Self(output::bar(json, 0, "{msg} [{bar:30}] at most {eta} left"), limits)
    }

    /// Moves to the start of an epoch with this number of steps.
    fn begin(&self, epoch: u64, steps: usize) {
        self.0.set_length(self.1.epochs.max(epoch) * steps as u64);
        self.0.set_position((epoch - 1) * steps as u64);
    }

    /// Advances by one step.
    fn step(&self, epoch: u64, loss: f32, rate: f64) {
        self.0.set_message(self.text(epoch, loss, rate));
        self.0.inc(1);
    }

    fn text(&self, epoch: u64, loss: f32, rate: f64) -> String {
        format!("epoch {epoch} of {}, loss {loss:.4}, learning rate {rate:.2e}", self.1.epochs)
    }
}

/// Trains one epoch and scores the model.
fn epoch(progress: &Progress, trainer: &mut Trainer, task: &mut impl Task, bar: &RunBar) -> Result<EpochRecord> {
    let (number, stage) = (progress.epoch + 1, progress.stage);
    let steps = task.begin(progress.epoch, stage)?;
    bar.begin(number, steps);
    let (mut loss, mut norm) = (0.0, 0.0_f32);
    for step in 0..steps {
        let rate = trainer.rate();
        let report = trainer.step(|graph| task.loss(graph, step))?;
        task.stepped();
        loss += f64::from(report.loss);
        norm = norm.max(report.gradient_norm);
        bar.step(number, report.loss, rate);
    }
    #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
    let training_loss = (loss / steps.max(1) as f64) as f32;
    let mut validation = task.validate(trainer, stage)?;
    if validation.loss.is_nan() {
        validation.loss = f32::INFINITY;
    }
    Ok(EpochRecord { epoch: number, stage, training_loss, validation, gradient_norm: norm })
}

fn say_epoch(entry: &EpochRecord, best: bool, as_json: bool, seconds: f64) -> Result<()> {
    let EpochRecord { epoch, stage, training_loss, validation, gradient_norm } = entry;
    if as_json {
        let line = json!({
            "epoch": epoch, "stage": stage, "training_loss": training_loss, "validation_loss": validation.loss,
            "validation_accuracy": validation.accuracy, "gradient_norm": gradient_norm, "seconds": seconds,
        });
        return say!("{line}");
    }
    let accuracy = validation.accuracy.map(|accuracy| format!(", accuracy {accuracy:.4}")).unwrap_or_default();
    let mark = if best { format!("  {}", Stream::Out.paint("best so far", &output::good())) } else { String::new() };
    say!(
        "epoch {epoch:>3}: training loss {training_loss:.4}, validation loss {:.4}{accuracy}, norm {gradient_norm:.2}, {seconds:.1} s{mark}",
        validation.loss
    )
}

/// Reports the end of a job: as a JSON line, or as a few lines of text.
pub(crate) fn finish(
    job: &str,
    cell: &str,
    options: &Options,
    trainer: &Trainer,
    outcome: &Outcome,
) -> Result<ExitCode> {
    let Outcome::Finished(finish) = outcome else { return Ok(ExitCode::from(1)) };
    let Finish { score, best_epoch, steps, seconds, weights, curve, history } = finish;
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
    let result = format!("{accuracy}loss {:.4} on the test data", score.loss);
    say!("{job}, {cell}: {}", Stream::Out.paint(&result, &output::good()))?;
    let Some(weights) = weights else {
        return say!("  nothing was trained, and no weights were written").map(|()| ExitCode::SUCCESS);
    };
    say!("  best epoch  {best_epoch} of {}", history.len())?;
    say!("  trained     {parameters} parameters, {steps} steps, {seconds:.1} s on {device}")?;
    say!("  weights     {}", weights.display())?;
    curve.iter().try_for_each(|curve| say!("  losses      {}", curve.display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_after_as_many_epochs_without_progress_as_its_patience() {
        let after = |epoch, patience| {
            let best = Some(Score { loss: 1.0, accuracy: None });
            Progress { epoch, best, best_epoch: 5, ..Progress::default() }.ended(Limits { epochs: 60, patience })
        };
        for (patience, last) in [(0, 6), (1, 6), (2, 7), (7, 12)] {
            assert_eq!((after(last - 1, patience), after(last, patience)), (false, true), "patience {patience}");
        }
        let without_score = Progress { epoch: 9, best_epoch: 5, ..Progress::default() };
        assert!(!without_score.ended(Limits { epochs: 60, patience: 2 }), "a new stage has no score yet");
    }

    #[test]
    fn the_bar_tells_epoch_loss_and_rate() {
        let bar = RunBar::new(Limits { epochs: 60, patience: 5 }, true);
        assert_eq!(bar.text(3, 0.43127, 0.0093), "epoch 3 of 60, loss 0.4313, learning rate 9.30e-3");
        bar.begin(3, 20);
        bar.step(3, 0.5, 0.01);
        assert_eq!((bar.0.position(), bar.0.length()), (41, Some(1200)));
    }
}

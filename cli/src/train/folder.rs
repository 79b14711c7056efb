//! The folder of a run: locked by one process, checked before any work begins, and continued only if nothing is lost.

use std::fs;
use std::path::{Path, PathBuf};

use gatewise::files::{self, Lock};
use gatewise::train::{Checkpoint, Checkpoints, Trainer};
use gatewise::weights::Weights;
use gatewise::{Error, Result};

use super::run::{Options, Progress, Task};
use super::settings::Settings;
use crate::chart;
use crate::output::note;

const CHECKPOINTS_KEPT: usize = 2;

/// A run's folder, locked until the run ends.
pub(crate) struct Folder {
    pub(crate) out: PathBuf,
    pub(crate) parts: Vec<Part>,
    lock: Lock,
}

/// The files of one model in a run's folder.
pub(crate) struct Part {
    folder: PathBuf,
    pub(crate) checkpoints: Checkpoints,
    /// The file of the best weights so far.
    pub(crate) best: PathBuf,
    pub(crate) curve: PathBuf,
    /// The newest whole checkpoint of an earlier run, and the faults of newer ones.
    found: Option<Checkpoint>,
    refused: Vec<String>,
}

fn refuse<T>(what: &'static str, expected: &'static str, found: String) -> Result<T> {
    Err(Error::Value { op: "train", what, expected, found })
}

impl Folder {
    /// Locks a run's folder. Refuses the files of an earlier run unless the options say what to do with them, and outputs that are among
    /// the `inputs`.
    ///
    /// A single model uses the folder itself; several models use one subfolder each, by their names.
    pub(crate) fn take(out: PathBuf, names: &[&str], options: &Options, inputs: &[&Path]) -> Result<Self> {
        if let Some(plot) = &options.plot {
            check_plot(plot, names, inputs)?;
        }
        if options.resume && !out.is_dir() {
            return nothing_to_resume(&out);
        }
        let Some(lock) = Lock::take(&out)? else {
            let expected = "a folder that no other run writes to: wait for its end, or name another folder";
            return refuse("--out", expected, out.display().to_string());
        };
        let names = if names.is_empty() { &[""] } else { names };
        let parts = names.iter().map(|name| Part::open(out.join(name), options));
        let folder = Self { parts: parts.collect::<Result<_>>()?, out, lock };
        folder.check(options)?;
        folder.parts.iter().try_for_each(|part| files::check(&part.curve))?;
        Ok(folder)
    }

    /// Refuses to lose the files of an earlier run, and to resume without a checkpoint.
    fn check(&self, options: &Options) -> Result<()> {
        if options.overwrite {
            return Ok(());
        }
        // A run that was killed before its first checkpoint starts anew; its folder is still marked as locked.
        let begun = self.parts.iter().any(|part| part.found.is_some()) || self.lock.interrupted();
        if options.resume && !begun {
            return nothing_to_resume(&self.out);
        }
        for part in &self.parts {
            let expected = "a folder without an earlier run, or --resume to continue it, or --overwrite to start anew";
            match &part.found {
                Some(checkpoint) if !options.resume => {
                    return refuse("--out", expected, format!("one with a checkpoint of step {}", checkpoint.step()?));
                }
                // Checkpoints are written before the weights, so somebody has removed the checkpoints of these weights.
                None if part.best.exists() => {
                    let expected = "a folder without weights of an earlier run, or --overwrite to start anew";
                    return refuse("--out", expected, format!("one with {} and no checkpoints", part.best.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn nothing_to_resume<T>(out: &Path) -> Result<T> {
    let expected = "the folder of a run with checkpoints where there is --resume";
    refuse("--out", expected, format!("{}, which has no checkpoints", out.display()))
}

/// Refuses a picture that could not be drawn or would replace another file.
fn check_plot(plot: &Path, names: &[&str], inputs: &[&Path]) -> Result<()> {
    chart::Format::of(plot)?;
    if names.len() > 1 {
        let expected = "left out where there are several cells, each of which draws its curve.svg";
        return refuse("--plot", expected, plot.display().to_string());
    }
    if let Some(input) = inputs.iter().find(|input| same_place(plot, input)) {
        return refuse("--plot", "another file than the data", format!("{}, which is read", input.display()));
    }
    Ok(())
}

/// Whether two paths name the same file, which need not exist yet.
pub(crate) fn same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        fs::canonicalize(path).ok().or_else(|| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            Some(fs::canonicalize(parent).ok()?.join(path.file_name()?))
        })
    };
    place(a).is_some_and(|a| Some(a) == place(b))
}

impl Part {
    fn open(folder: PathBuf, options: &Options) -> Result<Self> {
        let checkpoints = Checkpoints::new(folder.join("checkpoints"), CHECKPOINTS_KEPT)?;
        files::sweep(&folder)?;
        let mut refused = Vec::new();
        let found = match options.overwrite {
            true => None,
            false => checkpoints.latest(|_, error| refused.push(format!("a checkpoint is refused: {error}")))?,
        };
        let [best, curve] = ["best.safetensors", "curve.svg"].map(|name| folder.join(name));
        let curve = options.plot.clone().unwrap_or(curve);
        Ok(Self { folder, checkpoints, best, curve, found, refused })
    }

    /// Refuses settings that differ from the settings of the checkpoint to resume from.
    pub(crate) fn check(&self, settings: &Settings) -> Result<()> {
        self.found.as_ref().map_or(Ok(()), |found| settings.check(found.noted("settings").unwrap_or_default()))
    }

    /// Starts the run: from the checkpoint that was found, or anew in an empty folder.
    pub(crate) fn begin(&mut self, options: &Options, trainer: &mut Trainer, task: &impl Task) -> Result<Progress> {
        self.check(task.settings())?;
        if options.overwrite {
            self.checkpoints.clear()?;
            if self.best.exists() {
                fs::remove_file(&self.best).map_err(|error| Error::io(&self.best, error))?;
            }
        }
        self.refused.drain(..).for_each(|refused| note!("{refused}; going on from the one before"));
        let Some(checkpoint) = self.found.take() else { return Ok(Progress::default()) };
        let progress = checkpoint.noted("progress").unwrap_or_default();
        let mut progress: Progress = serde_json::from_str(progress).map_err(|error| Error::Format {
            file: "checkpoint".to_owned(),
            field: "note progress".to_owned(),
            expected: "the progress of a run".to_owned(),
            found: error.to_string(),
        })?;
        trainer.restore(&checkpoint)?;
        self.mend_best(&mut progress, trainer, task)?;
        self.checkpoints.prune()?;
        Ok(progress)
    }

    /// Writes the best weights from the checkpoint in two cases:
    ///
    /// 1. The checkpoint's own weights are the best, and the run may have been killed before it wrote them.
    /// 2. The file of the best weights is lost, so the checkpoint's weights are the best that remain.
    fn mend_best(&self, progress: &mut Progress, trainer: &Trainer, task: &impl Task) -> Result<()> {
        if progress.saved == 0 {
            return Ok(());
        }
        if progress.saved < progress.epoch {
            let Err(error) = Weights::from_file(&self.best) else { return Ok(()) };
            note!("{error}; the best weights are lost, those of epoch {} take their place", progress.epoch);
            progress.best = progress.history.last().map(|entry| entry.validation);
            (progress.best_epoch, progress.saved) = (progress.epoch, progress.epoch);
        }
        self.save_best(progress.saved, trainer, task)
    }

    /// Writes the trainer's parameters as the best weights, with the number of their epoch.
    pub(crate) fn save_best(&self, epoch: u64, trainer: &Trainer, task: &impl Task) -> Result<()> {
        let mut weights = trainer.parameters().weights()?;
        task.metadata().iter().for_each(|(key, value)| weights.note(key, value));
        weights.note("epoch", &epoch.to_string());
        weights.save(&self.best)
    }

    /// Loads the best weights into the trainer; `false` if no epoch was trained.
    pub(crate) fn load_best(&self, progress: &Progress, trainer: &mut Trainer) -> Result<bool> {
        if progress.saved == 0 {
            return Ok(false);
        }
        let weights = Weights::from_file(&self.best)?;
        let found = weights.metadata("epoch")?;
        if found != progress.saved.to_string() {
            return Err(Error::Format {
                file: self.best.display().to_string(),
                field: "metadata epoch".to_owned(),
                expected: format!("{}, as the checkpoint says: train on for more epochs", progress.saved),
                found: found.to_owned(),
            });
        }
        trainer.parameters_mut().load(&weights)?;
        Ok(true)
    }

    /// Says which checkpoint a failed run leaves behind.
    pub(crate) fn kept(&self) -> Result<String> {
        Ok(match self.checkpoints.latest(|_, _| ())? {
            Some(checkpoint) => {
                let folder = self.folder.join("checkpoints");
                format!("the checkpoint of step {} is kept in {}", checkpoint.step()?, folder.display())
            }
            None => "no epoch was finished, so there is no checkpoint".to_owned(),
        })
    }
}

//! Runs on disk: safetensors files that are whole or not there.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use ndarray::{Array, Dimension, IxDyn};

use super::schedule::{Plateau, Progress};
use super::trainer::Trainer;
use crate::error::{Error, Result};
use crate::tensor::Tensor;
use crate::weights::Weights;

/// What the names of a checkpoint's arrays begin with.
const SLOTS: &str = "optimizer.";
const EXTRA: &str = "extra.";
const PARAMETER: &str = "parameter.";

/// A run at a step: parameters, what the optimiser remembers, the step, and what the caller adds.
///
/// # Examples
/// ```
/// use gatewise::{Device, train::{Adam, Checkpoint, Linear, Parameters, Trainer}};
/// let folder = tempfile::tempdir().expect("a folder");
/// let path = folder.path().join("run.safetensors");
/// let mut parameters = Parameters::new(&Device::Cpu, 7);
/// Linear::new(&mut parameters, "head.", [3, 2])?;
/// let mut trainer = Trainer::new(parameters, Adam::default(), 0.01)?;
/// let mut checkpoint = trainer.checkpoint()?;
/// checkpoint.note("epoch", "3");
/// checkpoint.write(&path)?;
///
/// let checkpoint = Checkpoint::read(&path)?;
/// trainer.restore(&checkpoint)?;
/// assert_eq!(checkpoint.noted("epoch"), Some("3"));
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoint {
    weights: Weights,
}

impl Checkpoint {
    pub(super) fn of(trainer: &Trainer) -> Result<Self> {
        let parameters = trainer.parameters();
        let mut weights = Weights::new();
        for (name, tensor) in parameters.named() {
            weights.insert(&format!("{PARAMETER}{name}"), tensor.to_array::<IxDyn>()?)?;
        }
        for (id, count, slots) in trainer.optimizer().remembered() {
            let name = parameters.name(id)?;
            weights.insert(&format!("{SLOTS}{name}"), slots.to_array::<IxDyn>()?)?;
            weights.note(&format!("count {name}"), &count.to_string());
        }
        weights.note("step", &trainer.steps().to_string());
        weights.note("seed", &trainer.seed.to_string());
        weights.note("slots", &trainer.optimizer().rule().slots().join(" "));
        if let Some(Plateau { progress: Progress { scale, best, bad, resting }, .. }) = trainer.plateau {
            weights.note("plateau", &format!("{:x} {:x} {bad} {resting}", scale.to_bits(), best.to_bits()));
        }
        Ok(Self { weights })
    }

    /// Adds a note of the caller's.
    pub fn note(&mut self, key: &str, value: &str) {
        self.weights.note(&format!("note {key}"), value);
    }

    /// A note of the caller's.
    pub fn noted(&self, key: &str) -> Option<&str> {
        self.weights.metadata(&format!("note {key}")).ok()
    }

    /// Adds an array of the caller's: a state that is carried on, for example.
    ///
    /// # Errors
    /// [`Error::Duplicate`] for a name that is taken; what a read-back may meet.
    pub fn add(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.weights.insert(&format!("{EXTRA}{name}"), tensor.to_array::<IxDyn>()?)
    }

    /// An array of the caller's.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn get<D: Dimension>(&self, name: &str) -> Result<Array<f32, D>> {
        self.weights.get(&format!("{EXTRA}{name}"))
    }

    /// The step it was made at.
    ///
    /// # Errors
    /// [`Error::Format`] where the file is no checkpoint.
    pub fn step(&self) -> Result<u64> {
        self.number("step")
    }

    /// Writes it to a file, which is replaced as a whole: a run that ends half-way leaves the file that was there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.weights.to_bytes()?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let store = || -> std::io::Result<()> {
            let mut file = File::create(&partial)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&partial, path)
        };
        store().map_err(|error| Error::io(path, error))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Weights::from_file`]; [`Error::Format`] where it is no checkpoint.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let checkpoint = Self { weights: Weights::from_file(path)? };
        checkpoint.step()?;
        Ok(checkpoint)
    }

    fn number(&self, key: &str) -> Result<u64> {
        let entry = self.weights.metadata(key)?;
        entry.parse().map_err(|_| self.weights.refuse(&format!("metadata {key}"), "a whole number", entry))
    }

    pub(super) fn put_into(&self, trainer: &mut Trainer) -> Result<()> {
        let rule = trainer.optimizer().rule();
        let slots = rule.slots();
        let found = self.weights.metadata("slots")?;
        if found != slots.join(" ") {
            let expected = format!("what the rule remembers, {:?}", slots.join(" "));
            return Err(self.weights.refuse("metadata slots", &expected, found));
        }
        let device = trainer.parameters().device().clone();
        let fetch = |name: &str, shape: &[usize]| Tensor::from_array(&device, &self.weights.shaped(name, shape)?);
        let (mut values, mut remembered, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (name, old) in trainer.parameters().named() {
            values.push(fetch(&format!("{PARAMETER}{name}"), old.shape())?);
            let key = format!("count {name}");
            let known = self.weights.metadata(&key).is_ok();
            counts.push(if known { self.number(&key)? } else { 0 });
            let shape = [slots.len(), old.len()];
            remembered.push(known.then(|| fetch(&format!("{SLOTS}{name}"), &shape)).transpose()?);
        }
        let mut parameters = self.weights.names().filter_map(|name| name.strip_prefix(PARAMETER));
        if let Some(more) = parameters.find(|name| trainer.parameters().find(name).is_none()) {
            return Err(self.weights.refuse(more, "a parameter of the model", "one more"));
        }
        let (step, seed) = (self.step()?, self.number("seed")?);
        let plateau = match &trainer.plateau {
            Some(plateau) => Some(self.plateau(plateau)?),
            None => None,
        };

        let (parameters, optimizer) = trainer.parts();
        for (id, value) in parameters.ids().to_vec().into_iter().zip(values) {
            parameters.set(id, value)?;
        }
        optimizer.recall(step, parameters, remembered, counts);
        (trainer.seed, trainer.plateau) = (seed, plateau);
        Ok(())
    }

    fn plateau(&self, now: &Plateau) -> Result<Plateau> {
        let entry = self.weights.metadata("plateau")?;
        let parse = || -> Option<Plateau> {
            let words: Vec<&str> = entry.split(' ').collect();
            let [scale, best, bad, resting] = words[..] else { return None };
            let bits = |word: &str| u64::from_str_radix(word, 16).ok().map(f64::from_bits);
            let (bad, resting) = (bad.parse().ok()?, resting.parse().ok()?);
            let progress = Progress { scale: bits(scale)?, best: bits(best)?, bad, resting };
            Some(Plateau { progress, ..now.clone() })
        };
        parse().ok_or_else(|| self.weights.refuse("metadata plateau", "four words of a plateau", entry))
    }
}

/// A folder with a run's last checkpoints.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

const ENDING: &str = ".checkpoint.safetensors";

impl Checkpoints {
    /// A folder, made if it is not there, that holds at most `keep` checkpoints, at least one.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(folder: impl Into<PathBuf>, keep: usize) -> Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(|error| Error::io(&folder, error))?;
        Ok(Self { folder, keep: keep.max(1) })
    }

    /// Writes one more and removes what is too old.
    ///
    /// # Errors
    /// As [`Checkpoint::write`].
    pub fn write(&self, checkpoint: &Checkpoint) -> Result<PathBuf> {
        // Names sort as their steps do.
        let path = self.folder.join(format!("{:012}{ENDING}", checkpoint.step()?));
        checkpoint.write(&path)?;
        for old in self.files()?.iter().rev().skip(self.keep) {
            fs::remove_file(old).map_err(|error| Error::io(old, error))?;
        }
        Ok(path)
    }

    /// The newest checkpoint that is whole. `refused` hears of each newer one that is not, with the reason.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be read.
    pub fn latest(&self, mut refused: impl FnMut(&Path, &Error)) -> Result<Option<Checkpoint>> {
        for path in self.files()?.iter().rev() {
            match Checkpoint::read(path) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => refused(path, &error),
            }
        }
        Ok(None)
    }

    /// The files, oldest first.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let wrong = |error| Error::io(&self.folder, error);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(wrong)? {
            let path = entry.map_err(wrong)?.path();
            if path.to_string_lossy().ends_with(ENDING) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

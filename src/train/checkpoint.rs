//! Checkpoints of training: safetensors files with a checksum over every byte.

mod folder;
mod seal;

use std::path::Path;

use ndarray::{Array, Dimension, IxDyn};

use super::schedule::{Plateau, PlateauState};
use super::trainer::Trainer;
use crate::error::Result;
use crate::files;
use crate::tensor::Tensor;
use crate::weights::Weights;

pub use folder::Checkpoints;

/// Prefix of the arrays that hold the optimiser's slots.
const SLOTS: &str = "optimizer.";
/// Prefix of the arrays that the caller adds.
const EXTRA: &str = "extra.";
/// Key of the state of the trainer's [`Plateau`].
const PLATEAU: &str = "plateau";
/// Prefix of the arrays that hold the model's parameters.
const PARAMETER: &str = "parameter.";

/// The most steps that a checkpoint may count. No training reaches it, and counting on from it does not overflow.
const MOST_STEPS: u64 = 1 << 62;

/// The state of a training at one step: parameters, slots of the optimiser, the step, and what the caller adds.
///
/// The file is a safetensors file. Its metadata begin with the format's version and a checksum over every other byte of the
/// file, header and padding included. A changed bit is therefore an error, never another state.
///
/// # Examples
/// ```
/// use gatewise::{Device, train::{Adam, Checkpoint, LinearModule, Parameters, Trainer}};
/// let folder = tempfile::tempdir().expect("a folder");
/// let path = folder.path().join("run.safetensors");
/// let mut parameters = Parameters::new(&Device::Cpu, 7);
/// LinearModule::new(&mut parameters, "head.", [3, 2])?;
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
        if let Some(Plateau { state: PlateauState { scale, best, bad, resting }, .. }) = trainer.plateau {
            weights.note(PLATEAU, &format!("{:x} {:x} {bad} {resting}", scale.to_bits(), best.to_bits()));
        }
        Ok(Self { weights })
    }

    /// Adds a text of the caller under a key.
    pub fn note(&mut self, key: &str, value: &str) {
        self.weights.note(&format!("note {key}"), value);
    }

    /// The text that [`Checkpoint::note`] has added under this key.
    pub fn noted(&self, key: &str) -> Option<&str> {
        self.weights.metadata(&format!("note {key}")).ok()
    }

    /// Adds an array of the caller, for example a state that the training carries on.
    ///
    /// # Errors
    /// [`Error::Duplicate`](crate::Error::Duplicate) for a name that is taken; the errors of [`Tensor::to_array`].
    pub fn add(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.weights.insert(&format!("{EXTRA}{name}"), tensor.to_array::<IxDyn>()?)
    }

    /// The array that [`Checkpoint::add`] has added under this name.
    ///
    /// # Errors
    /// As [`Weights::get`].
    pub fn get<D: Dimension>(&self, name: &str) -> Result<Array<f32, D>> {
        self.weights.get(&format!("{EXTRA}{name}"))
    }

    /// The number of steps that the training had made.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if the weights are no checkpoint.
    pub fn step(&self) -> Result<u64> {
        self.count("step")
    }

    /// The checkpoint as the bytes of a file.
    ///
    /// # Errors
    /// As [`Weights::to_bytes`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        seal::seal(&self.weights)
    }

    /// Writes the checkpoint to a file, which is replaced as a whole ([`files::replace`]). A program that ends half-way leaves
    /// the old file.
    ///
    /// # Errors
    /// As [`Checkpoint::to_bytes`] and [`files::replace`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let bytes = self.to_bytes()?;
        files::replace(path, |out| out.write_all(&bytes))
    }

    /// Reads a checkpoint from a file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the file cannot be read; otherwise as [`Checkpoint::from_bytes`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(&path.display().to_string(), &seal::read(path)?)
    }

    /// Reads a checkpoint from the bytes of a file; `file` is the name that messages give them.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if the checksum differs, or if the bytes are no checkpoint of this version;
    /// otherwise as [`Weights::from_bytes`].
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, train::{Adam, Checkpoint, LinearModule, Parameters, Trainer}};
    /// let mut parameters = Parameters::new(&Device::Cpu, 7);
    /// LinearModule::new(&mut parameters, "head.", [3, 2])?;
    /// let mut file = Trainer::new(parameters, Adam::default(), 0.01)?.checkpoint()?.to_bytes()?;
    /// assert_eq!(Checkpoint::from_bytes("whole", &file)?.step()?, 0);
    /// *file.last_mut().expect("bytes") ^= 1;
    /// assert!(Checkpoint::from_bytes("damaged", &file).is_err());
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self> {
        seal::check(file, bytes)?;
        let checkpoint = Self { weights: Weights::from_bytes(file, bytes)? };
        checkpoint.step()?;
        Ok(checkpoint)
    }

    /// A whole number among the metadata.
    fn number(&self, key: &str) -> Result<u64> {
        let entry = self.weights.metadata(key)?;
        entry.parse().map_err(|_| self.weights.refuse(&format!("metadata {key}"), "a whole number", entry))
    }

    /// A number of steps or updates among the metadata.
    fn count(&self, key: &str) -> Result<u64> {
        let count = self.number(key)?;
        if count <= MOST_STEPS {
            return Ok(count);
        }
        Err(self.weights.refuse(&format!("metadata {key}"), &format!("at most {MOST_STEPS}"), &count.to_string()))
    }

    /// Gives a trainer the checkpoint's state. If the checkpoint does not fit, the trainer keeps its own state.
    pub(super) fn put_into(&self, trainer: &mut Trainer) -> Result<()> {
        let rule = trainer.optimizer().rule();
        let slots = rule.slots();
        let found = self.weights.metadata("slots")?;
        if found != slots.join(" ") {
            let expected = format!("the slots of the trainer's rule, {:?}", slots.join(" "));
            return Err(self.weights.refuse("metadata slots", &expected, found));
        }
        let device = trainer.parameters().device().clone();
        let fetch = |name: &str, shape: &[usize]| Tensor::from_array(&device, &self.weights.shaped(name, shape)?);
        let (mut values, mut remembered, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (name, old) in trainer.parameters().named() {
            values.push(fetch(&format!("{PARAMETER}{name}"), old.shape())?);
            let key = format!("count {name}");
            let known = self.weights.metadata(&key).is_ok();
            counts.push(if known { self.count(&key)? } else { 0 });
            let shape = [slots.len(), old.len()];
            remembered.push(known.then(|| fetch(&format!("{SLOTS}{name}"), &shape)).transpose()?);
        }
        let mut parameters = self.weights.names().filter_map(|name| name.strip_prefix(PARAMETER));
        if let Some(more) = parameters.find(|name| trainer.parameters().find(name).is_none()) {
            return Err(self.weights.refuse(more, "only parameters of the model", "one that it does not have"));
        }
        let (step, seed) = (self.step()?, self.number("seed")?);
        let plateau = match (&trainer.plateau, self.weights.metadata(PLATEAU)) {
            (Some(plateau), _) => Some(self.plateau(plateau)?),
            (None, Err(_)) => None,
            // Without it the learning rate would silently return to its first value.
            (None, Ok(found)) => {
                let expected = "none, as the trainer has no plateau (Trainer::plateau gives it one)";
                return Err(self.weights.refuse("metadata plateau", expected, found));
            }
        };

        let (parameters, optimizer) = trainer.parts();
        for (id, value) in parameters.ids().to_vec().into_iter().zip(values) {
            parameters.set(id, value)?;
        }
        optimizer.recall(step, parameters, remembered, counts);
        (trainer.seed, trainer.plateau) = (seed, plateau);
        Ok(())
    }

    /// A [`Plateau`] with the options of `now` and the checkpoint's state.
    fn plateau(&self, now: &Plateau) -> Result<Plateau> {
        let entry = self.weights.metadata(PLATEAU)?;
        let parse = || -> Option<Plateau> {
            let words: Vec<&str> = entry.split(' ').collect();
            let [scale, best, bad, resting] = words[..] else { return None };
            let bits = |word: &str| u64::from_str_radix(word, 16).ok().map(f64::from_bits);
            let (bad, resting) = (bad.parse().ok()?, resting.parse().ok()?);
            let scale = bits(scale).filter(|scale| scale.is_finite() && *scale >= 0.0)?;
            let state = PlateauState { scale, best: bits(best)?, bad, resting };
            Some(now.clone().with_state(state))
        };
        parse().ok_or_else(|| self.weights.refuse("metadata plateau", "scale, best, bad and resting", entry))
    }
}

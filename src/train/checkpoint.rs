//! Runs on disk: safetensors files with a checksum over every byte.

mod folder;
mod seal;

use std::path::Path;

use ndarray::{Array, Dimension, IxDyn};

use super::schedule::{Plateau, Progress};
use super::trainer::Trainer;
use crate::error::Result;
use crate::files;
use crate::tensor::Tensor;
use crate::weights::Weights;

pub use folder::Checkpoints;

/// What the names of a checkpoint's arrays begin with.
const SLOTS: &str = "optimizer.";
const EXTRA: &str = "extra.";
const PARAMETER: &str = "parameter.";

/// The most steps that a checkpoint may count: no run makes them, and what counts on from there does not overflow.
const MOST_STEPS: u64 = 1 << 62;

/// A run at a step: parameters, what the optimiser remembers, the step, and what the caller adds.
///
/// Its file is a safetensors file whose metadata begin with the format's version and a checksum over every other byte of the
/// file, header and padding included: a changed bit is an error, never another run.
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
    /// [`Error::Duplicate`](crate::Error::Duplicate) for a name that is taken; what a read-back may meet.
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
    /// [`Error::Format`](crate::Error::Format) where the file is no checkpoint.
    pub fn step(&self) -> Result<u64> {
        self.count("step")
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// As [`Weights::to_bytes`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        seal::seal(&self.weights)
    }

    /// Writes it to a file, which is replaced as a whole ([`files::replace`]): a run that ends half-way leaves the file that was
    /// there.
    ///
    /// # Errors
    /// As [`Checkpoint::to_bytes`] and [`files::replace`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let bytes = self.to_bytes()?;
        files::replace(path, |out| out.write_all(&bytes))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) where it cannot be read; otherwise as [`Checkpoint::from_bytes`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(&path.display().to_string(), &seal::read(path)?)
    }

    /// Reads a file's contents; `file` names them in messages.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) where the checksum says that the file is damaged, or it is no checkpoint, or one of another version;
    /// otherwise as [`Weights::from_bytes`].
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, train::{Adam, Checkpoint, Linear, Parameters, Trainer}};
    /// let mut parameters = Parameters::new(&Device::Cpu, 7);
    /// Linear::new(&mut parameters, "head.", [3, 2])?;
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

    fn number(&self, key: &str) -> Result<u64> {
        let entry = self.weights.metadata(key)?;
        entry.parse().map_err(|_| self.weights.refuse(&format!("metadata {key}"), "a whole number", entry))
    }

    /// A number of steps or updates.
    fn count(&self, key: &str) -> Result<u64> {
        let count = self.number(key)?;
        if count <= MOST_STEPS {
            return Ok(count);
        }
        Err(self.weights.refuse(&format!("metadata {key}"), &format!("at most {MOST_STEPS}"), &count.to_string()))
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
            counts.push(if known { self.count(&key)? } else { 0 });
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
            let scale = bits(scale).filter(|scale| scale.is_finite() && *scale >= 0.0)?;
            let progress = Progress { scale, best: bits(best)?, bad, resting };
            Some(Plateau { progress, ..now.clone() })
        };
        parse().ok_or_else(|| self.weights.refuse("metadata plateau", "four words of a plateau", entry))
    }
}

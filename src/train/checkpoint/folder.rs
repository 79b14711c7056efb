//! A folder with the last checkpoints of a training.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Checkpoint;
use crate::error::{Error, Result};
use crate::files::Lock;

/// A folder with the last checkpoints of a training, locked against other processes.
///
/// A checkpoint is whole if its checksum is right. Only whole checkpoints count as kept, so a damaged one never displaces a
/// whole one. The folder is locked ([`Lock`]) until the last clone of this value is dropped.
///
/// # Examples
/// ```
/// use gatewise::{Device, train::{Adam, Checkpoints, LinearModule, Parameters, Trainer}};
/// let folder = tempfile::tempdir().expect("a folder");
/// let checkpoints = Checkpoints::new(folder.path().join("checkpoints"), 2)?;
/// let mut parameters = Parameters::new(&Device::Cpu, 7);
/// LinearModule::new(&mut parameters, "head.", [3, 2])?;
/// let mut trainer = Trainer::new(parameters, Adam::default(), 0.01)?;
/// checkpoints.write(&trainer.checkpoint()?)?;
///
/// let newest = checkpoints.latest(|path, error| eprintln!("{}: {error}", path.display()))?;
/// trainer.restore(&newest.expect("one was written"))?;
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
    _lock: Arc<Lock>,
}

const ENDING: &str = ".checkpoint.safetensors";
/// The most damaged files that one message names.
const NAMED: usize = 4;

impl Checkpoints {
    /// Opens a folder that keeps at most `keep` whole checkpoints, and at least one. The folder is made if it does not exist.
    ///
    /// Files that killed writers have left in it are removed.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Value`] if another process, or another value of this one, holds the lock.
    pub fn new(folder: impl Into<PathBuf>, keep: usize) -> Result<Self> {
        let folder = folder.into();
        let lock = Lock::take(&folder)?.ok_or_else(|| Error::Value {
            op: "checkpoints",
            what: "the folder",
            expected: "one that no other run writes to: wait for its end, or name another folder",
            found: folder.display().to_string(),
        })?;
        Ok(Self { folder, keep: keep.max(1), _lock: Arc::new(lock) })
    }

    /// Writes a checkpoint, then removes old ones: this checkpoint and the newest other whole ones remain.
    ///
    /// # Errors
    /// As [`Checkpoint::write`].
    pub fn write(&self, checkpoint: &Checkpoint) -> Result<PathBuf> {
        let path = self.folder.join(format!("{:012}{ENDING}", checkpoint.step()?));
        checkpoint.write(&path)?;
        self.remove_old(Some(&path))?;
        Ok(path)
    }

    /// Removes all but the newest whole checkpoints, as [`Checkpoints::write`] does. A resumed training calls it, because a training
    /// that was killed between writing and removing has left one checkpoint too many.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read or a file cannot be removed.
    pub fn prune(&self) -> Result<()> {
        self.remove_old(None)
    }

    /// Keeps `fresh`, which is known to be whole, and the newest other whole checkpoints.
    fn remove_old(&self, fresh: Option<&Path>) -> Result<()> {
        let mut kept = usize::from(fresh.is_some());
        for old in self.files()?.iter().rev().filter(|old| Some(old.as_path()) != fresh) {
            if kept >= self.keep {
                fs::remove_file(old).map_err(|error| Error::io(old, error))?;
            } else if Checkpoint::read(old).is_ok() {
                kept += 1;
            }
        }
        Ok(())
    }

    /// The newest whole checkpoint; `None` in a folder without checkpoints. `refused` is called for each newer checkpoint that
    /// is not whole, with the reason.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read. [`Error::Format`], which names the files, if there are checkpoints and none is
    /// whole: a fresh start would overwrite them.
    pub fn latest(&self, mut refused: impl FnMut(&Path, &Error)) -> Result<Option<Checkpoint>> {
        let mut damaged: Vec<(PathBuf, Error)> = Vec::new();
        for path in self.files()?.into_iter().rev() {
            match Checkpoint::read(&path) {
                Ok(checkpoint) => {
                    damaged.iter().for_each(|(path, error)| refused(path, error));
                    return Ok(Some(checkpoint));
                }
                Err(error) => damaged.push((path, error)),
            }
        }
        if damaged.is_empty() {
            return Ok(None);
        }
        let mut named: Vec<String> = damaged.iter().take(NAMED).map(|(_, error)| error.to_string()).collect();
        if damaged.len() > NAMED {
            named.push(format!("and {} more", damaged.len() - NAMED));
        }
        Err(Error::Format {
            file: self.folder.display().to_string(),
            field: "checkpoints".to_owned(),
            expected: "one that is whole: put a copy there, or remove these to begin anew".to_owned(),
            found: named.join("; "),
        })
    }

    /// Removes all checkpoints, whole or not.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read or a file cannot be removed.
    pub fn clear(&self) -> Result<()> {
        self.files()?.iter().try_for_each(|path| fs::remove_file(path).map_err(|error| Error::io(path, error)))
    }

    /// The checkpoint files, oldest first. Their names are the number of a step; other files are ignored.
    fn files(&self) -> Result<Vec<PathBuf>> {
        let wrong = |error| Error::io(&self.folder, error);
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(wrong)? {
            let entry = entry.map_err(wrong)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let digits = name.strip_suffix(ENDING).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            let step = digits.and_then(|digits| digits.parse::<u64>().ok());
            if let (Some(step), false) = (step, entry.path().is_dir()) {
                files.push((step, entry.path()));
            }
        }
        files.sort();
        Ok(files.into_iter().map(|(_, path)| path).collect())
    }
}

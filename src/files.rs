//! Regular files that are read, files that are replaced as a whole, and folders that one process at a time writes to.
//!
//! Everything that the crate and its command line leave on disk goes through [`replace`]. So a reader finds the old
//! contents or the new ones, even after a crash of the machine. A [`Lock`] keeps a second process out of a folder.
//!
//! # Examples
//! ```
//! use gatewise::files::{self, Lock};
//! let folder = tempfile::tempdir().expect("a folder");
//! let run = folder.path().join("run");
//! let lock = Lock::take(&run)?.expect("no other process holds it"); // the folder is made, and held from here on
//! assert!(Lock::take(&run)?.is_none());
//! files::replace(run.join("note.txt"), |out| out.write_all(b"as a whole"))?;
//! drop(lock);
//! assert!(Lock::take(&run)?.is_some());
//! # Ok::<(), gatewise::Error>(())
//! ```

mod regular;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use self::regular::{kind, open, read, read_to_string};
use crate::error::{Error, Result};

/// Ending of the hidden file that contents are written to before they take their name.
const PARTIAL: &str = ".partial";
/// Name of the file in a folder that its holder keeps locked.
const LOCK: &str = ".lock";
/// How long [`replace`] waits for another writer of the same file.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);
/// How often to try again after another process has removed the file or folder in between.
const ATTEMPTS: usize = 100;

/// Writes a file as a whole: `write` fills a hidden file in the same folder, `.NAME.partial`, which is synced and then renamed.
///
/// A file that is there keeps its contents until the new ones are on disk, also if this call fails. A process that is killed
/// leaves the hidden file; the next call for the same name takes it over. The permissions are those of a new file (on Unix
/// 0666 less the umask). A symbolic link stays, and the file that it names is replaced.
///
/// # Errors
/// [`Error::Io`] if:
///
/// - `write` fails;
/// - the folder is missing or cannot be written to;
/// - the name belongs to a folder, a pipe or a device;
/// - another process does not finish writing the same file within 10 s.
///
/// # Examples
/// See [`files`](crate::files).
pub fn replace(path: impl AsRef<Path>, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let path = path.as_ref();
    let store = || -> io::Result<()> {
        let replaced = ReplacedFile::of(path)?;
        let file = replaced.claim()?;
        let stored = fill(&file, write).and_then(|()| fs::rename(&replaced.partial, &replaced.target));
        if stored.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&replaced.partial);
        }
        stored?;
        sync_folder(&replaced.folder)
    };
    store().map_err(|error| Error::io(path, error))
}

/// Checks that [`replace`] can write a file of this name, by making its hidden file and removing it again.
///
/// Call it before a long computation whose result goes to the file.
///
/// # Errors
/// As [`replace`].
pub fn check(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    let check = || -> io::Result<()> {
        let replaced = ReplacedFile::of(path)?;
        let _file = replaced.claim()?;
        fs::remove_file(&replaced.partial)
    };
    check().map_err(|error| Error::io(path, error))
}

/// The temporary path that a file's contents are written to, and the path that they are then moved to.
struct ReplacedFile {
    folder: PathBuf,
    partial: PathBuf,
    target: PathBuf,
}

impl ReplacedFile {
    fn of(path: &Path) -> io::Result<Self> {
        let invalid = |reason: &'static str| Err(io::Error::new(ErrorKind::InvalidInput, reason));
        let is_link = fs::symlink_metadata(path).is_ok_and(|entry| entry.is_symlink());
        let resolved = if is_link { fs::canonicalize(path).ok() } else { None };
        let target = resolved.unwrap_or_else(|| path.to_owned());
        match fs::metadata(&target) {
            Ok(entry) if entry.is_dir() => return invalid("is a folder; name a file"),
            Ok(entry) if !entry.is_file() => return invalid("is a pipe or a device; name a file"),
            _ => {}
        }
        let ends_as_folder = target.as_os_str().as_encoded_bytes().last().is_some_and(|&b| b == b'/' || b == b'\\');
        let name = match target.file_name() {
            Some(name) if !ends_as_folder => name,
            _ => return invalid("is no file's name"),
        };
        let folder = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let partial = folder.join(partial_name(name.to_owned()));
        Ok(Self { folder, partial, target })
    }

    /// Opens the hidden file and locks it against other writers of the same name. Waits for another writer to finish.
    fn claim(&self) -> io::Result<File> {
        let began = Instant::now();
        loop {
            if let Some(claim) = claim(&self.partial)? {
                return Ok(claim.file);
            }
            if began.elapsed() > PATIENCE {
                return Err(io::Error::new(ErrorKind::WouldBlock, "another process is writing this file"));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn partial_name(name: OsString) -> OsString {
    let mut partial = OsString::from(".");
    partial.push(name);
    // Other systems cannot tell whether an open file still has the name that it was opened by, so every writer has a
    // hidden file of its own.
    #[cfg(not(unix))]
    {
        use std::sync::atomic::{AtomicU64, Ordering};
        static WRITERS: AtomicU64 = AtomicU64::new(0);
        partial.push(format!(".{}-{}", std::process::id(), WRITERS.fetch_add(1, Ordering::Relaxed)));
    }
    partial.push(PARTIAL);
    partial
}

fn fill(file: &File, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    // A killed writer may have left its contents.
    file.set_len(0)?;
    let mut out = BufWriter::new(file);
    write(&mut out)?;
    out.flush()?;
    file.sync_all()
}

/// Puts a folder's names on disk, if the system can: after a crash a file is found only if its name is on disk.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(());
    }
    // A folder that may be written to but not read cannot be opened; its names are written when the system likes.
    let Ok(folder) = File::open(folder) else { return Ok(()) };
    match folder.sync_all() {
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        other => other,
    }
}

/// An open file that is locked against all other claims.
struct Claim {
    file: File,
    /// Whether the file was there before.
    found: bool,
}

/// Opens and locks a file, and makes it if it is missing; `None` if it is locked already. The lock ends with the file's
/// handle, also if the process is killed.
fn claim(path: &Path) -> io::Result<Option<Claim>> {
    for _ in 0..ATTEMPTS {
        match fs::symlink_metadata(path) {
            // Opening a pipe would wait for its reader.
            Ok(entry) if !entry.is_file() => {
                return Err(io::Error::other(format!("{} is not a regular file", path.display())));
            }
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true);
        let (file, found) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => match options.open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => (opened?, true),
            },
            made => (made?, false),
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Ok(None),
            // On a file system without locks, other writers cannot be noticed.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(error),
            Ok(()) => {}
        }
        // The previous holder may have renamed or removed the file before it was locked here.
        if is_at(&file, path)? {
            return Ok(Some(Claim { file, found }));
        }
    }
    Ok(None)
}

/// Whether a path still names an open file.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let open = file.metadata()?;
    Ok(fs::symlink_metadata(path).is_ok_and(|entry| (entry.dev(), entry.ino()) == (open.dev(), open.ino())))
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> io::Result<bool> {
    Ok(true)
}

/// A folder that is held against other processes until this value is dropped or the process ends, however it ends.
///
/// The holder keeps a file `.lock` in the folder, and removes it when the value is dropped. A killed process leaves the file, but
/// not the lock on it.
///
/// # Examples
/// See [`files`](crate::files).
#[derive(Debug)]
pub struct Lock {
    file: PathBuf,
    interrupted: bool,
    /// Folders that were made for it, the deepest first.
    made: Vec<PathBuf>,
    _held: File,
}

impl Lock {
    /// Takes hold of a folder, which is made if it is not there; `None` if it is held already, by this process or another.
    ///
    /// Hidden files that killed writers left in the folder ([`replace`]) are removed.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be made or written to.
    pub fn take(folder: impl AsRef<Path>) -> Result<Option<Self>> {
        let folder = folder.as_ref();
        let wrong = |error| Error::io(folder, error);
        let file = folder.join(LOCK);
        for _ in 0..ATTEMPTS {
            let made = make(folder).map_err(wrong)?;
            match claim(&file) {
                Ok(Some(Claim { file: held, found: interrupted })) => {
                    let lock = Self { file, interrupted, made, _held: held };
                    return sweep(folder).map(|()| Some(lock));
                }
                Ok(None) => return Ok(None),
                // The previous holder made the folder and has just removed it again.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    unmake(&made);
                    return Err(wrong(error));
                }
            }
        }
        Ok(None)
    }

    /// Whether the previous holder was killed: its file was still there.
    pub fn interrupted(&self) -> bool {
        self.interrupted
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // `drop` cannot report a file that cannot be removed; the next holder takes the file over.
        if cfg!(unix) {
            let _ = fs::remove_file(&self.file);
        }
        unmake(&self.made);
    }
}

/// Makes a folder and those above it; returns the ones that were not there, the deepest first.
fn make(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let made = folder.ancestors().take_while(missing).map(Path::to_owned).collect();
    fs::create_dir_all(folder)?;
    Ok(made)
}

/// Removes folders that are empty.
fn unmake(made: &[PathBuf]) {
    for folder in made {
        let _ = fs::remove_dir(folder);
    }
}

/// Removes the hidden files that killed writers left in a folder ([`replace`]); a writer that is alive keeps its own.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be read or written to.
pub fn sweep(folder: impl AsRef<Path>) -> Result<()> {
    let folder = folder.as_ref();
    let sweep = || -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.as_encoded_bytes();
            let hidden = name.starts_with(b".") && name.ends_with(PARTIAL.as_bytes());
            if hidden
                && entry.file_type()?.is_file()
                && let Some(_claim) = claim(&entry.path())?
            {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    sweep().map_err(|error| Error::io(folder, error))
}

//! Opening regular files, and refusing everything else.

use std::fs::{self, File, Metadata};
use std::io::{Error as IoError, ErrorKind, Read};
use std::path::Path;

use crate::error::{Error, Result};

/// Opens a file for reading if it is a regular one, links followed.
///
/// The kind of the file is checked first: opening a FIFO waits for a writer, reading a device may never end, and some
/// devices act when they are opened.
///
/// # Errors
/// [`Error::Io`] if the file is missing, cannot be read, or is a folder, a FIFO, a socket or a device.
///
/// # Examples
/// ```
/// use gatewise::files;
/// assert!(files::open("README.md").is_ok());
/// let refused = files::open("src").expect_err("a folder");
/// assert_eq!(refused.to_string(), "src: expected a regular file, found a folder");
/// ```
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    let failed = |error| Error::io(path, error);
    check_regular(path, &fs::metadata(path).map_err(failed)?)?;
    let file = File::open(path).map_err(failed)?;
    // Another file may have taken the place of the one that was checked.
    check_regular(path, &file.metadata().map_err(failed)?)?;
    Ok(file)
}

/// Reads a file as a whole, if [`open`] opens it.
///
/// # Errors
/// As [`open`], and [`Error::Io`] if it cannot be read to its end or does not fit into memory.
pub fn read(path: impl AsRef<Path>) -> Result<Vec<u8>> {
    let (path, mut bytes) = (path.as_ref(), Vec::new());
    // `read_to_end` takes the memory for the file's length at once, and fails if there is none.
    open(path)?.read_to_end(&mut bytes).map_err(|error| Error::io(path, error))?;
    Ok(bytes)
}

/// Reads a file of text as a whole, if [`open`] opens it.
///
/// # Errors
/// As [`read`], and [`Error::Io`] if the bytes are not UTF-8.
///
/// # Examples
/// ```
/// assert!(gatewise::files::read_to_string("Cargo.toml")?.contains("gatewise"));
/// # Ok::<(), gatewise::Error>(())
/// ```
pub fn read_to_string(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let not_text =
        |_| Error::io(path, IoError::new(ErrorKind::InvalidData, "expected text in UTF-8, found other bytes"));
    String::from_utf8(read(path)?).map_err(not_text)
}

fn check_regular(path: &Path, found: &Metadata) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    let advice = if found.is_dir() { "" } else { ": write its contents to a file first" };
    let found = format!("expected a regular file, found {}{advice}", kind(found));
    Err(Error::io(path, IoError::new(ErrorKind::InvalidInput, found)))
}

/// The kind of an entry in a folder, in the words of messages.
///
/// # Examples
/// ```
/// assert_eq!(gatewise::files::kind(&std::fs::metadata("src")?), "a folder");
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn kind(found: &Metadata) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = found.file_type();
        if kind.is_fifo() {
            return "a FIFO";
        }
        if kind.is_char_device() {
            return "a character device";
        }
        if kind.is_block_device() {
            return "a block device";
        }
        if kind.is_socket() {
            return "a socket";
        }
    }
    match (found.is_dir(), found.is_file()) {
        (true, _) => "a folder",
        (_, true) => "a regular file",
        _ => "something else",
    }
}

//! Opening the files that a command reads.

use std::fs::{self, File, FileType};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use gatewise::{Error, Result};

/// Opens a regular file and returns its length in bytes. A FIFO would make the command wait, a device may never end.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let wrap = |error| Error::io(path, error);
    check_kind(fs::metadata(path).map_err(wrap)?.file_type()).map_err(wrap)?;
    let file = File::open(path).map_err(wrap)?;
    let metadata = file.metadata().map_err(wrap)?;
    // The name may lead elsewhere by now.
    check_kind(metadata.file_type()).map_err(wrap)?;
    Ok((file, metadata.len()))
}

/// Reads a whole regular file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (file, length) = open(path)?;
    let too_large = |found: u64| Error::TooLarge {
        file: path.display().to_string(),
        field: "size".to_owned(),
        limit: format!("{limit} bytes"),
        found: format!("{found} bytes"),
    };
    if length > limit {
        return Err(too_large(length));
    }
    let mut bytes = Vec::new();
    let read = file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| Error::io(path, error))?;
    // A file may have grown since, and some of the system's own say that they are empty.
    if read as u64 > limit { Err(too_large(read as u64)) } else { Ok(bytes) }
}

fn check_kind(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    Err(io::Error::new(ErrorKind::InvalidInput, format!("expected a regular file, found {}", special(kind))))
}

#[cfg(unix)]
fn special(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(not(unix))]
fn special(_: FileType) -> &'static str {
    "something else"
}

/// What a file says, for one line of an error: escaped and cut.
pub(crate) fn excerpt(text: &str) -> String {
    const MOST: usize = 60;
    let shown: String = text.chars().take(MOST).flat_map(escaped).collect();
    match text.chars().count() {
        count if count > MOST => format!("{shown}... and {} characters more", count - MOST),
        _ => shown,
    }
}

/// Control characters steer a terminal; quotes stay as they are.
fn escaped(c: char) -> Box<dyn Iterator<Item = char>> {
    if matches!(c, '\'' | '"') { Box::new(std::iter::once(c)) } else { Box::new(c.escape_debug()) }
}

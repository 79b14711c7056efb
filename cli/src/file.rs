//! Opening the files that a command reads.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use gatewise::{Error, Result, files};

/// Opens a regular file and returns its length in bytes.
pub(crate) fn open(path: &Path) -> Result<(File, u64)> {
    let file = files::open(path)?;
    let length = file.metadata().map_err(|error| Error::io(path, error))?.len();
    Ok((file, length))
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
    // The file may have grown meanwhile, and some system files report a length of 0.
    if read as u64 > limit { Err(too_large(read as u64)) } else { Ok(bytes) }
}

//! The version and the checksum that a checkpoint's file begins with.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::weights::Weights;

/// The entry of the metadata; no other entry of a checkpoint sorts before it, so that it has a place of its own in the file.
const ENTRY: &str = "checkpoint";
/// The version of the format: 1 had no checksum.
const VERSION: &str = "2";
/// The bytes of every checkpoint from behind the header's length up to the checksum's digits.
const MARK: &str = "{\"__metadata__\":{\"checkpoint\":\"2 crc32 ";
const START: usize = size_of::<u64>();
const DIGITS: std::ops::Range<usize> = START + MARK.len()..START + MARK.len() + 8;

/// The file of a checkpoint's arrays and notes.
pub(super) fn seal(weights: &Weights) -> Result<Vec<u8>> {
    let mut weights = weights.clone();
    weights.note(ENTRY, &format!("{VERSION} crc32 {:08x}", 0));
    let mut bytes = weights.to_bytes()?;
    if !marked(&bytes) {
        return Err(weights.refuse("header", "the checkpoint's version at its beginning", "another entry"));
    }
    let sum = checksum(&bytes);
    bytes[DIGITS].copy_from_slice(sum.as_bytes());
    Ok(bytes)
}

/// Reads a checkpoint's file; a pipe or a device is refused before it is opened.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |error| Error::io(path, error);
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(std::io::Error::other("no regular file")));
    }
    fs::read(path).map_err(io)
}

/// Refuses a file that is not, byte for byte, what [`seal`] made.
pub(super) fn check(file: &str, bytes: &[u8]) -> Result<()> {
    let refuse = |field: &str, expected: String, found: String| {
        Err(Error::Format { file: file.to_owned(), field: field.to_owned(), expected, found })
    };
    if !marked(bytes) {
        let weights = Weights::from_bytes(file, bytes)?;
        let found = match (weights.metadata(ENTRY), weights.metadata("step")) {
            (Ok(other), _) => format!("{other:?}"),
            (Err(_), Ok(_)) => "a checkpoint without one: of an older version, or damaged".to_owned(),
            (Err(_), Err(_)) => "weights that are no checkpoint, or a damaged one".to_owned(),
        };
        return refuse("version", format!("version {VERSION} of a checkpoint"), found);
    }
    let sum = checksum(bytes);
    if bytes[DIGITS] == *sum.as_bytes() {
        return Ok(());
    }
    // A file that is cut short is the most frequent damage.
    if let Err(error @ Error::Truncated { .. }) = Weights::from_bytes(file, bytes) {
        return Err(error);
    }
    let noted = String::from_utf8_lossy(&bytes[DIGITS]).escape_debug().to_string();
    refuse("checksum", format!("{noted} over the whole file"), format!("{sum}: the file is damaged"))
}

fn marked(bytes: &[u8]) -> bool {
    bytes.len() >= DIGITS.end && bytes[START..].starts_with(MARK.as_bytes())
}

/// CRC-32 of all bytes but its own digits, in hexadecimal digits.
fn checksum(bytes: &[u8]) -> String {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[..DIGITS.start]);
    sum.update(&bytes[DIGITS.end..]);
    format!("{:08x}", sum.finalize())
}

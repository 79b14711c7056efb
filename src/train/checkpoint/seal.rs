//! The version and the checksum at the beginning of a checkpoint's file.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};
use crate::weights::Weights;

/// The metadata entry with the version and the checksum. No other entry of a checkpoint sorts before it, so its offset in the
/// file is fixed.
const ENTRY: &str = "checkpoint";
/// The version of the format. Version 1 had no checksum.
const VERSION: &str = "2";
/// The bytes of every checkpoint between the header's length and the checksum's digits.
const MARK: &str = "{\"__metadata__\":{\"checkpoint\":\"2 crc32 ";
const START: usize = size_of::<u64>();
const DIGITS: std::ops::Range<usize> = START + MARK.len()..START + MARK.len() + 8;

/// The bytes of a checkpoint's file: arrays, notes, version and checksum.
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

/// Reads a checkpoint's file. A pipe or a device is refused before it is opened.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |error| Error::io(path, error);
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(std::io::Error::other("not a regular file")));
    }
    fs::read(path).map_err(io)
}

/// Refuses a file that differs in any byte from the result of [`seal`].
pub(super) fn check(file: &str, bytes: &[u8]) -> Result<()> {
    let refuse = |field: &str, expected: String, found: String| {
        Err(Error::Format { file: file.to_owned(), field: field.to_owned(), expected, found })
    };
    if !marked(bytes) {
        let weights = Weights::from_bytes(file, bytes)?;
        let found = match (weights.metadata(ENTRY), weights.metadata("step")) {
            (Ok(other), _) => format!("{other:?}"),
            (Err(_), Ok(_)) => "a checkpoint without a version: an older one, or a damaged one".to_owned(),
            (Err(_), Err(_)) => "weights that are no checkpoint, or a damaged checkpoint".to_owned(),
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

/// Whether the bytes have a checkpoint's version and room for its checksum.
fn marked(bytes: &[u8]) -> bool {
    bytes.len() >= DIGITS.end && bytes[START..].starts_with(MARK.as_bytes())
}

/// CRC-32 of all bytes except its own digits, as hexadecimal digits.
fn checksum(bytes: &[u8]) -> String {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[..DIGITS.start]);
    sum.update(&bytes[DIGITS.end..]);
    format!("{:08x}", sum.finalize())
}

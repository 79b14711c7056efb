//! The zip archive of a `.keras` file.

use std::io::Read;

use rawzip::{CompressionMethod, ZipArchive, ZipSliceArchive};

use super::FileName;
use crate::error::Result;
use crate::text::listed;

/// An archive whose members are read by name.
pub(super) struct Archive<'a> {
    file: FileName<'a>,
    archive: ZipSliceArchive<&'a [u8]>,
    /// The size of the archive in bytes.
    size: usize,
}

impl<'a> Archive<'a> {
    pub(super) fn open(file: FileName<'a>, bytes: &'a [u8]) -> Result<Self> {
        let archive = ZipArchive::from_slice(bytes)
            .map_err(|error| file.refuse("archive", "a whole zip archive", error.to_string()))?;
        Ok(Self { file, archive, size: bytes.len() })
    }

    /// The inflated contents of a member; its checksum is compared.
    pub(super) fn member(&self, name: &str) -> Result<Vec<u8>> {
        let refuse = |expected: &str, found: &str| self.file.refuse(name, expected, found);
        let broken = |error: rawzip::Error| refuse("a whole member of the archive", &error.to_string());
        let (mut entries, mut names, mut found) = (self.archive.entries(), Vec::new(), None);
        while let Some(entry) = entries.next_entry().map_err(broken)? {
            if entry.file_path().as_bytes() != name.as_bytes() {
                names.push(String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned());
                names.truncate(20);
            } else if found.replace((entry.wayfinder(), entry.compression_method(), entry.flags())).is_some() {
                return Err(self.file.duplicate("the archive", name, "a member before it"));
            }
        }
        let Some((wayfinder, method, flags)) = found else {
            return Err(refuse("a member of this name", &format!("only {}", listed(&names, ", "))));
        };
        if flags.is_encrypted() {
            return Err(refuse("a member that is not encrypted", "an encrypted one"));
        }
        let entry = self.archive.get_entry(wayfinder).map_err(broken)?;
        let limit = super::memory_limit(self.size);
        let mut contents = Vec::new();
        let read = match method {
            CompressionMethod::STORE => entry.verifying_reader(entry.data()).take(limit + 1).read_to_end(&mut contents),
            CompressionMethod::DEFLATE => {
                let inflated = flate2::bufread::DeflateDecoder::new(entry.data());
                entry.verifying_reader(inflated).take(limit + 1).read_to_end(&mut contents)
            }
            other => return Err(refuse("stored or deflated", &format!("compression method {other:?}"))),
        };
        read.map_err(|error| refuse("a whole member of the archive", &error.to_string()))?;
        if contents.len() as u64 > limit {
            let limit = format!("{limit} bytes in an archive of {}", self.size);
            return Err(self.file.too_large(name, limit, "more"));
        }
        Ok(contents)
    }
}

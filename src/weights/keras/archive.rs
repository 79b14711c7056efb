//! The zip archive of a `.keras` file.

use std::io::Read;

use rawzip::{CompressionMethod, ZipArchive, ZipSliceArchive};

use super::Source;
use crate::error::{Error, Result};
use crate::text::listed;

/// An archive whose members are read by name.
pub(super) struct Archive<'a> {
    source: Source<'a>,
    archive: ZipSliceArchive<&'a [u8]>,
    size: usize,
}

impl<'a> Archive<'a> {
    pub(super) fn open(source: Source<'a>, bytes: &'a [u8]) -> Result<Self> {
        let archive = ZipArchive::from_slice(bytes)
            .map_err(|error| source.refuse("archive", "a whole zip archive", &error.to_string()))?;
        Ok(Self { source, archive, size: bytes.len() })
    }

    /// A member's contents, its checksum compared.
    pub(super) fn member(&self, name: &str) -> Result<Vec<u8>> {
        let refuse = |expected: &str, found: &str| self.source.refuse(name, expected, found);
        let broken =
            |error: rawzip::Error| self.source.refuse(name, "a whole member of the archive", &error.to_string());
        let (mut entries, mut names, mut found) = (self.archive.entries(), Vec::new(), None);
        while let Some(entry) = entries.next_entry().map_err(broken)? {
            if entry.file_path().as_bytes() != name.as_bytes() {
                names.push(String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned());
                names.truncate(20);
            } else if found.replace((entry.wayfinder(), entry.compression_method(), entry.flags())).is_some() {
                let first = "a member before it".to_owned();
                let (file, name) = (self.source.file.to_owned(), name.to_owned());
                return Err(Error::Duplicate { file, place: "the archive".to_owned(), name, first });
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
            return Err(self.source.too_large(name, &limit, "more"));
        }
        Ok(contents)
    }
}

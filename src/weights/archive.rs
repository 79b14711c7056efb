//! Zip archives, as `.keras` files and PyTorch's checkpoints are.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;

use rawzip::{CompressionMethod, ZipArchive, ZipArchiveEntryWayfinder, ZipSliceArchive, ZipVerification};

use super::FileName;
use crate::error::Result;
use crate::text::listed;

/// The most bytes that the contents of a file of `size` bytes may take in memory. Weights hardly compress, so a small file that
/// asks for more is no model.
pub(super) fn memory_limit(size: usize) -> u64 {
    (64 << 20) + 32 * size as u64
}

/// An archive whose members are read by name.
pub(super) struct Archive<'a> {
    file: FileName<'a>,
    archive: ZipSliceArchive<&'a [u8]>,
    members: BTreeMap<String, Member>,
    /// The size of the archive in bytes.
    size: usize,
}

/// An entry of the archive's directory.
struct Member {
    wayfinder: ZipArchiveEntryWayfinder,
    method: CompressionMethod,
    encrypted: bool,
    /// Whether the directory has another entry of this name.
    twice: bool,
}

impl<'a> Archive<'a> {
    pub(super) fn open(file: FileName<'a>, bytes: &'a [u8]) -> Result<Self> {
        let broken = |error: rawzip::Error| file.refuse("archive", "a whole zip archive", error.to_string());
        let archive = ZipArchive::from_slice(bytes).map_err(broken)?;
        let (mut entries, mut members) = (archive.entries(), BTreeMap::<String, Member>::new());
        while let Some(entry) = entries.next_entry().map_err(broken)? {
            let name = String::from_utf8_lossy(entry.file_path().as_bytes()).into_owned();
            let (wayfinder, method) = (entry.wayfinder(), entry.compression_method());
            let member = Member { wayfinder, method, encrypted: entry.flags().is_encrypted(), twice: false };
            members.entry(name).and_modify(|first| first.twice = true).or_insert(member);
        }
        Ok(Self { file, archive, members, size: bytes.len() })
    }

    /// The sorted names of the members.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.keys().map(String::as_str)
    }

    /// The inflated contents of a member; its checksum is compared. Contents that are not compressed are borrowed.
    pub(super) fn member(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        self.member_up_to(name, memory_limit(self.size))
    }

    /// The contents of a member that is refused if they have more than `limit` bytes.
    pub(super) fn member_up_to(&self, name: &str, limit: u64) -> Result<Cow<'_, [u8]>> {
        let refuse = |expected: &str, found: &str| self.file.refuse(name, expected, found);
        let Some(member) = self.members.get(name) else {
            let names: Vec<&str> = self.names().collect();
            return Err(refuse("a member of this name", &format!("only {}", listed(&names, ", "))));
        };
        if member.twice {
            return Err(self.file.duplicate("the archive", name, "a member before it"));
        }
        if member.encrypted {
            return Err(refuse("a member that is not encrypted", "an encrypted one"));
        }
        let too_large = || {
            let limit = format!("{limit} bytes in an archive of {}", self.size);
            self.file.too_large(name, limit, "more")
        };
        let broken = |error: &dyn std::error::Error| refuse("a whole member of the archive", &error.to_string());
        let entry = self.archive.get_entry(member.wayfinder).map_err(|error| broken(&error))?;
        let data = entry.data();
        match member.method {
            CompressionMethod::STORE if data.len() as u64 > limit => Err(too_large()),
            // PyTorch leaves checksums out if it is told to; they are 0 then.
            CompressionMethod::STORE if entry.claim_verifier() == unchecked(data) => Ok(Cow::Borrowed(data)),
            CompressionMethod::STORE => {
                std::io::copy(&mut entry.verifying_reader(data), &mut std::io::sink())
                    .map_err(|error| broken(&error))?;
                Ok(Cow::Borrowed(data))
            }
            CompressionMethod::DEFLATE => {
                let (inflated, mut contents) = (flate2::bufread::DeflateDecoder::new(data), Vec::new());
                let read = entry.verifying_reader(inflated).take(limit + 1).read_to_end(&mut contents);
                read.map_err(|error| broken(&error))?;
                if contents.len() as u64 > limit { Err(too_large()) } else { Ok(Cow::Owned(contents)) }
            }
            other => Err(refuse("stored or deflated", &format!("compression method {other:?}"))),
        }
    }
}

/// The length of data, without a checksum.
fn unchecked(data: &[u8]) -> ZipVerification {
    ZipVerification { crc: 0, uncompressed_size: data.len() as u64 }
}

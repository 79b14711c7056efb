//! Writing safetensors files. The same weights always give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use ::safetensors::{Dtype, tensor::TensorInfo};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::header::{LONGEST, METADATA};
use crate::error::Result;
use crate::files;
use crate::weights::{Stored, Weights};

/// The length of the header is a multiple of this number of bytes, as the format requires. Blanks pad it.
const ALIGNMENT: usize = 8;

impl Weights {
    /// The bytes of a safetensors file with elements of type `F32`, tensors and metadata in the order of their names.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) if a tensor is called `__metadata__`, or if the header has more than 100 million
    /// bytes; [`Error::Dtype`](crate::Error::Dtype) for a tensor that was not read because its elements are no floats.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header = self.header()?;
        let mut bytes = Vec::with_capacity(size_of::<u64>() + header.len() + size_of::<f32>() * self.elements());
        // Writing to a vector never fails.
        let _ = self.write_to(&header, &mut bytes);
        Ok(bytes)
    }

    /// Writes a safetensors file with elements of type `F32`. An existing file is replaced as a whole (see [`files::replace`]).
    ///
    /// # Errors
    /// As [`Weights::to_bytes`]; [`Error::Io`](crate::Error::Io) if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let header = self.header()?;
        files::replace(path, |out| self.write_to(&header, out))
    }

    fn elements(&self) -> usize {
        self.floats().map(|(_, array)| array.len()).sum()
    }

    fn header(&self) -> Result<Vec<u8>> {
        if self.tensors.contains_key(METADATA) {
            return Err(self.refuse(METADATA, "another name, because this one belongs to the metadata", "a tensor"));
        }
        // A tensor that is not read would be missing from the new file.
        self.tensors
            .iter()
            .filter(|(_, entry)| matches!(entry, Stored::Other(_)))
            .try_for_each(|(name, _)| self.stored(name).map(drop))?;
        let wrong = |found: &str| self.refuse("header", "tensors that a safetensors file can hold", found);
        let mut header = serde_json::to_vec(&HeaderJson(self)).map_err(|error| wrong(&error.to_string()))?;
        header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
        if header.len() as u64 > LONGEST {
            return Err(wrong(&format!("{} bytes of names and metadata", header.len())));
        }
        Ok(header)
    }

    fn write_to(&self, header: &[u8], out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header)?;
        for (_, array) in self.floats() {
            let bytes: Vec<u8> = array.iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// The header of a file: first the metadata, then type, shape and offsets of every tensor.
struct HeaderJson<'a>(&'a Weights);

impl Serialize for HeaderJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self(weights) = self;
        let mut header = serializer.serialize_map(None)?;
        let mut metadata: BTreeMap<&str, &str> =
            weights.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        // PyTorch's readers expect the entry `format`.
        metadata.entry("format").or_insert("pt");
        header.serialize_entry(METADATA, &metadata)?;
        let mut start = 0;
        for (name, array) in weights.floats() {
            let end = start + size_of::<f32>() * array.len();
            let info = TensorInfo { dtype: Dtype::F32, shape: array.shape().to_vec(), data_offsets: (start, end) };
            header.serialize_entry(name, &info)?;
            start = end;
        }
        header.end()
    }
}

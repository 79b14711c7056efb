//! Weights to safetensors files: the same weights are the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use ::safetensors::{Dtype, tensor::TensorInfo};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::header::{LONGEST, METADATA};
use crate::error::Result;
use crate::files;
use crate::weights::Weights;

/// The header is filled up with blanks to a multiple of this, as the format asks for.
const ALIGNMENT: usize = 8;

impl Weights {
    /// The weights as a safetensors file of `F32`. Tensors and metadata stand in the order of their names.
    ///
    /// # Errors
    /// [`Error::Format`](crate::Error::Format) where they have no such form: `__metadata__` is no tensor's name, and a header has
    /// at most 100 million bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let header = self.header()?;
        let mut bytes = Vec::with_capacity(size_of::<u64>() + header.len() + size_of::<f32>() * self.elements());
        // A vector takes every write.
        let _ = self.write_to(&header, &mut bytes);
        Ok(bytes)
    }

    /// Writes the weights to a safetensors file of `F32`. A file that is there is replaced as a whole, as [`files::replace`] does.
    ///
    /// # Errors
    /// As [`Weights::to_bytes`]; [`Error::Io`](crate::Error::Io) where it cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let header = self.header()?;
        files::replace(path, |out| self.write_to(&header, out))
    }

    fn elements(&self) -> usize {
        self.tensors.values().map(|array| array.len()).sum()
    }

    fn header(&self) -> Result<Vec<u8>> {
        if self.tensors.contains_key(METADATA) {
            return Err(self.refuse(METADATA, "another name: this one is the metadata's", "a tensor"));
        }
        let wrong = |found: &str| self.refuse("header", "tensors that a safetensors file can hold", found);
        let mut header = serde_json::to_vec(&Header(self)).map_err(|error| wrong(&error.to_string()))?;
        header.resize(header.len().next_multiple_of(ALIGNMENT), b' ');
        if header.len() as u64 > LONGEST {
            return Err(wrong(&format!("{} bytes of names and metadata", header.len())));
        }
        Ok(header)
    }

    fn write_to(&self, header: &[u8], out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header)?;
        for array in self.tensors.values() {
            let bytes: Vec<u8> = array.iter().flat_map(|x| x.to_le_bytes()).collect();
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// The header of a file: first the metadata, then every tensor's type, shape and place.
struct Header<'a>(&'a Weights);

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let Self(weights) = self;
        let mut header = serializer.serialize_map(None)?;
        let mut metadata: BTreeMap<&str, &str> =
            weights.metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        // Readers of PyTorch's own files ask for the format.
        metadata.entry("format").or_insert("pt");
        header.serialize_entry(METADATA, &metadata)?;
        let mut start = 0;
        for (name, array) in &weights.tensors {
            let end = start + size_of::<f32>() * array.len();
            let info = TensorInfo { dtype: Dtype::F32, shape: array.shape().to_vec(), data_offsets: (start, end) };
            header.serialize_entry(name, &info)?;
            start = end;
        }
        header.end()
    }
}

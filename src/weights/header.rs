//! The header of a safetensors file: names that are given once, and why some bytes are no such file.

use std::collections::BTreeSet;
use std::fmt;

use ::safetensors::{Dtype, SafeTensorError};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::kind;
use crate::error::{Error, Result};

/// Bytes of the header's length.
const LENGTH: usize = 8;
/// Bytes of the longest header that the `safetensors` crate reads.
pub(super) const LONGEST: u64 = 100_000_000;
/// The entry that is no tensor.
pub(super) const METADATA: &str = "__metadata__";
/// The types that weights are read from.
pub(super) const FLOATS: &str = "F32, F16, BF16 or F64";

/// Refuses a header that gives a name twice: one of the two would be dropped silently.
pub(super) fn check_names(file: &str, header: &[u8]) -> Result<()> {
    match serde_json::Deserializer::from_slice(header).deserialize_map(Twice) {
        Ok(Some(name)) => Err(Error::Duplicate {
            file: file.to_owned(),
            place: "the header".to_owned(),
            name,
            first: "an entry before".to_owned(),
        }),
        Ok(None) => Ok(()),
        Err(error) => Err(header_error(file, error.to_string())),
    }
}

/// Looks for the first name of a JSON object that stands there twice.
struct Twice;

impl<'de> Visitor<'de> for Twice {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let (mut names, mut twice) = (BTreeSet::new(), None);
        while let Some(name) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if names.contains(&name) {
                twice.get_or_insert(name);
            } else {
                names.insert(name);
            }
        }
        Ok(twice)
    }
}

fn header_error(file: &str, found: String) -> Error {
    let expected = "a JSON object that describes tensors".to_owned();
    Error::Format { file: file.to_owned(), field: "header".to_owned(), expected, found }
}

/// Why the bytes are no safetensors file; `error` is the `safetensors` crate's.
pub(super) fn refusal(file: &str, bytes: &[u8], error: &SafeTensorError) -> Error {
    const EXPECTED: &str = "a safetensors file";
    let cut = |field: &str, needed: u64| {
        let (file, field, found) = (file.to_owned(), field.to_owned(), bytes.len() as u64);
        Error::Truncated { file, field, needed, found }
    };
    let other = kind::known(bytes).is_some_and(|kind| kind != EXPECTED);
    if other || bytes.get(LENGTH).is_some_and(|&first| first != b'{') {
        return Error::Unrecognized { file: file.to_owned(), expected: EXPECTED, found: kind::describe(bytes) };
    }
    let Some((length, _)) = bytes.split_first_chunk::<LENGTH>() else {
        return cut("the header's length", LENGTH as u64);
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST {
        let (limit, found) = (format!("{LONGEST} bytes"), format!("{length} bytes"));
        return Error::TooLarge { file: file.to_owned(), field: "header".to_owned(), limit, found };
    }
    let data = LENGTH as u64 + length;
    let Some(header) = usize::try_from(data).ok().and_then(|data| bytes.get(LENGTH..data)) else {
        return cut("header", data);
    };
    match serde_json::from_slice::<Map<String, Value>>(header) {
        Err(error) => header_error(file, error.to_string()),
        Ok(entries) => {
            let tensors = || entries.iter().filter(|(name, _)| *name != METADATA);
            if let Some(error) = tensors().find_map(|(name, entry)| Entry { file, name, entry }.refusal()) {
                return error;
            }
            let end = tensors().filter_map(|(_, entry)| entry["data_offsets"][1].as_u64()).max().unwrap_or(0);
            match (error, data.checked_add(end)) {
                (SafeTensorError::MetadataIncompleteBuffer, Some(needed)) if needed > bytes.len() as u64 => {
                    cut("the tensors' data", needed)
                }
                (SafeTensorError::InvalidOffset(name), _) => {
                    let found = entries.get(name).map_or(Value::Null, |entry| entry["data_offsets"].clone());
                    let expected = "data_offsets that begin where the tensor before ends".to_owned();
                    Error::Format { file: file.to_owned(), field: name.clone(), expected, found: found.to_string() }
                }
                _ => header_error(file, error.to_string()),
            }
        }
    }
}

/// A tensor as the header describes it.
struct Entry<'a> {
    file: &'a str,
    name: &'a str,
    entry: &'a Value,
}

impl Entry<'_> {
    /// What is wrong with it by itself.
    fn refusal(&self) -> Option<Error> {
        let (file, field) = (self.file.to_owned(), self.name.to_owned());
        let declared = &self.entry["dtype"];
        let Ok(dtype) = serde_json::from_value::<Dtype>(declared.clone()) else {
            return Some(Error::Dtype { file, field, expected: FLOATS, found: declared.to_string() });
        };
        let (shape, offsets) = (&self.entry["shape"], &self.entry["data_offsets"]);
        let extents: Option<Vec<u64>> = shape.as_array().and_then(|axes| axes.iter().map(Value::as_u64).collect());
        let Some(extents) = extents else {
            let expected = "a shape of whole numbers".to_owned();
            return Some(Error::Format { file, field, expected, found: shape.to_string() });
        };
        let bits = extents.iter().try_fold(dtype.bitsize() as u64, |bits, &n| bits.checked_mul(n));
        let Some(bits) = bits else {
            let (limit, found) = (format!("{} bytes", u64::MAX / 8), format!("shape {shape}"));
            return Some(Error::TooLarge { file, field, limit, found });
        };
        match (offsets[0].as_u64(), offsets[1].as_u64()) {
            (Some(from), Some(to)) if to.checked_sub(from) == Some(bits / 8) => None,
            _ => {
                let expected = format!("data_offsets {} bytes apart for shape {shape} of {dtype}", bits / 8);
                Some(Error::Format { file, field, expected, found: offsets.to_string() })
            }
        }
    }
}

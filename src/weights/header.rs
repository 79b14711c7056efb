//! The header of a safetensors file: finds duplicate names, and the reason why bytes are no such file.

use std::collections::BTreeSet;
use std::fmt;

use ::safetensors::{Dtype, SafeTensorError};
use serde::Deserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::floats::FLOATS;
use super::{FileName, kind};
use crate::error::{Error, Result};

/// The number of bytes that hold the header's length.
const LENGTH: usize = 8;
/// The longest header in bytes that the `safetensors` crate reads.
pub(super) const LONGEST: u64 = 100_000_000;
/// The entry of the header that is no tensor.
pub(super) const METADATA: &str = "__metadata__";

/// Refuses a header that gives a name twice, because one of the two tensors would be dropped silently.
pub(super) fn check_names(file: FileName<'_>, header: &[u8]) -> Result<()> {
    match serde_json::Deserializer::from_slice(header).deserialize_map(DuplicateName) {
        Ok(Some(name)) => Err(file.duplicate("the header", &name, "an entry before")),
        Ok(None) => Ok(()),
        Err(error) => Err(header_error(file, error.to_string())),
    }
}

/// Finds the first duplicate name of a JSON object.
struct DuplicateName;

impl<'de> Visitor<'de> for DuplicateName {
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

fn header_error(file: FileName<'_>, found: String) -> Error {
    file.refuse("header", "a JSON object that describes tensors", found)
}

/// The error for bytes that are no safetensors file; `error` comes from the `safetensors` crate.
pub(super) fn refusal(file: FileName<'_>, bytes: &[u8], error: &SafeTensorError) -> Error {
    const EXPECTED: &str = kind::SAFETENSORS;
    let other = kind::known(bytes).is_some_and(|kind| kind != EXPECTED);
    if other || bytes.get(LENGTH).is_some_and(|&first| first != b'{') {
        return file.unrecognized(EXPECTED, bytes);
    }
    let size = bytes.len() as u64;
    let Some((length, _)) = bytes.split_first_chunk::<LENGTH>() else {
        return file.truncated("the header's length", LENGTH as u64, size);
    };
    let length = u64::from_le_bytes(*length);
    if length > LONGEST {
        return file.too_large("header", format!("{LONGEST} bytes"), format!("{length} bytes"));
    }
    let data = LENGTH as u64 + length;
    let Some(header) = usize::try_from(data).ok().and_then(|data| bytes.get(LENGTH..data)) else {
        return file.truncated("header", data, size);
    };
    let entries = match serde_json::from_slice::<Map<String, Value>>(header) {
        Err(error) => return header_error(file, error.to_string()),
        Ok(entries) => entries,
    };
    let tensors = || entries.iter().filter(|(name, _)| *name != METADATA);
    if let Some(error) = tensors().find_map(|(name, entry)| entry_refusal(file, name, entry)) {
        return error;
    }
    let end = tensors().filter_map(|(_, entry)| entry["data_offsets"][1].as_u64()).max().unwrap_or(0);
    match (error, data.checked_add(end)) {
        (SafeTensorError::MetadataIncompleteBuffer, Some(needed)) if needed > size => {
            file.truncated("the tensors' data", needed, size)
        }
        (SafeTensorError::InvalidOffset(name), _) => {
            let found = entries.get(name).map_or(Value::Null, |entry| entry["data_offsets"].clone());
            file.refuse(name, "data_offsets that begin where the tensor before ends", found.to_string())
        }
        _ => header_error(file, error.to_string()),
    }
}

/// The error for an entry of the header that describes no tensor; `None` if it describes one.
fn entry_refusal(file: FileName<'_>, name: &str, entry: &Value) -> Option<Error> {
    let declared = &entry["dtype"];
    let Ok(dtype) = serde_json::from_value::<Dtype>(declared.clone()) else {
        return Some(file.dtype(name, FLOATS, declared.to_string()));
    };
    let (shape, offsets) = (&entry["shape"], &entry["data_offsets"]);
    let extents: Option<Vec<u64>> = shape.as_array().and_then(|axes| axes.iter().map(Value::as_u64).collect());
    let Some(extents) = extents else {
        return Some(file.refuse(name, "a shape of whole numbers", shape.to_string()));
    };
    let bits = extents.iter().try_fold(dtype.bitsize() as u64, |bits, &n| bits.checked_mul(n));
    let Some(bits) = bits else {
        return Some(file.too_large(name, format!("{} bytes", u64::MAX / 8), format!("shape {shape}")));
    };
    match (offsets[0].as_u64(), offsets[1].as_u64()) {
        (Some(from), Some(to)) if to.checked_sub(from) == Some(bits / 8) => None,
        _ => {
            let expected = format!("data_offsets {} bytes apart for shape {shape} of {dtype}", bits / 8);
            Some(file.refuse(name, expected, offsets.to_string()))
        }
    }
}

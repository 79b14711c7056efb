//! From bytes to the message, and why some bytes are none.

use prost::Message;
use prost::bytes::Bytes;

use super::proto::ModelProto;
use crate::error::{Error, Result};
use crate::weights::kind;

/// What every message says where a file is no model.
const EXPECTED: &str = "an ONNX model";
/// Messages within messages that are read: prost's limit.
const DEPTH: usize = 100;

/// The message in a file.
pub(super) fn decode(file: &str, bytes: Bytes) -> Result<ModelProto> {
    let all = bytes.clone();
    match ModelProto::decode(bytes) {
        Ok(model) if model.ir_version < 1 && model.graph.is_none() => Err(unrecognized(file, &all)),
        Ok(model) => Ok(model),
        Err(error) => Err(refusal(file, &all, &error.to_string())),
    }
}

fn unrecognized(file: &str, bytes: &[u8]) -> Error {
    Error::Unrecognized { file: file.to_owned(), expected: EXPECTED, found: kind::describe(bytes) }
}

/// Why bytes are no message; `reason` is the decoder's.
fn refusal(file: &str, bytes: &[u8], reason: &str) -> Error {
    let file = || file.to_owned();
    if kind::known(bytes).is_some_and(|kind| kind != EXPECTED) {
        return unrecognized(&file(), bytes);
    }
    match Fields(bytes).walk() {
        End::Whole => {}
        End::NoModel => return unrecognized(&file(), bytes),
        End::Cut { field, needed } => {
            let (field, needed, found) = (field.to_owned(), needed as u64, bytes.len() as u64);
            return Error::Truncated { file: file(), field, needed, found };
        }
    }
    if reason.contains("recursion limit") {
        let (field, limit) = ("nesting".to_owned(), format!("{DEPTH} messages within each other"));
        return Error::TooLarge { file: file(), field, limit, found: "more".to_owned() };
    }
    let expected = "a message of onnx.proto3".to_owned();
    Error::Format { file: file(), field: "message".to_owned(), expected, found: reason.to_owned() }
}

/// The fields of a model as they lie in the file, each a key and what follows it.
struct Fields<'a>(&'a [u8]);

enum End {
    /// Every field of the model is there.
    Whole,
    /// A field is longer than what is left.
    Cut { field: &'static str, needed: usize },
    /// A key that no model has.
    NoModel,
}

impl Fields<'_> {
    /// Walks over the fields of the outermost message.
    fn walk(&self) -> End {
        let cut = |field, needed| End::Cut { field, needed };
        let mut at = 0;
        while at < self.0.len() {
            let Some((key, from)) = self.varint(at) else {
                return cut("a field's key", self.0.len() + 1);
            };
            let Some(field) = name(key >> 3) else { return End::NoModel };
            let end = match key & 7 {
                0 => match self.varint(from) {
                    Some((_, end)) => Some(end),
                    None => return cut(field, self.0.len() + 1),
                },
                1 => from.checked_add(8),
                2 => match self.varint(from) {
                    Some((length, from)) => usize::try_from(length).ok().and_then(|length| from.checked_add(length)),
                    None => return cut(field, self.0.len() + 1),
                },
                5 => from.checked_add(4),
                _ => return End::NoModel,
            };
            match end {
                Some(end) if end <= self.0.len() => at = end,
                end => return cut(field, end.unwrap_or(usize::MAX)),
            }
        }
        End::Whole
    }

    /// A number of 7 bits a byte, and where it ends.
    fn varint(&self, from: usize) -> Option<(u64, usize)> {
        let bytes = self.0.get(from..)?;
        let last = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
        let value = bytes[..=last].iter().rev().fold(0_u64, |value, byte| (value << 7) | u64::from(byte & 0x7f));
        Some((value, from + last + 1))
    }
}

/// A field of `ModelProto` by its number.
fn name(number: u64) -> Option<&'static str> {
    Some(match number {
        1 => "ir_version",
        2 => "producer_name",
        3 => "producer_version",
        4 => "domain",
        5 => "model_version",
        6 => "doc_string",
        7 => "graph",
        8 => "opset_import",
        14 => "metadata_props",
        20 => "training_info",
        25 => "functions",
        26 => "configuration",
        _ => return None,
    })
}

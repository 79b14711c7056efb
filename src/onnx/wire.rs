//! Decodes a model's message. If the bytes are no such message, finds the reason.

use prost::Message;
use prost::bytes::Bytes;

use super::proto::ModelProto;
use crate::error::{Error, Result};
use crate::weights::FileName;
use crate::weights::kind;

/// The kind of file that is expected, in messages.
const EXPECTED: &str = "an ONNX model";
/// The most levels of nested messages; prost's limit.
const DEPTH: usize = 100;

/// Decodes the message in a file.
pub(super) fn decode(file: FileName<'_>, bytes: Bytes) -> Result<ModelProto> {
    let all = bytes.clone();
    match ModelProto::decode(bytes) {
        Ok(model) if model.ir_version < 1 && model.graph.is_none() => Err(file.unrecognized(EXPECTED, &all)),
        Ok(model) => Ok(model),
        Err(error) => Err(refusal(file, &all, &error.to_string())),
    }
}

/// The error for bytes that are no message; `reason` is the text of the decoder's error.
fn refusal(file: FileName<'_>, bytes: &[u8], reason: &str) -> Error {
    if kind::known(bytes).is_some_and(|kind| kind != EXPECTED) {
        return file.unrecognized(EXPECTED, bytes);
    }
    match WireFields(bytes).check() {
        WireCheck::Whole => {}
        WireCheck::NoModel => return file.unrecognized(EXPECTED, bytes),
        WireCheck::Cut { field, needed } => return file.truncated(field, needed as u64, bytes.len() as u64),
    }
    if reason.contains("recursion limit") {
        return file.too_large("nesting", format!("{DEPTH} messages within each other"), "more");
    }
    file.refuse("message", "a message of onnx.proto3", reason)
}

/// The encoded fields of a model, each a key and its content.
struct WireFields<'a>(&'a [u8]);

/// The result of a check of the encoded fields.
enum WireCheck {
    /// Every field of the model is complete.
    Whole,
    /// A field is longer than the rest of the file.
    Cut { field: &'static str, needed: usize },
    /// The file has a key that no model has.
    NoModel,
}

impl WireFields<'_> {
    /// Checks the fields of the outermost message.
    fn check(&self) -> WireCheck {
        let cut = |field, needed| WireCheck::Cut { field, needed };
        let mut at = 0;
        while at < self.0.len() {
            let Some((key, from)) = self.varint(at) else {
                return cut("a field's key", self.0.len() + 1);
            };
            let Some(field) = name(key >> 3) else { return WireCheck::NoModel };
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
                _ => return WireCheck::NoModel,
            };
            match end {
                Some(end) if end <= self.0.len() => at = end,
                end => return cut(field, end.unwrap_or(usize::MAX)),
            }
        }
        WireCheck::Whole
    }

    /// A number with 7 bits per byte, and the index after its last byte.
    fn varint(&self, from: usize) -> Option<(u64, usize)> {
        let bytes = self.0.get(from..)?;
        let last = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
        let value = bytes[..=last].iter().rev().fold(0_u64, |value, byte| (value << 7) | u64::from(byte & 0x7f));
        Some((value, from + last + 1))
    }
}

/// The name of the field of `ModelProto` with this number.
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

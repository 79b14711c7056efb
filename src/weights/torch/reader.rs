//! The bytes of a pickle, and the values that one operation holds.

use super::opcode as op;
use super::pickle::Value;
use crate::error::{Error, Result};
use crate::weights::FileName;

/// The bytes of a pickle that are still to be read.
pub(super) struct Reader<'a> {
    file: FileName<'a>,
    /// The name of the pickle in messages.
    field: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: FileName<'a>, field: &'a str, bytes: &'a [u8]) -> Self {
        Self { file, field, bytes, at: 0 }
    }

    pub(super) fn file(&self) -> FileName<'a> {
        self.file
    }

    /// An error at the place that has been reached.
    pub(super) fn refuse(&self, expected: &str, found: &str) -> Error {
        self.file.refuse(&format!("{}, byte {}", self.field, self.at), expected, found)
    }

    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let Some(taken) = taken else {
            let needed = (self.at as u64).saturating_add(length);
            return Err(self.file.truncated(self.field, needed, self.bytes.len() as u64));
        };
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn opcode(&mut self) -> Result<u8> {
        self.byte()
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Bytes behind their number, which has `width` bytes.
    fn counted(&mut self, width: usize) -> Result<&'a [u8]> {
        let length = match width {
            1 => u64::from(self.byte()?),
            4 => u64::from(self.u32()?),
            _ => u64::from_le_bytes(self.array()?),
        };
        self.take(length)
    }

    /// A text of ASCII letters up to the end of its line.
    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.file.truncated(self.field, self.bytes.len() as u64 + 1, self.bytes.len() as u64));
        };
        self.at += length + 1;
        std::str::from_utf8(&rest[..length]).map_err(|_| self.refuse("a name in UTF-8", "other bytes"))
    }

    /// The value that an operation holds in itself; `None` for an operation that works on the stack.
    pub(super) fn leaf(&mut self, code: u8) -> Result<Option<Value<'a>>> {
        // Python escapes halves of surrogate pairs; a name with one is no name of a tensor.
        let text = |bytes| std::str::from_utf8(bytes).map_or(Value::Other, Value::Text);
        let value = match code {
            op::BININT => Value::Int(i64::from(i32::from_le_bytes(self.array()?))),
            op::BININT1 => Value::Int(i64::from(self.byte()?)),
            op::BININT2 => Value::Int(i64::from(u16::from_le_bytes(self.array()?))),
            op::LONG1 => integer(self.counted(1)?),
            op::LONG4 => integer(self.counted(4)?),
            op::BINFLOAT => self.take(8).map(|_| Value::Other)?,
            op::SHORT_BINUNICODE | op::SHORT_BINSTRING => text(self.counted(1)?),
            op::BINUNICODE | op::BINSTRING => text(self.counted(4)?),
            op::BINUNICODE8 => text(self.counted(8)?),
            op::SHORT_BINBYTES => self.counted(1).map(|_| Value::Other)?,
            op::BINBYTES => self.counted(4).map(|_| Value::Other)?,
            op::BINBYTES8 | op::BYTEARRAY8 => self.counted(8).map(|_| Value::Other)?,
            op::GLOBAL => Value::Global { module: self.line()?, name: self.line()? },
            _ => return Ok(None),
        };
        Ok(Some(value))
    }

    /// Refuses bytes behind the last operation.
    pub(super) fn finish(&self) -> Result<()> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            more => Err(self.refuse("the end of the pickle", &format!("{more} more bytes"))),
        }
    }
}

/// A whole number in two's complement, the lowest byte first.
fn integer<'a>(bytes: &[u8]) -> Value<'a> {
    let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
    let mut word = [if negative { 0xff } else { 0 }; 8];
    match word.get_mut(..bytes.len()) {
        Some(low) => low.copy_from_slice(bytes),
        None => return Value::Other,
    }
    Value::Int(i64::from_le_bytes(word))
}

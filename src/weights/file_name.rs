//! The name of a file, and errors about its contents.

use super::kind;
use crate::error::Error;

/// The name that messages give a file or the bytes of one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileName<'a>(pub(crate) &'a str);

impl FileName<'_> {
    /// [`Error::Format`]: a field holds something else than expected.
    pub(crate) fn refuse(self, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        let (file, field) = (self.0.to_owned(), field.to_owned());
        Error::Format { file, field, expected: expected.into(), found: found.into() }
    }

    /// [`Error::TooLarge`]: a field declares more than is read.
    pub(crate) fn too_large(self, field: &str, limit: impl Into<String>, found: impl Into<String>) -> Error {
        let (file, field) = (self.0.to_owned(), field.to_owned());
        Error::TooLarge { file, field, limit: limit.into(), found: found.into() }
    }

    /// [`Error::Truncated`]: a field needs `needed` bytes of a file of `found` bytes.
    pub(crate) fn truncated(self, field: &str, needed: u64, found: u64) -> Error {
        Error::Truncated { file: self.0.to_owned(), field: field.to_owned(), needed, found }
    }

    /// [`Error::Dtype`]: an array has elements of a type that is not read.
    pub(crate) fn dtype(self, field: &str, expected: &'static str, found: impl Into<String>) -> Error {
        let (file, field) = (self.0.to_owned(), field.to_owned());
        Error::Dtype { file, field, expected, found: found.into() }
    }

    /// [`Error::Duplicate`]: `place` gives a name that `first` has given before.
    pub(crate) fn duplicate(self, place: impl Into<String>, name: &str, first: impl Into<String>) -> Error {
        let (file, name) = (self.0.to_owned(), name.to_owned());
        Error::Duplicate { file, place: place.into(), name, first: first.into() }
    }

    /// [`Error::Dangling`]: `reader` reads a name that nothing defines.
    #[cfg(any(feature = "onnx", feature = "keras"))]
    pub(crate) fn dangling(self, reader: impl Into<String>, name: &str) -> Error {
        Error::Dangling { file: self.0.to_owned(), reader: reader.into(), name: name.to_owned() }
    }

    /// [`Error::Unrecognized`]: the bytes belong to another kind of file; the error says what to do with it.
    pub(crate) fn unrecognized(self, expected: &'static str, bytes: &[u8]) -> Error {
        let next = kind::advice(expected, bytes).map_or_else(String::new, |next| format!("; {next}"));
        let found = format!("{}{next}", kind::describe(bytes));
        Error::Unrecognized { file: self.0.to_owned(), expected, found }
    }
}

//! The configuration of a layer. Every field is either read or refused.

use std::cell::RefCell;

use serde_json::{Map, Value as Json};

use super::FileName;
use crate::error::{Error, Result};

/// Names of fields that do not affect the outputs of a trained layer.
const IGNORED: [&str; 6] = ["name", "trainable", "seed", "batch_input_shape", "batch_shape", "build_input_shape"];
/// Endings of the names of further fields that do not affect the outputs of a trained layer.
const IGNORED_ENDINGS: [&str; 3] = ["_initializer", "_regularizer", "_constraint"];

/// The `config` of a layer. A field that is null counts as absent. [`Fields::finish`] refuses fields that were not read.
pub(super) struct Fields<'a> {
    file: FileName<'a>,
    /// The path of the layer.
    path: String,
    map: &'a Map<String, Json>,
    /// The names of the fields that were read.
    used: RefCell<Vec<&'a str>>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(file: FileName<'a>, path: &str, config: Option<&'a Json>) -> Result<Self> {
        match config {
            Some(Json::Object(map)) => Ok(Self { file, path: path.to_owned(), map, used: RefCell::new(Vec::new()) }),
            other => Err(file.refuse(&format!("layer {path}: config"), "an object", describe(other))),
        }
    }

    /// The path of the layer.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn refuse(&self, field: &str, expected: &str, found: &str) -> Error {
        self.file.refuse(&format!("layer {}: {field}", self.path), expected, found)
    }

    pub(super) fn get(&self, name: &'a str) -> Option<&'a Json> {
        self.used.borrow_mut().push(name);
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn parsed<T>(&self, name: &'a str, expected: &str, parse: impl Fn(&'a Json) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        parse(value).map(Some).ok_or_else(|| self.refuse(name, expected, &describe(Some(value))))
    }

    /// The value of a field, which must not be absent.
    fn required<T>(&self, name: &str, expected: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.refuse(name, expected, "nothing"))
    }

    pub(super) fn text(&self, name: &'a str) -> Result<Option<&'a str>> {
        self.parsed(name, "a text", Json::as_str)
    }

    pub(super) fn flag(&self, name: &'a str, default: bool) -> Result<bool> {
        Ok(self.parsed(name, "true or false", Json::as_bool)?.unwrap_or(default))
    }

    pub(super) fn required_flag(&self, name: &'a str) -> Result<bool> {
        let flag = self.parsed(name, "true or false", Json::as_bool)?;
        self.required(name, "true or false", flag)
    }

    /// A size of at least 1.
    pub(super) fn count(&self, name: &'a str) -> Result<usize> {
        const EXPECTED: &str = "a whole number of at least 1";
        let count = self.parsed(name, EXPECTED, positive)?;
        self.required(name, EXPECTED, count)
    }

    /// A size of at least 1, which Keras may write as a list with one element.
    pub(super) fn along_one_axis(&self, name: &'a str) -> Result<usize> {
        const EXPECTED: &str = "a whole number of at least 1 for one axis";
        let count = self.parsed(name, EXPECTED, |value| match value {
            Json::Array(list) if list.len() == 1 => positive(&list[0]),
            other => positive(other),
        })?;
        self.required(name, EXPECTED, count)
    }

    #[expect(clippy::cast_possible_truncation, reason = "narrowed to the precision that layers compute in")]
    pub(super) fn number(&self, name: &'a str) -> Result<Option<f32>> {
        self.parsed(name, "a number", |value| value.as_f64().map(|x| x as f32))
    }

    /// Marks fields that change nothing at inference as read.
    pub(super) fn without_effect(&self, names: &[&'a str]) {
        self.used.borrow_mut().extend(names);
    }

    /// Refuses a field whose value is not the only supported one.
    pub(super) fn only(&self, name: &'a str, expected: &Json) -> Result<()> {
        match self.get(name) {
            Some(found) if found != expected => Err(self.refuse(name, &expected.to_string(), &describe(Some(found)))),
            _ => Ok(()),
        }
    }

    /// Refuses a data type or policy other than float32, because Keras then computes other numbers.
    fn dtype(&self) -> Result<()> {
        let name = |value: &'a Json| match value {
            Json::Object(policy) => policy.get("config")?.get("name")?.as_str(),
            other => other.as_str(),
        };
        match self.parsed("dtype", "a data type or policy", name)? {
            None | Some("float32") => Ok(()),
            Some(other) => Err(self.refuse("dtype", "float32", other)),
        }
    }

    /// Refuses fields that were not read.
    pub(super) fn finish(&self) -> Result<()> {
        if !self.used.borrow().contains(&"dtype") {
            self.dtype()?;
        }
        let used = self.used.borrow();
        let ignored = |name: &str| IGNORED.contains(&name) || IGNORED_ENDINGS.iter().any(|end| name.ends_with(end));
        match self.map.iter().find(|(name, value)| !(value.is_null() || ignored(name) || used.contains(&name.as_str())))
        {
            Some((name, value)) => Err(self.refuse(name, "no such option", &describe(Some(value)))),
            None => Ok(()),
        }
    }
}

fn positive(value: &Json) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0)
}

/// A JSON value as messages show it.
pub(super) fn describe(value: Option<&Json>) -> String {
    const LONGEST: usize = 120;
    let text = value.map_or_else(|| "nothing".to_owned(), Json::to_string);
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

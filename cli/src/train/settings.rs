//! The settings that identify a run. A run is only resumed from a checkpoint with the same settings.

use std::collections::BTreeMap;

use gatewise::{Device, Error, Result};
use serde_json::json;

use super::run::Options;
use crate::choice::adapter;
use crate::flow::CellChoice;

/// Every option that changes a run's numbers, the device and the data. The keys are their names in messages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    title: String,
    entries: BTreeMap<&'static str, String>,
}

impl Settings {
    /// The settings that every job has; `title` is the title of pictures.
    pub(crate) fn new(title: String, cell: CellChoice, options: &Options, device: &Device) -> Self {
        let (kind, name) = adapter(device);
        let device = name.map_or_else(|| kind.to_owned(), |name| format!("{kind} ({name})"));
        let settings = Self { title, entries: BTreeMap::new() };
        settings.with("--cell", cell.name()).with("--seed", options.seed).with("--device", device)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.entries.insert(name, value.to_string());
        self
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// The settings as a note in a checkpoint.
    pub(crate) fn note(&self) -> String {
        json!(self.entries).to_string()
    }

    /// Refuses a checkpoint with other settings, and names the settings that differ.
    pub(crate) fn check(&self, noted: &str) -> Result<()> {
        let noted: BTreeMap<String, String> = serde_json::from_str(noted).map_err(|error| Error::Format {
            file: "checkpoint".to_owned(),
            field: "note settings".to_owned(),
            expected: "the settings of a run".to_owned(),
            found: error.to_string(),
        })?;
        let mut differ = Vec::new();
        for (&name, value) in &self.entries {
            match noted.get(name) {
                Some(other) if other == value => {}
                Some(other) => differ.push(format!("{name} {value} instead of {other}")),
                None => differ.push(format!("{name} {value}, which it does not know")),
            }
        }
        let gone = noted.iter().filter(|(name, _)| !self.entries.contains_key(name.as_str()));
        differ.extend(gone.map(|(name, other)| format!("nothing instead of {name} {other}")));
        if differ.is_empty() {
            return Ok(());
        }
        let expected = "with the settings that the checkpoint was made with";
        Err(Error::Value { op: "train", what: "--resume", expected, found: differ.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_differ_are_named() {
        let settings = Settings::default().with("--rate", 0.5).with("--seed", 1);
        settings.check(&settings.note()).expect("the same");
        let other = Settings::default().with("--rate", 0.25).with("--lag", 3).note();
        let message = settings.check(&other).expect_err("others").to_string();
        for part in ["--rate 0.5 instead of 0.25", "--seed 1, which it does not know", "nothing instead of --lag 3"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(settings.check("vowels, lstm").expect_err("no JSON").to_string().contains("note settings"));
    }
}

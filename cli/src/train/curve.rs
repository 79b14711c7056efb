//! The picture of a run: losses and accuracy over epochs.

use std::path::Path;

use gatewise::Result;

use super::run::EpochRecord;
use crate::chart::{self, Chart, Line, Panel};

/// Draws a run's history as a picture; `best` is the epoch whose weights were kept.
pub(crate) fn write(path: &Path, title: &str, history: &[EpochRecord], best: u64) -> Result<()> {
    let line = |name: &str, colour: usize, of: &dyn Fn(&EpochRecord) -> Option<f32>| Line {
        name: name.to_owned(),
        colour,
        dashed: false,
        points: history.iter().map(|e| (e.epoch as f64, of(e).map_or(f64::NAN, f64::from))).collect(),
    };
    let losses = vec![
        line("training", 0, &|entry| Some(entry.training_loss)),
        line("validation", 1, &|entry| Some(entry.validation.loss)),
    ];
    let mut panels = vec![Panel { name: "loss".to_owned(), range: None, lines: losses }];
    if history.iter().any(|entry| entry.validation.accuracy.is_some()) {
        let lines = vec![line("validation", 2, &|entry| entry.validation.accuracy)];
        panels.push(Panel { name: "accuracy".to_owned(), range: Some(0.0..1.0), lines });
    }
    let norms = vec![line("greatest of the epoch", 3, &|entry| Some(entry.gradient_norm))];
    panels.push(Panel { name: "gradient norm".to_owned(), range: None, lines: norms });
    let caption =
        format!("The best validation score is that of epoch {best}: later gains in training loss are learnt by heart.");
    chart::write(path, &Chart { title: title.to_owned(), caption, x_name: "epoch".to_owned(), panels })
}

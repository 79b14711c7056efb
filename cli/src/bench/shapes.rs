//! The suites of shapes that a bench times.

use std::path::Path;

use gatewise::nn::{Config, Merge};
use gatewise::text::shown;
use gatewise::{Error, Result, files};
use serde::Deserialize;

use crate::choice::{cell, fits, holdable};

/// One shape, in the format of the suite files.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) cell: String,
    #[serde(rename = "I")]
    pub(super) input: usize,
    #[serde(rename = "H")]
    pub(super) hidden: usize,
    pub(super) layers: usize,
    #[serde(rename = "bidir", default)]
    pub(super) bidirectional: bool,
    #[serde(rename = "T")]
    pub(super) time: usize,
    #[serde(rename = "B")]
    pub(super) batch: usize,
}

impl Shape {
    pub(super) fn directions(&self) -> usize {
        1 + usize::from(self.bidirectional)
    }

    /// The cell and the sizes in one text: `gru x3, I 32, H 64, T 20, B 2`.
    pub(super) fn sizes(&self) -> String {
        let Self { cell, input, hidden, layers, time, batch, .. } = self;
        let layers = if *layers == 1 { String::new() } else { format!(" x{layers}") };
        let both = if self.bidirectional { " both ways" } else { "" };
        format!("{}{layers}{both}, I {input}, H {hidden}, T {time}, B {batch}", shown(cell))
    }

    /// The number of gates per unit.
    pub(super) fn gates(&self) -> f64 {
        match self.cell.as_str() {
            "lstm" => 4.0,
            cell if cell.starts_with("gru") => 3.0,
            _ => 1.0,
        }
    }

    /// Refuses sizes whose arrays do not fit into memory.
    fn check(&self) -> Result<()> {
        let Self { name, input, hidden, layers, time, batch, .. } = self;
        let directions = self.directions();
        let arrays: [(&'static str, &str, &[usize]); 5] = [
            ("x", "[T, B, I]", &[*time, *batch, *input]),
            ("y", "[T, B, D, H]", &[*time, *batch, directions, *hidden]),
            ("state", "[layers, D, B, H]", &[*layers, directions, *batch, *hidden]),
            ("weights", "[D, H, I]", &[directions, *hidden, *input]),
            ("weights", "[layers, D, H, H]", &[*layers, directions, *hidden, *hidden]),
        ];
        arrays
            .into_iter()
            .try_for_each(|(what, axes, sizes)| holdable("bench", what, &format!("{axes} of {name:?}"), sizes))?;
        fits("bench", &format!("the arrays of {name:?}"), self.bytes())
    }

    /// An upper bound of the bytes that a forward pass needs at once: weights as given and as packed, input and output, state and
    /// work buffers, and the outputs between layers.
    fn bytes(&self) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1, 3 or 4")]
        let gates = self.gates() as u128;
        let [input, hidden, layers, time, batch, directions] =
            [self.input, self.hidden, self.layers, self.time, self.batch, self.directions()].map(|n| n as u128);
        let product = |factors: &[u128]| factors.iter().fold(4, |bytes: u128, &n| bytes.saturating_mul(n));
        let out = directions.saturating_mul(hidden);
        let above = layers.saturating_sub(1);
        // Two biases per row, and the overhead of a matrix and a layer.
        let of_row = |input: u128| input.saturating_add(hidden).saturating_add(64);
        let weights = [product(&[2, gates, out, of_row(input)]), product(&[2, gates, out, of_row(out), above])];
        let between = if above > 0 { 2 } else { 0 };
        let steps = product(&[time, batch, input + out + between * out]);
        let state = product(&[7, layers, batch, out.saturating_add(32)]);
        let bytes = weights.into_iter().chain([steps, state]).fold(0, u128::saturating_add);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// The stack that the shape describes.
    pub(super) fn config(&self) -> Result<Config> {
        let cell = cell("bench", &self.cell)?;
        let config = Config::new(cell, self.input, self.hidden).layers(self.layers);
        Ok(if self.bidirectional { config.bidirectional(Merge::Concat) } else { config })
    }

    /// The floating-point operations of one pass's matrix products; a multiply-add counts as two.
    pub(super) fn flops(&self) -> f64 {
        let gates = self.gates();
        let [input, hidden, directions, steps] =
            [self.input, self.hidden, self.directions(), self.time * self.batch].map(|n| n as f64);
        let layer = |width: f64| 2.0 * directions * gates * hidden * (width + hidden) * steps;
        layer(input) + (self.layers.saturating_sub(1)) as f64 * layer(hidden * directions)
    }

    /// Floating-point operations of a forward pass, or of a forward and a backward pass: the latter does twice the work.
    pub(super) fn pass_flops(&self, training: bool) -> f64 {
        let passes = if training { 3.0 } else { 1.0 };
        passes * self.flops()
    }

    pub(super) fn new(name: String, cell: &str, input: usize, hidden: usize, time: usize, batch: usize) -> Self {
        Self { name, cell: cell.to_owned(), input, hidden, layers: 1, bidirectional: false, time, batch }
    }
}

/// The suite of this name, or the suite in this file.
pub(super) fn suite(name: &str) -> Result<Vec<Shape>> {
    match name {
        "smoke" => Ok(smoke()),
        "deepbench" => Ok(deepbench()),
        "streams" => Ok(streams()),
        path => from_file(Path::new(path)),
    }
}

/// Reads a suite file: a JSON list of shapes.
pub(super) fn from_file(path: &Path) -> Result<Vec<Shape>> {
    let text = files::read_to_string(path)?;
    let shapes: Vec<Shape> = serde_json::from_str(&text).map_err(|error| Error::Format {
        file: path.display().to_string(),
        field: format!("line {}", error.line()),
        expected: "a list of shapes {name, cell, I, H, layers, bidir, T, B}".to_owned(),
        found: error.to_string(),
    })?;
    shapes.iter().try_for_each(Shape::check)?;
    Ok(shapes)
}

/// One shape of each kind; takes seconds on any machine.
fn smoke() -> Vec<Shape> {
    let bidirectional = Shape { bidirectional: true, ..Shape::new("bilstm".to_owned(), "lstm", 32, 48, 20, 4) };
    let stacked = Shape { layers: 3, ..Shape::new("stacked".to_owned(), "gru", 32, 64, 20, 2) };
    vec![
        Shape::new("step".to_owned(), "lstm", 128, 128, 1, 1),
        Shape::new("small".to_owned(), "lstm", 64, 128, 50, 1),
        Shape::new("rnn".to_owned(), "rnn", 64, 96, 50, 2),
        bidirectional,
        stacked,
    ]
}

/// Baidu's DeepBench: inference on servers and on mobile devices (`code/kernels/rnn_problems.h`).
fn deepbench() -> Vec<Shape> {
    let named = |cell: &str, hidden: usize, batch: usize, time: usize| {
        Shape::new(format!("{cell}-{hidden}-b{batch}-t{time}"), cell, hidden, hidden, time, batch)
    };
    let mut shapes = Vec::new();
    for batch in [1, 2, 4] {
        for (hidden, time) in [(512, 25), (1024, 25), (2048, 25), (1536, 50), (256, 150)] {
            shapes.push(named("lstm", hidden, batch, time));
        }
        for hidden in [2816, 2048, 1536, 2560] {
            for time in [1500, 750, 375, 187] {
                shapes.push(named("gru", hidden, batch, time));
            }
        }
        shapes.push(named("gru", 512, batch, 1));
        shapes.push(named("gru", 1024, batch, 1500));
    }
    shapes.push(named("rnn_relu", 32, 1, 672));
    shapes.push(named("rnn_relu", 64, 1, 96));
    shapes.push(named("lstm", 256, 1, 150));
    shapes
}

/// One to many streams, to find where the GPU overtakes the CPU.
fn streams() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for hidden in [64, 128, 256] {
        for time in [1, 32] {
            for batch in [1, 4, 16, 64, 256, 1024, 4096, 16_384] {
                shapes.push(Shape::new(format!("h{hidden}-t{time}-b{batch}"), "lstm", hidden, hidden, time, batch));
            }
        }
    }
    shapes
}

#[cfg(test)]
mod tests {
    use super::{deepbench, smoke, streams};

    #[test]
    fn the_suites_are_whole() {
        let shapes = deepbench();
        let of = |cell: &str| shapes.iter().filter(|shape| shape.cell == cell).count();
        assert_eq!((of("lstm"), of("gru"), of("rnn_relu")), (16, 54, 2));
        assert!(shapes.iter().any(|s| (s.hidden, s.batch, s.time) == (2816, 4, 1500)));
        let shapes = streams();
        assert_eq!(shapes.len(), 3 * 2 * 8);
        assert!(shapes.iter().any(|s| (s.hidden, s.batch, s.time) == (256, 16_384, 32)));
        assert!(smoke().iter().chain(&streams()).chain(&deepbench()).all(|shape| shape.config().is_ok()));
    }

    #[test]
    fn sizes_are_told_in_one_line() {
        let shapes = smoke();
        let of = |name: &str| shapes.iter().find(|shape| shape.name == name).expect("a shape").sizes();
        assert_eq!(of("small"), "lstm, I 64, H 128, T 50, B 1");
        assert_eq!(of("stacked"), "gru x3, I 32, H 64, T 20, B 2");
        assert_eq!(of("bilstm"), "lstm both ways, I 32, H 48, T 20, B 4");
    }

    #[test]
    fn operations_are_those_of_the_products() {
        let shape = super::Shape::new("x".to_owned(), "gru", 5, 7, 3, 2);
        let both = super::Shape { bidirectional: true, layers: 2, ..shape.clone() };
        assert_eq!(shape.flops(), 2.0 * 3.0 * 7.0 * (5.0 + 7.0) * 6.0);
        assert_eq!(both.flops(), 2.0 * 2.0 * 3.0 * 7.0 * (5.0 + 7.0 + 14.0 + 7.0) * 6.0);
    }
}

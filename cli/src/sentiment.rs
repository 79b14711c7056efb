//! `gatewise sentiment`: how a trained model reads a sentence, word by word.

use std::path::PathBuf;
use std::process::ExitCode;

use gatewise::cell::{Cell, Direction, Sequence};
use gatewise::reference::{LayerState, UnitGates, layer_gates};
use gatewise::train::{Graph, Mode, Parameters};
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array1, Array2, Array3, Axis};
use serde_json::json;

use crate::output::{self, say};
use crate::train::{Model, Vocabulary, words};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The sentence.
    text: String,
    /// The weights that `gatewise train sentiment` wrote.
    #[arg(long, default_value = "models/sentiment_lstm.safetensors", value_name = "FILE")]
    weights: PathBuf,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// One word with its gates, as means over all units, and the score of the text so far.
struct Step {
    word: String,
    known: bool,
    /// `None` for a cell without gates.
    gates: Option<Gates>,
    /// The probability that the text up to this word praises.
    praise: f32,
}

#[derive(Clone, Copy)]
struct Gates {
    written: f64,
    forgotten: f64,
    read: f64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if !arguments.weights.exists() {
        return Ok(output::no_model("sentiment", &arguments.weights, "gatewise train sentiment"));
    }
    let (model, parameters, weights) = Model::load(&arguments.weights, "sentiment", &Device::Cpu)?;
    let vocabulary = weights.metadata("vocabulary")?.split(' ').map(str::to_owned).collect();
    let steps = steps(&model, &parameters, &Vocabulary::new(vocabulary), &arguments.text)?;
    let praise = steps.last().map_or(0.5, |step| step.praise);
    let verdict = if praise > 0.5 { "praises" } else { "does not praise" };
    if arguments.json {
        let word = |step: &Step| {
            let gates = step.gates;
            json!({
                "word": step.word, "known": step.known, "praise": step.praise,
                "written": gates.map(|g| g.written), "forgotten": gates.map(|g| g.forgotten), "read": gates.map(|g| g.read),
            })
        };
        let words: Vec<_> = steps.iter().map(word).collect();
        say!("{}", json!({ "praise": praise, "verdict": verdict, "words": words }))?;
        return Ok(ExitCode::SUCCESS);
    }
    say!("{:<20} {:>8} {:>10} {:>8} {:>8}", "word", "written", "forgotten", "read", "praise")?;
    for step in &steps {
        let word = if step.known { step.word.clone() } else { format!("{} (unknown)", step.word) };
        let gate = |of: fn(&Gates) -> f64| step.gates.map_or("-".to_owned(), |gates| format!("{:.3}", of(&gates)));
        let (written, forgotten, read) = (gate(|g| g.written), gate(|g| g.forgotten), gate(|g| g.read));
        say!("{word:<20} {written:>8} {forgotten:>10} {read:>8} {:>8.3} {}", step.praise, bar(step.praise))?;
    }
    say!("{verdict} ({praise:.3})")?;
    Ok(ExitCode::SUCCESS)
}

/// A text bar with a mark between its two ends.
fn bar(share: f32) -> String {
    const WIDTH: usize = 21;
    let at = ((share.clamp(0.0, 1.0) * (WIDTH - 1) as f32).round()) as usize;
    (0..WIDTH)
        .map(|i| {
            if i == at {
                '#'
            } else if i == WIDTH / 2 {
                '|'
            } else {
                '.'
            }
        })
        .collect()
}

fn steps(model: &Model, parameters: &Parameters, vocabulary: &Vocabulary, text: &str) -> Result<Vec<Step>> {
    let words = words(text);
    if words.is_empty() {
        let (what, found) = ("text", format!("{text:?}"));
        return Err(Error::Value { op: "sentiment", what, expected: "at least one word", found });
    }
    let numbers = vocabulary.numbers(&words);
    let mut graph = Graph::new(parameters, Mode::Evaluation);
    let x = model.vectors(&mut graph, &numbers, 1)?;
    let y = model.outputs(&mut graph, x, None, &Sequence::new())?;
    let (x, y) = (graph.value(x)?.clone(), graph.value(y)?.clone());
    graph.submit()?;
    let scores = scores_so_far(model, parameters, &y.to_array()?)?;
    let gates = gates(model, parameters, &x.to_array()?)?;
    let one = |(at, word): (usize, String)| {
        let praise = 1.0 / (1.0 + (-scores.get(at).copied().unwrap_or_default()).exp());
        Step { word, known: numbers[at] > 0, gates: gates.get(at).copied().flatten(), praise }
    };
    Ok(words.into_iter().enumerate().map(one).collect())
}

/// The model's score after each word, from its outputs `[T, 1, hidden]`: the score of the mean of the outputs so far. A running
/// sum makes the work linear in the number of words.
fn scores_so_far(model: &Model, parameters: &Parameters, y: &Array3<f32>) -> Result<Vec<f32>> {
    let mut sum = Array1::<f64>::zeros(y.len_of(Axis(2)));
    let mut means = Array2::zeros((y.len_of(Axis(0)), y.len_of(Axis(2))));
    for (at, (row, mut mean)) in y.index_axis(Axis(1), 0).rows().into_iter().zip(means.rows_mut()).enumerate() {
        sum += &row.mapv(f64::from);
        let words = (at + 1) as f64;
        #[expect(clippy::cast_possible_truncation, reason = "a mean of outputs in f32")]
        mean.assign(&sum.mapv(|sum| (sum / words) as f32));
    }
    let mut graph = Graph::new(parameters, Mode::Evaluation);
    let means = graph.input(&Tensor::from_array(&Device::Cpu, &means)?);
    let scores = model.scores(&mut graph, means)?;
    let scores = graph.value(scores)?.clone();
    graph.submit()?;
    let scores: Array2<f32> = scores.to_array()?;
    Ok(scores.rows().into_iter().filter_map(|row| row.first().copied()).collect())
}

/// The mean openings of the first layer's gates at every step; empty for a cell without gates.
fn gates(model: &Model, parameters: &Parameters, x: &Array3<f32>) -> Result<Vec<Option<Gates>>> {
    let cell: Cell = model.shape.cell.cell();
    let stack = model.stack.stack(parameters)?;
    let layers = stack.parameters()?;
    let Some(p) = layers.first().and_then(|layer| layer.first()).filter(|_| model.shape.cell.keeps()) else {
        return Ok(Vec::new());
    };
    let zeros = |width: usize| Array2::zeros((1, width));
    let cells = if cell.has_cell_state() { model.shape.hidden } else { 0 };
    let state = LayerState {
        h: zeros(model.shape.hidden),
        s: zeros(cells),
        initial_h: zeros(model.shape.hidden),
        initial_s: zeros(cells),
    };
    let x = x.mapv(f64::from);
    let gates = layer_gates(&cell, &p.map(f64::from), Direction::Forward, &Sequence::new(), x.view(), &state)?;
    let mean = |step: ndarray::ArrayView2<'_, Option<UnitGates<f64>>>| {
        let units: Vec<_> = step.iter().flatten().collect();
        let of = |of: fn(&UnitGates<f64>) -> f64| units.iter().map(|u| of(u)).sum::<f64>() / units.len().max(1) as f64;
        Some(Gates { written: of(|u| u.written), forgotten: 1.0 - of(|u| u.kept), read: of(|u| u.read) })
    };
    Ok(gates.axis_iter(Axis(0)).map(mean).collect())
}

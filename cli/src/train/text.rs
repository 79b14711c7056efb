//! Learns to predict the next character of a text, by truncated back-propagation with a carried state.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use gatewise::cell::Sequence;
use gatewise::nn::TrainingOptions;
use gatewise::train::{
    Adam, CarriedState, Clip, CrossEntropyOptions, Graph, Mode, Parameters, Tbptt, Trainer, Var, Window,
};
use gatewise::{Error, Result};

use super::data::{self, DataFile};
use super::folder::Folder;
use super::model::{Model, ModelShape};
use super::run::{self, Limits, Options, Outcome, Score, Task};
use super::settings::Settings;
use crate::flow::CellChoice;
use crate::output::say;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The text; `scripts/fetch-data` writes `data/text/fortunes.txt`.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The cell.
    #[arg(long, value_enum, default_value_t = CellChoice::Gru)]
    cell: CellChoice,
    /// The width of a character's vector.
    #[arg(long, default_value_t = 32)]
    width: usize,
    /// The number of characters that gradients flow back through.
    #[arg(long, default_value_t = 64)]
    window: usize,
    #[command(flatten)]
    options: Options,
}

/// Characters that occur less often in the training text count as unknown.
const LEAST: usize = 5;
/// The text is cut into this many parts; the last two are validation and test data.
const PARTS: usize = 20;
/// Rows and steps per submission of a validation.
const EVALUATED: (usize, usize) = (16, 128);

/// Characters and their numbers, from 1 on; 0 stands for every other character.
#[derive(Clone, Debug)]
pub(crate) struct Symbols {
    pub(crate) characters: Vec<char>,
    numbers: HashMap<char, usize>,
}

impl Symbols {
    fn new(characters: Vec<char>) -> Self {
        let numbers = characters.iter().copied().zip(1..).collect();
        Self { characters, numbers }
    }

    fn of(text: &[char]) -> Self {
        let mut counts: HashMap<char, usize> = HashMap::new();
        text.iter().for_each(|&c| *counts.entry(c).or_default() += 1);
        let mut characters: Vec<char> =
            counts.into_iter().filter(|&(_, count)| count >= LEAST).map(|(character, _)| character).collect();
        characters.sort_unstable();
        Self::new(characters)
    }

    /// The number of symbols, number 0 included.
    pub(crate) fn len(&self) -> usize {
        self.characters.len() + 1
    }

    pub(crate) fn numbers(&self, text: impl IntoIterator<Item = char>) -> Vec<usize> {
        text.into_iter().map(|c| self.numbers.get(&c).copied().unwrap_or_default()).collect()
    }
}

/// The symbols of a model, from the metadata entry `characters` of its weights.
pub(crate) fn symbols_of(characters: &str) -> Symbols {
    Symbols::new(characters.chars().collect())
}

struct TextTask {
    model: Model,
    symbols: Symbols,
    settings: Settings,
    seed: u64,
    /// One stretch of the text per row of the batch, all of the same length.
    rows: Vec<Vec<usize>>,
    windows: Vec<Window>,
    carry: Option<CarriedState>,
    validation: Vec<usize>,
    test: Vec<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { file, cell, width, window, options } = arguments;
    let out = options.out.clone().unwrap_or_else(|| format!("runs/text-{}", cell.name()).into());
    let mut folder = Folder::take(out, &[], options, &[file])?;
    let source = DataFile::read(file)?;
    let text: Vec<char> = source.text.chars().collect();
    let part = text.len() / PARTS;
    let (batch, rate) = (options.batch()?.unwrap_or(32), options.rate.unwrap_or(0.003));
    let training = &text[..text.len() - 2 * part];
    let length = training.len() / batch;
    let least = EVALUATED.0 * 2;
    if length < 2 || part < least {
        return Err(Error::Format {
            file: file.display().to_string(),
            field: "text".to_owned(),
            expected: format!("at least {} characters for {batch} rows", (PARTS * least).max(3 * batch)),
            found: text.len().to_string(),
        });
    }
    let symbols = Symbols::of(training);
    let numbers = symbols.numbers(text.iter().copied());
    let hidden = options.hidden.unwrap_or(128);
    let device =
        options.device.open_with(&options.simd.options(options.threads), crate::choice::Schedule::default())?;
    let mut parameters = Parameters::new(&device, options.seed);
    let count = symbols.len();
    let shape = ModelShape { cell: *cell, symbols: count, inputs: *width, hidden, layers: 1, outputs: count };
    let model = Model::new(&mut parameters, shape)?;
    let mut trainer = Trainer::new(parameters, Adam::default(), rate)?.clip(Clip::norm(1.0))?.seed(options.seed);
    let title = format!(
        "text {}, {}, {hidden} hidden, width {width}, window {window}, batch {batch}, seed {}",
        name(file),
        cell.name(),
        options.seed
    );
    let settings = Settings::new(title, *cell, options, &device)
        .with("the job", "text")
        .with("--hidden", hidden)
        .with("--width", width)
        .with("--window", window)
        .with("--batch", batch)
        .with("--rate", rate)
        .with("the text", source.checksum());
    let start = training.len();
    let mut task = TextTask {
        model,
        symbols,
        settings,
        seed: options.seed,
        rows: (0..batch).map(|row| numbers[row * length..(row + 1) * length].to_vec()).collect(),
        windows: Tbptt::new(*window, *window)?.windows(length - 1).collect(),
        carry: None,
        validation: numbers[start..start + part].to_vec(),
        test: numbers[start + part..].to_vec(),
    };
    let limits = Limits { epochs: options.epochs.unwrap_or(8), patience: options.patience.unwrap_or(3) };
    let outcome = run::train(&mut folder.parts[0], options, limits, &mut trainer, &mut task)?;
    let code = run::finish("text", cell.name(), options, &trainer, &outcome)?;
    say_bits(&outcome, options.json)?;
    Ok(code)
}

/// Adds the loss in bits to the report for people.
fn say_bits(outcome: &Outcome, json: bool) -> Result<()> {
    if let (Outcome::Finished(finish), false) = (outcome, json) {
        let bits = f64::from(finish.score.loss) / std::f64::consts::LN_2;
        say!("  {bits:.3} bits per character")?;
    }
    Ok(())
}

fn name(file: &Path) -> String {
    file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl TextTask {
    /// The loss over a text, which is cut into rows and read window by window.
    fn score(&self, trainer: &Trainer, text: &[usize]) -> Result<Score> {
        let (rows, window) = EVALUATED;
        let length = text.len() / rows;
        let mut state = self.model.stack.zero_state(trainer.parameters().device(), rows)?;
        let (mut loss, mut count) = (0.0, 0);
        for start in (0..length - 1).step_by(window) {
            let steps = start..(start + window).min(length - 1);
            let at = |ahead: usize| steps.clone().flat_map(move |t| (0..rows).map(move |row| row * length + t + ahead));
            let symbols: Vec<usize> = at(0).map(|at| text[at]).collect();
            let targets: Vec<i64> = at(1).map(|at| text[at] as i64).collect();
            let mut graph = Graph::new(trainer.parameters(), Mode::Evaluation);
            let x = self.model.vectors(&mut graph, &symbols, rows)?;
            let y = self.model.outputs(&mut graph, x, Some(&mut state), &Sequence::new())?;
            let scores = self.model.scores(&mut graph, y)?;
            let of_window = graph.cross_entropy(scores, &targets, &CrossEntropyOptions::default())?;
            let of_window = graph.value(of_window)?.clone();
            graph.submit()?;
            loss += f64::from(of_window.to_vec()?.iter().sum::<f32>()) * targets.len() as f64;
            count += targets.len();
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
        let loss = (loss / count.max(1) as f64) as f32;
        Ok(Score { loss, accuracy: None })
    }
}

impl Task for TextTask {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let mut metadata = self.model.metadata("text");
        metadata.push(("characters".to_owned(), self.symbols.characters.iter().collect()));
        metadata
    }

    fn begin(&mut self, epoch: u64, _stage: u32) -> Result<usize> {
        // Every epoch shuffles the rows. Any other order would need other cuts of the text.
        data::rng(self.seed, 3, epoch).shuffle(&mut self.rows);
        self.carry = None;
        Ok(self.windows.len())
    }

    fn loss(&mut self, graph: &mut Graph, step: usize) -> Result<Var> {
        let (window, batch) = (&self.windows[step], self.rows.len());
        let steps = |steps: std::ops::Range<usize>, ahead: usize| {
            steps.flat_map(move |t| (0..batch).map(move |row| (row, t + ahead)))
        };
        let symbols: Vec<usize> = steps(window.inputs(), 0).map(|(row, t)| self.rows[row][t]).collect();
        let targets: Vec<i64> = steps(window.losses.clone(), 1).map(|(row, t)| self.rows[row][t] as i64).collect();
        let x = self.model.vectors(graph, &symbols, batch)?;
        if self.carry.is_none() {
            self.carry = Some(CarriedState::new(self.model.stack.zero_state(graph.device(), batch)?));
        }
        let Some(carry) = &mut self.carry else {
            return Err(Error::Value { op: "train", what: "carry", expected: "a state", found: "none".to_owned() });
        };
        let options = TrainingOptions::default();
        let y = carry.forward(graph, &self.model.stack, x, window, &Sequence::new(), &options)?;
        let scores = self.model.scores(graph, y)?;
        graph.cross_entropy(scores, &targets, &CrossEntropyOptions::default())
    }

    fn stepped(&mut self) {
        if let Some(carry) = &mut self.carry {
            carry.advance();
        }
    }

    fn validate(&self, trainer: &Trainer, _stage: u32) -> Result<Score> {
        self.score(trainer, &self.validation)
    }

    fn test(&self, trainer: &Trainer) -> Result<Score> {
        self.score(trainer, &self.test)
    }
}

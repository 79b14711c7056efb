//! Learns whether lines of movie reviews praise (Hutto and Gilbert 2014, the data of VADER).

use std::path::PathBuf;
use std::process::ExitCode;

use gatewise::cell::Sequence;
use gatewise::train::{Adam, Clip, Graph, LossOptions, MemoryBias, Mode, Parameters, Trainer, Var};
use gatewise::{Device, Result, Tensor};
use ndarray::Array2;

use super::data::{self, DataFile, Vocabulary};
use super::folder::Folder;
use super::model::{Model, ModelShape};
use super::run::{self, Limits, Options, Score, Task};
use super::settings::Settings;
use crate::flow::CellChoice;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cell.
    #[arg(long, value_enum, default_value_t = CellChoice::Lstm)]
    cell: CellChoice,
    /// The width of a word's vector.
    #[arg(long, default_value_t = 32)]
    width: usize,
    /// The folder that `scripts/fetch-data` writes.
    #[arg(long, default_value = "data", value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// Words that occur less often in the training data count as unknown.
const LEAST: usize = 2;
/// One snippet in this many goes to the test data, and one to the validation data.
const SHARE: usize = 10;
/// The split is the same for every run.
const SPLIT_SEED: u64 = 20_140_601;
/// The most words of a snippet that are read.
const LONGEST: usize = 60;
const EVALUATED: usize = 64;
const DROPOUT: f32 = 0.5;

/// A snippet: the numbers of its words, and whether it praises.
type Snippet = (Vec<usize>, bool);

struct Sentiment {
    model: Model,
    vocabulary: Vocabulary,
    settings: Settings,
    batch: usize,
    seed: u64,
    training: Vec<Snippet>,
    validation: Vec<Snippet>,
    test: Vec<Snippet>,
    order: Vec<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { cell, width, data, options } = arguments;
    let file = data.join("sentiment").join("movieReviewSnippets_GroundTruth.txt");
    let out = options.out.clone().unwrap_or_else(|| format!("runs/sentiment-{}", cell.name()).into());
    let mut folder = Folder::take(out, &[], options, &[&file])?;
    let source = DataFile::read(&file)?;
    let snippets = data::snippets(&source)?;
    let all: Vec<_> = snippets.into_iter().map(|(praises, text)| (data::words(&text), praises)).collect();
    let (mut training, mut validation, mut test) = (Vec::new(), Vec::new(), Vec::new());
    for (place, &at) in data::shuffled(all.len(), SPLIT_SEED, 0).iter().enumerate() {
        let part = match place % SHARE {
            0 => &mut test,
            1 => &mut validation,
            _ => &mut training,
        };
        part.push(&all[at]);
    }
    let vocabulary = Vocabulary::of(training.iter().map(|(words, _)| &words[..]), LEAST);
    let numbered = |part: Vec<&(Vec<String>, bool)>| -> Vec<Snippet> {
        let number = |(words, praises): &(Vec<String>, bool)| {
            let mut numbers = vocabulary.numbers(words);
            numbers.truncate(LONGEST);
            (numbers, *praises)
        };
        part.into_iter().map(number).filter(|(numbers, _)| !numbers.is_empty()).collect()
    };
    let (training, validation, test) = (numbered(training), numbered(validation), numbered(test));

    let hidden = options.hidden.unwrap_or(32);
    let device =
        options.device.open_with(&options.simd.options(options.threads), crate::choice::Schedule::default())?;
    let mut parameters = Parameters::new(&device, options.seed);
    let shape = ModelShape { cell: *cell, symbols: vocabulary.len(), inputs: *width, hidden, layers: 1, outputs: 1 };
    let model = Model::new(&mut parameters, shape)?;
    model.set_memory_bias(&mut parameters, MemoryBias::Constant(1.0))?;
    let (batch, rate) = (options.batch()?.unwrap_or(32), options.rate.unwrap_or(0.002));
    let mut trainer = Trainer::new(parameters, Adam::default(), rate)?.clip(Clip::norm(1.0))?.seed(options.seed);
    let title =
        format!("sentiment, {}, {hidden} hidden, width {width}, batch {batch}, seed {}", cell.name(), options.seed);
    let settings = Settings::new(title, *cell, options, &device)
        .with("the job", "sentiment")
        .with("--hidden", hidden)
        .with("--width", width)
        .with("--batch", batch)
        .with("--rate", rate)
        .with("the data", source.checksum());
    let order = Vec::new();
    let mut task =
        Sentiment { model, vocabulary, settings, batch, seed: options.seed, training, validation, test, order };
    let limits = Limits { epochs: options.epochs.unwrap_or(12), patience: options.patience.unwrap_or(4) };
    let outcome = run::train(&mut folder.parts[0], options, limits, &mut trainer, &mut task)?;
    run::finish("sentiment", cell.name(), options, &trainer, &outcome)
}

impl Sentiment {
    /// One score per snippet, from the mean of the stack's outputs; above 0 means that the snippet praises.
    fn scores(&self, graph: &mut Graph, snippets: &[&Snippet]) -> Result<Var> {
        let lengths: Vec<usize> = snippets.iter().map(|(numbers, _)| numbers.len()).collect();
        let (time, batch) = (lengths.iter().copied().max().unwrap_or_default(), snippets.len());
        let at = |place: usize| snippets[place % batch].0.get(place / batch).copied().unwrap_or_default();
        let numbers: Vec<usize> = (0..time * batch).map(at).collect();
        let sequence = Sequence::new().lengths(lengths);
        let x = self.model.vectors(graph, &numbers, batch)?;
        let x = graph.dropout(x, DROPOUT)?;
        let y = self.model.outputs(graph, x, None, &sequence)?;
        let mean = graph.mean_over_steps(y, &sequence)?;
        let mean = graph.dropout(mean, DROPOUT)?;
        self.model.scores(graph, mean)
    }

    fn score(&self, trainer: &Trainer, snippets: &[Snippet]) -> Result<Score> {
        let (mut loss, mut right) = (0.0, 0);
        for part in snippets.chunks(EVALUATED) {
            let part: Vec<&Snippet> = part.iter().collect();
            let mut graph = Graph::new(trainer.parameters(), Mode::Evaluation);
            let scores = self.scores(&mut graph, &part)?;
            let targets = targets(&part, trainer.parameters().device())?;
            let of_part = graph.binary_cross_entropy(scores, &targets, &LossOptions::default())?;
            let (scores, of_part) = (graph.value(scores)?.clone(), graph.value(of_part)?.clone());
            graph.submit()?;
            loss += of_part.to_vec()?.iter().sum::<f32>() * part.len() as f32;
            right +=
                scores.to_vec()?.iter().zip(&part).filter(|(score, (_, praises))| (**score > 0.0) == *praises).count();
        }
        let count = snippets.len().max(1) as f32;
        Ok(Score { loss: loss / count, accuracy: Some(right as f32 / count) })
    }
}

fn targets(snippets: &[&Snippet], device: &Device) -> Result<Tensor> {
    let target = |(row, _): (usize, usize)| if snippets[row].1 { 1.0 } else { 0.0 };
    Tensor::from_array(device, &Array2::from_shape_fn((snippets.len(), 1), target))
}

impl Task for Sentiment {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn metadata(&self) -> Vec<(String, String)> {
        let mut metadata = self.model.metadata("sentiment");
        metadata.push(("vocabulary".to_owned(), self.vocabulary.words.join(" ")));
        metadata
    }

    fn begin(&mut self, epoch: u64, _stage: u32) -> Result<usize> {
        // Snippets of similar length share a batch: they are sorted within stretches of the shuffled order.
        let mut order = data::shuffled(self.training.len(), self.seed, epoch);
        for stretch in order.chunks_mut(self.batch * 20) {
            stretch.sort_by_key(|&at| self.training[at].0.len());
        }
        let mut batches: Vec<_> = order.chunks(self.batch).collect();
        data::rng(self.seed, 2, epoch).shuffle(&mut batches);
        // The incomplete batch comes last, so that all others start at multiples of the batch size.
        batches.sort_by_key(|batch| batch.len() < self.batch);
        self.order = batches.concat();
        Ok(self.order.len().div_ceil(self.batch))
    }

    fn loss(&mut self, graph: &mut Graph, step: usize) -> Result<Var> {
        let rows = step * self.batch..self.order.len().min((step + 1) * self.batch);
        let snippets: Vec<&Snippet> = self.order[rows].iter().map(|&at| &self.training[at]).collect();
        let targets = targets(&snippets, graph.device())?;
        let scores = self.scores(graph, &snippets)?;
        graph.binary_cross_entropy(scores, &targets, &LossOptions::default())
    }

    fn validate(&self, trainer: &Trainer, _stage: u32) -> Result<Score> {
        self.score(trainer, &self.validation)
    }

    fn test(&self, trainer: &Trainer) -> Result<Score> {
        self.score(trainer, &self.test)
    }
}

//! Learns to tell speakers of Japanese vowels apart (Kudo, Toyama and Shimbo 1999; UCI and UEA archives).

use std::path::PathBuf;
use std::process::ExitCode;

use gatewise::cell::Sequence;
use gatewise::train::{Adam, Clip, CrossEntropyOptions, Graph, Mode, Parameters, Schedule, Trainer, Var};
use gatewise::{Device, Result, Tensor};
use ndarray::{Array2, Array3, Axis};

use super::data::{self, DataFile, Series};
use super::folder::Folder;
use super::model::{Model, ModelShape, best_classes};
use super::run::{self, Limits, Options, Score, Task};
use super::settings::Settings;
use crate::flow::CellChoice;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cell.
    #[arg(long, value_enum, default_value_t = CellChoice::Lstm)]
    cell: CellChoice,
    /// The folder that `scripts/fetch-data` writes.
    #[arg(long, default_value = "data", value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    options: Options,
}

/// The share of the training file that is held back for validation.
const HELD_OUT: f64 = 0.1;
/// Rows per submission of a validation.
const EVALUATED: usize = 64;
/// The factor of the learning rate per epoch.
const DECAY: f64 = 0.93;
/// The rate of the dropout between the last state and the head.
const DROPOUT: f32 = 0.3;
/// The standard deviation of the noise that is added to the standardised input of a training step, because the data are few.
const NOISE: f32 = 0.6;

struct VowelsTask {
    model: Model,
    settings: Settings,
    batch: usize,
    seed: u64,
    training: Vec<Series>,
    validation: Vec<Series>,
    test: Vec<Series>,
    order: Vec<usize>,
    epoch: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { cell, data, options } = arguments;
    let files = ["TRAIN", "TEST"].map(|part| data.join("vowels").join(format!("JapaneseVowels_{part}.ts")));
    let out = options.out.clone().unwrap_or_else(|| format!("runs/vowels-{}", cell.name()).into());
    let mut folder = Folder::take(out, &[], options, &[&files[0], &files[1]])?;
    let [training, test] = [DataFile::read(&files[0])?, DataFile::read(&files[1])?];
    let checksums = [training.checksum(), test.checksum()].join(", ");
    let (mut training, classes) = data::series(&training)?;
    let (mut test, _) = data::series(&test)?;
    standardize(&mut training, &mut test);
    let hidden = options.hidden.unwrap_or(32);
    let device =
        options.device.open_with(&options.simd.options(options.threads), crate::choice::Schedule::default())?;
    let mut parameters = Parameters::new(&device, options.seed);
    let features = training.first().map_or(0, |series| series.x.ncols());
    let shape = ModelShape { cell: *cell, symbols: 0, inputs: features, hidden, layers: 1, outputs: classes.len() };
    let model = Model::new(&mut parameters, shape)?;
    let (batch, rate) = (options.batch()?.unwrap_or(16), options.rate.unwrap_or(0.01));
    // The file is sorted by speaker, so every tenth series is held back.
    let every = (1.0 / HELD_OUT) as usize;
    let (validation, training): (Vec<_>, Vec<_>) =
        training.into_iter().enumerate().partition(|(at, _)| at % every == every - 1);
    let epoch = training.len().div_ceil(batch) as f64;
    let mut trainer = Trainer::new(parameters, Adam::default(), rate)?
        .clip(Clip::norm(1.0))?
        .schedule(Schedule::Exponential { gamma: DECAY.powf(1.0 / epoch) })
        .seed(options.seed);
    let bare = |series: Vec<(usize, Series)>| series.into_iter().map(|(_, series)| series).collect();
    let title = format!("vowels, {}, {hidden} hidden, batch {batch}, seed {}", cell.name(), options.seed);
    let settings = Settings::new(title, *cell, options, &device)
        .with("the job", "vowels")
        .with("--hidden", hidden)
        .with("--batch", batch)
        .with("--rate", rate)
        .with("the data", checksums);
    let mut task = VowelsTask {
        model,
        settings,
        batch,
        seed: options.seed,
        training: bare(training),
        validation: bare(validation),
        test,
        order: Vec::new(),
        epoch: 0,
    };
    let limits = Limits { epochs: options.epochs.unwrap_or(60), patience: options.patience.unwrap_or(40) };
    let outcome = run::train(&mut folder.parts[0], options, limits, &mut trainer, &mut task)?;
    run::finish("vowels", cell.name(), options, &trainer, &outcome)
}

/// Scales every feature to mean 0 and standard deviation 1 over the training data; the test data are scaled the same way.
fn standardize(training: &mut [Series], test: &mut [Series]) {
    let all: Vec<_> = training.iter().map(|series| series.x.view()).collect();
    let Ok(all) = ndarray::concatenate(Axis(0), &all) else { return };
    let (Some(mean), deviation) = (all.mean_axis(Axis(0)), all.std_axis(Axis(0), 0.0)) else { return };
    let deviation = deviation.mapv(|d| d.max(1e-6));
    for series in training.iter_mut().chain(test) {
        if series.x.ncols() == mean.len() {
            series.x = (&series.x - &mean) / &deviation;
        }
    }
}

impl VowelsTask {
    fn scores(&self, graph: &mut Graph, (x, lengths): (Array3<f32>, Vec<usize>), device: &Device) -> Result<Var> {
        let sequence = Sequence::new().lengths(lengths);
        let x = graph.input(&Tensor::from_array(device, &x)?);
        let y = self.model.outputs(graph, x, None, &sequence)?;
        let last = graph.last_step(y, &sequence)?;
        let last = graph.dropout(last, DROPOUT)?;
        self.model.scores(graph, last)
    }

    fn score(&self, trainer: &Trainer, series: &[Series]) -> Result<Score> {
        let (mut loss, mut right) = (0.0, 0);
        for part in series.chunks(EVALUATED) {
            let part: Vec<&Series> = part.iter().collect();
            let classes: Vec<i64> = part.iter().map(|series| series.class as i64).collect();
            let mut graph = Graph::new(trainer.parameters(), Mode::Evaluation);
            let scores = self.scores(&mut graph, data::padded(&part), trainer.parameters().device())?;
            let of_part = graph.cross_entropy(scores, &classes, &CrossEntropyOptions::default())?;
            let (scores, of_part) = (graph.value(scores)?.clone(), graph.value(of_part)?.clone());
            graph.submit()?;
            loss += of_part.to_vec()?.iter().sum::<f32>() * part.len() as f32;
            let found = best_classes(&scores.to_array::<ndarray::Ix2>()? as &Array2<f32>);
            right += found.iter().zip(&part).filter(|(found, series)| **found == series.class).count();
        }
        let count = series.len().max(1) as f32;
        Ok(Score { loss: loss / count, accuracy: Some(right as f32 / count) })
    }
}

impl Task for VowelsTask {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn metadata(&self) -> Vec<(String, String)> {
        self.model.metadata("vowels")
    }

    fn begin(&mut self, epoch: u64, _stage: u32) -> Result<usize> {
        self.epoch = epoch;
        self.order = data::shuffled(self.training.len(), self.seed, epoch);
        Ok(self.order.len().div_ceil(self.batch))
    }

    fn loss(&mut self, graph: &mut Graph, step: usize) -> Result<Var> {
        let rows = step * self.batch..self.order.len().min((step + 1) * self.batch);
        let series: Vec<&Series> = self.order[rows].iter().map(|&at| &self.training[at]).collect();
        let classes: Vec<i64> = series.iter().map(|series| series.class as i64).collect();
        let device = graph.device().clone();
        let (mut x, lengths) = data::padded(&series);
        let mut rng = data::rng(self.seed, 6, (self.epoch << 32) | step as u64);
        x.mapv_inplace(|x| x + NOISE * gatewise::train::normal(&mut rng));
        let scores = self.scores(graph, (x, lengths), &device)?;
        graph.cross_entropy(scores, &classes, &CrossEntropyOptions::default())
    }

    fn validate(&self, trainer: &Trainer, _stage: u32) -> Result<Score> {
        self.score(trainer, &self.validation)
    }

    fn test(&self, trainer: &Trainer) -> Result<Score> {
        self.score(trainer, &self.test)
    }
}

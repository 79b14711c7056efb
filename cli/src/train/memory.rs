//! Tasks that need a long memory: the adding problem (Hochreiter and Schmidhuber 1997) and the copy task (Hochreiter and
//! Schmidhuber 1997; Arjovsky, Shah and Bengio 2016).

use std::process::ExitCode;

use gatewise::cell::Sequence;
use gatewise::train::{
    Adam, Clip, CrossEntropyOptions, GradientFlow, Graph, LossOptions, MemoryBias, Mode, Parameters, Trainer, Var,
    gradient_flow,
};
use gatewise::{Device, Error, Result, Tensor, files};
use ndarray::{Array2, Array3, Axis};

use super::data::rng;
use super::folder::{Folder, same_place};
use super::model::{Model, ModelShape, best_classes};
use super::run::{self, Limits, Next, Options, Outcome, Score, Task};
use super::settings::Settings;
use crate::chart;
use crate::choice::holdable;
use crate::flow::{self, CellChoice};
use crate::output::say;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cells, one after the other.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [CellChoice::Rnn, CellChoice::Lstm])]
    cell: Vec<CellChoice>,
    /// The number of steps over which the cell must remember.
    #[arg(long, default_value_t = 100)]
    lag: usize,
    /// The number of symbols to copy.
    #[arg(long, default_value_t = 2)]
    symbols: usize,
    /// Starts with a short lag and doubles it whenever it is solved; by default `true` for the copy task only.
    #[arg(long, action = clap::ArgAction::Set)]
    curriculum: Option<bool>,
    /// The initial weights.
    #[arg(long, value_enum, default_value_t = Initial::Chrono)]
    initial: Initial,
    #[command(flatten)]
    options: Options,
}

/// The initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Initial {
    /// Biases with which the gates, if there are any, keep the state for up to the lag (Tallec and Ollivier 2018), and input weights
    /// bounded by the number of inputs.
    Chrono,
    /// PyTorch's initial weights.
    Torch,
}

/// One of the two tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Two of many numbers are marked: one near the beginning, the other at least a lag later. The answer is their sum. The constant
    /// answer 1 has a mean squared error of 1/6.
    Adding,
    /// The sequence starts with symbols and continues with blanks; at its end, the symbols must be repeated in order. A guess is right
    /// with a probability of 1/8.
    Copy,
}

const CATEGORIES: usize = 8;
/// Training steps per epoch.
const STEPS: usize = 50;
/// Batches per validation or test.
const SCORED: usize = 4;
/// The first lag of a curriculum.
const FIRST: usize = 5;
/// The largest error of a sum that counts as right (Hochreiter and Schmidhuber).
const CLOSE: f32 = 0.04;
/// The squared error, 1 % of the variance of the sums, and the share of right symbols at which the last lag counts as solved.
const SOLVED: (f32, f32) = (0.01 / 6.0, 0.99);
/// The squared error, 2 % of the variance of the sums, and the share of right symbols at which a curriculum takes the next lag.
const NEXT: (f32, f32) = (0.02 / 6.0, 0.99);

/// A batch: the input, and the right answers at the last steps.
struct Batch {
    x: Array3<f32>,
    answers: Answers,
}

enum Answers {
    /// The sum of every row, `[B]`.
    Sums(Vec<f32>),
    /// The symbols, step by step and row by row within a step.
    Symbols(Vec<i64>),
}

struct MemoryTask {
    kind: Kind,
    model: Model,
    settings: Settings,
    lag: usize,
    symbols: usize,
    curriculum: bool,
    batch: usize,
    seed: u64,
    epoch: u64,
    stage: u32,
}

pub(crate) fn run(kind: Kind, arguments: &Arguments) -> Result<ExitCode> {
    let Arguments { cell, lag, symbols, options, .. } = arguments;
    for (what, value) in [("--lag", *lag), ("--symbols", *symbols)] {
        run::size(what, value)?;
    }
    if let Some((_, twice)) = cell.iter().enumerate().find(|(at, other)| cell[..*at].contains(other)) {
        let found = format!("{} twice", twice.name());
        return Err(Error::Value { op: "train", what: "--cell", expected: "cells that differ", found });
    }
    let name = if kind == Kind::Adding { "adding" } else { "copy" };
    let out = options.out.clone().unwrap_or_else(|| format!("runs/{name}-{lag}").into());
    let names: Vec<&str> = cell.iter().map(|cell| cell.name()).collect();
    let mut folder = Folder::take(out, &names, options, &[])?;
    let path = folder.out.join("flow.svg");
    if let Some(plot) = options.plot.as_ref().filter(|plot| same_place(plot, &path)) {
        let (expected, found) = ("another file than the gradient flow's", plot.display().to_string());
        return Err(Error::Value { op: "train", what: "--plot", expected, found });
    }
    files::check(&path)?;
    let device =
        options.device.open_with(&options.simd.options(options.threads), crate::choice::Schedule::default())?;
    // The settings of all cells are checked before the first one is trained.
    for (part, &cell) in folder.parts.iter().zip(cell) {
        part.check(&settings(kind, cell, arguments, &device)?)?;
    }
    let mut flows = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for (part, &cell) in folder.parts.iter_mut().zip(cell) {
        let (mut trainer, mut task) = prepare(kind, cell, arguments, &device)?;
        let limits = Limits { epochs: options.epochs.unwrap_or(60), patience: options.patience.unwrap_or(20) };
        let outcome = run::train(part, options, limits, &mut trainer, &mut task)?;
        let job = format!("{name}, lag {lag}");
        let of_cell = run::finish(&job, cell.name(), options, &trainer, &outcome)?;
        if matches!(outcome, Outcome::Diverged) {
            code = of_cell;
        }
        flows.push((cell.name(), task.flow(&trainer)?));
    }
    let title = format!("Gradient flow after training: {name}, lag {lag}");
    chart::write(&path, &flow::picture(&title, &flows))?;
    if !options.json {
        say!("gradient flow of all cells: {}", path.display())?;
    }
    Ok(code)
}

/// Rows per batch, hidden units and learning rate.
fn sizes(options: &Options) -> Result<(usize, usize, f64)> {
    Ok((options.batch()?.unwrap_or(32), options.hidden.unwrap_or(32), options.rate.unwrap_or(0.005)))
}

fn settings(kind: Kind, cell: CellChoice, arguments: &Arguments, device: &Device) -> Result<Settings> {
    let &Arguments { lag, symbols, initial, ref options, .. } = arguments;
    let curriculum = arguments.curriculum.unwrap_or(kind == Kind::Copy);
    let (batch, hidden, rate) = sizes(options)?;
    let title = format!(
        "{kind:?} {symbols}, lag {lag}, curriculum {curriculum}, {initial:?}, {}, {hidden} hidden, batch {batch}, seed {}",
        cell.name(),
        options.seed
    );
    Ok(Settings::new(title, cell, options, device)
        .with("the job", format!("{kind:?}"))
        .with("--symbols", symbols)
        .with("--lag", lag)
        .with("--curriculum", curriculum)
        .with("--initial", format!("{initial:?}"))
        .with("--hidden", hidden)
        .with("--batch", batch)
        .with("--rate", rate))
}

fn prepare(kind: Kind, cell: CellChoice, arguments: &Arguments, device: &Device) -> Result<(Trainer, MemoryTask)> {
    let &Arguments { lag, symbols, initial, ref options, .. } = arguments;
    let curriculum = arguments.curriculum.unwrap_or(kind == Kind::Copy);
    let (batch, hidden, rate) = sizes(options)?;
    let (inputs, outputs) = match kind {
        Kind::Adding => (2, 1),
        Kind::Copy => (CATEGORIES + 1, CATEGORIES),
    };
    let time = if kind == Kind::Adding { lag + head(lag) } else { lag + 2 * symbols };
    holdable("train", "x", "[T, B, inputs]", &[time, batch, inputs])?;
    holdable("train", "y", "[T, B, hidden]", &[time, batch, hidden])?;
    let mut parameters = Parameters::new(device, options.seed);
    let model = Model::new(&mut parameters, ModelShape { cell, symbols: 0, inputs, hidden, layers: 1, outputs })?;
    if initial == Initial::Chrono {
        model.set_memory_bias(&mut parameters, MemoryBias::Chrono { longest: lag + 10, seed: options.seed })?;
        model.draw_input_weights(&mut parameters, options.seed)?;
    }
    let trainer = Trainer::new(parameters, Adam::default(), rate)?.clip(Clip::norm(1.0))?.seed(options.seed);
    let settings = settings(kind, cell, arguments, device)?;
    let seed = options.seed;
    Ok((trainer, MemoryTask { kind, model, settings, lag, symbols, curriculum, batch, seed, epoch: 0, stage: 0 }))
}

impl MemoryTask {
    /// The lag of a stage: it doubles from stage to stage, up to the lag that was asked for.
    fn lag_of(&self, stage: u32) -> usize {
        if !self.curriculum {
            return self.lag;
        }
        FIRST.checked_shl(stage).filter(|&lag| lag < self.lag).unwrap_or(self.lag)
    }

    fn draw(&self, rng: &mut fastrand::Rng, lag: usize) -> Batch {
        match self.kind {
            Kind::Adding => adding(rng, self.batch, lag),
            Kind::Copy => copy(rng, self.batch, lag, self.symbols),
        }
    }

    /// The model's answers at the last steps, `[steps, B, outputs]`, and the stack's output at all steps.
    fn answers(&self, graph: &mut Graph, batch: &Batch) -> Result<(Var, Var)> {
        let x = Tensor::from_array(graph.device(), &batch.x)?;
        let x = graph.input(&x);
        let y = self.model.outputs(graph, x, None, &Sequence::new())?;
        let (time, asked) = (batch.x.len_of(Axis(0)), if self.kind == Kind::Adding { 1 } else { self.symbols });
        let last = gatewise::ops::Slice { axis: 0, start: time - asked, step: 1, count: asked };
        let last = graph.slice(y, last)?;
        Ok((self.model.scores(graph, last)?, y))
    }

    fn loss_of(&self, graph: &mut Graph, answers: Var, batch: &Batch) -> Result<Var> {
        match &batch.answers {
            Answers::Sums(sums) => {
                let targets = Tensor::from_vec(graph.device(), &[1, sums.len(), 1], sums.clone())?;
                graph.mean_squared_error(answers, &targets, &LossOptions::default())
            }
            Answers::Symbols(symbols) => graph.cross_entropy(answers, symbols, &CrossEntropyOptions::default()),
        }
    }

    fn score(&self, trainer: &Trainer, lag: usize, purpose: u64) -> Result<Score> {
        let (mut loss, mut right, mut asked) = (0.0, 0, 0);
        for at in 0..SCORED {
            let batch = self.draw(&mut rng(self.seed, purpose, at as u64), lag);
            let mut graph = Graph::new(trainer.parameters(), Mode::Evaluation);
            let (answers, _) = self.answers(&mut graph, &batch)?;
            let of_batch = self.loss_of(&mut graph, answers, &batch)?;
            let (answers, of_batch) = (graph.value(answers)?.clone(), graph.value(of_batch)?.clone());
            graph.submit()?;
            loss += of_batch.to_vec()?.iter().sum::<f32>() / SCORED as f32;
            let (good, all) = right_ones(&answers, &batch.answers)?;
            (right, asked) = (right + good, asked + all);
        }
        Ok(Score { loss, accuracy: Some(right as f32 / asked.max(1) as f32) })
    }

    /// The gradient flow of the loss of one batch.
    fn flow(&self, trainer: &Trainer) -> Result<GradientFlow> {
        let few = Self { batch: self.batch.min(4), model: self.model.clone(), settings: Settings::default(), ..*self };
        let batch = few.draw(&mut rng(self.seed, 5, 0), self.lag);
        let parameters = trainer.parameters();
        let mut graph = Graph::new(parameters, Mode::Evaluation);
        let (answers, y) = few.answers(&mut graph, &batch)?;
        let loss = few.loss_of(&mut graph, answers, &batch)?;
        let gradients = graph.backward(loss)?;
        graph.submit()?;
        let stack = self.model.stack.stack(parameters)?;
        let dy = gradients.var(y).cloned();
        let dy = dy.map_or_else(|| Tensor::zeros(parameters.device(), &[batch.x.len_of(Axis(0)), few.batch, 1]), Ok)?;
        let x = Tensor::from_array(parameters.device(), &batch.x)?;
        gradient_flow(&stack, &x, &stack.zero_state(few.batch)?, &Sequence::new(), &dy)
    }
}

/// The number of right answers, and of all answers.
fn right_ones(answers: &Tensor, truth: &Answers) -> Result<(usize, usize)> {
    Ok(match truth {
        Answers::Sums(sums) => {
            let found = answers.to_vec()?;
            (found.iter().zip(sums).filter(|(found, sum)| (*found - *sum).abs() < CLOSE).count(), sums.len())
        }
        Answers::Symbols(symbols) => {
            let found = best_classes(&answers.to_array::<ndarray::Ix3>()?);
            (found.iter().zip(symbols).filter(|(found, symbol)| **found as i64 == **symbol).count(), symbols.len())
        }
    })
}

/// The number of steps at the beginning, one of which carries the first mark.
fn head(lag: usize) -> usize {
    lag.div_ceil(10)
}

/// A batch of the adding problem, `[T, B, 2]`: numbers from `[0, 1)`, two of them marked, at least `lag` steps apart.
fn adding(rng: &mut fastrand::Rng, batch: usize, lag: usize) -> Batch {
    let head = head(lag);
    let time = lag + head;
    let mut x = Array3::zeros((time, batch, 2));
    let mut sums = Vec::with_capacity(batch);
    for b in 0..batch {
        let first = rng.usize(..head);
        let second = rng.usize(first + lag..time);
        for t in 0..time {
            x[[t, b, 0]] = rng.f32();
        }
        for marked in [first, second] {
            x[[marked, b, 1]] = 1.0;
        }
        sums.push(x[[first, b, 0]] + x[[second, b, 0]]);
    }
    Batch { x, answers: Answers::Sums(sums) }
}

/// A batch of the copy task, `[T, B, 9]`: symbols, `lag` blanks, and one mark per symbol that is asked for.
fn copy(rng: &mut fastrand::Rng, batch: usize, lag: usize, symbols: usize) -> Batch {
    let told = Array2::from_shape_simple_fn((symbols, batch), || rng.usize(..CATEGORIES));
    let mut x = Array3::zeros((symbols + lag + symbols, batch, CATEGORIES + 1));
    for ((at, b), &symbol) in told.indexed_iter() {
        x[[at, b, symbol]] = 1.0;
        x[[symbols + lag + at, b, CATEGORIES]] = 1.0;
    }
    Batch { x, answers: Answers::Symbols(told.iter().map(|&symbol| symbol as i64).collect()) }
}

impl Task for MemoryTask {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn metadata(&self) -> Vec<(String, String)> {
        self.model.metadata(if self.kind == Kind::Adding { "adding" } else { "copy" })
    }

    fn begin(&mut self, epoch: u64, stage: u32) -> Result<usize> {
        (self.epoch, self.stage) = (epoch, stage);
        Ok(STEPS)
    }

    fn loss(&mut self, graph: &mut Graph, step: usize) -> Result<Var> {
        let at = self.epoch * STEPS as u64 + step as u64;
        let batch = self.draw(&mut rng(self.seed, 2, at), self.lag_of(self.stage));
        let (answers, _) = self.answers(graph, &batch)?;
        self.loss_of(graph, answers, &batch)
    }

    fn validate(&self, trainer: &Trainer, stage: u32) -> Result<Score> {
        self.score(trainer, self.lag_of(stage), 3)
    }

    fn test(&self, trainer: &Trainer) -> Result<Score> {
        self.score(trainer, self.lag, 4)
    }

    fn next(&self, score: &Score, stage: u32) -> Next {
        let last = self.lag_of(stage) >= self.lag;
        let (error, share) = if last { SOLVED } else { NEXT };
        let reached = match self.kind {
            Kind::Adding => score.loss <= error,
            Kind::Copy => score.accuracy.unwrap_or_default() >= share,
        };
        match (reached, last) {
            (false, _) => Next::GoOn,
            (true, false) => Next::Stage,
            (true, true) => Next::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adding_problem_marks_two_numbers_a_lag_apart() {
        let batch = adding(&mut fastrand::Rng::with_seed(3), 20, 30);
        let Answers::Sums(sums) = &batch.answers else { panic!("sums") };
        for b in 0..20 {
            let marked: Vec<usize> = (0..batch.x.dim().0).filter(|&t| batch.x[[t, b, 1]] == 1.0).collect();
            let [first, second] = marked[..] else { panic!("two marks, not {marked:?}") };
            assert!(second - first >= 30);
            assert_eq!(sums[b], batch.x[[first, b, 0]] + batch.x[[second, b, 0]]);
        }
    }

    #[test]
    fn the_copy_task_asks_for_what_it_told() {
        let batch = copy(&mut fastrand::Rng::with_seed(3), 5, 7, 3);
        assert_eq!(batch.x.dim(), (13, 5, CATEGORIES + 1));
        let Answers::Symbols(symbols) = &batch.answers else { panic!("symbols") };
        for (at, b) in (0..3).flat_map(|at| (0..5).map(move |b| (at, b))) {
            assert_eq!(batch.x[[at, b, symbols[at * 5 + b] as usize]], 1.0);
            assert_eq!(batch.x[[10 + at, b, CATEGORIES]], 1.0);
        }
        assert_eq!(batch.x.slice(ndarray::s![3..10, .., ..]).sum(), 0.0);
    }
}

//! `gatewise flow`: how far a gradient reaches back in an RNN, an LSTM and a GRU.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use gatewise::cell::{Cell, GruCell, LstmCell, Parameters, RnnCell, Sequence};
use gatewise::nn::Config;
use gatewise::train::{GradientFlow, LayerFlow, MemoryBias, gradient_flow, gradient_flow_bytes};
use gatewise::{Device, Error, Result, Tensor};
use serde_json::json;

use crate::chart::{self, Chart, Line, Panel};
use crate::choice::{fits, holdable, numbers};
use crate::output::say;
use crate::written::{self, given};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cells; by default all three.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [CellChoice::Rnn, CellChoice::Lstm, CellChoice::Gru])]
    cell: Vec<CellChoice>,
    /// Time steps.
    #[arg(long, default_value_t = 100)]
    time: usize,
    /// Rows of the batch.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Input features.
    #[arg(long, default_value_t = 4)]
    input: usize,
    /// Hidden units.
    #[arg(long, default_value_t = 32)]
    hidden: usize,
    /// Layers.
    #[arg(long, default_value_t = 1)]
    layers: usize,
    /// The outputs that the loss reads.
    #[arg(long, value_enum, default_value_t = Loss::Last)]
    loss: Loss,
    /// The bias of the gates that keep the state: a number, `chrono` (units remember for up to the whole sequence), or `none`
    /// (PyTorch's initial biases).
    #[arg(long, default_value = "chrono", allow_hyphen_values = true)]
    forget_bias: String,
    /// The seed of the weights and the data.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Draws the gradient norms as an `.svg` or `.png`.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Writes all numbers as CSV, one line per step, layer and cell.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Prints all numbers as JSON.
    #[arg(long)]
    json: bool,
}

/// A cell in its usual form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CellChoice {
    /// Elman's network with tanh.
    Rnn,
    /// Long short-term memory.
    Lstm,
    /// Gated recurrent unit.
    Gru,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Loss {
    /// Only the output of the last step.
    Last,
    /// The outputs of all steps.
    All,
}

impl CellChoice {
    pub(crate) fn cell(self) -> Cell {
        match self {
            Self::Rnn => RnnCell::default().into(),
            Self::Lstm => LstmCell::default().into(),
            Self::Gru => GruCell::default().into(),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rnn => "rnn",
            Self::Lstm => "lstm",
            Self::Gru => "gru",
        }
    }

    /// Whether the cell has a gate that keeps its state.
    pub(crate) fn keeps(self) -> bool {
        self != Self::Rnn
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let memory = memory(&arguments.forget_bias, arguments.time, arguments.seed)?;
    arguments.plot.as_deref().map_or(Ok(()), |path| chart::Format::of(path).map(drop))?;
    written::check("flow", &given(&[("--csv", &arguments.csv), ("--plot", &arguments.plot)]), &[])?;
    if arguments.time == 0 || arguments.batch == 0 {
        let (what, found) = if arguments.time == 0 { ("--time", 0) } else { ("--batch", 0) };
        return Err(Error::Value { op: "flow", what, expected: "at least 1", found: found.to_string() });
    }
    let &Arguments { time, batch, input, hidden, layers, .. } = arguments;
    holdable("flow", "x", "[T, B, input]", &[time, batch, input])?;
    holdable("flow", "y", "[T, B, hidden]", &[time, batch, hidden])?;
    holdable("flow", "weights", "[layers, hidden, hidden]", &[layers, hidden, hidden])?;
    for &cell in &arguments.cell {
        fits("flow", "the steps of the data and their gradients", bytes(arguments, cell)?)?;
    }
    let flows: Vec<_> =
        arguments.cell.iter().map(|&cell| Ok((cell.name(), flow(arguments, cell, memory)?))).collect::<Result<_>>()?;
    if let Some(path) = &arguments.csv {
        written::write(path, csv(&flows).as_bytes())?;
    }
    if let Some(path) = &arguments.plot {
        let title = format!("Gradient flow over {} steps, {} hidden units", arguments.time, arguments.hidden);
        chart::write(path, &picture(&title, &flows))?;
    }
    if arguments.json {
        let cells: Vec<_> = flows.iter().map(|(name, flow)| json!({ "cell": name, "flow": flow.to_json() })).collect();
        say!("{}", json!({ "time": arguments.time, "batch": arguments.batch, "cells": cells }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (name, flow) in &flows {
        say!("{}{flow}", summary(name, flow))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The peak memory of a cell's flow in bytes: the data, the gradient with respect to the output, the weights, the forward and the
/// backward pass.
fn bytes(arguments: &Arguments, choice: CellChoice) -> Result<u64> {
    let &Arguments { time, batch, input, hidden, layers, .. } = arguments;
    let config = Config::new(choice.cell(), input, hidden).layers(layers);
    let [time_, batch_, input_, hidden_] = [time, batch, input, hidden].map(|n| n as u64);
    let given = time_.saturating_mul(batch_).saturating_mul(4).saturating_mul(input_.saturating_add(hidden_));
    Ok(gradient_flow_bytes(&config, time, batch)?.saturating_add(given))
}

/// Parses the option `--forget-bias`: `none`, `chrono` or a number.
fn memory(text: &str, time: usize, seed: u64) -> Result<Option<MemoryBias>> {
    match text {
        "none" => Ok(None),
        "chrono" => Ok(Some(MemoryBias::Chrono { longest: time, seed })),
        _ => match text.parse::<f32>() {
            Ok(bias) if bias.is_finite() => Ok(Some(MemoryBias::Constant(bias))),
            _ => Err(Error::Value {
                op: "flow",
                what: "--forget-bias",
                expected: "a number, `chrono` or `none`",
                found: text.to_owned(),
            }),
        },
    }
}

/// The gradient flow of a random loss over random data; both are the same for every cell.
fn flow(arguments: &Arguments, choice: CellChoice, memory: Option<MemoryBias>) -> Result<GradientFlow> {
    let &Arguments { time, batch, input, hidden, layers, seed, loss, .. } = arguments;
    let (cell, device) = (choice.cell(), Device::Cpu);
    let config = Config::new(cell, input, hidden).layers(layers);
    let mut parameters = config.random_parameters(seed)?;
    if let Some(memory) = memory.filter(|_| choice.keeps()) {
        parameters.iter_mut().flatten().try_for_each(|p: &mut Parameters| memory.set(&cell, p))?;
    }
    let stack = config.trainable(&device, &parameters)?;
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut uniform = || 2.0 * rng.f32() - 1.0;
    let x = numbers("flow", time * batch * input, |_| uniform())?;
    let last = numbers("flow", batch * hidden, |_| uniform())?;
    // The gradient of a step is scaled to norm 1, so that cells can be compared.
    let length = last.iter().map(|d| d * d).sum::<f32>().sqrt();
    let dy = numbers("flow", time * last.len(), |at| match loss {
        Loss::Last if at / last.len() + 1 < time => 0.0,
        _ => last[at % last.len()] / length,
    })?;
    let x = Tensor::from_vec(&device, &[time, batch, input], x)?;
    let dy = Tensor::from_vec(&device, &[time, batch, hidden], dy)?;
    gradient_flow(&stack, &x, &stack.zero_state(batch)?, &Sequence::new(), &dy)
}

/// The gradient norms at the last and at the first step, one line per layer.
fn summary(name: &str, flow: &GradientFlow) -> String {
    let line = |layer: &LayerFlow| {
        let (first, last) = (layer.h.first().copied().unwrap_or_default(), layer.h.last().copied().unwrap_or_default());
        format!("{name}, layer {}: |dL/dh| is {last:.2e} at the last step, {first:.2e} at the first\n", layer.layer)
    };
    flow.layers.iter().map(line).collect()
}

fn csv(flows: &[(&str, GradientFlow)]) -> String {
    let mut csv = String::new();
    for (at, (_, flow)) in flows.iter().enumerate() {
        let text = flow.to_csv();
        let body = if at == 0 { &text[..] } else { text.split_once('\n').map_or("", |(_, body)| body) };
        csv += body;
    }
    csv
}

/// The picture of the norms over time, of the path along the state, and of the gates.
pub(crate) fn picture(title: &str, flows: &[(&str, GradientFlow)]) -> Chart {
    let points = |values: &[f64], of: fn(f64) -> f64| -> Vec<(f64, f64)> {
        values.iter().enumerate().map(|(t, &value)| (t as f64, of(value))).collect()
    };
    let (mut norms, mut paths, mut gates) = (Vec::new(), Vec::new(), Vec::new());
    let (mut colour, mut gated) = (0, 0);
    for (name, flow) in flows {
        for layer in &flow.layers {
            let name =
                if flow.layers.len() > 1 { format!("{name}, layer {}", layer.layer) } else { (*name).to_owned() };
            let line = |name: String, dashed: bool, points| Line { name, colour, dashed, points };
            norms.push(line(name.clone(), false, points(&layer.h, f64::log10)));
            norms.push(line(format!("{name}: bound"), true, points(&layer.bound_log10, |bound| bound)));
            if let Some(openings) = &layer.openings {
                paths.push(line(format!("{name}: state only"), false, points(&layer.path, f64::log10)));
                for (at, (gate, means)) in
                    [("written", &openings.written), ("kept", &openings.kept), ("read", &openings.read)]
                        .into_iter()
                        .enumerate()
                {
                    // Gates of different cells often coincide, so every cell has colours of its own.
                    let dashed = layer.cell == "gru";
                    gates.push(Line {
                        colour: at + 3 * gated,
                        ..line(format!("{name}: {gate}"), dashed, points(means, |m| m))
                    });
                }
                gated += 1;
            }
            if let Some(s) = &layer.s {
                paths.push(line(format!("{name}: |dL/ds|"), true, points(s, f64::log10)));
            }
            colour += 1;
        }
    }
    let mut panels = vec![Panel { name: "log10 |dL/dh|".to_owned(), range: None, lines: norms }];
    if !paths.is_empty() {
        panels.push(Panel { name: "log10, along the state".to_owned(), range: None, lines: paths });
        panels.push(Panel { name: "mean opening".to_owned(), range: Some(0.0..1.0), lines: gates });
    }
    let caption =
        "Read from right to left: where a curve falls, the loss no longer reaches the steps before.".to_owned();
    Chart { title: title.to_owned(), caption, x_name: "time step".to_owned(), panels }
}

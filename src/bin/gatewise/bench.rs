//! `gatewise bench`: how long a forward pass takes.

mod measure;
mod serve;
mod shapes;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gatewise::cell::WeightType;
use gatewise::plan::PlanKind;
use gatewise::{Device, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::measure::{Loaded, Times, series, warm_up};
use self::shapes::Shape;
use crate::choice::{DeviceChoice, adapter, plans};

#[derive(Args)]
pub(crate) struct Arguments {
    /// smoke, deepbench, streams, or a JSON file of shapes.
    #[arg(long, default_value = "smoke")]
    suite: String,
    /// Where to run; several are separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["cpu", "gpu"])]
    device: Vec<DeviceChoice>,
    /// Threads of the CPU path; one a physical core where absent (`--serve` first asks the variable PEER_THREADS).
    #[arg(long)]
    threads: Option<usize>,
    /// How the weights are stored: f32, f16, bf16 or int8.
    #[arg(long, default_value_t = WeightType::F32)]
    dtype: WeightType,
    /// Runs every shape on a GPU by this kind of plan.
    #[arg(long)]
    plan: Option<PlanKind>,
    /// Milliseconds that a shape is timed for on a device.
    #[arg(long, default_value_t = 300.0)]
    budget_ms: f64,
    /// Runs of a shape at the least.
    #[arg(long, default_value_t = 3)]
    min_runs: usize,
    /// Prints one JSON line a measurement.
    #[arg(long)]
    json: bool,
    /// Answers `bench NAME BUDGET_MS MIN_RUNS`, `drop NAME` and `quit` on standard input.
    #[arg(long, requires = "shapes")]
    serve: bool,
    /// The suite file that `--serve` takes its names from.
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
}

/// One measurement; its fields are a contract.
#[derive(Serialize)]
struct Measurement<'a> {
    shape: &'a str,
    cell: &'a str,
    #[serde(rename = "I")]
    input: usize,
    #[serde(rename = "H")]
    hidden: usize,
    layers: usize,
    directions: usize,
    #[serde(rename = "T")]
    time: usize,
    #[serde(rename = "B")]
    batch: usize,
    dtype: &'static str,
    device: &'static str,
    adapter: Option<String>,
    threads: usize,
    plan: String,
    dispatches: usize,
    submits: usize,
    #[serde(flatten)]
    times: Times,
    gflops: f64,
    /// The least time that the machine's own peaks allow; not measured yet.
    roofline_ms: Option<f64>,
}

/// Threads of a device's calls.
fn threads(device: &Device) -> usize {
    device.cpu().map_or(1, |cpu| cpu.threads())
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let (true, Some(path), [device]) = (arguments.serve, &arguments.shapes, &arguments.device[..]) {
        let harness = || std::env::var("PEER_THREADS").ok()?.parse().ok();
        let device = device.open_with(arguments.threads.or_else(harness), arguments.plan)?;
        serve::serve(&device, &shapes::from_file(path)?, arguments.dtype)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.serve {
        return Err(gatewise::Error::Value {
            op: "bench --serve",
            what: "device",
            expected: "exactly one",
            found: format!("{:?}", arguments.device),
        });
    }
    let shapes = shapes::suite(&arguments.suite)?;
    let devices: Vec<Device> = arguments
        .device
        .iter()
        .map(|choice| choice.open_with(arguments.threads, arguments.plan))
        .collect::<Result<_>>()?;
    let bar =
        if arguments.json { ProgressBar::hidden() } else { ProgressBar::new((shapes.len() * devices.len()) as u64) };
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let mut rows = Vec::new();
    for shape in &shapes {
        let mut row = Vec::new();
        for device in &devices {
            bar.set_message(format!("{} on {device}", shape.name));
            let measurement = measure(device, shape, arguments)?;
            if arguments.json {
                println!("{}", serde_json::json!(measurement));
            }
            row.push(measurement.times.median_ms);
            bar.inc(1);
        }
        rows.push((shape, row));
    }
    bar.finish_and_clear();
    if !arguments.json {
        print_table(&devices, &rows);
    }
    Ok(ExitCode::SUCCESS)
}

fn measure<'a>(device: &Device, shape: &'a Shape, arguments: &Arguments) -> Result<Measurement<'a>> {
    let _before = plans(device);
    let mut loaded = Loaded::random(device, shape, arguments.dtype)?;
    warm_up(|| loaded.run())?;
    let times = series(arguments.budget_ms, arguments.min_runs, || loaded.run())?;
    let (dispatches, submits) = loaded.counts()?;
    let (kind, adapter) = adapter(device);
    Ok(Measurement {
        shape: &shape.name,
        cell: &shape.cell,
        input: shape.input,
        hidden: shape.hidden,
        layers: shape.layers,
        directions: shape.directions(),
        time: shape.time,
        batch: shape.batch,
        dtype: arguments.dtype.name(),
        device: kind,
        adapter,
        threads: threads(device),
        plan: plans(device),
        dispatches,
        submits,
        times,
        gflops: shape.flops() / times.median_ms / 1e6,
        roofline_ms: None,
    })
}

/// A row a shape: the devices' medians, and with two devices their ratio.
fn print_table(devices: &[Device], rows: &[(&Shape, Vec<f64>)]) {
    print!("{:<24}", "median ms");
    for device in devices {
        print!(" {:>28}", device.to_string().chars().take(28).collect::<String>());
    }
    println!("{}", if devices.len() == 2 { "    ratio" } else { "" });
    for (shape, medians) in rows {
        print!("{:<24}", shape.name);
        for median in medians {
            print!(" {median:>28.3}");
        }
        match medians[..] {
            [first, second] => println!(" {:>8.2}", first / second),
            _ => println!(),
        }
    }
    if let ([_, second], Some((shape, _))) = (devices, rows.iter().find(|(_, m)| m.len() == 2 && m[1] < m[0])) {
        println!("{second} overtakes from {} on", shape.name);
    }
}

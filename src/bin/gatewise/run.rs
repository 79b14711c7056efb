//! `gatewise run`: an ONNX model over NumPy files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gatewise::onnx::{GruReset, Input, OnnxModel, OnnxOptions};
use gatewise::{Error, Result};
use serde::Serialize;

use crate::choice::{DeviceChoice, adapter};
use crate::npy;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The model.
    model: PathBuf,
    /// An input by its name, as a .npy file; once for every input.
    #[arg(long = "input", value_name = "NAME=FILE.npy")]
    inputs: Vec<String>,
    /// Where the outputs go, one .npy file each.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Where to run.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    /// Where GRUs reset: as the file says, unless it is known to be wrong; or whatever it says.
    #[arg(long, value_enum, default_value = "auto")]
    gru_reset: ResetChoice,
    /// Lists what the model reads and returns and whether its weights are numbers, and runs nothing.
    #[arg(long, conflicts_with_all = ["inputs", "output"])]
    check: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ResetChoice {
    Auto,
    Before,
    After,
}

/// What happened; its fields are a contract.
#[derive(Serialize)]
struct Report {
    model: String,
    device: &'static str,
    adapter: Option<String>,
    inputs: Vec<String>,
    outputs: Vec<Written>,
    warnings: Vec<String>,
    /// Constants that hold NaN or infinity.
    not_finite: Vec<String>,
}

#[derive(Serialize)]
struct Written {
    name: String,
    shape: Vec<usize>,
    file: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let gru_reset = match arguments.gru_reset {
        ResetChoice::Auto => GruReset::Auto,
        ResetChoice::Before => GruReset::Before,
        ResetChoice::After => GruReset::After,
    };
    let model = OnnxModel::from_file(&arguments.model, &OnnxOptions { gru_reset, ..Default::default() })?;
    for warning in model.warnings() {
        eprintln!("gatewise: warning: {warning}");
    }
    let device = arguments.device.open()?;
    let (kind, adapter) = adapter(&device);
    let mut report = Report {
        model: arguments.model.display().to_string(),
        device: kind,
        adapter,
        inputs: model.inputs().map(ToString::to_string).collect(),
        outputs: Vec::new(),
        warnings: model.warnings().iter().map(ToString::to_string).collect(),
        not_finite: model.check().iter().map(ToString::to_string).collect(),
    };
    if !arguments.check {
        let folder = arguments.output.as_ref().ok_or_else(|| bad("output", "a folder: --output DIR", "none"))?;
        let inputs = arguments.inputs.iter().map(|text| input(text)).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<(&str, Input)> = inputs.iter().map(|(name, value)| (*name, value.clone())).collect();
        check_stems(&model)?;
        let outputs = model.to(&device)?.run(&inputs)?;
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        for (name, output) in outputs.iter() {
            let path = folder.join(format!("{}.npy", file_stem(name)));
            npy::write(&path, output)?;
            let shape = output.shape().to_vec();
            report.outputs.push(Written { name: name.to_owned(), shape, file: path.display().to_string() });
        }
    }
    if arguments.json {
        println!("{}", serde_json::json!(report));
    } else {
        print_text(&report, arguments.check, &model);
    }
    Ok(if arguments.check && !report.not_finite.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

fn print_text(report: &Report, check: bool, model: &OnnxModel) {
    if check {
        report.inputs.iter().for_each(|input| println!("reads   {input}"));
        model.outputs().for_each(|output| println!("returns {output}"));
        report.not_finite.iter().for_each(|tensor| println!("not finite: {tensor}"));
        return;
    }
    println!("device: {}", report.adapter.as_deref().unwrap_or(report.device));
    for Written { name, shape, file } in &report.outputs {
        println!("{name} {shape:?} -> {file}");
    }
}

fn bad(what: &'static str, expected: &'static str, found: &str) -> Error {
    Error::Value { op: "run", what, expected, found: found.to_owned() }
}

/// Refuses outputs whose names would become one file's.
fn check_stems(model: &OnnxModel) -> Result<()> {
    let mut stems = BTreeMap::new();
    for info in model.outputs() {
        if let Some(other) = stems.insert(file_stem(&info.name), &info.name) {
            let found = format!("{other:?} and {:?}", info.name);
            return Err(bad("output", "names of outputs that make different names of files", &found));
        }
    }
    Ok(())
}

/// A name may hold what a file's must not.
fn file_stem(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' }).collect()
}

fn input(text: &str) -> Result<(&str, Input)> {
    let (name, file) = text.split_once('=').ok_or_else(|| bad("input", "NAME=FILE.npy", text))?;
    Ok((name, npy::read(name, Path::new(file))?))
}

//! `gatewise run`: an ONNX model over NumPy files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gatewise::onnx::{GruReset, Input, OnnxModel, OnnxOptions};
use gatewise::text::shown;
use gatewise::{Error, Result};
use serde::Serialize;

use crate::choice::{DeviceChoice, Simd, adapter};
use crate::npy;
use crate::output::{note, say};
use crate::written::{self, Named};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The model.
    model: PathBuf,
    /// An input: its name and a .npy file. Give it once for every input.
    #[arg(long = "input", value_name = "NAME=FILE.npy")]
    inputs: Vec<String>,
    /// The folder for the outputs, one .npy file each.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Where to run.
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    #[command(flatten)]
    simd: Simd,
    /// Whether GRUs reset before or after the product; `auto` follows the file unless it is known to be wrong.
    #[arg(long, value_enum, default_value = "auto")]
    gru_reset: ResetChoice,
    /// Lists the inputs and outputs of the model and reports NaN and infinity in its weights; runs nothing.
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

/// The result of a run; its fields are a contract.
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
    let lists = arguments.check || arguments.asks();
    let model = OnnxModel::from_file(&arguments.model, &OnnxOptions::default().gru_reset(gru_reset))?;
    let warnings: Vec<String> = model.warnings().iter().map(ToString::to_string).collect();
    let not_finite: Vec<String> = model.check().iter().map(ToString::to_string).collect();
    warn("", &warnings);
    if !arguments.check {
        warn("not finite: ", &not_finite);
    }
    let device = arguments.device.open(arguments.simd)?;
    let (kind, adapter) = adapter(&device);
    let mut report = Report {
        model: arguments.model.display().to_string(),
        device: kind,
        adapter,
        inputs: model.inputs().map(ToString::to_string).collect(),
        outputs: Vec::new(),
        warnings,
        not_finite,
    };
    if !lists {
        let folder = arguments.output.as_ref().ok_or_else(|| bad("output", "a folder: --output DIR", "none"))?;
        let inputs = arguments.inputs.iter().map(|text| input(text)).collect::<Result<Vec<_>>>()?;
        let inputs: Vec<(&str, Input)> = inputs.iter().map(|(name, value)| (*name, value.clone())).collect();
        check_stems(&model)?;
        let made = arguments.prepare(&model, folder)?;
        let outputs = model.to(&device).and_then(|model| model.run(&inputs)).inspect_err(|_| made.undo())?;
        for (name, output) in outputs.iter() {
            let path = place(folder, name);
            npy::write(&path, output)?;
            let shape = output.shape().to_vec();
            report.outputs.push(Written { name: name.to_owned(), shape, file: path.display().to_string() });
        }
    }
    if arguments.json {
        say!("{}", serde_json::json!(report))?;
    } else {
        print_text(&report, lists, &model)?;
    }
    if arguments.asks() {
        say!("\nto run it: {}", arguments.example(&model))?;
    }
    Ok(if arguments.check && !report.not_finite.is_empty() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

impl Arguments {
    /// Whether the command line names only the model. The command then prints what the model needs.
    fn asks(&self) -> bool {
        self.inputs.is_empty() && self.output.is_none() && !self.check && !self.json
    }

    /// A command line that runs the model.
    fn example(&self, model: &OnnxModel) -> String {
        let inputs = model.inputs().map(|info| format!(" --input {}", quoted(&format!("{0}={0}.npy", info.name))));
        let inputs: String = inputs.collect();
        format!("gatewise run {}{inputs} --output out", quoted(&self.model.display().to_string()))
    }

    /// Creates the folder of the outputs; refuses output files that cannot be written or that are inputs.
    fn prepare(&self, model: &OnnxModel, folder: &Path) -> Result<OutputFolder> {
        let made = OutputFolder::new(folder)?;
        let places: Vec<PathBuf> = model.outputs().map(|info| place(folder, &info.name)).collect();
        let outputs: Vec<Named<'_>> = places.iter().map(|path| ("--output", path.as_path())).collect();
        let files = self.inputs.iter().filter_map(|text| Some(("--input", Path::new(text.split_once('=')?.1))));
        let inputs: Vec<Named<'_>> = std::iter::once(("the model", self.model.as_path())).chain(files).collect();
        written::check("run", &outputs, &inputs).inspect_err(|_| made.undo())?;
        Ok(made)
    }
}

/// Text as one word of a shell's command line.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@".contains(c);
    let text = shown(text).to_string();
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// The folder of the outputs, with its path if this command created it.
struct OutputFolder(Option<PathBuf>);

impl OutputFolder {
    fn new(folder: &Path) -> Result<Self> {
        let new = !folder.exists();
        fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
        Ok(Self(new.then(|| folder.to_owned())))
    }

    /// Removes the folder if this command created it and it is empty.
    fn undo(&self) {
        let _ = self.0.as_ref().map(fs::remove_dir);
    }
}

/// The most warnings of one kind that are printed.
const MOST_WARNINGS: usize = 20;

fn warn(what: &str, warnings: &[String]) {
    warnings.iter().take(MOST_WARNINGS).for_each(|warning| note!("warning: {what}{warning}"));
    if let more @ 1.. = warnings.len().saturating_sub(MOST_WARNINGS) {
        note!("warning: {what}and {more} more");
    }
}

fn print_text(report: &Report, check: bool, model: &OnnxModel) -> Result<()> {
    if check {
        report.inputs.iter().try_for_each(|input| say!("reads   {input}"))?;
        model.outputs().try_for_each(|output| say!("returns {output}"))?;
        return report.not_finite.iter().try_for_each(|tensor| say!("not finite: {tensor}"));
    }
    say!("device: {}", report.adapter.as_deref().unwrap_or(report.device))?;
    let line = |Written { name, shape, file }: &Written| say!("{} {shape:?} -> {}", shown(name), shown(file));
    report.outputs.iter().try_for_each(line)
}

fn bad(what: &'static str, expected: &'static str, found: &str) -> Error {
    Error::Value { op: "run", what, expected, found: found.to_owned() }
}

/// Refuses outputs whose names map to the same file name.
fn check_stems(model: &OnnxModel) -> Result<()> {
    // Windows and macOS ignore the case of file names.
    let folded = cfg!(any(windows, target_os = "macos"));
    let key = |stem: String| if folded { stem.to_lowercase() } else { stem };
    let mut stems = BTreeMap::new();
    for info in model.outputs() {
        if let Some(other) = stems.insert(key(file_stem(&info.name)), &info.name) {
            let found = format!("{other:?} and {:?}", info.name);
            return Err(bad("output", "names of outputs that make different names of files", &found));
        }
    }
    Ok(())
}

/// An output's name with `_` for every character that a file name must not contain.
fn file_stem(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '_' }).collect()
}

/// The file of an output.
fn place(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{}.npy", file_stem(name)))
}

fn input(text: &str) -> Result<(&str, Input)> {
    let (name, file) = text.split_once('=').ok_or_else(|| bad("input", "NAME=FILE.npy", text))?;
    Ok((name, npy::read(name, Path::new(file))?))
}

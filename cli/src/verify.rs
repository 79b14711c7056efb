//! `gatewise verify`: compares the results of this machine's devices with stored results of other implementations (the oracles).

mod case;
mod compare;
mod keras;
mod layer;
mod lecture;
mod manifest;
mod onnx;
mod outputs;
mod real;
mod silero;
mod torch;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gatewise::cell::WeightType;
use gatewise::text::shown;
use gatewise::{Device, Error, Result};
use serde::Serialize;

use self::case::Case;
use self::compare::Comparison;
use self::manifest::Listed;
use self::outputs::CasePath;
use crate::choice::{DeviceChoice, Schedule, Simd, adapter, plans};
use crate::output::{self, Stream, say};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The folder with `manifest.json` and the case files it names.
    path: PathBuf,
    /// Runs only cases whose name contains this text.
    #[arg(long, value_name = "SUBSTRING")]
    case: Option<String>,
    /// The devices.
    #[arg(long, value_enum, default_value = "all")]
    device: Devices,
    /// The type of the stored weights. With a narrow type, layers are compared with the reference on rounded weights.
    #[arg(long, default_value = "f32")]
    dtype: WeightType,
    #[command(flatten)]
    simd: Simd,
    /// Options of the GPU; a case that cannot run with them is unsupported.
    #[command(flatten)]
    schedule: Schedule,
    /// Also compares gradients, if the oracle has them: in the kinds torch, keras and lecture.
    #[arg(long)]
    grads: bool,
    /// Lets the run succeed in spite of unsupported cases.
    #[arg(long)]
    allow_unsupported: bool,
    /// Prints one JSON line per case and device, then a summary.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Devices {
    Reference,
    Cpu,
    Gpu,
    /// Reference, CPU and GPU.
    All,
}

impl Devices {
    fn open(self, simd: Simd, schedule: Schedule) -> Result<Vec<Device>> {
        let choices = match self {
            Self::Reference => vec![DeviceChoice::Reference],
            Self::Cpu => vec![DeviceChoice::Cpu],
            Self::Gpu => vec![DeviceChoice::Gpu],
            Self::All => vec![DeviceChoice::Reference, DeviceChoice::Cpu, DeviceChoice::Gpu],
        };
        let open = |choice| match choice {
            DeviceChoice::Cpu => choice.open(simd),
            other => other.open_planned(schedule),
        };
        choices.into_iter().map(open).collect()
    }
}

/// The result of a case on a device.
struct Verdict {
    comparison: Comparison,
    /// The comparison of the gradients, if they were compared.
    gradients: Option<Comparison>,
    unsupported: Option<String>,
}

impl Verdict {
    /// A verdict that has no comparisons yet.
    fn new() -> Self {
        Self { comparison: Comparison::default(), gradients: None, unsupported: None }
    }

    fn passed(&self) -> bool {
        self.unsupported.is_none() && self.comparison.passed() && self.gradients.as_ref().is_none_or(Comparison::passed)
    }
}

fn unsupported(reason: String) -> Verdict {
    Verdict { unsupported: Some(reason), ..Verdict::new() }
}

/// One case on one device; its fields are a contract.
#[derive(Serialize)]
struct Line<'a> {
    case: &'a str,
    kind: &'a str,
    device: &'static str,
    adapter: Option<String>,
    /// The kinds of plan that the case's calls used.
    plan: String,
    /// The error that is the largest in units of its tolerance; absent if the case did not run.
    max_abs_err: Option<f64>,
    /// The largest error of a gradient, relative to its largest element; in the kind `train`, the error of a gradient norm.
    max_grad_err: Option<f64>,
    /// The tolerance of `max_abs_err`.
    tol: Option<f64>,
    pass: bool,
    unsupported: Option<&'a str>,
    /// The reason why the case could not be judged: its file is missing or broken, or the device failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Default, Serialize)]
struct Summary {
    passed: usize,
    failed: usize,
    unsupported: usize,
}

/// Cases that could not be judged, on one device or on all of them.
#[derive(Default)]
struct Broken {
    count: usize,
    first: Option<(String, Error)>,
}

impl Broken {
    fn add(&mut self, case: &Listed, error: Error) {
        self.count += 1;
        self.first.get_or_insert_with(|| (shown(&case.name).to_string(), error));
    }

    /// The error of the first of these cases.
    fn into_error(self, folder: &std::path::Path) -> Option<Error> {
        let Self { count, first } = self;
        let (name, source) = first?;
        let more = if count > 1 { format!(", the first of {count} that could not be judged") } else { String::new() };
        let file = folder.join("manifest.json").display().to_string();
        Some(Error::Node { file, node: format!("case {name}{more}"), source: Box::new(source) })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.schedule.check("verify", matches!(arguments.device, Devices::Gpu | Devices::All))?;
    let cases = manifest::cases(&arguments.path, arguments.case.as_deref())?;
    let devices = arguments.device.open(arguments.simd, arguments.schedule)?;
    let length = (cases.len() * devices.len()) as u64;
    let bar = output::bar(arguments.json, length, "{msg} [{bar:40}] {pos}/{len}");
    let (mut summary, mut broken) = (Summary::default(), Broken::default());
    for listed in &cases {
        // Only one case is in memory. A case that cannot be read does not stop the others.
        let case = listed.load(&arguments.path);
        for device in &devices {
            bar.set_message(format!("{} on {device}", shown(&listed.name)));
            let judged = case.as_ref().map(|case| judge_on(case, device, arguments));
            let line = match &judged {
                Ok(Ok(verdict)) => line(listed, device, verdict),
                Ok(Err(error)) => failure(listed, device, error),
                Err(error) => failure(listed, device, error),
            };
            summary.count(&line);
            if arguments.json {
                say!("{}", serde_json::json!(line))?;
            } else {
                bar.suspend(|| say!("{}", text(&line)))?;
            }
            bar.inc(1);
            drop(line);
            if let Ok(Err(error)) = judged {
                broken.add(listed, error);
            }
        }
        if let Err(error) = case {
            broken.add(listed, error);
        }
    }
    bar.finish_and_clear();
    if arguments.json {
        say!("{}", serde_json::json!({ "summary": summary }))?;
    } else {
        say!("{} passed, {} failed, {} unsupported", summary.passed, summary.failed, summary.unsupported)?;
    }
    if let Some(error) = broken.into_error(&arguments.path) {
        return Err(error);
    }
    let good = summary.failed == 0 && (summary.unsupported == 0 || arguments.allow_unsupported);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Judges all cases of a folder on the CPU.
#[cfg(fuzzing)]
pub(crate) fn judge_all(folder: &std::path::Path) -> Result<()> {
    for listed in manifest::cases(folder, None)? {
        let path = CasePath { device: Device::Cpu, weight_type: WeightType::F32 };
        judge(&listed.load(folder)?, &path, true)?;
    }
    Ok(())
}

impl Summary {
    fn count(&mut self, line: &Line<'_>) {
        match (line.unsupported, line.pass) {
            (Some(_), _) => self.unsupported += 1,
            (None, true) => self.passed += 1,
            (None, false) => self.failed += 1,
        }
    }
}

/// Judges a case on a device. If the forced plan does not fit, the case is unsupported.
fn judge_on(case: &Case, device: &Device, arguments: &Arguments) -> Result<Verdict> {
    let path = CasePath { device: device.clone(), weight_type: arguments.dtype };
    let _before = plans(device);
    judge(case, &path, arguments.grads).or_else(|error| match refused_plan(&error) {
        Some(option) => Ok(unsupported(option)),
        None => Err(error),
    })
}

fn judge(case: &Case, path: &CasePath, grads: bool) -> Result<Verdict> {
    let verdict = judge_outputs(case, path)?;
    match case.kind.as_str() {
        "torch" if grads => outputs::judge_gradients(case, path, verdict, torch::gradients),
        "keras" if grads => outputs::judge_gradients(case, path, verdict, keras::gradients),
        "lecture" if grads => outputs::judge_gradients(case, path, verdict, lecture::gradients),
        _ => Ok(verdict),
    }
}

fn judge_outputs(case: &Case, path: &CasePath) -> Result<Verdict> {
    let CasePath { device, weight_type } = path;
    match case.kind.as_str() {
        "torch" => outputs::judge(case, path, torch::outputs),
        "keras" => outputs::judge(case, path, keras::outputs),
        "lecture" => outputs::judge(case, path, lecture::outputs),
        "onnxrt" | "onnxnode" => outputs::judge(case, path, onnx::outputs),
        "real" | "silero" if *weight_type != WeightType::F32 => {
            Ok(unsupported(format!("{weight_type} in a whole model")))
        }
        "real" => real::run(case, device),
        "silero" => silero::run(case, device),
        "train" if *weight_type != WeightType::F32 => Ok(unsupported(format!("{weight_type} in training"))),
        "train" => train::run(case, device),
        other => Ok(unsupported(format!("kind {other}"))),
    }
}

/// The option that a plan does not support, if the error says so.
fn refused_plan(error: &Error) -> Option<String> {
    match error {
        Error::Unsupported { op: "plan", option, .. } => Some(option.clone()),
        Error::Node { source, .. } => refused_plan(source),
        _ => None,
    }
}

fn line<'a>(case: &'a Listed, device: &Device, verdict: &'a Verdict) -> Line<'a> {
    let ran = verdict.comparison.compared > 0;
    let (kind, adapter) = adapter(device);
    Line {
        case: &case.name,
        kind: &case.kind,
        device: kind,
        adapter,
        plan: plans(device),
        max_abs_err: ran.then_some(verdict.comparison.error),
        max_grad_err: verdict.gradients.map(|gradients| gradients.error),
        tol: ran.then_some(verdict.comparison.tolerance),
        pass: verdict.passed(),
        unsupported: verdict.unsupported.as_deref(),
        error: None,
    }
}

/// The line of a case that could not be judged.
fn failure<'a>(case: &'a Listed, device: &Device, error: &Error) -> Line<'a> {
    let (kind, adapter) = adapter(device);
    Line {
        case: &case.name,
        kind: &case.kind,
        device: kind,
        adapter,
        plan: plans(device),
        max_abs_err: None,
        max_grad_err: None,
        tol: None,
        pass: false,
        unsupported: None,
        error: Some(error.to_string()),
    }
}

fn text(line: &Line<'_>) -> String {
    let Line { case, kind, device, max_abs_err, max_grad_err, tol, pass, unsupported, error, .. } = line;
    let head = format!("{:<8} {:<32} {device:<10}", shown(kind).to_string(), shown(case).to_string());
    if let Some(error) = error {
        return format!("{head} {}: {error}", Stream::Out.paint("FAIL", &output::bad()));
    }
    match (unsupported, max_abs_err, tol) {
        (Some(reason), ..) => format!("{head} unsupported: {}", shown(reason)),
        (None, Some(error), Some(tol)) => {
            let gradients = max_grad_err.map_or_else(String::new, |error| format!(", gradients {error:.1e}"));
            let (word, style) = if *pass { ("pass", output::good()) } else { ("FAIL", output::bad()) };
            format!("{head} {} {error:.1e} of {tol:.1e}{gradients}", Stream::Out.paint(word, &style))
        }
        _ => format!("{head} {}: nothing was compared", Stream::Out.paint("FAIL", &output::bad())),
    }
}

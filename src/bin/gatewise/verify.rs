//! `gatewise verify`: whether this machine's devices compute what the oracles computed.

mod case;
mod compare;
mod keras;
mod layer;
mod lecture;
#[cfg(feature = "onnx")]
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
use gatewise::{Device, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use self::case::Case;
use self::compare::Comparison;
use self::outputs::Path;
use crate::choice::{DeviceChoice, Schedule, adapter, plans};

#[derive(Args)]
pub(crate) struct Arguments {
    /// A folder with `manifest.json` and the case files it names.
    path: PathBuf,
    /// Only cases whose name contains this.
    #[arg(long, value_name = "SUBSTRING")]
    case: Option<String>,
    /// Where to run.
    #[arg(long, value_enum, default_value = "all")]
    device: Devices,
    /// How weights are stored. With a narrow type, layers are compared with the reference on the weights that it can hold.
    #[arg(long, default_value = "f32")]
    dtype: WeightType,
    /// A case that cannot be run so is unsupported.
    #[command(flatten)]
    schedule: Schedule,
    /// Compares gradients, too, where the oracle has them: the kinds torch, keras and lecture.
    #[arg(long)]
    grads: bool,
    /// Unsupported cases do not fail the run.
    #[arg(long)]
    allow_unsupported: bool,
    /// Prints one JSON line a case and device, then a summary.
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
    fn open(self, schedule: Schedule) -> Result<Vec<Device>> {
        let choices = match self {
            Self::Reference => vec![DeviceChoice::Reference],
            Self::Cpu => vec![DeviceChoice::Cpu],
            Self::Gpu => vec![DeviceChoice::Gpu],
            Self::All => vec![DeviceChoice::Reference, DeviceChoice::Cpu, DeviceChoice::Gpu],
        };
        choices.into_iter().map(|choice| choice.open_planned(schedule)).collect()
    }
}

/// What came out of a case on a device.
struct Verdict {
    comparison: Comparison,
    /// That of the gradients, where they were compared.
    gradients: Option<Comparison>,
    unsupported: Option<String>,
}

impl Verdict {
    /// A verdict without comparisons yet.
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
    /// The kinds of plan that the case's calls ran by.
    plan: String,
    /// The largest error, measured in its own tolerance; absent where the case did not run.
    max_abs_err: Option<f64>,
    /// The largest error of a gradient, relative to its largest element.
    max_grad_err: Option<f64>,
    /// What that error may be.
    tol: Option<f64>,
    pass: bool,
    unsupported: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Summary {
    passed: usize,
    failed: usize,
    unsupported: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cases = case::cases(&arguments.path, arguments.case.as_deref())?;
    let devices = arguments.device.open(arguments.schedule)?;
    let bar =
        if arguments.json { ProgressBar::hidden() } else { ProgressBar::new((cases.len() * devices.len()) as u64) };
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len}") {
        bar.set_style(style);
    }
    let mut summary = Summary::default();
    for case in &cases {
        for device in &devices {
            bar.set_message(format!("{} on {device}", case.name));
            let path = Path { device: device.clone(), weight_type: arguments.dtype };
            let _before = plans(device);
            let verdict = judge(case, &path, arguments.grads).or_else(|error| match refused_plan(&error) {
                Some(option) => Ok(unsupported(option)),
                None => Err(error),
            })?;
            let passed = verdict.passed();
            match (&verdict.unsupported, passed) {
                (Some(_), _) => summary.unsupported += 1,
                (None, true) => summary.passed += 1,
                (None, false) => summary.failed += 1,
            }
            let line = line(case, device, &verdict, passed);
            if arguments.json {
                println!("{}", serde_json::json!(line));
            } else {
                bar.suspend(|| println!("{}", text(&line)));
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    if arguments.json {
        println!("{}", serde_json::json!({ "summary": summary }));
    } else {
        println!("{} passed, {} failed, {} unsupported", summary.passed, summary.failed, summary.unsupported);
    }
    let good = summary.failed == 0 && (summary.unsupported == 0 || arguments.allow_unsupported);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn judge(case: &Case, path: &Path, grads: bool) -> Result<Verdict> {
    let verdict = judge_outputs(case, path)?;
    match case.kind.as_str() {
        "torch" if grads => outputs::judge_gradients(case, path, verdict, torch::gradients),
        "keras" if grads => outputs::judge_gradients(case, path, verdict, keras::gradients),
        "lecture" if grads => outputs::judge_gradients(case, path, verdict, lecture::gradients),
        _ => Ok(verdict),
    }
}

fn judge_outputs(case: &Case, path: &Path) -> Result<Verdict> {
    let Path { device, weight_type } = path;
    match case.kind.as_str() {
        "torch" => outputs::judge(case, path, torch::outputs),
        "keras" => outputs::judge(case, path, keras::outputs),
        "lecture" => outputs::judge(case, path, lecture::outputs),
        #[cfg(feature = "onnx")]
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

/// What a forced plan cannot do.
fn refused_plan(error: &Error) -> Option<String> {
    match error {
        Error::Unsupported { op: "plan", option, .. } => Some(option.clone()),
        Error::Node { source, .. } => refused_plan(source),
        _ => None,
    }
}

fn line<'a>(case: &'a Case, device: &Device, verdict: &'a Verdict, pass: bool) -> Line<'a> {
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
        pass,
        unsupported: verdict.unsupported.as_deref(),
    }
}

fn text(line: &Line<'_>) -> String {
    let Line { case, kind, device, max_abs_err, max_grad_err, tol, pass, unsupported, .. } = line;
    let head = format!("{kind:<8} {case:<32} {device:<10}");
    match (unsupported, max_abs_err, tol) {
        (Some(reason), ..) => format!("{head} unsupported: {reason}"),
        (None, Some(error), Some(tol)) => {
            let gradients = max_grad_err.map_or_else(String::new, |error| format!(", gradients {error:.1e}"));
            format!("{head} {} {error:.1e} of {tol:.1e}{gradients}", if *pass { "pass" } else { "FAIL" })
        }
        _ => format!("{head} FAIL: nothing was compared"),
    }
}

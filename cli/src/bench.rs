//! `gatewise bench`: how long a forward pass takes.

mod estimate;
mod machine;
mod measure;
mod peaks;
mod report;
mod serve;
mod shapes;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gatewise::cell::WeightType;
use gatewise::{Device, Error, Result};
use indicatif::{ProgressBar, ProgressStyle};

use self::estimate::Estimates;
use self::machine::Machine;
use self::measure::{Budget, Learning, Loaded, counted, series, warm_up};
use self::peaks::Peaks;
use self::report::{Entry, Measurement, Row};
use self::shapes::Shape;
use crate::choice::{DeviceChoice, Schedule, adapter, plans};
use crate::output::say;

#[derive(Args)]
pub(crate) struct Arguments {
    /// smoke, deepbench, streams, or a JSON file of shapes.
    #[arg(long, default_value = "smoke")]
    suite: String,
    /// Where to run; several are separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["cpu", "gpu"])]
    device: Vec<DeviceChoice>,
    /// Threads of the CPU path, several numbers separated by commas; one a physical core where absent (`--serve` first asks
    /// the variable PEER_THREADS).
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// How the weights are stored: f32, f16, bf16 or int8.
    #[arg(long, default_value_t = WeightType::F32)]
    dtype: WeightType,
    #[command(flatten)]
    schedule: Schedule,
    /// Milliseconds that a shape is timed for on a device, an hour at the most.
    #[arg(long, default_value_t = 300.0)]
    budget_ms: f64,
    /// Runs of a shape at the least, up to 100000.
    #[arg(long, default_value_t = 3)]
    min_runs: usize,
    /// Skips shapes that will take more seconds a pass, by the measured shape nearest in steps and their work on the same
    /// device.
    #[arg(long)]
    most_s: Option<f64>,
    /// Times training, which is in f32: forward, and back to the gradients.
    #[arg(long)]
    train: bool,
    /// Measures the devices instead: memory, arithmetic, dispatches, submissions.
    #[arg(long, conflicts_with_all = ["serve", "train"])]
    peaks: bool,
    /// Leaves the devices' peaks unmeasured, and so the least times by them.
    #[arg(long)]
    no_roofline: bool,
    /// Has GPU plans chosen by measuring, and the choices kept for later runs.
    #[arg(long, conflicts_with = "serve")]
    autotune: bool,
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

/// Threads of a device's calls.
fn threads(device: &Device) -> usize {
    device.cpu().map_or(1, |cpu| cpu.threads())
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.check()?;
    let budget = Budget::new(arguments.budget_ms, arguments.min_runs)?;
    if let (true, Some(path), [device], [] | [_]) =
        (arguments.serve, &arguments.shapes, &arguments.device[..], &arguments.threads[..])
    {
        let harness = || std::env::var("PEER_THREADS").ok()?.parse().ok();
        let device = device.open_with(arguments.threads.first().copied().or_else(harness), arguments.schedule)?;
        serve::serve(&device, &shapes::from_file(path)?, arguments.dtype, arguments.train)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.serve {
        return Err(gatewise::Error::Value {
            op: "bench --serve",
            what: "device and threads",
            expected: "one device, at most one number of threads",
            found: format!("{:?} and {:?}", arguments.device, arguments.threads),
        });
    }
    let machine = Machine::of_this_process();
    let devices = arguments.devices()?;
    if arguments.peaks {
        return print_peaks(&devices, &machine, arguments.json);
    }
    let shapes = shapes::suite(&arguments.suite)?;
    let mut subjects = Vec::new();
    for device in devices {
        let peaks = if arguments.no_roofline { None } else { Peaks::measure(&device, &machine)? };
        subjects.push(Subject { device, peaks, estimates: Estimates::default() });
    }
    let bar =
        if arguments.json { ProgressBar::hidden() } else { ProgressBar::new((shapes.len() * subjects.len()) as u64) };
    if let Ok(style) = ProgressStyle::with_template("{msg} [{bar:40}] {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    let mut rows = Vec::new();
    for shape in &shapes {
        let mut entries = Vec::new();
        for subject in &mut subjects {
            bar.set_message(format!("{} on {}", shape.name, subject.device));
            let entry = subject.entry(shape, arguments, budget)?;
            if arguments.json {
                say!("{}", report::line(&entry, shape, &subject.device, &machine))?;
            }
            entries.push(entry);
            bar.inc(1);
        }
        rows.push(Row { shape, entries });
    }
    bar.finish_and_clear();
    let devices: Vec<&Device> = subjects.iter().map(|subject| &subject.device).collect();
    let crossovers = report::crossovers(&devices, &rows);
    if arguments.json {
        let line = |crossover| say!("{}", serde_json::json!({ "crossover": crossover }));
        crossovers.iter().try_for_each(line)?;
    } else {
        machine.print()?;
        report::print_table(&devices, &rows)?;
        crossovers.iter().try_for_each(|crossover| say!("{crossover}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    /// Refuses what would be left unheeded: by training, which has weights in f32 and a schedule of its own, and by devices that
    /// have no choice of schedules.
    fn check(&self) -> Result<()> {
        if let Some(most) = self.most_s.filter(|most| !(most.is_finite() && *most >= 0.0)) {
            let (what, expected, found) = ("--most-s", "seconds, at least 0", most.to_string());
            return Err(Error::Value { op: "bench", what, expected, found });
        }
        let gpu = self.device.contains(&DeviceChoice::Gpu);
        let unheeded = [
            (self.dtype != WeightType::F32).then(|| format!("--dtype {}", self.dtype)),
            self.schedule.given(),
            self.autotune.then(|| "--autotune".to_owned()),
        ];
        match unheeded.into_iter().flatten().next() {
            Some(option) if self.train => {
                let by = "by training, which has weights in f32 and a schedule of its own";
                Err(Error::Unsupported { op: "bench --train", option, by })
            }
            _ if self.autotune && !gpu => {
                let (option, by) = ("--autotune".to_owned(), "without --device gpu");
                Err(Error::Unsupported { op: "bench", option, by })
            }
            _ => self.schedule.check("bench", gpu),
        }
    }

    /// Every device asked for, the CPU once for each number of threads.
    fn devices(&self) -> Result<Vec<Device>> {
        let mut devices = Vec::new();
        for &choice in &self.device {
            let device = self.open(choice, self.threads.first().copied())?;
            let others = if device.cpu().is_some() { self.threads.get(1..).unwrap_or_default() } else { &[] };
            devices.push(device);
            for &threads in others {
                devices.push(self.open(choice, Some(threads))?);
            }
        }
        Ok(devices)
    }

    fn open(&self, choice: DeviceChoice, threads: Option<usize>) -> Result<Device> {
        if self.autotune && choice == DeviceChoice::Gpu {
            return crate::choice::open_tuned(self.schedule);
        }
        choice.open_with(threads, self.schedule)
    }
}

fn print_peaks(devices: &[Device], machine: &Machine, json: bool) -> Result<ExitCode> {
    if !json {
        machine.print()?;
    }
    for device in devices {
        match Peaks::measure(device, machine)? {
            Some(peaks) if json => say!("{}", serde_json::json!(peaks))?,
            Some(peaks) => peaks.print()?,
            None => {
                let option = format!("--peaks on {device}");
                return Err(Error::Unsupported { op: "bench", option, by: "the reference" });
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A device with what it can do, and what it has done so far.
struct Subject {
    device: Device,
    peaks: Option<Peaks>,
    estimates: Estimates,
}

impl Subject {
    /// Times a shape, or says why not; only what no other shape could do better is an error.
    fn entry<'a>(&mut self, shape: &'a Shape, arguments: &Arguments, budget: Budget) -> Result<Entry<'a>> {
        if let (Some(most), Some(seconds)) = (arguments.most_s, self.estimates.seconds(shape))
            && seconds > most
        {
            return Ok(Entry::Skipped(format!("would take some {seconds:.0} s a pass")));
        }
        match self.measure(shape, arguments, budget) {
            Ok(measurement) => {
                self.estimates.note(shape, measurement.times.median_ms / 1e3);
                Ok(Entry::Measured(Box::new(measurement)))
            }
            Err(error @ (Error::Limit { .. } | Error::Unsupported { .. } | Error::OutOfMemory { .. })) => {
                Ok(Entry::Skipped(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    fn measure<'a>(&self, shape: &'a Shape, arguments: &Arguments, budget: Budget) -> Result<Measurement<'a>> {
        let device = &self.device;
        let _before = plans(device);
        let time = |run: &mut dyn FnMut() -> Result<()>| {
            warm_up(&mut *run)?;
            series(budget, &mut *run)
        };
        let (times, kept, on_device_ms, (dispatches, submits)) = if arguments.train {
            let mut learning = Learning::random(device, shape)?;
            let times = time(&mut || learning.run())?;
            let on_device_ms = learning.on_device_ms(times.runs.clamp(1, 20))?;
            (times, None, on_device_ms, counted(device, || learning.run())?)
        } else {
            let mut loaded = Loaded::random(device, shape, arguments.dtype)?;
            if arguments.autotune {
                loaded.tune()?;
                // What was tried on the way is not what runs.
                let _tried = plans(device);
            }
            let times = time(&mut || loaded.run())?;
            let on_device_ms = loaded.on_device_ms(times.runs.clamp(1, 20))?;
            (times, loaded.kept_chunks()?, on_device_ms, counted(device, || loaded.run())?)
        };
        let least = |peaks: &Peaks| peaks.least_ms(shape, arguments.dtype, arguments.train, kept);
        let least = self.peaks.as_ref().map(least);
        let (kind, adapter) = adapter(device);
        let passes = if arguments.train { 3.0 } else { 1.0 };
        Ok(Measurement {
            shape: &shape.name,
            cell: &shape.cell,
            input: shape.input,
            hidden: shape.hidden,
            layers: shape.layers,
            directions: shape.directions(),
            time: shape.time,
            batch: shape.batch,
            pass: if arguments.train { "training" } else { "forward" },
            dtype: arguments.dtype.name(),
            device: kind,
            adapter,
            threads: threads(device),
            plan: plans(device),
            dispatches,
            submits,
            times,
            on_device_ms,
            gflops: passes * shape.flops() / times.median_ms / 1e6,
            roofline_ms: least.map(|[physical, _]| physical),
            roofline_share: least.map(|[physical, _]| physical / on_device_ms.unwrap_or(times.median_ms)),
            dispatch_roofline_ms: least.map(|[_, dispatched]| dispatched),
        })
    }
}

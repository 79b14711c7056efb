//! `gatewise bench`: times forward and training passes.

mod estimate;
mod load;
mod machine;
mod measure;
mod peaks;
mod report;
mod serve;
mod shapes;
mod times;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gatewise::cell::WeightType;
use gatewise::cpu::Instructions;
use gatewise::text::shown;
use gatewise::{Device, Error, Result};

use self::estimate::Estimates;
use self::load::Load;
use self::machine::Machine;
use self::measure::{Budget, Learning, Loaded, counted, series, warm_up};
use self::peaks::Peaks;
use self::report::{Entry, Measurement, Row};
use self::shapes::Shape;
use crate::choice::{DeviceChoice, Schedule, Simd, adapter, plans};
use crate::output::{self, say};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The shapes: smoke, deepbench, streams, or a JSON file.
    #[arg(long, default_value = "smoke")]
    suite: String,
    /// The devices, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["cpu", "gpu"])]
    device: Vec<DeviceChoice>,
    /// Threads of the CPU path; several numbers are separated by commas. By default one per physical core (`--serve` first reads
    /// the variable PEER_THREADS).
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    #[command(flatten)]
    simd: Simd,
    /// The type of the stored weights: f32, f16, bf16 or int8.
    #[arg(long, default_value_t = WeightType::F32)]
    dtype: WeightType,
    #[command(flatten)]
    schedule: Schedule,
    /// Milliseconds that each shape is timed for on each device, at most an hour.
    #[arg(long, default_value_t = 300.0)]
    budget_ms: f64,
    /// The smallest number of runs of a shape, at most 100000.
    #[arg(long, default_value_t = 3)]
    min_runs: usize,
    /// Skips shapes that would take more than this many seconds per pass, by an estimate from the nearest shape measured on the same
    /// device.
    #[arg(long)]
    most_s: Option<f64>,
    /// Times training in f32: the forward pass and the backward pass to the gradients.
    #[arg(long)]
    train: bool,
    /// Measures the peaks of the devices instead: memory, arithmetic, dispatches, submissions.
    #[arg(long, conflicts_with_all = ["serve", "train"])]
    peaks: bool,
    /// Does not measure the devices' peaks, and so prints no least times.
    #[arg(long)]
    no_roofline: bool,
    /// Runs this many competing threads beside the timed passes, at most 1024: shows what a busy machine does to a call.
    #[arg(long, value_name = "THREADS", default_value_t = 0, conflicts_with_all = ["serve", "peaks"])]
    load: usize,
    /// Chooses GPU plans by measurement and keeps the choices for later runs.
    #[arg(long, conflicts_with = "serve")]
    autotune: bool,
    /// Prints one JSON line per measurement.
    #[arg(long)]
    json: bool,
    /// Answers `bench NAME BUDGET_MS MIN_RUNS`, `drop NAME` and `quit` on standard input.
    #[arg(long, requires = "shapes")]
    serve: bool,
    /// The suite file that `--serve` takes its names from.
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
}

/// The number of threads that a device's calls use.
fn threads(device: &Device) -> usize {
    device.cpu().map_or(1, |cpu| cpu.threads())
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    arguments.check()?;
    let budget = Budget::new(arguments.budget_ms, arguments.min_runs)?;
    if arguments.serve {
        return serve(arguments);
    }
    let machine = Machine::of_this_process();
    let devices = arguments.devices()?;
    if arguments.peaks {
        return print_peaks(&arguments.of_every_set(devices)?, &machine, arguments.json);
    }
    let shapes = shapes::suite(&arguments.suite)?;
    let length = (shapes.len() * devices.len()) as u64;
    let bar = output::bar(arguments.json, length, "[{bar:30}] {pos}/{len}, {eta} left: {wide_msg}");
    let mut subjects = Vec::new();
    for device in devices {
        bar.set_message(format!("measuring the peaks of {device}"));
        let peaks = if arguments.no_roofline { None } else { Peaks::measure(&device, &machine)? };
        subjects.push(Subject { device, peaks, estimates: Estimates::default() });
    }
    let load = Load::start(arguments.load)?;
    let mut rows = Vec::new();
    for shape in &shapes {
        let mut entries = Vec::new();
        for subject in &mut subjects {
            bar.set_message(format!("{}, {} on {}", shown(&shape.name), shape.sizes(), subject.device));
            let entry = subject.entry(shape, arguments, budget)?;
            if arguments.json {
                say!("{}", report::line(&entry, shape, &subject.device, &machine))?;
            }
            entries.push(entry);
            bar.inc(1);
        }
        rows.push(Row { shape, entries });
    }
    drop(load);
    bar.finish_and_clear();
    let devices: Vec<&Device> = subjects.iter().map(|subject| &subject.device).collect();
    let crossovers = report::crossovers(&devices, &rows);
    if arguments.json {
        let line = |crossover| say!("{}", serde_json::json!({ "crossover": crossover }));
        crossovers.iter().try_for_each(line)?;
    } else {
        machine.print()?;
        report::print_table(&devices, &rows, arguments.train)?;
        crossovers.iter().try_for_each(|crossover| say!("{crossover}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Answers the commands of a harness on one device.
fn serve(arguments: &Arguments) -> Result<ExitCode> {
    let (Some(path), [device], [] | [_]) = (&arguments.shapes, &arguments.device[..], &arguments.threads[..]) else {
        return Err(Error::Value {
            op: "bench --serve",
            what: "device and threads",
            expected: "one device, at most one number of threads",
            found: format!("{:?} and {:?}", arguments.device, arguments.threads),
        });
    };
    let harness = || std::env::var("PEER_THREADS").ok()?.parse().ok();
    let cpu = arguments.simd.options(arguments.threads.first().copied().or_else(harness));
    let device = device.open_with(&cpu, arguments.schedule)?;
    serve::serve(&device, &shapes::from_file(path)?, arguments.dtype, arguments.train)?;
    Ok(ExitCode::SUCCESS)
}

impl Arguments {
    /// Refuses options that would be ignored: by training, which has f32 weights and a schedule of its own, and by devices without a
    /// choice of schedules.
    fn check(&self) -> Result<()> {
        if let Some(most) = self.most_s.filter(|most| !(most.is_finite() && *most >= 0.0)) {
            let (what, expected, found) = ("--most-s", "seconds, at least 0", most.to_string());
            return Err(Error::Value { op: "bench", what, expected, found });
        }
        Load::check(self.load)?;
        let gpu = self.device.contains(&DeviceChoice::Gpu);
        if let Some(set) = self.simd.simd
            && !self.device.iter().any(|choice| matches!(choice, DeviceChoice::Cpu | DeviceChoice::Auto))
        {
            let (option, by) = (format!("--simd {set}"), "without --device cpu");
            return Err(Error::Unsupported { op: "bench", option, by });
        }
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

    /// Opens every device that was asked for, the CPU path once per number of threads.
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

    /// The devices, and instead of each CPU one per instruction set that the processor has, unless `--simd` names one.
    fn of_every_set(&self, devices: Vec<Device>) -> Result<Vec<Device>> {
        let mut all = Vec::new();
        for device in devices {
            match device.cpu() {
                Some(cpu) if self.simd.simd.is_none() => {
                    for set in Instructions::ALL.into_iter().filter(|set| set.available()) {
                        let simd = Simd { simd: Some(set) };
                        all.push(DeviceChoice::Cpu.open_with(&simd.options(Some(cpu.threads())), self.schedule)?);
                    }
                }
                _ => all.push(device),
            }
        }
        Ok(all)
    }

    fn open(&self, choice: DeviceChoice, threads: Option<usize>) -> Result<Device> {
        if self.autotune && choice == DeviceChoice::Gpu {
            return crate::choice::open_tuned(self.schedule);
        }
        let cpu =
            if choice == DeviceChoice::Gpu || choice == DeviceChoice::Reference { Simd::default() } else { self.simd };
        choice.open_with(&cpu.options(threads), self.schedule)
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
                return Err(Error::Unsupported { op: "bench", option, by: "by the reference" });
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A device with its peaks and its measurements so far.
struct Subject {
    device: Device,
    peaks: Option<Peaks>,
    estimates: Estimates,
}

impl Subject {
    /// Times a shape, or gives the reason why it was skipped. Only an error that concerns all shapes is returned as an error.
    fn entry<'a>(&mut self, shape: &'a Shape, arguments: &Arguments, budget: Budget) -> Result<Entry<'a>> {
        if let (Some(most), Some(seconds)) = (arguments.most_s, self.estimates.seconds(shape))
            && seconds > most
        {
            return Ok(Entry::Skipped(format!("would take about {seconds:.0} s per pass")));
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
                // The tuning has also run plans that it did not choose; this drops their names.
                let _tried = plans(device);
            }
            let times = time(&mut || loaded.run())?;
            let on_device_ms = loaded.on_device_ms(times.runs.clamp(1, 20))?;
            (times, loaded.kept_chunks()?, on_device_ms, counted(device, || loaded.run())?)
        };
        let least = |peaks: &Peaks| peaks.least_ms(shape, arguments.dtype, arguments.train, kept);
        let least = self.peaks.as_ref().map(least);
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
            pass: if arguments.train { "training" } else { "forward" },
            dtype: arguments.dtype.name(),
            device: kind,
            adapter,
            threads: threads(device),
            load: arguments.load,
            plan: plans(device),
            dispatches,
            submits,
            times,
            on_device_ms,
            gflops: shape.pass_flops(arguments.train) / times.median_ms / 1e6,
            roofline_ms: least.map(|[physical, _]| physical),
            roofline_share: least.map(|[physical, _]| physical / on_device_ms.unwrap_or(times.median_ms)),
            dispatch_roofline_ms: least.map(|[_, dispatched]| dispatched),
        })
    }
}

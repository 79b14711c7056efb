//! The output of a bench: JSON lines for programs, a table for people.

use std::fmt;

use gatewise::text::shown;
use gatewise::{Device, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::machine::{Machine, driver};
use super::shapes::Shape;
use super::times::Times;
use crate::choice::adapter;
use crate::output::{self, Stream, say};

/// One measurement; its fields are a contract.
#[derive(Serialize)]
pub(super) struct Measurement<'a> {
    pub(super) shape: &'a str,
    pub(super) cell: &'a str,
    #[serde(rename = "I")]
    pub(super) input: usize,
    #[serde(rename = "H")]
    pub(super) hidden: usize,
    pub(super) layers: usize,
    pub(super) directions: usize,
    #[serde(rename = "T")]
    pub(super) time: usize,
    #[serde(rename = "B")]
    pub(super) batch: usize,
    /// `forward` or `training`.
    pub(super) pass: &'static str,
    pub(super) dtype: &'static str,
    pub(super) device: &'static str,
    pub(super) adapter: Option<String>,
    pub(super) threads: usize,
    /// Competing threads beside the measurement.
    pub(super) load: usize,
    pub(super) plan: String,
    pub(super) dispatches: u64,
    pub(super) submits: u64,
    #[serde(flatten)]
    pub(super) times: Times,
    /// The median by the GPU's own clock, without submission and read-back.
    pub(super) on_device_ms: Option<f64>,
    pub(super) gflops: f64,
    /// The least time that the device's peaks allow.
    pub(super) roofline_ms: Option<f64>,
    /// The least time as a part of the time by the device's own clock, or of the median if it has no clock.
    pub(super) roofline_share: Option<f64>,
    /// The least time with one dispatch per step.
    pub(super) dispatch_roofline_ms: Option<f64>,
}

/// The result of a shape on a device.
pub(super) enum Entry<'a> {
    Measured(Box<Measurement<'a>>),
    /// The reason why the shape was not timed.
    Skipped(String),
}

impl Entry<'_> {
    fn median_ms(&self) -> Option<f64> {
        match self {
            Self::Measured(measurement) => Some(measurement.times.median_ms),
            Self::Skipped(_) => None,
        }
    }
}

/// A shape on every device.
pub(super) struct Row<'a> {
    pub(super) shape: &'a Shape,
    pub(super) entries: Vec<Entry<'a>>,
}

/// The JSON line of an entry.
pub(super) fn line(entry: &Entry<'_>, shape: &Shape, device: &Device, machine: &Machine) -> Value {
    let mut line = match entry {
        Entry::Measured(measurement) => json!(measurement),
        Entry::Skipped(reason) => {
            let (kind, adapter) = adapter(device);
            json!({ "shape": shape.name, "device": kind, "adapter": adapter, "skipped": reason })
        }
    };
    if let (Value::Object(line), Value::Object(machine)) = (&mut line, json!(machine)) {
        line.insert("driver".to_owned(), json!(driver(device)));
        line.extend(machine);
    }
    line
}

/// The batch size from which on the second device is faster, for one hidden size and number of steps.
#[derive(Serialize)]
pub(super) struct Crossover {
    #[serde(rename = "H")]
    hidden: usize,
    #[serde(rename = "T")]
    time: usize,
    /// The least batch size from which on the second device stays faster; `None` if it is not faster at the largest one.
    #[serde(rename = "B")]
    batch: Option<usize>,
    #[serde(skip)]
    device: String,
}

impl fmt::Display for Crossover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hidden, time, batch, device } = self;
        match batch {
            Some(batch) => write!(f, "H = {hidden}, T = {time}: {device} is faster from B = {batch} on"),
            None => write!(f, "H = {hidden}, T = {time}: {device} is not faster at the largest batch"),
        }
    }
}

/// Finds the batches from which on the second of two devices is faster, for sizes that were measured with several batches.
pub(super) fn crossovers(devices: &[&Device], rows: &[Row<'_>]) -> Vec<Crossover> {
    let [_, second] = devices else { return Vec::new() };
    let family = |row: &Row<'_>| (row.shape.cell.clone(), row.shape.hidden, row.shape.time);
    let mut found = Vec::new();
    for group in rows.chunk_by(|a, b| family(a) == family(b) && a.shape.batch < b.shape.batch) {
        if group.len() < 3 {
            continue;
        }
        let faster = |row: &Row<'_>| match row.entries.iter().map(Entry::median_ms).collect::<Vec<_>>()[..] {
            [Some(first), Some(second)] => Some(second < first),
            _ => None,
        };
        let known: Vec<(usize, bool)> = group.iter().filter_map(|row| Some((row.shape.batch, faster(row)?))).collect();
        let batch = known.iter().rev().take_while(|(_, faster)| *faster).last().map(|(batch, _)| *batch);
        let (hidden, time) = (group[0].shape.hidden, group[0].shape.time);
        found.push(Crossover { hidden, time, batch, device: second.to_string() });
    }
    found
}

/// Prints two lines per shape: every device's median, its share of the least time, and the ratio of two devices; then mean, 99th
/// percentile and longest pass. Explains the columns.
pub(super) fn print_table(devices: &[&Device], rows: &[Row<'_>], train: bool) -> Result<()> {
    let names: Vec<String> = rows.iter().map(|row| shown(&row.shape.name).to_string()).collect();
    let sizes: Vec<String> = rows.iter().map(|row| row.shape.sizes()).collect();
    let widest =
        |column: &[String], head: &str| column.iter().map(|text| text.chars().count()).fold(head.len(), usize::max);
    let (name_width, size_width) = (widest(&names, "shape"), widest(&sizes, "sizes"));
    let both = devices.len() == 2;
    let mut head = format!("{:<name_width$}  {:<size_width$}", "shape", "sizes");
    devices.iter().for_each(|device| head += &format!(" {:>COLUMN$}", column_head(device)));
    say!("{head}{}", if both { "    ratio" } else { "" })?;
    let (mut reasons, mut shares) = (Vec::new(), false);
    for ((row, name), sizes) in rows.iter().zip(&names).zip(&sizes) {
        let mut line = format!("{name:<name_width$}  {sizes:<size_width$}");
        let mut spread = " ".repeat(name_width + 2 + size_width);
        for entry in &row.entries {
            match entry {
                Entry::Measured(measurement) => {
                    let share = measurement.roofline_share.map_or(String::new(), |s| format!(" ({:.0} %)", 100.0 * s));
                    shares |= !share.is_empty();
                    let text = format!("{:.3} ms{share}", measurement.times.median_ms);
                    line += &format!(" {text:>COLUMN$}");
                    spread += &format!(" {:>COLUMN$}", spread_of(&measurement.times));
                }
                Entry::Skipped(reason) => {
                    line += &format!(" {:>COLUMN$}", "-");
                    spread += &" ".repeat(1 + COLUMN);
                    reasons.push(format!("{name}: {reason}"));
                }
            }
        }
        match row.entries.iter().map(Entry::median_ms).collect::<Vec<_>>()[..] {
            [Some(first), Some(second)] => say!("{line} {:>8.2}", first / second)?,
            _ => say!("{line}")?,
        }
        if row.entries.iter().any(|entry| entry.median_ms().is_some()) {
            say!("{}", Stream::Out.paint(spread.trim_end(), &output::faint()))?;
        }
    }
    reasons.iter().try_for_each(|reason| say!("{reason}"))?;
    let notes = column_notes(train, shares, both);
    notes.iter().try_for_each(|text| say!("{}", Stream::Out.paint(text, &output::faint())))
}

/// The width of a device's column in characters.
const COLUMN: usize = 26;

fn column_head(device: &Device) -> String {
    let name = match device.cpu() {
        Some(cpu) => format!("{device}, {} thread(s)", cpu.threads()),
        None => device.to_string(),
    };
    name.chars().take(COLUMN).collect()
}

/// Mean, 99th percentile and maximum in milliseconds, in at most [`COLUMN`] characters.
fn spread_of(times: &Times) -> String {
    let short = |ms: f64| match ms {
        ..10.0 => format!("{ms:.3}"),
        ..100.0 => format!("{ms:.2}"),
        ..1000.0 => format!("{ms:.1}"),
        ..1e6 => format!("{ms:.0}"),
        _ => format!("{ms:.1e}"),
    };
    format!("{} / {} / {}", short(times.mean_ms), short(times.p99_ms), short(times.max_ms))
}

/// The explanations of the columns, one sentence each.
fn column_notes(train: bool, shares: bool, both: bool) -> Vec<&'static str> {
    let pass = if train {
        "ms: the median of all passes; a pass runs forward and back, to the gradients of all weights and of the input."
    } else {
        "ms: the median of all passes; a pass runs from the input to the output on the host."
    };
    let sizes = "sizes: cell, layers and directions; I inputs, H hidden units, T time steps, B rows of the batch.";
    let spread = "second line: the mean / the 99th percentile / the longest of all passes, in ms.";
    let share =
        "%: the least time that the device's own peaks allow, as a part of its time; 100 % is as fast as can be.";
    let ratio = "ratio: the first device's time divided by the second's; above 1 the second is faster.";
    [Some(sizes), Some(pass), Some(spread), shares.then_some(share), both.then_some(ratio)]
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{COLUMN, Entry, Measurement, Row, crossovers, spread_of};
    use crate::bench::shapes::Shape;
    use crate::bench::times::Times;
    use gatewise::Device;

    fn measured(median_ms: f64) -> Entry<'static> {
        let times = Times::of(vec![median_ms; 3]).expect("samples");
        Entry::Measured(Box::new(Measurement {
            shape: "x",
            cell: "lstm",
            input: 1,
            hidden: 1,
            layers: 1,
            directions: 1,
            time: 1,
            batch: 1,
            pass: "forward",
            dtype: "f32",
            device: "cpu",
            adapter: None,
            threads: 1,
            load: 0,
            plan: "none".to_owned(),
            dispatches: 0,
            submits: 0,
            times,
            on_device_ms: None,
            gflops: 1.0,
            roofline_ms: None,
            roofline_share: None,
            dispatch_roofline_ms: None,
        }))
    }

    #[test]
    fn a_spread_fits_its_column() {
        let of = |samples: &[f64]| spread_of(&Times::of(samples.to_vec()).expect("samples"));
        assert_eq!(of(&[0.25, 0.5, 30.0]), "10.25 / 30.00 / 30.00");
        // Ten budgets of an hour.
        assert!(of(&[3.6e7; 2]).len() <= COLUMN);
    }

    fn found(times: &[(Option<f64>, Option<f64>)]) -> Vec<Option<usize>> {
        let shapes: Vec<Shape> =
            (0..times.len()).map(|at| Shape::new(format!("b{at}"), "lstm", 8, 8, 1, 1 << at)).collect();
        let entry = |time: Option<f64>| time.map_or(Entry::Skipped("too large".to_owned()), measured);
        let row = |(shape, (a, b)): (&'static Shape, &(Option<f64>, Option<f64>))| Row {
            shape,
            entries: vec![entry(*a), entry(*b)],
        };
        let shapes: &'static [Shape] = shapes.leak();
        let rows: Vec<Row<'_>> = shapes.iter().zip(times).map(row).collect();
        crossovers(&[&Device::Cpu, &Device::Reference], &rows).into_iter().map(|crossover| crossover.batch).collect()
    }

    #[test]
    fn the_crossover_is_where_the_second_device_stays_faster() {
        let of = |a: f64, b: f64| (Some(a), Some(b));
        assert_eq!(found(&[of(1.0, 5.0), of(2.0, 5.0), of(6.0, 5.0), of(9.0, 5.0)]), [Some(4)]);
        assert_eq!(found(&[of(6.0, 5.0), of(2.0, 5.0), of(4.0, 5.0), of(9.0, 5.0)]), [Some(8)]);
        assert_eq!(found(&[of(1.0, 5.0), of(2.0, 5.0), of(3.0, 5.0)]), [None]);
        assert_eq!(found(&[of(9.0, 5.0), of(9.0, 5.0), of(9.0, 5.0)]), [Some(1)]);
        assert_eq!(found(&[of(1.0, 5.0), of(9.0, 5.0), (Some(9.0), None)]), [Some(2)]);
        assert!(found(&[of(1.0, 5.0), of(9.0, 5.0)]).is_empty(), "two sizes are no series");
    }
}

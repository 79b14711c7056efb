//! `gatewise bench --serve`: the protocol of a harness that alternates between programs. Commands arrive on standard input, one
//! per line, and each is answered with one JSON line:
//!
//! ```text
//! bench NAME BUDGET_MS MIN_RUNS     loads the shape and warms it up if it is not loaded
//! drop NAME
//! quit
//! ```
//!
//! A run is a forward pass to the output on the host; with `--train` also the backward pass of half the sum of the squared
//! outputs. Weights, input and a float64 reference come from `$PEERS_ROOT/data/NAME`.

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use gatewise::cell::WeightType;
use gatewise::{Device, Error, Result, files};
use serde_json::{Value, json};

use super::measure::{Budget, Given, Learning, Loaded, milliseconds, series, warm_up};
use super::shapes::Shape;
use crate::output;

pub(super) fn serve(device: &Device, shapes: &[Shape], dtype: WeightType, train: bool) -> Result<()> {
    let root = std::env::var_os("PEERS_ROOT").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let mut server = Server { device, shapes, dtype, train, data: root.join("data"), subjects: HashMap::new() };
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|error| Error::io("standard input", error))?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words[..] {
            ["quit"] => return Ok(()),
            ["drop", name] => {
                server.subjects.remove(name);
                json!({ "dropped": name })
            }
            ["bench", name, budget, min_runs] => server.answer(name, budget, min_runs),
            _ => json!({ "error": format!("unknown command {line:?}") }),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(output::failed)?;
    }
    Ok(())
}

struct Server<'a> {
    device: &'a Device,
    shapes: &'a [Shape],
    dtype: WeightType,
    train: bool,
    data: PathBuf,
    subjects: HashMap<String, Subject>,
}

/// The timed pass: forward, or forward and back.
enum Work {
    Infers(Box<Loaded>),
    Learns(Box<Learning>),
}

impl Work {
    fn run(&mut self) -> Result<()> {
        match self {
            Self::Infers(loaded) => loaded.run(),
            Self::Learns(learning) => learning.run(),
        }
    }

    fn errors(&self, expected: &[f64]) -> Result<(f64, f64)> {
        Ok(match self {
            Self::Infers(loaded) => errors(loaded.output().iter().copied(), expected),
            Self::Learns(learning) => errors(learning.output()?.into_iter(), expected),
        })
    }
}

/// A loaded and warmed shape.
struct Subject {
    work: Work,
    facts: Value,
}

impl Server<'_> {
    fn answer(&mut self, name: &str, budget: &str, min_runs: &str) -> Value {
        let result = match (budget.parse(), min_runs.parse()) {
            (Ok(budget), Ok(min_runs)) => {
                let answer = Budget::new(budget, min_runs).and_then(|budget| self.bench(name, budget));
                answer.map_err(|error| error.to_string())
            }
            _ => Err("bench NAME BUDGET_MS MIN_RUNS".to_owned()),
        };
        let threads = super::threads(self.device);
        let mut answer = json!({ "peer": "gatewise", "shape": name, "dtype": self.dtype.name(), "threads": threads });
        let facts = result.unwrap_or_else(|error| json!({ "error": error }));
        if let (Some(answer), Value::Object(facts)) = (answer.as_object_mut(), facts) {
            answer.extend(facts);
        }
        answer
    }

    fn bench(&mut self, name: &str, budget: Budget) -> Result<Value> {
        let shape = self.shapes.iter().find(|shape| shape.name == name).ok_or_else(|| Error::Value {
            op: "bench",
            what: "shape",
            expected: "a name of the suite",
            found: name.to_owned(),
        })?;
        if !self.subjects.contains_key(name) {
            let subject = Subject::load(self, shape, &self.data.join(name))?;
            self.subjects.insert(name.to_owned(), subject);
        }
        let Some(subject) = self.subjects.get_mut(name) else { return Ok(Value::Null) };
        let times = series(budget, || subject.work.run())?;
        let mut answer = subject.facts.clone();
        answer["median_ms"] = json!(times.median_ms);
        answer["mean_ms"] = json!(times.mean_ms);
        answer["p99_ms"] = json!(times.p99_ms);
        answer["min_ms"] = json!(times.min_ms);
        answer["max_ms"] = json!(times.max_ms);
        answer["runs"] = json!(times.runs);
        answer["gflops"] = json!(shape.pass_flops(self.train) / times.median_ms / 1e6);
        Ok(answer)
    }
}

impl Subject {
    fn load(server: &Server<'_>, shape: &Shape, data: &Path) -> Result<Self> {
        let Server { device, dtype, train, .. } = *server;
        let floats = |name: &str| read(&data.join(format!("{name}.f32")), f32::from_le_bytes);
        let expected: Vec<f64> = read(&data.join("y_ref.f64"), f64::from_le_bytes)?;
        let begin = Instant::now();
        let given = Given { x: floats("x")?, array: floats };
        let mut work = if train {
            Work::Learns(Box::new(Learning::new(device, shape, given)?))
        } else {
            Work::Infers(Box::new(Loaded::new(device, shape, dtype, given)?))
        };
        let load_ms = milliseconds(begin.elapsed());
        let begin = Instant::now();
        work.run()?;
        let first_ms = milliseconds(begin.elapsed());
        let (max, relative) = work.errors(&expected)?;
        let begin = Instant::now();
        let warm_runs = warm_up(|| work.run())?;
        let facts = json!({
            "load_ms": load_ms,
            "first_ms": first_ms,
            "warm_ms": milliseconds(begin.elapsed()),
            "warm_runs": warm_runs,
            "max_abs_err": max,
            "rel_rms_err": relative,
        });
        Ok(Self { work, facts })
    }
}

/// The largest difference, and the root of the mean square relative to the expected values.
fn errors(got: impl ExactSizeIterator<Item = f32>, expected: &[f64]) -> (f64, f64) {
    let whole = got.len() == expected.len();
    let (mut max, mut squares, mut scale) = (0.0_f64, 0.0, 0.0);
    for (got, &expected) in got.zip(expected) {
        let error = (f64::from(got) - expected).abs();
        max = if error.is_nan() { f64::NAN } else { max.max(error) };
        squares += error * error;
        scale += expected * expected;
    }
    if whole { (max, (squares / scale).sqrt()) } else { (f64::NAN, f64::NAN) }
}

fn read<const N: usize, T>(path: &Path, number: fn([u8; N]) -> T) -> Result<Vec<T>> {
    let bytes = files::read(path)?;
    Ok(bytes.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect())
}

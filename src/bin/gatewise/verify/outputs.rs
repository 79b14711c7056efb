//! What a case of one layer or operator computes on a path, by the names of the tensors it is compared with.

use gatewise::cell::WeightType;
use gatewise::{Device, Result};
use ndarray::{Array, ArrayD, Dimension};

use super::Verdict;
use super::case::Case;
use super::compare::Tolerance;

/// Where and how a case runs.
#[derive(Clone)]
pub(super) struct Path {
    pub(super) device: Device,
    pub(super) weight_type: WeightType,
}

/// A value, or the name of what no path carries out.
pub(super) type Supported<T> = std::result::Result<T, String>;

/// Named results of a case.
pub(super) struct Outputs {
    /// How much an error of the state may grow in one recurrent product.
    gain: f64,
    named: Vec<(String, ArrayD<f32>)>,
}

impl Outputs {
    pub(super) fn new(gain: f64) -> Self {
        Self { gain, named: Vec::new() }
    }

    pub(super) fn add<D: Dimension>(&mut self, name: &str, array: Array<f32, D>) {
        self.named.push((name.to_owned(), array.into_dyn()));
    }
}

/// Runs a case and compares every output with the oracle's; with narrow weights, which no oracle has, with the reference's on
/// the weights as that type holds them.
pub(super) fn judge(
    case: &Case,
    path: &Path,
    run: impl Fn(&Case, &Path) -> Result<Supported<Outputs>>,
) -> Result<Verdict> {
    let outputs = match run(case, path)? {
        Ok(outputs) => outputs,
        Err(option) => return Ok(super::unsupported(option)),
    };
    let tolerance = Tolerance {
        absolute: case.tolerance("fwd_abs")? + outputs.gain.max(1.0) * rounding(path),
        relative: case.tolerance("fwd_rel").unwrap_or(0.0),
        ..Tolerance::default()
    };
    let reference = match path.weight_type {
        WeightType::F32 => None,
        weight_type => run(case, &Path { device: Device::Reference, weight_type })?.ok(),
    };
    let mut verdict = Verdict::new();
    for (name, got) in &outputs.named {
        let computed = reference.iter().flat_map(|reference| &reference.named).find(|(of, _)| of == name);
        match computed {
            Some((_, expected)) => verdict.comparison.close(got, expected, tolerance),
            None => verdict.comparison.close(got, &case.floats(name)?, tolerance),
        }
    }
    Ok(verdict)
}

/// The CPU's products with 8-bit weights read the state rounded to 16 bits.
fn rounding(path: &Path) -> f64 {
    match (&path.device, path.weight_type) {
        (Device::Cpu | Device::CpuWith(_), WeightType::Int8) => 3e-4,
        _ => 0.0,
    }
}

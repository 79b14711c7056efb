//! Judges a case with one layer or operator. Each output has the name of the tensor that it is compared with.

use gatewise::cell::WeightType;
use gatewise::{Device, Result};
use ndarray::{Array, ArrayD, Dimension};

use super::Verdict;
use super::case::Case;
use super::compare::{Comparison, Tolerance};

/// The device and the weight type that a case runs with.
#[derive(Clone)]
pub(super) struct CasePath {
    pub(super) device: Device,
    pub(super) weight_type: WeightType,
}

/// A value, or the name of an option that no path supports.
pub(super) type Supported<T> = std::result::Result<T, String>;

/// Arrays, each with the name of the case's tensor that holds the expected values.
#[derive(Default)]
pub(super) struct NamedArrays(Vec<(String, ArrayD<f32>)>);

impl NamedArrays {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn add<D: Dimension>(&mut self, name: &str, array: Array<f32, D>) {
        self.0.push((name.to_owned(), array.into_dyn()));
    }

    fn get(&self, name: &str) -> Option<&ArrayD<f32>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, array)| array)
    }
}

/// The outputs of a case.
pub(super) struct Outputs {
    /// The largest growth of a state's error in one recurrent product.
    gain: f64,
    named: NamedArrays,
}

impl Outputs {
    pub(super) fn new(gain: f64) -> Self {
        Self { gain, named: NamedArrays::new() }
    }

    pub(super) fn add<D: Dimension>(&mut self, name: &str, array: Array<f32, D>) {
        self.named.add(name, array);
    }
}

/// Runs a case and compares every output with the oracle's. No oracle has narrow weights, so these are compared with the reference
/// on the rounded weights.
pub(super) fn judge(
    case: &Case,
    path: &CasePath,
    run: impl Fn(&Case, &CasePath) -> Result<Supported<Outputs>>,
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
        weight_type => run(case, &CasePath { device: Device::Reference, weight_type })?.ok(),
    };
    let mut verdict = Verdict::new();
    for (name, got) in &outputs.named.0 {
        match reference.as_ref().and_then(|reference| reference.named.get(name)) {
            Some(expected) => verdict.comparison.close(got, expected, tolerance),
            None => verdict.comparison.close(got, &case.floats(name)?, tolerance),
        }
    }
    Ok(verdict)
}

/// Runs a case forward and back, and compares every gradient of the oracle: the tensors `grad.NAME`.
pub(super) fn judge_gradients(
    case: &Case,
    path: &CasePath,
    verdict: Verdict,
    run: impl Fn(&Case, &CasePath) -> Result<Supported<NamedArrays>>,
) -> Result<Verdict> {
    if verdict.unsupported.is_some() {
        return Ok(verdict);
    }
    if path.weight_type != WeightType::F32 {
        return Ok(super::unsupported(format!("gradients of {} weights", path.weight_type)));
    }
    let named = match run(case, path)? {
        Ok(named) => named,
        Err(option) => return Ok(super::unsupported(option)),
    };
    let tolerance = case.tolerance("grad_rel_to_max")?;
    let mut comparison = Comparison::default();
    for name in case.names("grad.") {
        let expected = case.floats(&format!("grad.{name}"))?;
        // A missing gradient has a shape that never fits.
        let nothing = ArrayD::zeros(vec![0]);
        comparison.relative_to_max(named.get(&name).unwrap_or(&nothing), &expected, tolerance);
    }
    Ok(Verdict { gradients: Some(comparison), ..verdict })
}

/// The tolerance for rounding: the CPU's products with int8 weights round the state to 16 bits.
fn rounding(path: &CasePath) -> f64 {
    match (&path.device, path.weight_type) {
        (Device::Cpu | Device::CpuWith(_), WeightType::Int8) => 3e-4,
        _ => 0.0,
    }
}

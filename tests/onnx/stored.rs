//! Fixtures (`tests/fixtures/onnx/generate.py`): models, their inputs and outputs, and arrays of the golden cases.

use gatewise::onnx::Input;
use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, SafeTensors};

pub(crate) const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/onnx");

pub(crate) enum Stored {
    Float(ArrayD<f32>),
    Int(ArrayD<i64>),
    Bool(ArrayD<bool>),
}

impl From<Stored> for Input {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Float(x) => x.into(),
            Stored::Int(x) => x.into(),
            Stored::Bool(x) => x.into(),
        }
    }
}

/// The tensors of a fixture under a prefix, by the rest of their names.
pub(crate) fn stored(fixture: &str, prefix: &str) -> Vec<(String, Stored)> {
    arrays(&format!("{FOLDER}/{fixture}.safetensors"), prefix)
}

/// The tensors of a file under a prefix, by the rest of their names.
pub(crate) fn arrays(path: &str, prefix: &str) -> Vec<(String, Stored)> {
    let bytes = std::fs::read(path).expect("a fixture");
    let file = SafeTensors::deserialize(&bytes).expect("a sound fixture");
    let mut tensors: Vec<_> = file
        .iter()
        .filter_map(|(name, view)| {
            let name = name.strip_prefix(prefix)?.to_owned();
            let shape = IxDyn(view.shape());
            let floats = || view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            let longs = || view.data().as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect();
            let ints = || view.data().as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect();
            let stored = match view.dtype() {
                Dtype::F32 => Stored::Float(ArrayD::from_shape_vec(shape, floats()).expect("whole")),
                Dtype::I64 => Stored::Int(ArrayD::from_shape_vec(shape, longs()).expect("whole")),
                Dtype::I32 => Stored::Int(ArrayD::from_shape_vec(shape, ints()).expect("whole")),
                Dtype::BOOL => {
                    let bools = view.data().iter().map(|&x| x != 0).collect();
                    Stored::Bool(ArrayD::from_shape_vec(shape, bools).expect("whole"))
                }
                other => panic!("{name}: {other:?}"),
            };
            Some((name, stored))
        })
        .collect();
    assert!(!tensors.is_empty(), "{path}: {prefix}");
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

pub(crate) fn path(fixture: &str) -> String {
    format!("{FOLDER}/{fixture}.onnx")
}

/// The inputs that a model is run with.
pub(crate) fn inputs(fixture: &str) -> Vec<(String, Input)> {
    stored(fixture, "input.").into_iter().map(|(name, x)| (name, x.into())).collect()
}

pub(crate) fn borrowed(inputs: &[(String, Input)]) -> Vec<(&str, Input)> {
    inputs.iter().map(|(name, input)| (name.as_str(), input.clone())).collect()
}

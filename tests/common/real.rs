//! Whole models, their weights, and golden cases of what their own packages computed.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::sync::OnceLock;

use gatewise::Device;
use gatewise::gpu::GpuOptions;
use gatewise::weights::Weights;
use ndarray::{Array, ArrayD, Dimension, IxDyn};
use safetensors::SafeTensors;
use serde_json::Value;

use super::place::root;

pub(crate) fn weights(name: &str) -> Weights {
    Weights::from_file(root().join("models").join(name)).expect("weights")
}

pub(crate) fn gpu() -> Device {
    Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine")
}

pub(crate) fn devices() -> [Device; 3] {
    static GPU: OnceLock<Device> = OnceLock::new();
    [Device::Reference, Device::Cpu, GPU.get_or_init(gpu).clone()]
}

/// A golden case: its entry in the manifest, its tensors.
pub(crate) struct Case {
    pub(crate) entry: Value,
    bytes: Vec<u8>,
}

impl Case {
    pub(crate) fn new(name: &str) -> Self {
        let golden = root().join("tests/golden");
        let manifest = std::fs::read_to_string(golden.join("manifest.json")).expect("the manifest");
        let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
        let mut cases = manifest["cases"].as_array().expect("cases").iter();
        let entry = cases.find(|case| case["name"] == name && case["kind"] == "real").expect("the case").clone();
        let bytes = std::fs::read(golden.join(entry["file"].as_str().expect("file"))).expect("the case's file");
        Self { entry, bytes }
    }

    pub(crate) fn strings(&self, field: &str) -> Vec<String> {
        serde_json::from_value(self.entry[field].clone()).expect("a list of strings")
    }

    pub(crate) fn tolerance(&self, name: &str) -> f64 {
        self.entry["tol"][name].as_f64().expect("a tolerance")
    }

    pub(crate) fn tensor<T, D: Dimension>(&self, name: &str, read: fn([u8; 4]) -> T) -> Array<T, D> {
        let file = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let view = file.tensor(name).expect("the tensor");
        let values = view.data().as_chunks::<4>().0.iter().map(|word| read(*word)).collect();
        let array = ArrayD::from_shape_vec(IxDyn(view.shape()), values).expect("its shape");
        array.into_dimensionality().expect("its rank")
    }

    pub(crate) fn floats<D: Dimension>(&self, name: &str) -> Array<f32, D> {
        self.tensor(name, f32::from_le_bytes)
    }

    pub(crate) fn integers<D: Dimension>(&self, name: &str) -> Array<i32, D> {
        self.tensor(name, i32::from_le_bytes)
    }

    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.integers::<ndarray::Ix1>("lengths").iter().map(|&n| usize::try_from(n).expect("a length")).collect()
    }
}

/// Fails if an element is further from the expected one than `tolerance`, or is NaN.
pub(crate) fn close<D: Dimension>(what: &str, got: &Array<f32, D>, expected: &Array<f32, D>, tolerance: f64) {
    assert_eq!(got.shape(), expected.shape(), "{what}");
    let worst = got
        .iter()
        .zip(expected)
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most });
    assert!(worst <= tolerance, "{what}: {worst:e} of {tolerance:e}");
}

/// A safetensors file without one tensor, or with other metadata.
pub(crate) fn altered(name: &str, without: &str, metadata: &[(&str, &str)]) -> Weights {
    let bytes = std::fs::read(root().join("models").join(name)).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("sound");
    let tensors = file.tensors().into_iter().filter(|(name, _)| name != without);
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Weights::from_bytes(name, &safetensors::serialize(tensors, Some(metadata)).expect("sound")).expect("sound")
}

/// A file's weights with one element of a tensor changed.
pub(crate) fn spoiled(file: &str, tensor: &str, value: f32) -> Weights {
    let good = weights(file);
    let mut spoiled = Weights::new();
    for name in good.names() {
        let mut array: ArrayD<f32> = good.get(name).expect("there");
        if name == tensor {
            *array.iter_mut().last().expect("elements") = value;
        }
        spoiled.insert(name, array).expect("a name of its own");
    }
    // The dictionary of the Thai net.
    good.metadata("dic").into_iter().for_each(|text| spoiled.note("dic", text));
    spoiled
}

/// How a test builds a model of weights.
pub(crate) type Build = fn(&Weights) -> gatewise::Result<()>;

/// Fails unless every model refuses its weights with a NaN or an infinity in any tensor, and takes them as they were.
pub(crate) fn not_finite_is_refused(models: &[(&str, Build)]) {
    for (file, build) in models {
        let names: Vec<String> = weights(file).names().map(str::to_owned).collect();
        build(&spoiled(file, "", 0.0)).expect("as they were");
        for name in &names {
            for value in [f32::NAN, f32::NEG_INFINITY] {
                let error = build(&spoiled(file, name, value)).expect_err(name).to_string();
                let (nan, infinite) = if value.is_nan() { (1, 0) } else { (0, 1) };
                let words = format!("{name}: expected finite weights, found {nan} NaN, {infinite} infinite, first at ");
                assert!(error.contains(&words), "{file}: {error}");
            }
        }
    }
}

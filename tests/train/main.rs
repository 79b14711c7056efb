//! Training around the recurrent stacks: gradients of every operation and loss on every path, optimisers, clipping and
//! schedules against PyTorch, truncated back-propagation, runs that diverge, stop and go on, and what is refused.
#![cfg(feature = "gpu")]

mod checkpoints;
#[path = "../common/mod.rs"]
mod common;
mod gradients;
mod optimizers;
mod refusals;
mod runs;
mod tbptt;

use gatewise::weights::Weights;
use gatewise::{Device, Tensor};
use ndarray::ArrayD;

/// The tensors that PyTorch computed (`tests/fixtures/train/generate.py`).
fn pytorch() -> Weights {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/train/pytorch.safetensors");
    Weights::from_file(path).expect("the fixture")
}

fn devices() -> Vec<Device> {
    common::devices()
}

fn upload(device: &Device, array: &ArrayD<f32>) -> Tensor {
    Tensor::from_array(device, array).expect("an upload")
}

/// Compares element by element, relative to the largest one.
fn assert_close(what: &str, got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-3_f32, |most, x| most.max(x.abs()));
    for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (got - expected).abs();
        assert!(error <= tolerance * largest, "{what}[{at}]: {got}, expected {expected} ({largest} at most)");
    }
}

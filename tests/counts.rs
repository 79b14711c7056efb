//! The cost of a call on the GPU: one submission, the dispatches that its plan names, and once warm neither memory nor
//! compilation.
#![cfg(all(feature = "gpu", feature = "models"))]

#[path = "common/allocations.rs"]
mod allocations;
mod common;
#[path = "counts/dispatches.rs"]
mod dispatches;
#[path = "common/place.rs"]
mod place;
#[path = "counts/recorder.rs"]
mod recorder;
#[path = "counts/training.rs"]
mod training;
#[path = "counts/warm.rs"]
mod warm;

use gatewise::cell::{Cell, GruCell, LstmCell, Reset, RnnCell};
use gatewise::gpu::{Counters, GpuDevice};
use gatewise::nn::{Config, Merge};
use gatewise::{Device, Tensor};
use ndarray::Array3;

/// Counts the work of the device while `work` runs.
fn cost<T>(gpu: &GpuDevice, work: impl FnOnce() -> T) -> (Counters, T) {
    let before = gpu.counters();
    let result = work();
    let spent = gpu.counters() - before;
    (spent, result)
}

/// A cell of every schedule, with the dispatches that one of its steps takes at most.
fn cells() -> [(Cell, usize); 6] {
    [
        (RnnCell::default().into(), 1),
        (LstmCell::default().into(), 1),
        (LstmCell { peephole: true, ..LstmCell::LECTURE }.into(), 1),
        (LstmCell { projection: Some(3), ..Default::default() }.into(), 2),
        (GruCell::default().into(), 1),
        (GruCell { reset: Reset::Before, ..Default::default() }.into(), 2),
    ]
}

fn input(device: &Device, [time, batch, width]: [usize; 3]) -> Tensor {
    let wave = |(t, b, i): (usize, usize, usize)| ((5 * t + 3 * b + i) as f32 * 0.7).sin();
    Tensor::from_array(device, &Array3::from_shape_fn((time, batch, width), wave)).expect("input")
}

const BATCH: usize = 3;

/// Every stack is one of these: directions, merge, layers, and the dispatches of a layer in addition to its steps.
fn stacks(cell: Cell) -> Vec<(Config, usize, usize)> {
    let one = Config::new(cell, 5, 7);
    vec![
        (one.clone(), 1, 1),
        (one.clone().reverse().layers(2), 2, 1),
        (one.clone().bidirectional(Merge::Concat).layers(3), 3, 2),
        // Two directions' outputs take one dispatch to merge.
        (one.clone().bidirectional(Merge::Sum).layers(2), 2, 3),
        (one.clone().bidirectional(Merge::Ave), 1, 3),
    ]
}

//! Every misuse is one clear error that names the operation, the argument and what was expected; and after any error a state
//! holds its last good value.
#![cfg(all(feature = "gpu", feature = "models"))]

#[path = "errors/caller.rs"]
mod caller;
mod common;
#[path = "errors/configurations.rs"]
mod configurations;
#[path = "errors/limits.rs"]
mod limits;
#[path = "errors/lost.rs"]
mod lost;
#[path = "errors/shapes.rs"]
mod shapes;

use common::bits;
use gatewise::nn::State;
use gatewise::{Device, Error, Tensor};
use ndarray::Array3;

/// Fails unless a call was refused with exactly this message.
#[track_caller]
fn refused<T>(result: Result<T, Error>, expected: &str) -> Error {
    match result {
        Ok(_) => panic!("accepted, wanted: {expected}"),
        Err(error) => {
            assert_eq!(error.to_string(), expected);
            error
        }
    }
}

/// Every bit of a state.
#[track_caller]
fn value(state: &State) -> Vec<u32> {
    let s = state.to_s().expect("s").map_or_else(Vec::new, |s| bits(&s));
    [bits(&state.to_h().expect("h")), s].concat()
}

/// A tensor of the given shape, every element another number.
#[track_caller]
fn tensor(device: &Device, shape: &[usize]) -> Tensor {
    let len = shape.iter().product::<usize>();
    Tensor::from_vec(device, shape, (0..len).map(|at| (at as f32 * 0.37).sin()).collect()).expect("a tensor")
}

/// `[T, B, I]` filled with something.
fn array(time: usize, batch: usize, width: usize) -> Array3<f32> {
    Array3::from_shape_fn((time, batch, width), |(t, b, i)| ((5 * t + 3 * b + i) as f32 * 0.7).sin())
}

//! Tensors, the operations around the cells, and the layers made of them.

use gatewise::cell::Activation;
use gatewise::nn::{Conv1d, Embedding, Linear};
use gatewise::ops::{self, Binary, Conv1dGeometry, Math, PadMode, Reduction, Slice};
use gatewise::{Device, Recorder, Result, Tensor};
use ndarray::{Array2, Array3, Ix2};

use crate::{bits, devices, each_fails, failing, numbers, tensor};

/// Every large allocation of a recorded operation fails.
#[track_caller]
fn fails(device: &Device, name: &str, record: impl Fn(&mut Recorder) -> Result<Tensor>) {
    let call = || {
        let mut recorder = device.recorder();
        let y = record(&mut recorder)?;
        recorder.submit()?;
        Ok(y)
    };
    each_fails(&format!("{name} on {device}"), call, bits);
}

#[test]
fn tensors() {
    let _alone = failing::alone();
    for device in devices() {
        let array = Array2::from_shape_fn((60, 40), |(row, column)| (row * column) as f32);
        let x = tensor(&device, &[40, 60]);
        each_fails("zeros", || Tensor::zeros(&device, &[60, 40]), bits);
        each_fails("from_array", || Tensor::from_array(&device, &array), bits);
        each_fails("from_array, transposed", || Tensor::from_array(&device, &array.t()), bits);
        each_fails("to_vec", || x.to_vec(), numbers);
        each_fails("to_array", || x.to_array::<Ix2>(), numbers);
    }
}

#[test]
fn element_by_element_and_along_rows() {
    let _alone = failing::alone();
    for device in devices() {
        let (x, y) = (tensor(&device, &[1100, 4]), tensor(&device, &[1100, 4]));
        fails(&device, "activation", |r| ops::activation(r, Activation::Tanh, &x));
        fails(&device, "math", |r| ops::math(r, Math::Exp, &x));
        fails(&device, "binary", |r| ops::binary(r, Binary::Mul, &x, &y));
        fails(&device, "binary_halves", |r| ops::binary_halves(r, Binary::Hypot, &x));
        fails(&device, "reduce_rows", |r| ops::reduce_rows(r, Reduction::Mean, &x));
        fails(&device, "argmax_rows", |r| ops::argmax_rows(r, &x));
        fails(&device, "softmax", |r| ops::softmax(r, &x));
    }
}

#[test]
fn products() {
    let _alone = failing::alone();
    for device in devices() {
        let (a, b, bias) = (tensor(&device, &[70, 40]), tensor(&device, &[40, 50]), tensor(&device, &[50]));
        let (x, filter, offset) = (tensor(&device, &[2, 8, 200]), tensor(&device, &[6, 8, 5]), tensor(&device, &[6]));
        let geometry = Conv1dGeometry { stride: 2, padding: 3 };
        fails(&device, "matmul", |r| ops::matmul(r, &a, &b, None));
        fails(&device, "matmul with a bias", |r| ops::matmul(r, &a, &b, Some(&bias)));
        fails(&device, "conv1d", |r| ops::conv1d(r, &x, &filter, &offset, geometry));
    }
}

#[test]
fn elements_moved() {
    let _alone = failing::alone();
    for device in devices() {
        let (x, y) = (tensor(&device, &[30, 60]), tensor(&device, &[30, 60]));
        let rows: Vec<usize> = (0..700).map(|row| row % 30).collect();
        let scores = tensor(&device, &[1200, 30]);
        let slice = Slice { axis: 1, start: 55, step: -1, count: 50 };
        fails(&device, "pad1d", |r| ops::pad1d(r, &x, 9, 9, PadMode::Reflect));
        fails(&device, "permute", |r| ops::permute(r, &x, &[1, 0]));
        fails(&device, "slice", |r| ops::slice(r, &x, slice));
        fails(&device, "concat", |r| ops::concat(r, &[&x, &y], 1));
        fails(&device, "expand", |r| ops::expand(r, &x, &[2, 30, 60]));
        fails(&device, "gather_rows", |r| ops::gather_rows(r, &x, &rows));
        fails(&device, "gather_best", |r| Ok(ops::gather_best(r, &x, &scores)?.1));
    }
}

#[test]
fn layers_of_one_operation() {
    let _alone = failing::alone();
    for device in devices() {
        let weight = Array2::from_shape_fn((50, 40), |(row, column)| (row + column) as f32 * 0.01);
        let filters = Array3::from_shape_fn((20, 20, 5), |(o, c, k)| (o + c + k) as f32 * 0.01);
        let geometry = Conv1dGeometry { stride: 1, padding: 2 };
        let (rows, signal) = (tensor(&device, &[3, 8, 40]), tensor(&device, &[1, 20, 60]));
        each_fails("Linear", || Linear::new(&device, &weight, None)?.forward(&rows), bits);
        each_fails("Conv1d", || Conv1d::new(&device, &filters, None, geometry)?.forward(&signal), bits);
        each_fails("Embedding", || Embedding::new(&device, &weight)?.forward(&[4; 60]), bits);
    }
}

//! Operations that move elements, on every device, against `ndarray`'s own.
#![cfg(feature = "gpu")]

use gatewise::gpu::GpuOptions;
use gatewise::ops::{self, Slice};
use gatewise::{Device, Error, Recorder, Result, Tensor};
use ndarray::{Array2, Array3, ArrayD, Axis, IxDyn, s};

fn devices() -> Vec<Device> {
    let gpu = Device::gpu(&GpuOptions { software: true, ..Default::default() })
        .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine");
    vec![Device::Reference, Device::Cpu, gpu]
}

fn counted() -> Array3<f32> {
    Array3::from_shape_fn((3, 5, 70), |(a, b, c)| (a * 1000 + b * 100 + c) as f32)
}

/// Runs an operation on every device and compares it, element by element, with what it should be.
fn agree(expected: &ArrayD<f32>, op: impl Fn(&mut Recorder, &Tensor) -> Result<Tensor>) {
    for device in devices() {
        let x = Tensor::from_array(&device, &counted()).expect("input");
        let mut recorder = device.recorder();
        let y = op(&mut recorder, &x).expect("fits");
        recorder.submit().expect("runs");
        assert_eq!(&y.to_array::<IxDyn>().expect("result"), expected, "{device}");
    }
}

#[test]
fn axes_are_reordered() {
    for order in [[2, 0, 1], [1, 0, 2], [2, 1, 0], [0, 1, 2]] {
        let expected = counted().permuted_axes(order).as_standard_layout().into_owned().into_dyn();
        agree(&expected, |recorder, x| ops::permute(recorder, x, &order));
    }
}

#[test]
fn slices_run_both_ways() {
    let expected = counted().slice(s![.., .., 3..66;7]).to_owned().into_dyn();
    agree(&expected, |recorder, x| ops::slice(recorder, x, Slice { axis: 2, start: 3, step: 7, count: 9 }));
    let expected = counted().slice(s![.., 1..5;-2, ..]).to_owned().into_dyn();
    agree(&expected, |recorder, x| ops::slice(recorder, x, Slice { axis: 1, start: 4, step: -2, count: 2 }));
    let nothing = ArrayD::zeros(IxDyn(&[0, 5, 70]));
    agree(&nothing, |recorder, x| ops::slice(recorder, x, Slice { axis: 0, start: 0, step: 1, count: 0 }));
}

#[test]
fn parts_are_joined_along_any_axis() {
    for axis in 0..3 {
        let x = counted();
        let expected = ndarray::concatenate(Axis(axis), &[x.view(), x.view(), x.view()]).expect("fits").into_dyn();
        agree(&expected, |recorder, x| ops::concat(recorder, &[x, x, x], axis));
    }
}

#[test]
fn extents_of_one_are_repeated() {
    let row = counted().slice(s![1..2, .., 4..5]).to_owned();
    let expected = row.broadcast((2, 7, 5, 3)).expect("broadcasts").to_owned().into_dyn();
    agree(&expected, |recorder, _| {
        let row = Tensor::from_array(recorder.device(), &row)?;
        ops::expand(recorder, &row, &[2, 7, 5, 3])
    });
}

#[test]
fn rows_are_gathered_in_any_order() {
    let table = Array2::from_shape_fn((6, 67), |(row, column)| (row * 100 + column) as f32);
    let rows = [5, 0, 0, 3, 5];
    let expected = table.select(Axis(0), &rows).into_dyn();
    agree(&expected, |recorder, _| {
        let table = Tensor::from_array(recorder.device(), &table)?;
        ops::gather_rows(recorder, &table, &rows)
    });
}

#[test]
fn what_does_not_fit_is_refused() {
    for device in devices() {
        let x = Tensor::from_array(&device, &counted()).expect("input");
        let matrix = x.reshape(&[15, 70]).expect("fits");
        let mut recorder = device.recorder();
        let recorder = &mut recorder;
        let out = |start, step, count| Slice { axis: 1, start, step, count };
        for refused in [
            ops::permute(recorder, &x, &[0, 1, 1]),
            ops::permute(recorder, &x, &[0, 1]),
            ops::slice(recorder, &x, out(0, 1, 6)),
            ops::slice(recorder, &x, out(2, -1, 4)),
            ops::slice(recorder, &x, out(5, 1, 1)),
            ops::slice(recorder, &x, out(0, 0, 1)),
            ops::slice(recorder, &x, Slice { axis: 3, start: 0, step: 1, count: 1 }),
            ops::concat(recorder, &[&x], 3),
            ops::concat(recorder, &[], 0),
            ops::gather_rows(recorder, &matrix, &[2, 15]),
        ] {
            assert!(matches!(refused, Err(Error::Value { .. })), "{device}: {refused:?}");
        }
        for refused in [
            ops::concat(recorder, &[&x, &matrix], 0),
            ops::concat(recorder, &[&matrix, &x], 1),
            ops::expand(recorder, &x, &[3, 5, 71]),
            ops::expand(recorder, &x, &[5, 70]),
            ops::gather_rows(recorder, &x, &[0]),
        ] {
            assert!(matches!(refused, Err(Error::Shape { .. })), "{device}: {refused:?}");
        }
    }
}

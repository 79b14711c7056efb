//! Operations that move elements, on every device, against `ndarray`'s own.

use std::sync::OnceLock;

use gatewise::gpu::GpuOptions;
use gatewise::ops::{self, Slice};
use gatewise::{Device, Error, Recorder, Result, Tensor};
use ndarray::{Array1, Array2, Array3, ArrayD, Axis, IxDyn, s};

fn devices() -> Vec<Device> {
    static GPU: OnceLock<Device> = OnceLock::new();
    let gpu = GPU.get_or_init(|| {
        Device::gpu(&GpuOptions { software: true, ..Default::default() })
            .expect("install mesa-vulkan-drivers and libvulkan1: the GPU path is tested on every machine")
    });
    vec![Device::Reference, Device::Cpu, gpu.clone()]
}

fn counted() -> Array3<f32> {
    Array3::from_shape_fn((3, 5, 70), |(a, b, c)| (a * 1000 + b * 100 + c) as f32)
}

/// Runs an operation on every device and compares it with the expected result, element by element.
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

/// Scores with equals and negatives; some rows hold a NaN or infinities, some hold nothing but NaN.
fn scores(rows: usize, columns: usize) -> Array2<f32> {
    let mut rng = fastrand::Rng::with_seed((rows * 1000 + columns) as u64);
    // Few values, so that rows have equals.
    let mut scores = Array2::from_shape_simple_fn((rows, columns), || f32::from(rng.i8(-9..0)));
    for (row, special) in [(1, f32::NAN), (2, f32::NEG_INFINITY), (3, f32::INFINITY)] {
        scores.row_mut(row).iter_mut().step_by(3).for_each(|x| *x = special);
    }
    scores.row_mut(4).fill(f32::NAN);
    scores.row_mut(5).fill(f32::NEG_INFINITY);
    scores
}

/// The first of the largest, NaN left out; 0 where there is nothing else.
fn best(scores: &Array2<f32>) -> Vec<usize> {
    let one = |row: ndarray::ArrayView1<'_, f32>| {
        let numbers: Vec<(usize, f32)> = row.iter().copied().enumerate().filter(|(_, x)| !x.is_nan()).collect();
        let most = numbers.iter().map(|&(_, x)| x).fold(f32::NEG_INFINITY, f32::max);
        numbers.iter().find(|&&(_, x)| x == most).map_or(0, |&(column, _)| column)
    };
    scores.rows().into_iter().map(one).collect()
}

#[test]
fn the_largest_of_a_row_is_the_first_of_equals_and_never_nan() {
    for (rows, columns) in [(7, 1), (6, 3), (9, 63), (8, 64), (11, 65), (6, 746), (70_000, 5)] {
        let scores = scores(rows, columns);
        let expected: Array1<f32> = best(&scores).iter().map(|&column| column as f32).collect();
        agree(&expected.into_dyn(), |recorder, _| {
            let scores = Tensor::from_array(recorder.device(), &scores)?;
            ops::argmax_rows(recorder, &scores)
        });
    }
}

#[test]
fn the_best_rows_of_a_table_are_gathered() {
    let table = Array2::from_shape_fn((74, 67), |(row, column)| (row * 100 + column) as f32);
    let scores = scores(9, 74);
    let expected = table.select(Axis(0), &best(&scores)).into_dyn();
    agree(&expected, |recorder, _| {
        let table = Tensor::from_array(recorder.device(), &table)?;
        let scores = Tensor::from_array(recorder.device(), &scores)?;
        let (choices, rows) = ops::gather_best(recorder, &table, &scores)?;
        assert_eq!(choices.shape(), [9]);
        Ok(rows)
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
            ops::argmax_rows(recorder, &x),
            Tensor::zeros(&device, &[3, 0]).and_then(|empty| ops::argmax_rows(recorder, &empty)),
            ops::gather_best(recorder, &matrix, &matrix).map(|(_, rows)| rows),
        ] {
            assert!(matches!(refused, Err(Error::Shape { .. })), "{device}: {refused:?}");
        }
    }
}

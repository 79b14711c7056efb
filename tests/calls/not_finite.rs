//! NaN and infinities among weights and in a state: they stay the same on every device, or are refused.

use crate::common::devices;
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Parameters, RnnCell, WeightType};
use gatewise::nn::{Config, Merge, Recurrent};
use gatewise::ops::{self, Reduction};
use gatewise::{Device, Error, Tensor};
use ndarray::{Array3, ArrayViewMut1};

const TIME: usize = 4;
const BATCH: usize = 2;
const INPUT: usize = 3;

fn x() -> Array3<f32> {
    Array3::from_shape_fn((TIME, BATCH, INPUT), |(t, b, i)| ((t * 31 + b * 17 + i * 7 + 101) as f32 * 0.37).sin())
}

const RELU: RnnCell = RnnCell { activation: Activation::Relu, gate_clip: None, bias: true };

fn cells() -> [Cell; 5] {
    [
        RnnCell::default().into(),
        RELU.into(),
        LstmCell { peephole: true, cell_clip: Some(0.5), ..LstmCell::default() }.into(),
        LstmCell { projection: Some(4), ..LstmCell::default() }.into(),
        GruCell::default().into(),
    ]
}

fn config(cell: Cell, hidden: usize, kind: WeightType) -> Config<Cell> {
    Config::new(cell, INPUT, hidden).bidirectional(Merge::Concat).weight_type(kind)
}

/// The outputs and the last state.
fn run(device: &Device, stack: &Recurrent) -> Vec<f32> {
    let mut state = stack.zero_state(BATCH).expect("a state");
    let y = stack.forward(&Tensor::from_array(device, &x()).expect("x"), &mut state).expect("a result");
    let mut values = y.to_vec().expect("a read-back");
    values.extend(state.to_h().expect("h").iter());
    values
}

/// Where a number is put.
type PickParameter = fn(&mut Parameters) -> Option<ArrayViewMut1<'_, f32>>;

const PLACES: [(&str, PickParameter); 5] = [
    ("weight_ih", |p| Some(p.weight_ih.row_mut(1))),
    ("weight_hh", |p| Some(p.weight_hh.row_mut(2))),
    ("weight_hr", |p| Some(p.weight_hr.as_mut()?.row_mut(1))),
    ("bias_hh", |p| Some(p.bias_hh.as_mut()?.view_mut())),
    ("peephole", |p| Some(p.peephole.as_mut()?.row_mut(1))),
];

#[test]
fn weights_of_every_type_of_floats_keep_nan_and_infinities_on_every_device() {
    let devices = devices();
    let sizes = [(WeightType::F32, 5), (WeightType::F32, 130), (WeightType::F16, 5), (WeightType::Bf16, 5)];
    let odds = [f32::NAN, f32::NEG_INFINITY, 1e38];
    let cases = sizes.into_iter().flat_map(|size| cells().map(|cell| (size, cell)));
    let cases = cases.flat_map(|case| PLACES.into_iter().flat_map(move |place| odds.map(|odd| (case, place, odd))));
    for (((kind, hidden), cell), (name, place), odd) in cases {
        let config = config(cell, hidden, kind);
        // The reference computes in f64, which holds what this would grow to.
        let grows = cell == RELU.into() && odd.is_finite();
        // A closed gate is 0 in the reference and 1e-38 elsewhere: such a large projection would show the difference.
        let projects = name == "weight_hr" && !odd.is_nan();
        // Biases and peepholes are f32 in any case.
        let narrow = name.starts_with("weight_");
        if grows || projects || (!narrow && kind != WeightType::F32) {
            continue;
        }
        let mut parameters = config.random_parameters(1).expect("parameters");
        let Some(mut row) = place(&mut parameters[0][1]) else { continue };
        row[1] = odd;
        let what = format!("{odd} in {name} of {cell:?} of {hidden}, {kind}");
        let mut expected = Vec::new();
        for device in &devices {
            let stack = config.build(device, parameters.clone()).expect("every type of floats holds it");
            if narrow {
                let mut kept = stack.parameters().expect("a read-back");
                let kept = place(&mut kept[0][1]).expect("the matrix")[1];
                assert_eq!((kept.is_nan(), kept.is_infinite()), (odd.is_nan(), odd.is_infinite()), "{device}: {what}");
            }
            let found = run(device, &stack);
            if expected.is_empty() {
                assert!(!odd.is_nan() || found.iter().any(|y| y.is_nan()), "{what}: lost");
                expected = found;
                continue;
            }
            for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let close = (found - expected).abs() < 1e-4 * expected.abs().max(1.0);
                let alike = found == expected || (found.is_nan() && expected.is_nan()) || close;
                assert!(alike, "{device}: {what}: {at} is {found}, not {expected}");
            }
        }
    }
}

#[test]
fn int8_weights_that_are_not_finite_are_refused_alike_on_every_device() {
    for cell in cells() {
        let config = config(cell, 5, WeightType::Int8).layers(2);
        for ((name, place), odd) in
            PLACES.into_iter().flat_map(|place| [f32::NAN, f32::NEG_INFINITY].map(|odd| (place, odd)))
        {
            let mut parameters = config.random_parameters(1).expect("parameters");
            let Some(mut row) = place(&mut parameters[1][1]) else { continue };
            row[1] = odd;
            let narrow = name.starts_with("weight_");
            for device in devices() {
                let error = match config.build(&device, parameters.clone()) {
                    Err(error) => error,
                    // Biases and peepholes stay f32.
                    Ok(_) if !narrow => continue,
                    Ok(_) => panic!("{device}: {odd} in {name} is accepted"),
                };
                assert!(narrow && matches!(error, Error::Value { .. }), "{device}, {name}: {error}");
                let row = if name == "weight_hh" { 2 } else { 1 };
                let words = format!(
                    "Recurrent: int8 weights must be finite (int8 holds no NaN and no infinity; f32, f16 and bf16 do), got {odd} in \
                     {name}[{row}, 1] of layer 1, reverse"
                );
                assert_eq!(error.to_string(), words, "{device}");
            }
        }
    }
}

#[test]
fn the_maximum_of_a_row_with_a_nan_is_nan_on_every_device() {
    const COLUMNS: usize = 130;
    let rows = [(Some(0), f32::NAN), (Some(64), -f32::NAN), (Some(129), f32::NAN), (None, 0.0)];
    let mut x = vec![f32::NEG_INFINITY; rows.len() * COLUMNS];
    for (row, (nan, value)) in rows.into_iter().enumerate() {
        x[row * COLUMNS + 7] = f32::INFINITY;
        x[row * COLUMNS + 8] = 1.0;
        nan.into_iter().for_each(|at| x[row * COLUMNS + at] = value);
    }
    for device in devices() {
        let x = Tensor::from_vec(&device, &[rows.len(), COLUMNS], x.clone()).expect("x");
        let mut recorder = device.recorder();
        let y = ops::reduce_rows(&mut recorder, Reduction::Max, &x).expect("fits");
        recorder.submit().expect("runs");
        let y = y.to_vec().expect("a read-back");
        assert!(y[..3].iter().all(|y| y.is_nan()) && y[3] == f32::INFINITY, "{device}: {y:?}");
    }
}

/// The integer products of the CPU read a state rounded to 16 bits.
#[test]
fn a_state_that_16_bits_cannot_hold_becomes_no_wrong_number() {
    let hidden = 20;
    let identity = RnnCell { activation: Activation::Identity, bias: false, ..RnnCell::default() };
    let config = Config::new(Cell::from(identity), INPUT, hidden).weight_type(WeightType::Int8);
    let mut parameters = config.random_parameters(1).expect("parameters");
    parameters[0][0].weight_hh.mapv_inplace(f32::abs);
    let step = |device: &Device, h: Array3<f32>| -> Vec<f32> {
        let stack = config.build(device, parameters.clone()).expect("finite");
        let mut state = stack.state(h.view(), None).expect("a state");
        let x = Tensor::zeros(device, &[1, BATCH, INPUT]).expect("x");
        stack.forward(&x, &mut state).expect("a result").to_vec().expect("a read-back")
    };
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let h = Array3::from_shape_fn((1, BATCH, hidden), |(_, b, u)| if (b, u) == (0, 3) { odd } else { 0.5 });
        let expected = step(&Device::Reference, h.clone());
        let found = step(&Device::Cpu, h);
        assert!(found[..hidden].iter().all(|y| y.is_nan()), "{odd}: {found:?}");
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-3;
        assert!(found[hidden..].iter().zip(&expected[hidden..]).all(near), "{odd}: {found:?}");
    }
    // So small that its scale has no inverse.
    let found = step(&Device::Cpu, Array3::from_elem((1, BATCH, hidden), 1e-36));
    assert!(found.iter().all(|y| (0.0..1e-34).contains(y)), "{found:?}");
}

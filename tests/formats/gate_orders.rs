//! Gate orders of Keras and ONNX. Every number encodes its gate, unit and input, so a block in the wrong place is seen.

use gatewise::Error;
use gatewise::cell::{Cell, Forget, GruCell, LstmCell, Parameters, Reset, RnnCell};
use gatewise::weights::layout::{GateOrder, KerasArrays, OnnxArrays};
use ndarray::{Array1, Array2, ArrayD, Axis, array};

const INPUT: usize = 2;
const HIDDEN: usize = 3;

/// The number of a gate, which does not depend on the order.
fn code(gate: &str) -> f32 {
    ["h", "i", "f", "g", "o", "r", "z", "n"].iter().position(|known| *known == gate).expect("a gate") as f32
}

/// `[G hidden, columns]` in the given order: `gate.unit column` as digits, `side` as the sign of another array.
fn matrix(gates: &[&str], columns: usize, side: f32) -> Array2<f32> {
    Array2::from_shape_fn((gates.len() * HIDDEN, columns), |(row, column)| {
        side * (100.0 * code(gates[row / HIDDEN]) + 10.0 * (row % HIDDEN) as f32 + column as f32 + 1.0)
    })
}

fn vector(gates: &[&str], side: f32) -> Array1<f32> {
    matrix(gates, 1, side).remove_axis(Axis(1))
}

const IH: f32 = 1.0;
const HH: f32 = -1.0;
const BIAS_IH: f32 = 0.5;
const BIAS_HH: f32 = -0.5;

/// The parameters that this crate should hold.
fn parameters(cell: &Cell, one_bias: bool) -> Parameters {
    let gates = cell.gates();
    let bias_hh = if one_bias { Array1::zeros(gates.len() * HIDDEN) } else { vector(gates, BIAS_HH) };
    Parameters {
        weight_ih: matrix(gates, INPUT, IH),
        weight_hh: matrix(gates, HIDDEN, HH),
        bias_ih: cell.bias().then(|| vector(gates, BIAS_IH)),
        bias_hh: cell.bias().then_some(bias_hh),
        weight_hr: None,
        peephole: cell.peephole().then(|| array![[1.0, 2.0, 3.0], [7.0, 8.0, 9.0], [4.0, 5.0, 6.0]]),
    }
}

fn gru(reset: Reset) -> Cell {
    GruCell { reset, ..Default::default() }.into()
}

/// The order of the stored gates, written out instead of derived from the library.
fn keras_gates(cell: &Cell) -> &'static [&'static str] {
    match cell {
        Cell::Rnn(_) => &["h"],
        Cell::Lstm(_) => &["i", "f", "g", "o"],
        Cell::Gru(_) => &["z", "r", "n"],
        cell => panic!("a cell without a test: {cell:?}"),
    }
}

fn onnx_gates(cell: &Cell) -> &'static [&'static str] {
    match cell {
        Cell::Rnn(_) => &["h"],
        Cell::Lstm(_) => &["i", "o", "f", "g"],
        Cell::Gru(_) => &["z", "r", "n"],
        cell => panic!("a cell without a test: {cell:?}"),
    }
}

#[test]
fn keras_arrays_become_parameters_and_back() {
    let bare = |cell: LstmCell| Cell::from(LstmCell { bias: false, ..cell });
    for cell in [
        RnnCell::default().into(),
        LstmCell::default().into(),
        bare(LstmCell::default()),
        gru(Reset::Before),
        gru(Reset::After),
    ] {
        let gates = keras_gates(&cell);
        let two = cell == gru(Reset::After);
        let (ih, hh) = (vector(gates, BIAS_IH), vector(gates, BIAS_HH));
        let bias: ArrayD<f32> = if two {
            ndarray::stack(Axis(0), &[ih.view(), hh.view()]).expect("equal lengths").into_dyn()
        } else {
            ih.into_dyn()
        };
        let arrays = KerasArrays {
            kernel: matrix(gates, INPUT, IH).reversed_axes(),
            recurrent_kernel: matrix(gates, HIDDEN, HH).reversed_axes(),
            bias: cell.bias().then_some(bias),
        };
        let expected = parameters(&cell, !two);
        assert_eq!(arrays.to_parameters(&cell).expect("fits"), expected, "{cell:?}");
        assert_eq!(KerasArrays::from_parameters(&cell, &expected).expect("fits"), arrays, "{cell:?}");
    }
}

#[test]
fn one_keras_bias_is_the_sum_of_two() {
    let cell = LstmCell::default().into();
    let arrays = KerasArrays::from_parameters(&cell, &parameters(&cell, false)).expect("fits");
    let gates = keras_gates(&cell);
    assert_eq!(arrays.bias, Some((vector(gates, BIAS_IH) + vector(gates, BIAS_HH)).into_dyn()));
}

#[test]
fn onnx_arrays_become_parameters_and_back() {
    for cell in [
        RnnCell::default().into(),
        LstmCell::default().into(),
        LstmCell { bias: false, peephole: true, ..Default::default() }.into(),
        gru(Reset::Before),
        gru(Reset::After),
    ] {
        let gates = onnx_gates(&cell);
        let b = ndarray::concatenate(Axis(0), &[vector(gates, BIAS_IH).view(), vector(gates, BIAS_HH).view()]);
        let arrays = OnnxArrays {
            w: matrix(gates, INPUT, IH),
            r: matrix(gates, HIDDEN, HH),
            b: cell.bias().then(|| b.expect("vectors")),
            p: cell.peephole().then(|| array![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]),
        };
        let expected = parameters(&cell, false);
        assert_eq!(arrays.to_parameters(&cell).expect("fits"), expected, "{cell:?}");
        assert_eq!(OnnxArrays::from_parameters(&cell, &expected).expect("fits"), arrays, "{cell:?}");
    }
}

#[test]
fn a_coupled_lstm_leaves_the_stored_forget_gate_out() {
    let cell: Cell = LstmCell { forget: Forget::Coupled, bias: false, ..Default::default() }.into();
    let gates = onnx_gates(&cell);
    let mut arrays = OnnxArrays { w: matrix(gates, INPUT, IH), r: matrix(gates, HIDDEN, HH), b: None, p: None };
    assert_eq!(arrays.to_parameters(&cell).expect("fits"), parameters(&cell, false));
    for stored in [&mut arrays.w, &mut arrays.r] {
        stored.slice_mut(ndarray::s![2 * HIDDEN..3 * HIDDEN, ..]).fill(0.0);
    }
    assert_eq!(OnnxArrays::from_parameters(&cell, &parameters(&cell, false)).expect("fits"), arrays);
}

#[test]
fn pytorchs_order_is_this_crates() {
    for cell in [RnnCell::default().into(), LstmCell::default().into(), gru(Reset::After)] {
        let rows = matrix(cell.gates(), INPUT, IH);
        assert_eq!(GateOrder::PyTorch.read(&cell, 0, rows.view()).expect("fits"), rows);
        assert_eq!(GateOrder::PyTorch.write(&cell, 0, rows.view()).expect("fits"), rows);
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let cell: Cell = LstmCell::default().into();
    let gates = keras_gates(&cell);
    let good = KerasArrays {
        kernel: matrix(gates, INPUT, IH).reversed_axes(),
        recurrent_kernel: matrix(gates, HIDDEN, HH).reversed_axes(),
        bias: Some(vector(gates, BIAS_IH).into_dyn()),
    };
    let wrong = [
        ("kernel", KerasArrays { kernel: Array2::zeros((INPUT, 5)), ..good.clone() }),
        ("recurrent_kernel", KerasArrays { recurrent_kernel: Array2::zeros((HIDDEN, 11)), ..good.clone() }),
        ("bias", KerasArrays { bias: Some(ArrayD::zeros(vec![2, 12])), ..good.clone() }),
        ("bias_ih", KerasArrays { bias: None, ..good.clone() }),
    ];
    for (name, arrays) in wrong {
        let error = arrays.to_parameters(&cell).expect_err(name);
        assert!(matches!(&error, Error::Shape { what, .. } if what.ends_with(name)), "{name}: {error}");
    }
    let error = good.to_parameters(&gru(Reset::After)).expect_err("four gates are not three");
    assert!(matches!(error, Error::Shape { .. }), "{error}");
    for (cell, option) in [
        (LstmCell { peephole: true, ..Default::default() }, "peephole"),
        (LstmCell { projection: Some(2), ..Default::default() }, "projection 2"),
        (LstmCell { forget: Forget::Coupled, ..Default::default() }, "forget Coupled"),
    ] {
        let error = KerasArrays::from_parameters(&cell.into(), &parameters(&cell.into(), false)).expect_err(option);
        assert_eq!(error.to_string(), format!("layout: {option} is not supported by Keras"));
    }
}

//! Arrays and devices that do not fit a call.

use gatewise::cell::{Activation, Sequence};
use gatewise::nn::{Conv1d, Embedding, Gru, Linear, Lstm, Merge, Recurrent, State};
use gatewise::ops::{self, Binary, Conv1dGeometry, PadMode, Reduction, Slice};
use gatewise::{Device, Error, Tensor};
use ndarray::{Array1, Array2, Array3, Axis, Ix2, Ix3};

use crate::common::{devices, gpu};
use crate::{array, refused, tensor, value};

/// Fails unless a call on a running LSTM is refused and changes nothing: the next good call computes what it would have.
#[track_caller]
fn keeps_its_state(
    device: &Device,
    call: impl FnOnce(&Lstm, &mut State) -> Result<Tensor, Error>,
    expected: &str,
) -> Error {
    let lstm = Lstm::config(3, 4).layers(2).bidirectional(Merge::Sum).random(device, 5).expect("a stack");
    let x = tensor(device, &[5, 2, 3]);
    let mut state = lstm.zero_state(2).expect("state");
    lstm.forward(&x, &mut state).expect("runs");
    let mut twin = state.try_clone().expect("a copy");
    let before = value(&state);
    let error = refused(call(&lstm, &mut state), expected);
    assert_eq!(value(&state), before, "{device}");
    let after = lstm.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("runs");
    assert_eq!(after, lstm.forward(&x, &mut twin).and_then(|y| y.to_vec()).expect("runs"), "{device}");
    error
}

#[test]
fn an_input_that_does_not_fit_a_stack() {
    for device in devices() {
        let case = |shape: &'static [usize], expected: &str| {
            let run = |lstm: &Lstm, state: &mut State| lstm.forward(&tensor(&device, shape), state);
            let error = keeps_its_state(&device, run, expected);
            assert!(matches!(error, Error::Shape { op: "Recurrent", .. }));
        };
        case(&[5, 2, 4], "Recurrent: x must be [5, 2, 3], got [5, 2, 4]");
        case(&[5, 6], "Recurrent: x must be [T, B, input], got [5, 6]");
        case(&[1, 5, 2, 3], "Recurrent: x must be [T, B, input], got [1, 5, 2, 3]");
        case(&[5, 3, 3], "Recurrent: the state's h must be [4, 3, 4], got [4, 2, 4]");
    }
}

#[test]
fn a_state_of_another_stack() {
    for device in devices() {
        let x = tensor(&device, &[5, 2, 3]);
        let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
        let states = [
            (Lstm::config(3, 4).layers(2).random(&device, 5).and_then(|other| other.zero_state(2)), "h", "[2, 2, 4]"),
            (Lstm::config(3, 5).random(&device, 5).and_then(|other| other.zero_state(2)), "h", "[1, 2, 5]"),
            (Gru::config(3, 4).random(&device, 5).and_then(|other| other.zero_state(2)), "s", "[]"),
        ];
        for (state, what, found) in states {
            let mut state = state.expect("a state");
            let before = value(&state);
            let expected = format!("Recurrent: the state's {what} must be [1, 2, 4], got {found}");
            refused(lstm.forward(&x, &mut state), &expected);
            assert_eq!(value(&state), before, "{device}");
        }
        let gru = Gru::config(3, 4).random(&device, 5).expect("a stack");
        let mut state = lstm.zero_state(2).expect("a state");
        refused(gru.forward(&x, &mut state), "Recurrent: the state's s must be [], got [1, 2, 4]");
    }
}

#[test]
fn instructions_that_do_not_fit_the_steps() {
    for device in devices() {
        let case = |sequence: Sequence, expected: &str| {
            let run =
                |lstm: &Lstm, state: &mut State| lstm.forward_sequence(&tensor(&device, &[5, 2, 3]), state, &sequence);
            keeps_its_state(&device, run, expected)
        };
        let error = case(Sequence::new().lengths([5]), "sequence: lengths must be [2], got [1]");
        assert!(matches!(error, Error::Shape { what: "lengths", .. }));
        let error = case(Sequence::new().lengths([5, 6]), "sequence: lengths must be at most T, got 6");
        assert!(matches!(error, Error::Value { what: "lengths", .. }));
        let flags = |shape: (usize, usize)| Array2::from_elem(shape, true);
        case(Sequence::new().mask(flags((2, 5))), "sequence: mask must be [5, 2], got [2, 5]");
        case(Sequence::new().reset(flags((5, 3))), "sequence: reset must be [5, 2], got [5, 3]");
        case(Sequence::new().lengths([1, 2]).mask(flags((4, 2))), "sequence: mask must be [5, 2], got [4, 2]");
    }
}

#[test]
fn a_value_that_is_no_state_of_the_stack() {
    for device in devices() {
        let lstm = Lstm::config(3, 4).layers(2).random(&device, 5).expect("a stack");
        let gru = Gru::config(3, 4).random(&device, 5).expect("a stack");
        let good = array(2, 3, 4);
        let s = Some(good.view());
        refused(lstm.state(array(1, 3, 4).view(), s), "state: h must be [2, 3, 4], got [1, 3, 4]");
        refused(lstm.state(array(2, 3, 5).view(), s), "state: h must be [2, 3, 4], got [2, 3, 5]");
        refused(lstm.state(good.view(), None), "state: s must be [2, 3, 4], got []");
        refused(lstm.state(good.view(), Some(array(2, 2, 4).view())), "state: s must be [2, 3, 4], got [2, 2, 4]");
        let one = array(1, 3, 4);
        refused(gru.state(one.view(), Some(one.view())), "state: s must be [], got [1, 3, 4]");
    }
}

#[test]
fn tensors_of_impossible_shapes() {
    for device in devices() {
        let short = Tensor::from_vec(&device, &[2, 3], vec![0.0; 5]);
        let error = refused(short, "Tensor::from_vec: data must be [6], got [5]");
        assert!(matches!(error, Error::Shape { .. }));
        let x = tensor(&device, &[2, 3]);
        refused(x.reshape(&[4, 2]), "reshape: tensor must be 8 elements for [4, 2], got [2, 3]");
        refused(x.to_array::<Ix3>(), "to_array: tensor must be of rank 3, got [2, 3]");
        // More elements than can be counted.
        let endless = [usize::MAX, 3];
        let beyond = |op: &str, what: &str| {
            format!("{op}: {what} must be of at most {} elements, got {endless:?}", isize::MAX / 4)
        };
        refused(Tensor::zeros(&device, &endless), &beyond("Tensor::zeros", "shape"));
        refused(Tensor::from_vec(&device, &endless, vec![]), &beyond("Tensor::from_vec", "shape"));
        refused(x.reshape(&endless), &beyond("reshape", "shape"));
        let one = tensor(&device, &[1, 1]);
        refused(ops::expand(&mut device.recorder(), &one, &endless), &beyond("expand", "shape"));
        let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
        let error = lstm.zero_state(usize::MAX).expect_err("more rows than can be counted");
        assert!(matches!(error, Error::Shape { op: "Tensor::zeros", .. }), "{error}");
    }
}

#[test]
fn operands_that_do_not_fit_an_operation() {
    for device in devices() {
        let mut recorder = device.recorder();
        let recorder = &mut recorder;
        let t = |shape: &[usize]| tensor(&device, shape);
        refused(ops::binary(recorder, Binary::Add, &t(&[2, 3]), &t(&[3, 2])), "binary: b must be [2, 3], got [3, 2]");
        refused(
            ops::binary_halves(recorder, Binary::Hypot, &t(&[2, 5])),
            "binary_halves: x must be [M, 2 N], got [2, 5]",
        );
        refused(ops::binary_halves(recorder, Binary::Add, &t(&[4])), "binary_halves: x must be [M, 2 N], got [4]");

        let (a, b) = (t(&[2, 3]), t(&[3, 4]));
        refused(ops::matmul(recorder, &t(&[6]), &b, None), "matmul: a must be [M, K], got [6]");
        refused(ops::matmul(recorder, &a, &t(&[3, 4, 1]), None), "matmul: b must be [K, N], got [3, 4, 1]");
        refused(ops::matmul(recorder, &a, &t(&[4, 3]), None), "matmul: b must be [3, 3], got [4, 3]");
        refused(ops::matmul(recorder, &a, &b, Some(&t(&[3]))), "matmul: bias must be [4], got [3]");

        let (x, weight, bias) = (t(&[2, 3, 8]), t(&[4, 3, 3]), t(&[4]));
        let plain = Conv1dGeometry { stride: 1, padding: 0 };
        refused(ops::conv1d(recorder, &t(&[6, 8]), &weight, &bias, plain), "conv1d: x must be [N, C, L], got [6, 8]");
        refused(ops::conv1d(recorder, &x, &t(&[4, 9]), &bias, plain), "conv1d: weight must be [O, C, K], got [4, 9]");
        refused(
            ops::conv1d(recorder, &x, &t(&[4, 2, 3]), &bias, plain),
            "conv1d: weight must be [4, 3, 3], got [4, 2, 3]",
        );
        refused(ops::conv1d(recorder, &x, &weight, &t(&[3]), plain), "conv1d: bias must be [4], got [3]");
        let still = Conv1dGeometry { stride: 0, padding: 0 };
        let error =
            refused(ops::conv1d(recorder, &x, &weight, &bias, still), "conv1d: stride must be at least 1, got 0");
        assert!(matches!(error, Error::Value { what: "stride", .. }));
        refused(
            ops::conv1d(recorder, &t(&[2, 3, 2]), &weight, &bias, plain),
            "conv1d: x must be [N, C, L] with L at least 3, got [2, 3, 2]",
        );
        refused(
            ops::conv1d(recorder, &x, &t(&[4, 3, 0]), &bias, plain),
            "conv1d: weight must be [O, C, K] with K at least 1, got [4, 3, 0]",
        );

        refused(
            ops::pad1d(recorder, &t(&[2, 5]), 1, 5, PadMode::Reflect),
            "pad1d: x must be [.., L] with L above 5, got [2, 5]",
        );
        refused(ops::pad1d(recorder, &t(&[]), 1, 1, PadMode::Zero), "pad1d: x must be [.., L], got []");
        refused(ops::reduce_rows(recorder, Reduction::Sum, &t(&[6])), "reduce_rows: x must be [M, N], got [6]");
        refused(
            ops::reduce_rows(recorder, Reduction::Mean, &t(&[2, 0])),
            "reduce_rows: x must be [M, N] with N at least 1, got [2, 0]",
        );
        // Sums of sizes that wrap around.
        refused(
            ops::pad1d(recorder, &t(&[2, 5]), usize::MAX, 3, PadMode::Zero),
            "pad1d: x must be [.., L] that can be padded by 18446744073709551615 and 3, got [2, 5]",
        );
        let wide = Conv1dGeometry { stride: 1, padding: usize::MAX / 2 + 1 };
        refused(
            ops::conv1d(recorder, &x, &weight, &bias, wide),
            "conv1d: x must be [N, C, L] that can be padded by 9223372036854775808 and 9223372036854775808, got [2, 3, 8]",
        );
    }
}

#[test]
fn weights_and_inputs_that_do_not_fit_a_layer() {
    for device in devices() {
        let weight = Array2::from_elem((3, 4), 0.5);
        refused(Linear::new(&device, &weight, Some(&Array1::zeros(4))), "Linear::new: bias must be [3], got [4]");
        let linear = Linear::new(&device, &weight, None).expect("fits");
        refused(linear.forward(&tensor(&device, &[2, 3])), "Linear: x must be [.., 4], got [2, 3]");
        refused(linear.forward(&tensor(&device, &[])), "Linear: x must be [.., 4], got []");

        let geometry = Conv1dGeometry { stride: 1, padding: 0 };
        let kernel = Array3::from_elem((3, 2, 3), 0.5);
        let short = Conv1d::new(&device, &kernel, Some(&Array1::zeros(2)), geometry);
        refused(short, "Conv1d::new: bias must be [3], got [2]");
        let conv = Conv1d::new(&device, &kernel, None, geometry).expect("fits");
        refused(conv.forward(&tensor(&device, &[1, 3, 9])), "conv1d: weight must be [3, 3, 3], got [3, 2, 3]");

        let embedding = Embedding::new(&device, &weight).expect("fits");
        refused(
            embedding.forward(&[0, 1, 3]),
            "gather_rows: rows must be below the table's rows, got 3 at 2 of a table of 3 rows",
        );
    }
}

#[test]
fn values_on_another_device() {
    let devices = devices();
    for (here, there) in [(0, 1), (1, 0), (1, 2), (2, 1), (2, 0)].map(|(a, b)| (&devices[a], &devices[b])) {
        let found = |op: &str, what: &str| format!("{op}: {what} lives on {there}, expected {here}");
        let run = |lstm: &Lstm, state: &mut State| lstm.forward(&tensor(there, &[5, 2, 3]), state);
        let error = keeps_its_state(here, run, &found("Recurrent", "x"));
        assert!(matches!(error, Error::DeviceMismatch { op: "Recurrent", what: "x", .. }));

        let lstm = Lstm::config(3, 4).random(here, 5).expect("a stack");
        let x = tensor(here, &[5, 2, 3]);
        let mut state = Lstm::config(3, 4).random(there, 5).and_then(|other| other.zero_state(2)).expect("state");
        refused(lstm.forward(&x, &mut state), &found("Recurrent", "state"));
        let run = |lstm: &Lstm, state: &mut State| {
            lstm.record(&mut there.recorder(), &tensor(here, &[5, 2, 3]), state, &Sequence::new())
        };
        keeps_its_state(here, run, &format!("Recurrent: recorder lives on {there}, expected {here}"));
        let kept = lstm.zero_state(2).expect("state");
        refused(kept.h_tensor(&mut there.recorder()), &format!("State: state lives on {here}, expected {there}"));

        let mut recorder = here.recorder();
        let recorder = &mut recorder;
        let (a, b) = (tensor(here, &[4, 4]), tensor(there, &[4, 4]));
        let flat = tensor(there, &[4]);
        refused(ops::activation(recorder, Activation::Relu, &b), &found("activation", "x"));
        refused(ops::binary(recorder, Binary::Add, &a, &b), &found("binary", "b"));
        refused(ops::binary(recorder, Binary::Add, &b, &a), &found("binary", "a"));
        refused(ops::binary_halves(recorder, Binary::Add, &b), &found("binary_halves", "x"));
        refused(ops::matmul(recorder, &b, &a, None), &found("matmul", "a"));
        refused(ops::matmul(recorder, &a, &b, None), &found("matmul", "b"));
        refused(ops::matmul(recorder, &a, &a, Some(&flat)), &found("matmul", "bias"));
        let geometry = Conv1dGeometry { stride: 1, padding: 0 };
        let (x, weight, bias) = (tensor(here, &[1, 2, 8]), tensor(here, &[4, 2, 2]), tensor(here, &[4]));
        let far = |shape: &[usize]| tensor(there, shape);
        refused(ops::conv1d(recorder, &far(&[1, 2, 8]), &weight, &bias, geometry), &found("conv1d", "x"));
        refused(ops::conv1d(recorder, &x, &far(&[4, 2, 2]), &bias, geometry), &found("conv1d", "weight"));
        refused(ops::conv1d(recorder, &x, &weight, &flat, geometry), &found("conv1d", "bias"));
        refused(ops::pad1d(recorder, &b, 1, 1, PadMode::Zero), &found("pad1d", "x"));
        refused(ops::reduce_rows(recorder, Reduction::Max, &b), &found("reduce_rows", "x"));
        refused(ops::permute(recorder, &b, &[1, 0]), &found("permute", "x"));
        refused(ops::slice(recorder, &b, Slice { axis: 0, start: 0, step: 1, count: 2 }), &found("slice", "x"));
        refused(ops::concat(recorder, &[&a, &b], 0), &found("concat", "x"));
        refused(ops::expand(recorder, &b, &[2, 4, 4]), &found("expand", "x"));
        refused(ops::gather_rows(recorder, &b, &[1]), &found("gather_rows", "table"));
        let linear = Linear::new(here, &Array2::from_elem((3, 4), 0.5), None).expect("fits");
        refused(linear.forward(&b), &found("matmul", "a"));
        let embedding = Embedding::new(here, &Array2::from_elem((3, 4), 0.5)).expect("fits");
        refused(
            embedding.record(&mut there.recorder(), &[0]),
            &format!("gather_rows: table lives on {here}, expected {there}"),
        );
    }
}

#[test]
fn two_openings_of_one_gpu_are_two_devices_and_the_message_says_so() {
    let (here, there) = (Device::Gpu(gpu()), Device::Gpu(gpu()));
    assert!(!here.is_same(&there) && here.is_same(&here.clone()));
    let run = |lstm: &Lstm, state: &mut State| lstm.forward(&tensor(&there, &[5, 2, 3]), state);
    let expected = format!("Recurrent: x lives on another opening of {there}, expected {here}");
    keeps_its_state(&here, run, &expected);
}

/// A call that fails half-way through recording leaves nothing in the recorder that could change a state.
#[test]
fn a_recorder_with_a_refused_call_in_it_can_still_be_submitted() {
    for device in devices() {
        let stack: Recurrent<_> = Gru::config(3, 4).layers(3).random(&device, 5).expect("a stack");
        let mut state = stack.zero_state(2).expect("state");
        stack.forward(&tensor(&device, &[5, 2, 3]), &mut state).expect("runs");
        let before = value(&state);
        let mut recorder = device.recorder();
        let long = Sequence::new().lengths([9, 9]);
        let x = tensor(&device, &[5, 2, 3]);
        stack.record(&mut recorder, &x, &mut state, &long).expect_err("too long");
        let sum = ops::reduce_rows(&mut recorder, Reduction::Sum, &tensor(&device, &[2, 3])).expect("fits");
        recorder.submit().expect("runs");
        assert_eq!(value(&state), before, "{device}");
        let expected = tensor(&Device::Cpu, &[2, 3]).to_array::<Ix2>().expect("x").sum_axis(Axis(1));
        for (sum, expected) in sum.to_vec().expect("sums").into_iter().zip(expected) {
            assert!((sum - expected).abs() < 1e-6, "{device}");
        }
    }
}

//! The limits of legal calls: no steps, one step, one row, one unit, rows without a valid step; and calls so large for their
//! device that time is cut into chunks.

use crate::common::case::{self, Case, Directions, Instructions, Outcome};
use crate::common::{bits, devices, gpu, gpu_with};
use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, Mix, Pad, Reset, RnnCell, Sequence, WeightType};
use gatewise::nn::{Merge, TrainingOptions};
use gatewise::ops::{self, Conv1dGeometry};
use gatewise::{Device, Tensor};
use ndarray::{Array2, Array3};

/// One of each kind of schedule and of each equation.
fn cells(hidden: usize) -> Vec<Cell> {
    let mut cells: Vec<Cell> = vec![
        RnnCell::default().into(),
        LstmCell::default().into(),
        LstmCell { forget: Forget::Coupled, peephole: true, ..LstmCell::LECTURE }.into(),
        GruCell::default().into(),
        GruCell {
            reset: Reset::Before,
            mix: Mix::TakesNew,
            gate: Activation::HARD_SIGMOID_KERAS3,
            ..Default::default()
        }
        .into(),
    ];
    if hidden > 1 {
        cells.push(LstmCell { projection: Some(hidden - 1), cell_clip: Some(0.5), ..Default::default() }.into());
    }
    cells
}

/// A call without instructions from a given state.
fn plain(cell: Cell, [time, batch, hidden]: [usize; 3], directions: Directions) -> Case {
    let instructions = Instructions { lengths: None, masked: None, reset: None, pad: Pad::Zero };
    Case {
        cell,
        reverse_cell: None,
        input: 3,
        hidden,
        layers: 2,
        directions,
        time,
        batch,
        instructions,
        weight_type: WeightType::F32,
        given_state: true,
        seed: 77,
    }
}

const DIRECTIONS: [Directions; 3] = [Directions::Forward, Directions::Reverse, Directions::Both(Merge::Concat)];

/// The state's part of an outcome.
fn state_bits(outcome: &Outcome<f32>) -> Vec<u32> {
    [bits(&outcome.h), bits(&outcome.s)].concat()
}

#[test]
fn sizes_of_one_compute_what_the_specification_says() {
    for device in devices() {
        for sizes in [[1, 3, 4], [4, 1, 4], [4, 3, 1], [1, 1, 1]] {
            for (cell, directions) in cells(sizes[2]).into_iter().flat_map(|cell| DIRECTIONS.map(|d| (cell, d))) {
                let case = plain(cell, sizes, directions);
                let arrays = case.arrays();
                let (expected, tolerance) = case.expectation(&arrays).expect("a tame cell");
                let distance = case.run(&device, &arrays).distance(&expected);
                assert!(distance <= tolerance, "{device}: off by {distance}\n{case:#?}");
            }
        }
    }
}

#[test]
fn no_steps_leave_an_empty_output_and_the_state_as_it_was() {
    for device in devices() {
        for (cell, directions) in cells(4).into_iter().flat_map(|cell| DIRECTIONS.map(|d| (cell, d))) {
            let case = plain(cell, [0, 3, 4], directions);
            let arrays = case.arrays();
            for sequence in [Sequence::new(), Sequence::new().lengths([0, 0, 0]), Sequence::new().pad(Pad::Hold)] {
                let outcome = case.call(&device, &arrays, &sequence);
                assert_eq!(outcome.y.dim(), (0, 3, case.config().output_size()), "{device}");
                assert_eq!(state_bits(&outcome), [bits(&arrays.h), bits(&arrays.s)].concat(), "{device} {cell:?}");
            }
        }
    }
}

#[test]
fn no_rows_leave_an_empty_output() {
    for device in devices() {
        for cell in cells(4) {
            let case = plain(cell, [3, 0, 4], Directions::Both(Merge::Sum));
            let outcome = case.run(&device, &case.arrays());
            assert_eq!(outcome.y.dim(), (3, 0, case.config().output_size()), "{device}");
        }
    }
}

/// More steps than a call could run, in a call without rows.
#[test]
fn steps_without_rows_are_not_walked() {
    const STEPS: usize = 1 << 60;
    for device in devices() {
        for (cell, directions) in cells(16).into_iter().flat_map(|cell| DIRECTIONS.map(|d| (cell, d))) {
            let case = plain(cell, [0, 0, 16], directions);
            let arrays = case.arrays();
            let stack = case.stack(&device, &arrays);
            let shape = [STEPS, 0, stack.output_size()];
            let x = Tensor::zeros(&device, &[STEPS, 0, 3]).expect("no elements");
            let mut state = stack.zero_state(0).expect("a state");
            for sequence in [Sequence::new(), Sequence::new().lengths([]).pad(Pad::Hold)] {
                let y = stack.forward_sequence(&x, &mut state, &sequence).expect("an empty output");
                assert_eq!(y.shape(), shape, "{device} {cell:?}");
            }
            let wrong = Sequence::new().lengths([1]);
            assert!(stack.forward_sequence(&x, &mut state, &wrong).is_err(), "{device} {cell:?}");

            let stack = case.config().trainable(&device, &arrays.parameters).expect("a stack");
            for checkpoint in [None, Some(1)] {
                let (mut recorder, options) =
                    (device.recorder(), TrainingOptions { checkpoint, ..TrainingOptions::default() });
                let (y, tape) = stack
                    .record_training(&mut recorder, &x, &mut state, &Sequence::new(), &options)
                    .expect("an empty output");
                let d = tape.record_backward(&mut recorder, &y, None).expect("gradients");
                recorder.submit().expect("runs");
                assert_eq!((y.shape(), d.x.shape()), (&shape[..], x.shape()), "{device} {cell:?}");
                for ((_, parameter), d) in stack.tensors().zip(d.tensors()) {
                    assert_eq!(d.shape(), parameter.shape());
                    assert!(d.to_vec().expect("numbers").iter().all(|&d| d == 0.0), "{device} {cell:?}");
                }
            }
            let mut recorder = device.recorder();
            let wrong = stack.record_training(&mut recorder, &x, &mut state, &wrong, &TrainingOptions::default());
            assert!(wrong.is_err(), "{device} {cell:?}");
        }
        let stack = plain(RnnCell::default().into(), [0, 0, 4], Directions::Forward).config();
        let stack = stack.random(&device, 1).expect("a stack");
        let (x, mut y) = (Array3::zeros((STEPS, 0, 3)), Array3::zeros((STEPS, 0, 4)));
        stack.forward_into(x.view(), &mut stack.zero_state(0).expect("a state"), y.view_mut()).expect("nothing to do");
    }
}

#[test]
fn rows_without_a_valid_step_keep_their_state() {
    let nothing = [
        Sequence::new().lengths([0, 5, 0]),
        Sequence::new().mask(Array2::from_shape_fn((5, 3), |(_, row)| row == 1)),
        Sequence::new().lengths([2, 5, 0]).mask(Array2::from_shape_fn((5, 3), |(t, row)| row == 1 || t > 1)),
    ];
    for device in devices() {
        for (cell, directions) in cells(4).into_iter().flat_map(|cell| DIRECTIONS.map(|d| (cell, d))) {
            let case = plain(cell, [5, 3, 4], directions);
            let arrays = case.arrays();
            for (sequence, pad) in nothing.iter().flat_map(|s| [(s, Pad::Zero), (s, Pad::Hold)]) {
                let outcome = case.call(&device, &arrays, &sequence.clone().pad(pad));
                let steps: Vec<usize> = (0..5).collect();
                for row in [0, 2] {
                    let part = outcome.part(&steps, &[row]);
                    let given = arrays.part(&steps, &[row]);
                    assert_eq!(state_bits(&part), [bits(&given.h), bits(&given.s)].concat(), "{device} {cell:?}");
                    assert!(part.y.iter().all(|&y| y == 0.0), "{device} {cell:?} {pad:?}");
                }
                let moved = outcome.part(&steps, &[1]);
                assert_ne!(bits(&moved.h), bits(&arrays.part(&steps, &[1]).h), "{device} {cell:?}");
            }
        }
    }
}

#[test]
fn a_reset_row_without_a_valid_step_returns_to_the_initial_value() {
    for device in devices() {
        for (cell, directions) in cells(4).into_iter().flat_map(|cell| DIRECTIONS.map(|d| (cell, d))) {
            let case = plain(cell, [5, 3, 4], directions);
            let arrays = case.arrays();
            let stack = case.stack(&device, &arrays);
            let mut state = case.state(&stack, &arrays);
            case::forward(&stack, &arrays.x, &mut state, &Sequence::new());
            let moved = state.to_h().expect("h");
            let row_2 = |(t, row): (usize, usize)| row == 2 && t == 3;
            let sequence =
                Sequence::new().mask(Array2::from_elem((5, 3), false)).reset(Array2::from_shape_fn((5, 3), row_2));
            let y = case::forward(&stack, &arrays.x, &mut state, &sequence);
            let after = case::outcome(y, &state);
            let given = arrays.part(&[], &[2]);
            assert_eq!(
                state_bits(&after.part(&[], &[2])),
                [bits(&given.h), bits(&given.s)].concat(),
                "{device} {cell:?}"
            );
            for row in [0, 1] {
                let kept = moved.select(ndarray::Axis(1), &[row]);
                assert_eq!(bits(&after.part(&[], &[row]).h), bits(&kept), "{device} {cell:?}");
            }
        }
    }
}

#[test]
fn a_stride_beyond_the_signal_leads_to_one_window() {
    for device in devices() {
        let tensor = |shape: &[usize]| {
            let values = (0..shape.iter().product::<usize>()).map(|at| (at as f32).sin()).collect();
            Tensor::from_vec(&device, shape, values).expect("fits")
        };
        let (x, weight, bias) = (tensor(&[2, 3, 8]), tensor(&[4, 3, 3]), tensor(&[4]));
        let conv = |stride: usize| -> Vec<f32> {
            let mut recorder = device.recorder();
            let geometry = Conv1dGeometry { stride, padding: 1 };
            let y = ops::conv1d(&mut recorder, &x, &weight, &bias, geometry).expect("fits");
            recorder.submit().expect("runs");
            assert_eq!(y.shape(), [2, 4, 1], "{device}: stride {stride}");
            y.to_vec().expect("a read-back")
        };
        let expected = conv(8);
        for stride in [10, 11, 1 << 33, usize::MAX] {
            assert_eq!(conv(stride), expected, "{device}: stride {stride}");
        }
    }
}

#[test]
fn time_is_cut_into_chunks_where_a_binding_is_too_small_for_all_of_it() {
    let small = Device::Gpu(gpu_with(|limits| limits.max_storage_buffer_binding_size = 4096));
    let large = Device::Gpu(gpu());
    for (cell, directions) in cells(6).into_iter().flat_map(|cell| DIRECTIONS.map(|d| (cell, d))) {
        for reset in [None, Some(30)] {
            let case = plain(cell, [17, 5, 6], directions);
            let instructions = Instructions { lengths: Some(vec![17, 3, 0, 11, 16]), reset, ..case.instructions };
            let case = Case { instructions, ..case };
            let arrays = case.arrays();
            let chunks = |device: &Device| case.stack(device, &arrays).plan(17, 5).expect("fits").chunks().len();
            assert_eq!(chunks(&large), 1);
            // A step's input projection is rows x units x gates x directions; 4096 bytes hold at most 8 of them.
            let wide = cell.gates().len() > 1;
            assert!(!wide || chunks(&small) >= 2, "{cell:?} {directions:?}");
            let (expected, tolerance) = case.expectation(&arrays).expect("a tame cell");
            let distance = case.run(&small, &arrays).distance(&expected);
            assert!(distance <= tolerance, "off by {distance}\n{case:#?}");
        }
    }
}

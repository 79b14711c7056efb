//! Convolution and padding.

use gatewise::op::{Conv1dGeometry, PadMode};
use gatewise::reference;
use ndarray::{ArrayView1, ArrayView2, ArrayView3};

use super::{Case, Slot, WORKGROUPS, grid, n, wide};
use crate::support::{Tolerance, uniform};

pub(crate) fn conv1d() -> Vec<Case> {
    // count, channels, length, out_channels, kernel, stride, padding
    let shapes = [
        [1, 1, 1, 1, 1, 1, 0],
        [2, 3, 10, 4, 3, 1, 0],
        [2, 3, 10, 4, 3, 1, 1],
        [2, 3, 11, 4, 3, 2, 1],
        [2, 2, 10, 3, 5, 3, 2],
        [3, 2, 7, 2, 7, 1, 0],
        [2, 2, 2, 3, 5, 1, 4],
        [2, 2, 4, 3, 3, 1, 5],
        [1, 2, 63, 1, 1, 1, 0],
        [1, 2, 64, 1, 2, 1, 1],
        [1, 2, 129, 1, 2, 2, 0],
        [2, 0, 5, 3, 3, 1, 1],
        [0, 2, 5, 3, 3, 1, 1],
        [2, 5, 70, 9, 4, 1, 3],
    ];
    let mut cases = Vec::new();
    for (at, shape) in shapes.into_iter().enumerate() {
        let [count, channels, length, out, kernel, stride, padding] = shape;
        let x = uniform(11, count * channels * length, 1.0);
        let weight = uniform(12, out * channels * kernel, 1.0);
        let bias = uniform(13, out, 1.0);
        let (x64, weight64, bias64) = (wide(&x), wide(&weight), wide(&bias));
        let geometry = Conv1dGeometry { stride, padding };
        let y = reference::conv1d(
            ArrayView3::from_shape((count, channels, length), &x64).expect("fits"),
            ArrayView3::from_shape((out, channels, kernel), &weight64).expect("fits"),
            Some(ArrayView1::from(&bias64)),
            geometry,
        )
        .expect("room");
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        let out_length = geometry.output_length(length, kernel);
        cases.push(Case {
            name: format!("x [{count}, {channels}, {length}] out {out} kernel {kernel} {geometry:?} workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: [count, channels, length, out, out_length, kernel, stride, padding].map(n).to_vec(),
            buffers: vec![
                Slot::floats(&x),
                Slot::floats(&weight),
                Slot::floats(&bias),
                Slot::output(y.len()).near(0, y.iter().copied()),
            ],
            grid: grid(y.len(), size, at % 2 == 1),
            tolerance: Tolerance::sum(channels * kernel, 1.0),
        });
    }
    cases
}

pub(crate) fn pad1d() -> Vec<Case> {
    // count, length, left, right
    let shapes = [
        [1, 1, 0, 0],
        [1, 5, 4, 4],
        [2, 5, 2, 0],
        [2, 5, 0, 3],
        [3, 7, 1, 6],
        [1, 62, 1, 0],
        [1, 62, 1, 1],
        [1, 62, 2, 1],
        [2, 100, 20, 9],
        [0, 4, 1, 1],
    ];
    let mut cases = Vec::new();
    for mode in [PadMode::Zero, PadMode::Reflect] {
        // Only zeros can surround nothing, or reach further than the signal.
        let zeros_only = [[2, 0, 3, 2], [2, 0, 0, 0], [2, 3, 9, 70]];
        let more = if mode == PadMode::Zero { &zeros_only[..] } else { &[] };
        for (at, &[count, length, left, right]) in shapes.iter().chain(more).enumerate() {
            let x = uniform(21, count * length, 1.0);
            let y = reference::pad1d(ArrayView2::from_shape((count, length), &x).expect("fits"), left, right, mode)
                .expect("room");
            let size = WORKGROUPS[at % WORKGROUPS.len()];
            cases.push(Case {
                name: format!("{mode:?} x [{count}, {length}] by {left}, {right} workgroup {size}"),
                constants: vec![("WORKGROUP_SIZE", n(size)), ("REFLECT", mode as u32)],
                dims: [count, length, left, left + length + right].map(n).to_vec(),
                buffers: vec![Slot::floats(&x), Slot::output(y.len()).exactly(0, y.iter().copied())],
                grid: grid(y.len(), size, at % 2 == 1),
                tolerance: Tolerance { abs: 0.0, rel: 0.0 },
            });
        }
    }
    cases
}

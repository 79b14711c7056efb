//! Gradients of the operations around the cells.

use gatewise::op::Conv1dGeometry;
use gatewise::reference;
use ndarray::{ArrayView1, ArrayView2, ArrayView3};

use super::elementwise::{TRICKY, activations};
use super::{Case, EDGES, Slot, WORKGROUPS, grid, n, wide};
use crate::support::{Tolerance, uniform};

pub(crate) fn unary_grad() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut one = |activation: gatewise::cell::Activation, x: &[f32], size: usize, folded: bool| {
        let (code, alpha, beta) = activation.code();
        let dy = uniform(33, x.len(), 2.0);
        let (x64, dy64) = (wide(x), wide(&dy));
        let dx = reference::unary_grad(activation, ArrayView1::from(&x64), ArrayView1::from(&dy64)).expect("room");
        cases.push(Case {
            name: format!("{activation:?} [{}] workgroup {size}", x.len()),
            constants: vec![("ACTIVATION", code), ("WORKGROUP_SIZE", n(size))],
            dims: vec![n(x.len()), alpha.to_bits(), beta.to_bits()],
            buffers: vec![Slot::floats(x), Slot::floats(&dy), Slot::output(x.len()).near(0, dx)],
            grid: grid(x.len(), size, folded),
            tolerance: Tolerance { abs: 4e-6, rel: 4e-6 },
        });
    };
    for activation in activations() {
        // Corners are left out: there a rounding decides which derivative a kernel takes.
        let away = |x: &&f32| !matches!(activation, gatewise::cell::Activation::HardSigmoid { .. }) || x.abs() < 2.0;
        one(activation, &TRICKY.iter().filter(away).copied().collect::<Vec<_>>(), 64, false);
        one(activation, &uniform(31, 65, 4.0), 64, true);
    }
    for (at, len) in EDGES.into_iter().enumerate() {
        one(gatewise::cell::Activation::Tanh, &uniform(32, len, 3.0), WORKGROUPS[at % WORKGROUPS.len()], at % 2 == 1);
    }
    cases
}

pub(crate) fn gather_rows_grad() -> Vec<Case> {
    let picks: [(usize, usize, &[usize]); 8] = [
        (1, 1, &[0]),
        (6, 5, &[5, 0, 0, 3, 5, 0]),
        (4, 16, &[3, 3, 3, 3, 3, 3, 3]),
        (4, 63, &[1, 2]),
        (4, 65, &[2, 0, 2]),
        (2, 130, &[1, 0, 1]),
        (3, 4, &[]),
        (3, 0, &[1, 2]),
    ];
    let mut cases = Vec::new();
    for (at, (count, columns, rows)) in picks.into_iter().enumerate() {
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        let dy = uniform(72, rows.len() * columns, 1.0);
        let dy64 = wide(&dy);
        let table = reference::gather_rows_grad(
            count,
            rows,
            ArrayView2::from_shape((rows.len(), columns), &dy64).expect("fits"),
        )
        .expect("room");
        let mut places: Vec<usize> = (0..rows.len()).collect();
        places.sort_by_key(|&place| rows[place]);
        let begins = (0..=count).map(|row| n(rows.iter().filter(|&&picked| picked < row).count()));
        cases.push(Case {
            name: format!("table [{count}, {columns}] rows {rows:?} workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: vec![n(count), n(columns)],
            buffers: vec![
                Slot::words(begins),
                Slot::words(places.iter().map(|&place| n(place))),
                Slot::floats(&dy),
                Slot::output(table.len()).near(0, table.iter().copied()),
            ],
            grid: grid(table.len(), size, at % 2 == 1),
            tolerance: Tolerance::sum(rows.len(), 1.0),
        });
    }
    cases
}

/// count, channels, length, out_channels, kernel, stride, padding
const CONVOLUTIONS: [[usize; 7]; 13] = [
    [1, 1, 1, 1, 1, 1, 0],
    [2, 3, 10, 4, 3, 1, 0],
    [2, 3, 10, 4, 3, 1, 1],
    [2, 3, 11, 4, 3, 2, 1],
    [2, 2, 10, 3, 5, 3, 2],
    [2, 2, 12, 3, 2, 3, 1],
    [3, 2, 7, 2, 7, 1, 0],
    [2, 2, 2, 3, 5, 1, 4],
    [2, 2, 4, 3, 3, 1, 5],
    [1, 2, 64, 1, 2, 1, 1],
    [1, 2, 129, 1, 2, 2, 0],
    [0, 2, 5, 3, 3, 1, 1],
    [2, 5, 70, 9, 4, 1, 3],
];

/// Both gradients of a convolution have the same uniform.
fn conv1d_grad(case: impl Fn([usize; 3], [usize; 3], Conv1dGeometry, usize) -> Case) -> Vec<Case> {
    let one = |(at, shape): (usize, [usize; 7])| {
        let [count, channels, length, out, kernel, stride, padding] = shape;
        let (size, geometry) = (WORKGROUPS[at % WORKGROUPS.len()], Conv1dGeometry { stride, padding });
        let out_length = geometry.output_length(length, kernel);
        let mut case = case([count, channels, length], [out, kernel, out_length], geometry, size);
        case.name =
            format!("x [{count}, {channels}, {length}] out {out} kernel {kernel} {geometry:?} workgroup {size}");
        case.constants = vec![("WORKGROUP_SIZE", n(size))];
        case.dims = [count, channels, length, out, out_length, kernel, stride, padding].map(n).to_vec();
        case
    };
    CONVOLUTIONS.into_iter().enumerate().map(one).collect()
}

fn unnamed(buffers: Vec<Slot>, grid: [u32; 3], tolerance: Tolerance) -> Case {
    Case { name: String::new(), constants: Vec::new(), dims: Vec::new(), buffers, grid, tolerance }
}

pub(crate) fn conv1d_grad_input() -> Vec<Case> {
    conv1d_grad(|[count, channels, length], [out, kernel, out_length], geometry, size| {
        let weight = uniform(12, out * channels * kernel, 1.0);
        let dy = uniform(14, count * out * out_length, 1.0);
        let (weight64, dy64) = (wide(&weight), wide(&dy));
        let dx = reference::conv1d_grad_input(
            length,
            ArrayView3::from_shape((out, channels, kernel), &weight64).expect("fits"),
            ArrayView3::from_shape((count, out, out_length), &dy64).expect("fits"),
            geometry,
        )
        .expect("room");
        let (len, grid) = (dx.len(), grid(dx.len(), size, size == 32));
        let buffers = vec![Slot::floats(&weight), Slot::floats(&dy), Slot::output(len).near(0, dx)];
        unnamed(buffers, grid, Tolerance::sum(out * kernel, 1.0))
    })
}

pub(crate) fn conv1d_grad_weight() -> Vec<Case> {
    conv1d_grad(|[count, channels, length], [out, kernel, out_length], geometry, _| {
        let x = uniform(11, count * channels * length, 1.0);
        let dy = uniform(14, count * out * out_length, 1.0);
        let (x64, dy64) = (wide(&x), wide(&dy));
        let dw = reference::conv1d_grad_weight(
            kernel,
            ArrayView3::from_shape((count, channels, length), &x64).expect("fits"),
            ArrayView3::from_shape((count, out, out_length), &dy64).expect("fits"),
            geometry,
        )
        .expect("room");
        let (len, groups) = (dw.len(), n(dw.len().div_ceil(2)));
        let buffers = vec![Slot::floats(&x), Slot::floats(&dy), Slot::output(len).near(0, dw)];
        unnamed(buffers, [groups, 2, 1], Tolerance::sum(count * out_length, 1.0))
    })
}

/// Steps, rows, columns of a weighted sum.
const STEPS: [[usize; 3]; 7] = [[1, 1, 1], [3, 2, 5], [7, 3, 21], [4, 1, 64], [5, 13, 5], [0, 2, 3], [9, 5, 26]];

/// Weights of which some are zero.
fn weights(steps: usize, rows: usize) -> Vec<f32> {
    uniform(81, steps * rows, 1.0).into_iter().enumerate().map(|(at, w)| if at % 3 == 1 { 0.0 } else { w }).collect()
}

pub(crate) fn mean_steps() -> Vec<Case> {
    let one = |(at, [steps, rows, columns]): (usize, [usize; 3])| {
        let (weights, mut x) = (weights(steps, rows), uniform(82, steps * rows * columns, 1.0));
        // Elements of weight zero are not read.
        for (at, x) in x.iter_mut().enumerate() {
            if weights[at / columns] == 0.0 {
                *x = f32::NAN;
            }
        }
        let (x64, weights64) = (wide(&x), wide(&weights));
        let y = reference::mean_steps(
            ArrayView3::from_shape((steps, rows, columns), &x64).expect("fits"),
            ArrayView2::from_shape((steps, rows), &weights64).expect("fits"),
        )
        .expect("room");
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        Case {
            name: format!("[{steps}, {rows}, {columns}] workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: [steps, rows, columns].map(n).to_vec(),
            buffers: vec![Slot::floats(&x), Slot::floats(&weights), Slot::output(y.len()).near(0, y.iter().copied())],
            grid: grid(y.len(), size, at % 2 == 1),
            tolerance: Tolerance::sum(steps, 1.0),
        }
    };
    STEPS.into_iter().enumerate().map(one).collect()
}

pub(crate) fn mean_steps_grad() -> Vec<Case> {
    let one = |(at, [steps, rows, columns]): (usize, [usize; 3])| {
        let (weights, dy) = (weights(steps, rows), uniform(83, rows * columns, 1.0));
        let (weights64, dy64) = (wide(&weights), wide(&dy));
        let dx = reference::mean_steps_grad(
            ArrayView2::from_shape((steps, rows), &weights64).expect("fits"),
            ArrayView2::from_shape((rows, columns), &dy64).expect("fits"),
        )
        .expect("room");
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        Case {
            name: format!("[{steps}, {rows}, {columns}] workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: [steps, rows, columns].map(n).to_vec(),
            buffers: vec![
                Slot::floats(&weights),
                Slot::floats(&dy),
                Slot::output(dx.len()).near(0, dx.iter().copied()),
            ],
            grid: grid(dx.len(), size, at % 2 == 1),
            tolerance: Tolerance::ELEMENTWISE,
        }
    };
    STEPS.into_iter().enumerate().map(one).collect()
}

//! Reductions.

use gatewise::op::Reduction;
use gatewise::reference;
use ndarray::ArrayView2;

use super::{Case, Slot, WORKGROUPS, n, wide};
use crate::support::{Tolerance, uniform};

pub(crate) fn reduce_rows() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes = [(1, 1), (2, 3), (3, 63), (3, 64), (3, 65), (5, 127), (2, 128), (4, 300), (70, 5), (0, 5)];
    for op in Reduction::ALL {
        for (at, (rows, columns)) in shapes.into_iter().enumerate() {
            // All negative, all positive and mixed rows: a maximum must not start at zero, nor a sum at the lowest number.
            let shift = [-2.0, 2.0, 0.0];
            let x = uniform(51, rows * columns, 1.0);
            let x: Vec<f32> = x.iter().enumerate().map(|(at, x)| x + shift[(at / columns) % 3]).collect();
            cases.push(case(op, rows, columns, x, WORKGROUPS[at % WORKGROUPS.len()], at % 2 == 1));
        }
        // Infinite elements, one row each way; an empty row has no mean and no maximum.
        let mut x = uniform(52, 2 * 70, 1.0);
        (x[69], x[70]) = (f32::INFINITY, f32::NEG_INFINITY);
        cases.push(case(op, 2, 70, x, 64, false));
        cases.push(case(op, 2, 3, vec![f32::NEG_INFINITY; 6], 64, false));
        // A NaN wherever a lane may meet it first or last: above, below and beside numbers and infinities.
        let (rows, columns) = (6, 130);
        let mut x = uniform(54, rows * columns, 1.0);
        for (row, at) in [0, 1, 63, 64, 129].into_iter().enumerate() {
            x[row * columns + at] = if row % 2 == 0 { f32::NAN } else { -f32::NAN };
            x[row * columns + (at + 1) % columns] = f32::INFINITY;
        }
        cases.push(case(op, rows, columns, x, 64, false));
        cases.push(case(op, 2, 3, vec![f32::NAN; 6], 64, false));
    }
    cases.push(case(Reduction::Sum, 3, 0, Vec::new(), 64, false));
    cases
}

pub(crate) fn sum_columns() -> Vec<Case> {
    let shapes = [(1, 1), (3, 2), (15, 16), (16, 17), (17, 15), (40, 33), (200, 5), (0, 3), (3, 0)];
    let one = |(at, (rows, columns)): (usize, (usize, usize))| {
        let x = uniform(53, rows * columns, 1.0);
        let x64 = wide(&x);
        let y = reference::sum_columns(ArrayView2::from_shape((rows, columns), &x64).expect("fits")).expect("room");
        let groups = n(columns.div_ceil(16).max(1));
        Case {
            name: format!("[{rows}, {columns}]"),
            constants: Vec::new(),
            dims: vec![n(rows), n(columns)],
            buffers: vec![Slot::floats(&x), Slot::output(columns).near(0, y)],
            grid: if at % 2 == 1 { [groups.div_ceil(2), 2, 1] } else { [groups, 1, 1] },
            tolerance: Tolerance::sum(rows, 1.0),
        }
    };
    shapes.into_iter().enumerate().map(one).collect()
}

fn case(op: Reduction, rows: usize, columns: usize, x: Vec<f32>, size: usize, folded: bool) -> Case {
    let x64 = wide(&x);
    let y = reference::reduce_rows(op, ArrayView2::from_shape((rows, columns), &x64).expect("fits")).expect("room");
    // Folded, the last group of the second axis may have no row.
    let grid = if folded { [n(rows.div_ceil(2).max(1)), 2, 1] } else { [n(rows.max(1)), 1, 1] };
    Case {
        name: format!("{op:?} [{rows}, {columns}] workgroup {size} {grid:?}"),
        constants: vec![("REDUCTION", op as u32), ("WORKGROUP_SIZE", n(size))],
        dims: vec![n(rows), n(columns)],
        buffers: vec![Slot::floats(&x), Slot::output(rows).near(0, y)],
        grid,
        tolerance: if op == Reduction::Max { Tolerance { abs: 0.0, rel: 0.0 } } else { Tolerance::sum(columns, 3.0) },
    }
}

pub(crate) fn argmax_rows() -> Vec<Case> {
    let one = |rows: usize, columns: usize, x: Vec<f32>, size: usize, folded: bool| {
        let y = reference::argmax_rows(ArrayView2::from_shape((rows, columns), &x).expect("fits")).expect("room");
        Case {
            name: format!("[{rows}, {columns}] workgroup {size} folded {folded}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: vec![n(rows), n(columns)],
            buffers: vec![Slot::floats(&x), Slot::output(rows).exactly(0, y.iter().map(|&column| column as f32))],
            grid: if folded { [n(rows.div_ceil(2).max(1)), 2, 1] } else { [n(rows.max(1)), 1, 1] },
            tolerance: Tolerance { abs: 0.0, rel: 0.0 },
        }
    };
    let shapes = [(1, 1), (2, 3), (3, 63), (3, 64), (3, 65), (5, 127), (2, 128), (4, 300), (70, 5), (0, 5), (2, 0)];
    let mut cases = Vec::new();
    for (at, (rows, columns)) in shapes.into_iter().enumerate() {
        let (size, folded) = (WORKGROUPS[at % WORKGROUPS.len()], at % 2 == 1);
        let x = uniform(53, rows * columns, 1.0);
        // Rows of negative numbers only: nothing may start at zero.
        cases.push(one(rows, columns, x.iter().map(|x| x - 2.0).collect(), size, folded));
        // Few different numbers: the first of equals wins, wherever the others are.
        cases.push(one(rows, columns, x.iter().map(|x| (4.0 * x).floor()).collect(), size, folded));
        // Every third element is NaN.
        let broken = |(at, &x): (usize, &f32)| if at % 3 == 0 { f32::NAN } else { x };
        cases.push(one(rows, columns, x.iter().enumerate().map(broken).collect(), size, folded));
    }
    for size in WORKGROUPS {
        // Every column is the largest once.
        let diagonal = (0..130 * 130).map(|at| if at / 130 == at % 130 { 1.0 } else { -1.0 }).collect();
        cases.push(one(130, 130, diagonal, size, false));
    }
    for x in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
        cases.push(one(2, 70, vec![x; 140], 64, false));
    }
    cases
}

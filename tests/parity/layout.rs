//! Kernels that move elements: bit for bit.

use gatewise::op::StridedLayout;
use gatewise::reference;
use ndarray::ArrayView2;

use super::{Case, EDGES, GUARD, Slot, WORKGROUPS, grid, n};
use crate::support::{Tolerance, uniform};

const EXACT: Tolerance = Tolerance { abs: 0.0, rel: 0.0 };
const AXES: usize = 8;

fn place(offset: usize, strides: &[isize]) -> StridedLayout {
    StridedLayout { offset, strides: strides.to_vec() }
}

fn reach(shape: &[usize], place: &StridedLayout) -> usize {
    if shape.contains(&0) {
        return 0;
    }
    let ahead = |(&extent, &stride): (&usize, &isize)| (extent - 1) * usize::try_from(stride).unwrap_or(0);
    place.offset + shape.iter().zip(&place.strides).map(ahead).sum::<usize>() + 1
}

pub(crate) fn strided_copy() -> Vec<Case> {
    let whole = StridedLayout::contiguous;
    let copies: Vec<(&str, Vec<usize>, StridedLayout, StridedLayout)> = vec![
        ("one element", vec![1], whole(&[1]), whole(&[1])),
        ("transposition", vec![5, 13], place(0, &[1, 5]), whole(&[5, 13])),
        ("every third, backwards", vec![3, 4], place(11, &[12, -3]), whole(&[3, 4])),
        ("both axes backwards", vec![3, 4], place(11, &[-4, -1]), whole(&[3, 4])),
        ("a row repeated", vec![3, 7], place(2, &[0, 1]), whole(&[3, 7])),
        ("a part of a concatenation", vec![2, 3, 4], whole(&[2, 3, 4]), place(8, &[36, 4, 1])),
        ("written backwards", vec![4, 5], whole(&[4, 5]), place(19, &[-5, -1])),
        (
            "eight axes",
            vec![2, 3, 1, 2, 3, 1, 2, 2],
            place(1, &[1, 2, 5, 6, 12, 99, 36, 72]),
            whole(&[2, 3, 1, 2, 3, 1, 2, 2]),
        ),
        ("nothing", vec![3, 0, 2], whole(&[3, 0, 2]), whole(&[3, 0, 2])),
        ("a scalar", vec![], whole(&[]), place(5, &[])),
    ];
    let edges = EDGES.into_iter().filter(|&len| len > 0);
    let edges = edges.map(|len| ("an edge", vec![len], place(3, &[2]), place(1, &[1])));
    let mut cases = Vec::new();
    for (at, (what, shape, from, to)) in copies.into_iter().chain(edges).enumerate() {
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        let x = uniform(61, reach(&shape, &from), 1.0);
        let mut y = vec![GUARD; reach(&shape, &to)];
        reference::strided_copy(&shape, &x, &from, &mut y, &to);
        let unused = AXES - shape.len();
        let count = shape.iter().product();
        let signed = |stride: &isize| i32::try_from(*stride).expect("a small stride").cast_unsigned();
        let mut dims = vec![1; unused];
        dims.extend(shape.iter().map(|&extent| n(extent)));
        for place in [&from, &to] {
            dims.extend(vec![0; unused]);
            dims.extend(place.strides.iter().map(signed));
        }
        dims.extend([n(count), n(from.offset), n(to.offset), 0]);
        cases.push(Case {
            name: format!("{what} {shape:?} from {from:?} to {to:?} workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims,
            buffers: vec![Slot::floats(&x), Slot::output(y.len()).exactly(0, y)],
            grid: grid(count, size, at % 2 == 1),
            tolerance: EXACT,
        });
    }
    cases
}

pub(crate) fn gather_rows() -> Vec<Case> {
    let picks: [(usize, usize, &[usize]); 9] = [
        (1, 1, &[0]),
        (6, 5, &[5, 0, 0, 3, 5]),
        (4, 63, &[3]),
        (4, 64, &[1]),
        (4, 65, &[2]),
        (3, 21, &[2, 1, 0]),
        (2, 130, &[1, 0, 1]),
        (3, 4, &[]),
        (3, 0, &[1, 2]),
    ];
    let mut cases = Vec::new();
    for (at, (symbols, columns, rows)) in picks.into_iter().enumerate() {
        let size = WORKGROUPS[at % WORKGROUPS.len()];
        let table = uniform(71, symbols * columns, 1.0);
        let y = reference::gather_rows(ArrayView2::from_shape((symbols, columns), &table).expect("fits"), rows)
            .expect("room");
        cases.push(Case {
            name: format!("table [{symbols}, {columns}] rows {rows:?} workgroup {size}"),
            constants: vec![("WORKGROUP_SIZE", n(size))],
            dims: vec![n(rows.len()), n(columns)],
            buffers: vec![
                Slot::floats(&table),
                Slot::words(rows.iter().map(|&row| n(row))),
                Slot::output(y.len()).exactly(0, y.iter().copied()),
            ],
            grid: grid(y.len(), size, at % 2 == 1),
            tolerance: EXACT,
        });
    }
    cases
}

//! Operations that move numbers without computing on them.

use super::axes::CommonAxes;
use crate::op::{PadMode, StridedLayout};

/// Numbers per side of a block that is transposed at once.
const BLOCK: usize = 8;

/// Writes the transpose of `x [rows, columns]`. The slices come with the strides of their rows.
pub(super) fn transpose(
    (x, x_stride): (&[f32], usize),
    [rows, columns]: [usize; 2],
    (out, out_stride): (&mut [f32], usize),
) {
    let (full_rows, full_columns) = (rows - rows % BLOCK, columns - columns % BLOCK);
    let mut row = 0;
    while row < full_rows {
        // Two blocks complete a cache line of the result before the next line is begun.
        let pair = full_rows.min(row + 2 * BLOCK);
        for column in (0..full_columns).step_by(BLOCK) {
            for row in (row..pair).step_by(BLOCK) {
                block((&x[row * x_stride + column..], x_stride), (&mut out[column * out_stride + row..], out_stride));
            }
        }
        row = pair;
    }
    for row in 0..rows {
        let first = if row < full_rows { full_columns } else { 0 };
        for column in first..columns {
            out[column * out_stride + row] = x[row * x_stride + column];
        }
    }
}

/// Transposes one block, by its four quarters.
#[inline(always)]
fn block((x, x_stride): (&[f32], usize), (out, out_stride): (&mut [f32], usize)) {
    const HALF: usize = BLOCK / 2;
    let x = &x[..(BLOCK - 1) * x_stride + BLOCK];
    let out = &mut out[..(BLOCK - 1) * out_stride + BLOCK];
    for quarter in 0..4 {
        let (row, column) = (quarter / 2 * HALF, quarter % 2 * HALF);
        let mut read = [[0.0; HALF]; HALF];
        for (at, read) in read.iter_mut().enumerate() {
            read.copy_from_slice(&x[(row + at) * x_stride + column..][..HALF]);
        }
        let [a, b, c, d] = read;
        for at in 0..HALF {
            out[(column + at) * out_stride + row..][..HALF].copy_from_slice(&[a[at], b[at], c[at], d[at]]);
        }
    }
}

/// Copies an array of `shape` from one layout to another. Both fit their slices.
pub(crate) fn strided_copy(shape: &[usize], x: &[f32], from: &StridedLayout, y: &mut [f32], to: &StridedLayout) {
    let mut axes = CommonAxes::new();
    for ((&extent, &from), &to) in shape.iter().zip(&from.strides).zip(&to.strides).rev() {
        axes.add(extent, [from, to]);
    }
    let start = [from.offset as isize, to.offset as isize];
    let inner = axes.take_inner();
    let count = inner.extent;
    match inner.strides {
        [1, 1] => axes.each(start, |[from, to]| {
            y[to as usize..][..count].copy_from_slice(&x[from as usize..][..count]);
        }),
        [0, 1] => axes.each(start, |[from, to]| y[to as usize..][..count].fill(x[from as usize])),
        [stride, 1] if stride > 0 => match axes.take_where(|strides| strides[0] == 1 && strides[1] > 0) {
            Some(outer) => axes.each(start, |[from, to]| {
                let out = (&mut y[to as usize..], outer.strides[1] as usize);
                transpose((&x[from as usize..], stride as usize), [count, outer.extent], out);
            }),
            None => axes.each(start, |[from, to]| {
                let numbers = x[from as usize..].iter().step_by(stride as usize);
                y[to as usize..][..count].iter_mut().zip(numbers).for_each(|(y, &x)| *y = x);
            }),
        },
        [from_stride, to_stride] => axes.each(start, |[mut from, mut to]| {
            for _ in 0..count {
                y[to as usize] = x[from as usize];
                (from, to) = (from + from_stride, to + to_stride);
            }
        }),
    }
}

/// Pads every row of `x [.., length]` by `left` and `right` numbers.
pub(crate) fn pad_rows(x: &[f32], length: usize, [left, right]: [usize; 2], mode: PadMode, out: &mut [f32]) {
    let padded = left + length + right;
    if padded == 0 {
        return;
    }
    for (at, out) in out.chunks_exact_mut(padded).enumerate() {
        let row = &x[at * length..(at + 1) * length];
        let (before, rest) = out.split_at_mut(left);
        let (inside, after) = rest.split_at_mut(length);
        inside.copy_from_slice(row);
        match mode {
            PadMode::Zero => {
                before.fill(0.0);
                after.fill(0.0);
            }
            PadMode::Reflect => {
                before.iter_mut().enumerate().for_each(|(at, y)| *y = row[left - at]);
                after.iter_mut().enumerate().for_each(|(at, y)| *y = row[length - 2 - at]);
            }
        }
    }
}

/// Copies rows of a table, each `columns` wide.
pub(crate) fn gather_rows(table: &[f32], columns: usize, rows: impl Iterator<Item = usize>, out: &mut [f32]) {
    if columns > 0 {
        for (row, out) in rows.zip(out.chunks_exact_mut(columns)) {
            out.copy_from_slice(&table[row * columns..(row + 1) * columns]);
        }
    }
}

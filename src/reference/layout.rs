//! Moving elements without computing on them.

use ndarray::{Array2, ArrayView2};

use crate::error::{Result, count};
use crate::memory;
use crate::op::StridedLayout;

/// Copies an array of `shape` from one layout to another.
///
/// # Panics
/// If an element of either layout lies outside its slice. [`ops`](crate::ops) builds only layouts that fit.
pub fn strided_copy<T: Copy>(shape: &[usize], x: &[T], from: &StridedLayout, y: &mut [T], to: &StridedLayout) {
    for flat in 0..count(shape).unwrap_or_default() {
        let mut rest: usize = flat;
        let (mut source, mut target) = (from.offset as isize, to.offset as isize);
        for axis in (0..shape.len()).rev() {
            let index = (rest % shape[axis]) as isize;
            rest /= shape[axis];
            source += index * from.strides[axis];
            target += index * to.strides[axis];
        }
        y[target as usize] = x[source as usize];
    }
}

/// Picks rows of a table (`torch.nn.functional.embedding`).
///
/// # Shapes
/// `table [N, W]`, each of `rows` below `N`; returns `[rows, W]`.
///
/// # Errors
/// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
pub fn gather_rows<T: Copy>(table: ArrayView2<'_, T>, rows: &[usize]) -> Result<Array2<T>> {
    memory::array("gather_rows", (rows.len(), table.ncols()), |(at, column)| table[[rows[at], column]])
}

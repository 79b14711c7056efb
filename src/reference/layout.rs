//! Moving elements without computing on them.

use ndarray::{Array2, ArrayView2};

use crate::error::{Result, count};
use crate::memory;

/// Where the elements of an array lie: `offset + sum(index[axis] * strides[axis])`, counted in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the element with index 0 lies.
    pub offset: usize,
    /// Distance between neighbours along each axis; 0 repeats, negative runs backwards.
    pub strides: Vec<isize>,
}

impl Place {
    /// A contiguous array, last axis fastest.
    pub fn contiguous(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            // Extents beside one of 0 may be too large to be counted: nothing lies there.
            strides[axis] = isize::wrapping_mul(strides[axis + 1], shape[axis + 1] as isize);
        }
        Self { offset: 0, strides }
    }
}

/// Copies an array of `shape` from one place to another.
///
/// # Panics
/// Where an element of either place lies outside its slice; [`ops`](crate::ops) builds only places that fit.
pub fn strided_copy<T: Copy>(shape: &[usize], x: &[T], from: &Place, y: &mut [T], to: &Place) {
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

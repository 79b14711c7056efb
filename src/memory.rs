//! Memory for as many elements as a user, a file or a command line asks for. If there is none, the caller gets an error; other
//! ways to allocate that much (`vec!`, `collect`, `to_vec`, the arrays of `ndarray`) end the process.

use bytemuck::Zeroable;
use ndarray::{Array, ArrayBase, Data, Dimension, IntoDimension, indices};

use crate::error::{Error, Result, elements};

/// The error for `len` elements that the host has no memory for.
pub(crate) fn missing<T>(op: &'static str, len: usize) -> Error {
    let bytes = (len as u128).saturating_mul(size_of::<T>() as u128);
    Error::OutOfMemory {
        op,
        message: format!("the host has no {bytes} bytes left; make the call or the stack smaller"),
    }
}

/// From this many bytes on, the system is asked whether it has the memory that it promises.
const ASKED: usize = 1 << 30;

/// Whether the system has the memory. Linux promises more memory than it has, and ends a process that uses it.
fn is_there<T>(len: usize) -> bool {
    let bytes = len.saturating_mul(size_of::<T>());
    bytes < ASKED || available().is_none_or(|available| bytes as u64 <= available)
}

/// Bytes of memory and swap that processes may still take; `None` if the system does not tell.
fn available() -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kibibytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kibibytes("MemAvailable")? + kibibytes("SwapFree").unwrap_or_default()).saturating_mul(1024))
}

/// An empty vector with room for `len` elements.
pub(crate) fn room<T>(op: &'static str, len: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    if is_there::<T>(len) && vector.try_reserve_exact(len).is_ok() { Ok(vector) } else { Err(missing::<T>(op, len)) }
}

/// Empties a vector and gives it room for `len` elements.
pub(crate) fn clear_for<T>(op: &'static str, vector: &mut Vec<T>, len: usize) -> Result<()> {
    vector.clear();
    if vector.capacity() < len {
        *vector = room(op, len)?;
    }
    Ok(())
}

/// A vector of zeros. The system zeroes the pages of a large one when they are first used.
pub(crate) fn zeros<T: Zeroable>(op: &'static str, len: usize) -> Result<Vec<T>> {
    let vector = if is_there::<T>(len) { bytemuck::allocation::try_zeroed_vec(len).ok() } else { None };
    vector.ok_or_else(|| missing::<T>(op, len))
}

/// A vector that holds one value `len` times.
pub(crate) fn filled<T: Clone>(op: &'static str, len: usize, value: T) -> Result<Vec<T>> {
    let mut vector = room(op, len)?;
    vector.resize(len, value);
    Ok(vector)
}

/// A copy of a slice.
pub(crate) fn copied<T: Copy>(op: &'static str, from: &[T]) -> Result<Vec<T>> {
    let mut vector = room(op, from.len())?;
    vector.extend_from_slice(from);
    Ok(vector)
}

/// The first `len` items of an iterator that has at least as many.
pub(crate) fn collected<T>(op: &'static str, len: usize, items: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    let mut vector = room(op, len)?;
    vector.extend(items.into_iter().take(len));
    Ok(vector)
}

/// Makes sure that there is memory for the packing buffers of a product of matrices `[rows, depth]` and `[depth, columns]`.
/// Without it, `ndarray` ends the process.
pub(crate) fn for_product<T>(op: &'static str, [rows, depth, columns]: [usize; 3]) -> Result<()> {
    // The most rows, depth and columns that `matrixmultiply` packs at once. It rounds rows and columns up to whole
    // tiles.
    const MOST: [usize; 3] = [64, 256, 1024];
    const TILE: usize = 32;
    let packed = depth.min(MOST[1]) * (rows.min(MOST[0]) + columns.min(MOST[2]) + 2 * TILE);
    room::<T>(op, packed).map(drop)
}

/// Appends elements to a vector.
pub(crate) fn append<T: Copy>(op: &'static str, to: &mut Vec<T>, from: &[T]) -> Result<()> {
    if to.try_reserve(from.len()).is_err() {
        return Err(missing::<T>(op, to.len().saturating_add(from.len())));
    }
    to.extend_from_slice(from);
    Ok(())
}

/// A copy of an array's elements, last axis fastest.
pub(crate) fn elements_of<T: Copy, S, D>(op: &'static str, array: &ArrayBase<S, D>) -> Result<Vec<T>>
where
    S: Data<Elem = T>,
    D: Dimension,
{
    match array.as_slice() {
        Some(elements) => copied(op, elements),
        None => collected(op, array.len(), array.iter().copied()),
    }
}

/// An array of `shape` whose element at each index is `of(index)`.
pub(crate) fn array<T, I: IntoDimension>(
    op: &'static str,
    shape: I,
    mut of: impl FnMut(<I::Dim as Dimension>::Pattern) -> T,
) -> Result<Array<T, I::Dim>> {
    let shape = shape.into_dimension();
    let mut vector = room(op, elements(op, "the result", shape.slice())?)?;
    indices(shape.clone()).into_iter().for_each(|at| vector.push(of(at)));
    shaped(op, shape, vector)
}

/// An array that holds one value everywhere.
pub(crate) fn full<T: Clone, I: IntoDimension>(op: &'static str, shape: I, value: T) -> Result<Array<T, I::Dim>> {
    let shape = shape.into_dimension();
    let vector = filled(op, elements(op, "the result", shape.slice())?, value)?;
    shaped(op, shape, vector)
}

/// An array of zeros (see [`zeros`]).
pub(crate) fn zero_array<T: Zeroable, I: IntoDimension>(op: &'static str, shape: I) -> Result<Array<T, I::Dim>> {
    let shape = shape.into_dimension();
    let vector = zeros(op, elements(op, "the result", shape.slice())?)?;
    shaped(op, shape, vector)
}

/// Applies a function to every element.
pub(crate) fn mapped<T, U, S, D>(
    op: &'static str,
    array: &ArrayBase<S, D>,
    of: impl FnMut(T) -> U,
) -> Result<Array<U, D>>
where
    T: Copy,
    S: Data<Elem = T>,
    D: Dimension,
{
    let vector = match array.as_slice() {
        Some(elements) => collected(op, elements.len(), elements.iter().copied().map(of)),
        None => collected(op, array.len(), array.iter().copied().map(of)),
    }?;
    shaped(op, array.raw_dim(), vector)
}

/// A copy of an array, last axis fastest.
pub(crate) fn owned<T: Copy, S, D>(op: &'static str, array: &ArrayBase<S, D>) -> Result<Array<T, D>>
where
    S: Data<Elem = T>,
    D: Dimension,
{
    shaped(op, array.raw_dim(), elements_of(op, array)?)
}

/// Makes an array from a vector; refuses a vector that does not fit the shape.
pub(crate) fn shaped<T, D: Dimension>(op: &'static str, shape: D, vector: Vec<T>) -> Result<Array<T, D>> {
    let len = vector.len();
    Array::from_shape_vec(shape.clone(), vector).map_err(|_| Error::Shape {
        op,
        what: "elements",
        expected: format!("{:?}", shape.slice()),
        found: vec![len],
    })
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    fn refused<T>(result: Result<T>) -> bool {
        matches!(result, Err(Error::OutOfMemory { op: "test", .. }))
    }

    #[test]
    fn sizes_beyond_all_memory_are_errors() {
        // More than an address space has. The last two sizes overflow a word when counted in bytes.
        for len in [1 << 60, usize::MAX / 2, usize::MAX] {
            assert!(refused(room::<f32>("test", len)));
            assert!(refused(zeros::<f64>("test", len)));
            assert!(refused(filled("test", len, 1.0_f32)));
            assert!(refused(collected("test", len, 0_u64..)));
        }
        assert!(refused(full("test", [1 << 30, 1 << 30], 1.0_f32)));
        assert!(refused(zero_array::<f32, _>("test", [1 << 30, 1 << 30])));
        assert!(refused(self::array("test", [1 << 30, 1 << 30], |(row, column)| row + column)));
        // The number of elements overflows a word.
        assert!(matches!(full("test", [usize::MAX, 2], 0_u8), Err(Error::Shape { .. })));
        let error = zeros::<f32>("test", 1 << 60).expect_err("too many").to_string();
        assert!(error.contains(&(1_u64 << 62).to_string()), "{error}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_linux_only_promises_is_refused() {
        let available = available().expect("Linux tells") as usize;
        assert!(available > 1 << 20 && is_there::<u8>(ASKED - 1));
        assert!(is_there::<u8>(available / 2) && !is_there::<f32>((available / 2).max(ASKED)));
    }

    #[test]
    fn vectors_and_arrays_hold_the_requested_elements() {
        assert_eq!(zeros::<f32>("test", 3).expect("zeros"), [0.0; 3]);
        assert_eq!(filled("test", 2, 7).expect("filled"), [7, 7]);
        assert_eq!(copied("test", &[1, 2]).expect("copied"), [1, 2]);
        assert_eq!(collected("test", 3, 5..).expect("collected"), [5, 6, 7]);
        let turned = array![[1, 2, 3], [4, 5, 6]].reversed_axes();
        let mut grown = vec![1, 2];
        append("test", &mut grown, &[3]).expect("appended");
        assert_eq!(grown, [1, 2, 3]);
        assert_eq!(elements_of("test", &turned).expect("elements"), [1, 4, 2, 5, 3, 6]);
        assert_eq!(owned("test", &turned).expect("owned"), turned);
        assert_eq!(mapped("test", &turned, |x| 2 * x).expect("mapped"), turned.mapv(|x| 2 * x));
        let made: Array2<usize> = self::array("test", [2, 3], |(row, column)| 10 * row + column).expect("array");
        assert_eq!(made, array![[0, 1, 2], [10, 11, 12]]);
        assert_eq!(full("test", 2, 1.5).expect("full"), array![1.5, 1.5]);
        assert_eq!(zero_array::<f32, _>("test", (1, 2)).expect("zeros"), array![[0.0, 0.0]]);
    }
}

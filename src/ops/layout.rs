//! Operations that move elements without computing on them.

use ndarray::Dim;

use super::{Recorder, argmax_rows};
use crate::error::{Error, Result, axes, check_shape, elements};
use crate::gpu;
use crate::op::StridedLayout;
use crate::path::{self, HostPath};
use crate::tensor::{Tensor, view};
use crate::{cpu, memory, reference};

/// A part of a tensor and its place in the result.
#[derive(Clone)]
struct Part {
    extents: Vec<usize>,
    from: StridedLayout,
    to: StridedLayout,
}

/// Copies parts of tensors into a new tensor of `shape`. The parts cover it.
fn assemble(
    recorder: &mut Recorder,
    op: &'static str,
    shape: &[usize],
    tensors: &[&Tensor],
    parts: Vec<Part>,
) -> Result<Tensor> {
    for x in tensors {
        x.check_device(op, "x", recorder.device())?;
    }
    let len = elements(op, "shape", shape)?;
    let of_gpu = if recorder.gpu().is_some() { parts.clone() } else { Vec::new() };
    path::run_list(
        recorder,
        op,
        shape,
        tensors,
        move |path, x, y| {
            for (at, Part { extents, from, to }) in parts.iter().enumerate() {
                match path {
                    HostPath::Reference => reference::strided_copy(extents, x.get(at)?, from, y, to),
                    HostPath::Cpu(_) => cpu::strided_copy(extents, x.get(at)?, from, y, to),
                }
            }
            Ok(())
        },
        |gpu| {
            let y = gpu::Buffer::new(gpu.device(), op, len)?;
            for (x, Part { extents, from, to }) in tensors.iter().zip(&of_gpu) {
                gpu::strided_copy(gpu, extents, (x.buffer(op, "x")?, from), (&y, to))?;
            }
            Ok(y)
        },
    )
}

/// Reorders the axes: axis `a` of the result is axis `order[a]` of `x` (`torch.permute`).
///
/// # Errors
/// [`Error::Value`] if `order` is not a permutation of the axes; [`Error::DeviceMismatch`].
pub fn permute(recorder: &mut Recorder, x: &Tensor, order: &[usize]) -> Result<Tensor> {
    const OP: &str = "permute";
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.into_iter().eq(0..x.shape().len()) {
        let expected = "a permutation of the axes";
        return Err(Error::Value { op: OP, what: "order", expected, found: format!("{order:?} for {:?}", x.shape()) });
    }
    let strides = StridedLayout::contiguous(x.shape()).strides;
    let shape: Vec<usize> = order.iter().map(|&axis| x.shape()[axis]).collect();
    let from = StridedLayout { offset: 0, strides: order.iter().map(|&axis| strides[axis]).collect() };
    let to = StridedLayout::contiguous(&shape);
    assemble(recorder, OP, &shape, &[x], vec![Part { extents: shape.clone(), from, to }])
}

/// Elements of one axis: `count` of them, `step` apart, the first at `start`. A negative step runs backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The axis.
    pub axis: usize,
    /// Index of the first element.
    pub start: usize,
    /// Distance between two elements, not 0.
    pub step: isize,
    /// How many elements.
    pub count: usize,
}

/// Takes a slice of one axis.
///
/// # Errors
/// [`Error::Value`] if the slice reaches outside the tensor or its step is 0; [`Error::DeviceMismatch`].
///
/// # Examples
/// ```
/// use gatewise::{Device, Tensor, ops::{self, Slice}};
/// let device = Device::Cpu;
/// let x = Tensor::from_vec(&device, &[5], vec![0.0, 1.0, 2.0, 3.0, 4.0])?;
/// let mut recorder = device.recorder();
/// let y = ops::slice(&mut recorder, &x, Slice { axis: 0, start: 4, step: -2, count: 3 })?;
/// recorder.submit()?;
/// assert_eq!(y.to_vec()?, [4.0, 2.0, 0.0]);
/// # Ok::<(), gatewise::Error>(())
/// ```
pub fn slice(recorder: &mut Recorder, x: &Tensor, slice: Slice) -> Result<Tensor> {
    const OP: &str = "slice";
    let Slice { axis, start, step, count } = slice;
    let reach = isize::try_from(count.saturating_sub(1)).ok().and_then(|steps| step.checked_mul(steps));
    let last = reach.and_then(|reach| start.checked_add_signed(reach));
    let fits = |&extent: &usize| count == 0 || (start < extent && last.is_some_and(|last| last < extent));
    if step == 0 || !x.shape().get(axis).is_some_and(fits) {
        let found = format!("{slice:?} of {:?}", x.shape());
        return Err(Error::Value { op: OP, what: "slice", expected: "a part of the tensor", found });
    }
    let mut shape = x.shape().to_vec();
    shape[axis] = count;
    let mut from = StridedLayout::contiguous(x.shape());
    // An empty slice may begin anywhere, even beyond the tensor.
    from.offset = if count == 0 { 0 } else { start.wrapping_mul(from.strides[axis].unsigned_abs()) };
    from.strides[axis] = from.strides[axis].wrapping_mul(step);
    let to = StridedLayout::contiguous(&shape);
    assemble(recorder, OP, &shape, &[x], vec![Part { extents: shape.clone(), from, to }])
}

/// The gradient with respect to the operand of [`slice()`]: zeros of `shape`, with `dy` at the slice's elements.
pub(crate) fn slice_grad(recorder: &mut Recorder, shape: &[usize], slice: Slice, dy: &Tensor) -> Result<Tensor> {
    const OP: &str = "slice_grad";
    dy.check_device(OP, "dy", recorder.device())?;
    let Slice { axis, start, step, count } = slice;
    let len = elements(OP, "shape", shape)?;
    let mut to = StridedLayout::contiguous(shape);
    to.offset = if count == 0 { 0 } else { start.wrapping_mul(to.strides[axis].unsigned_abs()) };
    to.strides[axis] = to.strides[axis].wrapping_mul(step);
    let from = StridedLayout::contiguous(dy.shape());
    path::compute(
        recorder,
        shape,
        |path| {
            let mut dx = memory::zeros(OP, len)?;
            let (shape, dy) = (dy.shape(), dy.host(OP, "dy")?);
            match path {
                HostPath::Reference => reference::strided_copy(shape, dy, &from, &mut dx, &to),
                HostPath::Cpu(_) => cpu::strided_copy(shape, dy, &from, &mut dx, &to),
            }
            Ok(dx)
        },
        |gpu| {
            let dx = gpu::Buffer::new(gpu.device(), OP, len)?;
            gpu.clear(&dx, 0, len);
            gpu::strided_copy(gpu, dy.shape(), (dy.buffer(OP, "dy")?, &from), (&dx, &to))?;
            Ok(dx)
        },
    )
}

/// Joins tensors along an axis; all other axes agree (`torch.cat`).
///
/// # Errors
/// [`Error::Shape`] if the other axes differ, [`Error::Value`] if there is no tensor or no such axis;
/// [`Error::DeviceMismatch`].
pub fn concat(recorder: &mut Recorder, tensors: &[&Tensor], axis: usize) -> Result<Tensor> {
    const OP: &str = "concat";
    let Some(first) = tensors.first().filter(|first| axis < first.shape().len()) else {
        let found = format!("axis {axis} of {} tensors", tensors.len());
        return Err(Error::Value { op: OP, what: "axis", expected: "an axis of at least one tensor", found });
    };
    let mut shape = first.shape().to_vec();
    shape[axis] = 0;
    for x in tensors {
        let mut expected = x.shape().to_vec();
        if let Some(extent) = expected.get_mut(axis) {
            let Some(sum) = shape[axis].checked_add(*extent) else {
                let expected = format!("of extents whose sum along axis {axis} can be counted");
                return Err(Error::Shape { op: OP, what: "tensors", expected, found: x.shape().to_vec() });
            };
            (shape[axis], *extent) = (sum, sum);
        }
        check_shape(OP, "tensors apart from the axis", &shape, &expected)?;
    }
    let whole = StridedLayout::contiguous(&shape);
    let mut at = 0_usize;
    let parts = tensors
        .iter()
        .map(|x| {
            let to = StridedLayout {
                offset: at.wrapping_mul(whole.strides[axis].unsigned_abs()),
                strides: whole.strides.clone(),
            };
            at += x.shape()[axis];
            Part { extents: x.shape().to_vec(), from: StridedLayout::contiguous(x.shape()), to }
        })
        .collect();
    assemble(recorder, OP, &shape, tensors, parts)
}

/// Repeats axes of extent 1 to fill `shape`, and adds axes in front (`torch.expand`, the rule of NumPy's broadcasting).
///
/// # Errors
/// [`Error::Shape`] if `x` does not broadcast to `shape`; [`Error::DeviceMismatch`].
pub fn expand(recorder: &mut Recorder, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    const OP: &str = "expand";
    let added = shape.len().checked_sub(x.shape().len());
    let fits = |added: usize| x.shape().iter().zip(&shape[added..]).all(|(&have, &want)| have == want || have == 1);
    let Some(added) = added.filter(|&added| fits(added)) else {
        let expected = format!("a shape that broadcasts to {shape:?}");
        return Err(Error::Shape { op: OP, what: "x", expected, found: x.shape().to_vec() });
    };
    let contiguous = StridedLayout::contiguous(x.shape()).strides;
    let kept = contiguous.iter().zip(x.shape()).map(|(&stride, &extent)| if extent == 1 { 0 } else { stride });
    let from = StridedLayout { offset: 0, strides: std::iter::repeat_n(0, added).chain(kept).collect() };
    x.check_device(OP, "x", recorder.device())?;
    let (len, to) = (elements(OP, "shape", shape)?, StridedLayout::contiguous(shape));
    let part = Part { extents: shape.to_vec(), from, to };
    let own = part.clone();
    path::run_broadcast(
        recorder,
        OP,
        shape,
        x,
        move |_, x, y| {
            reference::strided_copy(&own.extents, x, &own.from, y, &own.to);
            Ok(())
        },
        |gpu| {
            let y = gpu::Buffer::new(gpu.device(), OP, len)?;
            gpu::strided_copy(gpu, shape, (x.buffer(OP, "x")?, &part.from), (&y, &part.to))?;
            Ok(y)
        },
    )
}

/// Picks rows of a table (`torch.nn.functional.embedding`).
///
/// # Shapes
/// `table [N, W]`; returns `[rows, W]`.
///
/// # Errors
/// [`Error::Value`] for a row that the table does not have; [`Error::Shape`], [`Error::DeviceMismatch`].
pub fn gather_rows(recorder: &mut Recorder, table: &Tensor, rows: &[usize]) -> Result<Tensor> {
    const OP: &str = "gather_rows";
    table.check_device(OP, "table", recorder.device())?;
    let [count, columns] = axes(OP, "table", "[N, W]", table.shape())?;
    if let Some(at) = rows.iter().position(|&row| row >= count) {
        let found = format!("{} at {at} of a table of {count} rows", rows[at]);
        return Err(Error::Value { op: OP, what: "rows", expected: "below the table's rows", found });
    }
    let shape = [rows.len(), columns];
    let own = memory::copied(OP, rows)?;
    path::run(
        recorder,
        OP,
        &shape,
        [table],
        move |path, [table], y| match path {
            HostPath::Reference => path::put(reference::gather_rows(view(OP, table, Dim([count, columns]))?, &own)?, y),
            HostPath::Cpu(_) => {
                cpu::gather_rows(table, columns, own.iter().copied(), y);
                Ok(())
            }
        },
        |gpu| {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a row exists, and a table's elements are counted in 32 bits"
            )]
            let words: Vec<u32> = memory::collected(OP, rows.len(), rows.iter().map(|&row| row as u32))?;
            let words = gpu::Buffer::from_slice(gpu.device(), "rows", &words)?;
            let rows = (&words, gpu::RowWords::Integers);
            gpu::gather_rows(gpu, table.buffer(OP, "table")?, rows, shape)
        },
    )
}

/// Picks, for every row of scores, the row of a table with the highest score: a greedy decoder's choice and its embedding,
/// without leaving the device.
///
/// # Shapes
/// `table [N, W]`, `scores [M, N]`; returns the choices as [`argmax_rows`] gives them, `[M]`, and their rows, `[M, W]`.
///
/// # Errors
/// As [`argmax_rows`], and [`Error::Shape`] unless a row of scores is as long as the table has rows.
///
/// # Examples
/// ```
/// use gatewise::{Device, Tensor, ops};
/// use ndarray::array;
/// let device = Device::Cpu;
/// let table = Tensor::from_array(&device, &array![[1.0, 1.5], [2.0, 2.5]])?;
/// let scores = Tensor::from_array(&device, &array![[0.1, 0.2], [0.4, 0.3], [0.0, 5.0]])?;
/// let mut recorder = device.recorder();
/// let (choices, rows) = ops::gather_best(&mut recorder, &table, &scores)?;
/// recorder.submit()?;
/// assert_eq!(choices.to_vec()?, [1.0, 0.0, 1.0]);
/// assert_eq!(rows.to_vec()?, [2.0, 2.5, 1.0, 1.5, 2.0, 2.5]);
/// # Ok::<(), gatewise::Error>(())
/// ```
pub fn gather_best(recorder: &mut Recorder, table: &Tensor, scores: &Tensor) -> Result<(Tensor, Tensor)> {
    const OP: &str = "gather_best";
    table.check_device(OP, "table", recorder.device())?;
    let [count, columns] = axes(OP, "table", "[N, W]", table.shape())?;
    let [rows, _] = axes(OP, "scores", "[M, N]", scores.shape())?;
    check_shape(OP, "scores", &[rows, count], scores.shape())?;
    let choices = argmax_rows(recorder, scores)?;
    let shape = [rows, columns];
    let picked = path::run(
        recorder,
        OP,
        &shape,
        [table, &choices],
        move |path, [table, choices], y| {
            let best = choices.iter().map(|&choice| choice as usize);
            match path {
                HostPath::Reference => {
                    let best = memory::collected(OP, rows, best)?;
                    path::put(reference::gather_rows(view(OP, table, Dim([count, columns]))?, &best)?, y)
                }
                HostPath::Cpu(_) => {
                    cpu::gather_rows(table, columns, best, y);
                    Ok(())
                }
            }
        },
        |gpu| {
            let words = (choices.buffer(OP, "choices")?, gpu::RowWords::Floats);
            gpu::gather_rows(gpu, table.buffer(OP, "table")?, words, shape)
        },
    )?;
    Ok((choices, picked))
}

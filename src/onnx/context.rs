//! The inputs of a running node, and operations that observe the memory limit.

use std::cell::Cell;

use ndarray::{ArrayD, IxDyn};

use super::value::{Ints, Value};
use crate::cell::Activation;
use crate::error::{Error, Result};
use crate::ops::{self, Binary, Math, PadMode, Recorder, Reduction, Slice};
use crate::tensor::{Device, Tensor};

/// The operation that errors name if a node refuses its inputs.
const OP: &str = "onnx";

/// The recorder of a run, and the memory that is left for a node.
pub(super) struct Context<'a> {
    pub(super) recorder: &'a mut Recorder,
    /// The number of bytes that new values may hold.
    pub(super) room: u64,
    /// Whether a value was refused because of the memory limit.
    pub(super) short: Cell<bool>,
}

/// The inputs of a node. Floats are on the recorder's device.
pub(super) struct Inputs<'a>(pub(super) &'a [Option<Value>]);

pub(super) fn unexpected(what: &'static str, expected: &'static str, found: impl Into<String>) -> Error {
    Error::Value { op: OP, what, expected, found: found.into() }
}

impl Inputs<'_> {
    pub(super) fn optional(&self, at: usize) -> Option<&Value> {
        self.0.get(at).and_then(Option::as_ref)
    }

    pub(super) fn get(&self, at: usize, what: &'static str) -> Result<&Value> {
        self.optional(at).ok_or_else(|| unexpected(what, "an input", "none"))
    }

    pub(super) fn float(&self, at: usize, what: &'static str) -> Result<&Tensor> {
        match self.get(at, what)? {
            Value::Float(x) => Ok(x),
            other => Err(unexpected(what, "floats", other.describe())),
        }
    }

    pub(super) fn optional_float(&self, at: usize, what: &'static str) -> Result<Option<&Tensor>> {
        self.optional(at).map(|_| self.float(at, what)).transpose()
    }

    pub(super) fn ints(&self, at: usize, what: &'static str) -> Result<&Ints> {
        match self.get(at, what)? {
            Value::Int(x) => Ok(x),
            other => Err(unexpected(what, "integers", other.describe())),
        }
    }

    /// An input that is a list of integers: shapes, axes, repeats.
    pub(super) fn list(&self, at: usize, what: &'static str) -> Result<Vec<i64>> {
        Ok(self.ints(at, what)?.values.iter().copied().collect())
    }

    pub(super) fn optional_list(&self, at: usize, what: &'static str) -> Result<Option<Vec<i64>>> {
        self.optional(at).map(|_| self.list(at, what)).transpose()
    }
}

/// The most axes of a value.
pub(super) const MOST_AXES: usize = 32;

/// Refuses more axes than a value may have.
pub(super) fn rank(axes: usize) -> Result<usize> {
    if axes <= MOST_AXES { Ok(axes) } else { Err(unexpected("axes", "at most 32 of them", axes.to_string())) }
}

/// An axis counted from the front. A negative axis counts from the back.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let from_front = if axis < 0 { axis.checked_add_unsigned(rank as u64) } else { Some(axis) };
    match from_front.and_then(|axis| usize::try_from(axis).ok()) {
        Some(axis) if axis < rank => Ok(axis),
        _ => Err(unexpected("axis", "an axis of the tensor", format!("{axis} of {rank} axes"))),
    }
}

/// Axes counted from the front (see [`axis`]). An axis that is listed twice is refused.
pub(super) fn axes(list: &[i64], rank: usize) -> Result<Vec<usize>> {
    let mut seen = vec![false; rank];
    let mut result = Vec::with_capacity(list.len().min(rank));
    for &one in list {
        let one = axis(one, rank)?;
        if std::mem::replace(&mut seen[one], true) {
            return Err(unexpected("axes", "each axis once", format!("{list:?}")));
        }
        result.push(one);
    }
    Ok(result)
}

/// The shape to which two shapes broadcast (NumPy's rule).
pub(super) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |shape: &[usize], at: usize| (at + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
    (0..rank)
        .map(|at| match (extent(a, at), extent(b, at)) {
            (1, n) | (n, 1) => Ok(n),
            (m, n) if m == n => Ok(m),
            _ => Err(unexpected("shapes", "two that broadcast", format!("{a:?} and {b:?}"))),
        })
        .collect()
}

impl Context<'_> {
    pub(super) fn device(&self) -> &Device {
        self.recorder.device()
    }

    /// The number of elements of a new value, if the memory limit allows it. `width` is the size of an element in bytes.
    pub(super) fn reserve(&self, shape: &[usize], width: u64) -> Result<usize> {
        rank(shape.len())?;
        let refused = || {
            self.short.set(true);
            Error::Value {
                op: OP,
                what: "a value's size",
                expected: "below the memory limit (`OnnxOptions::memory_limit`)",
                found: format!("shape {shape:?} with {} bytes left", self.room),
            }
        };
        // Even if an axis has extent 0, the strides must not overflow.
        let strides = shape.iter().try_fold(1_usize, |n, &extent| n.checked_mul(extent.max(1)));
        let count = if shape.contains(&0) { strides.map(|_| 0) } else { strides };
        let fits = |&count: &usize| (count as u64).checked_mul(width).is_some_and(|bytes| bytes <= self.room);
        let counted = strides.filter(|&n| n <= isize::MAX as usize / 16).and(count);
        counted.filter(fits).ok_or_else(refused)
    }

    /// Copies a tensor to the host. On a GPU this submits everything recorded so far.
    pub(super) fn read(&mut self, x: &Tensor) -> Result<Vec<f32>> {
        if let Some(recording) = self.recorder.recording() {
            recording.decide(x);
        }
        if x.is_on_host() {
            return x.to_vec();
        }
        let next = self.device().recorder();
        std::mem::replace(self.recorder, next).submit_and_read(x)?.wait()
    }

    pub(super) fn tensor(&self, shape: &[usize], data: Vec<f32>) -> Result<Tensor> {
        Tensor::from_vec(self.device(), shape, data)
    }

    /// A tensor whose elements all have one value.
    pub(super) fn full(&mut self, shape: &[usize], value: f32) -> Result<Tensor> {
        let one = self.tensor(&[1], vec![value])?;
        self.expand(&one, shape)
    }

    pub(super) fn reshape(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        self.reserve(shape, 0)?;
        x.reshape(shape)
    }

    pub(super) fn expand(&mut self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        if self.reserve(shape, 4)? == x.len() && shape.len() >= x.shape().len() {
            return x.reshape(shape);
        }
        ops::expand(self.recorder, x, shape)
    }

    pub(super) fn activation(&mut self, activation: Activation, x: &Tensor) -> Result<Tensor> {
        self.reserve(x.shape(), 4)?;
        ops::activation(self.recorder, activation, x)
    }

    pub(super) fn math(&mut self, function: Math, x: &Tensor) -> Result<Tensor> {
        self.reserve(x.shape(), 4)?;
        ops::math(self.recorder, function, x)
    }

    /// `alpha x + beta`.
    pub(super) fn affine(&mut self, alpha: f32, x: &Tensor, beta: f32) -> Result<Tensor> {
        self.activation(Activation::Affine { alpha, beta }, x)
    }

    /// Softmax of the last axis, or its logarithm.
    pub(super) fn softmax_last(&mut self, x: &Tensor, logarithm: bool) -> Result<Tensor> {
        self.reserve(x.shape(), 4)?;
        ops::softmax_last(self.recorder, x, logarithm)
    }

    /// An operation on two tensors that broadcast.
    pub(super) fn binary(&mut self, op: Binary, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let shape = broadcast(a.shape(), b.shape())?;
        self.reserve(&shape, 4)?;
        ops::binary_broadcast(self.recorder, op, a, b, &shape)
    }

    pub(super) fn permute(&mut self, x: &Tensor, order: &[usize]) -> Result<Tensor> {
        self.reserve(x.shape(), 4)?;
        if order.iter().copied().eq(0..x.shape().len()) {
            return Ok(x.clone());
        }
        // If only axes of extent 1 move, no element moves.
        let moved = order.iter().filter(|&&axis| x.shape().get(axis).is_some_and(|&extent| extent != 1));
        if order.len() == x.shape().len() && moved.is_sorted() {
            let shape: Vec<usize> = order.iter().filter_map(|&axis| x.shape().get(axis).copied()).collect();
            return x.reshape(&shape);
        }
        ops::permute(self.recorder, x, order)
    }

    pub(super) fn slice(&mut self, x: &Tensor, slice: Slice) -> Result<Tensor> {
        if slice.step == 1 && slice.start == 0 && x.shape().get(slice.axis) == Some(&slice.count) {
            return Ok(x.clone());
        }
        self.reserve(x.shape(), 4)?;
        ops::slice(self.recorder, x, slice)
    }

    pub(super) fn concat(&mut self, parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        let mut total = 0_usize;
        for part in parts {
            total = total.saturating_add(part.len());
        }
        self.reserve(&[total], 4)?;
        match parts {
            [one] => Ok((*one).clone()),
            parts => ops::concat(self.recorder, parts, axis),
        }
    }

    pub(super) fn gather_rows(&mut self, table: &Tensor, rows: &[usize]) -> Result<Tensor> {
        self.reserve(&[rows.len(), table.shape().get(1).copied().unwrap_or(1)], 4)?;
        ops::gather_rows(self.recorder, table, rows)
    }

    pub(super) fn matmul(&mut self, a: &Tensor, b: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.reserve(&[a.shape().first().copied().unwrap_or(1), b.shape().last().copied().unwrap_or(1)], 4)?;
        ops::matmul(self.recorder, a, b, bias)
    }

    pub(super) fn pad1d(&mut self, x: &Tensor, [left, right]: [usize; 2], mode: PadMode) -> Result<Tensor> {
        let mut shape = x.shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = last.saturating_add(left).saturating_add(right);
        }
        self.reserve(&shape, 4)?;
        ops::pad1d(self.recorder, x, left, right, mode)
    }

    /// A reduction over the last axis.
    pub(super) fn reduce_last(&mut self, op: Reduction, x: &Tensor) -> Result<Tensor> {
        let Some((&columns, outer)) = x.shape().split_last() else {
            return Err(unexpected("data", "a tensor with an axis", "none"));
        };
        let rows = self.reserve(outer, 4)?;
        let y = ops::reduce_rows(self.recorder, op, &self.reshape(x, &[rows, columns])?)?;
        self.reshape(&y, outer)
    }
}

impl Context<'_> {
    /// Booleans as 0 and 1 on the device.
    pub(super) fn mask(&mut self, value: &Value, what: &'static str) -> Result<Tensor> {
        match value {
            Value::Mask(x) => Ok(x.clone()),
            Value::Bool(x) => self.tensor(x.shape(), x.iter().map(|&x| f32::from(u8::from(x))).collect()),
            other => Err(unexpected(what, "booleans", other.describe())),
        }
    }
}

/// A host array that is repeated to a shape (NumPy's `broadcast_to`).
pub(super) fn spread<T: Clone>(x: &ArrayD<T>, shape: &[usize]) -> Result<ArrayD<T>> {
    let repeated = x.broadcast(IxDyn(shape));
    repeated.map(|x| x.to_owned()).ok_or_else(|| {
        unexpected("shape", "one that the value broadcasts to", format!("{:?} for {shape:?}", x.shape()))
    })
}

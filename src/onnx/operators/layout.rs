//! Operators that move elements: `Transpose`, `Concat`, `Gather`, `Tile`.

use ndarray::{ArrayD, Axis, IxDyn, concatenate};

use super::shape::{expanded, reshaped};
use super::{Operation, Reader};
use crate::error::Result;
use crate::onnx::context::{Context, axes, axis, unexpected};
use crate::onnx::value::{Ints, Value};
use crate::ops::Slice;
use crate::tensor::Tensor;

pub(super) fn transpose(reader: &mut Reader<'_>) -> Result<Operation> {
    let given = reader.attributes.ints("perm")?;
    Operation::plain(move |context, inputs| {
        let x = inputs.get(0, "data")?;
        let rank = x.shape().len();
        let order = match &given {
            None => (0..rank).rev().collect(),
            Some(list) => axes(list, rank)?,
        };
        if order.len() != rank {
            return Err(unexpected("perm", "a permutation of the axes", format!("{given:?} of {rank} axes")));
        }
        Ok(vec![permuted(context, x, &order)?])
    })
}

/// Axis `a` of the result is axis `order[a]` of `x`.
pub(super) fn permuted(context: &mut Context<'_>, x: &Value, order: &[usize]) -> Result<Value> {
    fn host<T: Clone>(x: &ArrayD<T>, order: &[usize]) -> ArrayD<T> {
        x.view().permuted_axes(IxDyn(order)).as_standard_layout().into_owned()
    }
    Ok(match x {
        Value::Float(x) => Value::Float(context.permute(x, order)?),
        Value::Mask(x) => Value::Mask(context.permute(x, order)?),
        Value::Int(x) => Value::Int(Ints { kind: x.kind, values: host(&x.values, order) }),
        Value::Bool(x) => Value::Bool(host(x, order)),
    })
}

pub(super) fn concat(reader: &mut Reader<'_>) -> Result<Operation> {
    let Some(along) = reader.attributes.int("axis")? else {
        return Err(reader.refuse("axis", "an attribute", "none"));
    };
    let count = reader.given.len();
    Operation::plain(move |context, inputs| {
        let parts = (0..count).map(|at| inputs.get(at, "inputs")).collect::<Result<Vec<_>>>()?;
        let along = axis(along, parts[0].shape().len())?;
        Ok(vec![joined(context, &parts, along)?])
    })
}

/// Joins values along an axis.
pub(super) fn joined(context: &mut Context<'_>, parts: &[&Value], along: usize) -> Result<Value> {
    fn host<T: Clone>(context: &Context<'_>, parts: &[&ArrayD<T>], along: usize) -> Result<ArrayD<T>> {
        let total = parts.iter().fold(0_usize, |n, part| n.saturating_add(part.len()));
        context.reserve(&[total], 8)?;
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        // `concatenate` panics if a part does not have the axis.
        let alike = parts.iter().all(|part| part.ndim() == parts[0].ndim());
        alike.then(|| concatenate(Axis(along), &views).ok()).flatten().ok_or_else(|| {
            let shapes: Vec<_> = parts.iter().map(|part| part.shape()).collect();
            unexpected("inputs", "equal shapes apart from the axis", format!("{shapes:?}"))
        })
    }
    let unlike = || {
        let kinds: Vec<String> = parts.iter().map(|part| part.describe()).collect();
        unexpected("inputs", "of one type", kinds.join(", "))
    };
    let floats: Option<Vec<&Tensor>> =
        parts.iter().map(|p| if let Value::Float(x) = p { Some(x) } else { None }).collect();
    if let Some(parts) = floats {
        return context.concat(&parts, along).map(Value::Float);
    }
    let ints: Option<Vec<&Ints>> = parts.iter().map(|p| if let Value::Int(x) = p { Some(x) } else { None }).collect();
    if let Some(parts) = ints {
        let kind = parts[0].kind;
        if parts.iter().any(|part| part.kind != kind) {
            return Err(unlike());
        }
        let arrays: Vec<&ArrayD<i64>> = parts.iter().map(|part| &part.values).collect();
        return Ok(Value::Int(Ints { kind, values: host(context, &arrays, along)? }));
    }
    let bools: Option<Vec<&ArrayD<bool>>> =
        parts.iter().map(|p| if let Value::Bool(x) = p { Some(x) } else { None }).collect();
    if let Some(parts) = bools {
        return host(context, &parts, along).map(Value::Bool);
    }
    // Some booleans are on the host, others are masks on the device.
    let masks =
        parts.iter().map(|part| context.mask(part, "inputs")).collect::<Result<Vec<_>>>().map_err(|_| unlike())?;
    context.concat(&masks.iter().collect::<Vec<_>>(), along).map(Value::Mask)
}

/// Indices counted from the front. A negative index counts from the back.
fn rows(indices: &Ints, extent: usize) -> Result<Vec<usize>> {
    indices
        .values
        .iter()
        .map(|&index| {
            let from_front = if index < 0 { index.checked_add_unsigned(extent as u64) } else { Some(index) };
            let found = || unexpected("indices", "below the axis' extent", format!("{index} of {extent}"));
            from_front.and_then(|i| usize::try_from(i).ok()).filter(|&i| i < extent).ok_or_else(found)
        })
        .collect()
}

pub(super) fn gather(reader: &mut Reader<'_>) -> Result<Operation> {
    let along = reader.attributes.int("axis")?.unwrap_or(0);
    Operation::plain(move |context, inputs| {
        let (x, indices) = (inputs.get(0, "data")?, inputs.ints(1, "indices")?);
        let along = axis(along, x.shape().len())?;
        let rows = rows(indices, x.shape()[along])?;
        let index_shape = indices.values.shape();
        let shape = [&x.shape()[..along], index_shape, &x.shape()[along + 1..]].concat();
        context.reserve(&shape, 8)?;
        Ok(vec![match x {
            Value::Float(x) => Value::Float(gather_floats(context, x, along, &rows, &shape)?),
            Value::Mask(x) => Value::Mask(gather_floats(context, x, along, &rows, &shape)?),
            Value::Int(x) => Value::Int(Ints { kind: x.kind, values: gather_host(&x.values, along, &rows, &shape)? }),
            Value::Bool(x) => Value::Bool(gather_host(x, along, &rows, &shape)?),
        }])
    })
}

fn gather_host<T: Clone>(x: &ArrayD<T>, along: usize, rows: &[usize], shape: &[usize]) -> Result<ArrayD<T>> {
    let picked = x.select(Axis(along), rows);
    let picked = picked.as_standard_layout().into_owned();
    picked
        .into_shape_with_order(IxDyn(shape))
        .map_err(|error| unexpected("indices", "a shape that fits", error.to_string()))
}

/// Picks slices of an axis: moves it to the front, gathers rows, and moves it back.
fn gather_floats(
    context: &mut Context<'_>,
    x: &Tensor,
    along: usize,
    rows: &[usize],
    shape: &[usize],
) -> Result<Tensor> {
    if let [row] = rows {
        let one = context.slice(x, Slice { axis: along, start: *row, step: 1, count: 1 })?;
        return context.reshape(&one, shape);
    }
    let front: Vec<usize> = std::iter::once(along).chain((0..x.shape().len()).filter(|&axis| axis != along)).collect();
    let x = context.permute(x, &front)?;
    let (extent, rest) = (x.shape()[0], x.shape()[1..].to_vec());
    let table = context.reshape(&x, &[extent, rest.iter().product()])?;
    let picked = context.gather_rows(&table, rows)?;
    let picked = context.reshape(&picked, &[&[rows.len()], &rest[..]].concat())?;
    let back: Vec<usize> = (1..=along).chain([0]).chain(along + 1..=rest.len()).collect();
    let picked = context.permute(&picked, &back)?;
    context.reshape(&picked, shape)
}

pub(super) fn tile(_: &mut Reader<'_>) -> Result<Operation> {
    Operation::plain(|context, inputs| {
        let mut x = inputs.get(0, "input")?.clone();
        let repeats = inputs.list(1, "repeats")?;
        if repeats.len() != x.shape().len() {
            return Err(unexpected("repeats", "one number per axis", format!("{repeats:?} for {:?}", x.shape())));
        }
        for (axis, &times) in repeats.iter().enumerate() {
            let times = usize::try_from(times);
            let times = times.map_err(|_| unexpected("repeats", "not negative", format!("{repeats:?}")))?;
            let mut shape = x.shape().to_vec();
            shape[axis] = shape[axis].saturating_mul(times);
            context.reserve(&shape, 8)?;
            // Adds an axis before the repeated one, expands it, and merges both.
            let (before, from) = x.shape().split_at(axis);
            let [before, from] = [before, from].map(|extents| extents.iter().product::<usize>());
            x = reshaped(context, &x, &[before, 1, from])?;
            x = expanded(context, &x, &[before, times, from])?;
            x = reshaped(context, &x, &shape)?;
        }
        Ok(vec![x])
    })
}

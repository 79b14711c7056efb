//! Operators on shapes, and operators that give the elements another shape.

use ndarray::{ArrayD, IxDyn};

use super::{Axes, Operation, Reader};
use crate::error::Result;
use crate::onnx::context::{Context, axes, axis, broadcast, rank, spread, unexpected};
use crate::onnx::value::{Ints, Value};
use crate::tensor::Tensor;

/// A value with the same elements and another shape.
pub(super) fn reshaped(context: &Context<'_>, x: &Value, shape: &[usize]) -> Result<Value> {
    fn host<T: Clone>(x: &ArrayD<T>, shape: &[usize]) -> Result<ArrayD<T>> {
        let refused = |_| unexpected("shape", "one of as many elements", format!("{shape:?} for {:?}", x.shape()));
        x.as_standard_layout().into_owned().into_shape_with_order(IxDyn(shape)).map_err(refused)
    }
    Ok(match x {
        Value::Float(x) => Value::Float(context.reshape(x, shape)?),
        Value::Mask(x) => Value::Mask(context.reshape(x, shape)?),
        Value::Int(x) => Value::Int(Ints { kind: x.kind, values: host(&x.values, shape)? }),
        Value::Bool(x) => Value::Bool(host(x, shape)?),
    })
}

/// A shape as integers.
fn extents(shape: &[usize]) -> Ints {
    Ints::list(shape.iter().map(|&extent| extent as i64))
}

/// A list of integers as a shape.
fn to_shape(list: &[i64]) -> Result<Vec<usize>> {
    let refused = |_| unexpected("shape", "no negative extents", format!("{list:?}"));
    list.iter().map(|&extent| usize::try_from(extent)).collect::<std::result::Result<_, _>>().map_err(refused)
}

pub(super) fn shape(reader: &mut Reader<'_>) -> Result<Operation> {
    let (start, end) = if reader.opset < 15 {
        (0, None)
    } else {
        (reader.attributes.int("start")?.unwrap_or(0), reader.attributes.int("end")?)
    };
    Operation::plain(move |_, inputs| {
        let shape = inputs.get(0, "data")?.shape();
        let rank = shape.len() as i64;
        let place =
            |at: i64| usize::try_from(if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank)).unwrap_or(0);
        let (start, end) = (place(start), end.map_or(shape.len(), place));
        Ok(vec![Value::Int(extents(shape.get(start..end).unwrap_or_default()))])
    })
}

pub(super) fn size(_: &mut Reader<'_>) -> Result<Operation> {
    Operation::plain(|_, inputs| {
        let count = inputs.get(0, "data")?.shape().iter().product::<usize>() as i64;
        Ok(vec![Value::Int(Ints { values: ArrayD::from_elem(IxDyn(&[]), count), ..Ints::list([]) })])
    })
}

/// `Constant`: a tensor or, from operator set 12 on, a number or a list.
pub(super) fn constant(reader: &mut Reader<'_>) -> Result<Operation> {
    let mut found = Vec::new();
    if let Some(tensor) = reader.attributes.tensor("value")? {
        found.push(reader.file.read(tensor)?);
    }
    let host = |shape: &[usize], data| Tensor::from_vec(&crate::Device::Cpu, shape, data).map(Value::Float);
    let scalar = |x: i64| Value::Int(Ints { values: ArrayD::from_elem(IxDyn(&[]), x), ..Ints::list([]) });
    if let Some(x) = reader.attributes.float("value_float")? {
        found.push(host(&[], vec![x])?);
    }
    if let Some(x) = reader.attributes.floats("value_floats")? {
        found.push(host(&[x.len()], x)?);
    }
    found.extend(reader.attributes.int("value_int")?.map(scalar));
    found.extend(reader.attributes.ints("value_ints")?.map(|x| Value::Int(Ints::list(x))));
    match <[Value; 1]>::try_from(found) {
        Ok([value]) => Operation::plain(move |_, _| Ok(vec![value.clone()])),
        Err(found) => {
            let expected = "value, value_float, value_floats, value_int or value_ints";
            Err(reader.refuse("attributes", expected, format!("{} of them", found.len())))
        }
    }
}

pub(super) fn constant_of_shape(reader: &mut Reader<'_>) -> Result<Operation> {
    let value = match reader.attributes.tensor("value")? {
        Some(tensor) => reader.file.read(tensor)?,
        None => Value::Float(Tensor::from_vec(&crate::Device::Cpu, &[1], vec![0.0])?),
    };
    if value.shape().iter().product::<usize>() != 1 {
        return Err(reader.refuse("value", "a tensor of one element", value.describe()));
    }
    Operation::plain(move |context, inputs| {
        let shape = to_shape(&inputs.list(0, "input")?)?;
        Ok(vec![expanded(context, &value.on(context.device())?, &shape)?])
    })
}

/// A value that is repeated to a shape.
pub(super) fn expanded(context: &mut Context<'_>, x: &Value, shape: &[usize]) -> Result<Value> {
    context.reserve(shape, 8)?;
    Ok(match x {
        Value::Float(x) => Value::Float(context.expand(x, shape)?),
        Value::Mask(x) => Value::Mask(context.expand(x, shape)?),
        Value::Int(x) => Value::Int(Ints { kind: x.kind, values: spread(&x.values, shape)? }),
        Value::Bool(x) => Value::Bool(spread(x, shape)?),
    })
}

/// `Expand`: broadcasting in both directions. A requested extent of 1 keeps the extent of the tensor.
pub(super) fn expand(_: &mut Reader<'_>) -> Result<Operation> {
    Operation::plain(|context, inputs| {
        let x = inputs.get(0, "input")?;
        let shape = broadcast(x.shape(), &to_shape(&inputs.list(1, "shape")?)?)?;
        Ok(vec![expanded(context, x, &shape)?])
    })
}

/// The shape that `Reshape` asks for: 0 keeps an extent, and -1 takes the remaining elements.
fn resolve(list: &[i64], from: &[usize], zero_is_zero: bool) -> Result<Vec<usize>> {
    let refused = || unexpected("shape", "one of as many elements", format!("{list:?} for {from:?}"));
    let mut free = None;
    let mut shape = Vec::with_capacity(list.len());
    for (at, &extent) in list.iter().enumerate() {
        shape.push(match extent {
            0 if !zero_is_zero => *from.get(at).ok_or_else(refused)?,
            -1 if free.replace(at).is_none() => 1,
            extent => usize::try_from(extent).map_err(|_| refused())?,
        });
    }
    let product = |shape: &[usize]| shape.iter().try_fold(1_usize, |n, &extent| n.checked_mul(extent));
    let (count, known) = (product(from).ok_or_else(refused)?, product(&shape).ok_or_else(refused)?);
    if let Some(at) = free {
        if known == 0 || count % known != 0 {
            return Err(refused());
        }
        shape[at] = count / known;
    }
    if product(&shape) == Some(count) { Ok(shape) } else { Err(refused()) }
}

pub(super) fn reshape(reader: &mut Reader<'_>) -> Result<Operation> {
    let zero_is_zero = reader.opset >= 14 && reader.attributes.flag("allowzero", false)?;
    Operation::plain(move |context, inputs| {
        let x = inputs.get(0, "data")?;
        let shape = resolve(&inputs.list(1, "shape")?, x.shape(), zero_is_zero)?;
        Ok(vec![reshaped(context, x, &shape)?])
    })
}

/// `Flatten`: merges the axes before `axis` into one axis, and the others into a second one.
pub(super) fn flatten(reader: &mut Reader<'_>) -> Result<Operation> {
    let at = reader.attributes.int("axis")?.unwrap_or(1);
    Operation::plain(move |context, inputs| {
        let x = inputs.get(0, "input")?;
        let rank = x.shape().len();
        // The axis may equal the rank.
        let at = if usize::try_from(at) == Ok(rank) { rank } else { axis(at, rank)? };
        let (before, after) = x.shape().split_at(at);
        Ok(vec![reshaped(context, x, &[before.iter().product(), after.iter().product()])?])
    })
}

pub(super) fn squeeze(reader: &mut Reader<'_>) -> Result<Operation> {
    let from: Axes = reader.axes(13)?;
    Operation::plain(move |context, inputs| {
        let x = inputs.get(0, "data")?;
        let shape = x.shape();
        let dropped = match from.get(inputs)? {
            Some(list) => axes(&list, shape.len())?,
            None => (0..shape.len()).filter(|&at| shape[at] == 1).collect(),
        };
        if let Some(&at) = dropped.iter().find(|&&at| shape[at] != 1) {
            return Err(unexpected("axes", "axes of extent 1", format!("axis {at} of {shape:?}")));
        }
        let kept: Vec<usize> = (0..shape.len()).filter(|at| !dropped.contains(at)).map(|at| shape[at]).collect();
        Ok(vec![reshaped(context, x, &kept)?])
    })
}

pub(super) fn unsqueeze(reader: &mut Reader<'_>) -> Result<Operation> {
    let from: Axes = reader.axes(13)?;
    Operation::plain(move |context, inputs| {
        let x = inputs.get(0, "data")?;
        let Some(list) = from.get(inputs)? else {
            return Err(unexpected("axes", "a list", "none"));
        };
        let rank = rank(x.shape().len() + list.len())?;
        let added = axes(&list, rank)?;
        let mut old = x.shape().iter().copied();
        let shape: Vec<usize> =
            (0..rank).map(|at| if added.contains(&at) { 1 } else { old.next().unwrap_or(1) }).collect();
        Ok(vec![reshaped(context, x, &shape)?])
    })
}

/// `Range`: integers from a start to a limit, on the host.
pub(super) fn range(reader: &mut Reader<'_>) -> Result<Operation> {
    // The attribute affects narrow floats only.
    reader.attributes.int("stash_type")?;
    Operation::plain(|context, inputs| {
        let numbers = ["start", "limit", "delta"].into_iter().enumerate().map(|(at, what)| {
            let x = inputs.ints(at, what)?;
            match x.values.first() {
                Some(&one) if x.values.len() == 1 => Ok((x.kind, one)),
                _ => Err(unexpected(what, "one integer", format!("shape {:?}", x.values.shape()))),
            }
        });
        let numbers = numbers.collect::<Result<Vec<_>>>()?;
        let [(kind, start), (_, limit), (_, delta)] = numbers[..] else {
            return Err(unexpected("inputs", "start, limit and delta", format!("{}", numbers.len())));
        };
        let span = if delta > 0 { limit.checked_sub(start) } else { start.checked_sub(limit) };
        let (Some(span), true) = (span, delta != 0) else {
            let found = format!("{delta} from {start} to {limit}");
            return Err(unexpected("delta", "a step that leads to the limit", found));
        };
        let count = usize::try_from(span.max(0).unsigned_abs().div_ceil(delta.unsigned_abs())).unwrap_or(usize::MAX);
        context.reserve(&[count], 8)?;
        let values = std::iter::successors(Some(start), |x| x.checked_add(delta)).take(count);
        Ok(vec![Value::Int(Ints { kind, ..Ints::list(values) })])
    })
}

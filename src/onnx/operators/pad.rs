//! Padding along any axes.

use super::layout::joined;
use super::shape::expanded;
use super::slice::cut;
use super::{Operation, Reader};
use crate::error::Result;
use crate::onnx::context::{Context, axes, unexpected};
use crate::onnx::value::{Ints, Value};
use crate::ops::{PadMode, Slice};

/// The content of the padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PadContent {
    Constant,
    Reflect,
    Edge,
}

/// `Pad`. Pads and value are attributes before operator set 11, inputs from then on.
pub(super) fn pad(reader: &mut Reader<'_>) -> Result<Operation> {
    let mode = match reader.attributes.string("mode")?.as_deref() {
        None | Some("constant") => PadContent::Constant,
        Some("reflect") => PadContent::Reflect,
        Some("edge") => PadContent::Edge,
        Some(other) => return Err(reader.refuse("mode", "constant, reflect or edge", format!("{other:?}"))),
    };
    let known = if reader.opset < 11 {
        let value = reader.attributes.float("value")?.unwrap_or(0.0);
        match reader.attributes.ints("pads")? {
            Some(pads) => Some((pads, value)),
            None => return Err(reader.refuse("pads", "an attribute", "none")),
        }
    } else {
        None
    };
    Operation::plain(move |context, inputs| {
        let mut x = inputs.get(0, "data")?.clone();
        let rank = x.shape().len();
        let (pads, value, along) = match &known {
            Some((pads, value)) => (pads.clone(), Some(Value::Float(context.tensor(&[], vec![*value])?)), None),
            None => (inputs.list(1, "pads")?, inputs.optional(2).cloned(), inputs.optional_list(3, "axes")?),
        };
        let along = match along {
            Some(list) => axes(&list, rank)?,
            None => (0..rank).collect(),
        };
        if pads.len() != 2 * along.len() {
            return Err(unexpected("pads", "two numbers per axis", format!("{pads:?} for {} axes", along.len())));
        }
        let zero = known.as_ref().is_none_or(|(_, value)| *value == 0.0) && inputs.optional(2).is_none();
        let value = if zero { None } else { value.as_ref() };
        for (at, &axis) in along.iter().enumerate() {
            let pads = [pads[at], pads[along.len() + at]];
            x = cropped(context, x, axis, pads)?;
            let pads = pads.map(|pad| usize::try_from(pad.max(0)).unwrap_or(usize::MAX));
            if pads != [0, 0] {
                let mut shape = x.shape().to_vec();
                shape[axis] = shape[axis].saturating_add(pads[0]).saturating_add(pads[1]);
                context.reserve(&shape, 8)?;
                x = padded(context, &x, axis, pads, mode, value)?;
            }
        }
        Ok(vec![x])
    })
}

/// Removes elements from each end of an axis that has a negative pad.
fn cropped(context: &mut Context<'_>, x: Value, axis: usize, pads: [i64; 2]) -> Result<Value> {
    let [before, after] = pads.map(|pad| usize::try_from(pad.min(0).unsigned_abs()).unwrap_or(usize::MAX));
    let (extent, removed) = (x.shape()[axis], before.saturating_add(after));
    if removed > extent {
        let found = format!("{pads:?} for axis {axis} of {:?}", x.shape());
        return Err(unexpected("pads", "negative by at most the axis", found));
    }
    if removed == 0 {
        return Ok(x);
    }
    cut(context, &x, Slice { axis, start: before.min(extent - 1), step: 1, count: extent - removed })
}

/// Pads one axis before and after its elements. In constant mode, a `value` of `None` means zeros.
fn padded(
    context: &mut Context<'_>,
    x: &Value,
    axis: usize,
    pads: [usize; 2],
    mode: PadContent,
    value: Option<&Value>,
) -> Result<Value> {
    let extent = x.shape()[axis];
    let longest = pads[0].max(pads[1]);
    if (mode == PadContent::Reflect && longest >= extent) || (mode == PadContent::Edge && extent == 0) {
        let found = format!("{pads:?} for an axis of {extent}");
        return Err(unexpected("pads", "shorter than the axis that reflects or repeats", found));
    }
    // There is a kernel for the last axis of floats.
    if let (Value::Float(x), true) = (x, axis + 1 == x.shape().len()) {
        match (mode, value) {
            (PadContent::Reflect, _) => return context.pad1d(x, pads, PadMode::Reflect).map(Value::Float),
            (PadContent::Constant, None) => return context.pad1d(x, pads, PadMode::Zero).map(Value::Float),
            _ => {}
        }
    }
    let mut part = |count: usize, at_start: bool| -> Result<Value> {
        let slice = |start: usize, step: isize, count: usize| Slice { axis, start, step, count };
        let mut shape = x.shape().to_vec();
        shape[axis] = count;
        match mode {
            PadContent::Constant => filled(context, x, &shape, value),
            PadContent::Reflect => {
                let start = if at_start { count } else { extent.saturating_sub(2) };
                cut(context, x, slice(if count == 0 { 0 } else { start }, -1, count))
            }
            PadContent::Edge => {
                let one = cut(context, x, slice(if at_start { 0 } else { extent - 1 }, 1, 1))?;
                expanded(context, &one, &shape)
            }
        }
    };
    let (before, after) = (part(pads[0], true)?, part(pads[1], false)?);
    joined(context, &[&before, x, &after], axis)
}

/// A value of the type of `like` that repeats one element: `value`, or zero if that is `None`.
fn filled(context: &mut Context<'_>, like: &Value, shape: &[usize], value: Option<&Value>) -> Result<Value> {
    let one = |value: &Value| value.shape().iter().product::<usize>() == 1;
    match (like, value) {
        (Value::Float(_), None) => context.full(shape, 0.0).map(Value::Float),
        (Value::Float(_), Some(Value::Float(x))) if x.len() == 1 => {
            let x = context.reshape(x, &[1])?;
            context.expand(&x, shape).map(Value::Float)
        }
        (Value::Int(x), value) => {
            let fill = match value {
                None => 0,
                Some(Value::Int(fill)) if one(&Value::Int(fill.clone())) && fill.kind == x.kind => {
                    fill.values.iter().copied().next().unwrap_or(0)
                }
                Some(other) => {
                    return Err(unexpected("constant_value", "one value of the data's type", other.describe()));
                }
            };
            context.reserve(shape, 8)?;
            Ok(Value::Int(Ints { kind: x.kind, values: ndarray::ArrayD::from_elem(shape, fill) }))
        }
        (_, other) => {
            let found = other.map_or_else(|| like.describe(), Value::describe);
            Err(unexpected("constant_value", "one value of the data's type", found))
        }
    }
}

//! Padding along any axes.

use super::layout::joined;
use super::shape::expanded;
use super::slice::cut;
use super::{Operation, Reader};
use crate::error::Result;
use crate::onnx::context::{Context, axes, unexpected};
use crate::onnx::value::{Ints, Value};
use crate::ops::{PadMode, Slice};

/// What surrounds the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Constant,
    Reflect,
    Edge,
}

/// Pads and value: attributes before operator set 11, inputs from then on.
pub(super) fn pad(reader: &mut Reader<'_>) -> Result<Operation> {
    let mode = match reader.attributes.string("mode")?.as_deref() {
        None | Some("constant") => Mode::Constant,
        Some("reflect") => Mode::Reflect,
        Some("edge") => Mode::Edge,
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
            return Err(unexpected("pads", "two numbers an axis", format!("{pads:?} for {} axes", along.len())));
        }
        let zero = known.as_ref().is_none_or(|(_, value)| *value == 0.0) && inputs.optional(2).is_none();
        for (at, &axis) in along.iter().enumerate() {
            let [before, after] = [pads[at], pads[along.len() + at]];
            // Negative pads cut.
            let off = |pad: i64| usize::try_from(pad.min(0).unsigned_abs()).unwrap_or(usize::MAX);
            let extent = x.shape()[axis];
            let cut_off = off(before).saturating_add(off(after));
            if cut_off > extent {
                return Err(unexpected(
                    "pads",
                    "negative by less than the axis",
                    format!("{pads:?} for {:?}", x.shape()),
                ));
            }
            if cut_off > 0 {
                x = cut(
                    context,
                    &x,
                    Slice { axis, start: off(before).min(extent - 1), step: 1, count: extent - cut_off },
                )?;
            }
            let on = |pad: i64| usize::try_from(pad.max(0)).unwrap_or(usize::MAX);
            let sides = [on(before), on(after)];
            if sides != [0, 0] {
                let mut shape = x.shape().to_vec();
                shape[axis] = shape[axis].saturating_add(sides[0]).saturating_add(sides[1]);
                context.reserve(&shape, 8)?;
                x = padded(context, &x, axis, sides, mode, if zero { None } else { value.as_ref() })?;
            }
        }
        Ok(vec![x])
    })
}

/// One axis padded; without a value by zeros.
fn padded(
    context: &mut Context<'_>,
    x: &Value,
    axis: usize,
    sides: [usize; 2],
    mode: Mode,
    value: Option<&Value>,
) -> Result<Value> {
    let extent = x.shape()[axis];
    let reach = sides[0].max(sides[1]);
    if (mode == Mode::Reflect && reach >= extent) || (mode == Mode::Edge && extent == 0) {
        let found = format!("{sides:?} for an axis of {extent}");
        return Err(unexpected("pads", "inside what reflects or repeats", found));
    }
    // The last axis of floats has a kernel of its own.
    if let (Value::Float(x), true) = (x, axis + 1 == x.shape().len()) {
        match (mode, value) {
            (Mode::Reflect, _) => return context.pad1d(x, sides, PadMode::Reflect).map(Value::Float),
            (Mode::Constant, None) => return context.pad1d(x, sides, PadMode::Zero).map(Value::Float),
            _ => {}
        }
    }
    let mut side = |count: usize, first: usize| -> Result<Value> {
        let part = |start: usize, step: isize, count: usize| Slice { axis, start, step, count };
        match mode {
            Mode::Constant => {
                let mut shape = x.shape().to_vec();
                shape[axis] = count;
                filled(context, x, &shape, value)
            }
            Mode::Reflect => {
                let start = if first == 0 { count } else { extent.saturating_sub(2) };
                cut(context, x, part(if count == 0 { 0 } else { start }, -1, count))
            }
            Mode::Edge => {
                let one = cut(context, x, part(if first == 0 { 0 } else { extent - 1 }, 1, 1))?;
                let mut shape = x.shape().to_vec();
                shape[axis] = count;
                expanded(context, &one, &shape)
            }
        }
    };
    let (before, after) = (side(sides[0], 0)?, side(sides[1], 1)?);
    joined(context, &[&before, x, &after], axis)
}

/// A value of `like`'s type everywhere, zero without a value.
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

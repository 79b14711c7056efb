//! `Cast`: conversions of element types.

use ndarray::{ArrayD, IxDyn};

use super::{Operation, Reader};
use crate::error::Result;
use crate::onnx::Warning;
use crate::onnx::context::{Context, Inputs, unexpected};
use crate::onnx::interface::ElementType;
use crate::onnx::value::{IntKind, Ints, Value};
use crate::ops::Binary;

/// The type of value that a cast returns.
#[derive(Clone, Copy, Debug)]
enum Target {
    Float,
    Int(IntKind),
    Bool,
}

pub(super) fn cast(reader: &mut Reader<'_>) -> Result<Operation> {
    // Both attributes affect 8-bit floats only.
    reader.attributes.int("saturate")?;
    reader.attributes.string("round_mode")?;
    let supported = "float, double, float16, bfloat16, bool or an integer of 8 to 64 bits";
    let Some(to) = reader.attributes.int("to")? else {
        return Err(reader.refuse("to", supported, "no such attribute"));
    };
    let kind = i32::try_from(to).map_err(|_| format!("{to}")).and_then(ElementType::read);
    let kind = kind.map_err(|found| reader.refuse("to", supported, found))?;
    let target = match (kind, IntKind::of(kind)) {
        (_, Some(kind)) => Target::Int(kind),
        (ElementType::Bool, _) => Target::Bool,
        (ElementType::Float, _) => Target::Float,
        _ => {
            reader.warnings.push(Warning::Precision { node: reader.site.node.clone(), declared: format!("{kind:?}") });
            Target::Float
        }
    };
    Operation::plain(move |context, inputs| Ok(vec![cast_value(context, inputs, target)?]))
}

fn cast_value(context: &mut Context<'_>, inputs: &Inputs<'_>, target: Target) -> Result<Value> {
    let value = inputs.get(0, "input")?;
    context.reserve(value.shape(), 8)?;
    Ok(match (target, value) {
        (Target::Float, Value::Float(x) | Value::Mask(x)) => Value::Float(x.clone()),
        (Target::Float, Value::Bool(_)) => Value::Float(context.mask(value, "input")?),
        (Target::Float, Value::Int(x)) => {
            Value::Float(context.tensor(x.values.shape(), x.values.iter().map(|&x| x as f32).collect())?)
        }
        (Target::Int(kind), Value::Int(x)) => Value::Int(Ints { kind, values: x.values.mapv(|x| kind.wrap(x)) }),
        (Target::Int(kind), Value::Bool(x)) => Value::Int(Ints { kind, values: x.mapv(i64::from) }),
        (Target::Int(kind), Value::Float(x) | Value::Mask(x)) => {
            let numbers = context.read(x)?.into_iter().map(|x| truncated(x, kind)).collect::<Result<Vec<i64>>>()?;
            let values = ArrayD::from_shape_vec(IxDyn(x.shape()), numbers);
            let values = values.map_err(|error| unexpected("input", "a whole array", error.to_string()))?;
            Value::Int(Ints { kind, values })
        }
        (Target::Bool, Value::Bool(_) | Value::Mask(_)) => value.clone(),
        (Target::Bool, Value::Int(x)) => Value::Bool(x.values.mapv(|x| x != 0)),
        (Target::Bool, Value::Float(x)) => {
            let zero = context.full(x.shape(), 0.0)?;
            let is_zero = context.binary(Binary::Equal, x, &zero)?;
            Value::Mask(context.affine(-1.0, &is_zero, 1.0)?)
        }
    })
}

/// A float without its fraction. ONNX leaves a float outside the range of the integer type undefined; here it is refused.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn truncated(x: f32, kind: IntKind) -> Result<i64> {
    let whole = x.trunc();
    let inside = whole.abs() < 9.2e18;
    inside
        .then_some(whole as i64)
        .and_then(|whole| kind.fits(whole))
        .ok_or_else(|| unexpected("a float that is cast", "in the range of the integer type", x.to_string()))
}

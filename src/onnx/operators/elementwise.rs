//! Operators that work on every element by itself.

use ndarray::{ArrayD, IxDyn, Zip};

use super::{Operation, Reader};
use crate::cell::Activation;
use crate::error::Result;
use crate::onnx::Warning;
use crate::onnx::context::{Context, Inputs, broadcast, spread, unexpected};
use crate::onnx::proto::DataType;
use crate::onnx::tensor::data_type;
use crate::onnx::value::{IntKind, Ints, Value};
use crate::ops::{Binary, Math};
use crate::tensor::Tensor;

/// Arithmetic on floats or integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Sub,
    Mul,
    /// Of integers: towards zero.
    Div,
    Max,
    Min,
}

impl Arithmetic {
    fn float(self) -> Binary {
        match self {
            Self::Add => Binary::Add,
            Self::Sub => Binary::Sub,
            Self::Mul => Binary::Mul,
            Self::Div => Binary::Div,
            Self::Max => Binary::Max,
            Self::Min => Binary::Min,
        }
    }

    fn int(self, a: i64, b: i64) -> Option<i64> {
        match self {
            Self::Add => a.checked_add(b),
            Self::Sub => a.checked_sub(b),
            Self::Mul => a.checked_mul(b),
            Self::Div => a.checked_div(b),
            Self::Max => Some(a.max(b)),
            Self::Min => Some(a.min(b)),
        }
    }

    fn apply(self, context: &mut Context<'_>, a: &Value, b: &Value) -> Result<Value> {
        match (a, b) {
            (Value::Float(a), Value::Float(b)) => context.binary(self.float(), a, b).map(Value::Float),
            (Value::Int(a), Value::Int(b)) if a.kind == b.kind => {
                ints(context, a, b, |a, b| self.int(a, b)).map(Value::Int)
            }
            _ => Err(unlike(a, b)),
        }
    }
}

fn unlike(a: &Value, b: &Value) -> crate::Error {
    unexpected("inputs", "of one type that has the operation", format!("{} and {}", a.describe(), b.describe()))
}

/// Two host arrays, element by element, after broadcasting.
fn zip<A: Clone, B: Clone, C>(
    context: &Context<'_>,
    a: &ArrayD<A>,
    b: &ArrayD<B>,
    f: impl FnMut(&A, &B) -> C,
) -> Result<ArrayD<C>> {
    let shape = broadcast(a.shape(), b.shape())?;
    context.reserve(&shape, 8)?;
    Ok(Zip::from(&spread(a, &shape)?).and(&spread(b, &shape)?).map_collect(f))
}

fn ints(context: &Context<'_>, a: &Ints, b: &Ints, f: impl Fn(i64, i64) -> Option<i64>) -> Result<Ints> {
    let mut refused = None;
    let values = zip(context, &a.values, &b.values, |&a_one, &b_one| {
        f(a_one, b_one).and_then(|y| a.kind.fits(y)).unwrap_or_else(|| {
            refused = Some((a_one, b_one));
            0
        })
    })?;
    match refused {
        Some(pair) => Err(unexpected("integers", "a result that their type holds", format!("{pair:?}"))),
        None => Ok(Ints { kind: a.kind, values }),
    }
}

pub(super) fn arithmetic(_: &mut Reader<'_>, op: Arithmetic) -> Result<Operation> {
    Operation::plain(move |context, inputs| Ok(vec![op.apply(context, inputs.get(0, "A")?, inputs.get(1, "B")?)?]))
}

/// Maximum or minimum of any number of inputs.
pub(super) fn extremum(reader: &mut Reader<'_>, op: Arithmetic) -> Result<Operation> {
    let count = reader.given.len();
    Operation::plain(move |context, inputs| {
        let mut result = inputs.get(0, "data_0")?.clone();
        for at in 1..count {
            result = op.apply(context, &result, inputs.get(at, "data")?)?;
        }
        Ok(vec![result])
    })
}

/// A power; the usual constant exponents are products and roots.
pub(super) fn power(reader: &mut Reader<'_>) -> Result<Operation> {
    let exponent = match reader.constant(1) {
        Some(Value::Float(x)) if x.len() == 1 => x.to_vec()?.first().copied(),
        Some(Value::Int(x)) if x.values.len() == 1 && x.values.iter().all(|x| x.abs() < 1 << 24) => {
            x.values.first().map(|&x| x as f32)
        }
        _ => None,
    };
    // A constant with axes of its own may raise the result's rank.
    let plain = reader.constant(1).is_some_and(|x| x.shape().len() <= 1);
    Operation::plain(move |context, inputs| {
        let (a, b) = (inputs.get(0, "X")?, inputs.get(1, "Y")?);
        Ok(vec![match (a, b) {
            (Value::Float(x), _) if exponent == Some(2.0) && plain && !x.shape().is_empty() => {
                Value::Float(context.binary(Binary::Mul, x, x)?)
            }
            (Value::Float(x), _) if exponent == Some(0.5) && plain && !x.shape().is_empty() => {
                Value::Float(context.math(Math::Sqrt, x)?)
            }
            (Value::Float(x), Value::Float(y)) => Value::Float(context.binary(Binary::Pow, x, y)?),
            (Value::Float(x), Value::Int(y)) => {
                let y = context.tensor(y.values.shape(), y.values.iter().map(|&y| y as f32).collect())?;
                Value::Float(context.binary(Binary::Pow, x, &y)?)
            }
            (Value::Int(x), Value::Int(y)) => {
                let raise = |x: i64, y: i64| u32::try_from(y).ok().and_then(|y| x.checked_pow(y));
                Value::Int(ints(context, x, y, raise)?)
            }
            _ => return Err(unlike(a, b)),
        }])
    })
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

pub(super) fn compare(_: &mut Reader<'_>, op: Compare) -> Result<Operation> {
    Operation::plain(move |context, inputs| {
        let (a, b) = (inputs.get(0, "A")?, inputs.get(1, "B")?);
        let value = match (a, b) {
            (Value::Float(a), Value::Float(b)) => {
                let (less, or_equal) = match op {
                    Compare::Equal => (None, true),
                    Compare::Less => (Some((a, b)), false),
                    Compare::LessOrEqual => (Some((a, b)), true),
                    Compare::Greater => (Some((b, a)), false),
                    Compare::GreaterOrEqual => (Some((b, a)), true),
                };
                let equal = or_equal.then(|| context.binary(Binary::Equal, a, b)).transpose()?;
                let less = less.map(|(a, b)| context.binary(Binary::Less, a, b)).transpose()?;
                Value::Mask(match (less, equal) {
                    (Some(less), Some(equal)) => context.binary(Binary::Max, &less, &equal)?,
                    (Some(one), None) | (None, Some(one)) => one,
                    (None, None) => return Err(unlike(inputs.get(0, "A")?, inputs.get(1, "B")?)),
                })
            }
            (Value::Int(a), Value::Int(b)) if a.kind == b.kind => {
                Value::Bool(zip(context, &a.values, &b.values, |a, b| match op {
                    Compare::Equal => a == b,
                    Compare::Less => a < b,
                    Compare::LessOrEqual => a <= b,
                    Compare::Greater => a > b,
                    Compare::GreaterOrEqual => a >= b,
                })?)
            }
            (Value::Bool(a), Value::Bool(b)) if op == Compare::Equal => Value::Bool(zip(context, a, b, |a, b| a == b)?),
            (Value::Mask(_) | Value::Bool(_), Value::Mask(_) | Value::Bool(_)) if op == Compare::Equal => {
                let (a, b) = (context.mask(a, "A")?, context.mask(b, "B")?);
                Value::Mask(context.binary(Binary::Equal, &a, &b)?)
            }
            _ => return Err(unlike(a, b)),
        };
        Ok(vec![value])
    })
}

/// An operation on booleans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logic {
    And,
    Or,
}

pub(super) fn logic(_: &mut Reader<'_>, op: Logic) -> Result<Operation> {
    Operation::plain(move |context, inputs| {
        let (a, b) = (inputs.get(0, "A")?, inputs.get(1, "B")?);
        Ok(vec![match (a, b) {
            (Value::Bool(a), Value::Bool(b)) => Value::Bool(zip(context, a, b, |&a, &b| match op {
                Logic::And => a && b,
                Logic::Or => a || b,
            })?),
            _ => {
                let (a, b) = (context.mask(a, "A")?, context.mask(b, "B")?);
                let op = if op == Logic::And { Binary::Mul } else { Binary::Max };
                Value::Mask(context.binary(op, &a, &b)?)
            }
        }])
    })
}

pub(super) fn not(_: &mut Reader<'_>) -> Result<Operation> {
    Operation::plain(|context, inputs| {
        Ok(vec![match inputs.get(0, "X")? {
            Value::Bool(x) => Value::Bool(x.mapv(|x| !x)),
            Value::Mask(x) => Value::Mask(context.affine(-1.0, x, 1.0)?),
            other => return Err(unexpected("X", "booleans", other.describe())),
        }])
    })
}

/// `Where`: what is not taken does not reach the result, not even as a NaN.
pub(super) fn select(_: &mut Reader<'_>) -> Result<Operation> {
    Operation::plain(|context, inputs| {
        let (condition, x, y) = (inputs.get(0, "condition")?, inputs.get(1, "X")?, inputs.get(2, "Y")?);
        Ok(vec![match (condition, x, y) {
            (_, Value::Float(x), Value::Float(y)) => {
                let condition = context.mask(condition, "condition")?;
                let x = context.binary(Binary::Keep, x, &condition)?;
                let y = context.binary(Binary::Drop, y, &condition)?;
                Value::Float(context.binary(Binary::Add, &x, &y)?)
            }
            (Value::Bool(c), Value::Int(x), Value::Int(y)) if x.kind == y.kind => {
                Value::Int(Ints { kind: x.kind, values: choose(context, c, &x.values, &y.values)? })
            }
            (Value::Bool(c), Value::Bool(x), Value::Bool(y)) => Value::Bool(choose(context, c, x, y)?),
            _ => return Err(unlike(x, y)),
        }])
    })
}

fn choose<T: Clone>(context: &Context<'_>, c: &ArrayD<bool>, x: &ArrayD<T>, y: &ArrayD<T>) -> Result<ArrayD<T>> {
    let pairs = zip(context, x, y, |x, y| (x.clone(), y.clone()))?;
    zip(context, c, &pairs, |&c, (x, y)| if c { x.clone() } else { y.clone() })
}

/// A function of floats.
fn on_floats(run: impl Fn(&mut Context<'_>, &Tensor) -> Result<Tensor> + Send + Sync + 'static) -> Result<Operation> {
    Operation::plain(move |context, inputs| Ok(vec![Value::Float(run(context, inputs.float(0, "X")?)?)]))
}

pub(super) fn math(_: &mut Reader<'_>, function: Math) -> Result<Operation> {
    Operation::plain(move |context, inputs| {
        Ok(vec![match inputs.get(0, "X")? {
            Value::Int(x) if function == Math::Abs => {
                let magnitude = |a: i64, _| a.checked_abs();
                Value::Int(ints(context, x, x, magnitude)?)
            }
            _ => Value::Float(context.math(function, inputs.float(0, "X")?)?),
        }])
    })
}

pub(super) fn negate(_: &mut Reader<'_>) -> Result<Operation> {
    Operation::plain(|context, inputs| {
        Ok(vec![match inputs.get(0, "X")? {
            Value::Int(x) => Value::Int(ints(context, x, x, |a, _| a.checked_neg())?),
            _ => Value::Float(context.affine(-1.0, inputs.float(0, "X")?, 0.0)?),
        }])
    })
}

pub(super) fn reciprocal(_: &mut Reader<'_>) -> Result<Operation> {
    on_floats(|context, x| {
        let one = context.full(x.shape(), 1.0)?;
        context.binary(Binary::Div, &one, x)
    })
}

/// The activations that are operators of their own.
pub(super) fn activation(reader: &mut Reader<'_>) -> Result<Operation> {
    let mut parameter = |name: &str, default: f32| Ok(reader.attributes.float(name)?.unwrap_or(default));
    let activation = match reader.operator {
        "Sigmoid" => Activation::Sigmoid,
        "Tanh" => Activation::Tanh,
        "Relu" => Activation::Relu,
        "LeakyRelu" => Activation::LeakyRelu { alpha: parameter("alpha", 0.01)? },
        "ThresholdedRelu" => Activation::ThresholdedRelu { alpha: parameter("alpha", 1.0)? },
        "Elu" => Activation::Elu { alpha: parameter("alpha", 1.0)? },
        "HardSigmoid" => Activation::HardSigmoid { alpha: parameter("alpha", 0.2)?, beta: parameter("beta", 0.5)? },
        "Softplus" => Activation::Softplus,
        _ => Activation::Softsign,
    };
    on_floats(move |context, x| context.activation(activation, x))
}

pub(super) fn identity(_: &mut Reader<'_>) -> Result<Operation> {
    Operation::plain(|_, inputs| Ok(vec![inputs.get(0, "input")?.clone()]))
}

/// Inference: the identity, and a mask of ones.
pub(super) fn dropout(reader: &mut Reader<'_>) -> Result<Operation> {
    // The ratio says something about training only.
    if reader.opset < 12 {
        reader.attributes.float("ratio")?;
    } else {
        reader.attributes.int("seed")?;
        match reader.constant(2) {
            None if !reader.given(2) => {}
            Some(Value::Bool(mode)) if mode.iter().all(|&training| !training) => {}
            _ => return Err(reader.refuse("training_mode", "the constant false", "something else")),
        }
    }
    Operation::plain(|_, inputs| {
        let x = inputs.get(0, "data")?;
        Ok(vec![x.clone(), Value::Bool(ArrayD::from_elem(IxDyn(x.shape()), true))])
    })
}

/// Limits: attributes before operator set 11, inputs from then on.
pub(super) fn clip(reader: &mut Reader<'_>) -> Result<Operation> {
    let known = if reader.opset < 11 {
        [reader.attributes.float("min")?, reader.attributes.float("max")?]
    } else {
        [None, None]
    };
    Operation::plain(move |context, inputs| {
        let mut result = inputs.get(0, "input")?.clone();
        for (at, op) in [Arithmetic::Max, Arithmetic::Min].into_iter().enumerate() {
            if let Some(limit) = known[at] {
                let limit = context.tensor(&[], vec![limit])?;
                result = op.apply(context, &result, &Value::Float(limit))?;
            } else if let Some(limit) = inputs.optional(at + 1) {
                if limit.shape().iter().any(|&extent| extent != 1) {
                    return Err(unexpected("min and max", "scalars", limit.describe()));
                }
                result = op.apply(context, &result, limit)?;
            }
        }
        Ok(vec![result])
    })
}

/// What a cast makes.
#[derive(Clone, Copy, Debug)]
enum Target {
    Float,
    Int(IntKind),
    Bool,
}

pub(super) fn cast(reader: &mut Reader<'_>) -> Result<Operation> {
    // Both concern eight-bit floats only.
    reader.attributes.int("saturate")?;
    reader.attributes.string("round_mode")?;
    let supported = "float, double, float16, bfloat16, bool or an integer of 8 to 64 bits";
    let Some(to) = reader.attributes.int("to")? else {
        return Err(reader.refuse("to", supported, "no such attribute"));
    };
    let kind = i32::try_from(to).map_err(|_| format!("{to}")).and_then(data_type);
    let kind = kind.map_err(|found| reader.refuse("to", supported, found))?;
    let target = match (kind, IntKind::of(kind)) {
        (_, Some(kind)) => Target::Int(kind),
        (DataType::Float, _) => Target::Float,
        (DataType::Double | DataType::Float16 | DataType::Bfloat16, _) => {
            reader.warnings.push(Warning::Precision { node: reader.site.node.clone(), declared: format!("{kind:?}") });
            Target::Float
        }
        (DataType::Bool, _) => Target::Bool,
        _ => return Err(reader.refuse("to", supported, format!("{kind:?}"))),
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

/// A float without its fraction. What no integer is near is undefined in ONNX, and refused here.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn truncated(x: f32, kind: IntKind) -> Result<i64> {
    let whole = x.trunc();
    let inside = whole.abs() < 9.2e18;
    inside
        .then_some(whole as i64)
        .and_then(|whole| kind.fits(whole))
        .ok_or_else(|| unexpected("a float that is cast", "in the range of the integer type", x.to_string()))
}

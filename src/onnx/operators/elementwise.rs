//! Arithmetic, functions and activations of single elements.

use ndarray::{ArrayD, IxDyn, Zip};

use super::{Operation, Reader};
use crate::cell::Activation;
use crate::error::Result;
use crate::onnx::context::{Context, broadcast, spread, unexpected};
use crate::onnx::value::{Ints, Value};
use crate::ops::{Binary, Math};
use crate::tensor::Tensor;

/// Arithmetic on floats or integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Sub,
    Mul,
    /// Division. Integer division rounds towards zero.
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

/// The error for operands of different types, or of types without the operation.
pub(super) fn unlike(a: &Value, b: &Value) -> crate::Error {
    unexpected("inputs", "of one type that has the operation", format!("{} and {}", a.describe(), b.describe()))
}

/// Combines two host arrays element by element, after broadcasting.
pub(super) fn zip<A: Clone, B: Clone, C>(
    context: &Context<'_>,
    a: &ArrayD<A>,
    b: &ArrayD<B>,
    f: impl FnMut(&A, &B) -> C,
) -> Result<ArrayD<C>> {
    let shape = broadcast(a.shape(), b.shape())?;
    context.reserve(&shape, 8)?;
    Ok(Zip::from(&spread(a, &shape)?).and(&spread(b, &shape)?).map_collect(f))
}

/// Combines two arrays of integers element by element. A result that the type of `a` cannot hold is refused.
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

/// `Max` and `Min` of any number of inputs.
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

/// `Pow`. The constant exponents 2 and 0.5 become a product and a root.
pub(super) fn power(reader: &mut Reader<'_>) -> Result<Operation> {
    let exponent = match reader.constant(1) {
        Some(Value::Float(x)) if x.len() == 1 => x.to_vec()?.first().copied(),
        Some(Value::Int(x)) if x.values.len() == 1 && x.values.iter().all(|x| x.abs() < 1 << 24) => {
            x.values.first().map(|&x| x as f32)
        }
        _ => None,
    };
    // A constant exponent with several axes may raise the rank of the result.
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

/// An operation with one float tensor as its input.
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

/// The activations that are operators.
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

/// `Dropout` at inference: the identity, and a mask that is true everywhere.
pub(super) fn dropout(reader: &mut Reader<'_>) -> Result<Operation> {
    // The ratio affects training only.
    if reader.opset < 12 {
        reader.attributes.float("ratio")?;
    } else {
        reader.attributes.int("seed")?;
        match reader.constant(2) {
            None if !reader.given(2) => {}
            Some(Value::Bool(mode)) if mode.iter().all(|&training| !training) => {}
            _ => return Err(reader.refuse("training_mode", "the constant false", "another value")),
        }
    }
    Operation::plain(|_, inputs| {
        let x = inputs.get(0, "data")?;
        Ok(vec![x.clone(), Value::Bool(ArrayD::from_elem(IxDyn(x.shape()), true))])
    })
}

/// `Clip`. The limits are attributes before operator set 11, inputs from then on.
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

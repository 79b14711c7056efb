//! Comparisons and operations on booleans.

use ndarray::ArrayD;

use super::elementwise::{unlike, zip};
use super::{Operation, Reader};
use crate::error::Result;
use crate::onnx::context::{Context, unexpected};
use crate::onnx::value::{Ints, Value};
use crate::ops::Binary;

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

/// `Where`. Elements that are not chosen do not affect the result, even if they are NaN.
pub(super) fn select(_: &mut Reader<'_>) -> Result<Operation> {
    Operation::plain(|context, inputs| {
        let (condition, x, y) = (inputs.get(0, "condition")?, inputs.get(1, "X")?, inputs.get(2, "Y")?);
        Ok(vec![match (condition, x, y) {
            (_, Value::Float(x), Value::Float(y)) => {
                let condition = context.mask(condition, "condition")?;
                let zero = context.tensor(&[1], vec![0.0])?;
                let inverse = context.binary(Binary::Equal, &condition, &zero)?;
                // One summand is -0, so the other one keeps its sign even if it is a zero.
                let x = context.binary(Binary::Drop, x, &inverse)?;
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

/// Chooses from host arrays element by element, after broadcasting.
fn choose<T: Clone>(context: &Context<'_>, c: &ArrayD<bool>, x: &ArrayD<T>, y: &ArrayD<T>) -> Result<ArrayD<T>> {
    let pairs = zip(context, x, y, |x, y| (x.clone(), y.clone()))?;
    zip(context, c, &pairs, |&c, (x, y)| if c { x.clone() } else { y.clone() })
}

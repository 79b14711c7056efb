//! Reductions, `Softmax`, `ArgMax` and `ArgMin`.

use ndarray::{ArrayD, Axis, IxDyn};

use super::{Operation, Reader};
use crate::error::Result;
use crate::onnx::context::{Context, axes, axis, unexpected};
use crate::onnx::value::{IntKind, Ints, Value};
use crate::ops::Reduction;
use crate::tensor::Tensor;

/// The kind of a reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
}

impl ReduceKind {
    fn floats(self, context: &mut Context<'_>, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Sum => context.reduce_last(Reduction::Sum, x),
            Self::Mean => context.reduce_last(Reduction::Mean, x),
            Self::Max => context.reduce_last(Reduction::Max, x),
            Self::Min => {
                let negative = context.affine(-1.0, x, 0.0)?;
                let largest = context.reduce_last(Reduction::Max, &negative)?;
                context.affine(-1.0, &largest, 0.0)
            }
        }
    }

    fn ints(self, x: &[i64]) -> Option<i64> {
        match self {
            Self::Sum => x.iter().try_fold(0, |sum: i64, &x| sum.checked_add(x)),
            Self::Max => x.iter().copied().max(),
            Self::Min => x.iter().copied().min(),
            // ONNX does not define the rounding of a mean of integers.
            Self::Mean => None,
        }
    }
}

/// A reduction. The axes are an attribute before operator set 13 (the sum) or 18 (the others), an input from then on.
pub(super) fn reduce(reader: &mut Reader<'_>, kind: ReduceKind) -> Result<Operation> {
    let since = if kind == ReduceKind::Sum { 13 } else { 18 };
    let from = reader.axes(since)?;
    let keep = reader.attributes.flag("keepdims", true)?;
    let idle = reader.opset >= since && reader.attributes.flag("noop_with_empty_axes", false)?;
    Operation::plain(move |context, inputs| {
        let x = inputs.get(0, "data")?;
        let rank = x.shape().len();
        let reduced = match from.get(inputs)? {
            Some(list) if !list.is_empty() => axes(&list, rank)?,
            _ if idle => return Ok(vec![x.clone()]),
            _ => (0..rank).collect(),
        };
        let kept: Vec<usize> = (0..rank).filter(|at| !reduced.contains(at)).collect();
        let extent = |at: usize| x.shape()[at];
        let shape: Vec<usize> = if keep {
            (0..rank).map(|at| if reduced.contains(&at) { 1 } else { extent(at) }).collect()
        } else {
            kept.iter().map(|&at| extent(at)).collect()
        };
        let order: Vec<usize> = kept.iter().chain(&reduced).copied().collect();
        let rows = context.reserve(&kept.iter().map(|&at| extent(at)).collect::<Vec<_>>(), 8)?;
        let columns: usize = reduced.iter().map(|&at| extent(at)).product();
        if columns == 0 && kind != ReduceKind::Sum {
            return Err(unexpected("data", "elements to reduce", format!("shape {:?}", x.shape())));
        }
        Ok(vec![match x {
            Value::Float(x) => {
                let x = context.permute(x, &order)?;
                let y = kind.floats(context, &context.reshape(&x, &[rows, columns])?)?;
                Value::Float(context.reshape(&y, &shape)?)
            }
            Value::Int(x) => Value::Int(Ints { kind: x.kind, values: reduce_host(x, &order, columns, &shape, kind)? }),
            other => return Err(unexpected("data", "numbers", other.describe())),
        }])
    })
}

/// Reduces integers on the host. `order` puts the reduced axes last; together they have `columns` elements.
fn reduce_host(x: &Ints, order: &[usize], columns: usize, shape: &[usize], kind: ReduceKind) -> Result<ArrayD<i64>> {
    let moved = x.values.view().permuted_axes(IxDyn(order));
    let flat: Vec<i64> = moved.iter().copied().collect();
    let count = shape.iter().product();
    let rows = (0..count).map(|row| {
        let one = kind.ints(flat.get(row * columns..(row + 1) * columns).unwrap_or_default());
        one.and_then(|y| x.kind.fits(y)).ok_or_else(|| {
            unexpected(
                "data",
                "floats, or integers with a result that their type holds",
                format!("{kind:?} of {:?}", x.kind),
            )
        })
    });
    let rows = rows.collect::<Result<Vec<i64>>>()?;
    ArrayD::from_shape_vec(IxDyn(shape), rows).map_err(|error| unexpected("data", "whole rows", error.to_string()))
}

/// `Softmax` or `LogSoftmax`. Before operator set 13 all axes from `axis` on count as one.
pub(super) fn softmax(reader: &mut Reader<'_>, logarithm: bool) -> Result<Operation> {
    let coerced = reader.opset < 13;
    let along = reader.attributes.int("axis")?.unwrap_or(if coerced { 1 } else { -1 });
    Operation::plain(move |context, inputs| {
        let x = inputs.float(0, "input")?;
        let (shape, rank) = (x.shape().to_vec(), x.shape().len());
        let along = if coerced && usize::try_from(along) == Ok(rank) { rank } else { axis(along, rank)? };
        if coerced {
            let (before, after) = shape.split_at(along);
            let flat = context.reshape(x, &[before.iter().product(), after.iter().product()])?;
            let y = context.softmax_last(&flat, logarithm)?;
            return Ok(vec![Value::Float(context.reshape(&y, &shape)?)]);
        }
        // The exchange of two axes is its own inverse.
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(along, rank - 1);
        let exchanged = context.permute(x, &order)?;
        let y = context.softmax_last(&exchanged, logarithm)?;
        Ok(vec![Value::Float(context.permute(&y, &order)?)])
    })
}

/// `ArgMax` or `ArgMin`. The data is read back to the host.
pub(super) fn arg(reader: &mut Reader<'_>, largest: bool) -> Result<Operation> {
    let along = reader.attributes.int("axis")?.unwrap_or(0);
    let keep = reader.attributes.flag("keepdims", true)?;
    let last = reader.opset >= 12 && reader.attributes.flag("select_last_index", false)?;
    Operation::plain(move |context, inputs| {
        let x = inputs.float(0, "data")?;
        let along = axis(along, x.shape().len())?;
        if x.shape()[along] == 0 {
            return Err(unexpected("data", "elements to compare", format!("shape {:?}", x.shape())));
        }
        let data = context.read(x)?;
        let data = ArrayD::from_shape_vec(IxDyn(x.shape()), data);
        let data = data.map_err(|error| unexpected("data", "a whole array", error.to_string()))?;
        let values = data.map_axis(Axis(along), |row| {
            let better = |new: f32, old: f32| {
                let new_wins = if largest { new > old } else { new < old };
                new_wins || (last && new == old) || (new.is_nan() && !old.is_nan())
            };
            let mut best = 0;
            for (at, &x) in row.iter().enumerate() {
                if at > 0 && better(x, row[best]) {
                    best = at;
                }
            }
            best as i64
        });
        let values = if keep { values.insert_axis(Axis(along)) } else { values };
        Ok(vec![Value::Int(Ints { kind: IntKind::I64, values })])
    })
}

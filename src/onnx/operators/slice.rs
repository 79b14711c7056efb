//! `Slice` and `Split`.

use ndarray::{ArrayD, Axis, Slice as HostSlice};

use super::{Operation, Reader};
use crate::error::Result;
use crate::onnx::context::{Context, axes, axis, unexpected};
use crate::onnx::value::{Ints, Value};
use crate::ops::Slice;

/// A slice of an axis.
pub(super) fn cut(context: &mut Context<'_>, x: &Value, slice: Slice) -> Result<Value> {
    fn host<T: Clone>(x: &ArrayD<T>, slice: Slice) -> ArrayD<T> {
        let Slice { axis, start, step, count } = slice;
        let steps = isize::try_from(count.saturating_sub(1)).unwrap_or(isize::MAX);
        let last = start.saturating_add_signed(step.saturating_mul(steps));
        let (low, high) = if count == 0 { (0, 0) } else { (start.min(last) as isize, start.max(last) as isize + 1) };
        // With a negative step, `ndarray` begins at the last element of the range: here, the element at `start`.
        x.slice_axis(Axis(axis), HostSlice::new(low, Some(high), step)).to_owned()
    }
    Ok(match x {
        Value::Float(x) => Value::Float(context.slice(x, slice)?),
        Value::Mask(x) => Value::Mask(context.slice(x, slice)?),
        Value::Int(x) => Value::Int(Ints { kind: x.kind, values: host(&x.values, slice) }),
        Value::Bool(x) => Value::Bool(host(x, slice)),
    })
}

/// The slice that ONNX's start, end and step describe for an axis of `extent` elements.
fn resolve(axis: usize, extent: usize, start: i64, end: i64, step: i64) -> Result<Slice> {
    let refused = || unexpected("steps", "not 0", step.to_string());
    let length = i64::try_from(extent).map_err(|_| refused())?;
    if step == 0 {
        return Err(refused());
    }
    let from_front = |at: i64| if at < 0 { at.saturating_add(length) } else { at };
    let (first, count) = if step > 0 {
        let (start, end) = (from_front(start).clamp(0, length), from_front(end).clamp(0, length));
        (start, (end - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
    } else {
        let (start, end) = (from_front(start).clamp(-1, length - 1), from_front(end).clamp(-1, length - 1));
        (start, (start - end).max(0).unsigned_abs().div_ceil(step.unsigned_abs()))
    };
    let start = if count == 0 { 0 } else { usize::try_from(first).map_err(|_| refused())? };
    let count = usize::try_from(count).map_err(|_| refused())?;
    // A single element needs no step, and a step beyond the axis may not fit `isize`.
    let step = if count <= 1 { 1 } else { isize::try_from(step).map_err(|_| refused())? };
    Ok(Slice { axis, start, step, count })
}

/// `Slice`. Starts, ends and axes are attributes before operator set 10, inputs from then on.
pub(super) fn slice(reader: &mut Reader<'_>) -> Result<Operation> {
    let known = if reader.opset < 10 {
        let (starts, ends) = (reader.attributes.ints("starts")?, reader.attributes.ints("ends")?);
        let (Some(starts), Some(ends)) = (starts, ends) else {
            return Err(reader.refuse("starts and ends", "attributes", "none"));
        };
        Some((starts, ends, reader.attributes.ints("axes")?, None))
    } else {
        None
    };
    Operation::plain(move |context, inputs| {
        let (starts, ends, along, steps) = match &known {
            Some(known) => known.clone(),
            None => (
                inputs.list(1, "starts")?,
                inputs.list(2, "ends")?,
                inputs.optional_list(3, "axes")?,
                inputs.optional_list(4, "steps")?,
            ),
        };
        let mut x = inputs.get(0, "data")?.clone();
        let along = match along {
            Some(list) => axes(&list, x.shape().len())?,
            None => (0..starts.len()).collect(),
        };
        let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
        let counts = [starts.len(), ends.len(), along.len(), steps.len()];
        if counts != [starts.len(); 4] || starts.len() > x.shape().len() {
            let expected = "equally many, at most the rank";
            return Err(unexpected("starts, ends, axes and steps", expected, format!("{counts:?}")));
        }
        for at in 0..starts.len() {
            let extent = x.shape()[along[at]];
            x = cut(context, &x, resolve(along[at], extent, starts[at], ends[at], steps[at])?)?;
        }
        Ok(vec![x])
    })
}

/// The lengths of the parts of a split.
enum Parts {
    /// Lengths from the attribute.
    Known(Vec<i64>),
    /// Lengths from the second input.
    Input,
    Equal {
        count: usize,
        /// Whether the last part may be shorter.
        uneven: bool,
    },
}

/// `Split`. The lengths are an attribute before operator set 13, an input from then on; `num_outputs` exists from operator set 18
/// on.
pub(super) fn split(reader: &mut Reader<'_>) -> Result<Operation> {
    let along = reader.attributes.int("axis")?.unwrap_or(0);
    let outputs = reader.wanted.len();
    let lengths = if reader.opset < 13 { reader.attributes.ints("split")? } else { None };
    let number = if reader.opset < 18 { None } else { reader.attributes.int("num_outputs")? };
    let parts = match (lengths, number) {
        (Some(lengths), _) => Parts::Known(lengths),
        (None, Some(number)) if number == outputs as i64 && !reader.given(1) => {
            Parts::Equal { count: outputs, uneven: true }
        }
        (None, Some(number)) => {
            let expected = format!("{outputs}, the number of outputs of the node, without a list of lengths");
            return Err(reader.refuse("num_outputs", expected, number.to_string()));
        }
        (None, None) if reader.given(1) => Parts::Input,
        (None, None) => Parts::Equal { count: outputs, uneven: false },
    };
    Operation::plain(move |context, inputs| {
        let x = inputs.get(0, "input")?;
        let along = axis(along, x.shape().len())?;
        let extent = x.shape()[along];
        let lengths = match &parts {
            Parts::Known(list) => list.clone(),
            Parts::Input => inputs.list(1, "split")?,
            Parts::Equal { count, uneven } => {
                let length = extent.div_ceil((*count).max(1));
                if !uneven && length * count != extent {
                    return Err(unexpected("input", "an axis that splits evenly", format!("{extent} by {count}")));
                }
                (0..*count).map(|at| length.min(extent.saturating_sub(at * length)) as i64).collect()
            }
        };
        let whole = lengths.iter().try_fold(0_i64, |sum, &n| if n < 0 { None } else { sum.checked_add(n) });
        if lengths.len() != outputs || whole != i64::try_from(extent).ok() {
            let expected = "one length per output, whose sum is the axis";
            return Err(unexpected("split", expected, format!("{lengths:?} of {extent} for {outputs} outputs")));
        }
        let mut start = 0;
        let mut result = Vec::with_capacity(outputs);
        for length in lengths {
            let count = usize::try_from(length).unwrap_or(0);
            let part = Slice { axis: along, start: if count == 0 { 0 } else { start }, step: 1, count };
            result.push(cut(context, x, part)?);
            start += count;
        }
        Ok(result)
    })
}

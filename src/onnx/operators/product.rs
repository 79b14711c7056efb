//! Matrix products.

use std::sync::Arc;

use ndarray::{Array1, Array2};

use super::{NodeFn, Operation, Reader};
use crate::error::Result;
use crate::onnx::context::{Context, Inputs, broadcast, unexpected};
use crate::onnx::value::Value;
use crate::ops::{Binary, Slice};
use crate::path::ConstantMatrix;
use crate::tensor::{Device, Tensor};

/// `MatMul`, NumPy's `matmul`: the last two axes are matrices, and the axes before them broadcast.
pub(super) fn matmul(reader: &mut Reader<'_>) -> Result<Operation> {
    if let Some(Value::Float(b)) = reader.constant(1)
        && b.shape().len() == 2
        && reader.constant(0).is_none()
    {
        let b: Array2<f32> = b.to_array()?;
        let build = move |device: &Device| -> Result<NodeFn> {
            let matrix = ConstantMatrix::new(device, &b.t().to_owned(), None)?;
            Ok(Arc::new(move |context: &mut Context<'_>, inputs: &Inputs<'_>| {
                Ok(vec![Value::Float(rows_times(context, inputs.float(0, "A")?, &matrix)?)])
            }))
        };
        return Ok(Operation::WithWeights { slots: vec![1], build: Box::new(build) });
    }
    Operation::plain(|context, inputs| {
        let (a, b) = (inputs.float(0, "A")?, inputs.float(1, "B")?);
        Ok(vec![Value::Float(product(context, a, b)?)])
    })
}

/// The product of all rows of `a` with a constant matrix.
fn rows_times(context: &mut Context<'_>, a: &Tensor, matrix: &ConstantMatrix) -> Result<Tensor> {
    let [depth, columns] = matrix.sizes();
    let Some((_, outer)) = a.shape().split_last().filter(|(last, _)| **last == depth) else {
        let found = format!("{:?} and {:?}", a.shape(), [depth, columns]);
        return Err(unexpected("A and B", "matrices that fit, of at least one axis", found));
    };
    let shape = [outer, &[columns]].concat();
    context.reserve(&shape, 4)?;
    let y = matrix.record(context.recorder, a, outer.iter().product())?;
    context.reshape(&y, &shape)
}

fn product(context: &mut Context<'_>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let refused = || {
        let found = format!("{:?} and {:?}", a.shape(), b.shape());
        unexpected("A and B", "matrices that fit, of at least one axis", found)
    };
    // A vector counts as a row on the left and as a column on the right. The added axis is dropped from the result.
    let (a_shape, b_shape) = (a.shape(), b.shape());
    if a_shape.is_empty() || b_shape.is_empty() {
        return Err(refused());
    }
    let a_matrix = if let [k] = a_shape { vec![1, *k] } else { a_shape.to_vec() };
    let b_matrix = if let [k] = b_shape { vec![*k, 1] } else { b_shape.to_vec() };
    let (a_outer, [rows, depth]) = split(&a_matrix);
    let (b_outer, [b_depth, columns]) = split(&b_matrix);
    if depth != b_depth {
        return Err(refused());
    }
    let outer = broadcast(a_outer, b_outer)?;
    let y = if b_outer.iter().all(|&extent| extent == 1) {
        // There is one matrix on the right, so the rows of all matrices on the left are multiplied at once.
        let count = a_outer.iter().product::<usize>() * rows;
        let a = context.reshape(a, &[count, depth])?;
        let b = context.reshape(b, &[depth, columns])?;
        context.matmul(&a, &b, None)?
    } else {
        let count = context.reserve(&outer, 4)?;
        context.reserve(&[&outer[..], &[rows, columns]].concat(), 4)?;
        let mut flat = |x: &Tensor, own: &[usize], size: [usize; 2]| -> Result<Tensor> {
            let x = context.reshape(x, &[own, &size].concat())?;
            let x = context.expand(&x, &[&outer[..], &size].concat())?;
            context.reshape(&x, &[count, size[0], size[1]])
        };
        let (a, b) = (flat(a, a_outer, [rows, depth])?, flat(b, b_outer, [depth, columns])?);
        let mut parts = Vec::with_capacity(count);
        for at in 0..count {
            let mut one = |x: &Tensor, size: &[usize]| -> Result<Tensor> {
                let x = context.slice(x, Slice { axis: 0, start: at, step: 1, count: 1 })?;
                context.reshape(&x, size)
            };
            let (a, b) = (one(&a, &[rows, depth])?, one(&b, &[depth, columns])?);
            parts.push(context.matmul(&a, &b, None)?);
        }
        match parts.is_empty() {
            true => context.full(&[0, columns], 0.0)?,
            false => context.concat(&parts.iter().collect::<Vec<_>>(), 0)?,
        }
    };
    let mut shape = outer;
    shape.extend((a_shape.len() > 1).then_some(rows));
    shape.extend((b_shape.len() > 1).then_some(columns));
    context.reshape(&y, &shape)
}

/// The outer axes of a shape, and its last two.
fn split(shape: &[usize]) -> (&[usize], [usize; 2]) {
    let (outer, inner) = shape.split_at(shape.len().saturating_sub(2));
    (outer, [inner[0], inner[1]])
}

/// `Gemm`: `alpha A' B' + beta C`, where A' and B' may be transposed.
pub(super) fn gemm(reader: &mut Reader<'_>) -> Result<Operation> {
    let alpha = reader.attributes.float("alpha")?.unwrap_or(1.0);
    let beta = reader.attributes.float("beta")?.unwrap_or(1.0);
    let (trans_a, trans_b) = (reader.attributes.flag("transA", false)?, reader.attributes.flag("transB", false)?);
    let read = move |context: &mut Context<'_>, inputs: &Inputs<'_>| -> Result<Tensor> {
        let a = inputs.float(0, "A")?;
        if a.shape().len() != 2 {
            return Err(unexpected("A", "a matrix", format!("shape {:?}", a.shape())));
        }
        if trans_a { context.permute(a, &[1, 0]) } else { Ok(a.clone()) }
    };
    let add = move |context: &mut Context<'_>, inputs: &Inputs<'_>, y: Tensor| -> Result<Vec<Value>> {
        let Some(c) = inputs.optional_float(2, "C")? else {
            return Ok(vec![Value::Float(y)]);
        };
        if broadcast(c.shape(), y.shape())? != y.shape() {
            return Err(unexpected("C", "a shape that broadcasts to the product's", format!("shape {:?}", c.shape())));
        }
        let c = if beta == 1.0 { c.clone() } else { context.affine(beta, c, 0.0)? };
        Ok(vec![Value::Float(context.binary(Binary::Add, &y, &c)?)])
    };
    let Some(Value::Float(b)) = reader.constant(1).cloned() else {
        return Operation::plain(move |context, inputs| {
            let b = inputs.float(1, "B")?;
            if b.shape().len() != 2 {
                return Err(unexpected("B", "a matrix", format!("shape {:?}", b.shape())));
            }
            let b = if trans_b { context.permute(b, &[1, 0])? } else { b.clone() };
            let b = if alpha == 1.0 { b } else { context.affine(alpha, &b, 0.0)? };
            let a = read(context, inputs)?;
            let y = context.matmul(&a, &b, None)?;
            add(context, inputs, y)
        });
    };
    // A constant matrix is transposed and scaled once, before it is put on the device.
    if b.shape().len() != 2 {
        return Err(reader.refuse("B", "a matrix", format!("shape {:?}", b.shape())));
    }
    let b: Array2<f32> = b.to_array()?;
    let weight = if trans_b { b } else { b.reversed_axes() };
    let weight = weight.mapv(|x| alpha * x);
    // A constant vector is added by the product itself.
    let bias = match reader.constant(2) {
        Some(Value::Float(c)) if c.shape() == [weight.nrows()] || c.shape() == [1, weight.nrows()] => {
            Some(c.to_vec()?.into_iter().map(|c| beta * c).collect::<Array1<f32>>())
        }
        _ => None,
    };
    let slots = if bias.is_some() { vec![1, 2] } else { vec![1] };
    let build = move |device: &Device| -> Result<NodeFn> {
        let matrix = ConstantMatrix::new(device, &weight, bias.as_ref())?;
        Ok(Arc::new(move |context: &mut Context<'_>, inputs: &Inputs<'_>| {
            let a = read(context, inputs)?;
            let y = rows_times(context, &a, &matrix)?;
            add(context, inputs, y)
        }))
    };
    Ok(Operation::WithWeights { slots, build: Box::new(build) })
}

//! Operations of a graph without a time axis.

use super::{Graph, Mode, OP, Var};
use crate::cell::{Activation, Draw, Mask};
use crate::error::{Error, Result, axes};
use crate::memory;
use crate::ops::{self, Binary, Conv1dGeometry, Slice};
use crate::tensor::Tensor;

impl Graph {
    /// `y = x W^T + b` (`torch.nn.functional.linear`).
    ///
    /// # Shapes
    /// `x [.., in]`, `weight [out, in]`, `bias [out]`; returns `[.., out]`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes do not fit.
    pub fn linear(&mut self, x: Var, weight: Var, bias: Option<Var>) -> Result<Var> {
        const OP: &str = "linear";
        let [outputs, inputs] = axes(OP, "weight", "[out, in]", self.shape(weight)?)?;
        let outer = match self.shape(x)?.split_last() {
            Some((&last, outer)) if last == inputs => outer.to_vec(),
            _ => {
                let found = self.shape(x)?.to_vec();
                return Err(Error::Shape { op: OP, what: "x", expected: format!("[.., {inputs}]"), found });
            }
        };
        let rows: usize = outer.iter().product();
        let (flat, w) = (self.value(x)?.reshape(&[rows, inputs])?, self.value(weight)?.clone());
        let b = bias.map(|bias| self.value(bias).cloned()).transpose()?;
        let y = ops::product(&mut self.recorder, (&flat, false), (&w, true), b.as_ref())?;
        let y = y.reshape(&[&outer[..], &[outputs]].concat())?;
        let operands: Vec<Var> = [x, weight].into_iter().chain(bias).collect();
        let x_shape = self.shape(x)?.to_vec();
        let [y] = self.operation(&operands, [y], move |recorder, dy, wanted| {
            let Some(dy) = &dy[0] else { return Ok(vec![None; wanted.len()]) };
            let dy = dy.reshape(&[rows, outputs])?;
            let dx = |recorder: &mut _| ops::product(recorder, (&dy, false), (&w, false), None)?.reshape(&x_shape);
            let mut d = vec![wanted[0].then(|| dx(recorder)).transpose()?];
            let dw = |recorder: &mut _| ops::product(recorder, (&dy, true), (&flat, false), None);
            d.push(wanted[1].then(|| dw(recorder)).transpose()?);
            if let Some(&bias) = wanted.get(2) {
                d.push(bias.then(|| ops::sum_columns(recorder, &dy)).transpose()?);
            }
            Ok(d)
        });
        Ok(y)
    }

    /// One row of a table per symbol (`torch.nn.functional.embedding`).
    ///
    /// # Shapes
    /// `table [N, W]`; returns `[symbols.len(), W]`.
    ///
    /// # Errors
    /// [`Error::Value`] for a symbol that the table does not have.
    pub fn embedding(&mut self, table: Var, symbols: &[usize]) -> Result<Var> {
        let vectors = self.value(table)?.clone();
        let y = ops::gather_rows(&mut self.recorder, &vectors, symbols)?;
        let (count, symbols) = (vectors.shape()[0], memory::copied("embedding", symbols)?);
        Ok(self.unary(table, y, move |recorder, dy| ops::gather_rows_grad(recorder, count, &symbols, dy)))
    }

    /// One-dimensional cross-correlation (`torch.nn.functional.conv1d` without groups or dilation).
    ///
    /// # Shapes
    /// `x [N, C, L]`, `weight [O, C, K]`, `bias [O]`; returns `[N, O, (L + 2 padding - K) / stride + 1]`.
    ///
    /// # Errors
    /// As [`ops::conv1d`].
    pub fn conv1d(&mut self, x: Var, weight: Var, bias: Var, geometry: Conv1dGeometry) -> Result<Var> {
        let (x_value, w, b) = (self.value(x)?.clone(), self.value(weight)?.clone(), self.value(bias)?.clone());
        let y = ops::conv1d(&mut self.recorder, &x_value, &w, &b, geometry)?;
        let (length, kernel) = (x_value.shape()[2], w.shape()[2]);
        let [y] = self.operation(&[x, weight, bias], [y], move |recorder, dy, wanted| {
            let Some(dy) = &dy[0] else { return Ok(vec![None; wanted.len()]) };
            let dx = |recorder: &mut _| ops::conv1d_grad_input(recorder, length, &w, dy, geometry);
            let dx = wanted[0].then(|| dx(recorder)).transpose()?;
            if !wanted[1] && !wanted[2] {
                return Ok(vec![dx, None, None]);
            }
            let (dw, db) = ops::conv1d_grad_weight(recorder, kernel, &x_value, dy, geometry)?;
            Ok(vec![dx, Some(dw), Some(db)])
        });
        Ok(y)
    }

    /// Applies an activation to every element.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`] if `x` lives on another device than the graph.
    pub fn activation(&mut self, activation: Activation, x: Var) -> Result<Var> {
        let value = self.value(x)?.clone();
        let y = ops::activation(&mut self.recorder, activation, &value)?;
        Ok(self.unary(x, y, move |recorder, dy| ops::activation_grad(recorder, activation, &value, dy)))
    }

    /// Sets every element to 0 with probability `p` and scales the others by `1 / (1 - p)` (`torch.nn.functional.dropout`). It is
    /// the identity in [`Mode::Evaluation`].
    ///
    /// # Errors
    /// [`Error::Value`] for a probability outside `[0, 1)`.
    pub fn dropout(&mut self, x: Var, p: f32) -> Result<Var> {
        if !(0.0..1.0).contains(&p) {
            let expected = "at least 0 and below 1";
            return Err(Error::Value { op: "dropout", what: "p", expected, found: p.to_string() });
        }
        let value = self.value(x)?.clone();
        let at = self.next_draw();
        let Mode::Training { seed, step } = self.mode else { return Ok(x) };
        let Some(draw) = Draw::new(seed, step, Mask::Other { at }, p) else { return Ok(x) };
        let y = ops::dropout(&mut self.recorder, &draw, &value)?;
        Ok(self.unary(x, y, move |recorder, dy| ops::dropout(recorder, &draw, dy)))
    }

    /// The index of the next operation that draws a mask. Every such operation draws its own mask.
    pub(super) fn next_draw(&mut self) -> usize {
        self.draws += 1;
        self.draws - 1
    }

    /// Gives the elements another shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements differs.
    pub fn reshape(&mut self, x: Var, shape: &[usize]) -> Result<Var> {
        let (y, before) = (self.value(x)?.reshape(shape)?, self.shape(x)?.to_vec());
        Ok(self.unary(x, y, move |_, dy| dy.reshape(&before)))
    }

    /// Reorders the axes: axis `a` of the result is axis `order[a]` of `x` (`torch.permute`).
    ///
    /// # Errors
    /// As [`ops::permute`].
    pub fn permute(&mut self, x: Var, order: &[usize]) -> Result<Var> {
        let value = self.value(x)?.clone();
        let y = ops::permute(&mut self.recorder, &value, order)?;
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(at, &axis)| back[axis] = at);
        Ok(self.unary(x, y, move |recorder, dy| ops::permute(recorder, dy, &back)))
    }

    /// Takes a slice of one axis.
    ///
    /// # Errors
    /// As [`ops::slice`].
    pub fn slice(&mut self, x: Var, slice: Slice) -> Result<Var> {
        let value = self.value(x)?.clone();
        let y = ops::slice(&mut self.recorder, &value, slice)?;
        let before = value.shape().to_vec();
        Ok(self.unary(x, y, move |recorder, dy| ops::slice_grad(recorder, &before, slice, dy)))
    }

    /// Joins values along an axis; all other axes have equal extents (`torch.cat`).
    ///
    /// # Errors
    /// As [`ops::concat`].
    pub fn concat(&mut self, parts: &[Var], axis: usize) -> Result<Var> {
        let tensors: Vec<Tensor> = parts.iter().map(|&part| self.value(part).cloned()).collect::<Result<_>>()?;
        let y = ops::concat(&mut self.recorder, &tensors.iter().collect::<Vec<_>>(), axis)?;
        let extents: Vec<usize> = tensors.iter().map(|tensor| tensor.shape()[axis]).collect();
        let [y] = self.operation(parts, [y], move |recorder, dy, wanted| {
            let Some(dy) = &dy[0] else { return Ok(vec![None; wanted.len()]) };
            let mut start = 0;
            let mut part = |(&count, &wanted): (&usize, &bool)| {
                start += count;
                let slice = Slice { axis, start: start - count, step: 1, count };
                wanted.then(|| ops::slice(recorder, dy, slice)).transpose()
            };
            extents.iter().zip(wanted).map(&mut part).collect()
        });
        Ok(y)
    }

    /// The sum of two values of the same shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn add(&mut self, a: Var, b: Var) -> Result<Var> {
        let (a_value, b_value) = (self.value(a)?.clone(), self.value(b)?.clone());
        let y = ops::binary(&mut self.recorder, Binary::Add, &a_value, &b_value)?;
        let [y] = self.operation(&[a, b], [y], |_, dy, _| Ok(vec![dy[0].clone(), dy[0].clone()]));
        Ok(y)
    }

    /// The product of two values of the same shape, element by element.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ.
    pub fn mul(&mut self, a: Var, b: Var) -> Result<Var> {
        let (a_value, b_value) = (self.value(a)?.clone(), self.value(b)?.clone());
        let y = ops::binary(&mut self.recorder, Binary::Mul, &a_value, &b_value)?;
        let [y] = self.operation(&[a, b], [y], move |recorder, dy, wanted| {
            let Some(dy) = &dy[0] else { return Ok(vec![None; wanted.len()]) };
            let mut times = |wanted: bool, other: &Tensor| {
                wanted.then(|| ops::binary(recorder, Binary::Mul, dy, other)).transpose()
            };
            Ok(vec![times(wanted[0], &b_value)?, times(wanted[1], &a_value)?])
        });
        Ok(y)
    }

    /// Multiplies every element by a number.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`] if `x` lives on another device than the graph.
    pub fn scale(&mut self, x: Var, factor: f32) -> Result<Var> {
        self.activation(Activation::Affine { alpha: factor, beta: 0.0 }, x)
    }

    /// The sum of all elements, of shape `[]`. Callers can build their own losses from it.
    ///
    /// # Errors
    /// [`Error::DeviceMismatch`] if `x` lives on another device than the graph.
    pub fn sum(&mut self, x: Var) -> Result<Var> {
        let value = self.value(x)?.clone();
        let y = ops::sum(&mut self.recorder, &value)?;
        let before = value.shape().to_vec();
        Ok(self.unary(x, y, move |recorder, dy| ops::expand(recorder, dy, &before)))
    }

    /// Refuses a tensor that lives on another device than the graph.
    pub(super) fn check_here(&self, what: &'static str, tensor: &Tensor) -> Result<()> {
        tensor.check_device(OP, what, self.recorder.device())
    }
}

//! Losses: scalars of shape `[]`.

use ndarray::{ArrayBase, ArrayD, Data, Dimension};

use super::{Graph, Var};
use crate::error::{Error, Result, check_shape};
use crate::memory;
use crate::op::PointLoss;
use crate::ops::{self, Points};
use crate::tensor::Tensor;

/// How the terms of a loss become one number (PyTorch's `reduction`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reduce {
    /// The mean of all terms that count.
    #[default]
    Mean,
    /// The sum of all terms that count.
    Sum,
}

impl Reduce {
    /// The factor that a sum of `count` terms is multiplied by.
    fn scale(self, count: usize) -> f32 {
        match self {
            Self::Mean => (1.0 / count as f64) as f32,
            Self::Sum => 1.0,
        }
    }
}

/// Options of [`Graph::cross_entropy`].
///
/// # Examples
/// ```
/// use gatewise::train::{CrossEntropyOptions, Reduce};
/// let options = CrossEntropyOptions::new().ignore_index(0).reduce(Reduce::Sum);
/// assert_eq!(options.ignore_index, 0);
/// assert_eq!(CrossEntropyOptions::new().ignore_index, -100); // as in PyTorch
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CrossEntropyOptions {
    /// The class of targets that do not count; -100 by default, as in PyTorch.
    pub ignore_index: i64,
    /// The reduction over all targets that count.
    pub reduce: Reduce,
}

impl CrossEntropyOptions {
    /// The mean over all targets whose class is not -100, as in PyTorch.
    pub const fn new() -> Self {
        Self { ignore_index: -100, reduce: Reduce::Mean }
    }

    /// Sets the class of targets that do not count.
    pub const fn ignore_index(self, ignore_index: i64) -> Self {
        Self { ignore_index, ..self }
    }

    /// Sets the reduction over all targets that count.
    pub const fn reduce(self, reduce: Reduce) -> Self {
        Self { reduce, ..self }
    }
}

impl Default for CrossEntropyOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Options of [`Graph::mean_squared_error`] and [`Graph::binary_cross_entropy`].
///
/// # Examples
/// ```
/// use gatewise::{cell::Sequence, train::{LossOptions, Reduce}};
/// let valid = Sequence::new().lengths([3, 1]).valid(3, 2)?; // [T, B]
/// let options = LossOptions::new().mask(&valid).reduce(Reduce::Sum);
/// assert_eq!(options, LossOptions::masked(&valid).reduce(Reduce::Sum));
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LossOptions {
    /// True for elements that count. The axes of the mask are the first axes of the predictions. Without a mask all elements
    /// count.
    pub mask: Option<ArrayD<bool>>,
    /// The reduction over all elements that count.
    pub reduce: Reduce,
}

impl LossOptions {
    /// The mean over all elements.
    pub const fn new() -> Self {
        Self { mask: None, reduce: Reduce::Mean }
    }

    /// The mean over the elements for which the mask is true, for example the valid steps of a sequence, `[T, B]`
    /// ([`Sequence::valid`](crate::cell::Sequence::valid)).
    pub fn masked<S, D>(mask: &ArrayBase<S, D>) -> Self
    where
        S: Data<Elem = bool>,
        D: Dimension,
    {
        Self::new().mask(mask)
    }

    /// Counts only the elements for which the mask is true.
    pub fn mask<S, D>(self, mask: &ArrayBase<S, D>) -> Self
    where
        S: Data<Elem = bool>,
        D: Dimension,
    {
        Self { mask: Some(mask.to_owned().into_dyn()), ..self }
    }

    /// Sets the reduction over all elements that count.
    pub fn reduce(self, reduce: Reduce) -> Self {
        Self { reduce, ..self }
    }
}

impl Graph {
    /// Softmax cross-entropy of scores and classes (`torch.nn.functional.cross_entropy`).
    ///
    /// # Shapes
    /// `x [.., C]`; `targets` holds one class below C, or `ignore_index`, per row of `x`.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no row, or not one target per row. [`Error::Value`] for a class that the scores do not have,
    /// or if all targets are ignored, because their mean would be NaN.
    pub fn cross_entropy(&mut self, x: Var, targets: &[i64], options: &CrossEntropyOptions) -> Result<Var> {
        const OP: &str = "cross_entropy";
        let shape = self.shape(x)?.to_vec();
        let (classes, rows) = match shape.split_last() {
            Some((&classes, outer)) => (classes, outer.iter().product::<usize>()),
            None => (0, 0),
        };
        if rows == 0 || !(1..=MOST_CLASSES).contains(&classes) {
            let expected = format!("[.., C] with at least one row and C from 1 to {MOST_CLASSES}");
            return Err(Error::Shape { op: OP, what: "x", expected, found: shape });
        }
        check_shape(OP, "targets", &[rows], &[targets.len()])?;
        let CrossEntropyOptions { ignore_index, reduce } = *options;
        let (targets, counted) = ops::class_numbers(self.device(), OP, targets, ignore_index, classes)?;
        if counted == 0 {
            let (expected, found) = ("at least one that is not ignored", format!("{rows} times {ignore_index}"));
            return Err(Error::Value { op: OP, what: "targets", expected, found });
        }
        let scale = reduce.scale(counted);
        let scores = self.value(x)?.reshape(&[rows, classes])?;
        let loss = ops::softmax_cross_entropy(&mut self.recorder, &scores, &targets, scale)?;
        Ok(self.unary(x, loss, move |recorder, dy| {
            ops::softmax_cross_entropy_grad(recorder, &scores, &targets, scale, dy)?.reshape(&shape)
        }))
    }

    /// Mean squared error (`torch.nn.functional.mse_loss`).
    ///
    /// # Shapes
    /// `x` and `y` have the same shape.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shapes differ, have no elements, or do not begin with the mask's shape; [`Error::Value`] if no
    /// element counts; [`Error::DeviceMismatch`].
    pub fn mean_squared_error(&mut self, x: Var, y: &Tensor, options: &LossOptions) -> Result<Var> {
        self.point_loss("mean_squared_error", PointLoss::SquaredError, x, y, options)
    }

    /// Binary cross-entropy of logits and targets in `[0, 1]` (`torch.nn.functional.binary_cross_entropy_with_logits`).
    ///
    /// # Shapes
    /// `x` and `y` have the same shape.
    ///
    /// # Errors
    /// As [`Graph::mean_squared_error`].
    pub fn binary_cross_entropy(&mut self, x: Var, y: &Tensor, options: &LossOptions) -> Result<Var> {
        self.point_loss("binary_cross_entropy", PointLoss::BinaryCrossEntropy, x, y, options)
    }

    /// The sum or the mean of a loss of single elements.
    fn point_loss(
        &mut self,
        op: &'static str,
        loss: PointLoss,
        x: Var,
        y: &Tensor,
        options: &LossOptions,
    ) -> Result<Var> {
        self.check_here("y", y)?;
        let shape = self.shape(x)?.to_vec();
        check_shape(op, "y", &shape, y.shape())?;
        let len = y.len();
        if len == 0 {
            let expected = "at least one element".to_owned();
            return Err(Error::Shape { op, what: "x", expected, found: shape });
        }
        let weights = match &options.mask {
            Some(mask) if shape.starts_with(mask.shape()) => {
                memory::collected(op, mask.len(), mask.iter().map(|&counts| f32::from(counts)))?
            }
            Some(mask) => {
                let expected = format!("the first axes of {shape:?}");
                return Err(Error::Shape { op, what: "mask", expected, found: mask.shape().to_vec() });
            }
            None => vec![1.0],
        };
        let rows = weights.len();
        let counted = weights.iter().filter(|&&weight| weight > 0.0).count() * (len / rows);
        if counted == 0 {
            let (expected, found) = ("true for at least one element", format!("{rows} times false"));
            return Err(Error::Value { op, what: "mask", expected, found });
        }
        let (scale, size) = (options.reduce.scale(counted), [rows, len / rows]);
        let weights = Tensor::from_vec(self.device(), &[rows], weights)?;
        let (x_rows, y) = (self.value(x)?.reshape(&size)?, y.reshape(&size)?);
        let points = Points { loss, x: &x_rows, y: &y, weights: &weights, scale };
        let value = ops::point_loss(&mut self.recorder, &points)?;
        Ok(self.unary(x, value, move |recorder, dy| {
            let points = Points { loss, x: &x_rows, y: &y, weights: &weights, scale };
            ops::point_loss_grad(recorder, &points, dy)?.reshape(&shape)
        }))
    }
}

/// The most classes: an `f32` holds every whole number up to this one.
const MOST_CLASSES: usize = 1 << 24;

#[cfg(test)]
mod tests {
    use ndarray::arr2;

    use super::{CrossEntropyOptions, LossOptions, Reduce};

    #[test]
    fn every_option_has_a_method_that_sets_it_alone() {
        assert_eq!(CrossEntropyOptions::new(), CrossEntropyOptions::default());
        let all = CrossEntropyOptions { ignore_index: 3, reduce: Reduce::Sum };
        assert_eq!(CrossEntropyOptions::new().ignore_index(3).reduce(Reduce::Sum), all);
        assert_eq!(CrossEntropyOptions::new().reduce(Reduce::Sum).ignore_index(3), all);

        assert_eq!(LossOptions::new(), LossOptions::default());
        let mask = arr2(&[[true, false], [true, true]]);
        let all = LossOptions { mask: Some(mask.clone().into_dyn()), reduce: Reduce::Sum };
        assert_eq!(LossOptions::new().mask(&mask).reduce(Reduce::Sum), all);
        assert_eq!(LossOptions::new().reduce(Reduce::Sum).mask(&mask), all);
    }
}

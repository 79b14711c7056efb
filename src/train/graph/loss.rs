//! Losses: scalars, shape `[]`.

use ndarray::{ArrayBase, ArrayD, Data, Dimension};

use super::{Graph, Var};
use crate::error::{Error, Result, check_shape};
use crate::memory;
use crate::op::PointLoss;
use crate::ops::{self, Points};
use crate::tensor::Tensor;

/// What becomes of the parts of a loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reduce {
    /// Their mean over everything that counts.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

impl Reduce {
    /// The factor of the sum of `count` parts.
    fn scale(self, count: usize) -> f32 {
        match self {
            Self::Mean => (1.0 / count as f64) as f32,
            Self::Sum => 1.0,
        }
    }
}

/// How scores and classes become a loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossEntropy {
    /// A target that does not count, PyTorch's -100 unless said otherwise.
    pub ignore_index: i64,
    /// Over all targets that count.
    pub reduce: Reduce,
}

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { ignore_index: -100, reduce: Reduce::Mean }
    }
}

/// How predictions and targets become a loss.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loss {
    /// What counts: its axes are the first axes of the predictions. Everything counts where there is none.
    pub mask: Option<ArrayD<bool>>,
    /// Over all elements that count.
    pub reduce: Reduce,
}

impl Loss {
    /// The mean over what the mask lets through, `[T, B]` of a sequence for example
    /// ([`Sequence::valid`](crate::cell::Sequence::valid)).
    pub fn masked<S, D>(mask: &ArrayBase<S, D>) -> Self
    where
        S: Data<Elem = bool>,
        D: Dimension,
    {
        Self { mask: Some(mask.to_owned().into_dyn()), ..Self::default() }
    }
}

impl Graph {
    /// Softmax cross-entropy of scores and classes (`torch.nn.functional.cross_entropy`).
    ///
    /// # Shapes
    /// `x [.., C]`; `targets`, whole numbers below C or `ignore_index`, one for each row of `x` in order.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is not one target a row, or no row; [`Error::Value`] for a class that the scores do not
    /// have, and where all targets are ignored: their mean is no number.
    pub fn cross_entropy(&mut self, x: Var, targets: &[i64], options: &CrossEntropy) -> Result<Var> {
        const OP: &str = "cross_entropy";
        let shape = self.shape(x)?.to_vec();
        let (classes, rows) = match shape.split_last() {
            Some((&classes, outer)) => (classes, outer.iter().product::<usize>()),
            None => (0, 0),
        };
        if rows == 0 || !(1..=NUMBERED).contains(&classes) {
            let expected = format!("[.., C] with at least one row and C from 1 to {NUMBERED}");
            return Err(Error::Shape { op: OP, what: "x", expected, found: shape });
        }
        check_shape(OP, "targets", &[rows], &[targets.len()])?;
        let CrossEntropy { ignore_index, reduce } = *options;
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
    /// `x` and `y` alike.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shapes differ, are empty, or the mask's is not the beginning of theirs; [`Error::Value`] where
    /// nothing counts; [`Error::DeviceMismatch`].
    pub fn mean_squared_error(&mut self, x: Var, y: &Tensor, options: &Loss) -> Result<Var> {
        self.point_loss("mean_squared_error", PointLoss::SquaredError, x, y, options)
    }

    /// Binary cross-entropy of logits and targets in `[0, 1]` (`torch.nn.functional.binary_cross_entropy_with_logits`).
    ///
    /// # Shapes
    /// `x` and `y` alike.
    ///
    /// # Errors
    /// As [`Graph::mean_squared_error`].
    pub fn binary_cross_entropy(&mut self, x: Var, y: &Tensor, options: &Loss) -> Result<Var> {
        self.point_loss("binary_cross_entropy", PointLoss::BinaryCrossEntropy, x, y, options)
    }

    fn point_loss(&mut self, op: &'static str, loss: PointLoss, x: Var, y: &Tensor, options: &Loss) -> Result<Var> {
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
            let (expected, found) = ("at least one element that counts", format!("{rows} that do not"));
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

/// Classes that an `f32` numbers without gaps.
const NUMBERED: usize = 1 << 24;

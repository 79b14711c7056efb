//! Operations, losses and update rules as data: the words that the [reference](crate::reference), the CPU and the GPU share.
//!
//! # Examples
//! ```
//! use gatewise::op::{Adam, Clip, Rule};
//!
//! let rule = Rule::from(Adam::default());
//! let clip = Clip::norm(1.0);
//! assert_eq!(clip.norm, Some(1.0));
//! # let _ = rule;
//! ```

mod optimizer;

pub use optimizer::{Adam, Clip, RmsProp, Rule, Sgd, Update};

/// An element-wise operation on two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Binary {
    /// `a + b`
    Add = 0,
    /// `a - b`
    Sub = 1,
    /// `a * b`
    Mul = 2,
    /// `max(a, b)`, NaN if either is
    Max = 3,
    /// `(a + b) / 2`
    Mean = 4,
    /// `sqrt(a^2 + b^2)`: the magnitude of a complex number
    Hypot = 5,
    /// `a / b`
    Div = 6,
    /// `min(a, b)`, NaN if either is
    Min = 7,
    /// `a` to the power of `b`; NaN for a negative `a` unless `b` is an integer
    Pow = 8,
    /// 1 if `a = b`, else 0
    Equal = 9,
    /// 1 if `a < b`, else 0
    Less = 10,
    /// `a` if `b` is not 0, else 0
    Keep = 11,
    /// `a` if `b` is 0, else -0, which changes no number that it is added to
    Drop = 12,
}

impl Binary {
    /// Every operation.
    pub const ALL: [Self; 13] = [
        Self::Add,
        Self::Sub,
        Self::Mul,
        Self::Max,
        Self::Mean,
        Self::Hypot,
        Self::Div,
        Self::Min,
        Self::Pow,
        Self::Equal,
        Self::Less,
        Self::Keep,
        Self::Drop,
    ];
}

/// Zeros before and behind a signal of `length` elements, so that a filter over `span` elements gives `ceil(length / stride)` outputs
/// (`SAME` of ONNX and Keras). If their number is odd, there is one more behind.
#[cfg(any(feature = "onnx", feature = "keras"))]
pub(crate) fn same_padding(length: usize, stride: usize, span: usize) -> [usize; 2] {
    let last = length.div_ceil(stride).saturating_sub(1).saturating_mul(stride);
    let zeros = last.saturating_add(span).saturating_sub(length);
    [zeros / 2, zeros - zeros / 2]
}

/// An elementary function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Math {
    /// `exp(x)`
    Exp = 0,
    /// `ln(x)`; NaN below zero
    Log = 1,
    /// The square root; NaN below zero.
    Sqrt = 2,
    /// `|x|`
    Abs = 3,
    /// The largest integer that is not above `x`.
    Floor = 4,
    /// The smallest integer that is not below `x`.
    Ceil = 5,
}

impl Math {
    /// Every function.
    pub const ALL: [Self; 6] = [Self::Exp, Self::Log, Self::Sqrt, Self::Abs, Self::Floor, Self::Ceil];
}

/// The elements around a padded signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum PadMode {
    /// Zeros.
    Zero = 0,
    /// The signal mirrored at its first and last element, which are not repeated (`torch.nn.ReflectionPad1d`).
    Reflect = 1,
}

/// A reduction of every row to one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Reduction {
    /// The sum; 0 for an empty row.
    Sum = 0,
    /// The mean.
    Mean = 1,
    /// The largest element; NaN if any element is NaN.
    Max = 2,
}

impl Reduction {
    /// Every reduction.
    pub const ALL: [Self; 3] = [Self::Sum, Self::Mean, Self::Max];
}

/// Geometry of a one-dimensional convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv1dGeometry {
    /// Step between two windows, at least 1.
    pub stride: usize,
    /// Zeros that are added at each end.
    pub padding: usize,
}

impl Conv1dGeometry {
    /// Length of the output for a signal of `length` and a kernel of `kernel`, 0 if the kernel does not fit.
    pub fn output_length(&self, length: usize, kernel: usize) -> usize {
        match length.saturating_add(self.padding.saturating_mul(2)).checked_sub(kernel) {
            Some(room) => room / self.stride + 1,
            None => 0,
        }
    }
}

/// A loss of one prediction and one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum PointLoss {
    /// `(x - y)^2` (`torch.nn.MSELoss`)
    SquaredError = 0,
    /// `-y ln(sigmoid(x)) - (1 - y) ln(1 - sigmoid(x))`, as `max(x, 0) - x y + ln(1 + e^-|x|)`
    /// (`torch.nn.BCEWithLogitsLoss`)
    BinaryCrossEntropy = 1,
}

impl PointLoss {
    /// Every loss.
    pub const ALL: [Self; 2] = [Self::SquaredError, Self::BinaryCrossEntropy];
}

/// The positions of an array's elements: `offset + sum(index[axis] * strides[axis])`, counted in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StridedLayout {
    /// Position of the element with index 0.
    pub offset: usize,
    /// Distance between neighbours along each axis; 0 repeats, negative runs backwards.
    pub strides: Vec<isize>,
}

impl StridedLayout {
    /// A contiguous array, last axis fastest.
    pub fn contiguous(shape: &[usize]) -> Self {
        let mut strides = vec![1; shape.len()];
        for axis in (0..shape.len().saturating_sub(1)).rev() {
            // If one extent is 0, the array has no elements, and the product of the others may overflow.
            strides[axis] = isize::wrapping_mul(strides[axis + 1], shape[axis + 1] as isize);
        }
        Self { offset: 0, strides }
    }
}

#[cfg(all(test, any(feature = "onnx", feature = "keras")))]
mod tests {
    use super::same_padding;

    #[test]
    fn same_padding_gives_one_output_per_stride_that_begins_inside() {
        assert_eq!([same_padding(5, 1, 3), same_padding(5, 1, 4), same_padding(6, 4, 3)], [[1, 1], [1, 2], [0, 1]]);
        for (length, stride, span) in [(1, 1, 1), (7, 2, 3), (8, 3, 5), (9, 4, 2), (2, 5, 9)] {
            let [before, behind] = same_padding(length, stride, span);
            let padded = before + length + behind;
            assert!(behind - before <= 1 && padded >= span, "{length} by {stride} over {span}");
            assert_eq!((padded - span) / stride + 1, length.div_ceil(stride), "{length} by {stride} over {span}");
        }
        assert_eq!((same_padding(0, 2, 3), same_padding(3, 4, 2)), ([1, 2], [0, 0]));
    }
}

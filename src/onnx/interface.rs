//! Inputs and outputs of a model as callers see them.

use ndarray::{Array, ArrayD, ArrayView, Dimension, IxDyn};

use super::proto::DataType;
use crate::error::{Error, Result};
use crate::path::CallInput;
use crate::tensor::Tensor;
use crate::text::listed;

/// The declared type of the elements of an input or output.
///
/// # Examples
/// ```
/// use gatewise::onnx::{ElementType, OnnxModel, OnnxOptions};
/// let model = OnnxModel::from_file("tests/fixtures/onnx/embedding_lstm.onnx", &OnnxOptions::default())?;
/// let types: Vec<ElementType> = model.inputs().map(|info| info.element_type).collect();
/// assert_eq!(types, [ElementType::Int64]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// 32-bit floats.
    Float,
    /// 64-bit floats.
    Double,
    /// 16-bit floats of IEEE 754.
    Float16,
    /// 16-bit floats with the exponent of 32-bit floats.
    Bfloat16,
    /// Booleans.
    Bool,
    /// Signed integers of 8 bits.
    Int8,
    /// Signed integers of 16 bits.
    Int16,
    /// Signed integers of 32 bits.
    Int32,
    /// Signed integers of 64 bits.
    Int64,
    /// Unsigned integers of 8 bits.
    Uint8,
    /// Unsigned integers of 16 bits.
    Uint16,
    /// Unsigned integers of 32 bits.
    Uint32,
}

impl ElementType {
    /// The type that has this number in `onnx.proto3`.
    ///
    /// # Errors
    /// The name of a type that is not read, as messages show it.
    pub(super) fn read(number: i32) -> std::result::Result<Self, String> {
        let kind = DataType::try_from(number).map_err(|_| format!("the unknown type {number}"))?;
        Ok(match kind {
            DataType::Float => Self::Float,
            DataType::Double => Self::Double,
            DataType::Float16 => Self::Float16,
            DataType::Bfloat16 => Self::Bfloat16,
            DataType::Bool => Self::Bool,
            DataType::Int8 => Self::Int8,
            DataType::Int16 => Self::Int16,
            DataType::Int32 => Self::Int32,
            DataType::Int64 => Self::Int64,
            DataType::Uint8 => Self::Uint8,
            DataType::Uint16 => Self::Uint16,
            DataType::Uint32 => Self::Uint32,
            other => return Err(format!("{other:?}")),
        })
    }
}

/// An input of a model: a tensor on the model's device, or a host array.
///
/// # Examples
/// ```
/// use gatewise::onnx::Input;
/// use ndarray::array;
/// let floats = Input::from(array![[0.5_f32, 1.0]]);
/// assert!(matches!(floats, Input::Float(_)));
/// let tokens = Input::from(array![3_i64, 1]);
/// assert!(matches!(tokens, Input::Int(_)));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// Floats on the model's device, for example an output of the run before.
    Tensor(Tensor),
    /// Floats on the host.
    Float(ArrayD<f32>),
    /// Integers of any width, on the host.
    Int(ArrayD<i64>),
    /// Booleans on the host.
    Bool(ArrayD<bool>),
}

impl Input {
    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(x) => x.shape(),
            Self::Float(x) => x.shape(),
            Self::Int(x) => x.shape(),
            Self::Bool(x) => x.shape(),
        }
    }
}

impl Input {
    /// The input for a replay.
    pub(super) fn of_call(&self) -> CallInput<'_> {
        match self {
            Self::Tensor(x) => CallInput::Tensor(x),
            Self::Float(x) => CallInput::Floats(x),
            Self::Int(x) => CallInput::Ints(x),
            Self::Bool(x) => CallInput::Bools(x),
        }
    }
}

impl From<Tensor> for Input {
    fn from(x: Tensor) -> Self {
        Self::Tensor(x)
    }
}

impl From<&Tensor> for Input {
    fn from(x: &Tensor) -> Self {
        Self::Tensor(x.clone())
    }
}

impl<D: Dimension> From<Array<f32, D>> for Input {
    fn from(x: Array<f32, D>) -> Self {
        Self::Float(x.into_dyn())
    }
}

impl<D: Dimension> From<ArrayView<'_, f32, D>> for Input {
    fn from(x: ArrayView<'_, f32, D>) -> Self {
        Self::Float(x.to_owned().into_dyn())
    }
}

impl<D: Dimension> From<Array<i64, D>> for Input {
    fn from(x: Array<i64, D>) -> Self {
        Self::Int(x.into_dyn())
    }
}

impl<D: Dimension> From<Array<i32, D>> for Input {
    fn from(x: Array<i32, D>) -> Self {
        Self::Int(x.mapv(i64::from).into_dyn())
    }
}

impl<D: Dimension> From<Array<bool, D>> for Input {
    fn from(x: Array<bool, D>) -> Self {
        Self::Bool(x.into_dyn())
    }
}

/// An output of a model.
///
/// # Examples
/// See [`onnx`](crate::onnx).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Output {
    /// Floats on the model's device. The tensor can be an input of the next run.
    Tensor(Tensor),
    /// Booleans that were computed from floats, as 1 and 0 on the model's device.
    Mask(Tensor),
    /// Integers on the host.
    Int {
        /// The declared type of the elements.
        element_type: ElementType,
        /// The elements.
        values: ArrayD<i64>,
    },
    /// Booleans on the host.
    Bool(ArrayD<bool>),
}

impl Output {
    /// The tensor of a float output.
    ///
    /// # Errors
    /// [`Error::Value`] unless the output has floats.
    pub fn tensor(&self) -> Result<&Tensor> {
        match self {
            Self::Tensor(x) => Ok(x),
            other => Err(other.unlike("floats")),
        }
    }

    /// Copies a float output to the host.
    ///
    /// # Errors
    /// [`Error::Value`] unless the output has floats; otherwise as [`Tensor::to_array`].
    pub fn to_array<D: Dimension>(&self) -> Result<Array<f32, D>> {
        self.tensor()?.to_array()
    }

    /// The elements of an integer output.
    ///
    /// # Errors
    /// [`Error::Value`] unless the output has integers.
    pub fn ints(&self) -> Result<&ArrayD<i64>> {
        match self {
            Self::Int { values, .. } => Ok(values),
            other => Err(other.unlike("integers")),
        }
    }

    /// The shape of the output.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(x) | Self::Mask(x) => x.shape(),
            Self::Int { values, .. } => values.shape(),
            Self::Bool(x) => x.shape(),
        }
    }

    /// The elements of a boolean output, copied to the host.
    ///
    /// # Errors
    /// [`Error::Value`] unless the output has booleans; otherwise as [`Tensor::to_array`].
    pub fn bools(&self) -> Result<ArrayD<bool>> {
        match self {
            Self::Bool(x) => Ok(x.clone()),
            Self::Mask(x) => Ok(x.to_array::<IxDyn>()?.mapv(|x| x != 0.0)),
            other => Err(other.unlike("booleans")),
        }
    }

    fn unlike(&self, expected: &'static str) -> Error {
        let found = match self {
            Self::Tensor(_) => "floats",
            Self::Int { .. } => "integers",
            Self::Bool(_) | Self::Mask(_) => "booleans",
        };
        Error::Value { op: "onnx", what: "output", expected, found: found.to_owned() }
    }
}

/// The outputs of one run, in the order of the model.
///
/// If a read-back fails, the caller can repeat it. [`Recorder::submit_and_read_all`](crate::ops::Recorder::submit_and_read_all)
/// reads several tensors with one submission.
#[derive(Clone, Debug, Default)]
pub struct Outputs(pub(super) Vec<(String, Output)>);

impl Outputs {
    /// The output with a name.
    ///
    /// # Errors
    /// [`Error::Value`] if the model has no such output.
    pub fn get(&self, name: &str) -> Result<&Output> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, output)| output).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            let found = format!("{name:?}; the model has {}", listed(&names, ", "));
            Error::Value { op: "onnx", what: "output", expected: "the name of an output", found }
        })
    }

    /// The names and outputs, in the order of the model.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Output)> {
        self.0.iter().map(|(name, output)| (name.as_str(), output))
    }
}

impl IntoIterator for Outputs {
    type Item = (String, Output);
    type IntoIter = std::vec::IntoIter<(String, Output)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

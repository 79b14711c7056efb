//! What flows between the nodes of a graph: floats on a device, integers and booleans on the host.

use ndarray::{Array, ArrayD, ArrayView, Dimension, IxDyn};

use super::proto::DataType;
use crate::error::{Error, Result};
use crate::tensor::{Device, Tensor};
use crate::text::listed;

/// A value inside a graph.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Floats of any width, held as `f32`: on the device, or on the host (`Device::Cpu`) where they come from host values.
    Float(Tensor),
    /// Booleans computed from floats: 1 and 0.
    Mask(Tensor),
    /// Integers, always on the host.
    Int(Ints),
    /// Booleans on the host.
    Bool(ArrayD<bool>),
}

/// Integers of one width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ints {
    pub(super) kind: IntKind,
    pub(super) values: ArrayD<i64>,
}

/// The width of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IntKind {
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
}

impl IntKind {
    pub(super) fn of(kind: DataType) -> Option<Self> {
        Some(match kind {
            DataType::Int8 => Self::I8,
            DataType::Int16 => Self::I16,
            DataType::Int32 => Self::I32,
            DataType::Int64 => Self::I64,
            DataType::Uint8 => Self::U8,
            DataType::Uint16 => Self::U16,
            DataType::Uint32 => Self::U32,
            _ => return None,
        })
    }

    /// The value that the low bits of `x` mean in this width.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "ONNX discards the high bits of an integer that is cast to a narrower one"
    )]
    pub(super) fn wrap(self, x: i64) -> i64 {
        match self {
            Self::I8 => i64::from(x as i8),
            Self::I16 => i64::from(x as i16),
            Self::I32 => i64::from(x as i32),
            Self::I64 => x,
            Self::U8 => i64::from(x as u8),
            Self::U16 => i64::from(x as u16),
            Self::U32 => i64::from(x as u32),
        }
    }

    /// `x` if the width holds it.
    pub(super) fn fits(self, x: i64) -> Option<i64> {
        (self.wrap(x) == x).then_some(x)
    }
}

impl Ints {
    /// 64-bit integers along one axis: shapes, axes, indices.
    pub(super) fn list(values: impl IntoIterator<Item = i64>) -> Self {
        Self { kind: IntKind::I64, values: values.into_iter().collect::<ndarray::Array1<i64>>().into_dyn() }
    }
}

impl Value {
    pub(super) fn shape(&self) -> &[usize] {
        match self {
            Self::Float(x) | Self::Mask(x) => x.shape(),
            Self::Int(x) => x.values.shape(),
            Self::Bool(x) => x.shape(),
        }
    }

    /// How messages call it.
    pub(super) fn describe(&self) -> String {
        let kind = match self {
            Self::Float(_) => "floats".to_owned(),
            Self::Mask(_) | Self::Bool(_) => "booleans".to_owned(),
            Self::Int(x) => format!("integers ({:?})", x.kind).to_lowercase(),
        };
        format!("{kind} of shape {:?}", self.shape())
    }

    /// Whether its elements can be read without asking the device.
    pub(super) fn is_host(&self) -> bool {
        match self {
            Self::Float(x) | Self::Mask(x) => matches!(x.device(), Device::Cpu),
            Self::Int(_) | Self::Bool(_) => true,
        }
    }

    /// Bytes that it holds, as the memory limit counts them.
    pub(super) fn bytes(&self) -> u64 {
        let width = match self {
            Self::Float(_) | Self::Mask(_) => 4,
            Self::Int(_) => 8,
            Self::Bool(_) => 1,
        };
        self.shape().iter().product::<usize>() as u64 * width
    }

    /// The same value with its floats on `device`.
    pub(super) fn on(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::Float(x) => Self::Float(moved(x, device)?),
            Self::Mask(x) => Self::Mask(moved(x, device)?),
            other => other.clone(),
        })
    }

    /// The same value with booleans as such where they lie on the host.
    pub(super) fn settled(self) -> Result<Self> {
        match self {
            Self::Mask(x) if matches!(x.device(), Device::Cpu) => {
                Ok(Self::Bool(x.to_array::<IxDyn>()?.mapv(|x| x != 0.0)))
            }
            other => Ok(other),
        }
    }
}

fn moved(x: &Tensor, device: &Device) -> Result<Tensor> {
    if x.device().is_same(device) { Ok(x.clone()) } else { Tensor::from_vec(device, x.shape(), x.to_vec()?) }
}

/// What a caller hands to a model: a tensor on the model's device, or a host array.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Input {
    /// Floats on the model's device, for example an output of the call before.
    Tensor(Tensor),
    /// Floats on the host.
    Float(ArrayD<f32>),
    /// Integers of any width.
    Int(ArrayD<i64>),
    /// Booleans.
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

/// What a model returns under one name.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Output {
    /// Floats, on the model's device: they can go into the next call as they are.
    Tensor(Tensor),
    /// Booleans computed from floats, as 1 and 0 on the model's device.
    Mask(Tensor),
    /// Integers.
    Int {
        /// Their declared width.
        kind: DataType,
        /// The elements.
        values: ArrayD<i64>,
    },
    /// Booleans.
    Bool(ArrayD<bool>),
}

impl Output {
    /// The tensor of a float output.
    ///
    /// # Errors
    /// [`Error::Value`] for an output that is not of floats.
    pub fn tensor(&self) -> Result<&Tensor> {
        match self {
            Self::Tensor(x) => Ok(x),
            other => Err(other.unlike("floats")),
        }
    }

    /// Copies a float output to the host.
    ///
    /// # Errors
    /// [`Error::Value`] for an output that is not of floats; as [`Tensor::to_array`] otherwise.
    pub fn to_array<D: Dimension>(&self) -> Result<Array<f32, D>> {
        self.tensor()?.to_array()
    }

    /// The elements of an integer output.
    ///
    /// # Errors
    /// [`Error::Value`] for an output that is not of integers.
    pub fn ints(&self) -> Result<&ArrayD<i64>> {
        match self {
            Self::Int { values, .. } => Ok(values),
            other => Err(other.unlike("integers")),
        }
    }

    /// Its shape.
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
    /// [`Error::Value`] for an output that is not of booleans; as [`Tensor::to_array`] otherwise.
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

/// The outputs of one call, in the model's order. A read-back that fails can be made again;
/// [`Recorder::submit_and_read_all`](crate::ops::Recorder::submit_and_read_all) reads several tensors by one submission.
#[derive(Clone, Debug)]
pub struct Outputs(pub(super) Vec<(String, Output)>);

impl Outputs {
    /// An output by its name.
    ///
    /// # Errors
    /// [`Error::Value`] where the model has no such output.
    pub fn get(&self, name: &str) -> Result<&Output> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, output)| output).ok_or_else(|| {
            let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
            let found = format!("{name:?}; the model has {}", listed(&names, ", "));
            Error::Value { op: "onnx", what: "output", expected: "the name of an output", found }
        })
    }

    /// Names and outputs in the model's order.
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

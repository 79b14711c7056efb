//! Values between the nodes of a graph: floats on a device, integers and booleans on the host.

use ndarray::{ArrayD, IxDyn};

use super::interface::ElementType;
use crate::error::Result;
use crate::tensor::{Device, Tensor};

/// A value inside a graph.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Floats of any declared width, held as `f32`, on the device. Floats that were computed from host values are on the host
    /// (`Device::Cpu`).
    Float(Tensor),
    /// Booleans that were computed from floats, held as 1 and 0.
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

/// The width of integers, and whether they are signed.
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
    /// The width of an element type; `None` unless it is an integer.
    pub(super) fn of(kind: ElementType) -> Option<Self> {
        Some(match kind {
            ElementType::Int8 => Self::I8,
            ElementType::Int16 => Self::I16,
            ElementType::Int32 => Self::I32,
            ElementType::Int64 => Self::I64,
            ElementType::Uint8 => Self::U8,
            ElementType::Uint16 => Self::U16,
            ElementType::Uint32 => Self::U32,
            _ => return None,
        })
    }

    /// The integer of this width that has the low bits of `x`.
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

    /// `x`, if an integer of this width can hold it.
    pub(super) fn fits(self, x: i64) -> Option<i64> {
        (self.wrap(x) == x).then_some(x)
    }
}

impl Ints {
    /// A list of 64-bit integers: shapes, axes, indices.
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

    /// The value as messages describe it.
    pub(super) fn describe(&self) -> String {
        let kind = match self {
            Self::Float(_) => "floats".to_owned(),
            Self::Mask(_) | Self::Bool(_) => "booleans".to_owned(),
            Self::Int(x) => format!("integers ({:?})", x.kind).to_lowercase(),
        };
        format!("{kind} of shape {:?}", self.shape())
    }

    /// Whether the elements are on the host.
    pub(super) fn is_host(&self) -> bool {
        match self {
            Self::Float(x) | Self::Mask(x) => matches!(x.device(), Device::Cpu),
            Self::Int(_) | Self::Bool(_) => true,
        }
    }

    /// The number of bytes that the memory limit counts for the value.
    pub(super) fn bytes(&self) -> u64 {
        let width = match self {
            Self::Float(_) | Self::Mask(_) => 4,
            Self::Int(_) => 8,
            Self::Bool(_) => 1,
        };
        self.shape().iter().product::<usize>() as u64 * width
    }

    /// The value with its floats on `device`.
    pub(super) fn on(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::Float(x) => Self::Float(moved(x, device)?),
            Self::Mask(x) => Self::Mask(moved(x, device)?),
            other => other.clone(),
        })
    }

    /// Returns the value; turns a mask on the host into booleans.
    pub(super) fn settled(self) -> Result<Self> {
        match self {
            Self::Mask(x) if matches!(x.device(), Device::Cpu) => {
                Ok(Self::Bool(x.to_array::<IxDyn>()?.mapv(|x| x != 0.0)))
            }
            other => Ok(other),
        }
    }
}

/// The tensor on `device`; it is copied from any other device.
fn moved(x: &Tensor, device: &Device) -> Result<Tensor> {
    if x.device().is_same(device) { Ok(x.clone()) } else { Tensor::from_vec(device, x.shape(), x.to_vec()?) }
}

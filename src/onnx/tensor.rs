//! Constant tensors as host values, read from a message or from a file of external data.

use std::borrow::Cow;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

use super::context::MOST_AXES;
use super::interface::ElementType;
use super::proto::TensorProto;
use super::value::{IntKind, Ints, Value};
use crate::error::{Error, Result};
use crate::files;
use crate::tensor::{Device, Tensor};
use crate::weights::{FileName, words};

/// The file of a model, and the folder of its external data.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModelFile<'a> {
    /// The name of the file in messages.
    pub(super) name: FileName<'a>,
    /// The folder of external data; `None` for a model that was not read from a file.
    pub(super) folder: Option<&'a Path>,
}

/// The most elements of a shape, if an axis of extent 0 counts as 1.
const MOST_ELEMENTS: usize = isize::MAX as usize / 16;

impl ModelFile<'_> {
    pub(super) fn refuse(&self, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        self.name.refuse(field, expected, found)
    }

    /// Reads a tensor. Floats of every width become `f32`.
    ///
    /// Allocations are bounded by the bytes that the file really holds, not by the shapes that it declares.
    pub(super) fn read(&self, tensor: &TensorProto) -> Result<Value> {
        let name = format!("tensor {:?}", tensor.name);
        if tensor.segment.is_some() {
            return Err(self.refuse(&name, "a whole tensor", "a segment of one"));
        }
        let (shape, count) = self.shape(&name, &tensor.dims)?;
        let expected = "float, double, float16, bfloat16, bool or integers of 8 to 64 bits";
        let kind = ElementType::read(tensor.data_type).map_err(|found| self.name.dtype(&name, expected, found))?;
        let width = width(kind);
        let bytes = match tensor.data_location {
            0 if !tensor.raw_data.is_empty() => Some(Cow::Borrowed(&tensor.raw_data[..])),
            0 => None,
            1 => Some(Cow::Owned(self.external(&name, tensor, count, width)?)),
            other => return Err(self.refuse(&name, "data_location 0 or 1", other.to_string())),
        };
        let typed = tensor.float_data.len()
            + tensor.int32_data.len()
            + tensor.int64_data.len()
            + tensor.double_data.len()
            + tensor.uint64_data.len();
        let elements = match &bytes {
            Some(_) if typed > 0 => return Err(self.refuse(&name, "its data in one place", "in two")),
            Some(bytes) if count.checked_mul(width) != Some(bytes.len()) => {
                let expected = format!("{count} elements of {width} bytes for shape {shape:?}");
                return Err(self.refuse(&name, expected, format!("{} bytes", bytes.len())));
            }
            Some(bytes) => from_bytes(kind, bytes),
            None => from_fields(kind, tensor),
        };
        let found = elements.len();
        if found != count || (bytes.is_none() && typed != count) {
            let expected = format!("{count} elements of {kind:?} for shape {shape:?}");
            return Err(self.refuse(&name, expected, format!("{found} of this type, {typed} of any")));
        }
        elements.shaped(&shape).map_err(|error| self.refuse(&name, format!("shape {shape:?}"), error.to_string()))
    }

    /// The declared shape, and the number of its elements.
    fn shape(&self, name: &str, dims: &[i64]) -> Result<(Vec<usize>, usize)> {
        let Ok(shape) = dims.iter().map(|&dim| usize::try_from(dim)).collect::<std::result::Result<Vec<usize>, _>>()
        else {
            return Err(self.refuse(name, "a shape without negative extents", format!("{dims:?}")));
        };
        let room = shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim.max(1)));
        if shape.len() > MOST_AXES || room.is_none_or(|room| room > MOST_ELEMENTS) {
            let limit = format!("{MOST_ELEMENTS} elements along {MOST_AXES} axes");
            return Err(self.name.too_large(name, limit, format!("shape {dims:?}")));
        }
        let count = shape.iter().product();
        Ok((shape, count))
    }

    /// Reads the bytes of a tensor in a file of external data.
    fn external(&self, name: &str, tensor: &TensorProto, count: usize, width: usize) -> Result<Vec<u8>> {
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| match entry(key) {
            None => Ok(None),
            Some(text) => {
                let refused = |_| self.refuse(name, format!("external data with a number as {key}"), text);
                text.parse::<u64>().map(Some).map_err(refused)
            }
        };
        let Some(location) = entry("location") else {
            return Err(self.refuse(name, "external data with a location", "none"));
        };
        let path = self.external_path(name, location)?;
        let metadata = std::fs::metadata(&path).map_err(|error| Error::io(&path, error))?;
        if !metadata.is_file() {
            let found = format!("{location:?}, {}", files::kind(&metadata));
            return Err(self.refuse(name, "external data in a file", found));
        }
        let mut file = files::open(&path)?;
        let offset = number("offset")?.unwrap_or(0);
        let available = metadata.len().saturating_sub(offset);
        let length = number("length")?.unwrap_or(available);
        let expected = count as u64 * width as u64;
        if length != expected || available < length {
            return Err(self.refuse(
                name,
                format!("{expected} bytes of external data"),
                format!("{} bytes at {offset} of {location:?}", length.min(available)),
            ));
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.take(length).read_to_end(&mut bytes))
            .map_err(|error| Error::io(&path, error))?;
        Ok(bytes)
    }

    /// The path of a file of external data, which must lie below the model's folder after links are followed.
    fn external_path(&self, name: &str, location: &str) -> Result<PathBuf> {
        let Some(folder) = self.folder else {
            return Err(self.refuse(name, "its data in the model itself", format!("external data {location:?}")));
        };
        let relative = Path::new(location);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || location.contains('\\') || !relative.components().all(plain) {
            return Err(self.refuse(name, "external data below the model's folder", format!("{location:?}")));
        }
        let wanted = folder.join(relative);
        let canonical = |path: &Path| path.canonicalize().map_err(|error| Error::io(path, error));
        if std::fs::symlink_metadata(&wanted).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            let reason =
                format!("no such file, which holds the model's external data of {name}; copy it to this place");
            return Err(Error::io(wanted, std::io::Error::new(ErrorKind::NotFound, reason)));
        }
        let (folder, path) = (canonical(folder)?, canonical(&wanted)?);
        if !path.starts_with(&folder) {
            return Err(self.refuse(name, "external data below the model's folder", format!("{}", path.display())));
        }
        Ok(path)
    }
}

/// The size of an element in bytes.
fn width(kind: ElementType) -> usize {
    match kind {
        ElementType::Double | ElementType::Int64 => 8,
        ElementType::Float | ElementType::Int32 | ElementType::Uint32 => 4,
        ElementType::Float16 | ElementType::Bfloat16 | ElementType::Int16 | ElementType::Uint16 => 2,
        ElementType::Int8 | ElementType::Uint8 | ElementType::Bool => 1,
    }
}

/// The elements of a tensor without its shape.
enum TensorElements {
    Float(Vec<f32>),
    Int(IntKind, Vec<i64>),
    Bool(Vec<bool>),
}

impl TensorElements {
    fn len(&self) -> usize {
        match self {
            Self::Float(x) => x.len(),
            Self::Int(_, x) => x.len(),
            Self::Bool(x) => x.len(),
        }
    }

    fn shaped(self, shape: &[usize]) -> Result<Value> {
        let unlike = |error: ndarray::ShapeError| Error::Shape {
            op: "tensor",
            what: "data",
            expected: error.to_string(),
            found: shape.to_vec(),
        };
        Ok(match self {
            Self::Float(x) => Value::Float(Tensor::from_vec(&Device::Cpu, shape, x)?),
            Self::Int(kind, x) => {
                Value::Int(Ints { kind, values: ArrayD::from_shape_vec(IxDyn(shape), x).map_err(unlike)? })
            }
            Self::Bool(x) => Value::Bool(ArrayD::from_shape_vec(IxDyn(shape), x).map_err(unlike)?),
        })
    }
}

/// Reads elements from little-endian bytes.
#[expect(clippy::cast_possible_truncation, reason = "f64 weights are narrowed to the precision that layers compute in")]
fn from_bytes(kind: ElementType, bytes: &[u8]) -> TensorElements {
    let ints = |kind, x: Vec<i64>| TensorElements::Int(kind, x);
    match kind {
        ElementType::Float => TensorElements::Float(words(bytes, f32::from_le_bytes).collect()),
        ElementType::Double => TensorElements::Float(words(bytes, f64::from_le_bytes).map(|x| x as f32).collect()),
        ElementType::Float16 => TensorElements::Float(words(bytes, f16::from_le_bytes).map(f16::to_f32).collect()),
        ElementType::Bfloat16 => TensorElements::Float(words(bytes, bf16::from_le_bytes).map(bf16::to_f32).collect()),
        ElementType::Bool => TensorElements::Bool(bytes.iter().map(|&x| x != 0).collect()),
        ElementType::Int8 => ints(IntKind::I8, words(bytes, i8::from_le_bytes).map(i64::from).collect()),
        ElementType::Uint8 => ints(IntKind::U8, words(bytes, u8::from_le_bytes).map(i64::from).collect()),
        ElementType::Int16 => ints(IntKind::I16, words(bytes, i16::from_le_bytes).map(i64::from).collect()),
        ElementType::Uint16 => ints(IntKind::U16, words(bytes, u16::from_le_bytes).map(i64::from).collect()),
        ElementType::Int32 => ints(IntKind::I32, words(bytes, i32::from_le_bytes).map(i64::from).collect()),
        ElementType::Uint32 => ints(IntKind::U32, words(bytes, u32::from_le_bytes).map(i64::from).collect()),
        ElementType::Int64 => ints(IntKind::I64, words(bytes, i64::from_le_bytes).collect()),
    }
}

/// Reads elements from the field of the message that the format prescribes for the type.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "f64 weights are narrowed to the precision that layers compute in; halves are the low bits of int32_data"
)]
fn from_fields(kind: ElementType, tensor: &TensorProto) -> TensorElements {
    let halves = |read: fn(u16) -> f32| tensor.int32_data.iter().map(|&x| read(x as u16)).collect();
    let narrow =
        |kind: IntKind| TensorElements::Int(kind, tensor.int32_data.iter().map(|&x| kind.wrap(i64::from(x))).collect());
    match kind {
        ElementType::Float => TensorElements::Float(tensor.float_data.clone()),
        ElementType::Double => TensorElements::Float(tensor.double_data.iter().map(|&x| x as f32).collect()),
        ElementType::Float16 => TensorElements::Float(halves(|x| f16::from_bits(x).to_f32())),
        ElementType::Bfloat16 => TensorElements::Float(halves(|x| bf16::from_bits(x).to_f32())),
        ElementType::Bool => TensorElements::Bool(tensor.int32_data.iter().map(|&x| x != 0).collect()),
        ElementType::Int64 => TensorElements::Int(IntKind::I64, tensor.int64_data.clone()),
        ElementType::Uint32 => {
            let x = tensor.uint64_data.iter().map(|&x| IntKind::U32.wrap(x as i64));
            TensorElements::Int(IntKind::U32, x.collect())
        }
        ElementType::Int8 => narrow(IntKind::I8),
        ElementType::Uint8 => narrow(IntKind::U8),
        ElementType::Int16 => narrow(IntKind::I16),
        ElementType::Uint16 => narrow(IntKind::U16),
        ElementType::Int32 => narrow(IntKind::I32),
    }
}

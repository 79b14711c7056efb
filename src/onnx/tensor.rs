//! Constant tensors: from a message or a file beside the model to host values.

use std::borrow::Cow;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

use super::context::MOST_AXES;
use super::proto::{DataType, TensorProto};
use super::value::{IntKind, Ints, Value};
use crate::error::{Error, Result};
use crate::files;
use crate::tensor::{Device, Tensor};
use crate::weights::words;

/// The file that tensors belong to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// Its name in messages.
    pub(super) file: &'a str,
    /// Where files of external data lie; `None` for a model that was not read from a file.
    pub(super) folder: Option<&'a Path>,
}

/// Elements of the largest shape, an axis of extent 0 counted as one of extent 1.
const MOST_ELEMENTS: usize = isize::MAX as usize / 16;

/// The element type by its number, or how a message calls a number that is none.
pub(super) fn data_type(number: i32) -> std::result::Result<DataType, String> {
    DataType::try_from(number).map_err(|_| format!("the unknown type {number}"))
}

impl Source<'_> {
    /// Reads a tensor. Floats of every width become `f32`.
    ///
    /// Nothing is allocated that the bytes which are really there do not fill.
    pub(super) fn read(&self, tensor: &TensorProto) -> Result<Value> {
        let name = format!("tensor {:?}", tensor.name);
        if tensor.segment.is_some() {
            return Err(self.refuse(&name, "a whole tensor", "a segment of one"));
        }
        let (shape, count) = self.shape(&name, &tensor.dims)?;
        let unread = |found: String| {
            let expected = "float, double, float16, bfloat16, bool or integers of 8 to 64 bits";
            Error::Dtype { file: self.file.to_owned(), field: name.clone(), expected, found }
        };
        let kind = data_type(tensor.data_type).map_err(unread)?;
        let Some(width) = width(kind) else {
            return Err(unread(format!("{kind:?}")));
        };
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

    /// The shape that a message declares, and the number of its elements.
    fn shape(&self, name: &str, dims: &[i64]) -> Result<(Vec<usize>, usize)> {
        let Ok(shape) = dims.iter().map(|&dim| usize::try_from(dim)).collect::<std::result::Result<Vec<usize>, _>>()
        else {
            return Err(self.refuse(name, "a shape without negative extents", format!("{dims:?}")));
        };
        let room = shape.iter().try_fold(1_usize, |n, &dim| n.checked_mul(dim.max(1)));
        if shape.len() > MOST_AXES || room.is_none_or(|room| room > MOST_ELEMENTS) {
            let (file, field) = (self.file.to_owned(), name.to_owned());
            let limit = format!("{MOST_ELEMENTS} elements along {MOST_AXES} axes");
            return Err(Error::TooLarge { file, field, limit, found: format!("shape {dims:?}") });
        }
        let count = shape.iter().product();
        Ok((shape, count))
    }

    /// The bytes of a tensor that lies in a file of its own. That file is below the model's folder, links followed.
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
        let path = self.beside(name, location)?;
        let metadata = std::fs::metadata(&path).map_err(|error| Error::io(&path, error))?;
        if !metadata.is_file() {
            let found = format!("{location:?}, {}", files::kind(&metadata));
            return Err(self.refuse(name, "external data in a file", found));
        }
        let mut file = files::open(&path)?;
        let offset = number("offset")?.unwrap_or(0);
        let there = metadata.len().saturating_sub(offset);
        let length = number("length")?.unwrap_or(there);
        let expected = count as u64 * width as u64;
        if length != expected || there < length {
            return Err(self.refuse(
                name,
                format!("{expected} bytes of external data"),
                format!("{} bytes at {offset} of {location:?}", length.min(there)),
            ));
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.take(length).read_to_end(&mut bytes))
            .map_err(|error| Error::io(&path, error))?;
        Ok(bytes)
    }

    /// A path below the model's folder.
    fn beside(&self, name: &str, location: &str) -> Result<PathBuf> {
        let Some(folder) = self.folder else {
            return Err(self.refuse(name, "its data in the model itself", format!("external data {location:?}")));
        };
        let relative = Path::new(location);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || location.contains('\\') || !relative.components().all(plain) {
            return Err(self.refuse(name, "external data below the model's folder", format!("{location:?}")));
        }
        let canonical = |path: &Path| path.canonicalize().map_err(|error| Error::io(path, error));
        let (folder, path) = (canonical(folder)?, canonical(&folder.join(relative))?);
        if !path.starts_with(&folder) {
            return Err(self.refuse(name, "external data below the model's folder", format!("{}", path.display())));
        }
        Ok(path)
    }
}

/// Bytes of an element, for the types that are read.
fn width(kind: DataType) -> Option<usize> {
    Some(match kind {
        DataType::Double | DataType::Int64 => 8,
        DataType::Float | DataType::Int32 | DataType::Uint32 => 4,
        DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16 => 2,
        DataType::Int8 | DataType::Uint8 | DataType::Bool => 1,
        _ => return None,
    })
}

/// A tensor's elements without its shape.
enum Elements {
    Float(Vec<f32>),
    Int(IntKind, Vec<i64>),
    Bool(Vec<bool>),
}

impl Elements {
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

/// Elements from little-endian bytes.
#[expect(clippy::cast_possible_truncation, reason = "f64 weights are narrowed to the precision that layers compute in")]
fn from_bytes(kind: DataType, bytes: &[u8]) -> Elements {
    let ints = |kind, x: Vec<i64>| Elements::Int(kind, x);
    match kind {
        DataType::Float => Elements::Float(words(bytes, f32::from_le_bytes).collect()),
        DataType::Double => Elements::Float(words(bytes, f64::from_le_bytes).map(|x| x as f32).collect()),
        DataType::Float16 => Elements::Float(words(bytes, f16::from_le_bytes).map(f16::to_f32).collect()),
        DataType::Bfloat16 => Elements::Float(words(bytes, bf16::from_le_bytes).map(bf16::to_f32).collect()),
        DataType::Bool => Elements::Bool(bytes.iter().map(|&x| x != 0).collect()),
        DataType::Int8 => ints(IntKind::I8, words(bytes, i8::from_le_bytes).map(i64::from).collect()),
        DataType::Uint8 => ints(IntKind::U8, words(bytes, u8::from_le_bytes).map(i64::from).collect()),
        DataType::Int16 => ints(IntKind::I16, words(bytes, i16::from_le_bytes).map(i64::from).collect()),
        DataType::Uint16 => ints(IntKind::U16, words(bytes, u16::from_le_bytes).map(i64::from).collect()),
        DataType::Int32 => ints(IntKind::I32, words(bytes, i32::from_le_bytes).map(i64::from).collect()),
        DataType::Uint32 => ints(IntKind::U32, words(bytes, u32::from_le_bytes).map(i64::from).collect()),
        _ => ints(IntKind::I64, words(bytes, i64::from_le_bytes).collect()),
    }
}

/// Elements from the field that the format prescribes for the type.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "f64 weights are narrowed to the precision that layers compute in; halves are the low bits of int32_data"
)]
fn from_fields(kind: DataType, tensor: &TensorProto) -> Elements {
    let halves = |read: fn(u16) -> f32| tensor.int32_data.iter().map(|&x| read(x as u16)).collect();
    match kind {
        DataType::Float => Elements::Float(tensor.float_data.clone()),
        DataType::Double => Elements::Float(tensor.double_data.iter().map(|&x| x as f32).collect()),
        DataType::Float16 => Elements::Float(halves(|x| f16::from_bits(x).to_f32())),
        DataType::Bfloat16 => Elements::Float(halves(|x| bf16::from_bits(x).to_f32())),
        DataType::Bool => Elements::Bool(tensor.int32_data.iter().map(|&x| x != 0).collect()),
        DataType::Int64 => Elements::Int(IntKind::I64, tensor.int64_data.clone()),
        DataType::Uint32 => {
            let x = tensor.uint64_data.iter().map(|&x| IntKind::U32.wrap(x as i64));
            Elements::Int(IntKind::U32, x.collect())
        }
        kind => {
            let kind = IntKind::of(kind).unwrap_or(IntKind::I32);
            Elements::Int(kind, tensor.int32_data.iter().map(|&x| kind.wrap(i64::from(x))).collect())
        }
    }
}

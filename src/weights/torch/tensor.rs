//! Tensors as a pickle of PyTorch describes them: a part of a storage, with a shape and strides.
//!
//! Source: `torch/_utils.py` (`_rebuild_*`) and `torch/serialization.py` (`persistent_id`).

use std::ops::Range;

use super::pickle::{Id, Pickle, Value};
use crate::error::{Result, count};
use crate::weights::FileName;
use crate::weights::floats::FloatType;

/// Parameters and tensors with attributes are wrapped this often at most.
const WRAPPERS: usize = 4;
/// The most axes that a tensor of PyTorch has.
const AXES: usize = 64;

/// The call that makes a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorCall {
    kind: CallKind,
    arguments: Id,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallKind {
    /// A part of a storage whose class names the type of elements.
    Typed,
    /// A part of a storage of bytes; an argument names the type of elements.
    Untyped,
    /// A tensor without strides, for example a sparse one.
    Other,
}

impl TensorCall {
    /// The call behind a value; `None` if the value is no tensor.
    pub(super) fn of(pickle: &Pickle<'_>, mut id: Id) -> Option<Self> {
        for _ in 0..WRAPPERS {
            let &Value::Call { mut function, mut arguments, .. } = pickle.get(id) else { return None };
            // A subclass, or a tensor with attributes: the function, the class, the arguments, the attributes.
            if let (_, "_rebuild_from_type_v2") = pickle.global(function)? {
                let &[inner, _, inner_arguments, ..] = pickle.items(arguments)? else { return None };
                (function, arguments) = (inner, inner_arguments);
            }
            let kind = match pickle.global(function)? {
                ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                    id = *pickle.items(arguments)?.first()?;
                    continue;
                }
                ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => CallKind::Typed,
                ("torch._utils", "_rebuild_tensor_v3") => CallKind::Untyped,
                ("torch._utils", name) if name.starts_with("_rebuild_") => CallKind::Other,
                _ => return None,
            };
            return Some(Self { kind, arguments });
        }
        None
    }

    /// Whether the tensor has an axis.
    pub(super) fn has_axes(self, pickle: &Pickle<'_>) -> bool {
        let size = pickle.items(self.arguments).and_then(|arguments| arguments.get(2));
        self.kind == CallKind::Other
            || size.is_some_and(|&size| extents(pickle, size).is_some_and(|size| !size.is_empty()))
    }

    /// Reads the description of the tensor.
    pub(super) fn describe<'a>(self, file: FileName<'_>, name: &str, pickle: &Pickle<'a>) -> Result<Described<'a>> {
        if self.kind == CallKind::Other {
            return Ok(Described::Other("a sparse, quantised or other special tensor".to_owned()));
        }
        let wrong = |found: &str| file.refuse(name, "a tensor as PyTorch describes it", found);
        let arguments = pickle.items(self.arguments).unwrap_or_default();
        let &[storage, offset, size, stride, ..] = arguments else {
            return Err(wrong(&format!("{} arguments", arguments.len())));
        };
        let storage = StorageReference::of(pickle, storage).ok_or_else(|| wrong("something else than a storage"))?;
        let typed = match self.kind {
            CallKind::Typed => storage.class.strip_suffix("Storage"),
            _ => arguments.get(6).and_then(|&dtype| pickle.global(dtype)).map(|(_, dtype)| dtype),
        };
        let dtype = typed.unwrap_or(storage.class);
        // A flag in the metadata says that the elements count as negated or conjugated.
        let flags = if self.kind == CallKind::Typed { arguments.get(6) } else { arguments.get(7) };
        if let Some(Value::Dict(flags)) = flags.map(|&flags| pickle.get(flags))
            && !flags.is_empty()
        {
            return Ok(Described::Other(format!("{dtype} with the metadata {}", listed_keys(pickle, flags))));
        }
        let Some(float) = float_type(dtype) else { return Ok(Described::Other(dtype.to_owned())) };
        let (Some(size), Some(strides), Some(offset)) =
            (numbers(pickle, size), numbers(pickle, stride), pickle.size(offset))
        else {
            return Err(wrong("a size, strides or an offset that are no whole numbers"));
        };
        let shape = size.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>();
        let Some(shape) = shape.filter(|shape| shape.len() == strides.len()) else {
            return Err(wrong(&format!("{} axes with {} strides", size.len(), strides.len())));
        };
        // Storages of bytes count in bytes.
        let width = float.width() as u64;
        let bytes =
            if storage.class == "UntypedStorage" { Some(storage.count) } else { storage.count.checked_mul(width) };
        let bytes = bytes.ok_or_else(|| wrong(&format!("a storage of {} elements", storage.count)))?;
        let view = View { shape, strides, offset };
        Ok(Described::Floats(StoredTensor { key: storage.key, float, bytes, view }))
    }
}

/// The names of a dict's entries.
fn listed_keys(pickle: &Pickle<'_>, entries: &[(Id, Id)]) -> String {
    let names: Vec<&str> = entries.iter().filter_map(|&(key, _)| pickle.text(key)).collect();
    crate::text::listed(&names, ", ")
}

/// The content of an entry of a state dict.
#[derive(Debug)]
pub(super) enum Described<'a> {
    Floats(StoredTensor<'a>),
    /// Something that is not read, as messages call it.
    Other(String),
}

/// A tensor of floats that lies in a storage.
#[derive(Debug)]
pub(super) struct StoredTensor<'a> {
    /// The name of the storage.
    pub(super) key: &'a str,
    pub(super) float: FloatType,
    /// The bytes of the storage.
    pub(super) bytes: u64,
    pub(super) view: View,
}

/// A part of a storage, in elements.
#[derive(Debug)]
pub(super) struct View {
    pub(super) shape: Vec<usize>,
    strides: Vec<u64>,
    offset: u64,
}

impl View {
    /// The number of elements; `None` if it overflows.
    pub(super) fn count(&self) -> Option<usize> {
        count(&self.shape)
    }

    /// The elements of the storage from the first that the tensor has to the last; `None` if a number overflows.
    pub(super) fn span(&self) -> Option<Range<usize>> {
        let first = usize::try_from(self.offset).ok()?;
        if self.count()? == 0 {
            return Some(first..first);
        }
        let last = self.shape.iter().zip(&self.strides).try_fold(first, |last, (&n, &stride)| {
            usize::try_from(stride).ok()?.checked_mul(n - 1).and_then(|step| last.checked_add(step))
        });
        Some(first..last?.checked_add(1)?)
    }

    /// Whether the elements lie one after the other in the order of the tensor.
    pub(super) fn is_contiguous(&self) -> bool {
        let mut expected = 1_u64;
        self.shape.iter().zip(&self.strides).rev().all(|(&n, &stride)| {
            let fits = n == 1 || stride == expected;
            expected = expected.saturating_mul(n as u64);
            fits
        })
    }

    /// Takes the elements of the tensor, in its order, out of those of its span.
    pub(super) fn gather(&self, span: &[f32], count: usize) -> Vec<f32> {
        let mut index = vec![0_usize; self.shape.len()];
        let (mut values, mut at) = (Vec::with_capacity(count), 0_usize);
        for _ in 0..count {
            values.push(span[at]);
            for axis in (0..index.len()).rev() {
                // `span` has proved that every offset inside the shape fits.
                let stride = self.strides[axis] as usize;
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    at += stride;
                    break;
                }
                index[axis] = 0;
                at -= stride * (self.shape[axis] - 1);
            }
        }
        values
    }
}

/// The storage that a tensor is a part of.
struct StorageReference<'a> {
    /// The class of the storage, for example `FloatStorage`.
    class: &'a str,
    key: &'a str,
    /// Elements, or bytes if the storage has no type.
    count: u64,
}

impl<'a> StorageReference<'a> {
    fn of(pickle: &Pickle<'a>, id: Id) -> Option<Self> {
        let &Value::Persistent(id) = pickle.get(id) else { return None };
        // The word "storage", the class, the name, the device, the number of elements.
        let &[kind, class, key, _, count, ..] = pickle.items(id)? else { return None };
        let (_, class) = pickle.global(class)?;
        (pickle.text(kind)? == "storage").then_some(())?;
        Some(Self { class, key: pickle.text(key)?, count: pickle.size(count)? })
    }
}

/// The type of floats behind the name of a storage's class or of a `torch.dtype`.
fn float_type(name: &str) -> Option<FloatType> {
    match name {
        "Float" | "float32" => Some(FloatType::F32),
        "Double" | "float64" => Some(FloatType::F64),
        "Half" | "float16" => Some(FloatType::F16),
        "BFloat16" | "bfloat16" => Some(FloatType::Bf16),
        _ => None,
    }
}

/// The items of a tuple, a list or a `torch.Size`.
fn extents<'p>(pickle: &'p Pickle<'_>, id: Id) -> Option<&'p [Id]> {
    match pickle.get(id) {
        &Value::Call { function, arguments, .. } if pickle.global(function) == Some(("torch", "Size")) => {
            pickle.items(*pickle.items(arguments)?.first()?)
        }
        _ => pickle.items(id),
    }
}

/// The whole numbers of a tuple, a list or a `torch.Size`; at most one per axis.
fn numbers(pickle: &Pickle<'_>, id: Id) -> Option<Vec<u64>> {
    let items = extents(pickle, id).filter(|items| items.len() <= AXES)?;
    items.iter().map(|&item| pickle.size(item)).collect()
}

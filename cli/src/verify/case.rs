//! A golden case: the manifest's fields, and the tensors of its file.

use std::path::PathBuf;

use gatewise::text::shown;
use gatewise::{Error, Result};
use ndarray::{Array, ArrayD, Dimension, IxDyn};
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A case with its tensors; the layout depends on its kind.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) kind: String,
    /// The folder of the manifest.
    pub(super) folder: PathBuf,
    pub(super) path: PathBuf,
    /// The case's entry in the manifest.
    pub(super) entry: Value,
    /// The bytes of the case's file.
    pub(super) bytes: Vec<u8>,
}

impl Case {
    /// The case's fields in the manifest, as its kind declares them.
    pub(super) fn fields<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.entry).map_err(|error| Error::Format {
            file: "manifest.json".to_owned(),
            field: shown(&self.name).to_string(),
            expected: format!("the fields of the kind `{}`", shown(&self.kind)),
            found: shown(&error.to_string()).to_string(),
        })
    }

    /// A tolerance of the case.
    pub(super) fn tolerance(&self, name: &str) -> Result<f64> {
        self.entry["tol"][name].as_f64().ok_or_else(|| self.refuse(&format!("tol.{name}"), "a number", "none"))
    }

    pub(super) fn refuse(&self, field: &str, expected: &str, found: &str) -> Error {
        Error::Format {
            file: self.path.display().to_string(),
            field: field.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        }
    }

    fn tensor<T>(&self, name: &str, dtype: Dtype, read: fn([u8; 4]) -> T) -> Result<ArrayD<T>> {
        let file = SafeTensors::deserialize(&self.bytes).map_err(|error| {
            self.refuse("header", "a whole safetensors file", &shown(&error.to_string()).to_string())
        })?;
        let view = file.tensor(name).map_err(|_| self.refuse(name, "a tensor of this name", "none"))?;
        if view.dtype() != dtype {
            return Err(self.refuse(name, &format!("dtype {dtype:?}"), &format!("{:?}", view.dtype())));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|word| read(*word)).collect();
        ArrayD::from_shape_vec(IxDyn(view.shape()), values)
            .map_err(|error| self.refuse(name, "its elements", &error.to_string()))
    }

    fn ranked<T, D: Dimension>(&self, name: &str, array: ArrayD<T>) -> Result<Array<T, D>> {
        let found = format!("shape {:?}", array.shape());
        let rank = D::NDIM.unwrap_or_default();
        array.into_dimensionality().map_err(|_| self.refuse(name, &format!("rank {rank}"), &found))
    }

    /// A tensor of floats.
    pub(super) fn floats<D: Dimension>(&self, name: &str) -> Result<Array<f32, D>> {
        self.ranked(name, self.tensor(name, Dtype::F32, f32::from_le_bytes)?)
    }

    /// A tensor of integers.
    pub(super) fn integers<D: Dimension>(&self, name: &str) -> Result<Array<i32, D>> {
        self.ranked(name, self.tensor(name, Dtype::I32, i32::from_le_bytes)?)
    }

    /// Whether the case has this tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entry["tensors"].get(name).is_some()
    }

    /// The names of the case's tensors that start with `prefix`, without it.
    pub(super) fn names(&self, prefix: &str) -> Vec<String> {
        let tensors = self.entry["tensors"].as_object();
        let names = tensors.into_iter().flat_map(|tensors| tensors.keys());
        names.filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    /// A tensor of floats, if the case has it.
    pub(super) fn optional<D: Dimension>(&self, name: &str) -> Result<Option<Array<f32, D>>> {
        self.has(name).then(|| self.floats(name)).transpose()
    }

    /// A tensor of row lengths, if the case has one.
    pub(super) fn lengths(&self, name: &str) -> Result<Option<Vec<usize>>> {
        if !self.has(name) {
            return Ok(None);
        }
        let lengths: Array<i32, ndarray::Ix1> = self.integers(name)?;
        let length = |&n: &i32| usize::try_from(n).map_err(|_| self.refuse(name, "lengths", &n.to_string()));
        lengths.iter().map(length).collect::<Result<_>>().map(Some)
    }
}

/// Finds a file that several cases share, in one of these folders relative to the case's folder.
pub(super) fn find_near(case: &Case, folders: &[&str], name: &str) -> Result<PathBuf> {
    let candidates = folders.iter().map(|folder| case.folder.join(folder).join(name));
    candidates.clone().find(|path| path.is_file()).ok_or_else(|| Error::Format {
        file: case.folder.display().to_string(),
        field: shown(&case.name).to_string(),
        expected: format!("{name} in {}", folders.join(" or ")),
        found: "no such file".to_owned(),
    })
}

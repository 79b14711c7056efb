//! NumPy files of a model's inputs and outputs.

use std::fs::File;
use std::io::ErrorKind::UnexpectedEof;
use std::io::Read;
use std::path::Path;

use gatewise::onnx::proto::DataType;
use gatewise::onnx::{Input, Output};
use gatewise::{Error, Result};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::{ReadNpyError, ReadableElement, WritableElement, read_npy, write_npy};

/// Reads an input called `name`, whatever its type.
pub(crate) fn read(name: &str, path: &Path) -> Result<Input> {
    check_size(name, path)?;
    let first = match read_npy::<_, ArrayD<f32>>(path) {
        Ok(array) => return Ok(array.into()),
        Err(ReadNpyError::Io(error)) if error.kind() != UnexpectedEof => return Err(Error::io(path, error)),
        Err(first) => first,
    };
    #[expect(clippy::cast_possible_truncation, reason = "a model's floats are computed in f32")]
    let narrow = |x: f64| x as f32;
    let double = || Some(read_npy::<_, ArrayD<f64>>(path).ok()?.mapv(narrow).into());
    let bools = || Some(read_npy::<_, ArrayD<bool>>(path).ok()?.into());
    double()
        .or_else(|| integers::<i64>(path))
        .or_else(|| integers::<i32>(path))
        .or_else(|| integers::<i16>(path))
        .or_else(|| integers::<i8>(path))
        .or_else(|| integers::<u32>(path))
        .or_else(|| integers::<u16>(path))
        .or_else(|| integers::<u8>(path))
        .or_else(bools)
        .ok_or_else(|| Error::Format {
            file: path.display().to_string(),
            field: name.to_owned(),
            expected: "a .npy file of f32, f64, bool or integers of 8 to 64 bits".to_owned(),
            found: first.to_string(),
        })
}

fn integers<T: ReadableElement + Copy + Into<i64>>(path: &Path) -> Option<Input> {
    Some(read_npy::<_, ArrayD<T>>(path).ok()?.mapv(Into::into).into())
}

/// Refuses a file that ends before the array its header declares; the reader would ask for the memory first.
fn check_size(name: &str, path: &Path) -> Result<()> {
    /// What comes before the header's text in a file of version 1, and more than a header takes.
    const BEGIN: usize = 10;
    const LONGEST: u64 = 1 << 16;
    let mut begin = Vec::new();
    let file = File::open(path).map_err(|error| Error::io(path, error))?;
    let there = file.metadata().map_err(|error| Error::io(path, error))?.len();
    file.take(LONGEST).read_to_end(&mut begin).map_err(|error| Error::io(path, error))?;
    let header = begin.get(BEGIN..).map(String::from_utf8_lossy).unwrap_or_default();
    let Some(needed) = declared(&header) else { return Ok(()) };
    if needed <= there {
        return Ok(());
    }
    let (file, field) = (path.display().to_string(), name.to_owned());
    Err(Error::Truncated { file, field, needed, found: there })
}

/// Bytes of the array that a header declares, as it is written by NumPy: `{'descr': '<f4', .., 'shape': (3, 4), }`.
fn declared(header: &str) -> Option<u64> {
    let after = |key: &str| header.split_once(key).map(|(_, rest)| rest.trim_start_matches(['\'', '"', ':', ' ']));
    let kind: String = after("descr")?.chars().take_while(|c| !matches!(c, '\'' | '"')).collect();
    let width: u64 = kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
    let shape = after("shape")?.strip_prefix('(')?.split_once(')')?.0;
    let mut extents = shape.split(',').map(str::trim).filter(|extent| !extent.is_empty());
    extents.try_fold(width, |bytes, extent| Some(bytes.saturating_mul(extent.parse().ok()?)))
}

/// Writes an output, integers in the width that the model declares.
pub(crate) fn write(path: &Path, output: &Output) -> Result<()> {
    match output {
        Output::Tensor(tensor) => save(path, &tensor.to_array::<IxDyn>()?),
        Output::Int { kind, values } => match kind {
            DataType::Int8 => narrowed::<i8>(path, values),
            DataType::Int16 => narrowed::<i16>(path, values),
            DataType::Int32 => narrowed::<i32>(path, values),
            DataType::Uint8 => narrowed::<u8>(path, values),
            DataType::Uint16 => narrowed::<u16>(path, values),
            DataType::Uint32 => narrowed::<u32>(path, values),
            _ => save(path, values),
        },
        other => save(path, &other.bools()?),
    }
}

/// Integers in a narrower type, if all of them fit.
fn narrowed<T: WritableElement + TryFrom<i64>>(path: &Path, values: &ArrayD<i64>) -> Result<()> {
    let narrow: Option<Vec<T>> = values.iter().map(|&x| T::try_from(x).ok()).collect();
    match narrow.and_then(|narrow| ArrayD::from_shape_vec(values.raw_dim(), narrow).ok()) {
        Some(narrow) => save(path, &narrow),
        None => save(path, values),
    }
}

fn save<T: WritableElement>(path: &Path, array: &ArrayD<T>) -> Result<()> {
    write_npy(path, array).map_err(|error| Error::io(path, std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::declared;

    #[test]
    fn a_header_declares_its_bytes() {
        for (header, bytes) in [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", Some(48)),
            ("{'descr': '|b1', 'fortran_order': False, 'shape': (5,), }", Some(5)),
            ("{'descr': '<i8', 'fortran_order': False, 'shape': (), }", Some(8)),
            ("{'shape': (2, 0), 'descr': '>f8'}", Some(0)),
            ("{'descr': '<f4', 'shape': (99999999999, 99999999999)}", Some(u64::MAX)),
            ("{'descr': [('a', '<f4')], 'shape': (1,)}", None),
            ("no header", None),
        ] {
            assert_eq!(declared(header), bytes, "{header}");
        }
    }
}

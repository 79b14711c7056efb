//! Reads and writes a model's inputs and outputs as NumPy files.

mod header;

use std::io::{self, Read};
use std::path::Path;

use gatewise::onnx::ElementType;
use gatewise::onnx::{Input, Output};
use gatewise::text::shown;
use gatewise::{Error, Result, files};
use ndarray::{ArrayD, IxDyn, ShapeBuilder};

use self::header::{Header, Refusal};
use crate::file;

const MAGIC: &[u8] = b"\x93NUMPY";
/// The largest accepted header in bytes: the maximum of version 1 of the format.
const LONGEST_HEADER: u64 = 1 << 16;
/// Bytes that are decoded at a time.
const BLOCK: usize = 1 << 16;

const KINDS: &str = "a .npy file of f32, f64, bool or integers of 8 to 64 bits";

/// Reads the input called `name`, of any type.
pub(crate) fn read(name: &str, path: &Path) -> Result<Input> {
    let (file, length) = file::open(path)?;
    NpyReader { file: path.display().to_string(), name, length, read: 0, source: file }.input()
}

/// Reads a file in memory as [`read`] does; errors call it `file`.
#[cfg(any(test, fuzzing))]
pub(crate) fn read_bytes(name: &str, file: &str, bytes: &[u8]) -> Result<Input> {
    NpyReader { file: file.to_owned(), name, length: bytes.len() as u64, read: 0, source: bytes }.input()
}

/// A `.npy` file that is being read.
struct NpyReader<'a, R> {
    file: String,
    /// The input's name.
    name: &'a str,
    /// The number of bytes of the whole file.
    length: u64,
    /// The number of bytes read so far.
    read: u64,
    source: R,
}

/// The elements in the order of the file.
enum NpyElements {
    Float(Vec<f32>),
    Int(Vec<i64>),
    Bool(Vec<bool>),
}

impl<R: Read> NpyReader<'_, R> {
    fn input(mut self) -> Result<Input> {
        let Header { descr, fortran_order, shape } = self.header()?;
        let (order, kind) = descr.split_at_checked(1).unwrap_or_default();
        let width = match (order, kind) {
            ("|" | "<" | ">", "b1" | "i1" | "u1") => 1,
            ("<" | ">", "i2" | "u2") => 2,
            ("<" | ">", "f4" | "i4" | "u4") => 4,
            ("<" | ">", "f8" | "i8") => 8,
            _ => return Err(self.refused(KINDS, format!("elements of type '{}'", shown(&descr)))),
        };
        let count = self.count(&shape, width)?;
        let big = order == ">";
        #[expect(clippy::cast_possible_truncation, reason = "a model's floats are computed in f32")]
        let elements = match kind {
            "f4" => NpyElements::Float(self.elements(count, big, f32::from_le_bytes)?),
            "f8" => NpyElements::Float(self.elements(count, big, |bytes| f64::from_le_bytes(bytes) as f32)?),
            "i8" => NpyElements::Int(self.elements(count, big, i64::from_le_bytes)?),
            "i4" => NpyElements::Int(self.elements(count, big, |bytes| i32::from_le_bytes(bytes).into())?),
            "i2" => NpyElements::Int(self.elements(count, big, |bytes| i16::from_le_bytes(bytes).into())?),
            "i1" => NpyElements::Int(self.elements(count, big, |bytes| i8::from_le_bytes(bytes).into())?),
            "u4" => NpyElements::Int(self.elements(count, big, |bytes| u32::from_le_bytes(bytes).into())?),
            "u2" => NpyElements::Int(self.elements(count, big, |bytes| u16::from_le_bytes(bytes).into())?),
            "u1" => NpyElements::Int(self.elements(count, big, |bytes| u8::from_le_bytes(bytes).into())?),
            _ => NpyElements::Bool(self.bools(count)?),
        };
        let shape = IxDyn(&shape).set_f(fortran_order);
        let input = match elements {
            NpyElements::Float(values) => ArrayD::from_shape_vec(shape, values).map(Input::from),
            NpyElements::Int(values) => ArrayD::from_shape_vec(shape, values).map(Input::from),
            NpyElements::Bool(values) => ArrayD::from_shape_vec(shape, values).map(Input::from),
        };
        input.map_err(|error| self.refused("a shape that fits the data", error.to_string()))
    }

    fn header(&mut self) -> Result<Header> {
        let begin: [u8; 8] = match self.length {
            0 => return Err(self.refused(KINDS, "an empty file".to_owned())),
            1..8 => return Err(self.refused(KINDS, format!("a file of {} bytes", self.length))),
            _ => self.bytes()?,
        };
        let Some([major, minor]) = begin.strip_prefix(MAGIC) else {
            return Err(self.refused(KINDS, "other bytes at its beginning".to_owned()));
        };
        let length = match (major, minor) {
            (1, 0) => u64::from(u16::from_le_bytes(self.bytes()?)),
            (2 | 3, 0) => u64::from(u32::from_le_bytes(self.bytes()?)),
            _ => return Err(self.refused("version 1, 2 or 3 of the format", format!("version {major}.{minor}"))),
        };
        if length > LONGEST_HEADER {
            let (limit, found) = (format!("a header of {LONGEST_HEADER} bytes"), format!("{length} bytes"));
            return Err(Error::TooLarge { file: self.file.clone(), field: self.name.to_owned(), limit, found });
        }
        self.hold(length)?;
        let mut header = Vec::new();
        (&mut self.source).take(length).read_to_end(&mut header).map_err(|error| self.io(error))?;
        self.read += header.len() as u64;
        let text =
            std::str::from_utf8(&header).map_err(|_| self.refused("a header in UTF-8", "other bytes".to_owned()))?;
        Header::parse(text).map_err(|Refusal { expected, found }| self.refused(&expected, found))
    }

    /// The number of elements of the array; refuses a file whose remaining bytes do not match.
    fn count(&self, shape: &[usize], width: usize) -> Result<usize> {
        // An extent of 0 counts as 1, so that the other extents are checked, too.
        let bytes = shape.iter().try_fold(width, |bytes, &extent| bytes.checked_mul(extent.max(1)));
        let Some(bytes) = bytes.filter(|&bytes| isize::try_from(bytes).is_ok()) else {
            let (limit, found) =
                (format!("{} bytes of data", isize::MAX), shown(&format!("shape {shape:?}")).to_string());
            return Err(Error::TooLarge { file: self.file.clone(), field: self.name.to_owned(), limit, found });
        };
        let bytes = if shape.contains(&0) { 0 } else { bytes };
        self.hold(bytes as u64)?;
        match self.length - self.read {
            there if there == bytes as u64 => Ok(bytes / width),
            there => Err(self.refused(&format!("{bytes} bytes of data"), format!("{there}"))),
        }
    }

    /// Refuses a file with fewer than `bytes` bytes left.
    fn hold(&self, bytes: u64) -> Result<()> {
        let needed = self.read.saturating_add(bytes);
        if needed <= self.length {
            return Ok(());
        }
        Err(Error::Truncated { file: self.file.clone(), field: self.name.to_owned(), needed, found: self.length })
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.hold(N as u64)?;
        self.source.read_exact(&mut bytes).map_err(|error| self.io(error))?;
        self.read += N as u64;
        Ok(bytes)
    }

    fn elements<const N: usize, T>(&mut self, count: usize, big: bool, decode: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|_| Error::TooLarge {
            file: self.file.clone(),
            field: self.name.to_owned(),
            limit: "an array that memory holds".to_owned(),
            found: format!("{count} elements"),
        })?;
        let mut block = [0; BLOCK];
        while values.len() < count {
            let block = &mut block[..BLOCK.min((count - values.len()) * N)];
            self.source.read_exact(block).map_err(|error| self.io(error))?;
            self.read += block.len() as u64;
            let words = block.as_chunks_mut::<N>().0.iter_mut();
            values.extend(words.map(|word| {
                if big {
                    word.reverse();
                }
                decode(*word)
            }));
        }
        Ok(values)
    }

    fn bools(&mut self, count: usize) -> Result<Vec<bool>> {
        let bytes = self.elements(count, false, |[byte]| byte)?;
        match bytes.iter().find(|&&byte| byte > 1) {
            Some(byte) => Err(self.refused("booleans of 0 and 1", byte.to_string())),
            None => Ok(bytes.into_iter().map(|byte| byte == 1).collect()),
        }
    }

    fn io(&self, error: io::Error) -> Error {
        Error::io(&self.file, error)
    }

    fn refused(&self, expected: &str, found: String) -> Error {
        let (file, field) = (self.file.clone(), self.name.to_owned());
        Error::Format { file, field, expected: expected.to_owned(), found }
    }
}

/// Writes an output; integers have the width that the model declares.
pub(crate) fn write(path: &Path, output: &Output) -> Result<()> {
    match output {
        Output::Tensor(tensor) => {
            let array = tensor.to_array::<IxDyn>()?;
            save(path, "<f4", array.shape(), array.iter().map(|x| x.to_le_bytes()))
        }
        Output::Int { element_type, values } => match element_type {
            ElementType::Int8 => narrowed(path, "|i1", values, i8::to_le_bytes),
            ElementType::Int16 => narrowed(path, "<i2", values, i16::to_le_bytes),
            ElementType::Int32 => narrowed(path, "<i4", values, i32::to_le_bytes),
            ElementType::Uint8 => narrowed(path, "|u1", values, u8::to_le_bytes),
            ElementType::Uint16 => narrowed(path, "<u2", values, u16::to_le_bytes),
            ElementType::Uint32 => narrowed(path, "<u4", values, u32::to_le_bytes),
            _ => whole(path, values),
        },
        other => {
            let array = other.bools()?;
            save(path, "|b1", array.shape(), array.iter().map(|&x| [u8::from(x)]))
        }
    }
}

/// Writes integers in a narrower type if all of them fit, otherwise as 64-bit integers.
fn narrowed<T: TryFrom<i64>, const N: usize>(
    path: &Path,
    descr: &str,
    values: &ArrayD<i64>,
    encode: fn(T) -> [u8; N],
) -> Result<()> {
    let narrow: Option<Vec<_>> = values.iter().map(|&x| T::try_from(x).ok().map(encode)).collect();
    match narrow {
        Some(narrow) => save(path, descr, values.shape(), narrow.into_iter()),
        None => whole(path, values),
    }
}

fn whole(path: &Path, values: &ArrayD<i64>) -> Result<()> {
    save(path, "<i8", values.shape(), values.iter().map(|x| x.to_le_bytes()))
}

/// Writes elements in row-major order.
fn save<const N: usize>(
    path: &Path,
    descr: &str,
    shape: &[usize],
    elements: impl Iterator<Item = [u8; N]>,
) -> Result<()> {
    files::replace(path, |file| {
        file.write_all(&preamble(descr, shape)?)?;
        elements.into_iter().try_for_each(|element| file.write_all(&element))
    })
}

/// The magic bytes and the header of a file of version 1; the data begin at a multiple of 64 bytes.
fn preamble(descr: &str, shape: &[usize]) -> io::Result<Vec<u8>> {
    const ALIGNMENT: usize = 64;
    let extents: String = shape.iter().map(|extent| format!("{extent}, ")).collect();
    let extents = if shape.len() > 1 { extents.trim_end_matches(", ") } else { extents.trim_end() };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    let before = MAGIC.len() + 4;
    let end = (before + header.len() + 1).next_multiple_of(ALIGNMENT);
    header.extend(std::iter::repeat_n(' ', end - before - header.len() - 1));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| io::Error::other("more axes than a header has room for"))?;
    Ok([MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes()].concat())
}

#[cfg(test)]
mod tests;

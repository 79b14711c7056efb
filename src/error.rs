//! The one public error.

use std::path::PathBuf;

use crate::text::{long_list, message as on_one_line, sentence as long, shown as short};

/// The result of every fallible call of the crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong, each case with the facts that are needed to correct it.
///
/// An error displays as one line of less than 2,000 characters: texts from files and drivers are escaped and cut by
/// [`text::shown`](crate::text::shown). The fields hold the whole texts.
///
/// After an error a layer keeps its weights, and a state keeps the value that it had before the call that failed,
/// unless the device is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An array does not fit the operation.
    #[error("{op}: {what} must be {}, got {}", long(expected), long(&format!("{found:?}")))]
    Shape {
        /// The operation that refused the array.
        op: &'static str,
        /// The array's name in the operation's documentation.
        what: &'static str,
        /// The shape that it should have; free axes are named.
        expected: String,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A configuration value is outside its range.
    #[error("{op}: {what} must be {expected}, got {}", long(found))]
    Value {
        /// The operation that refused the value.
        op: &'static str,
        /// The value's name.
        what: &'static str,
        /// The range or set it must come from.
        expected: &'static str,
        /// The value as given.
        found: String,
    },
    /// A legal option that this path does not carry out. It is refused rather than ignored.
    #[error("{op}: {} is not supported {by}", long(option))]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// The option and its value.
        option: String,
        /// The part of the crate or the format that does not support it.
        by: &'static str,
    },
    /// Two values that must live on one device do not.
    #[error("{op}: {what} lives on {}, expected {}", short(found), short(expected))]
    DeviceMismatch {
        /// The operation.
        op: &'static str,
        /// The argument that is elsewhere.
        what: &'static str,
        /// The operation's device.
        expected: String,
        /// The argument's device.
        found: String,
    },
    /// No adapter fits the request.
    #[error("no GPU adapter for {}: {}", short(wanted), on_one_line(reason))]
    NoAdapter {
        /// The request.
        wanted: String,
        /// The adapters that were found instead, or the driver's message.
        reason: String,
    },
    /// The request exceeds one of the adapter's limits.
    #[error("{op}: {what} needs {needed}, the limit of {} is {limit}", short(adapter))]
    Limit {
        /// The operation.
        op: &'static str,
        /// The limited quantity, unit included.
        what: &'static str,
        /// The amount that the operation needs.
        needed: u64,
        /// The amount that the adapter allows.
        limit: u64,
        /// The adapter's name.
        adapter: String,
    },
    /// The GPU device was lost; what lived on it is gone. Values read back before stay valid.
    #[error("{op}: the GPU device was lost ({})", on_one_line(reason))]
    DeviceLost {
        /// The operation that met the loss.
        op: &'static str,
        /// The driver's reason.
        reason: String,
    },
    /// There is no memory left for the operation, on its GPU or on the host.
    #[error("{op}: out of memory ({})", on_one_line(message))]
    OutOfMemory {
        /// The operation.
        op: &'static str,
        /// The driver's message, or the bytes that the host was asked for.
        message: String,
    },
    /// The driver rejected a kernel or a command.
    #[error("{op}: the GPU refused the command: {}", on_one_line(message))]
    Gpu {
        /// The kernel or operation.
        op: &'static str,
        /// The driver's message.
        message: String,
    },
    /// A file could not be read or written.
    #[error("{}: {}", short(&path.display().to_string()), long(&source.to_string()))]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file's contents differ from those that its format or the model requires, and no variant below is more precise.
    #[error("{}: {}: expected {}, found {}", short(file), short(field), long(expected), long(found))]
    Format {
        /// The file, or what the bytes were said to be.
        file: String,
        /// The tensor, field or position in the file.
        field: String,
        /// The expected content.
        expected: String,
        /// The content that is there.
        found: String,
    },
    /// A file is of another kind than it is read as.
    #[error("{}: expected {expected}, found {}", short(file), long(found))]
    Unrecognized {
        /// The file.
        file: String,
        /// The requested kind.
        expected: &'static str,
        /// The kind that the file's first bytes indicate.
        found: String,
    },
    /// A file ends before its contents do.
    #[error("{}: {}: cut short, {needed} bytes are needed and {found} are there", short(file), short(field))]
    Truncated {
        /// The file.
        file: String,
        /// The part that is cut short.
        field: String,
        /// The least number of bytes that would hold it.
        needed: u64,
        /// The number of bytes that are there.
        found: u64,
    },
    /// A file declares more than is read: a size beyond any file or memory, or a nesting that is too deep.
    #[error("{}: {}: at most {}, found {}", short(file), short(field), short(limit), long(found))]
    TooLarge {
        /// The file.
        file: String,
        /// The part that is too large.
        field: String,
        /// The most that is read, unit included.
        limit: String,
        /// The size that the file declares.
        found: String,
    },
    /// A file holds elements of a type that does not exist or is not read.
    #[error("{}: {}: expected elements of type {expected}, found {}", short(file), short(field), short(found))]
    Dtype {
        /// The file.
        file: String,
        /// The array.
        field: String,
        /// The types that are read.
        expected: &'static str,
        /// The declared type.
        found: String,
    },
    /// A file gives one name to two things.
    #[error("{}: {} defines {}, which {} has defined", short(file), short(place), short(&format!("{name:?}")), short(first))]
    Duplicate {
        /// The file.
        file: String,
        /// The second definition of the name.
        place: String,
        /// The name.
        name: String,
        /// The first definition of the name.
        first: String,
    },
    /// A graph reads a name that nothing in its file defines.
    #[error("{}: {} reads {}, which nothing defines", short(file), short(reader), short(&format!("{name:?}")))]
    Dangling {
        /// The file.
        file: String,
        /// The node or output that reads the name.
        reader: String,
        /// The name that leads nowhere.
        name: String,
    },
    /// Nodes of a graph wait for each other.
    #[error("{}: a cycle among {}", short(file), long_list(nodes, ", "))]
    Cycle {
        /// The file.
        file: String,
        /// Nodes of the cycle and nodes that wait for it; not all of them if they are many.
        nodes: Vec<String>,
    },
    /// A graph asks for operators that are not carried out. Nothing of it is run.
    #[error("{}: operators that are not supported: {}", short(file), long_list(operators, "; "))]
    Operators {
        /// The file.
        file: String,
        /// All of them: type, node and operator set.
        operators: Vec<String>,
    },
    /// A node of a graph refuses what it is given.
    #[error("{}: {}: {source}", short(file), short(node))]
    Node {
        /// The file.
        file: String,
        /// The node's name and type.
        node: String,
        /// The error of the node.
        source: Box<Error>,
    },
    /// An input holds a NaN or an infinity.
    #[error("{op}: {what} must be finite, found {found} at {index}")]
    NotFinite {
        /// The operation.
        op: &'static str,
        /// The input.
        what: &'static str,
        /// Flat index of the first such element.
        index: usize,
        /// The element.
        found: f32,
    },
    /// The loss or the gradient of a training step is NaN or infinite. The parameters and the optimiser's memory are as they
    /// were before the step.
    #[error("training diverged at step {step}: loss {loss}, gradient norm {gradient_norm}")]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// Its loss.
        loss: f32,
        /// The norm of all its gradients.
        gradient_norm: f32,
    },
}

impl Error {
    /// Wraps an operating-system error with the file it concerns.
    pub fn io(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    /// Adds the node of a file in which the error arose. An error that already names an inner node stays as it is, and
    /// so does the loss of a device, which concerns no node.
    #[cfg(any(feature = "onnx", feature = "keras"))]
    pub(crate) fn at_node(self, file: &str, node: impl Into<String>) -> Self {
        match self {
            known @ (Self::Node { .. } | Self::DeviceLost { .. }) => known,
            source => Self::Node { file: file.to_owned(), node: node.into(), source: Box::new(source) },
        }
    }
}

/// Refuses an array whose shape is not exactly `expected`.
pub(crate) fn check_shape(op: &'static str, what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Shape { op, what, expected: format!("{expected:?}"), found: found.to_vec() })
}

/// The number of elements of a shape.
pub(crate) fn elements(op: &'static str, what: &'static str, shape: &[usize]) -> Result<usize> {
    const MOST: usize = isize::MAX as usize / size_of::<f32>();
    count(shape).filter(|&len| len <= MOST).ok_or_else(|| Error::Shape {
        op,
        what,
        expected: format!("of at most {MOST} elements"),
        found: shape.to_vec(),
    })
}

/// The product of a shape's extents; `None` if it overflows; 0 if one extent is 0, however large the others are.
pub(crate) fn count(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) { Some(0) } else { shape.iter().try_fold(1_usize, |len, &n| len.checked_mul(n)) }
}

/// Checks the rank and returns the axes; `axes` is the shape as the documentation writes it.
pub(crate) fn axes<const N: usize>(
    op: &'static str,
    what: &'static str,
    axes: &'static str,
    found: &[usize],
) -> Result<[usize; N]> {
    found.try_into().map_err(|_| Error::Shape { op, what, expected: axes.to_owned(), found: found.to_vec() })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::Error;

    /// Every variant, with `text` in all fields that hold text.
    fn all(text: &str) -> Vec<Error> {
        let (op, own) = ("op", || text.to_owned());
        let io = || Error::io(text, io::Error::other(text));
        let format = || Error::Format { file: own(), field: own(), expected: own(), found: own() };
        let node = |source| Error::Node { file: own(), node: own(), source: Box::new(source) };
        vec![
            Error::Shape { op, what: "x", expected: own(), found: vec![usize::MAX; 5000] },
            Error::Value { op, what: "x", expected: "y", found: own() },
            Error::Unsupported { op, option: own(), by: "here" },
            Error::DeviceMismatch { op, what: "x", expected: own(), found: own() },
            Error::NoAdapter { wanted: own(), reason: own() },
            Error::Limit { op, what: "bytes", needed: 2, limit: 1, adapter: own() },
            Error::DeviceLost { op, reason: own() },
            Error::OutOfMemory { op, message: own() },
            Error::Gpu { op, message: own() },
            io(),
            format(),
            Error::Unrecognized { file: own(), expected: "x", found: own() },
            Error::Truncated { file: own(), field: own(), needed: 2, found: 1 },
            Error::TooLarge { file: own(), field: own(), limit: own(), found: own() },
            Error::Dtype { file: own(), field: own(), expected: "x", found: own() },
            Error::Duplicate { file: own(), place: own(), name: own(), first: own() },
            Error::Dangling { file: own(), reader: own(), name: own() },
            Error::Cycle { file: own(), nodes: vec![own(); 300] },
            Error::Operators { file: own(), operators: vec![own(); 300] },
            node(format()),
            node(io()),
            Error::NotFinite { op, what: "x", index: 1, found: f32::NAN },
            Error::Diverged { step: 1, loss: f32::NAN, gradient_norm: 1.0 },
        ]
    }

    #[test]
    fn every_error_is_one_short_line() {
        let hostile = ["\u{1b}[2J\0\r\n", "ä", "a\n\n  b", "\u{202e}x"].map(|text| text.repeat(3000));
        for error in hostile.iter().flat_map(|text| all(text)) {
            let said = error.to_string();
            assert!(said.chars().count() < 2000 && said.len() < 4000, "{} characters: {said}", said.chars().count());
            assert!(!said.chars().any(char::is_control), "{said:?}");
        }
    }

    #[test]
    fn short_texts_stand_as_they_are() {
        let error = Error::Format {
            file: "a/b.onnx".to_owned(),
            field: "node \"x\"".to_owned(),
            expected: "1".to_owned(),
            found: "2".to_owned(),
        };
        assert_eq!(error.to_string(), "a/b.onnx: node \"x\": expected 1, found 2");
        let error = Error::Shape { op: "op", what: "x", expected: "[T, B]".to_owned(), found: vec![1, 2] };
        assert_eq!(error.to_string(), "op: x must be [T, B], got [1, 2]");
    }
}

//! ONNX models: right or refused.
//!
//! A model is read from one `.onnx` file (and the files of external data beside it), checked, and put on a device. Recurrent
//! nodes become the crate's own layers, with every attribute: activations with their parameters, clip, coupled gates, reset
//! before or after the matmul, directions, layout, lengths, initial state, peepholes. What surrounds them runs on the device
//! too, all of it in one submission; shapes and other integers are computed on the host.
//!
//! What is not carried out is refused when the file is read, with the node and the field: an operator that is missing, an
//! attribute that nobody knows, an operator set outside 7 to 28, a subgraph. A model's floats are computed as `f32`, whatever
//! width it declares; [`OnnxModel::warnings`] says where that is narrower than the file's.
//!
//! # Examples
//! ```
//! use gatewise::{Device, onnx::{OnnxModel, OnnxOptions}};
//! use ndarray::{Array2, Array3};
//! let model = OnnxModel::from_file("tests/fixtures/onnx/embedding_lstm.onnx", &OnnxOptions::default())?;
//! let model = model.to(&Device::auto())?;
//! let tokens = Array2::<i64>::from_shape_fn((7, 2), |(t, b)| (t + 3 * b) as i64); // [T, B]
//! let outputs = model.run(&[("tokens", tokens.into())])?;
//! let probabilities: Array3<f32> = outputs.get("probabilities")?.to_array()?;
//! assert_eq!(probabilities.shape()[..2], [7, 2]);
//! # Ok::<(), gatewise::Error>(())
//! ```

mod attributes;
mod context;
mod graph;
mod operators;
pub mod proto;
mod run;
mod tensor;
mod value;
mod wire;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use prost::bytes::Bytes;

use self::graph::Graph;
use self::proto::{DataType, ModelProto};
use self::run::Placed;
use self::tensor::Source;
pub use self::value::{Input, Output, Outputs};
use crate::cell::Reset;
use crate::error::{Error, Result};
use crate::files;
use crate::tensor::Device;
use crate::text::shown;
pub use crate::weights::NonFinite;

/// Where a GRU resets, where its file may be wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GruReset {
    /// As the file says. A file from PyTorch that says "before" is not believed: PyTorch's GRU resets after the matmul, and
    /// exporters have left the attribute out. It is then taken as "after", with a [warning](OnnxModel::warnings).
    #[default]
    Auto,
    /// Before the matmul, whatever the file says.
    Before,
    /// After the matmul, whatever the file says.
    After,
}

/// How a model is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnnxOptions {
    /// Where GRUs reset.
    pub gru_reset: GruReset,
    /// The most bytes that the values between nodes may hold at once, weights apart.
    pub memory_limit: u64,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self { gru_reset: GruReset::Auto, memory_limit: 4 << 30 }
    }
}

/// Something that was decided, and that a caller may want decided otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A GRU from PyTorch without `linear_before_reset=1`, taken as if it had it.
    SuspectGruReset {
        /// The node.
        node: String,
    },
    /// A GRU that the caller's choice changed.
    OverriddenGruReset {
        /// The node.
        node: String,
        /// What the file says.
        stated: Reset,
        /// What the caller chose.
        used: Reset,
    },
    /// Floats of another width than they are computed in.
    Precision {
        /// The node or tensor.
        node: String,
        /// The declared type.
        declared: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |reset: &Reset| match reset {
            Reset::Before => "before",
            Reset::After => "after",
        };
        match self {
            Self::SuspectGruReset { node } => write!(
                f,
                "{}: a GRU from PyTorch without linear_before_reset=1; PyTorch's GRU resets after the matmul and some \
                 exporters leave the attribute out, so it is taken as reset after (choose before or after to decide yourself)",
                shown(node)
            ),
            Self::OverriddenGruReset { node, stated, used } => {
                let (node, stated) = (shown(node), word(stated));
                write!(f, "{node}: the file resets {stated} the matmul, the caller chose {}", word(used))
            }
            Self::Precision { node, declared } => {
                write!(f, "{}: declared as {}, computed as 32-bit floats", shown(node), shown(declared))
            }
        }
    }
}

/// The extent of an axis of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Always the same.
    Fixed(usize),
    /// Free, the same wherever the name stands.
    Named(String),
    /// Free.
    Free,
}

/// Name and type of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueInfo {
    /// The name.
    pub name: String,
    /// The declared type of the elements; floats of all widths are handed over as `f32`, integers as `i64`.
    pub element_type: DataType,
    /// The declared shape, if there is one.
    pub shape: Option<Vec<Extent>>,
}

impl fmt::Display for ValueInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = format!("{:?}", self.element_type).to_lowercase();
        write!(f, "{} {kind}", shown(&format!("{:?}", self.name)))?;
        let Some(shape) = &self.shape else {
            return Ok(());
        };
        let extents = shape.iter().map(|extent| match extent {
            Extent::Fixed(n) => n.to_string(),
            Extent::Named(name) => shown(name).to_string(),
            Extent::Free => "?".to_owned(),
        });
        write!(f, " [{}]", extents.collect::<Vec<_>>().join(", "))
    }
}

/// A model, ready to run. Cheap to put on several devices: they share what was read.
#[derive(Clone)]
pub struct OnnxModel {
    graph: Arc<Graph>,
    placed: OnceLock<Arc<Placed>>,
}

impl fmt::Debug for OnnxModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnnxModel").field("file", &self.graph.file).field("nodes", &self.graph.steps.len()).finish()
    }
}

/// The largest message that protocol buffers know.
const LARGEST_FILE: u64 = i32::MAX as u64;

impl OnnxModel {
    /// Reads a model and the files of external data that it names, which lie in its own folder or below.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be read; otherwise as [`OnnxModel::from_bytes`].
    pub fn from_file(path: impl AsRef<Path>, options: &OnnxOptions) -> Result<Self> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let size = files::open(path)?.metadata().map_err(|error| Error::io(path, error))?.len();
        if size > LARGEST_FILE {
            return Err(too_large(&file, size));
        }
        let bytes = files::read(path)?;
        let folder = path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        Self::read(&wire::decode(&file, bytes.into())?, Source { file: &file, folder }, options)
    }

    /// Reads a model's bytes; `file` names them in messages. External data is refused.
    ///
    /// # Errors
    /// [`Error::Unrecognized`] for what is no model, [`Error::Truncated`] for a part of one, [`Error::TooLarge`] and
    /// [`Error::Dtype`] for what it declares, [`Error::Duplicate`], [`Error::Dangling`] and [`Error::Cycle`] for a graph that is
    /// none, [`Error::Format`] for what is broken otherwise; all with the node, tensor or field. [`Error::Operators`] with every
    /// operator that is not carried out. [`Error::Node`] for a constant part of the graph that cannot be computed.
    pub fn from_bytes(file: &str, bytes: &[u8], options: &OnnxOptions) -> Result<Self> {
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(too_large(file, bytes.len() as u64));
        }
        Self::from_proto(file, &wire::decode(file, Bytes::copy_from_slice(bytes))?, options)
    }

    /// Reads a model from its message; `file` names it in messages. External data is refused.
    ///
    /// # Errors
    /// As [`OnnxModel::from_bytes`].
    pub fn from_proto(file: &str, model: &ModelProto, options: &OnnxOptions) -> Result<Self> {
        Self::read(model, Source { file, folder: None }, options)
    }

    fn read(model: &ModelProto, source: Source<'_>, options: &OnnxOptions) -> Result<Self> {
        Ok(Self { graph: Arc::new(Graph::new(model, source, options)?), placed: OnceLock::new() })
    }

    /// What a caller hands over, in the file's order. An input that the file initializes is a constant and not among them.
    pub fn inputs(&self) -> impl Iterator<Item = &ValueInfo> {
        self.graph.inputs.iter().map(|(info, _)| info)
    }

    /// What a run returns, in the file's order.
    pub fn outputs(&self) -> impl Iterator<Item = &ValueInfo> {
        self.graph.outputs.iter().map(|(info, _)| info)
    }

    /// What was decided about the file.
    pub fn warnings(&self) -> &[Warning] {
        &self.graph.warnings
    }

    /// The model's constants that hold NaN or infinity, as they are once they are `f32`. A mask of minus infinities may be
    /// meant; weights are not.
    pub fn check(&self) -> &[NonFinite] {
        &self.graph.non_finite
    }

    /// The model with its weights on a device.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::OutOfMemory`] where they do not fit, in an [`Error::Node`] where a node holds them.
    pub fn to(&self, device: &Device) -> Result<Self> {
        let placed = Arc::new(Placed::new(&self.graph, device)?);
        Ok(Self { graph: Arc::clone(&self.graph), placed: OnceLock::from(placed) })
    }

    /// The device it runs on: the CPU until [`OnnxModel::to`] says otherwise.
    pub fn device(&self) -> &Device {
        self.placed.get().map_or(&Device::Cpu, |placed| placed.device())
    }

    /// Runs the model: on a GPU one submission, but for the nodes that ask for a value on the host (`ArgMax`, and a cast of
    /// computed floats to integers), which end one each.
    ///
    /// Every input is handed over by name. A tensor must lie on the model's device; a state that one call returns goes into the
    /// next as it is, without a copy to the host.
    ///
    /// # Errors
    /// [`Error::Value`] for a name that the model does not have, an input that is missing or of another type; [`Error::Shape`] for
    /// a shape that is not the declared one; [`Error::Node`] where a node refuses what reaches it, or the memory limit is
    /// reached; [`Error::DeviceMismatch`], [`Error::DeviceLost`].
    pub fn run(&self, inputs: &[(&str, Input)]) -> Result<Outputs> {
        let placed = match self.placed.get() {
            Some(placed) => placed,
            None => {
                let placed = Arc::new(Placed::new(&self.graph, &Device::Cpu)?);
                self.placed.get_or_init(|| placed)
            }
        };
        placed.run(&self.graph, inputs)
    }
}

fn too_large(file: &str, size: u64) -> Error {
    Error::TooLarge {
        file: file.to_owned(),
        field: "size".to_owned(),
        limit: format!("{LARGEST_FILE} bytes, as protocol buffers allow"),
        found: format!("{size} bytes"),
    }
}

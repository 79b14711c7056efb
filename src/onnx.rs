//! ONNX models: read exactly or refused.
//!
//! A model is read from an `.onnx` file and its files of external data, checked, and put on a device. Recurrent nodes become the
//! crate's own layers, with every attribute: activations with their parameters, clip, coupled gates, reset before or after the
//! matmul, directions, layout, lengths, initial state, peepholes. All nodes on floats run on the device. Shapes and other
//! integers are computed on the host.
//!
//! An unsupported file is refused when it is read, and the error names the node and the field. Reasons are for example a missing
//! operator, an unknown attribute, an operator set outside 7 to 28, or a subgraph. All floats are computed as `f32`;
//! [`OnnxModel::warnings`] lists nodes and tensors that declare another width.
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
mod interface;
mod operators;
#[cfg(not(feature = "unstable-internals"))]
mod proto;
#[cfg(feature = "unstable-internals")]
#[doc(hidden)]
pub mod proto;
mod replay;
mod run;
mod tensor;
mod value;
mod wire;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use prost::bytes::Bytes;

use self::graph::Graph;
pub use self::interface::{ElementType, Input, Output, Outputs};
use self::proto::ModelProto;
use self::run::DeviceGraph;
use self::tensor::ModelFile;
use crate::cell::Reset;
use crate::error::{Error, Result};
use crate::files;
use crate::tensor::Device;
use crate::text::shown;
use crate::weights::FileName;
pub use crate::weights::NonFinite;

/// Whether GRUs apply the reset gate before or after the matmul. The caller can choose, because files may be wrong about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GruReset {
    /// As the file says, except for files from PyTorch that say "before". PyTorch's GRU resets after the matmul, and some
    /// exporters leave the attribute out. Such a GRU resets after the matmul, with a [warning](OnnxModel::warnings).
    #[default]
    Auto,
    /// Before the matmul, whatever the file says.
    Before,
    /// After the matmul, whatever the file says.
    After,
}

/// Options for reading a model.
///
/// # Examples
/// ```
/// use gatewise::onnx::{GruReset, OnnxOptions};
/// let options = OnnxOptions::new().gru_reset(GruReset::After).memory_limit(1 << 20);
/// assert_eq!(options.memory_limit, 1 << 20);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OnnxOptions {
    /// Whether GRUs reset before or after the matmul; [`GruReset::Auto`] by default.
    pub gru_reset: GruReset,
    /// The most bytes that the values between nodes may hold at once, without weights; 4 GiB by default.
    pub memory_limit: u64,
}

impl Default for OnnxOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl OnnxOptions {
    /// GRUs that reset as the file says ([`GruReset::Auto`]), and 4 GiB for the values between nodes.
    pub const fn new() -> Self {
        Self { gru_reset: GruReset::Auto, memory_limit: 4 << 30 }
    }

    /// Sets whether GRUs reset before or after the matmul.
    pub const fn gru_reset(self, gru_reset: GruReset) -> Self {
        Self { gru_reset, ..self }
    }

    /// Sets the most bytes that the values between nodes may hold at once, without weights.
    pub const fn memory_limit(self, memory_limit: u64) -> Self {
        Self { memory_limit, ..self }
    }
}

/// A decision about the file that a caller may want to make differently.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A GRU from PyTorch without `linear_before_reset=1`, read as if it had this attribute.
    SuspectGruReset {
        /// The node.
        node: String,
    },
    /// A GRU for which the caller's option contradicts the file.
    OverriddenGruReset {
        /// The node.
        node: String,
        /// The reset that the file states.
        stated: Reset,
        /// The reset that the caller chose.
        used: Reset,
    },
    /// Floats that the file declares with another width than `f32`.
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

/// The declared extent of an axis of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A fixed extent.
    Fixed(usize),
    /// An extent that is free, but equal for all axes with this name.
    Named(String),
    /// A free extent.
    Free,
}

/// The name and the declared type of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ValueInfo {
    /// The name.
    pub name: String,
    /// The declared type of the elements. Callers pass floats of all widths as `f32`, and integers as `i64`.
    pub element_type: ElementType,
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

/// A model that is ready to run. Its copies on several devices share the graph that was read.
///
/// # Examples
/// See [`onnx`](crate::onnx).
#[derive(Clone)]
pub struct OnnxModel {
    graph: Arc<Graph>,
    /// The weights on the model's device; set by [`OnnxModel::to`] or by the first run.
    on_device: OnceLock<Arc<DeviceGraph>>,
}

impl fmt::Debug for OnnxModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replays = self.on_device.get().map_or(0, |on_device| on_device.replays());
        let mut shown = f.debug_struct("OnnxModel");
        shown
            .field("file", &self.graph.file)
            .field("nodes", &self.graph.steps.len())
            .field("replays", &replays)
            .finish()
    }
}

/// The largest message in bytes that protocol buffers allow.
const LARGEST_FILE: u64 = i32::MAX as u64;

impl OnnxModel {
    /// Reads a model and its files of external data, which must lie in the folder of the model or below.
    ///
    /// # Errors
    /// [`Error::Io`] if a file cannot be read; otherwise as [`OnnxModel::from_bytes`].
    pub fn from_file(path: impl AsRef<Path>, options: &OnnxOptions) -> Result<Self> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let name = FileName(&file);
        check_size(name, files::open(path)?.metadata().map_err(|error| Error::io(path, error))?.len())?;
        let bytes = files::read(path)?;
        let folder = path.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
        Self::read(&wire::decode(name, bytes.into())?, ModelFile { name, folder }, options)
    }

    /// Reads the bytes of a model; `file` is the name that messages give them. External data is refused.
    ///
    /// # Errors
    /// All errors name the node, tensor or field.
    /// * [`Error::Unrecognized`] for bytes that are no model, [`Error::Truncated`] for a model that is cut short;
    /// * [`Error::TooLarge`] and [`Error::Dtype`] for sizes and types that are not supported;
    /// * [`Error::Duplicate`], [`Error::Dangling`] and [`Error::Cycle`] for nodes that do not form a graph;
    /// * [`Error::Operators`], with all operators that are not supported;
    /// * [`Error::Node`] for a constant part of the graph that cannot be computed;
    /// * [`Error::Format`] for any other damage.
    pub fn from_bytes(file: &str, bytes: &[u8], options: &OnnxOptions) -> Result<Self> {
        check_size(FileName(file), bytes.len() as u64)?;
        Self::from_proto(file, &wire::decode(FileName(file), Bytes::copy_from_slice(bytes))?, options)
    }

    unstable! {
        /// Reads a model from its message, for tests that build or damage models.
        ///
        /// # Errors
        /// As [`OnnxModel::from_bytes`].
        pub fn from_proto(file: &str, model: &ModelProto, options: &OnnxOptions) -> Result<Self> {
            Self::read(model, ModelFile { name: FileName(file), folder: None }, options)
        }
    }

    fn read(model: &ModelProto, file: ModelFile<'_>, options: &OnnxOptions) -> Result<Self> {
        Ok(Self { graph: Arc::new(Graph::new(model, file, options)?), on_device: OnceLock::new() })
    }

    /// The inputs that a caller must give, in the order of the file. An input with an initializer is a constant instead.
    pub fn inputs(&self) -> impl Iterator<Item = &ValueInfo> {
        self.graph.inputs.iter().map(|(info, _)| info)
    }

    /// The outputs of a run, in the order of the file.
    pub fn outputs(&self) -> impl Iterator<Item = &ValueInfo> {
        self.graph.outputs.iter().map(|(info, _)| info)
    }

    /// Decisions about the file that a caller may want to make differently.
    pub fn warnings(&self) -> &[Warning] {
        &self.graph.warnings
    }

    /// The constants of the model that hold NaN or infinity after the conversion to `f32`. A mask may hold minus infinity on
    /// purpose; weights should not.
    pub fn check(&self) -> &[NonFinite] {
        &self.graph.non_finite
    }

    /// A copy of the model with its weights on `device`. This model stays on its own device.
    ///
    /// # Errors
    /// [`Error::Limit`] or [`Error::OutOfMemory`] if the weights do not fit. If a node holds them, an [`Error::Node`] names it.
    pub fn to(&self, device: &Device) -> Result<Self> {
        let on_device = Arc::new(DeviceGraph::new(&self.graph, device)?);
        Ok(Self { graph: Arc::clone(&self.graph), on_device: OnceLock::from(on_device) })
    }

    /// The device that the model runs on: the CPU, or the device given to [`OnnxModel::to`].
    pub fn device(&self) -> &Device {
        self.on_device.get().map_or(&Device::Cpu, |on_device| on_device.device())
    }

    /// Runs the model in one submission. A node that needs a value on the host (`ArgMax`, `ArgMin`, a cast of computed floats to
    /// integers) submits the nodes before it, and so adds a submission.
    ///
    /// Inputs are given by name. A tensor must lie on the model's device. A state that one run returns can be the input of the
    /// next run, without a copy to the host.
    ///
    /// # Errors
    /// * [`Error::Value`] for an input that is missing, unknown, or of another type;
    /// * [`Error::Shape`] for a shape other than the declared one;
    /// * [`Error::Node`] if a node refuses its inputs, or if the memory limit is reached;
    /// * [`Error::DeviceMismatch`], [`Error::DeviceLost`].
    pub fn run(&self, inputs: &[(&str, Input)]) -> Result<Outputs> {
        let mut outputs = Outputs::default();
        self.run_into(inputs, &mut outputs)?;
        Ok(outputs)
    }

    /// [`OnnxModel::run`] that puts the outputs in the place of those of an earlier run. If it fails, the earlier ones stay.
    ///
    /// On the CPU, the second call with the same shapes notes the operations that it runs, and from the third call on only
    /// those run, in memory that the model keeps. Such a call allocates nothing, once nobody holds the outputs of the call
    /// before the last. Integers and booleans must have the same elements, too. A model that turns computed floats into
    /// integers (`ArgMax`, `Cast`) is always interpreted, and so is a call that needs more than 64 MiB for its values or more
    /// than [`OnnxOptions::memory_limit`]. A model keeps at most that much.
    ///
    /// # Errors
    /// As [`OnnxModel::run`].
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, Tensor, onnx::{Input, OnnxModel, OnnxOptions, Outputs}};
    /// let model = OnnxModel::from_file("tests/fixtures/onnx/silero_front.onnx", &OnnxOptions::default())?;
    /// let audio = Tensor::zeros(&Device::Cpu, &[1, 576])?;
    /// let (mut h, mut c) = (Tensor::zeros(&Device::Cpu, &[1, 1, 5])?, Tensor::zeros(&Device::Cpu, &[1, 1, 5])?);
    /// let mut outputs = Outputs::default();
    /// for _frame in 0..4 {
    ///     let inputs = [("audio", Input::from(&audio)), ("h0", h.into()), ("c0", c.into())];
    ///     model.run_into(&inputs, &mut outputs)?;
    ///     (h, c) = (outputs.get("h")?.tensor()?.clone(), outputs.get("c")?.tensor()?.clone());
    /// }
    /// assert_eq!(outputs.get("speech")?.tensor()?.len(), 1);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn run_into(&self, inputs: &[(&str, Input)], outputs: &mut Outputs) -> Result<()> {
        let on_device = match self.on_device.get() {
            Some(on_device) => on_device,
            None => {
                let on_device = Arc::new(DeviceGraph::new(&self.graph, &Device::Cpu)?);
                self.on_device.get_or_init(|| on_device)
            }
        };
        on_device.run(&self.graph, inputs, outputs)
    }
}

/// Refuses a file that is larger than any message.
fn check_size(file: FileName<'_>, size: u64) -> Result<()> {
    if size <= LARGEST_FILE {
        return Ok(());
    }
    let limit = format!("{LARGEST_FILE} bytes, as protocol buffers allow");
    Err(file.too_large("size", limit, format!("{size} bytes")))
}

//! Layers and models of Keras on a device.

mod layers;
mod load;
mod recurrent;
mod value;

use std::fmt;
use std::sync::Arc;

use ndarray::{Array, Array2, ArrayD, Dimension};

use self::layers::Placed;
pub(super) use self::load::Loader;
use self::value::{Data, Value};
use super::Source;
use super::graph::Graph;
use super::parse::{Kind, Layer};
use crate::error::{Error, Result};
use crate::ops::Recorder;
use crate::tensor::{Device, Tensor};
use crate::text::listed;

const OP: &str = "KerasLayer";

/// What goes into a layer or model: an array on the host, or a tensor on the layer's device.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KerasInput {
    /// Numbers, in Keras' layout: `[B, T, I]`.
    Floats(ArrayD<f32>),
    /// Symbols of an Embedding.
    Integers(ArrayD<i64>),
    /// A tensor on the layer's device. Symbols, and what a Masking reads, must be on the host.
    Tensor(Tensor),
}

impl<D: Dimension> From<Array<f32, D>> for KerasInput {
    fn from(array: Array<f32, D>) -> Self {
        Self::Floats(array.into_dyn())
    }
}

impl<D: Dimension> From<Array<i64, D>> for KerasInput {
    fn from(array: Array<i64, D>) -> Self {
        Self::Integers(array.into_dyn())
    }
}

impl From<Tensor> for KerasInput {
    fn from(tensor: Tensor) -> Self {
        Self::Tensor(tensor)
    }
}

/// One call of a layer or model.
#[derive(Clone, Debug)]
pub struct KerasCall {
    inputs: Vec<KerasInput>,
    mask: Option<Array2<bool>>,
    initial_state: Vec<Tensor>,
}

impl KerasCall {
    /// A call with an input.
    pub fn new(x: impl Into<KerasInput>) -> Self {
        Self { inputs: vec![x.into()], mask: None, initial_state: Vec::new() }
    }

    /// One input more, for a model with several.
    pub fn input(mut self, x: impl Into<KerasInput>) -> Self {
        self.inputs.push(x.into());
        self
    }

    /// A mask of the first input, `[B, T]`: false where a step does not count.
    pub fn mask(mut self, mask: Array2<bool>) -> Self {
        self.mask = Some(mask);
        self
    }

    /// The state that a recurrent layer begins with, as [`KerasOutputs::states`] lists it; zeros where it is not given.
    pub fn initial_state(mut self, state: impl IntoIterator<Item = Tensor>) -> Self {
        self.initial_state = state.into_iter().collect();
        self
    }
}

/// The results of a layer or model, on its device. A read-back that fails can be made again;
/// [`Recorder::submit_and_read_all`](crate::ops::Recorder::submit_and_read_all) reads several tensors by one submission.
#[derive(Clone, Debug)]
pub struct KerasOutputs {
    /// The outputs in Keras' order and layout: with `return_state` the final state comes after them.
    pub outputs: Vec<Tensor>,
    /// The final state of a recurrent layer, whether it returns it or not: for each cell (and direction, forward first)
    /// `h` and, of an LSTM, `c`, each `[B, units]`. Empty for other layers.
    pub states: Vec<Tensor>,
    /// The mask that the first output carries on.
    pub mask: Option<Array2<bool>>,
}

/// A layer of Keras, or a whole model, on a device: computes what Keras computes at inference, in Keras' layout (the batch
/// first), in one submission. Cheap to clone.
///
/// At a masked step the output before is repeated, and zero before the first one counts; a Bidirectional that returns
/// sequences writes zeros. With an initial state other than zero this is TensorFlow's and PyTorch's way: JAX repeats the
/// initial state.
///
/// # Examples
/// ```
/// use gatewise::{Device, weights::keras::KerasFile};
/// use ndarray::{Array2, Array3};
/// let file = KerasFile::open("tests/fixtures/keras/around.keras")?;
/// let model = file.model(&Device::auto())?;
/// let symbols = Array2::<i64>::from_shape_fn((2, 6), |(b, t)| ((b + t) % 7) as i64); // [B, T]
/// let answer: Array2<f32> = model.forward(symbols)?.to_array()?;
/// assert_eq!(answer.shape(), &[2, 3]);
///
/// let lstm = file.layer("lstm", &Device::Cpu)?; // one layer of it
/// let y: Array2<f32> = lstm.forward(Array3::<f32>::ones((2, 5, 4)))?.to_array()?;
/// assert_eq!(y.shape(), &[2, 3]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone)]
pub struct KerasLayer {
    file: String,
    path: String,
    class: String,
    inputs: Vec<String>,
    device: Device,
    placed: Arc<Placed>,
}

impl fmt::Debug for KerasLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {} on {}", self.class, self.path, self.file, self.device)
    }
}

impl KerasLayer {
    pub(super) fn new(loader: &Loader<'_>, layer: &Layer) -> Result<Self> {
        Ok(Self {
            file: loader.source.file.to_owned(),
            path: layer.path.clone(),
            class: layer.class.clone(),
            inputs: match &layer.kind {
                Kind::Graph(Graph { inputs, .. }) => inputs.clone(),
                _ => vec![layer.path.clone()],
            },
            device: loader.device.clone(),
            placed: Arc::new(Placed::new(loader, layer)?),
        })
    }

    /// Its name, behind those of the models that hold it: `inner/lstm`.
    pub fn name(&self) -> &str {
        &self.path
    }

    /// Its class in Keras.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// Names of a model's inputs, in the order in which a call takes them; a layer's own name for a layer.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(String::as_str)
    }

    /// The device it lives on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Calls a layer or model with one input, in one submission; returns its first output, on the device.
    ///
    /// # Errors
    /// As [`KerasLayer::call`].
    pub fn forward(&self, x: impl Into<KerasInput>) -> Result<Tensor> {
        let mut outputs = self.call(KerasCall::new(x))?.outputs.into_iter();
        outputs.next().ok_or_else(|| Error::Value {
            op: OP,
            what: "outputs",
            expected: "at least one",
            found: "none".to_owned(),
        })
    }

    /// Calls a layer or model, in one submission. Outputs stay on the device.
    ///
    /// # Errors
    /// [`Error::Node`] where a layer refuses what reaches it, with its name; [`Error::Value`] for the wrong number of inputs;
    /// [`Error::DeviceLost`].
    pub fn call(&self, call: KerasCall) -> Result<KerasOutputs> {
        let mut recorder = self.device.recorder();
        let outputs = self.record(&mut recorder, call)?;
        recorder.submit()?;
        Ok(outputs)
    }

    /// Records [`KerasLayer::call`] beside other operations.
    ///
    /// # Errors
    /// As [`KerasLayer::call`].
    pub fn record(&self, recorder: &mut Recorder, call: KerasCall) -> Result<KerasOutputs> {
        recorder.device().check_same(OP, "recorder", &self.device)?;
        if call.inputs.len() != self.inputs.len() {
            let found = format!("{} for {}", call.inputs.len(), listed(&self.inputs, ", "));
            return Err(Error::Value { op: OP, what: "inputs", expected: "one an input of the model", found });
        }
        let mask = call.mask.map(Arc::new);
        let mut takes = Vec::new();
        for (at, x) in call.inputs.into_iter().enumerate() {
            let data = match x {
                KerasInput::Floats(x) => Data::Floats(x),
                KerasInput::Integers(x) => Data::Integers(x),
                KerasInput::Tensor(x) => {
                    x.check_device(OP, "x", &self.device)?;
                    Data::Tensor(x)
                }
            };
            takes.push(Value { data, mask: if at == 0 { mask.clone() } else { None } });
        }
        for state in call.initial_state {
            state.check_device(OP, "initial_state", &self.device)?;
            takes.push(Value { data: Data::Tensor(state), mask: None });
        }
        let mut run = Run { source: Source { file: &self.file }, recorder };
        let results = run.layer(&self.path, &self.placed, &takes)?;
        let mask = results.values.first().and_then(|value| value.mask.as_deref().cloned());
        let outputs = results.values.iter().map(|value| value.tensor(&run));
        Ok(KerasOutputs { outputs: outputs.collect::<Result<_>>()?, states: results.states, mask })
    }
}

/// One submission on its way.
struct Run<'a> {
    source: Source<'a>,
    recorder: &'a mut Recorder,
}

/// What a layer gives: values for the layers that follow, and its final state.
struct Results {
    values: Vec<Value>,
    states: Vec<Tensor>,
}

impl Results {
    fn one(data: Data, mask: Option<Arc<Array2<bool>>>) -> Self {
        Self { values: vec![Value { data, mask }], states: Vec::new() }
    }
}

impl Run<'_> {
    /// Runs a layer; its name stands in what it refuses.
    fn layer(&mut self, path: &str, placed: &Placed, takes: &[Value]) -> Result<Results> {
        placed.run(self, takes).map_err(|error| error.at_node(self.source.file, format!("layer {path}")))
    }
}

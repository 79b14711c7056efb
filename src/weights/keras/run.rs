//! Layers and models of Keras on a device.

mod layers;
mod load;
mod recurrent;
mod replay;
mod value;

use std::fmt;
use std::sync::Arc;

use ndarray::{Array, Array2, ArrayD, Dimension};

use self::layers::DeviceLayer;
pub(super) use self::load::Loader;
use self::replay::{CallKind, LayerReplay};
use self::value::{MaskedValue, ValueData};
use super::FileName;
use super::model::ModelSpec;
use super::parse::{LayerKind, LayerSpec};
use crate::error::{Error, Result};
use crate::ops::Recorder;
use crate::path::Kept;
use crate::tensor::{Device, Tensor};
use crate::text::listed;

const OP: &str = "KerasLayer";

/// An input of a layer or model: an array on the host, or a tensor on the layer's device.
///
/// # Examples
/// ```
/// use gatewise::weights::keras::KerasInput;
/// use ndarray::array;
/// assert!(matches!(KerasInput::from(array![[3_i64, 1]]), KerasInput::Integers(_)));
/// assert!(matches!(KerasInput::from(array![[0.5_f32]]), KerasInput::Floats(_)));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum KerasInput {
    /// Floats on the host in Keras' layout, `[B, T, I]`.
    Floats(ArrayD<f32>),
    /// Integers on the host: the symbols of an Embedding.
    Integers(ArrayD<i64>),
    /// Floats on the layer's device. The inputs of Embedding and Masking must be on the host.
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

/// The arguments of one call of a layer or model.
///
/// # Examples
/// ```
/// use gatewise::{Device, weights::keras::{KerasCall, KerasFile}};
/// use ndarray::{Array2, Array3};
/// let file = KerasFile::open("tests/fixtures/keras/around.keras")?;
/// let lstm = file.layer("lstm", &Device::Cpu)?;
/// let mask = Array2::from_shape_fn((2, 5), |(b, t)| t < 3 + b); // [B, T]
/// let outputs = lstm.call(KerasCall::new(Array3::<f32>::ones((2, 5, 4))).mask(mask))?;
/// assert_eq!(outputs.states.len(), 2); // h and c
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct KerasCall {
    inputs: Vec<KerasInput>,
    mask: Option<Array2<bool>>,
    initial_state: Vec<Tensor>,
}

impl KerasCall {
    /// A call with one input.
    pub fn new(x: impl Into<KerasInput>) -> Self {
        Self { inputs: vec![x.into()], mask: None, initial_state: Vec::new() }
    }

    /// Adds an input, for a model with several inputs.
    pub fn input(mut self, x: impl Into<KerasInput>) -> Self {
        self.inputs.push(x.into());
        self
    }

    /// Sets the mask of the first input, `[B, T]`: false for steps that do not count.
    pub fn mask(mut self, mask: Array2<bool>) -> Self {
        self.mask = Some(mask);
        self
    }

    /// Sets the start state of a recurrent layer, in the order of [`KerasOutputs::states`]; zeros by default.
    pub fn initial_state(mut self, state: impl IntoIterator<Item = Tensor>) -> Self {
        self.initial_state = state.into_iter().collect();
        self
    }
}

/// The results of a layer or model, on its device.
///
/// If a read-back fails, the caller can repeat it. [`Recorder::submit_and_read_all`](crate::ops::Recorder::submit_and_read_all)
/// reads several tensors with one submission.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct KerasOutputs {
    /// The outputs in Keras' order and layout; with `return_state` the final state follows.
    pub outputs: Vec<Tensor>,
    /// The final state of a recurrent layer, with or without `return_state`. Each direction (forward first) and each of its cells
    /// has `h` and, for an LSTM, `c`, each `[B, units]`. Empty for other layers.
    pub states: Vec<Tensor>,
    /// The mask of the first output.
    pub mask: Option<Array2<bool>>,
}

/// A layer of Keras, or a whole model, on a device. It computes what Keras computes at inference, in Keras' layout (the batch is
/// the first axis), in one submission. Cheap to clone.
///
/// At a masked step a recurrent layer repeats the output of the step before, or zero before the first valid step. A Bidirectional
/// that returns sequences writes zeros. TensorFlow and PyTorch do the same; JAX repeats the initial state before the first valid
/// step.
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
    layer: Arc<DeviceLayer>,
    kept: Arc<Kept<LayerReplay>>,
}

impl fmt::Debug for KerasLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {} on {}", self.class, self.path, self.file, self.device)
    }
}

impl KerasLayer {
    pub(super) fn new(loader: &Loader<'_>, layer: &LayerSpec) -> Result<Self> {
        Ok(Self {
            file: loader.file.0.to_owned(),
            path: layer.path.clone(),
            class: layer.class.clone(),
            inputs: match &layer.kind {
                LayerKind::Model(ModelSpec { inputs, .. }) => inputs.clone(),
                _ => vec![layer.path.clone()],
            },
            device: loader.device.clone(),
            layer: Arc::new(DeviceLayer::new(loader, layer)?),
            kept: Arc::new(Kept::new(u64::MAX)),
        })
    }

    /// The name of the layer after the names of the models that hold it, for example `inner/lstm`.
    pub fn name(&self) -> &str {
        &self.path
    }

    /// The class of the layer in Keras.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// The names of a model's inputs in the order in which a call takes them; for a single layer its own name.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(String::as_str)
    }

    /// The device that holds the layer.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Calls a layer or model with one input, in one submission. Returns its first output, which stays on the device.
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

    /// Calls a layer or model, in one submission. The outputs stay on the device.
    ///
    /// # Errors
    /// [`Error::Node`], with the name of the layer, if a layer refuses its input; [`Error::Value`] for a wrong number of inputs;
    /// [`Error::DeviceLost`].
    pub fn call(&self, call: KerasCall) -> Result<KerasOutputs> {
        let mut outputs = KerasOutputs::default();
        self.call_into(&call, &mut outputs)?;
        Ok(outputs)
    }

    /// [`KerasLayer::call`] that puts the results in the place of those of an earlier call. If it fails, the earlier ones stay.
    ///
    /// On the CPU, the second call with the same shapes notes the operations that it runs, and from the third call on only
    /// those run, in memory that the layer keeps. Such a call allocates nothing, once nobody holds the results of the call
    /// before the last. Integers and masks must have the same elements, too. A layer that decides by the elements of floats
    /// (Masking) is always interpreted.
    ///
    /// # Errors
    /// As [`KerasLayer::call`].
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, weights::keras::{KerasCall, KerasFile, KerasOutputs}};
    /// use ndarray::Array3;
    /// let lstm = KerasFile::open("tests/fixtures/keras/around.keras")?.layer("lstm", &Device::Cpu)?;
    /// let call = KerasCall::new(Array3::<f32>::ones((2, 5, 4)));
    /// let mut outputs = KerasOutputs::default();
    /// for _ in 0..3 {
    ///     lstm.call_into(&call, &mut outputs)?;
    /// }
    /// assert_eq!(outputs.outputs[0].shape(), &[2, 3]);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn call_into(&self, call: &KerasCall, outputs: &mut KerasOutputs) -> Result<()> {
        // If a replay has no memory, the layers may find some, or else they name the layer that has none.
        if let Some(mut replay) = self.kept.take(|replay| replay.fits(call, &self.device))
            && replay.run(call, outputs).is_ok()
        {
            self.kept.put(replay);
            return Ok(());
        }
        let wanted = self.device.cpu().is_some() && self.kept.wants(CallKind(call));
        if wanted && let Ok(recorded) = self.record_replay(call) {
            *outputs = recorded;
            return Ok(());
        }
        let mut recorder = self.device.recorder();
        *outputs = self.interpret(&mut recorder, call)?;
        if wanted {
            // A layer wants its input on the host.
            self.kept.refuse(CallKind(call));
        }
        recorder.submit()
    }

    /// Calls the layer, and keeps a replay if it allows one.
    fn record_replay(&self, call: &KerasCall) -> Result<KerasOutputs> {
        let mut recorder = self.device.replay_recorder();
        let outputs = self.interpret(&mut recorder, call)?;
        let tensors: Vec<&Tensor> = outputs.outputs.iter().chain(&outputs.states).collect();
        match recorder.into_replay(&tensors, self.kept.limit())? {
            Some(replay) => self.kept.put(LayerReplay::new(call, &outputs, replay)),
            None => self.kept.refuse(CallKind(call)),
        }
        Ok(outputs)
    }

    /// Records a call (see [`KerasLayer::call`]) into a recorder, together with other operations.
    ///
    /// # Errors
    /// As [`KerasLayer::call`].
    pub fn record(&self, recorder: &mut Recorder, call: KerasCall) -> Result<KerasOutputs> {
        self.interpret(recorder, &call)
    }

    /// Runs the layers one by one.
    fn interpret(&self, recorder: &mut Recorder, call: &KerasCall) -> Result<KerasOutputs> {
        recorder.device().check_same(OP, "recorder", &self.device)?;
        if call.inputs.len() != self.inputs.len() {
            let found = format!("{} for {}", call.inputs.len(), listed(&self.inputs, ", "));
            return Err(Error::Value { op: OP, what: "inputs", expected: "one value per input of the model", found });
        }
        let mask = call.mask.clone().map(Arc::new);
        let mut inputs = Vec::new();
        for (at, x) in call.inputs.iter().enumerate() {
            let data = match (x, recorder.recording()) {
                (KerasInput::Floats(x), None) => ValueData::Floats(x.clone()),
                (KerasInput::Floats(x), Some(recording)) => {
                    let x = Tensor::from_array(&self.device, x)?;
                    recording.input(&x)?;
                    ValueData::Tensor(x)
                }
                (KerasInput::Integers(x), _) => ValueData::Integers(x.clone()),
                (KerasInput::Tensor(x), _) => ValueData::Tensor(self.accept(recorder, "x", x)?),
            };
            inputs.push(MaskedValue { data, mask: if at == 0 { mask.clone() } else { None } });
        }
        for state in &call.initial_state {
            let state = self.accept(recorder, "initial_state", state)?;
            inputs.push(MaskedValue { data: ValueData::Tensor(state), mask: None });
        }
        let mut context = LayerContext { file: FileName(&self.file), recorder };
        let results = context.run(&self.path, &self.layer, &inputs)?;
        let mask = results.values.first().and_then(|value| value.mask.as_deref().cloned());
        let outputs = results.values.iter().map(|value| value.tensor(&context));
        Ok(KerasOutputs { outputs: outputs.collect::<Result<_>>()?, states: results.states, mask })
    }

    /// A caller's tensor. A recording gets a copy: in another call the tensor may share memory with others, or with none.
    fn accept(&self, recorder: &mut Recorder, what: &'static str, x: &Tensor) -> Result<Tensor> {
        x.check_device(OP, what, &self.device)?;
        let Some(recording) = recorder.recording() else { return Ok(x.clone()) };
        let own = Tensor::from_vec(x.device(), x.shape(), x.to_vec()?)?;
        recording.input(&own)?;
        Ok(own)
    }
}

/// The recorder of a call, and the file that its errors name.
struct LayerContext<'a> {
    file: FileName<'a>,
    recorder: &'a mut Recorder,
}

/// The values that a layer passes to the next layers, and its final state.
struct LayerResults {
    values: Vec<MaskedValue>,
    states: Vec<Tensor>,
}

impl LayerResults {
    fn one(data: ValueData, mask: Option<Arc<Array2<bool>>>) -> Self {
        Self { values: vec![MaskedValue { data, mask }], states: Vec::new() }
    }
}

impl LayerContext<'_> {
    /// Runs a layer. Its errors name the layer.
    fn run(&mut self, path: &str, layer: &DeviceLayer, inputs: &[MaskedValue]) -> Result<LayerResults> {
        layer.run(self, inputs).map_err(|error| error.at_node(self.file.0, format!("layer {path}")))
    }
}

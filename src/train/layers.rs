//! Trainable modules. Each holds the ids of its parameters, whose names, shapes and initial distributions are PyTorch's.

use super::graph::{Graph, RecurrentOutput, StartState, Var};
use super::parameters::{ParameterId, Parameters};
use crate::cell::{Cell, Sequence};
use crate::error::Result;
use crate::nn::{Config, DeviceSequence, State, TrainableRecurrent, TrainingOptions};
use crate::ops::Conv1dGeometry;
use crate::tensor::Device;
use crate::weights::torch_name;

/// A trainable linear map, `y = x W^T + b` (`torch.nn.Linear`).
///
/// # Examples
/// ```
/// use gatewise::train::{Graph, LinearModule, Mode, Parameters};
/// use gatewise::{Device, Tensor};
/// let mut parameters = Parameters::new(&Device::Cpu, 7);
/// let head = LinearModule::new(&mut parameters, "head.", [3, 2])?;
/// let mut graph = Graph::new(&parameters, Mode::Evaluation);
/// let x = graph.input(&Tensor::zeros(&Device::Cpu, &[5, 3])?);
/// let y = head.forward(&mut graph, x)?;
/// assert_eq!(graph.value(y)?.shape(), [5, 2]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LinearModule {
    /// The weight, `[out, in]`.
    pub weight: ParameterId,
    /// The bias, `[out]`.
    pub bias: Option<ParameterId>,
}

impl LinearModule {
    /// Adds the parameters `{prefix}weight` and `{prefix}bias`, uniform in `[-1/sqrt(in), 1/sqrt(in))`.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn new(parameters: &mut Parameters, prefix: &str, [inputs, outputs]: [usize; 2]) -> Result<Self> {
        let Self { weight, .. } = Self::without_bias(parameters, prefix, [inputs, outputs])?;
        let bias = parameters.uniform(&format!("{prefix}bias"), &[outputs], bound(inputs))?;
        Ok(Self { weight, bias: Some(bias) })
    }

    /// Adds the parameter `{prefix}weight` as [`LinearModule::new`] does, but no bias.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn without_bias(parameters: &mut Parameters, prefix: &str, [inputs, outputs]: [usize; 2]) -> Result<Self> {
        let weight = parameters.uniform(&format!("{prefix}weight"), &[outputs, inputs], bound(inputs))?;
        Ok(Self { weight, bias: None })
    }

    /// Applies the map.
    ///
    /// # Shapes
    /// As [`Graph::linear`].
    ///
    /// # Errors
    /// As [`Graph::linear`].
    pub fn forward(&self, graph: &mut Graph, x: Var) -> Result<Var> {
        let weight = graph.parameter(self.weight)?;
        let bias = self.bias.map(|bias| graph.parameter(bias)).transpose()?;
        graph.linear(x, weight, bias)
    }
}

/// PyTorch's bound of the initial weights of a unit that reads `inputs` values.
fn bound(inputs: usize) -> f32 {
    1.0 / (inputs.max(1) as f32).sqrt()
}

/// A trainable table with one vector per symbol (`torch.nn.Embedding`).
///
/// # Examples
/// ```
/// use gatewise::train::{EmbeddingModule, Graph, Mode, Parameters};
/// use gatewise::Device;
/// let mut parameters = Parameters::new(&Device::Cpu, 7);
/// let embedding = EmbeddingModule::new(&mut parameters, "embedding.", [10, 4])?;
/// let mut graph = Graph::new(&parameters, Mode::Evaluation);
/// let vectors = embedding.forward(&mut graph, &[1, 9, 1])?;
/// assert_eq!(graph.value(vectors)?.shape(), [3, 4]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EmbeddingModule {
    /// The table, `[symbols, width]`.
    pub weight: ParameterId,
}

impl EmbeddingModule {
    /// Adds the parameter `{prefix}weight`, normally distributed with mean 0 and standard deviation 1.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn new(parameters: &mut Parameters, prefix: &str, [symbols, width]: [usize; 2]) -> Result<Self> {
        Ok(Self { weight: parameters.normal(&format!("{prefix}weight"), &[symbols, width], 1.0)? })
    }

    /// The vectors of the symbols.
    ///
    /// # Shapes
    /// Returns `[symbols.len(), width]`.
    ///
    /// # Errors
    /// As [`Graph::embedding`].
    pub fn forward(&self, graph: &mut Graph, symbols: &[usize]) -> Result<Var> {
        let table = graph.parameter(self.weight)?;
        graph.embedding(table, symbols)
    }
}

/// A trainable one-dimensional convolution (`torch.nn.Conv1d` without groups or dilation).
///
/// # Examples
/// ```
/// use gatewise::train::{Conv1dModule, Graph, Mode, Parameters};
/// use gatewise::{Device, Tensor, ops::Conv1dGeometry};
/// let mut parameters = Parameters::new(&Device::Cpu, 7);
/// let geometry = Conv1dGeometry { stride: 2, padding: 1 };
/// let conv = Conv1dModule::new(&mut parameters, "conv.", [8, 4, 3], geometry)?; // [O, C, K]
/// let mut graph = Graph::new(&parameters, Mode::Evaluation);
/// let x = graph.input(&Tensor::zeros(&Device::Cpu, &[2, 4, 10])?); // [N, C, L]
/// let y = conv.forward(&mut graph, x)?;
/// assert_eq!(graph.value(y)?.shape(), [2, 8, 5]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Conv1dModule {
    /// The kernels, `[O, C, K]`.
    pub weight: ParameterId,
    /// The bias, `[O]`.
    pub bias: ParameterId,
    /// Stride and padding.
    pub geometry: Conv1dGeometry,
}

impl Conv1dModule {
    /// Adds the parameters `{prefix}weight` and `{prefix}bias`, uniform in `[-1/sqrt(C K), 1/sqrt(C K))`; `shape` is `[O, C, K]`.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn new(parameters: &mut Parameters, prefix: &str, shape: [usize; 3], geometry: Conv1dGeometry) -> Result<Self> {
        let bound = bound(shape[1] * shape[2]);
        let weight = parameters.uniform(&format!("{prefix}weight"), &shape, bound)?;
        let bias = parameters.uniform(&format!("{prefix}bias"), &shape[..1], bound)?;
        Ok(Self { weight, bias, geometry })
    }

    /// Applies the convolution.
    ///
    /// # Shapes
    /// As [`Graph::conv1d`].
    ///
    /// # Errors
    /// As [`Graph::conv1d`].
    pub fn forward(&self, graph: &mut Graph, x: Var) -> Result<Var> {
        let (weight, bias) = (graph.parameter(self.weight)?, graph.parameter(self.bias)?);
        graph.conv1d(x, weight, bias, self.geometry)
    }
}

/// A trainable recurrent stack, with any cell, number of layers and directions (`torch.nn.RNN`, `LSTM`, `GRU`).
///
/// # Examples
/// See [`train`](crate::train).
#[derive(Clone, Debug)]
pub struct RecurrentModule {
    config: Config<Cell>,
    /// The parameters in the order of [`TrainableRecurrent::tensors`].
    ids: Vec<ParameterId>,
}

impl RecurrentModule {
    /// Adds PyTorch's parameters `{prefix}weight_ih_l0` and so on, uniform in `[-1/sqrt(hidden), 1/sqrt(hidden))`.
    ///
    /// # Errors
    /// As [`Config::build`] and [`Parameters::add`].
    pub fn new<C: Clone + Into<Cell>>(parameters: &mut Parameters, prefix: &str, config: &Config<C>) -> Result<Self> {
        let config = config.untyped();
        let values = config.random_parameters(parameters.draw_seed())?;
        let arrays = values.iter().flatten().flat_map(|p| p.named());
        let places = config.parameter_places();
        let ids = places.iter().zip(arrays).map(|(place, (_, array))| {
            parameters.add(&format!("{prefix}{}", torch_name(place.name, place.layer, place.direction)), &array)
        });
        Ok(Self { ids: ids.collect::<Result<_>>()?, config })
    }

    /// The configuration of the stack.
    pub fn config(&self) -> &Config<Cell> {
        &self.config
    }

    /// The stack's parameters, in the order of [`TrainableRecurrent::tensors`].
    pub fn ids(&self) -> &[ParameterId] {
        &self.ids
    }

    /// A state of zeros for `batch` rows.
    ///
    /// # Errors
    /// As [`TrainableRecurrent::zero_state`].
    pub fn zero_state(&self, device: &Device, batch: usize) -> Result<State> {
        self.config.zero_state(device, batch)
    }

    /// The stack without a graph, with the current values of its parameters.
    ///
    /// # Errors
    /// As [`Parameters::get`].
    pub fn stack(&self, parameters: &Parameters) -> Result<TrainableRecurrent<Cell>> {
        let tensors = self.ids.iter().map(|&id| parameters.get(id).cloned()).collect::<Result<Vec<_>>>()?;
        self.config.trainable_from(parameters.device(), tensors)
    }

    /// The stack on the graph's values of its parameters, and these values.
    fn in_graph(&self, graph: &mut Graph) -> Result<(TrainableRecurrent<Cell>, Vec<Var>)> {
        let vars = self.ids.iter().map(|&id| graph.parameter(id)).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<_> = vars.iter().map(|&var| graph.value(var).cloned()).collect::<Result<_>>()?;
        Ok((self.config.trainable_from(graph.device(), tensors)?, vars))
    }

    /// Runs the stack over a sequence, from the given state or from zeros. A given state advances. No gradient flows into it.
    ///
    /// On a host device the state advances at once, on a GPU with the submission, even if the training step fails afterwards. A
    /// [`CarriedState`](super::CarriedState) instead advances only when the caller calls its `advance`.
    ///
    /// In [`Mode::Training`](super::Mode::Training) the noise of the options is drawn from the graph's seed and step. In
    /// [`Mode::Evaluation`](super::Mode::Evaluation) there is no noise.
    ///
    /// # Shapes
    /// `x [T, B, input]`; returns `[T, B, output_size]`.
    ///
    /// # Errors
    /// As [`TrainableRecurrent::record_training`].
    pub fn forward<'a>(
        &self,
        graph: &mut Graph,
        x: Var,
        state: Option<&mut State>,
        sequence: impl Into<DeviceSequence<'a>>,
        options: &TrainingOptions,
    ) -> Result<Var> {
        let sequence = sequence.into();
        let (stack, vars) = self.in_graph(graph)?;
        match state {
            Some(state) => graph.recurrent(&stack, &vars, x, state, sequence, options),
            None => {
                let batch = graph.value(x)?.shape().get(1).copied().unwrap_or_default();
                let mut state = stack.zero_state(batch)?;
                graph.recurrent(&stack, &vars, x, &mut state, sequence, options)
            }
        }
    }

    /// Runs the stack from a state that gradients flow into. The final state is a value of the graph, too.
    ///
    /// # Shapes
    /// As [`RecurrentModule::forward`]; `h [layers directions, B, O]`; for an LSTM `s [layers directions, B, hidden]`.
    ///
    /// # Errors
    /// As [`RecurrentModule::forward`].
    pub fn forward_from<'a>(
        &self,
        graph: &mut Graph,
        x: Var,
        (h, s): (Var, Option<Var>),
        sequence: impl Into<DeviceSequence<'a>>,
        options: &TrainingOptions,
    ) -> Result<RecurrentOutput> {
        let (stack, vars) = self.in_graph(graph)?;
        graph.recurrent_from(&stack, &vars, x, StartState { h, s, begun: None }, sequence.into(), options)
    }

    /// Runs the stack as [`RecurrentModule::forward_from`] does: from the values `at`, or from the values of `state` if `at` is
    /// `None`. Resets return to the initial value of `state`.
    pub(super) fn forward_within(
        &self,
        graph: &mut Graph,
        x: Var,
        state: &State,
        at: Option<(Var, Option<Var>)>,
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<RecurrentOutput> {
        let (stack, vars) = self.in_graph(graph)?;
        let (h, s) = match at {
            Some(at) => at,
            None => {
                let h = state.h_tensor(graph.recorder())?;
                let s = state.s_tensor(graph.recorder())?;
                (graph.input(&h), s.map(|s| graph.input(&s)))
            }
        };
        graph.recurrent_from(&stack, &vars, x, StartState { h, s, begun: Some(state) }, sequence.into(), options)
    }
}

//! Layers whose parameters learn. Each holds the ids of its parameters; names, shapes and initial values are PyTorch's.

use super::graph::{Graph, Start, Stepped, Var};
use super::parameters::{ParameterId, Parameters};
use crate::cell::{Cell, Sequence};
use crate::error::Result;
use crate::nn::{Config, State, TrainableRecurrent, TrainingOptions};
use crate::ops::Conv1dGeometry;
use crate::tensor::Device;
use crate::weights::torch_name;

/// `y = x W^T + b` (`torch.nn.Linear`).
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: ParameterId,
    /// `[out]`
    pub bias: Option<ParameterId>,
}

impl Linear {
    /// Adds `{prefix}weight` and `{prefix}bias`, uniform in `[-1/sqrt(in), 1/sqrt(in))`.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn new(parameters: &mut Parameters, prefix: &str, [inputs, outputs]: [usize; 2]) -> Result<Self> {
        let Self { weight, .. } = Self::without_bias(parameters, prefix, [inputs, outputs])?;
        let bias = parameters.uniform(&format!("{prefix}bias"), &[outputs], bound(inputs))?;
        Ok(Self { weight, bias: Some(bias) })
    }

    /// [`Linear::new`] without bias.
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

/// PyTorch's bound of the initial weights of a unit with `inputs`.
fn bound(inputs: usize) -> f32 {
    1.0 / (inputs.max(1) as f32).sqrt()
}

/// A vector for every symbol (`torch.nn.Embedding`).
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    /// `[symbols, width]`
    pub weight: ParameterId,
}

impl Embedding {
    /// Adds `{prefix}weight`, normal with deviation 1.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn new(parameters: &mut Parameters, prefix: &str, [symbols, width]: [usize; 2]) -> Result<Self> {
        Ok(Self { weight: parameters.normal(&format!("{prefix}weight"), &[symbols, width], 1.0)? })
    }

    /// The symbols' vectors.
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

/// One-dimensional convolution (`torch.nn.Conv1d` without groups or dilation).
#[derive(Clone, Copy, Debug)]
pub struct Conv1d {
    /// `[O, C, K]`
    pub weight: ParameterId,
    /// `[O]`
    pub bias: ParameterId,
    /// Stride and padding.
    pub geometry: Conv1dGeometry,
}

impl Conv1d {
    /// Adds `{prefix}weight` and `{prefix}bias`, uniform in `[-1/sqrt(C K), 1/sqrt(C K))`; `shape` is `[O, C, K]`.
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

/// A recurrent stack: any cell, layers, directions.
#[derive(Clone, Debug)]
pub struct Recurrent {
    config: Config<Cell>,
    /// In the order of [`TrainableRecurrent::tensors`].
    ids: Vec<ParameterId>,
}

impl Recurrent {
    /// Adds PyTorch's `{prefix}weight_ih_l0` and so on, uniform in `[-1/sqrt(hidden), 1/sqrt(hidden))`.
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

    /// What the stack is made of.
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

    /// The stack on its own, with its parameters as they are now.
    ///
    /// # Errors
    /// As [`Parameters::get`].
    pub fn stack(&self, parameters: &Parameters) -> Result<TrainableRecurrent<Cell>> {
        let tensors = self.ids.iter().map(|&id| parameters.get(id).cloned()).collect::<Result<Vec<_>>>()?;
        self.config.trainable_from(parameters.device(), tensors)
    }

    fn in_graph(&self, graph: &mut Graph) -> Result<(TrainableRecurrent<Cell>, Vec<Var>)> {
        let vars = self.ids.iter().map(|&id| graph.parameter(id)).collect::<Result<Vec<_>>>()?;
        let tensors: Vec<_> = vars.iter().map(|&var| graph.value(var).cloned()).collect::<Result<_>>()?;
        Ok((self.config.trainable_from(graph.device(), tensors)?, vars))
    }

    /// Runs the stack over a sequence from a state, which it advances, or from zeros. No gradient flows into the state.
    ///
    /// The state advances at once on a host device and with the submission on a GPU, even if the step that reads it fails
    /// afterwards. [`Carry`](super::Carry) moves on only when the caller says that the step has been made.
    ///
    /// The options' noise is drawn from the graph's seed and step, in [`Mode::Training`](super::Mode::Training) only.
    ///
    /// # Shapes
    /// `x [T, B, input]`; returns `[T, B, output_size]`.
    ///
    /// # Errors
    /// As [`TrainableRecurrent::record_training`].
    pub fn forward(
        &self,
        graph: &mut Graph,
        x: Var,
        state: Option<&mut State>,
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<Var> {
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

    /// Runs the stack from a state that gradients flow into; the state it leaves is a value, too.
    ///
    /// # Shapes
    /// As [`Recurrent::forward`]; `h [layers directions, B, O]`, `s [layers directions, B, hidden]`, present exactly for an LSTM.
    ///
    /// # Errors
    /// As [`Recurrent::forward`].
    pub fn forward_from(
        &self,
        graph: &mut Graph,
        x: Var,
        (h, s): (Var, Option<Var>),
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<Stepped> {
        let (stack, vars) = self.in_graph(graph)?;
        graph.recurrent_from(&stack, &vars, x, Start { h, s, begun: None }, sequence, options)
    }

    /// [`Recurrent::forward_from`] the values of a state or from others, where resets return to what the state began with.
    pub(super) fn forward_within(
        &self,
        graph: &mut Graph,
        x: Var,
        state: &State,
        at: Option<(Var, Option<Var>)>,
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<Stepped> {
        let (stack, vars) = self.in_graph(graph)?;
        let (h, s) = match at {
            Some(at) => at,
            None => {
                let h = state.h_tensor(graph.recorder())?;
                let s = state.s_tensor(graph.recorder())?;
                (graph.input(&h), s.map(|s| graph.input(&s)))
            }
        };
        graph.recurrent_from(&stack, &vars, x, Start { h, s, begun: Some(state) }, sequence, options)
    }
}

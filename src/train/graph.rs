//! A recorded forward pass and its gradients: reverse-mode differentiation over whole layers.

mod loss;
mod operations;
mod sequence;

pub use loss::{CrossEntropyOptions, LossOptions, Reduce};
pub use sequence::RecurrentOutput;
pub(super) use sequence::StartState;

use std::sync::atomic::{AtomicU64, Ordering};

use super::parameters::{ParameterId, Parameters};
use crate::error::{Error, Result, check_shape};
use crate::ops::{self, Binary, Recorder};
use crate::tensor::{Device, ReadBack, Tensor};

const OP: &str = "Graph";

/// A value of one [`Graph`]. Other graphs refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var {
    graph: u64,
    at: usize,
}

/// Whether a graph trains or evaluates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Dropout and zoneout are the identity.
    #[default]
    Evaluation,
    /// Dropout, recurrent dropout and zoneout draw their masks from a seed and a step. The same pair gives the same masks on
    /// every device.
    Training {
        /// The seed of the training; other seeds give other masks.
        seed: u64,
        /// The step of the training; other steps give other masks.
        step: u32,
    },
}

/// A value of a graph.
struct Value {
    tensor: Tensor,
    /// Whether some parameter or variable needs the gradient with respect to this value.
    wanted: bool,
}

/// Computes the gradients with respect to an operation's inputs from the gradients with respect to its outputs. The flags say
/// which inputs need a gradient.
type Backward = Box<dyn FnOnce(&mut Recorder, &[Option<Tensor>], &[bool]) -> Result<Vec<Option<Tensor>>>>;

/// An operation that [`Graph::backward`] differentiates.
struct Operation {
    inputs: Vec<Var>,
    outputs: Vec<Var>,
    backward: Backward,
}

/// Records operations on a device, and their gradients. On a GPU nothing runs before [`Graph::submit`], which hands over
/// everything in one submission.
///
/// # Examples
/// ```
/// use gatewise::train::{Graph, LinearModule, LossOptions, Mode, Parameters};
/// use gatewise::{Device, Tensor};
/// use ndarray::array;
///
/// let device = Device::Cpu;
/// let mut parameters = Parameters::new(&device, 7);
/// let weight = parameters.add("weight", &array![[2.0_f32, 3.0]])?;
/// let mut graph = Graph::new(&parameters, Mode::Evaluation);
/// let x = graph.input(&Tensor::from_array(&device, &array![[1.0, 10.0]])?);
/// let w = graph.parameter(weight)?;
/// let y = graph.linear(x, w, None)?; // [[32]]
/// let target = Tensor::from_array(&device, &array![[30.0]])?;
/// let loss = graph.mean_squared_error(y, &target, &LossOptions::default())?;
/// let gradients = graph.backward(loss)?;
/// graph.submit()?;
/// let dw = gradients.parameter(weight).expect("the loss depends on it");
/// assert_eq!(dw.to_vec()?, [2.0 * 2.0 * 1.0, 2.0 * 2.0 * 10.0]);
/// # Ok::<(), gatewise::Error>(())
/// ```
pub struct Graph {
    /// Distinguishes the values of this graph from those of other graphs.
    number: u64,
    recorder: Recorder,
    mode: Mode,
    ids: Vec<ParameterId>,
    parameters: Vec<Tensor>,
    /// Per parameter: its value in this graph, if it was asked for.
    leaves: Vec<Option<Var>>,
    values: Vec<Value>,
    operations: Vec<Operation>,
    /// The number of operations so far that draw masks.
    draws: usize,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("values", &self.values.len()).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Graph {
    /// An empty graph over the current values of the parameters.
    pub fn new(parameters: &Parameters, mode: Mode) -> Self {
        static GRAPHS: AtomicU64 = AtomicU64::new(0);
        Self {
            number: GRAPHS.fetch_add(1, Ordering::Relaxed),
            recorder: parameters.device().recorder(),
            mode,
            ids: parameters.ids().to_vec(),
            parameters: parameters.tensors().to_vec(),
            leaves: vec![None; parameters.len()],
            values: Vec::new(),
            operations: Vec::new(),
            draws: 0,
        }
    }

    /// The device that the graph records for.
    pub fn device(&self) -> &Device {
        self.recorder.device()
    }

    /// Whether the graph trains or evaluates.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The recorder, for operations that need no gradient.
    pub fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// Adds a value that no gradient flows into.
    pub fn input(&mut self, tensor: &Tensor) -> Var {
        self.push(tensor.clone(), false)
    }

    /// Adds a value whose gradient [`Gradients::var`] returns.
    pub fn variable(&mut self, tensor: &Tensor) -> Var {
        self.push(tensor.clone(), true)
    }

    /// The value of a parameter. Several calls return the same value, which collects the gradients of all its uses.
    ///
    /// # Errors
    /// [`Error::Value`] for an id that belongs to other [`Parameters`].
    pub fn parameter(&mut self, id: ParameterId) -> Result<Var> {
        let (expected, found) = ("one of the graph's parameters", "one of other parameters".to_owned());
        let at = id.index_in(&self.ids).ok_or(Error::Value { op: OP, what: "id", expected, found })?;
        if let Some(var) = self.leaves[at] {
            return Ok(var);
        }
        let var = self.push(self.parameters[at].clone(), true);
        self.leaves[at] = Some(var);
        Ok(var)
    }

    /// The tensor of a value. On a GPU its elements are valid once the graph is submitted.
    ///
    /// # Errors
    /// [`Error::Value`] for a value of another graph. Every operation on a value returns this error too.
    pub fn value(&self, var: Var) -> Result<&Tensor> {
        let own = if var.graph == self.number { self.values.get(var.at) } else { None };
        own.map(|value| &value.tensor).ok_or_else(|| {
            let (expected, found) = ("a value of this graph", "one of another graph".to_owned());
            Error::Value { op: OP, what: "var", expected, found }
        })
    }

    fn shape(&self, var: Var) -> Result<&[usize]> {
        self.value(var).map(Tensor::shape)
    }

    fn push(&mut self, tensor: Tensor, wanted: bool) -> Var {
        self.values.push(Value { tensor, wanted });
        Var { graph: self.number, at: self.values.len() - 1 }
    }

    /// Adds the results of an operation and its backward function. The inputs belong to this graph, because the caller has read
    /// their values.
    fn operation<const N: usize>(
        &mut self,
        inputs: &[Var],
        outputs: [Tensor; N],
        backward: impl FnOnce(&mut Recorder, &[Option<Tensor>], &[bool]) -> Result<Vec<Option<Tensor>>> + 'static,
    ) -> [Var; N] {
        let wanted = inputs.iter().any(|input| self.values[input.at].wanted);
        let outputs = outputs.map(|output| self.push(output, wanted));
        if wanted {
            let backward = Box::new(backward);
            self.operations.push(Operation { inputs: inputs.to_vec(), outputs: outputs.to_vec(), backward });
        }
        outputs
    }

    /// Adds an operation with one input and one output (see [`Graph::operation`]).
    fn unary(
        &mut self,
        x: Var,
        y: Tensor,
        backward: impl FnOnce(&mut Recorder, &Tensor) -> Result<Tensor> + 'static,
    ) -> Var {
        let [y] = self.operation(&[x], [y], |recorder, dy, _| match &dy[0] {
            Some(dy) => Ok(vec![Some(backward(recorder, dy)?)]),
            None => Ok(vec![None]),
        });
        y
    }

    /// Returns the gradients of a loss with respect to every parameter and variable that it depends on.
    ///
    /// The pass consumes the graph's operations, so a graph has one backward pass.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the loss is a scalar of shape `[]`; [`Error::Value`] if it depends on no parameter and no variable.
    pub fn backward(&mut self, loss: Var) -> Result<Gradients> {
        check_shape(OP, "loss", &[], self.shape(loss)?)?;
        if !self.values[loss.at].wanted {
            let (what, found) = ("loss", "one that depends on inputs only".to_owned());
            return Err(Error::Value { op: OP, what, expected: "a value that depends on a parameter", found });
        }
        let mut by_value: Vec<Option<Tensor>> = self.values.iter().map(|_| None).collect();
        by_value[loss.at] = Some(Tensor::from_vec(self.recorder.device(), &[], vec![1.0])?);
        for Operation { inputs, outputs, backward } in std::mem::take(&mut self.operations).into_iter().rev() {
            let d_outputs: Vec<Option<Tensor>> = outputs.iter().map(|output| by_value[output.at].clone()).collect();
            if d_outputs.iter().all(Option::is_none) {
                continue;
            }
            let wanted: Vec<bool> = inputs.iter().map(|input| self.values[input.at].wanted).collect();
            let d_inputs = backward(&mut self.recorder, &d_outputs, &wanted)?;
            for (input, d) in inputs.iter().zip(d_inputs).filter(|(input, _)| self.values[input.at].wanted) {
                let Some(d) = d else { continue };
                let sum = match by_value[input.at].take() {
                    Some(before) => ops::binary(&mut self.recorder, Binary::Add, &before, &d)?,
                    None => d,
                };
                by_value[input.at] = Some(sum);
            }
        }
        Ok(Gradients { graph: self.number, ids: self.ids.clone(), leaves: self.leaves.clone(), by_value })
    }

    /// Hands all recorded operations to the device in one submission.
    ///
    /// # Errors
    /// As [`Recorder::submit`].
    pub fn submit(self) -> Result<()> {
        self.recorder.submit()
    }

    /// Hands all recorded operations to the device, and a copy of `tensor` to the host, in one submission.
    ///
    /// # Errors
    /// As [`Recorder::submit_and_read`].
    pub fn submit_and_read(self, tensor: &Tensor) -> Result<ReadBack> {
        self.recorder.submit_and_read(tensor)
    }
}

/// The gradients of a loss.
#[derive(Clone, Debug)]
pub struct Gradients {
    graph: u64,
    ids: Vec<ParameterId>,
    leaves: Vec<Option<Var>>,
    by_value: Vec<Option<Tensor>>,
}

impl Gradients {
    /// The gradient with respect to a parameter; `None` if the loss does not depend on it, or if it belongs to other
    /// [`Parameters`].
    pub fn parameter(&self, id: ParameterId) -> Option<&Tensor> {
        let leaf = self.leaves[id.index_in(&self.ids)?]?;
        self.var(leaf)
    }

    /// The gradients with respect to all parameters that the loss depends on.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (ParameterId, &Tensor)> {
        self.ids.iter().filter_map(|&id| Some((id, self.parameter(id)?)))
    }

    /// The gradient with respect to a value of the graph; `None` if the loss does not depend on it, or if it belongs to another
    /// graph.
    pub fn var(&self, var: Var) -> Option<&Tensor> {
        let own = if var.graph == self.graph { self.by_value.get(var.at) } else { None };
        own.and_then(Option::as_ref)
    }
}

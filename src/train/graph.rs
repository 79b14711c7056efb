//! A forward pass that can be walked backwards: reverse-mode differentiation over whole layers.

mod loss;
mod operations;
mod sequence;

pub use loss::{CrossEntropy, Loss, Reduce};
pub(super) use sequence::Start;
pub use sequence::Stepped;

use std::sync::atomic::{AtomicU64, Ordering};

use super::parameters::{ParameterId, Parameters};
use crate::error::{Error, Result, check_shape};
use crate::ops::{self, Binary, Recorder};
use crate::tensor::{Device, ReadBack, Tensor};

const OP: &str = "Graph";

/// A value in a [`Graph`], and in no other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var {
    graph: u64,
    at: usize,
}

/// What a graph is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is dropped.
    #[default]
    Evaluation,
    /// Dropout, recurrent dropout and zoneout draw their masks from a seed and a step: the same pair gives the same masks on
    /// every device.
    Training {
        /// Tells runs apart.
        seed: u64,
        /// Tells steps apart.
        step: u32,
    },
}

struct Value {
    tensor: Tensor,
    /// Whether a gradient by it is of use.
    wanted: bool,
}

/// Gradients by the inputs of an operation, from those by its outputs; of the inputs only those wanted.
type Backward = Box<dyn FnOnce(&mut Recorder, &[Option<Tensor>], &[bool]) -> Result<Vec<Option<Tensor>>>>;

struct Operation {
    inputs: Vec<Var>,
    outputs: Vec<Var>,
    backward: Backward,
}

/// Records operations on a device, and their gradients. On a GPU nothing runs before [`Graph::submit`]; then all of it is one
/// submission.
///
/// # Examples
/// ```
/// use gatewise::train::{Graph, Linear, Loss, Mode, Parameters};
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
/// let loss = graph.mean_squared_error(y, &target, &Loss::default())?;
/// let gradients = graph.backward(loss)?;
/// graph.submit()?;
/// let dw = gradients.parameter(weight).expect("the loss depends on it");
/// assert_eq!(dw.to_vec()?, [2.0 * 2.0 * 1.0, 2.0 * 2.0 * 10.0]);
/// # Ok::<(), gatewise::Error>(())
/// ```
pub struct Graph {
    /// Tells its values from those of other graphs.
    number: u64,
    recorder: Recorder,
    mode: Mode,
    ids: Vec<ParameterId>,
    parameters: Vec<Tensor>,
    /// The leaf of every parameter that was asked for.
    leaves: Vec<Option<Var>>,
    values: Vec<Value>,
    operations: Vec<Operation>,
    /// Masks drawn so far.
    draws: usize,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("values", &self.values.len()).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Graph {
    /// An empty graph over the parameters as they are now.
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

    /// The device it records for.
    pub fn device(&self) -> &Device {
        self.recorder.device()
    }

    /// What it is for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The recorder, for operations that need no gradient.
    pub fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    /// A value that is given; no gradient flows into it.
    pub fn input(&mut self, tensor: &Tensor) -> Var {
        self.push(tensor.clone(), false)
    }

    /// A value that is given and whose gradient [`Gradients::var`] returns.
    pub fn variable(&mut self, tensor: &Tensor) -> Var {
        self.push(tensor.clone(), true)
    }

    /// A parameter. Asked for twice it is the same value, which collects the gradients of all its uses.
    ///
    /// # Errors
    /// [`Error::Value`] for an id of other parameters than the graph's.
    pub fn parameter(&mut self, id: ParameterId) -> Result<Var> {
        let (expected, found) = ("one of the graph's parameters", "one of other parameters".to_owned());
        let at = id.place_in(&self.ids).ok_or(Error::Value { op: OP, what: "id", expected, found })?;
        if let Some(var) = self.leaves[at] {
            return Ok(var);
        }
        let var = self.push(self.parameters[at].clone(), true);
        self.leaves[at] = Some(var);
        Ok(var)
    }

    /// A value's tensor. On a GPU it holds something once the graph is submitted.
    ///
    /// # Errors
    /// [`Error::Value`] for a value of another graph, as from every operation that takes one.
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

    /// Adds an operation's results and how to walk back through it. The inputs are this graph's own: their values have been read.
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

    /// [`Graph::operation`] of one input and one output.
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

    /// Walks back from a loss and returns the gradients by every parameter and variable that it depends on. The graph's
    /// operations are used up: a graph has one backward pass.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the loss is a scalar, shape `[]`; [`Error::Value`] where it depends on no parameter and no variable.
    pub fn backward(&mut self, loss: Var) -> Result<Gradients> {
        check_shape(OP, "loss", &[], self.shape(loss)?)?;
        if !self.values[loss.at].wanted {
            let (what, found) = ("loss", "one of inputs only".to_owned());
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

    /// Hands everything recorded to the device in one submission.
    ///
    /// # Errors
    /// As [`Recorder::submit`].
    pub fn submit(self) -> Result<()> {
        self.recorder.submit()
    }

    /// [`Graph::submit`], with a copy of `tensor` to the host in the same submission.
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
    /// By a parameter; `None` where the loss does not depend on it, as on none of other parameters than the graph's.
    pub fn parameter(&self, id: ParameterId) -> Option<&Tensor> {
        let leaf = self.leaves[id.place_in(&self.ids)?]?;
        self.var(leaf)
    }

    /// All by parameters.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (ParameterId, &Tensor)> {
        self.ids.iter().filter_map(|&id| Some((id, self.parameter(id)?)))
    }

    /// By any value of the graph on the loss's way; `None` where the loss does not depend on it, as on no value of another graph.
    pub fn var(&self, var: Var) -> Option<&Tensor> {
        let own = if var.graph == self.graph { self.by_value.get(var.at) } else { None };
        own.and_then(Option::as_ref)
    }
}

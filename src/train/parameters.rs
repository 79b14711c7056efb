//! What learns: tensors by name.

use std::sync::atomic::{AtomicU64, Ordering};

use ndarray::{ArrayBase, Data, Dimension, IxDyn};

use crate::error::{Error, Result, check_shape};
use crate::memory;
use crate::tensor::{Device, Tensor};
use crate::weights::Weights;

const OP: &str = "Parameters";

/// Names a parameter of one [`Parameters`] and of its clones, and of no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId {
    /// Which of the parameters it is.
    pub(super) at: usize,
    /// No other parameter of the process has it.
    number: u64,
}

impl ParameterId {
    fn new(at: usize) -> Self {
        static ADDED: AtomicU64 = AtomicU64::new(0);
        Self { at, number: ADDED.fetch_add(1, Ordering::Relaxed) }
    }

    /// Where it stands among `ids`, if it is one of them.
    pub(super) fn place_in(self, ids: &[Self]) -> Option<usize> {
        (ids.get(self.at) == Some(&self)).then_some(self.at)
    }
}

/// All parameters of a model on a device, by PyTorch's names. Layers hold the ids of theirs; an optimiser puts other tensors
/// in their places.
///
/// # Examples
/// ```
/// use gatewise::{Device, train::{Linear, Parameters}};
/// let mut parameters = Parameters::new(&Device::Cpu, 7);
/// let head = Linear::new(&mut parameters, "head.", [8, 2])?;
/// let names: Vec<&str> = parameters.named().map(|(name, _)| name).collect();
/// assert_eq!(names, ["head.weight", "head.bias"]);
/// # let _ = head;
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Parameters {
    device: Device,
    rng: fastrand::Rng,
    ids: Vec<ParameterId>,
    names: Vec<String>,
    tensors: Vec<Tensor>,
}

impl Parameters {
    /// No parameters yet; initial values are drawn from the seed.
    pub fn new(device: &Device, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { device: device.clone(), rng, ids: Vec::new(), names: Vec::new(), tensors: Vec::new() }
    }

    /// The device they live on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds a parameter of the given value.
    ///
    /// # Errors
    /// [`Error::Value`] for a name that is there already; [`Error::Limit`] where it does not fit the device.
    pub fn add<S, D>(&mut self, name: &str, array: &ArrayBase<S, D>) -> Result<ParameterId>
    where
        S: Data<Elem = f32>,
        D: Dimension,
    {
        self.push(name, Tensor::from_array(&self.device, array)?)
    }

    /// Adds a parameter of numbers drawn from `[-bound, bound)`.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) -> Result<ParameterId> {
        let len = crate::error::elements(OP, "shape", shape)?;
        let data = memory::collected(OP, len, std::iter::repeat_with(|| bound * (2.0 * self.rng.f32() - 1.0)))?;
        self.push(name, Tensor::from_vec(&self.device, shape, data)?)
    }

    /// Adds a parameter of numbers drawn from the normal distribution of mean 0 and deviation `scale`.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn normal(&mut self, name: &str, shape: &[usize], scale: f32) -> Result<ParameterId> {
        let len = crate::error::elements(OP, "shape", shape)?;
        // Box & Muller (1958); 1 - u is never 0.
        let mut one = || (-2.0 * (1.0 - self.rng.f32()).ln()).sqrt() * (std::f32::consts::TAU * self.rng.f32()).cos();
        let data = memory::collected(OP, len, std::iter::repeat_with(|| scale * one()))?;
        self.push(name, Tensor::from_vec(&self.device, shape, data)?)
    }

    fn push(&mut self, name: &str, tensor: Tensor) -> Result<ParameterId> {
        if self.find(name).is_some() {
            let (expected, found) = ("a name that no parameter has", name.to_owned());
            return Err(Error::Value { op: OP, what: "name", expected, found });
        }
        let id = ParameterId::new(self.ids.len());
        self.ids.push(id);
        self.names.push(name.to_owned());
        self.tensors.push(tensor);
        Ok(id)
    }

    /// The seed of a further generator of initial values, drawn from this one.
    pub(super) fn draw_seed(&mut self) -> u64 {
        self.rng.u64(..)
    }

    /// How many parameters there are.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Elements of all parameters together.
    pub fn elements(&self) -> usize {
        self.tensors.iter().map(Tensor::len).sum()
    }

    /// Names and values, in the order they were added.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// The parameter of a name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.names.iter().position(|found| found == name).map(|at| self.ids[at])
    }

    /// A parameter's value.
    ///
    /// # Errors
    /// [`Error::Value`] for an id of other parameters.
    pub fn get(&self, id: ParameterId) -> Result<&Tensor> {
        Ok(&self.tensors[self.place(id)?])
    }

    /// A parameter's name.
    ///
    /// # Errors
    /// As [`Parameters::get`].
    pub fn name(&self, id: ParameterId) -> Result<&str> {
        Ok(&self.names[self.place(id)?])
    }

    fn place(&self, id: ParameterId) -> Result<usize> {
        let (expected, found) = ("one of these parameters", "one of other parameters".to_owned());
        id.place_in(&self.ids).ok_or(Error::Value { op: OP, what: "id", expected, found })
    }

    /// Puts another value in a parameter's place.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DeviceMismatch`] where it does not fit; as [`Parameters::get`].
    pub fn set(&mut self, id: ParameterId, tensor: Tensor) -> Result<()> {
        let at = self.place(id)?;
        check_shape(OP, "parameter", self.tensors[at].shape(), tensor.shape())?;
        tensor.check_device(OP, "parameter", &self.device)?;
        self.tensors[at] = tensor;
        Ok(())
    }

    /// All of them, in the order they were added.
    pub(super) fn ids(&self) -> &[ParameterId] {
        &self.ids
    }

    pub(super) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Takes every parameter's value from a file's tensor of its name.
    ///
    /// # Errors
    /// [`Error::Format`] for a tensor that is missing or has another shape, and for one that no parameter takes; then nothing
    /// is changed.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        let device = &self.device;
        let load = |(name, old): (&String, &Tensor)| Tensor::from_array(device, &weights.shaped(name, old.shape())?);
        let tensors = self.names.iter().zip(&self.tensors).map(load).collect::<Result<Vec<_>>>()?;
        if let Some(name) = weights.names().find(|name| self.find(name).is_none()) {
            return Err(weights.refuse(name, "a tensor that a parameter takes", "one more"));
        }
        self.tensors = tensors;
        Ok(())
    }

    /// Copies every parameter to the host, under its name: to be written to a file that PyTorch reads, too.
    ///
    /// # Errors
    /// What a read-back may meet.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, nn::Gru, train::{Parameters, Recurrent}};
    /// let mut parameters = Parameters::new(&Device::Cpu, 7);
    /// let config = Gru::config(3, 4);
    /// Recurrent::new(&mut parameters, "gru.", &config)?;
    /// let weights = parameters.weights()?; // weights.save("gru.safetensors")?
    /// let gru = weights.recurrent("gru.", &config, &Device::Cpu)?; // for inference
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn weights(&self) -> Result<Weights> {
        let mut weights = Weights::new();
        for (name, tensor) in self.named() {
            weights.insert(name, tensor.to_array::<IxDyn>()?)?;
        }
        Ok(weights)
    }
}

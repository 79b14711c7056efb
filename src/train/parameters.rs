//! The parameters of a model: tensors by name.

use std::sync::atomic::{AtomicU64, Ordering};

use ndarray::{ArrayBase, Data, Dimension, IxDyn};

use crate::error::{Error, Result, check_shape};
use crate::memory;
use crate::tensor::{Device, Tensor};
use crate::weights::Weights;

const OP: &str = "Parameters";

/// Identifies a parameter of one [`Parameters`] and of its clones. Other [`Parameters`] refuse it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParameterId {
    /// The index among the parameters.
    pub(super) at: usize,
    /// A number that no other parameter of the process has.
    number: u64,
}

impl ParameterId {
    fn new(at: usize) -> Self {
        static ADDED: AtomicU64 = AtomicU64::new(0);
        Self { at, number: ADDED.fetch_add(1, Ordering::Relaxed) }
    }

    /// The index among `ids`; `None` if it is not one of them.
    pub(super) fn index_in(self, ids: &[Self]) -> Option<usize> {
        (ids.get(self.at) == Some(&self)).then_some(self.at)
    }
}

/// All parameters of a model on a device, by PyTorch's names. A module holds the ids of its parameters; an optimiser replaces
/// their tensors.
///
/// # Examples
/// ```
/// use gatewise::{Device, train::{LinearModule, Parameters}};
/// let mut parameters = Parameters::new(&Device::Cpu, 7);
/// let head = LinearModule::new(&mut parameters, "head.", [8, 2])?;
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
    /// An empty list of parameters. The seed determines the initial values of the parameters that are added.
    pub fn new(device: &Device, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { device: device.clone(), rng, ids: Vec::new(), names: Vec::new(), tensors: Vec::new() }
    }

    /// The device that the parameters live on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Adds a parameter with the given value.
    ///
    /// # Errors
    /// [`Error::Value`] for a name that is taken; [`Error::Limit`] if the value does not fit the device.
    pub fn add<S, D>(&mut self, name: &str, array: &ArrayBase<S, D>) -> Result<ParameterId>
    where
        S: Data<Elem = f32>,
        D: Dimension,
    {
        self.push(name, Tensor::from_array(&self.device, array)?)
    }

    /// Adds a parameter of random numbers, uniform in `[-bound, bound)`.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn uniform(&mut self, name: &str, shape: &[usize], bound: f32) -> Result<ParameterId> {
        let len = crate::error::elements(OP, "shape", shape)?;
        let data = memory::collected(OP, len, std::iter::repeat_with(|| bound * (2.0 * self.rng.f32() - 1.0)))?;
        self.push(name, Tensor::from_vec(&self.device, shape, data)?)
    }

    /// Adds a parameter of random numbers, normally distributed with mean 0 and standard deviation `scale`.
    ///
    /// # Errors
    /// As [`Parameters::add`].
    pub fn normal(&mut self, name: &str, shape: &[usize], scale: f32) -> Result<ParameterId> {
        let len = crate::error::elements(OP, "shape", shape)?;
        let data = memory::collected(OP, len, std::iter::repeat_with(|| scale * normal(&mut self.rng)))?;
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

    /// Draws the seed of another generator of initial values.
    pub(super) fn draw_seed(&mut self) -> u64 {
        self.rng.u64(..)
    }

    /// The number of parameters.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The number of elements of all parameters together.
    pub fn elements(&self) -> usize {
        self.tensors.iter().map(Tensor::len).sum()
    }

    /// The names and values of all parameters, in the order in which they were added.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.tensors)
    }

    /// The id of the parameter with this name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.names.iter().position(|found| found == name).map(|at| self.ids[at])
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// [`Error::Value`] for an id that belongs to other parameters.
    pub fn get(&self, id: ParameterId) -> Result<&Tensor> {
        Ok(&self.tensors[self.index(id)?])
    }

    /// The name of a parameter.
    ///
    /// # Errors
    /// As [`Parameters::get`].
    pub fn name(&self, id: ParameterId) -> Result<&str> {
        Ok(&self.names[self.index(id)?])
    }

    fn index(&self, id: ParameterId) -> Result<usize> {
        let (expected, found) = ("one of these parameters", "one of other parameters".to_owned());
        id.index_in(&self.ids).ok_or(Error::Value { op: OP, what: "id", expected, found })
    }

    /// Replaces the value of a parameter.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::DeviceMismatch`] if the tensor does not fit; as [`Parameters::get`].
    pub fn set(&mut self, id: ParameterId, tensor: Tensor) -> Result<()> {
        let at = self.index(id)?;
        check_shape(OP, "parameter", self.tensors[at].shape(), tensor.shape())?;
        tensor.check_device(OP, "parameter", &self.device)?;
        self.tensors[at] = tensor;
        Ok(())
    }

    /// The ids of all parameters, in the order in which they were added.
    pub(super) fn ids(&self) -> &[ParameterId] {
        &self.ids
    }

    pub(super) fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Gives every parameter the value of the weight with its name.
    ///
    /// # Errors
    /// [`Error::Format`] if a weight is missing, has another shape, or has the name of no parameter. After an error nothing has
    /// changed.
    pub fn load(&mut self, weights: &Weights) -> Result<()> {
        let device = &self.device;
        let load = |(name, old): (&String, &Tensor)| Tensor::from_array(device, &weights.shaped(name, old.shape())?);
        let tensors = self.names.iter().zip(&self.tensors).map(load).collect::<Result<Vec<_>>>()?;
        if let Some(name) = weights.names().find(|name| self.find(name).is_none()) {
            return Err(weights.refuse(name, "only tensors with the name of a parameter", "another name"));
        }
        self.tensors = tensors;
        Ok(())
    }

    /// Copies every parameter to the host under its name. PyTorch can read the file that [`Weights::save`] then writes.
    ///
    /// # Errors
    /// As [`Tensor::to_array`].
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, nn::Gru, train::{Parameters, RecurrentModule}};
    /// let mut parameters = Parameters::new(&Device::Cpu, 7);
    /// let config = Gru::config(3, 4);
    /// RecurrentModule::new(&mut parameters, "gru.", &config)?;
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

unstable! {
    /// A random number of the normal distribution with mean 0 and standard deviation 1 (Box and Muller 1958).
    pub fn normal(rng: &mut fastrand::Rng) -> f32 {
        // 1 - u is never 0.
        (-2.0 * (1.0 - rng.f32()).ln()).sqrt() * (std::f32::consts::TAU * rng.f32()).cos()
    }
}

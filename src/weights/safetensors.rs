//! Reading weights with PyTorch's names, and building layers from them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ::safetensors::{Dtype, SafeTensorError, SafeTensors, tensor::TensorView};
use ndarray::{Array, Array3, ArrayD, Dimension, IntoDimension, IxDyn, s};

use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::files;
use crate::nn::{Config, Conv1d, Linear, Recurrent};
use crate::ops::Conv1dGeometry;
use crate::tensor::Device;
use crate::text::listed;
use crate::weights::configuration::StackNames;
use crate::weights::floats::{ByteOrder, FloatType};
use crate::weights::{FileName, NonFinite, StateDict, Stored, header};

/// Named arrays of a safetensors file or, with the feature `torch`, of a PyTorch checkpoint (`.pt`, `.pth`, `.ckpt`).
///
/// F16, BF16 and F64 are read as `f32`; files are written as F32. Tensors of other types keep their names, but reading them is an
/// error.
///
/// A tensor that is stored as the factors of a weight normalisation (`weight_hh_l0_g` and `weight_hh_l0_v`, or
/// `parametrizations.weight_hh_l0.original0` and `.original1`) is found under its own name, `weight_hh_l0`, as their product.
///
/// # PyTorch checkpoints
/// A checkpoint is read as data: no code of it runs, and none is imported. The tensors have the names of the state dict, which may lie
/// inside other dicts. Several state dicts are told apart by the keys that lead to them:
/// `{"generator": {..}, "discriminator": {..}}` gives `generator.weight_ih_l0` and so on. Of a checkpoint of PyTorch Lightning,
/// `state_dict` is read. Whole modules, TorchScript and the format before PyTorch 1.6 are refused with a line of Python that converts them.
///
/// # Examples
/// ```
/// use gatewise::{Device, nn::Lstm, weights::Weights};
/// let weights = Weights::from_file("models/silero_vad_16k.safetensors")?;
/// let lstm = weights.recurrent("lstm_cell.", &Lstm::config(128, 128), &Device::Cpu)?;
/// assert_eq!(lstm.output_size(), 128);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Weights {
    pub(super) file: String,
    pub(super) tensors: BTreeMap<String, Stored>,
    /// Sorted by key, so that the same weights give the same bytes.
    pub(super) metadata: BTreeMap<String, String>,
}

impl Weights {
    /// Reads a safetensors file or a PyTorch checkpoint. The contents decide, not the name.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; otherwise as [`Weights::from_bytes`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read(path)?;
        Self::from_bytes(&path.display().to_string(), &bytes)
    }

    /// Reads the bytes of a safetensors file or a PyTorch checkpoint; `file` is the name that messages give them.
    ///
    /// # Errors
    /// * [`Error::Unrecognized`] for a file of another kind;
    /// * [`Error::Truncated`] for a file that is cut short;
    /// * [`Error::TooLarge`] for a header or a shape that no file can hold;
    /// * [`Error::Dtype`] for elements of a type that does not exist;
    /// * [`Error::Duplicate`] for two tensors of one name;
    /// * [`Error::Format`] for any other damage.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self> {
        let name = FileName(file);
        #[cfg(feature = "torch")]
        if bytes.starts_with(b"PK\x03\x04") {
            let tensors = super::torch::read(name, bytes)?;
            return Ok(Self { file: file.to_owned(), tensors, metadata: BTreeMap::new() });
        }
        let refuse = |error: SafeTensorError| header::refusal(name, bytes, &error);
        let parsed = SafeTensors::deserialize(bytes).map_err(refuse)?;
        let (length, header) = SafeTensors::read_metadata(bytes).map_err(refuse)?;
        header::check_names(name, &bytes[size_of::<u64>()..][..length])?;
        let tensors = parsed
            .iter()
            .map(|(tensor, view)| Ok((tensor.to_owned(), stored(name, tensor, &view)?)))
            .collect::<Result<_>>()?;
        let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Self { file: file.to_owned(), tensors, metadata })
    }

    /// Empty weights, for [`Weights::add`], [`Weights::insert`] and [`Weights::save`].
    pub fn new() -> Self {
        Self { file: "weights".to_owned(), tensors: BTreeMap::new(), metadata: BTreeMap::new() }
    }

    /// Adds the arrays of a layer under PyTorch's names with a prefix. `torch.nn.Module.load_state_dict` and
    /// [`Weights::recurrent`] read them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for an option that PyTorch does not have (see [`StateDict`]); [`Error::Duplicate`] for a name that is
    /// taken; the errors of a read-back. After an error nothing has been added.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, nn::Lstm, weights::Weights};
    /// let config = Lstm::config(3, 4).layers(2);
    /// let lstm = config.random(&Device::auto(), 7)?;
    /// let mut weights = Weights::new();
    /// weights.add("encoder.", &lstm)?;
    /// let file = weights.to_bytes()?; // or weights.save("encoder.safetensors")?
    ///
    /// let again = Weights::from_bytes("encoder", &file)?;
    /// assert!(again.names().any(|name| name == "encoder.weight_hh_l1"));
    /// let lstm = again.recurrent("encoder.", &config, &Device::Cpu)?;
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn add(&mut self, prefix: &str, layer: &impl StateDict) -> Result<()> {
        let arrays = layer.state_dict()?.into_iter().map(|(name, array)| (format!("{prefix}{name}"), array));
        let arrays: Vec<_> = arrays.collect();
        arrays.iter().try_for_each(|(name, _)| self.check_free(name))?;
        self.tensors.extend(arrays.into_iter().map(|(name, array)| (name, Stored::Floats(array))));
        Ok(())
    }

    /// Adds an array.
    ///
    /// # Errors
    /// [`Error::Duplicate`] for a name that is taken.
    pub fn insert<D: Dimension>(&mut self, name: &str, array: Array<f32, D>) -> Result<()> {
        self.check_free(name)?;
        self.tensors.insert(name.to_owned(), Stored::Floats(array.into_dyn()));
        Ok(())
    }

    /// Whether there is a tensor of this name, or the factors of a weight normalisation that it is the product of.
    pub fn contains(&self, name: &str) -> bool {
        self.is_there(name)
    }

    fn check_free(&self, name: &str) -> Result<()> {
        if !self.tensors.contains_key(name) {
            return Ok(());
        }
        Err(FileName(&self.file).duplicate("a layer or array", name, "one before"))
    }

    /// Sets an entry of the metadata to a text.
    pub fn note(&mut self, key: &str, value: &str) {
        self.metadata.insert(key.to_owned(), value.to_owned());
    }

    /// The sorted names of the tensors, as the file has them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of a name.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such tensor, or if its rank is not the rank of `D`; [`Error::Dtype`] if its elements are no
    /// floats.
    pub fn get<D: Dimension>(&self, name: &str) -> Result<Array<f32, D>> {
        let array = self.find(name)?.into_owned();
        let shape = array.shape().to_vec();
        array.into_dimensionality().map_err(|_| {
            let rank = D::NDIM.map_or_else(String::new, |rank| format!("rank {rank}"));
            self.refuse(name, &rank, &format!("shape {shape:?}"))
        })
    }

    /// The tensors that hold NaN or infinity after the conversion to `f32`.
    ///
    /// # Examples
    /// ```
    /// use gatewise::weights::Weights;
    /// let weights = Weights::from_file("models/silero_vad_16k.safetensors")?;
    /// assert!(weights.check().is_empty());
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn check(&self) -> Vec<NonFinite> {
        self.floats().filter_map(|(name, array)| NonFinite::among(name, array.iter())).collect()
    }

    /// Refuses weights with a NaN or an infinity.
    ///
    /// Models call it when they are built. With such weights every result would be NaN. Because every comparison with NaN is false,
    /// a voice detector would then report silence.
    ///
    /// # Errors
    /// [`Error::Format`], which names the first such tensor, the number of such elements, and the index of the first one.
    ///
    /// # Examples
    /// ```
    /// use gatewise::weights::Weights;
    /// let mut weights = Weights::new();
    /// weights.insert("scale", ndarray::arr1(&[1.0, f32::NAN]))?;
    /// assert!(weights.check_finite().is_err());
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn check_finite(&self) -> Result<()> {
        let found = self.check();
        let Some(first) = found.first() else { return Ok(()) };
        let NonFinite { tensor, nan, infinite, first } = first;
        let more = if found.len() > 1 { format!("; {} more tensors like it", found.len() - 1) } else { String::new() };
        let found = format!("{nan} NaN, {infinite} infinite, first at {first}{more}");
        Err(self.refuse(tensor, "finite weights", &found))
    }

    /// An entry of the metadata.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such entry.
    pub fn metadata(&self, key: &str) -> Result<&str> {
        self.metadata.get(key).map(String::as_str).ok_or_else(|| {
            let keys: Vec<&str> = self.metadata.keys().map(String::as_str).collect();
            let found = if keys.is_empty() { "none".to_owned() } else { format!("only {}", listed(&keys, ", ")) };
            self.refuse(&format!("metadata {key}"), "an entry of this name", &found)
        })
    }

    /// The tensor of a name, which must have exactly this shape.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such tensor, or if it has another shape.
    pub fn shaped<S: IntoDimension>(&self, name: &str, shape: S) -> Result<Array<f32, S::Dim>> {
        let (found, shape) = (self.shape_of(name)?, shape.into_dimension());
        if found != shape.slice() {
            let expected = format!("shape {:?}", shape.slice());
            return Err(self.refuse(name, &expected, &format!("shape {found:?}")));
        }
        self.get(name)
    }

    /// An error about a tensor or an entry of the metadata of this file, for a model that cannot use it.
    pub fn refuse(&self, field: &str, expected: &str, found: &str) -> Error {
        FileName(&self.file).refuse(field, expected, found)
    }

    /// A recurrent stack from PyTorch's names under a prefix, for example `weight_ih_l0`, `weight_hh_l0_reverse`, `bias_ih_l1`.
    /// The names of a cell (`torch.nn.LSTMCell`) have no suffix: `weight_ih`.
    ///
    /// [`Config::from_weights`] reads the configuration off the weights.
    ///
    /// # Errors
    /// [`Error::Format`] for a tensor that is missing or whose shape does not fit the configuration. A tensor of the stack
    /// that the configuration does not have (a bias, a layer, a direction, a projection) is refused, never dropped silently.
    pub fn recurrent<C>(&self, prefix: &str, config: &Config<C>, device: &Device) -> Result<Recurrent<C>>
    where
        C: Clone + Into<Cell>,
    {
        let names = StackNames::new(self, prefix);
        let mut used = Vec::new();
        let parameters = config.collect(|layer, direction, spec| {
            let name = names.of(spec.name, layer, direction);
            if !self.contains(&name) {
                return Err(names.absent(&names.missing(config)));
            }
            let array = self.shaped(&name, spec.shape.as_slice())?;
            used.extend(self.sources(&name));
            Ok(array)
        })?;
        names.check_all_used(&used)?;
        config.build(device, parameters)
    }

    /// A linear layer from `{prefix}weight` and, if there is one, `{prefix}bias`. The weight of a convolution with kernel size 1
    /// is accepted, too.
    ///
    /// # Errors
    /// [`Error::Format`] for a tensor that is missing or has another shape.
    pub fn linear(&self, prefix: &str, [inputs, outputs]: [usize; 2], device: &Device) -> Result<Linear> {
        let name = format!("{prefix}weight");
        let weight = self.find(&name)?;
        let shape = [outputs, inputs];
        if weight.shape().strip_suffix(&[1]).unwrap_or(weight.shape()) != shape && weight.shape() != shape {
            return Err(self.refuse(&name, &format!("shape {shape:?}"), &format!("shape {:?}", weight.shape())));
        }
        let weight = weight
            .to_shape(shape)
            .map_err(|error| self.refuse(&name, &format!("shape {shape:?}"), &error.to_string()))?;
        Linear::new(device, &weight.into_owned(), self.bias(prefix, outputs)?.as_ref())
    }

    /// A convolution from `{prefix}weight` and, if there is one, `{prefix}bias`.
    ///
    /// # Shapes
    /// `shape` is `[O, C, K]`.
    ///
    /// # Errors
    /// [`Error::Format`] for a tensor that is missing or has another shape.
    pub fn conv1d(&self, prefix: &str, shape: [usize; 3], geometry: Conv1dGeometry, device: &Device) -> Result<Conv1d> {
        self.conv1d_taps(prefix, shape, 0..shape[2], geometry, device)
    }

    /// [`Weights::conv1d`] of some of the kernel's taps.
    pub(crate) fn conv1d_taps(
        &self,
        prefix: &str,
        shape: [usize; 3],
        taps: Range<usize>,
        geometry: Conv1dGeometry,
        device: &Device,
    ) -> Result<Conv1d> {
        let weight: Array3<f32> = self.shaped(&format!("{prefix}weight"), shape)?;
        let weight = weight.slice_move(s![.., .., taps]);
        Conv1d::new(device, &weight, self.bias(prefix, shape[0])?.as_ref(), geometry)
    }

    fn bias(&self, prefix: &str, outputs: usize) -> Result<Option<ndarray::Array1<f32>>> {
        let name = format!("{prefix}bias");
        if !self.contains(&name) {
            return Ok(None);
        }
        self.shaped(&name, outputs).map(Some)
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads one tensor, if its elements are floats.
fn stored(file: FileName<'_>, name: &str, view: &TensorView<'_>) -> Result<Stored> {
    let float = match view.dtype() {
        Dtype::F32 => FloatType::F32,
        Dtype::F64 => FloatType::F64,
        Dtype::F16 => FloatType::F16,
        Dtype::BF16 => FloatType::Bf16,
        other => return Ok(Stored::Other(format!("{other:?}"))),
    };
    let values = float.read(view.data(), ByteOrder::Little);
    let found = values.len();
    ArrayD::from_shape_vec(IxDyn(view.shape()), values)
        .map(Stored::Floats)
        .map_err(|_| file.refuse(name, format!("shape {:?}", view.shape()), format!("{found} elements")))
}

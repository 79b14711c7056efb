//! A file of Keras, and the layers and arrays that a caller takes from it.

use std::path::Path;

use ndarray::{Array, ArrayD, Dimension};
use serde_json::Value as Json;

use super::archive::Archive;
use super::cells::CellSpec;
use super::fields::describe;
use super::hdf5::Tree;
use super::parse::{JsonObject, LayerKind, LayerSpec, Parser};
use super::run::{KerasLayer, Loader};
use super::store::{self, ArrayStore};
use super::{FileName, Generation};
use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::files;
use crate::nn::{Config, Recurrent};
use crate::tensor::Device;
use crate::text::listed;
use crate::weights::NonFinite;

/// The kind of a file of Keras.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KerasKind {
    /// A `.keras` archive with configuration and weights.
    Archive,
    /// A whole model in one `.h5`.
    Model,
    /// A `.weights.h5` of Keras 3 with weights alone.
    Weights,
    /// A `.h5` of Keras 2 with weights alone, one list of arrays per layer.
    WeightLists,
}

/// A layer in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KerasLayerInfo {
    /// The path for [`KerasFile::layer`] or, if the file has weights alone, for [`KerasFile::recurrent_with`].
    pub path: String,
    /// The class of the layer; `None` if the file has no configuration.
    pub class: Option<String>,
}

/// A file of Keras.
///
/// # Examples
/// ```
/// use gatewise::{Device, weights::keras::KerasFile};
/// let file = KerasFile::open("tests/fixtures/keras/cells.keras")?;
/// let classes: Vec<_> = file.layers()?.into_iter().filter_map(|layer| layer.class).collect();
/// assert!(classes.contains(&"LSTM".to_owned()));
/// let lstm = file.recurrent("lstm", &Device::Cpu)?;
/// assert_eq!(lstm.output_size(), 4);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Debug)]
pub struct KerasFile {
    file: String,
    kind: KerasKind,
    version: Option<String>,
    config: Option<Json>,
    tree: Tree,
}

/// The group that holds the layers of a whole model.
const MODEL_WEIGHTS: &str = "model_weights";

impl KerasFile {
    /// Reads a file of any kind.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; otherwise as [`KerasFile::from_bytes`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read(path)?;
        Self::from_bytes(&path.display().to_string(), bytes)
    }

    /// Reads the bytes of a file; `file` is the name that messages give them.
    ///
    /// # Errors
    /// * [`Error::Unrecognized`] for bytes that are no file of Keras;
    /// * [`Error::Truncated`] for a file that is cut short;
    /// * [`Error::TooLarge`] for contents that are too large for a file of its size;
    /// * [`Error::Duplicate`] for two members of one name;
    /// * [`Error::Format`] for a file without configuration or weights, or with other damage.
    pub fn from_bytes(file: &str, bytes: Vec<u8>) -> Result<Self> {
        let file = FileName(file);
        if bytes.starts_with(b"PK") {
            return Self::from_archive(file, &bytes);
        }
        // HDF5 allows a user block before its signature, of 512 bytes or a power of two times as many.
        let hdf5 = std::iter::successors(Some(512), |at: &usize| at.checked_mul(2)).take_while(|&at| at < bytes.len());
        if !std::iter::once(0).chain(hdf5).any(|at| bytes[at..].starts_with(b"\x89HDF\r\n\x1a\n")) {
            return Err(file.unrecognized("a zip archive or an HDF5 file of Keras", &bytes));
        }
        let tree = Tree::read(file, bytes)?;
        let version = tree.text("", "keras_version")?;
        let config =
            tree.text("", "model_config")?.map(|text| json(file, "model_config", text.as_bytes())).transpose()?;
        let kind = match &config {
            Some(_) => KerasKind::Model,
            None if tree.list("", "layer_names")?.is_some() => KerasKind::WeightLists,
            None => KerasKind::Weights,
        };
        if tree.arrays().next().is_none() {
            return Err(file.refuse("/", "arrays", "none"));
        }
        Ok(Self { file: file.0.to_owned(), kind, version, config, tree })
    }

    fn from_archive(file: FileName<'_>, bytes: &[u8]) -> Result<Self> {
        let archive = Archive::open(file, bytes)?;
        let config = json(file, "config.json", &archive.member("config.json")?)?;
        let metadata = json(file, "metadata.json", &archive.member("metadata.json")?)?;
        let version = metadata.get("keras_version").and_then(Json::as_str).map(str::to_owned);
        let tree = Tree::read(file, archive.member("model.weights.h5")?.into_owned())?;
        Ok(Self { file: file.0.to_owned(), kind: KerasKind::Archive, version, config: Some(config), tree })
    }

    /// The kind of file.
    pub fn kind(&self) -> KerasKind {
        self.kind
    }

    /// The version of Keras that wrote the file; `None` if the file does not state it.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The paths and shapes of all arrays in the file.
    pub fn arrays(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.tree.arrays()
    }

    /// The array at a path.
    ///
    /// # Errors
    /// [`Error::Format`] if there is no such array, if it is damaged, or if its rank is not the rank of `D`; [`Error::Dtype`] if its
    /// elements are no floats; [`Error::TooLarge`], [`Error::Truncated`].
    pub fn array<D: Dimension>(&self, path: &str) -> Result<Array<f32, D>> {
        let array: ArrayD<f32> = self.tree.array(path)?;
        let found = format!("shape {:?}", array.shape());
        array.into_dimensionality().map_err(|_| {
            let rank = D::NDIM.map_or_else(String::new, |rank| format!("rank {rank}"));
            self.file_name().refuse(path, &rank, &found)
        })
    }

    /// The arrays of floats that hold NaN or infinity after the conversion to `f32`.
    ///
    /// # Errors
    /// As [`KerasFile::array`]; but arrays of other elements than floats are skipped.
    pub fn check(&self) -> Result<Vec<NonFinite>> {
        let one = |(path, _): (&str, &[u64])| match self.tree.array(path) {
            Ok(array) => Ok(NonFinite::among(path, array.iter())),
            Err(Error::Dtype { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        self.arrays().filter_map(|array| one(array).transpose()).collect()
    }

    /// The layers in the file.
    ///
    /// If the file has a configuration, these are all layers, supported or not. The path of a layer inside a model or
    /// TimeDistributed begins with the name of the layer that holds it. If the file has weights alone, these are the groups or
    /// lists that hold arrays.
    ///
    /// # Errors
    /// [`Error::Format`] if the configuration has no list of layers.
    pub fn layers(&self) -> Result<Vec<KerasLayerInfo>> {
        let Some(config) = &self.config else {
            return self.bare_layers();
        };
        let mut layers = Vec::new();
        self.parser()?.list("", config, &mut layers)?;
        Ok(layers)
    }

    fn bare_layers(&self) -> Result<Vec<KerasLayerInfo>> {
        let paths: Vec<String> = match self.kind {
            KerasKind::WeightLists => self.tree.list("", "layer_names")?.unwrap_or_default(),
            _ => self.tree.arrays().filter_map(|(path, _)| path.strip_suffix("/vars/0").map(str::to_owned)).collect(),
        };
        Ok(paths.into_iter().map(|path| KerasLayerInfo { path, class: None }).collect())
    }

    /// Builds a layer on a device. `name` is its name in Keras, after the names of the models that hold it: `lstm`, `inner/lstm`.
    /// Other layers of the file need not be supported.
    ///
    /// # Errors
    /// * [`Error::Format`] if the file does not have the layer, an option is not supported, or an array is missing or has another
    ///   shape;
    /// * [`Error::Dangling`] and [`Error::Cycle`] for models whose calls lead nowhere;
    /// * [`Error::Dtype`], [`Error::TooLarge`], [`Error::Truncated`] for arrays that cannot be read;
    /// * [`Error::Limit`], [`Error::OutOfMemory`] if the weights do not fit the device.
    pub fn layer(&self, name: &str, device: &Device) -> Result<KerasLayer> {
        let layer = self.described(name)?;
        KerasLayer::new(&Loader::new(self.file_name(), &self.tree, device), &layer)
    }

    /// Builds the whole model on a device.
    ///
    /// # Errors
    /// As [`KerasFile::layer`].
    pub fn model(&self, device: &Device) -> Result<KerasLayer> {
        let parser = self.parser()?;
        let root = self.root(&parser)?;
        let layer = parser.layer(&root, &self.store(), true)?;
        KerasLayer::new(&Loader::new(self.file_name(), &self.tree, device), &layer)
    }

    /// Builds a recurrent layer as this crate's own layer: SimpleRNN, LSTM, GRU, their CuDNN forms, RNN around one cell, or
    /// Bidirectional around two cells of one kind and size.
    ///
    /// The cell computes what the file says. The layer differs from Keras' layer in four points:
    /// * the batch is the second axis;
    /// * outputs are in the order of time (`go_backwards` is [`Config::reverse`]);
    /// * all steps are returned;
    /// * the state continues from call to call, as with `stateful`.
    ///
    /// A Bidirectional that returns sequences merges as the file says; any other concatenates.
    ///
    /// # Errors
    /// As [`KerasFile::layer`], and [`Error::Format`] for a layer of another class.
    pub fn recurrent(&self, name: &str, device: &Device) -> Result<Recurrent<Cell>> {
        let layer = self.described(name)?;
        Loader::new(self.file_name(), &self.tree, device).recurrent(&layer)
    }

    /// Builds a recurrent layer of a file with weights alone. `path` is the path of its group (`layers/lstm/cell`) or, in a file of
    /// Keras 2, its name. If the configuration has two directions, `path` names the Bidirectional layer; a list of Keras 2 holds
    /// its forward arrays first.
    ///
    /// # Errors
    /// [`Error::Format`] for an array that is missing, has another shape, or does not belong to the configuration;
    /// [`Error::Unsupported`] for a configuration of several layers.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{Device, nn::Lstm, weights::keras::KerasFile};
    /// let file = KerasFile::open("tests/fixtures/keras/cells.weights.h5")?;
    /// let paths: Vec<String> = file.layers()?.into_iter().map(|layer| layer.path).collect();
    /// assert!(paths.contains(&"layers/lstm/cell".to_owned()));
    /// let lstm = file.recurrent_with("layers/lstm/cell", &Lstm::config(3, 4), &Device::Cpu)?;
    /// assert_eq!(lstm.output_size(), 4);
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn recurrent_with<C>(&self, path: &str, config: &Config<C>, device: &Device) -> Result<Recurrent<C>>
    where
        C: Clone + Into<Cell>,
    {
        if config.layer_count() != 1 {
            let option = format!("a configuration of {} layers", config.layer_count());
            return Err(Error::Unsupported { op: "recurrent_with", option, by: "by Keras, whose layers are single" });
        }
        let loader = Loader::new(self.file_name(), &self.tree, device);
        let cells = config.cells();
        let groups: &[&str] = if cells.len() == 2 { &["forward_layer", "backward_layer"] } else { &[""] };
        let mut listed = match self.kind {
            KerasKind::Weights => Vec::new(),
            KerasKind::WeightLists => store::listed(&self.tree, self.file_name(), "", path)?,
            KerasKind::Archive | KerasKind::Model => {
                let expected = "a file of weights alone; this one has a configuration, for KerasFile::recurrent";
                return Err(self.file_name().refuse("file", expected, format!("{:?}", self.kind)));
            }
        };
        let mut parameters = Vec::new();
        for (cell, group) in cells.iter().zip(groups) {
            let count = if cell.bias() { 3 } else { 2 };
            let arrays = match self.kind {
                KerasKind::Weights => self.group_arrays(path, group, count)?,
                _ => listed.drain(..count.min(listed.len())).collect(),
            };
            let spec = CellSpec { cell: *cell, units: config.hidden_size(), arrays, cudnn: false };
            parameters.push(loader.cell(&spec)?);
        }
        if !listed.is_empty() {
            let expected = "no more arrays than the configuration has";
            return Err(self.file_name().refuse(path, expected, listed.join(", ")));
        }
        config.build(device, vec![parameters])
    }

    /// The paths of the arrays in the group of a layer or cell.
    fn group_arrays(&self, path: &str, below: &str, count: usize) -> Result<Vec<String>> {
        let outer = if below.is_empty() { path.to_owned() } else { format!("{path}/{below}") };
        let inner = format!("{outer}/cell");
        let group = if self.tree.has(&format!("{inner}/vars/0")) { inner } else { outer };
        ArrayStore::Tree { tree: &self.tree, group }.arrays(self.file_name(), path, count, true)
    }

    fn file_name(&self) -> FileName<'_> {
        FileName(&self.file)
    }

    fn parser(&self) -> Result<Parser<'_>> {
        let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        let generation = match self.version.as_deref().map(|version| (major(version), version)) {
            None => None,
            Some((Some(1 | 2), _)) => Some(Generation::Keras2),
            Some((Some(3), _)) => Some(Generation::Keras3),
            Some((_, version)) => return Err(self.file_name().refuse("keras_version", "1, 2 or 3", version)),
        };
        Ok(Parser { file: self.file_name(), generation })
    }

    fn root<'a>(&'a self, parser: &Parser<'a>) -> Result<JsonObject<'a>> {
        let Some(config) = &self.config else {
            let expected = "a file with a configuration; this one holds weights alone, for KerasFile::recurrent_with";
            return Err(self.file_name().refuse("config", expected, "none"));
        };
        let mut root = parser.named("", config)?;
        root.outermost = true;
        Ok(root)
    }

    /// The location of the model's arrays.
    fn store(&self) -> ArrayStore<'_> {
        match self.kind {
            KerasKind::Model => ArrayStore::Whole { tree: &self.tree, root: MODEL_WEIGHTS },
            _ => ArrayStore::Tree { tree: &self.tree, group: String::new() },
        }
    }

    /// Reads the description of the layer at a path.
    fn described(&self, path: &str) -> Result<LayerSpec> {
        let parser = self.parser()?;
        let root = self.root(&parser)?;
        let unknown = || {
            let names = self.layers().unwrap_or_default().into_iter().map(|layer| layer.path).take(50);
            let found = format!("only {}", listed(&names.collect::<Vec<_>>(), ", "));
            self.file_name().refuse(&format!("layer {path}"), "a layer of this name", &found)
        };
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let Some(mut layer) = parser.inner(&root, &self.store(), first)? else {
            return Err(unknown());
        };
        let mut whole = first.to_owned();
        for name in rest.into_iter().flat_map(|rest| rest.split('/')) {
            whole = format!("{whole}/{name}");
            let inside = match layer.kind {
                LayerKind::Model(model) => model.layers,
                LayerKind::TimeDistributed(inner) => vec![*inner],
                _ => Vec::new(),
            };
            layer = inside.into_iter().find(|layer| layer.path == whole).ok_or_else(unknown)?;
        }
        Ok(layer)
    }
}

/// Reads a JSON object.
fn json(file: FileName<'_>, field: &str, bytes: &[u8]) -> Result<Json> {
    let value: Json = serde_json::from_slice(bytes).map_err(|error| file.refuse(field, "JSON", error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(file.refuse(field, "an object", describe(Some(&value)))) }
}

impl Parser<'_> {
    /// Lists the layers of a model, and the layers inside them.
    fn list(&self, prefix: &str, model: &Json, to: &mut Vec<KerasLayerInfo>) -> Result<()> {
        let layers = model.get("config").and_then(|config| config.get("layers"));
        let wrapped = model.get("config").and_then(|config| config.get("layer"));
        let bidirectional = model.get("class_name").is_some_and(|class| class == "Bidirectional");
        let inside = match (layers, wrapped) {
            (Some(Json::Array(list)), _) => list.as_slice(),
            (None, Some(one)) if !bidirectional => std::slice::from_ref(one),
            (None, _) if !prefix.is_empty() => return Ok(()),
            (other, _) => return Err(self.file.refuse("config: layers", "a list of layers", describe(other))),
        };
        for json in inside {
            let layer = self.named(prefix, json)?;
            to.push(KerasLayerInfo { path: layer.path.clone(), class: Some(layer.class.to_owned()) });
            self.list(&layer.path, json, to)?;
        }
        Ok(())
    }
}

//! A file and what a caller takes from it.

use std::path::Path;

use ndarray::{Array, ArrayD, Dimension};
use serde_json::Value as Json;

use super::archive::Archive;
use super::cells::CellSpec;
use super::fields::describe;
use super::hdf5::Tree;
use super::parse::{Kind, Layer, Object, Parser};
use super::run::{KerasLayer, Loader};
use super::store::{self, Store};
use super::{Generation, Source};
use crate::cell::Cell;
use crate::error::{Error, Result};
use crate::files;
use crate::nn::{Config, Recurrent};
use crate::tensor::Device;
use crate::text::listed;
use crate::weights::{NonFinite, kind};

/// The kind of a file of Keras.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KerasKind {
    /// `.keras`
    Archive,
    /// A whole model in one `.h5`.
    Model,
    /// `.weights.h5`
    Weights,
    /// Keras 2's weights alone, a `.h5` with a list of arrays a layer.
    WeightLists,
}

/// A layer in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KerasLayerInfo {
    /// What [`KerasFile::layer`] or, in a file of weights alone, [`KerasFile::recurrent_with`] takes.
    pub path: String,
    /// Its class, where the file has a configuration.
    pub class: Option<String>,
}

/// A file of Keras, read.
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

/// The group of a whole model's layers.
const MODEL_WEIGHTS: &str = "model_weights";

impl KerasFile {
    /// Reads a file of any kind.
    ///
    /// # Errors
    /// [`Error::Io`] where it cannot be read; otherwise as [`KerasFile::from_bytes`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read(path)?;
        Self::from_bytes(&path.display().to_string(), bytes)
    }

    /// Reads a file's contents; `file` names them in messages.
    ///
    /// # Errors
    /// [`Error::Unrecognized`] for what is no file of Keras, [`Error::Truncated`] for one cut short, [`Error::TooLarge`] for one that
    /// holds more than a file of its size may, [`Error::Duplicate`] for two members of a name, [`Error::Format`] for one without
    /// configuration or weights, or otherwise broken.
    pub fn from_bytes(file: &str, bytes: Vec<u8>) -> Result<Self> {
        let source = Source { file };
        if bytes.starts_with(b"PK") {
            return Self::from_archive(source, &bytes);
        }
        // HDF5 allows a block of the user's own before its beginning.
        let hdf5 = std::iter::successors(Some(512), |at: &usize| at.checked_mul(2)).take_while(|&at| at < bytes.len());
        if !std::iter::once(0).chain(hdf5).any(|at| bytes[at..].starts_with(b"\x89HDF\r\n\x1a\n")) {
            let (file, found) = (file.to_owned(), kind::describe(&bytes));
            return Err(Error::Unrecognized { file, expected: "a zip archive or an HDF5 file of Keras", found });
        }
        let tree = Tree::read(source, bytes)?;
        let version = tree.text("", "keras_version")?;
        let config =
            tree.text("", "model_config")?.map(|text| json(source, "model_config", text.as_bytes())).transpose()?;
        let kind = match &config {
            Some(_) => KerasKind::Model,
            None if tree.list("", "layer_names")?.is_some() => KerasKind::WeightLists,
            None => KerasKind::Weights,
        };
        if tree.arrays().next().is_none() {
            return Err(source.refuse("/", "arrays", "none"));
        }
        Ok(Self { file: file.to_owned(), kind, version, config, tree })
    }

    fn from_archive(source: Source<'_>, bytes: &[u8]) -> Result<Self> {
        let archive = Archive::open(source, bytes)?;
        let config = json(source, "config.json", &archive.member("config.json")?)?;
        let metadata = json(source, "metadata.json", &archive.member("metadata.json")?)?;
        let version = metadata.get("keras_version").and_then(Json::as_str).map(str::to_owned);
        let tree = Tree::read(source, archive.member("model.weights.h5")?)?;
        Ok(Self { file: source.file.to_owned(), kind: KerasKind::Archive, version, config: Some(config), tree })
    }

    /// The kind of file.
    pub fn kind(&self) -> KerasKind {
        self.kind
    }

    /// The version of Keras that wrote it, where the file says so.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The arrays in the file by their paths, with their shapes.
    pub fn arrays(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.tree.arrays()
    }

    /// An array by its path.
    ///
    /// # Errors
    /// [`Error::Format`] where there is none, it is broken, or its rank is not `D`'s; [`Error::Dtype`] where it holds no floats;
    /// [`Error::TooLarge`], [`Error::Truncated`].
    pub fn array<D: Dimension>(&self, path: &str) -> Result<Array<f32, D>> {
        let array: ArrayD<f32> = self.tree.array(path)?;
        let found = format!("shape {:?}", array.shape());
        array.into_dimensionality().map_err(|_| {
            let rank = D::NDIM.map_or_else(String::new, |rank| format!("rank {rank}"));
            self.source().refuse(path, &rank, &found)
        })
    }

    /// The arrays of floats that hold NaN or infinity, as they are once they are `f32`. Weights are not meant to.
    ///
    /// # Errors
    /// As [`KerasFile::array`], but for an array of other elements than floats, which is left out.
    pub fn check(&self) -> Result<Vec<NonFinite>> {
        let one = |(path, _): (&str, &[u64])| match self.tree.array(path) {
            Ok(array) => Ok(NonFinite::among(path, array.iter())),
            Err(Error::Dtype { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        self.arrays().filter_map(|array| one(array).transpose()).collect()
    }

    /// The layers in the file. With a configuration: all of them, those inside models and TimeDistributed behind the name that
    /// holds them, whether they are carried out or not. In a file of weights alone: the groups or lists that hold arrays.
    ///
    /// # Errors
    /// [`Error::Format`] where the configuration is no list of layers.
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

    /// A layer by its name, as Keras calls it, on a device: `lstm`, `inner/lstm`. Only its own part of the file has to be one
    /// that is carried out.
    ///
    /// # Errors
    /// [`Error::Format`] for a layer that the file does not have, an option that is not carried out, an array that is missing or
    /// has another shape; [`Error::Dangling`] and [`Error::Cycle`] for models whose calls lead nowhere; [`Error::Dtype`],
    /// [`Error::TooLarge`], [`Error::Truncated`]; [`Error::Limit`], [`Error::OutOfMemory`].
    pub fn layer(&self, name: &str, device: &Device) -> Result<KerasLayer> {
        let layer = self.described(name)?;
        KerasLayer::new(&Loader::new(self.source(), &self.tree, device), &layer)
    }

    /// The whole model on a device.
    ///
    /// # Errors
    /// As [`KerasFile::layer`].
    pub fn model(&self, device: &Device) -> Result<KerasLayer> {
        let parser = self.parser()?;
        let root = self.root(&parser)?;
        let layer = parser.layer(&root, &self.store(), true)?;
        KerasLayer::new(&Loader::new(self.source(), &self.tree, device), &layer)
    }

    /// A recurrent layer by its name, as this crate's own: SimpleRNN, LSTM, GRU, their CuDNN forms, RNN around one cell, and
    /// Bidirectional around two of one kind and size.
    ///
    /// What the cell computes is the file's; what Keras does around it is the caller's: the batch comes second, outputs stay at
    /// their step's place in either direction (`go_backwards` is [`Config::reverse`]), all steps are returned, and the state goes
    /// on from call to call (`stateful`). A Bidirectional merges as the file says if it returns sequences, else side by side.
    ///
    /// # Errors
    /// As [`KerasFile::layer`], and [`Error::Format`] for a layer that is none of these.
    pub fn recurrent(&self, name: &str, device: &Device) -> Result<Recurrent<Cell>> {
        let layer = self.described(name)?;
        Loader::new(self.source(), &self.tree, device).recurrent(&layer)
    }

    /// A recurrent layer of a file of weights alone, from the path of its group (`layers/lstm/cell`) or, in Keras 2's lists, its
    /// name. With two directions the group is the Bidirectional's, or the list holds the forward arrays first.
    ///
    /// # Errors
    /// [`Error::Format`] for an array that is missing or has another shape than the configuration asks for, and for one that it
    /// leaves over; [`Error::Unsupported`] for a configuration of several layers.
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
        let loader = Loader::new(self.source(), &self.tree, device);
        let cells = config.cells();
        let groups: &[&str] = if cells.len() == 2 { &["forward_layer", "backward_layer"] } else { &[""] };
        let mut listed = match self.kind {
            KerasKind::Weights => Vec::new(),
            KerasKind::WeightLists => store::listed(&self.tree, self.source(), "", path)?,
            KerasKind::Archive | KerasKind::Model => {
                let expected = "a file of weights alone; this one has a configuration, for KerasFile::recurrent";
                return Err(self.source().refuse("file", expected, &format!("{:?}", self.kind)));
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
            return Err(self.source().refuse(path, "no array more than the configuration has", &listed.join(", ")));
        }
        config.build(device, vec![parameters])
    }

    /// The arrays below a layer's or cell's group.
    fn group_arrays(&self, path: &str, below: &str, count: usize) -> Result<Vec<String>> {
        let group = if below.is_empty() { path.to_owned() } else { format!("{path}/{below}") };
        let inner = format!("{group}/cell");
        let place = if self.tree.has(&format!("{inner}/vars/0")) { inner } else { group };
        Store::Tree { tree: &self.tree, group: place }.arrays(self.source(), path, count, true)
    }

    fn source(&self) -> Source<'_> {
        Source { file: &self.file }
    }

    fn parser(&self) -> Result<Parser<'_>> {
        let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        let generation = match self.version.as_deref().map(|version| (major(version), version)) {
            None => None,
            Some((Some(1 | 2), _)) => Some(Generation::Keras2),
            Some((Some(3), _)) => Some(Generation::Keras3),
            Some((_, version)) => return Err(self.source().refuse("keras_version", "1, 2 or 3", version)),
        };
        Ok(Parser { source: self.source(), generation })
    }

    fn root<'a>(&'a self, parser: &Parser<'a>) -> Result<Object<'a>> {
        let Some(config) = &self.config else {
            let expected = "a file with a configuration; this one holds weights alone, for KerasFile::recurrent_with";
            return Err(self.source().refuse("config", expected, "none"));
        };
        let mut root = parser.named("", config)?;
        root.outermost = true;
        Ok(root)
    }

    /// Where the model's arrays are.
    fn store(&self) -> Store<'_> {
        match self.kind {
            KerasKind::Model => Store::Whole { tree: &self.tree, root: MODEL_WEIGHTS },
            _ => Store::Tree { tree: &self.tree, group: String::new() },
        }
    }

    /// The description of the layer at a path.
    fn described(&self, path: &str) -> Result<Layer> {
        let parser = self.parser()?;
        let root = self.root(&parser)?;
        let unknown = || {
            let names = self.layers().unwrap_or_default().into_iter().map(|layer| layer.path).take(50);
            let found = format!("only {}", listed(&names.collect::<Vec<_>>(), ", "));
            self.source().refuse(&format!("layer {path}"), "a layer of this name", &found)
        };
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let Some(mut layer) = parser.inner(&root, &self.store(), first)? else {
            return Err(unknown());
        };
        let mut whole = first.to_owned();
        for name in rest.into_iter().flat_map(|rest| rest.split('/')) {
            whole = format!("{whole}/{name}");
            let inside = match layer.kind {
                Kind::Graph(graph) => graph.layers,
                Kind::EachStep(inner) => vec![*inner],
                _ => Vec::new(),
            };
            layer = inside.into_iter().find(|layer| layer.path == whole).ok_or_else(unknown)?;
        }
        Ok(layer)
    }
}

fn json(source: Source<'_>, field: &str, bytes: &[u8]) -> Result<Json> {
    let value: Json =
        serde_json::from_slice(bytes).map_err(|error| source.refuse(field, "JSON", &error.to_string()))?;
    if value.is_object() { Ok(value) } else { Err(source.refuse(field, "an object", &describe(Some(&value)))) }
}

impl Parser<'_> {
    /// Lists a model's layers.
    fn list(&self, prefix: &str, model: &Json, to: &mut Vec<KerasLayerInfo>) -> Result<()> {
        let layers = model.get("config").and_then(|config| config.get("layers"));
        let wrapped = model.get("config").and_then(|config| config.get("layer"));
        let bidirectional = model.get("class_name").is_some_and(|class| class == "Bidirectional");
        let inside = match (layers, wrapped) {
            (Some(Json::Array(list)), _) => list.as_slice(),
            (None, Some(one)) if !bidirectional => std::slice::from_ref(one),
            (None, _) if !prefix.is_empty() => return Ok(()),
            (other, _) => return Err(self.source.refuse("config: layers", "a list of layers", &describe(other))),
        };
        for json in inside {
            let layer = self.named(prefix, json)?;
            to.push(KerasLayerInfo { path: layer.path.clone(), class: Some(layer.class.to_owned()) });
            self.list(&layer.path, json, to)?;
        }
        Ok(())
    }
}

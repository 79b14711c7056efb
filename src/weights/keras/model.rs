//! Descriptions of models: layers, their calls, and the values between them.

mod calls;

use std::collections::HashMap;

use serde_json::Value as Json;

use self::calls::{JsonCall, TensorRef, links, ordered, resolve};
use super::fields::{Fields, describe};
use super::hdf5::Tree;
use super::parse::{JsonObject, LayerKind, LayerSpec, Parser};
use super::store::{self, ArrayList, ArrayStore, SiblingStores};
use crate::error::{Error, Result};

/// A Sequential or Functional model.
#[derive(Clone, Debug)]
pub(super) struct ModelSpec {
    pub(super) layers: Vec<LayerSpec>,
    /// The calls of the layers. Each comes after the calls whose results it takes.
    pub(super) calls: Vec<LayerCall>,
    /// The names of the inputs, in the order in which a caller gives them.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<ValueRef>,
}

/// One call of a layer.
#[derive(Clone, Debug)]
pub(super) struct LayerCall {
    /// The index of the layer.
    pub(super) layer: usize,
    /// The input of the layer, then the initial states if it is a recurrent one.
    pub(super) takes: Vec<ValueRef>,
    /// A mask that replaces the mask of the input.
    pub(super) mask: Option<ValueRef>,
    /// The number that `ops.not_equal` compares with.
    pub(super) number: f32,
}

/// A value inside a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueRef {
    /// An input of the model, by its index.
    Input(usize),
    /// A result of a call.
    Result {
        /// The index of the call.
        call: usize,
        /// The index among the results of the call.
        at: usize,
    },
}

/// Values by the name of a layer and the number of its call.
type KnownValues<'a> = HashMap<(&'a str, usize), ValueRef>;

impl Parser<'_> {
    /// Reads a model with its layers.
    pub(super) fn model(&self, object: &JsonObject<'_>, store: &ArrayStore<'_>, trainable: bool) -> Result<ModelSpec> {
        let fields = object.fields()?;
        let siblings = store.layers("layers");
        // Messages name a layer by its path inside the outermost model.
        let prefix = if object.outermost { "" } else { object.path.as_str() };
        let (mut layers, mut objects) = (Vec::new(), Vec::new());
        for json in layer_list(&fields)? {
            let inner = self.named(prefix, json)?;
            layers.push(self.layer_of_model(&inner, store, &siblings, trainable)?);
            objects.push(inner);
        }
        if object.class == "Sequential" {
            return Ok(sequential(layers));
        }
        let (inputs, outputs) = (ends(&fields, "input_layers")?, ends(&fields, "output_layers")?);
        let calls = json_calls(&fields, &objects)?;
        let known = input_values(&fields, &inputs, &objects, &layers)?;
        let dangling =
            |link: &TensorRef<'_>, reader: &str| self.file.dangling(reader, &format!("{}:{}", link.layer, link.node));
        let counts: HashMap<&str, usize> = objects.iter().map(|object| (object.name, call_count(object))).collect();
        for call in &calls {
            for link in call.takes.iter().chain(&call.mask) {
                let input = link.node == 0 && known.contains_key(&(link.layer, 0));
                if !input && counts.get(link.layer).is_none_or(|&count| link.node >= count) {
                    return Err(dangling(link, &format!("layer {}", call.name)));
                }
            }
        }
        let cycle = |nodes| Error::Cycle { file: self.file.0.to_owned(), nodes };
        let (calls, known) = ordered(calls, known).map_err(cycle)?;
        let outputs = outputs.iter().map(|link| resolve(&known, link).ok_or_else(|| dangling(link, "output_layers")));
        let outputs = outputs.collect::<Result<_>>()?;
        let inputs = inputs.iter().map(|input| input.layer.to_owned()).collect();
        Ok(ModelSpec { layers, calls, inputs, outputs })
    }

    fn layer_of_model(
        &self,
        inner: &JsonObject<'_>,
        store: &ArrayStore<'_>,
        siblings: &SiblingStores<'_>,
        trainable: bool,
    ) -> Result<LayerSpec> {
        match store {
            ArrayStore::Whole { tree, root } => self.outermost(inner, tree, root),
            _ => self.layer(inner, &siblings.next(self.file, inner.class, inner.name)?, trainable),
        }
    }

    /// The layer of a model that has this name. The other layers are not read.
    pub(super) fn inner(
        &self,
        model: &JsonObject<'_>,
        store: &ArrayStore<'_>,
        name: &str,
    ) -> Result<Option<LayerSpec>> {
        let fields = model.fields()?;
        let siblings = store.layers("layers");
        for json in layer_list(&fields)? {
            let inner = self.named("", json)?;
            if inner.name == name {
                return self.layer_of_model(&inner, store, &siblings, model.trainable()).map(Some);
            }
            if !matches!(store, ArrayStore::Whole { .. }) {
                siblings.next(self.file, inner.class, inner.name)?;
            }
        }
        Ok(None)
    }

    /// Reads an outermost layer of a whole-model `.h5`, which stores the arrays of each outermost layer as one list. The first pass
    /// counts the arrays; the second takes them.
    fn outermost(&self, object: &JsonObject<'_>, tree: &Tree, root: &str) -> Result<LayerSpec> {
        let first = ArrayList::default();
        let layer = self.layer(object, &ArrayStore::List(&first), true)?;
        if first.asked() == 0 {
            return Ok(layer);
        }
        let paths = store::listed(tree, self.file, root, object.name)?;
        if paths.len() != first.asked() {
            let field = format!("layer {}: weight_names", object.name);
            return Err(self.file.refuse(&field, format!("{} arrays", first.asked()), paths.len().to_string()));
        }
        self.layer(object, &ArrayStore::List(&ArrayList::counted(&first, paths)), true)
    }
}

/// The JSON of a model's layers.
fn layer_list<'a>(fields: &Fields<'a>) -> Result<&'a [Json]> {
    match fields.get("layers") {
        Some(Json::Array(list)) => Ok(list),
        other => Err(fields.refuse("layers", "a list of layers", &describe(other))),
    }
}

/// A Sequential model: each layer takes the result of the one before.
fn sequential(layers: Vec<LayerSpec>) -> ModelSpec {
    let input = layers.iter().find(|layer| matches!(layer.kind, LayerKind::Input));
    let name = input.or(layers.first()).map_or("", |layer| layer.path.rsplit('/').next().unwrap_or_default());
    let inputs = vec![name.to_owned()];
    let mut calls = Vec::new();
    let mut value = ValueRef::Input(0);
    for (layer, _) in layers.iter().enumerate().filter(|(_, layer)| !matches!(layer.kind, LayerKind::Input)) {
        calls.push(LayerCall { layer, takes: vec![value], mask: None, number: 0.0 });
        value = ValueRef::Result { call: calls.len() - 1, at: 0 };
    }
    ModelSpec { layers, calls, inputs, outputs: vec![value] }
}

/// The inputs or outputs of a Functional model.
fn ends<'a>(fields: &Fields<'a>, field: &'static str) -> Result<Vec<TensorRef<'a>>> {
    let json = fields.get(field);
    let ends = json.and_then(links).filter(|links| !links.is_empty());
    ends.ok_or_else(|| fields.refuse(field, "a list of [layer, call, result]", &describe(json)))
}

/// All calls of all layers, as the file writes them.
fn json_calls<'a>(fields: &Fields<'_>, objects: &[JsonObject<'a>]) -> Result<Vec<JsonCall<'a>>> {
    let mut calls = Vec::new();
    for (layer, object) in objects.iter().enumerate() {
        let field = format!("{}: inbound_nodes", object.name);
        let nodes = object.json.get("inbound_nodes");
        let Some(Json::Array(nodes)) = nodes else {
            return Err(fields.refuse(&field, "a list", &describe(nodes)));
        };
        for (node, json) in nodes.iter().enumerate() {
            let call = JsonCall::read(json, layer, object.name, node);
            calls.push(call.map_err(|(expected, found)| fields.refuse(&field, expected, &found))?);
        }
    }
    Ok(calls)
}

/// The values of a model's inputs.
fn input_values<'a>(
    fields: &Fields<'_>,
    inputs: &[TensorRef<'a>],
    objects: &[JsonObject<'_>],
    layers: &[LayerSpec],
) -> Result<KnownValues<'a>> {
    let mut known = KnownValues::new();
    for (at, input) in inputs.iter().enumerate() {
        let layer = objects.iter().position(|object| object.name == input.layer);
        if !layer.is_some_and(|layer| matches!(layers[layer].kind, LayerKind::Input)) || input.node != 0 {
            return Err(fields.refuse("input_layers", "layers of the class InputLayer", input.layer));
        }
        known.insert((input.layer, 0), ValueRef::Input(at));
    }
    Ok(known)
}

/// The number of calls of a layer.
fn call_count(object: &JsonObject<'_>) -> usize {
    object.json.get("inbound_nodes").and_then(Json::as_array).map_or(0, Vec::len)
}

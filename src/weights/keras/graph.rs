//! Models: layers, and what flows between them.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::fields::describe;
use super::hdf5::Tree;
use super::parse::{Kind, Layer, Object, Parser};
use super::store::{self, List, Siblings, Store};
use crate::error::{Error, Result};

/// A Sequential or Functional model.
#[derive(Clone, Debug)]
pub(super) struct Graph {
    pub(super) layers: Vec<Layer>,
    /// The calls, each after those whose results it takes.
    pub(super) steps: Vec<Step>,
    /// Names of the inputs, in the order in which a caller hands them over.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<Value>,
}

/// One call of a layer.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// Index of the layer.
    pub(super) layer: usize,
    /// What it takes: its input; for a recurrent layer then its initial state.
    pub(super) takes: Vec<Value>,
    /// A mask other than the input's own.
    pub(super) mask: Option<Value>,
    /// The number that `ops.not_equal` compares with.
    pub(super) number: f32,
}

/// A value inside a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// An input of the model.
    Input(usize),
    /// A result of a step.
    Result {
        /// Index of the step.
        step: usize,
        /// Which of its results.
        at: usize,
    },
}

/// The call of a layer as the file writes it: results are named by layer, call and place.
struct Call<'a> {
    layer: usize,
    name: &'a str,
    node: usize,
    takes: Vec<Link<'a>>,
    mask: Option<Link<'a>>,
    number: f32,
}

#[derive(Clone, Copy)]
struct Link<'a> {
    layer: &'a str,
    node: usize,
    at: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn graph(&self, object: &Object<'_>, store: &Store<'_>, trainable: bool) -> Result<Graph> {
        let fields = object.fields()?;
        let Some(Json::Array(list)) = fields.get("layers") else {
            return Err(fields.refuse("layers", "a list of layers", &describe(fields.get("layers"))));
        };
        let siblings = store.layers("layers");
        let mut layers = Vec::new();
        let mut objects = Vec::new();
        // Messages name a layer by its path inside the outermost model.
        let prefix = if object.outermost { "" } else { object.path.as_str() };
        for json in list {
            let inner = self.named(prefix, json)?;
            layers.push(self.sibling(&inner, store, &siblings, trainable)?);
            objects.push(inner);
        }
        if object.class == "Sequential" {
            return Ok(chain(layers));
        }
        let refuse = |field: &str, expected: &str, json: Option<&Json>| fields.refuse(field, expected, &describe(json));
        let ends = |field: &'static str| {
            let json = fields.get(field);
            let ends = json.and_then(links).filter(|links| !links.is_empty());
            ends.ok_or_else(|| refuse(field, "a list of [layer, call, place]", json))
        };
        let (inputs, outputs) = (ends("input_layers")?, ends("output_layers")?);
        let mut calls = Vec::new();
        for (at, inner) in objects.iter().enumerate() {
            let nodes = inner.json.get("inbound_nodes");
            let Some(Json::Array(nodes)) = nodes else {
                return Err(refuse(&format!("{}: inbound_nodes", inner.name), "a list", nodes));
            };
            for (node, json) in nodes.iter().enumerate() {
                let call = call(json, at, inner.name, node);
                calls.push(call.map_err(|(expected, found)| {
                    fields.refuse(&format!("{}: inbound_nodes", inner.name), expected, &found)
                })?);
            }
        }
        let names = inputs.iter().map(|input| input.layer.to_owned()).collect();
        let mut known: HashMap<(&str, usize), Value> = HashMap::new();
        for (at, input) in inputs.iter().enumerate() {
            let layer = objects.iter().position(|object| object.name == input.layer);
            if !layer.is_some_and(|layer| matches!(layers[layer].kind, Kind::Input)) || input.node != 0 {
                return Err(fields.refuse("input_layers", "layers of the class InputLayer", input.layer));
            }
            known.insert((input.layer, 0), Value::Input(at));
        }
        let nodes: HashMap<&str, usize> = objects.iter().map(|object| (object.name, calls_of(object))).collect();
        let refused = |link: &Link<'_>, reader: &str| Error::Dangling {
            file: self.source.file.to_owned(),
            reader: reader.to_owned(),
            name: format!("{}:{}", link.layer, link.node),
        };
        for call in &calls {
            for link in call.takes.iter().chain(&call.mask) {
                let input = link.node == 0 && known.contains_key(&(link.layer, 0));
                if !input && nodes.get(link.layer).is_none_or(|&count| link.node >= count) {
                    return Err(refused(link, &format!("layer {}", call.name)));
                }
            }
        }
        let (steps, known) =
            order(calls, known).map_err(|nodes| Error::Cycle { file: self.source.file.to_owned(), nodes })?;
        let outputs = outputs.iter().map(|link| resolve(&known, link).ok_or_else(|| refused(link, "output_layers")));
        Ok(Graph { layers, steps, inputs: names, outputs: outputs.collect::<Result<_>>()? })
    }
}

impl Parser<'_> {
    fn sibling(
        &self,
        inner: &Object<'_>,
        store: &Store<'_>,
        siblings: &Siblings<'_>,
        trainable: bool,
    ) -> Result<Layer> {
        match store {
            Store::Whole { tree, root } => self.outermost(inner, tree, root),
            _ => self.layer(inner, &siblings.next(self.source, inner.class, inner.name)?, trainable),
        }
    }

    /// The one layer of a model that has this name; the others are not looked into.
    pub(super) fn inner(&self, model: &Object<'_>, store: &Store<'_>, name: &str) -> Result<Option<Layer>> {
        let fields = model.fields()?;
        let Some(Json::Array(list)) = fields.get("layers") else {
            return Err(fields.refuse("layers", "a list of layers", &describe(fields.get("layers"))));
        };
        let siblings = store.layers("layers");
        for json in list {
            let inner = self.named("", json)?;
            if inner.name == name {
                return self.sibling(&inner, store, &siblings, model.trainable()).map(Some);
            }
            if !matches!(store, Store::Whole { .. }) {
                siblings.next(self.source, inner.class, inner.name)?;
            }
        }
        Ok(None)
    }

    /// An outermost layer of a whole-model `.h5`, whose arrays are one list.
    fn outermost(&self, object: &Object<'_>, tree: &Tree, root: &str) -> Result<Layer> {
        let first = List::default();
        let layer = self.layer(object, &Store::List(&first), true)?;
        if first.asked() == 0 {
            return Ok(layer);
        }
        let paths = store::listed(tree, self.source, root, object.name)?;
        if paths.len() != first.asked() {
            let field = format!("layer {}: weight_names", object.name);
            return Err(self.source.refuse(&field, &format!("{} arrays", first.asked()), &paths.len().to_string()));
        }
        self.layer(object, &Store::List(&List::counted(&first, paths)), true)
    }
}

/// A Sequential model: each layer takes what the one before gives.
fn chain(layers: Vec<Layer>) -> Graph {
    let input = layers.iter().find(|layer| matches!(layer.kind, Kind::Input));
    let name = input.or(layers.first()).map_or("", |layer| layer.path.rsplit('/').next().unwrap_or_default());
    let inputs = vec![name.to_owned()];
    let mut steps = Vec::new();
    let mut value = Value::Input(0);
    for (layer, _) in layers.iter().enumerate().filter(|(_, layer)| !matches!(layer.kind, Kind::Input)) {
        steps.push(Step { layer, takes: vec![value], mask: None, number: 0.0 });
        value = Value::Result { step: steps.len() - 1, at: 0 };
    }
    Graph { layers, steps, inputs, outputs: vec![value] }
}

/// How often a layer is called.
fn calls_of(object: &Object<'_>) -> usize {
    object.json.get("inbound_nodes").and_then(Json::as_array).map_or(0, Vec::len)
}

fn resolve(known: &HashMap<(&str, usize), Value>, link: &Link<'_>) -> Option<Value> {
    match *known.get(&(link.layer, link.node))? {
        Value::Result { step, .. } => Some(Value::Result { step, at: link.at }),
        input => (link.at == 0).then_some(input),
    }
}

type Known<'a> = HashMap<(&'a str, usize), Value>;

/// Puts the calls in an order in which each finds what it takes; the names of those that never do.
fn order<'a>(
    mut calls: Vec<Call<'a>>,
    mut known: Known<'a>,
) -> std::result::Result<(Vec<Step>, Known<'a>), Vec<String>> {
    let mut steps: Vec<Step> = Vec::new();
    while !calls.is_empty() {
        let before = steps.len();
        let mut waiting = Vec::new();
        for call in calls {
            let takes: Option<Vec<Value>> = call.takes.iter().map(|link| resolve(&known, link)).collect();
            let mask = call.mask.as_ref().map(|link| resolve(&known, link));
            match (takes, mask) {
                (Some(takes), None | Some(Some(_))) => {
                    known.insert((call.name, call.node), Value::Result { step: steps.len(), at: 0 });
                    steps.push(Step { layer: call.layer, takes, mask: mask.flatten(), number: call.number });
                }
                _ => waiting.push(call),
            }
        }
        if steps.len() == before {
            return Err(waiting.iter().map(|call| format!("layer {}", call.name)).take(10).collect());
        }
        calls = waiting;
    }
    Ok((steps, known))
}

/// `[layer, call, place]`, or a list of such.
fn links(json: &Json) -> Option<Vec<Link<'_>>> {
    match json.as_array()?.first() {
        Some(Json::String(_)) => Some(vec![link(json)?]),
        _ => json.as_array()?.iter().map(link).collect(),
    }
}

fn link(json: &Json) -> Option<Link<'_>> {
    let [layer, node, at, ..] = json.as_array()?.as_slice() else {
        return None;
    };
    let whole = |json: &Json| json.as_u64().and_then(|n| usize::try_from(n).ok());
    Some(Link { layer: layer.as_str()?, node: whole(node)?, at: whole(at)? })
}

/// What a call refuses: what was expected, and what was found.
type Refusal = (&'static str, String);

fn call<'a>(json: &'a Json, layer: usize, name: &'a str, node: usize) -> std::result::Result<Call<'a>, Refusal> {
    let mut call = Call { layer, name, node, takes: Vec::new(), mask: None, number: 0.0 };
    let mut options = Vec::new();
    match json {
        // Keras 3: { args, kwargs }.
        Json::Object(map) => {
            for argument in map.get("args").and_then(Json::as_array).map_or(&[][..], Vec::as_slice) {
                call.argument(argument)?;
            }
            options.extend(map.get("kwargs").and_then(Json::as_object));
        }
        // Keras 2: a list of [layer, call, place, options].
        Json::Array(_) => {
            let parts = links(json).ok_or_else(|| ("[layer, call, place, options]", describe(Some(json))))?;
            call.takes.extend(parts);
            let last = |part: &'a Json| part.as_array().and_then(|part| part.get(3)).and_then(Json::as_object);
            let list = json.as_array().map_or(&[][..], Vec::as_slice);
            options.extend(list.iter().filter_map(last));
        }
        other => return Err(("a call", describe(Some(other)))),
    }
    for (option, value) in options.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        match option.as_str() {
            "training" if value == &Json::Bool(false) => {}
            "mask" => {
                let mask = tensor(value).or_else(|| link(value));
                call.mask = Some(mask.ok_or_else(|| ("a mask computed in the model", describe(Some(value))))?);
            }
            "initial_state" => call.argument(value)?,
            _ => return Err(("no option but mask and initial_state", format!("{option} {}", describe(Some(value))))),
        }
    }
    if call.takes.is_empty() {
        return Err(("a call with an input", describe(Some(json))));
    }
    Ok(call)
}

/// A tensor as Keras 3 writes it.
fn tensor(json: &Json) -> Option<Link<'_>> {
    (json.get("class_name")? == "__keras_tensor__").then(|| link(json.get("config")?.get("keras_history")?))?
}

impl<'a> Call<'a> {
    #[expect(clippy::cast_possible_truncation, reason = "narrowed to the precision that layers compute in")]
    fn argument(&mut self, json: &'a Json) -> std::result::Result<(), Refusal> {
        match json {
            Json::Array(list) => match link(json) {
                Some(link) => self.takes.push(link),
                None => list.iter().try_for_each(|one| self.argument(one))?,
            },
            Json::Number(number) => self.number = number.as_f64().unwrap_or_default() as f32,
            Json::Null => {}
            other => self.takes.push(tensor(other).ok_or_else(|| ("a tensor of the model", describe(Some(other))))?),
        }
        Ok(())
    }
}

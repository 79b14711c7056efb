//! The calls of a Functional model's layers, as the file writes them.

use serde_json::Value as Json;

use super::{KnownValues, LayerCall, ValueRef};
use crate::weights::keras::fields::describe;

/// A call of a layer. Its results are named by layer, call and index.
pub(super) struct JsonCall<'a> {
    /// The index of the layer.
    layer: usize,
    pub(super) name: &'a str,
    /// The index of the call among the calls of the layer.
    node: usize,
    pub(super) takes: Vec<TensorRef<'a>>,
    pub(super) mask: Option<TensorRef<'a>>,
    number: f32,
}

/// A result of a call.
#[derive(Clone, Copy)]
pub(super) struct TensorRef<'a> {
    pub(super) layer: &'a str,
    /// The index of the call among the calls of the layer.
    pub(super) node: usize,
    /// The index among the results of the call.
    at: usize,
}

/// The expected and the found content of a call that is refused.
type Refusal = (&'static str, String);

impl<'a> JsonCall<'a> {
    /// Reads the call `node` of a layer.
    pub(super) fn read(json: &'a Json, layer: usize, name: &'a str, node: usize) -> std::result::Result<Self, Refusal> {
        let mut call = JsonCall { layer, name, node, takes: Vec::new(), mask: None, number: 0.0 };
        let mut options = Vec::new();
        match json {
            // Keras 3: { args, kwargs }.
            Json::Object(map) => {
                for argument in map.get("args").and_then(Json::as_array).map_or(&[][..], Vec::as_slice) {
                    call.argument(argument)?;
                }
                options.extend(map.get("kwargs").and_then(Json::as_object));
            }
            // Keras 2: a list of [layer, call, result, options].
            Json::Array(list) => {
                let parts = links(json).ok_or_else(|| ("[layer, call, result, options]", describe(Some(json))))?;
                call.takes.extend(parts);
                let last = |part: &'a Json| part.as_array().and_then(|part| part.get(3)).and_then(Json::as_object);
                options.extend(list.iter().filter_map(last));
            }
            other => return Err(("a call", describe(Some(other)))),
        }
        for (option, value) in options.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            call.option(option, value)?;
        }
        if call.takes.is_empty() {
            return Err(("a call with an input", describe(Some(json))));
        }
        Ok(call)
    }

    fn option(&mut self, option: &str, value: &'a Json) -> std::result::Result<(), Refusal> {
        match option {
            "training" if value == &Json::Bool(false) => {}
            "mask" => {
                let mask = tensor(value).or_else(|| link(value));
                self.mask = Some(mask.ok_or_else(|| ("a mask computed in the model", describe(Some(value))))?);
            }
            "initial_state" => self.argument(value)?,
            _ => return Err(("no option but mask and initial_state", format!("{option} {}", describe(Some(value))))),
        }
        Ok(())
    }

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

/// A list of `[layer, call, result]`, or a single one.
pub(super) fn links(json: &Json) -> Option<Vec<TensorRef<'_>>> {
    match json.as_array()?.first() {
        Some(Json::String(_)) => Some(vec![link(json)?]),
        _ => json.as_array()?.iter().map(link).collect(),
    }
}

/// A reference `[layer, call, result]`.
fn link(json: &Json) -> Option<TensorRef<'_>> {
    let [layer, node, at, ..] = json.as_array()?.as_slice() else {
        return None;
    };
    let whole = |json: &Json| json.as_u64().and_then(|n| usize::try_from(n).ok());
    Some(TensorRef { layer: layer.as_str()?, node: whole(node)?, at: whole(at)? })
}

/// A reference as Keras 3 writes it.
fn tensor(json: &Json) -> Option<TensorRef<'_>> {
    (json.get("class_name")? == "__keras_tensor__").then(|| link(json.get("config")?.get("keras_history")?))?
}

/// The value that a reference leads to, if its call is known.
pub(super) fn resolve(known: &KnownValues<'_>, link: &TensorRef<'_>) -> Option<ValueRef> {
    match *known.get(&(link.layer, link.node))? {
        ValueRef::Result { call, .. } => Some(ValueRef::Result { call, at: link.at }),
        input => (link.at == 0).then_some(input),
    }
}

/// Sorts the calls so that each comes after the calls whose results it takes.
///
/// # Errors
/// The names of calls that wait for each other.
pub(super) fn ordered<'a>(
    mut calls: Vec<JsonCall<'a>>,
    mut known: KnownValues<'a>,
) -> std::result::Result<(Vec<LayerCall>, KnownValues<'a>), Vec<String>> {
    let mut sorted: Vec<LayerCall> = Vec::new();
    while !calls.is_empty() {
        let before = sorted.len();
        let mut waiting = Vec::new();
        for call in calls {
            let takes: Option<Vec<ValueRef>> = call.takes.iter().map(|link| resolve(&known, link)).collect();
            let mask = call.mask.as_ref().map(|link| resolve(&known, link));
            match (takes, mask) {
                (Some(takes), None | Some(Some(_))) => {
                    known.insert((call.name, call.node), ValueRef::Result { call: sorted.len(), at: 0 });
                    sorted.push(LayerCall { layer: call.layer, takes, mask: mask.flatten(), number: call.number });
                }
                _ => waiting.push(call),
            }
        }
        if sorted.len() == before {
            return Err(waiting.iter().map(|call| format!("layer {}", call.name)).take(10).collect());
        }
        calls = waiting;
    }
    Ok((sorted, known))
}

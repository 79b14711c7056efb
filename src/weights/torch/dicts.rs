//! The state dicts of a checkpoint, found by the path of keys that leads to them.

use super::advice;
use super::pickle::{Id, Pickle, Value};
use super::tensor::TensorCall;
use crate::error::Error;
use crate::text::listed;
use crate::weights::FileName;

/// The most dicts inside each other that are searched.
const DEPTH: usize = 16;

/// The longest key in bytes behind which a dict is searched.
const LONGEST_KEY: usize = 1024;

/// A dict of a checkpoint.
struct Nested<'a> {
    id: Id,
    /// The dict around it, by its place in the list, and the key there.
    outer: Option<(usize, &'a str)>,
    depth: usize,
}

/// An entry of a state dict.
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    Tensor(TensorCall),
    /// An object of a class, for example a NumPy array.
    Object {
        module: &'a str,
        class: &'a str,
    },
}

/// The dicts of a checkpoint that are reached by names.
pub(super) struct Dicts<'p, 'a> {
    pickle: &'p Pickle<'a>,
    nested: Vec<Nested<'a>>,
    /// Whether every dict's tensors get the path of the dict before their names.
    with_paths: bool,
    /// The places of the state dicts.
    states: Vec<usize>,
}

impl<'p, 'a> Dicts<'p, 'a> {
    /// Finds the dicts that hold a tensor with at least one axis. A number alone, such as the best score, makes no state dict.
    pub(super) fn find(pickle: &'p Pickle<'a>) -> Self {
        let nested = reached(pickle);
        let is_state = |&at: &usize| {
            let mut tensors = entries(pickle, nested[at].id).filter_map(|(_, value)| TensorCall::of(pickle, value));
            tensors.any(|tensor| tensor.has_axes(pickle))
        };
        let states: Vec<usize> = (0..nested.len()).filter(is_state).collect();
        let mut dicts = Self { pickle, nested, with_paths: states.len() > 1, states };
        // A checkpoint of PyTorch Lightning has its weights in one known place, and tensors of other kinds in other places.
        if let Some(state) = dicts.lightning() {
            (dicts.states, dicts.with_paths) = (vec![state], false);
        }
        dicts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The state dict of a checkpoint of PyTorch Lightning.
    fn lightning(&self) -> Option<usize> {
        let has_version = entries(self.pickle, self.pickle.root()).any(|(key, _)| key == "pytorch-lightning_version");
        let mut states = self.states.iter().copied();
        states.find(|&at| has_version && self.nested[at].outer == Some((0, "state_dict")))
    }

    /// The state dicts as messages show them.
    pub(super) fn paths(&self) -> Vec<String> {
        self.states.iter().map(|&at| self.path(at)).collect()
    }

    /// The keys that lead to a dict, each with a dot behind it.
    fn path(&self, mut at: usize) -> String {
        let mut keys = Vec::new();
        while let Some((outer, key)) = self.nested[at].outer {
            keys.push(key);
            at = outer;
        }
        keys.iter().rev().flat_map(|key| [key, "."]).collect()
    }

    /// Calls `visit` with the path of every state dict, and a name and an entry of it.
    pub(super) fn visit<E>(&self, mut visit: impl FnMut(&str, &'a str, Found<'a>) -> Result<(), E>) -> Result<(), E> {
        for &at in &self.states {
            let path = if self.with_paths { self.path(at) } else { String::new() };
            for (name, value) in entries(self.pickle, self.nested[at].id) {
                if let Some(found) = found(self.pickle, value) {
                    visit(&path, name, found)?;
                }
            }
        }
        Ok(())
    }

    /// The error for a checkpoint without a state dict.
    pub(super) fn refusal(&self, file: FileName<'_>) -> Error {
        let (pickle, root) = (self.pickle, self.pickle.root());
        let refuse = |found: String| file.refuse("checkpoint", "a state dict, which has tensors by name", found);
        let instance = |id: Id| match pickle.get(id) {
            &Value::Call { function, instance: true, .. } => pickle.global(function),
            _ => None,
        };
        if let Some((module, class)) = instance(root) {
            return refuse(format!("an object of the class {module}.{class}; {}", advice::module("")));
        }
        let objects = entries(pickle, root).filter_map(|(key, value)| Some((key, instance(value)?)));
        let objects: Vec<(&str, (&str, &str))> = objects.collect();
        if let Some((key, _)) = objects.first() {
            let named: Vec<String> =
                objects.iter().map(|(key, (module, class))| format!("{key} of the class {module}.{class}")).collect();
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-. ".contains(c);
            let index = if key.chars().all(plain) { format!("[\"{key}\"]") } else { "[KEY]".to_owned() };
            return refuse(format!("objects: {}; {}", listed(&named, ", "), advice::module(&index)));
        }
        refuse(match pickle.get(root) {
            _ if TensorCall::of(pickle, root).is_some() => "a tensor without a name".to_owned(),
            Value::Dict(entries) if entries.is_empty() => "an empty dict".to_owned(),
            Value::Dict(_) => {
                let keys: Vec<&str> = entries(pickle, root).map(|(key, _)| key).collect();
                format!("a dict without tensors, with the keys {}", listed(&keys, ", "))
            }
            Value::List(_) | Value::Tuple(_) => "a list".to_owned(),
            _ => "another value".to_owned(),
        })
    }
}

/// The dicts that are reached from the outermost value by names, each once, the outer ones first.
fn reached<'a>(pickle: &Pickle<'a>) -> Vec<Nested<'a>> {
    let mut seen = vec![false; pickle.len()];
    let mut nested = Vec::new();
    let mut add = |nested: &mut Vec<Nested<'a>>, id, outer, depth| {
        let is_dict = matches!(pickle.get(id), Value::Dict(_));
        if is_dict && depth < DEPTH && !std::mem::replace(&mut seen[pickle.index(id)], true) {
            nested.push(Nested { id, outer, depth });
        }
    };
    add(&mut nested, pickle.root(), None, 0);
    let mut at = 0;
    while let Some(&Nested { id, depth, .. }) = nested.get(at) {
        let inner = entries(pickle, id).filter(|(key, _)| key.len() <= LONGEST_KEY);
        inner.for_each(|(key, value)| add(&mut nested, value, Some((at, key)), depth + 1));
        at += 1;
    }
    nested
}

/// The entries of a dict whose keys are texts.
fn entries<'a>(pickle: &Pickle<'a>, id: Id) -> impl Iterator<Item = (&'a str, Id)> {
    let entries = match pickle.get(id) {
        Value::Dict(entries) => entries.as_slice(),
        _ => &[],
    };
    entries.iter().filter_map(|&(key, value)| Some((pickle.text(key)?, value)))
}

/// The tensor or object of an entry; `None` for numbers, texts, lists and dicts.
fn found<'a>(pickle: &Pickle<'a>, id: Id) -> Option<Found<'a>> {
    if let Some(tensor) = TensorCall::of(pickle, id) {
        return Some(Found::Tensor(tensor));
    }
    match pickle.get(id) {
        &Value::Call { function, .. } => pickle.global(function).map(|(module, class)| Found::Object { module, class }),
        _ => None,
    }
}

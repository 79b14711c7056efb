//! Where a layer's arrays lie in the file.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::hdf5::Tree;
use super::{MOST_ARRAYS, Source};
use crate::error::Result;

/// The place of a layer's arrays, as the kind of file has it.
#[derive(Clone)]
pub(super) enum Store<'a> {
    /// `layers/lstm/cell/vars/0`: a group a layer, named after its class (Keras 3, and Keras 2's `.keras`).
    Tree {
        /// The file's tree.
        tree: &'a Tree,
        /// The layer's group; empty for the model.
        group: String,
    },
    /// A whole-model `.h5`: a group an outermost layer, named after it.
    Whole {
        /// The file's tree.
        tree: &'a Tree,
        /// The group of all layers.
        root: &'a str,
    },
    /// One list of the outermost layer's arrays, handed out in order (whole-model `.h5`).
    List(&'a List),
}

/// The arrays of an outermost layer in a whole-model `.h5`: those that were trained, then the frozen ones.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Paths of the arrays; empty while a first pass counts how many there should be.
    pub(super) paths: Vec<String>,
    trained: Cell<usize>,
    frozen: Cell<usize>,
}

impl List {
    /// The list after a first pass over the same configuration.
    pub(super) fn counted(first: &Self, paths: Vec<String>) -> Self {
        Self { paths, trained: Cell::new(0), frozen: Cell::new(first.trained.get()) }
    }

    /// How many arrays a first pass has asked for.
    pub(super) fn asked(&self) -> usize {
        self.trained.get() + self.frozen.get()
    }
}

impl<'a> Store<'a> {
    /// The place of a layer that another holds under this attribute.
    pub(super) fn child(&self, attribute: &str) -> Self {
        match self {
            Self::Tree { tree, group } => Self::Tree { tree, group: join(group, attribute) },
            other => other.clone(),
        }
    }

    /// Paths of the layer's own arrays.
    pub(super) fn arrays(&self, source: Source<'_>, layer: &str, count: usize, trainable: bool) -> Result<Vec<String>> {
        match self {
            Self::Tree { tree, group } => {
                let path = |at: usize| format!("{}/{at}", join(group, "vars"));
                if tree.has(&path(count)) {
                    let expected = format!("{count} arrays of layer {layer}");
                    return Err(source.refuse(&join(group, "vars"), &expected, "more"));
                }
                Ok((0..count).map(path).collect())
            }
            Self::Whole { root, .. } => {
                Err(source.refuse(root, &format!("a layer around the arrays of {layer}"), "none"))
            }
            Self::List(list) => {
                let counter = if trainable { &list.trained } else { &list.frozen };
                let first = counter.get();
                counter.set(first + count);
                // The first pass only counts.
                let path = |at: usize| list.paths.get(at).cloned().unwrap_or_default();
                Ok((first..first + count).map(path).collect())
            }
        }
    }

    /// The places of a model's layers, which come in the model's order.
    pub(super) fn layers(&self, attribute: &str) -> Siblings<'a> {
        Siblings { store: self.child(attribute), taken: RefCell::new(HashMap::new()) }
    }
}

/// Places of layers that a list holds: each is named after its class, with a number from the second of a class on.
pub(super) struct Siblings<'a> {
    store: Store<'a>,
    taken: RefCell<HashMap<String, usize>>,
}

impl<'a> Siblings<'a> {
    /// The place of the next layer.
    pub(super) fn next(&self, source: Source<'_>, class: &str, name: &str) -> Result<Store<'a>> {
        let Store::Tree { tree, group } = &self.store else {
            return Ok(self.store.clone());
        };
        let stem = snake_case(class);
        let mut taken = self.taken.borrow_mut();
        let number = taken.entry(stem.clone()).and_modify(|n| *n += 1).or_insert(0);
        let own = if *number == 0 { join(group, &stem) } else { format!("{}_{number}", join(group, &stem)) };
        // Keras 3 writes the layer's name beside its arrays.
        let named = |path: &str| tree.text(&join(path, "vars"), "name");
        let group = match named(&own)? {
            Some(other) if other != name => {
                let mut found = None;
                for (_, path) in tree.groups(group) {
                    if named(path)?.as_deref() == Some(name) {
                        found = Some(path.to_owned());
                    }
                }
                found.ok_or_else(|| {
                    source.refuse(&own, &format!("the arrays of layer {name}"), &format!("those of {other}"))
                })?
            }
            _ => own,
        };
        Ok(Store::Tree { tree, group })
    }
}

fn join(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{group}/{name}") }
}

/// A class's name as Keras' `to_snake_case` writes it: `SimpleRNN` is `simple_rnn`, `LSTMCell` is `lstm_cell`.
fn snake_case(class: &str) -> String {
    let letters: Vec<char> = class.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect();
    let mut name = String::new();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let begins = letters.get(at + 1).is_some_and(|next| next.is_lowercase());
        if letter.is_uppercase() && before.is_some_and(|before| begins || before.is_lowercase()) {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

/// The arrays of an outermost layer in a whole-model `.h5`.
pub(super) fn listed(tree: &Tree, source: Source<'_>, root: &str, layer: &str) -> Result<Vec<String>> {
    let group = join(root, layer);
    let Some(names) = tree.list(&group, "weight_names")? else {
        return Err(source.refuse(&group, "a group with the attribute weight_names", "none"));
    };
    if names.len() > MOST_ARRAYS {
        return Err(source.too_large(&group, &format!("{MOST_ARRAYS} arrays"), &names.len().to_string()));
    }
    Ok(names.iter().map(|name| join(&group, name)).collect())
}

#[cfg(test)]
mod tests {
    use super::snake_case;

    #[test]
    fn classes_are_written_as_keras_writes_them() {
        for (class, name) in [
            ("SimpleRNN", "simple_rnn"),
            ("LSTM", "lstm"),
            ("LSTMCell", "lstm_cell"),
            ("StackedRNNCells", "stacked_rnn_cells"),
            ("TimeDistributed", "time_distributed"),
            ("Conv1D", "conv1d"),
            ("CuDNNLSTM", "cu_dnnlstm"),
        ] {
            assert_eq!(snake_case(class), name);
        }
    }
}

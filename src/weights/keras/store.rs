//! The paths of a layer's arrays in the file.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::hdf5::Tree;
use super::{FileName, MOST_ARRAYS};
use crate::error::Result;

/// The location of a layer's arrays, which depends on the kind of file.
#[derive(Clone)]
pub(super) enum ArrayStore<'a> {
    /// `layers/lstm/cell/vars/0`: one group per layer, named after its class (Keras 3, and Keras 2's `.keras`).
    Tree {
        tree: &'a Tree,
        /// The group of the layer; empty for the model.
        group: String,
    },
    /// A whole-model `.h5`: one group per outermost layer, with the layer's name.
    Whole {
        tree: &'a Tree,
        /// The group of all layers.
        root: &'a str,
    },
    /// The list of an outermost layer's arrays, handed out in order (whole-model `.h5`).
    List(&'a ArrayList),
}

/// The arrays of an outermost layer in a whole-model `.h5`: first the trainable ones, then the frozen ones.
#[derive(Debug, Default)]
pub(super) struct ArrayList {
    /// The paths of the arrays; empty during the first pass, which only counts arrays.
    pub(super) paths: Vec<String>,
    /// The index of the next trainable array.
    trained: Cell<usize>,
    /// The index of the next frozen array.
    frozen: Cell<usize>,
}

impl ArrayList {
    /// The list for the second pass over the configuration. `first` holds the counts of the first pass.
    pub(super) fn counted(first: &Self, paths: Vec<String>) -> Self {
        Self { paths, trained: Cell::new(0), frozen: Cell::new(first.trained.get()) }
    }

    /// The number of arrays that the first pass has asked for.
    pub(super) fn asked(&self) -> usize {
        self.trained.get() + self.frozen.get()
    }
}

impl<'a> ArrayStore<'a> {
    /// The location of an inner layer, which another layer holds under this attribute.
    pub(super) fn child(&self, attribute: &str) -> Self {
        match self {
            Self::Tree { tree, group } => Self::Tree { tree, group: join(group, attribute) },
            other => other.clone(),
        }
    }

    /// The paths of the `count` arrays of a layer.
    pub(super) fn arrays(&self, file: FileName<'_>, layer: &str, count: usize, trainable: bool) -> Result<Vec<String>> {
        match self {
            Self::Tree { tree, group } => {
                let path = |at: usize| format!("{}/{at}", join(group, "vars"));
                if tree.has(&path(count)) {
                    let expected = format!("{count} arrays of layer {layer}");
                    return Err(file.refuse(&join(group, "vars"), &expected, "more"));
                }
                Ok((0..count).map(path).collect())
            }
            Self::Whole { root, .. } => Err(file.refuse(root, format!("a layer around the arrays of {layer}"), "none")),
            Self::List(list) => {
                let counter = if trainable { &list.trained } else { &list.frozen };
                let first = counter.get();
                counter.set(first + count);
                let path = |at: usize| list.paths.get(at).cloned().unwrap_or_default();
                Ok((first..first + count).map(path).collect())
            }
        }
    }

    /// The locations of the layers of a model. The caller must take them in the order of the model.
    pub(super) fn layers(&self, attribute: &str) -> SiblingStores<'a> {
        SiblingStores { store: self.child(attribute), taken: RefCell::new(HashMap::new()) }
    }
}

/// The locations of layers in one list. A group has the name of its layer's class, with a number from the second layer of the
/// class on.
pub(super) struct SiblingStores<'a> {
    store: ArrayStore<'a>,
    /// Per class name: the number of the last layer.
    taken: RefCell<HashMap<String, usize>>,
}

impl<'a> SiblingStores<'a> {
    /// The location of the next layer.
    pub(super) fn next(&self, file: FileName<'_>, class: &str, name: &str) -> Result<ArrayStore<'a>> {
        let ArrayStore::Tree { tree, group } = &self.store else {
            return Ok(self.store.clone());
        };
        let stem = snake_case(class);
        let mut taken = self.taken.borrow_mut();
        let number = taken.entry(stem.clone()).and_modify(|n| *n += 1).or_insert(0);
        let own = if *number == 0 { join(group, &stem) } else { format!("{}_{number}", join(group, &stem)) };
        // Keras 3 writes the name of the layer next to its arrays.
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
                    file.refuse(&own, format!("the arrays of layer {name}"), format!("those of {other}"))
                })?
            }
            _ => own,
        };
        Ok(ArrayStore::Tree { tree, group })
    }
}

fn join(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{group}/{name}") }
}

/// The name of a class in snake case, as Keras' `to_snake_case` writes it: `SimpleRNN` becomes `simple_rnn`.
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

/// The paths of the arrays of an outermost layer in a whole-model `.h5`.
pub(super) fn listed(tree: &Tree, file: FileName<'_>, root: &str, layer: &str) -> Result<Vec<String>> {
    let group = join(root, layer);
    let Some(names) = tree.list(&group, "weight_names")? else {
        return Err(file.refuse(&group, "a group with the attribute weight_names", "none"));
    };
    if names.len() > MOST_ARRAYS {
        return Err(file.too_large(&group, format!("{MOST_ARRAYS} arrays"), names.len().to_string()));
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

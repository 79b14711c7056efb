//! Names, and the order in which nodes run.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::onnx::attributes::Site;
use crate::onnx::proto::GraphProto;
use crate::onnx::tensor::Source;
use crate::onnx::value::Value;

/// A value by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::onnx) struct ValueId(pub(in crate::onnx) usize);

/// Who defines a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Input,
    Initializer,
    Node(usize),
}

impl Source<'_> {
    fn dangling(&self, reader: String, name: &str) -> Error {
        Error::Dangling { file: self.file.to_owned(), reader, name: name.to_owned() }
    }
}

/// All values of a graph, each defined once, and the nodes sorted.
pub(super) struct Names<'a> {
    values: HashMap<&'a str, (ValueId, Origin)>,
    /// Every node after those whose outputs it reads.
    order: Vec<usize>,
}

impl<'a> Names<'a> {
    /// # Errors
    /// [`Error::Duplicate`] for a value that is defined twice, [`Error::Dangling`] for one that is read but not defined,
    /// [`Error::Cycle`] for one that is defined by itself.
    pub(super) fn new(graph: &'a GraphProto, source: Source<'_>, constants: &BTreeMap<&'a str, Value>) -> Result<Self> {
        let mut values: HashMap<&'a str, (ValueId, Origin)> = HashMap::new();
        let mut define = |name: &'a str, origin: Origin| {
            let id = ValueId(values.len());
            match values.entry(name) {
                std::collections::hash_map::Entry::Occupied(entry) => Some(entry.get().1),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert((id, origin));
                    None
                }
            }
        };
        for name in constants.keys() {
            define(name, Origin::Initializer);
        }
        for info in &graph.input {
            if info.name.is_empty() {
                return Err(source.refuse("input", "a name", "none"));
            }
            // An input that is initialized as well is a constant: what a caller may leave out, he leaves out.
            match define(&info.name, Origin::Input) {
                None | Some(Origin::Initializer) => {}
                Some(_) => return Err(source.again("an input of the graph", &info.name, "another")),
            }
        }
        let site = |index: usize| Site::new(source.file, index, &graph.node[index]);
        for (index, node) in graph.node.iter().enumerate() {
            if node.output.iter().all(String::is_empty) {
                return Err(site(index).refuse("outputs", "at least one", "none"));
            }
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                if let Some(origin) = define(name, Origin::Node(index)) {
                    let first = match origin {
                        Origin::Input => "an input of the graph".to_owned(),
                        Origin::Initializer => "an initializer".to_owned(),
                        Origin::Node(first) => site(first).node,
                    };
                    return Err(source.again(site(index).node, name, first));
                }
            }
        }
        for (index, node) in graph.node.iter().enumerate() {
            if let Some(name) = node.input.iter().find(|name| !name.is_empty() && !values.contains_key(name.as_str())) {
                return Err(source.dangling(site(index).node, name));
            }
        }
        let mut returned = HashSet::new();
        for info in &graph.output {
            if !values.contains_key(info.name.as_str()) {
                return Err(source.dangling("the list of outputs".to_owned(), &info.name));
            }
            if !returned.insert(info.name.as_str()) {
                return Err(source.again("the list of outputs", &info.name, "the same list"));
            }
        }
        if graph.output.is_empty() {
            return Err(source.refuse("output", "at least one", "none"));
        }
        let mut names = Self { values, order: Vec::new() };
        names.order = names.sorted(graph);
        if names.order.len() < graph.node.len() {
            let mut done = vec![false; graph.node.len()];
            names.order.iter().for_each(|&index| done[index] = true);
            let nodes = (0..done.len()).filter(|&at| !done[at]).take(8).map(|at| site(at).node).collect();
            return Err(Error::Cycle { file: source.file.to_owned(), nodes });
        }
        Ok(names)
    }

    /// The nodes that a node reads from.
    fn sources<'b>(&'b self, graph: &'b GraphProto, index: usize) -> impl Iterator<Item = usize> + 'b {
        graph.node[index].input.iter().filter_map(|name| match self.values.get(name.as_str()) {
            Some((_, Origin::Node(from))) => Some(*from),
            _ => None,
        })
    }

    /// As many nodes as can be sorted: those in a cycle, and behind one, are left out.
    fn sorted(&self, graph: &GraphProto) -> Vec<usize> {
        let count = graph.node.len();
        let mut readers = vec![Vec::new(); count];
        let mut missing = vec![0_usize; count];
        for index in 0..count {
            for from in self.sources(graph, index) {
                readers[from].push(index);
                missing[index] += 1;
            }
        }
        let mut order: Vec<usize> = (0..count).filter(|&index| missing[index] == 0).collect();
        let mut at = 0;
        while at < order.len() {
            for &reader in &readers[order[at]] {
                missing[reader] -= 1;
                if missing[reader] == 0 {
                    order.push(reader);
                }
            }
            at += 1;
        }
        order
    }

    /// The nodes that some output of the graph needs, in order.
    pub(super) fn live(&self, graph: &GraphProto) -> Vec<usize> {
        let mut needed = vec![false; graph.node.len()];
        for info in &graph.output {
            if let Some((_, Origin::Node(from))) = self.values.get(info.name.as_str()) {
                needed[*from] = true;
            }
        }
        for &index in self.order.iter().rev() {
            if needed[index] {
                self.sources(graph, index).for_each(|from| needed[from] = true);
            }
        }
        self.order.iter().copied().filter(|&index| needed[index]).collect()
    }

    /// Which values some live node or some output of the graph reads.
    pub(super) fn wanted(&self, graph: &GraphProto, live: &[usize]) -> Vec<bool> {
        let mut wanted = vec![false; self.values.len()];
        let read = live.iter().flat_map(|&index| &graph.node[index].input);
        for name in read.chain(graph.output.iter().map(|info| &info.name)) {
            if let Some(id) = self.find(name) {
                wanted[id.0] = true;
            }
        }
        wanted
    }

    pub(super) fn find(&self, name: &str) -> Option<ValueId> {
        self.values.get(name).map(|(id, _)| *id)
    }

    /// An input that a caller must give.
    pub(super) fn input(&self, name: &str) -> Option<ValueId> {
        self.values.get(name).and_then(|(id, origin)| (*origin == Origin::Input).then_some(*id))
    }

    pub(super) fn count(&self) -> usize {
        self.values.len()
    }
}

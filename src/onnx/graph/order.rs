//! The values of a graph by name, and the order in which its nodes run.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::error::{Error, Result};
use crate::onnx::attributes::Site;
use crate::onnx::proto::GraphProto;
use crate::onnx::tensor::ModelFile;
use crate::onnx::value::Value;

/// The index of a value in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::onnx) struct ValueId(pub(in crate::onnx) usize);

/// The definition of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Input,
    Initializer,
    Node(usize),
}

/// All values of a graph, each defined once, and the nodes sorted.
pub(super) struct ValueNames<'a> {
    values: HashMap<&'a str, (ValueId, Origin)>,
    /// The nodes, each after the nodes whose outputs it reads.
    order: Vec<usize>,
}

impl<'a> ValueNames<'a> {
    /// Names all values of a graph and sorts its nodes.
    ///
    /// # Errors
    /// [`Error::Duplicate`] for a value that is defined twice, [`Error::Dangling`] for one that is read but not defined,
    /// [`Error::Cycle`] for nodes that wait for each other.
    pub(super) fn new(
        graph: &'a GraphProto,
        file: ModelFile<'_>,
        constants: &BTreeMap<&'a str, Value>,
    ) -> Result<Self> {
        let mut names = Self { values: HashMap::new(), order: Vec::new() };
        for name in constants.keys() {
            names.define(name, Origin::Initializer);
        }
        names.define_inputs(graph, file)?;
        names.define_results(graph, file)?;
        names.check_reads(graph, file)?;
        names.check_outputs(graph, file)?;
        names.order = names.sorted(graph);
        if names.order.len() < graph.node.len() {
            let mut done = vec![false; graph.node.len()];
            names.order.iter().for_each(|&index| done[index] = true);
            let waiting = (0..done.len()).filter(|&at| !done[at]).take(8);
            let nodes = waiting.map(|at| site(file, graph, at).node).collect();
            return Err(Error::Cycle { file: file.name.0.to_owned(), nodes });
        }
        Ok(names)
    }

    /// Defines a value; returns its earlier definition, if there is one.
    fn define(&mut self, name: &'a str, origin: Origin) -> Option<Origin> {
        let id = ValueId(self.values.len());
        match self.values.entry(name) {
            Entry::Occupied(entry) => Some(entry.get().1),
            Entry::Vacant(entry) => {
                entry.insert((id, origin));
                None
            }
        }
    }

    fn define_inputs(&mut self, graph: &'a GraphProto, file: ModelFile<'_>) -> Result<()> {
        for info in &graph.input {
            if info.name.is_empty() {
                return Err(file.refuse("input", "a name", "none"));
            }
            // An input with an initializer counts as a constant: callers do not give it.
            match self.define(&info.name, Origin::Input) {
                None | Some(Origin::Initializer) => {}
                Some(_) => return Err(file.name.duplicate("an input of the graph", &info.name, "another")),
            }
        }
        Ok(())
    }

    fn define_results(&mut self, graph: &'a GraphProto, file: ModelFile<'_>) -> Result<()> {
        for (index, node) in graph.node.iter().enumerate() {
            if node.output.iter().all(String::is_empty) {
                return Err(site(file, graph, index).refuse("outputs", "at least one", "none"));
            }
            for name in node.output.iter().filter(|name| !name.is_empty()) {
                if let Some(origin) = self.define(name, Origin::Node(index)) {
                    let first = match origin {
                        Origin::Input => "an input of the graph".to_owned(),
                        Origin::Initializer => "an initializer".to_owned(),
                        Origin::Node(first) => site(file, graph, first).node,
                    };
                    return Err(file.name.duplicate(site(file, graph, index).node, name, first));
                }
            }
        }
        Ok(())
    }

    /// Refuses a node that reads a value which nothing defines.
    fn check_reads(&self, graph: &GraphProto, file: ModelFile<'_>) -> Result<()> {
        for (index, node) in graph.node.iter().enumerate() {
            let missing = |name: &&String| !name.is_empty() && !self.values.contains_key(name.as_str());
            if let Some(name) = node.input.iter().find(missing) {
                return Err(file.name.dangling(site(file, graph, index).node, name));
            }
        }
        Ok(())
    }

    /// Refuses outputs of the graph that are missing, or that stand in the list twice.
    fn check_outputs(&self, graph: &GraphProto, file: ModelFile<'_>) -> Result<()> {
        let mut returned = HashSet::new();
        for info in &graph.output {
            if !self.values.contains_key(info.name.as_str()) {
                return Err(file.name.dangling("the list of outputs", &info.name));
            }
            if !returned.insert(info.name.as_str()) {
                return Err(file.name.duplicate("the list of outputs", &info.name, "the same list"));
            }
        }
        if graph.output.is_empty() {
            return Err(file.refuse("output", "at least one", "none"));
        }
        Ok(())
    }

    /// The nodes that a node reads from.
    fn sources<'b>(&'b self, graph: &'b GraphProto, index: usize) -> impl Iterator<Item = usize> + 'b {
        graph.node[index].input.iter().filter_map(|name| match self.values.get(name.as_str()) {
            Some((_, Origin::Node(from))) => Some(*from),
            _ => None,
        })
    }

    /// The nodes in an order in which they can run. Nodes in a cycle, and nodes that read from one, are left out.
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

    /// The nodes that the outputs of the graph need, in the order in which they run.
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

    /// Per value: whether a live node or an output of the graph reads it.
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

    /// The value of an input that a caller must give.
    pub(super) fn input(&self, name: &str) -> Option<ValueId> {
        self.values.get(name).and_then(|(id, origin)| (*origin == Origin::Input).then_some(*id))
    }

    pub(super) fn count(&self) -> usize {
        self.values.len()
    }
}

fn site(file: ModelFile<'_>, graph: &GraphProto, index: usize) -> Site {
    Site::new(file.name, index, &graph.node[index])
}

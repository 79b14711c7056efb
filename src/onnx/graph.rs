//! The graph of a model: checked and sorted, with its constant parts computed.

mod order;
mod versions;

use std::collections::BTreeMap;

pub(super) use self::order::ValueId;
use self::order::ValueNames;
use super::attributes::{Attributes, Site};
use super::context::{Context, Inputs};
use super::interface::ElementType;
use super::operators::{Operation, Operator, Reader, find};
use super::proto::{DataType, DimensionValue, GraphProto, ModelProto, NodeProto, ValueInfoProto};
use super::tensor::ModelFile;
use super::value::Value;
use super::{Extent, NonFinite, OnnxOptions, ValueInfo, Warning};
use crate::error::Result;
use crate::tensor::Device;

/// A graph that is ready to be put on a device.
pub(super) struct Graph {
    pub(super) file: String,
    pub(super) inputs: Vec<(ValueInfo, ValueId)>,
    pub(super) outputs: Vec<(ValueInfo, ValueId)>,
    /// The nodes whose results are not constant, each after the nodes whose results it reads.
    pub(super) steps: Vec<Step>,
    /// The constants that steps or outputs read.
    pub(super) constants: BTreeMap<ValueId, Value>,
    /// The number of values.
    pub(super) values: usize,
    pub(super) warnings: Vec<Warning>,
    pub(super) non_finite: Vec<NonFinite>,
    pub(super) memory_limit: u64,
}

/// A node that runs.
pub(super) struct Step {
    pub(super) site: Site,
    pub(super) operation: Operation,
    pub(super) inputs: Vec<Option<ValueId>>,
    pub(super) outputs: Vec<Option<ValueId>>,
    /// The values that no later step reads.
    pub(super) last: Vec<ValueId>,
}

/// The most bytes that constant folding may produce beyond [`FOLDED_TIMES`] times the bytes of the file's constants.
const FOLDED_BYTES: u64 = 1 << 20;
/// The factor of the limit [`FOLDED_BYTES`]. Exporters cut and join weights a few times, so folding produces a small multiple of
/// their bytes.
const FOLDED_TIMES: u64 = 8;

impl Graph {
    /// Reads a model.
    ///
    /// # Errors
    /// As [`OnnxModel::from_bytes`](super::OnnxModel::from_bytes).
    pub(super) fn new(model: &ModelProto, file: ModelFile<'_>, options: &OnnxOptions) -> Result<Self> {
        let opset = versions::check(model, file.name)?;
        let Some(graph) = &model.graph else {
            return Err(file.refuse("graph", "a graph", "none"));
        };
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| values.name.as_str());
            return Err(file.refuse("sparse_initializer", "dense initializers only", format!("{name:?}")));
        }
        let mut warnings = Vec::new();
        let constants = initializers(graph, file, &mut warnings)?;
        let names = ValueNames::new(graph, file, &constants)?;
        let live = names.live(graph);
        versions::operators(model, graph, &live, opset, file.name)?;

        let read_bytes: u64 = constants.values().map(Value::bytes).sum();
        let mut builder = Builder {
            graph: Self {
                file: file.name.0.to_owned(),
                inputs: signature(&graph.input, file, |name| names.input(name))?,
                outputs: signature(&graph.output, file, |name| names.find(name))?,
                steps: Vec::new(),
                constants: constants.into_iter().filter_map(|(name, v)| Some((names.find(name)?, v))).collect(),
                values: names.count(),
                warnings,
                non_finite: Vec::new(),
                memory_limit: options.memory_limit,
            },
            model,
            file,
            opset,
            options,
            names: &names,
            folding: (FOLDED_BYTES + FOLDED_TIMES * read_bytes).min(options.memory_limit),
        };
        for info in &graph.initializer {
            if let Some(value) = names.find(&info.name).and_then(|id| builder.graph.constants.get(&id)) {
                builder.graph.non_finite.extend(non_finite(&info.name, value)?);
            }
        }
        let wanted = names.wanted(graph, &live);
        for &index in &live {
            builder.add(graph, index, &wanted)?;
        }
        Ok(builder.finish())
    }
}

/// Counts NaN and infinity in a constant; `None` if there are none.
fn non_finite(name: &str, value: &Value) -> Result<Option<NonFinite>> {
    match value {
        Value::Float(x) => Ok(NonFinite::among(name, x.to_vec()?.iter())),
        _ => Ok(None),
    }
}

/// Reads the constants of the graph by name.
fn initializers<'a>(
    graph: &'a GraphProto,
    file: ModelFile<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<&'a str, Value>> {
    let mut constants = BTreeMap::new();
    for tensor in &graph.initializer {
        if tensor.name.is_empty() {
            return Err(file.refuse("initializer", "a name", "none"));
        }
        if constants.insert(tensor.name.as_str(), file.read(tensor)?).is_some() {
            return Err(file.name.duplicate("an initializer", &tensor.name, "another"));
        }
        let declared = "Double";
        let double = tensor.data_type == DataType::Double as i32;
        if double && !warnings.iter().any(|w| matches!(w, Warning::Precision { declared: d, .. } if d == declared)) {
            let node = format!("initializer {:?}", tensor.name);
            warnings.push(Warning::Precision { node, declared: declared.to_owned() });
        }
    }
    Ok(constants)
}

/// Reads names and types of the graph's inputs or outputs. Values that `find` does not find are left out.
fn signature(
    infos: &[ValueInfoProto],
    file: ModelFile<'_>,
    find: impl Fn(&str) -> Option<ValueId>,
) -> Result<Vec<(ValueInfo, ValueId)>> {
    let found = infos.iter().filter_map(|info| find(&info.name).map(|id| (info, id)));
    found.map(|(info, id)| Ok((value_info(info, file)?, id))).collect()
}

/// Reads the name and type of an input or output.
fn value_info(info: &ValueInfoProto, file: ModelFile<'_>) -> Result<ValueInfo> {
    let field = format!("value {:?}", info.name);
    let Some(tensor) = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return Err(file.refuse(&field, "a tensor's type", "none"));
    };
    let expected = "float, bool or integers of 8 to 64 bits";
    let element_type = ElementType::read(tensor.elem_type).map_err(|found| file.name.dtype(&field, expected, found))?;
    let extent = |value: &Option<DimensionValue>| match value {
        None => Ok(Extent::Free),
        Some(DimensionValue::DimParam(name)) if name.is_empty() => Ok(Extent::Free),
        Some(DimensionValue::DimParam(name)) => Ok(Extent::Named(name.clone())),
        // Old exporters write -1 for an unknown extent.
        Some(DimensionValue::DimValue(-1)) => Ok(Extent::Free),
        Some(DimensionValue::DimValue(n)) => {
            usize::try_from(*n).map(Extent::Fixed).map_err(|_| file.refuse(&field, "no negative extent", n.to_string()))
        }
    };
    let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| extent(&dim.value)).collect());
    Ok(ValueInfo { name: info.name.clone(), element_type, shape: shape.transpose()? })
}

/// A graph under construction, while its nodes are read.
struct Builder<'a> {
    graph: Graph,
    model: &'a ModelProto,
    file: ModelFile<'a>,
    opset: i64,
    options: &'a OnnxOptions,
    names: &'a ValueNames<'a>,
    /// The number of bytes that constant folding may still produce.
    folding: u64,
}

impl Builder<'_> {
    /// Reads a node. If all its inputs are constant, it is computed at once.
    fn add(&mut self, graph: &GraphProto, index: usize, wanted: &[bool]) -> Result<()> {
        let node = &graph.node[index];
        let site = Site::new(self.file.name, index, node);
        let Some(operator) = find(&node.op_type, self.opset) else {
            return Err(site.refuse("operator", "a supported one", node.op_type.clone()));
        };
        let inputs = self.inputs_of(node, operator, &site)?;
        let outputs = self.outputs_of(node, operator, &site, wanted)?;
        let constants: Vec<Option<Value>> =
            inputs.iter().map(|id| id.and_then(|id| self.graph.constants.get(&id).cloned())).collect();
        let given: Vec<bool> = inputs.iter().map(Option::is_some).collect();
        // `Split` counts its outputs, including those without a name.
        let mut read = outputs.iter().map(Option::is_some).collect::<Vec<bool>>();
        read.resize(node.output.len(), false);
        let mut reader = Reader {
            site: &site,
            operator: &node.op_type,
            opset: self.opset,
            attributes: Attributes::new(&site, node)?,
            constants: &constants,
            given: &given,
            wanted: &read,
            file: self.file,
            producer: &self.model.producer_name,
            gru_reset: self.options.gru_reset,
            warnings: &mut self.graph.warnings,
        };
        let operation = (operator.read)(&mut reader)?;
        reader.attributes.finish()?;

        let constant = inputs.iter().zip(&constants).all(|(id, value)| id.is_none() == value.is_none());
        if let (Operation::Plain(run), true) = (&operation, constant) {
            let mut recorder = Device::Cpu.recorder();
            let mut context = Context { recorder: &mut recorder, room: self.folding, short: false.into() };
            match run(&mut context, &Inputs(&constants)) {
                // A constant that is too large is computed in every run instead.
                Err(_) if context.short.get() && !constants.is_empty() => {}
                result => {
                    let values = result.map_err(|error| site.wrap(error))?;
                    return self.keep(node.op_type == "Constant", &site, &outputs, values);
                }
            }
        }
        self.graph.steps.push(Step { site, operation, inputs, outputs, last: Vec::new() });
        Ok(())
    }

    /// The values of a node's inputs, without trailing inputs that have no name.
    fn inputs_of(&self, node: &NodeProto, operator: &Operator, site: &Site) -> Result<Vec<Option<ValueId>>> {
        let inputs = self.ids(&node.input);
        let least = *operator.inputs.start();
        if !operator.inputs.contains(&inputs.len()) || inputs[..least].iter().any(Option::is_none) {
            let range = &operator.inputs;
            let most = if *range.end() == usize::MAX { "any number".to_owned() } else { range.end().to_string() };
            return Err(site.refuse("inputs", format!("{least} to {most}"), format!("{:?}", node.input)));
        }
        Ok(inputs)
    }

    /// The values of a node's outputs; `None` for an output that nothing reads.
    fn outputs_of(
        &self,
        node: &NodeProto,
        operator: &Operator,
        site: &Site,
        wanted: &[bool],
    ) -> Result<Vec<Option<ValueId>>> {
        let outputs = self.ids(&node.output);
        if outputs.is_empty() || outputs.len() > operator.outputs {
            return Err(site.refuse("outputs", format!("1 to {}", operator.outputs), format!("{:?}", node.output)));
        }
        Ok(outputs.into_iter().map(|id| id.filter(|id| wanted[id.0])).collect())
    }

    fn ids(&self, names: &[String]) -> Vec<Option<ValueId>> {
        let count = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
        names[..count].iter().map(|name| self.names.find(name)).collect()
    }

    /// Stores the results of a node as constants. `own` is true for the operator `Constant`, whose values come from the file: they
    /// are checked for NaN and infinity, and do not count as folded bytes.
    fn keep(&mut self, own: bool, site: &Site, outputs: &[Option<ValueId>], values: Vec<Value>) -> Result<()> {
        for (id, value) in outputs.iter().zip(values) {
            let Some(id) = id else { continue };
            let value = value.settled()?;
            if own {
                self.graph.non_finite.extend(non_finite(&site.node, &value)?);
            } else {
                self.folding = self.folding.saturating_sub(value.bytes());
            }
            self.graph.constants.insert(*id, value);
        }
        Ok(())
    }

    /// Drops constants that are not read, and lists per step the values that are read for the last time.
    fn finish(self) -> Graph {
        let mut graph = self.graph;
        let mut kept: Vec<bool> = vec![false; graph.values];
        for (_, id) in &graph.outputs {
            kept[id.0] = true;
        }
        let mut seen = kept.clone();
        for step in graph.steps.iter_mut().rev() {
            for id in step.outputs.iter().flatten().chain(step.inputs.iter().flatten()) {
                if !std::mem::replace(&mut seen[id.0], true) {
                    step.last.push(*id);
                }
            }
        }
        for step in &graph.steps {
            for (slot, id) in step.inputs.iter().enumerate() {
                if let Some(id) = id.filter(|_| !step.operation.holds(slot)) {
                    kept[id.0] = true;
                }
            }
        }
        graph.constants.retain(|id, _| kept[id.0]);
        graph
    }
}

//! A model's graph: checked, sorted, its constant parts computed.

mod order;
mod versions;

use std::collections::BTreeMap;

use self::order::Names;
pub(super) use self::order::ValueId;
use super::attributes::{Attributes, Site};
use super::context::{Context, Inputs};
use super::operators::{Operation, Reader, find};
use super::proto::{DataType, DimensionValue, GraphProto, ModelProto, ValueInfoProto};
use super::tensor::{Source, data_type};
use super::value::{IntKind, Value};
use super::{Extent, NonFinite, OnnxOptions, ValueInfo, Warning};
use crate::error::{Error, Result};
use crate::tensor::Device;

/// A graph ready to be put on a device.
pub(super) struct Graph {
    pub(super) file: String,
    pub(super) inputs: Vec<(ValueInfo, ValueId)>,
    pub(super) outputs: Vec<(ValueInfo, ValueId)>,
    /// Nodes whose results are not constant, each after those it reads.
    pub(super) steps: Vec<Step>,
    /// Constants that steps or outputs read.
    pub(super) constants: BTreeMap<ValueId, Value>,
    /// Number of values.
    pub(super) values: usize,
    pub(super) warnings: Vec<Warning>,
    pub(super) non_finite: Vec<NonFinite>,
    pub(super) memory_limit: u64,
}

/// One node.
pub(super) struct Step {
    pub(super) site: Site,
    pub(super) operation: Operation,
    pub(super) inputs: Vec<Option<ValueId>>,
    pub(super) outputs: Vec<Option<ValueId>>,
    /// Values that nobody reads after this step.
    pub(super) last: Vec<ValueId>,
}

/// What constant folding may produce beyond a multiple of the file's own constants, in bytes.
const FOLDED_BYTES: u64 = 1 << 20;
/// That multiple: exporters cut and join weights a few times.
const FOLDED_TIMES: u64 = 8;

impl Graph {
    /// Reads a model.
    ///
    /// # Errors
    /// As [`OnnxModel::from_bytes`](super::OnnxModel::from_bytes).
    pub(super) fn new(model: &ModelProto, source: Source<'_>, options: &OnnxOptions) -> Result<Self> {
        let opset = versions::check(model, source.file)?;
        let Some(graph) = &model.graph else {
            return Err(source.refuse("graph", "a graph", "none"));
        };
        if let Some(sparse) = graph.sparse_initializer.first() {
            let name = sparse.values.as_ref().map_or("", |values| values.name.as_str());
            return Err(source.refuse("sparse_initializer", "dense initializers only", format!("{name:?}")));
        }
        let mut warnings = Vec::new();
        let constants = initializers(graph, source, &mut warnings)?;
        let names = Names::new(graph, source, &constants)?;
        let live = names.live(graph);
        versions::operators(model, graph, &live, opset, source.file)?;

        let read_bytes: u64 = constants.values().map(Value::bytes).sum();
        let mut builder = Builder {
            graph: Self {
                file: source.file.to_owned(),
                inputs: signature(&graph.input, source, |name| names.input(name))?,
                outputs: signature(&graph.output, source, |name| names.find(name))?,
                steps: Vec::new(),
                constants: constants.into_iter().filter_map(|(name, v)| Some((names.find(name)?, v))).collect(),
                values: names.count(),
                warnings,
                non_finite: Vec::new(),
                memory_limit: options.memory_limit,
            },
            model,
            source,
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

impl Source<'_> {
    pub(super) fn refuse(&self, field: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::Format {
            file: self.file.to_owned(),
            field: field.to_owned(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// Refuses a name that has been given before.
    pub(super) fn again(&self, place: impl Into<String>, name: &str, first: impl Into<String>) -> Error {
        let (file, name) = (self.file.to_owned(), name.to_owned());
        Error::Duplicate { file, place: place.into(), name, first: first.into() }
    }
}

/// What is no number in a constant.
fn non_finite(name: &str, value: &Value) -> Result<Option<NonFinite>> {
    match value {
        Value::Float(x) => Ok(NonFinite::among(name, x.to_vec()?.iter())),
        _ => Ok(None),
    }
}

/// The graph's constants by name.
fn initializers<'a>(
    graph: &'a GraphProto,
    source: Source<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<BTreeMap<&'a str, Value>> {
    let mut constants = BTreeMap::new();
    for tensor in &graph.initializer {
        if tensor.name.is_empty() {
            return Err(source.refuse("initializer", "a name", "none"));
        }
        if constants.insert(tensor.name.as_str(), source.read(tensor)?).is_some() {
            return Err(source.again("an initializer", &tensor.name, "another"));
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

/// Names and types of the graph's inputs or outputs; `find` leaves out what is not asked of a caller.
fn signature(
    infos: &[ValueInfoProto],
    source: Source<'_>,
    find: impl Fn(&str) -> Option<ValueId>,
) -> Result<Vec<(ValueInfo, ValueId)>> {
    let found = infos.iter().filter_map(|info| find(&info.name).map(|id| (info, id)));
    found.map(|(info, id)| Ok((value_info(info, source)?, id))).collect()
}

fn value_info(info: &ValueInfoProto, source: Source<'_>) -> Result<ValueInfo> {
    let field = format!("value {:?}", info.name);
    let Some(tensor) = info.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return Err(source.refuse(&field, "a tensor's type", "none"));
    };
    let unread = |found: String| {
        let file = source.file.to_owned();
        Error::Dtype { file, field: field.clone(), expected: "float, bool or integers of 8 to 64 bits", found }
    };
    let element_type = data_type(tensor.elem_type).map_err(unread)?;
    let float = [DataType::Float, DataType::Double, DataType::Float16, DataType::Bfloat16].contains(&element_type);
    if !float && element_type != DataType::Bool && IntKind::of(element_type).is_none() {
        return Err(unread(format!("{element_type:?}")));
    }
    let extent = |value: &Option<DimensionValue>| match value {
        None => Ok(Extent::Free),
        Some(DimensionValue::DimParam(name)) if name.is_empty() => Ok(Extent::Free),
        Some(DimensionValue::DimParam(name)) => Ok(Extent::Named(name.clone())),
        // Old exporters wrote -1 for an extent that is not known.
        Some(DimensionValue::DimValue(-1)) => Ok(Extent::Free),
        Some(DimensionValue::DimValue(n)) => usize::try_from(*n)
            .map(Extent::Fixed)
            .map_err(|_| source.refuse(&field, "no negative extent", n.to_string())),
    };
    let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| extent(&dim.value)).collect());
    Ok(ValueInfo { name: info.name.clone(), element_type, shape: shape.transpose()? })
}

/// A graph while its nodes are read.
struct Builder<'a> {
    graph: Graph,
    model: &'a ModelProto,
    source: Source<'a>,
    opset: i64,
    options: &'a OnnxOptions,
    names: &'a Names<'a>,
    /// Bytes that constant folding may still produce.
    folding: u64,
}

impl Builder<'_> {
    /// Reads a node; computes it at once where all its inputs are constant.
    fn add(&mut self, graph: &GraphProto, index: usize, wanted: &[bool]) -> Result<()> {
        let node = &graph.node[index];
        let site = Site::new(self.source.file, index, node);
        let Some(operator) = find(&node.op_type, self.opset) else {
            return Err(site.refuse("operator", "one that is carried out", node.op_type.clone()));
        };
        let ids = |names: &[String]| -> Vec<Option<ValueId>> {
            let count = names.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
            names[..count].iter().map(|name| self.names.find(name)).collect()
        };
        let inputs = ids(&node.input);
        let least = *operator.inputs.start();
        if !operator.inputs.contains(&inputs.len()) || inputs[..least].iter().any(Option::is_none) {
            let range = &operator.inputs;
            let most = if *range.end() == usize::MAX { "any number".to_owned() } else { range.end().to_string() };
            return Err(site.refuse("inputs", format!("{least} to {most}"), format!("{:?}", node.input)));
        }
        let mut outputs = ids(&node.output);
        if outputs.is_empty() || outputs.len() > operator.outputs {
            return Err(site.refuse("outputs", format!("1 to {}", operator.outputs), format!("{:?}", node.output)));
        }
        for output in &mut outputs {
            *output = output.filter(|id| wanted[id.0]);
        }
        let constants: Vec<Option<Value>> =
            inputs.iter().map(|id| id.and_then(|id| self.graph.constants.get(&id).cloned())).collect();
        let given: Vec<bool> = inputs.iter().map(Option::is_some).collect();
        // `Split` counts its outputs, the unnamed ones too.
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
            source: self.source,
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
                // A large constant is computed where it is needed.
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

    /// Takes a node's results as constants.
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

    /// Drops what nobody reads, and notes when a value is read for the last time.
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

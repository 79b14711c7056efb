//! A graph on a device, and its runs.

use std::collections::{BTreeMap, HashMap};

use super::context::{Context, Inputs, unexpected};
use super::graph::{Graph, Step, ValueId};
use super::interface::{ElementType, Input, Output, Outputs};
use super::operators::{NodeFn, Operation};
use super::replay::{CallKind, GraphReplay};
use super::value::{IntKind, Ints, Value};
use super::{Extent, ValueInfo};
use crate::error::{Error, Result};
use crate::ops::Recorder;
use crate::path::Kept;
use crate::tensor::{Device, Tensor};
use crate::text::listed;

const OP: &str = "onnx";

/// A graph with its weights on a device.
pub(super) struct DeviceGraph {
    device: Device,
    /// The functions of the graph's steps.
    functions: Vec<NodeFn>,
    /// The constants that nodes on the device read.
    constants: BTreeMap<ValueId, Value>,
    /// Whether runs on the device can be replayed: whether it is a CPU.
    replayable: bool,
    kept: Kept<GraphReplay>,
}

impl DeviceGraph {
    pub(super) fn new(graph: &Graph, device: &Device) -> Result<Self> {
        let functions = graph.steps.iter().map(|step| step.operation.on(device).map_err(|error| step.site.wrap(error)));
        let functions = functions.collect::<Result<_>>()?;
        let constants = graph.constants.iter().map(|(&id, value)| Ok((id, value.on(device)?)));
        Ok(Self {
            device: device.clone(),
            functions,
            constants: constants.collect::<Result<_>>()?,
            replayable: device.cpu().is_some(),
            kept: Kept::new(graph.memory_limit),
        })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// The number of replays that are kept.
    pub(super) fn replays(&self) -> usize {
        self.kept.count()
    }

    /// Runs the graph and puts its outputs in the place of older ones. On the CPU a call for which there is a replay needs
    /// no interpreter.
    pub(super) fn run(&self, graph: &Graph, inputs: &[(&str, Input)], outputs: &mut Outputs) -> Result<()> {
        // If a replay has no memory, the interpreter may find some, or else it names the node that has none.
        if let Some(mut replay) = self.kept.take(|replay| replay.fits(inputs, &self.device))
            && replay.run(inputs, outputs).is_ok()
        {
            self.kept.put(replay);
            return Ok(());
        }
        let wanted = self.replayable && self.kept.wants(CallKind(inputs));
        if wanted && let Ok(recorded) = self.record(graph, inputs) {
            *outputs = recorded;
            return Ok(());
        }
        let (values, recorder) = self.interpret(graph, inputs, self.device.recorder())?;
        *outputs = self.outputs(graph, values)?;
        if wanted {
            // Operators on masks on the device are fewer than those on booleans on the host.
            self.kept.refuse(CallKind(inputs));
        }
        recorder.submit()
    }

    /// Runs the graph with the interpreter, and keeps a replay if the graph allows one.
    fn record(&self, graph: &Graph, inputs: &[(&str, Input)]) -> Result<Outputs> {
        let (values, recorder) = self.interpret(graph, inputs, self.device.replay_recorder())?;
        let tensors: Vec<&Tensor> = values
            .iter()
            .filter_map(|value| if let Value::Float(x) | Value::Mask(x) = value { Some(x) } else { None })
            .collect();
        let replay = recorder.into_replay(&tensors, self.kept.limit())?;
        let outputs = self.outputs(graph, values.clone())?;
        match replay {
            Some(replay) => self.kept.put(GraphReplay::new(inputs, &values, &outputs, replay)),
            None => self.kept.refuse(CallKind(inputs)),
        }
        Ok(outputs)
    }

    /// The values of the graph's outputs, and the recorder, which is not submitted yet.
    fn interpret(&self, graph: &Graph, inputs: &[(&str, Input)], recorder: Recorder) -> Result<(Vec<Value>, Recorder)> {
        let mut run = GraphRun { on_device: self, graph, live: 0, values: vec![None; graph.values], recorder };
        run.bind(inputs)?;
        for (step, function) in graph.steps.iter().zip(&self.functions) {
            run.step(step, function).map_err(|error| step.site.wrap(error))?;
        }
        let GraphRun { values, recorder, .. } = run;
        let outputs = graph.outputs.iter().map(|(info, id)| {
            let value = values[id.0].as_ref().or_else(|| self.constants.get(id));
            let value = value.ok_or_else(|| unexpected("output", "a computed value", info.name.clone()))?;
            value.on(&self.device)
        });
        Ok((outputs.collect::<Result<_>>()?, recorder))
    }

    /// The outputs as the caller gets them.
    fn outputs(&self, graph: &Graph, values: Vec<Value>) -> Result<Outputs> {
        let outputs = graph.outputs.iter().zip(values).map(|((info, _), value)| {
            let output = match value.settled()? {
                Value::Float(x) => Output::Tensor(x),
                Value::Mask(x) => Output::Mask(x),
                Value::Int(x) => Output::Int { element_type: info.element_type, values: x.values },
                Value::Bool(x) => Output::Bool(x),
            };
            Ok((info.name.clone(), output))
        });
        Ok(Outputs(outputs.collect::<Result<_>>()?))
    }

    /// The value of an input, which must have the declared type.
    fn accept(&self, info: &ValueInfo, input: &Input) -> Result<Value> {
        let kind = IntKind::of(info.element_type);
        let float = kind.is_none() && info.element_type != ElementType::Bool;
        match input {
            Input::Tensor(x) if float => {
                x.check_device(OP, "input", &self.device)?;
                Ok(Value::Float(x.clone()))
            }
            Input::Float(x) if float => Ok(Value::Float(Tensor::from_array(&self.device, x)?)),
            Input::Bool(x) if info.element_type == ElementType::Bool => Ok(Value::Bool(x.clone())),
            Input::Int(x) => match kind {
                Some(kind) => match x.iter().find(|&&x| kind.fits(x).is_none()) {
                    None => Ok(Value::Int(Ints { kind, values: x.clone() })),
                    Some(x) => Err(unexpected("input", "integers of the declared width", format!("{x} for {info}"))),
                },
                None => Err(unexpected("input", "elements of the declared type", format!("integers for {info}"))),
            },
            other => {
                let found = match other {
                    Input::Bool(_) => "booleans",
                    _ => "floats",
                };
                Err(unexpected("input", "elements of the declared type", format!("{found} for {info}")))
            }
        }
    }
}

/// Compares a shape with the declared one. Axes with the same name must have equal extents.
fn check_extents<'a>(info: &'a ValueInfo, shape: &[usize], extents: &mut HashMap<&'a str, usize>) -> Result<()> {
    let Some(declared) = &info.shape else {
        return Ok(());
    };
    let mut fits = declared.len() == shape.len();
    for (extent, &found) in declared.iter().zip(shape) {
        fits &= match extent {
            Extent::Free => true,
            Extent::Fixed(n) => *n == found,
            Extent::Named(name) => *extents.entry(name).or_insert(found) == found,
        };
    }
    if fits {
        return Ok(());
    }
    let named: Vec<String> = extents.iter().map(|(name, n)| format!("{name} = {n}")).collect();
    let known = if named.is_empty() { String::new() } else { format!(" ({})", listed(&named, ", ")) };
    Err(Error::Shape { op: OP, what: "input", expected: format!("{info}{known}"), found: shape.to_vec() })
}

/// One run of a graph.
struct GraphRun<'a> {
    on_device: &'a DeviceGraph,
    graph: &'a Graph,
    values: Vec<Option<Value>>,
    /// The number of bytes of the values that are held now.
    live: u64,
    recorder: Recorder,
}

impl GraphRun<'_> {
    /// Checks the caller's inputs and stores them among the values.
    fn bind(&mut self, inputs: &[(&str, Input)]) -> Result<()> {
        let graph = self.graph;
        let mut extents: HashMap<&str, usize> = HashMap::new();
        for (name, input) in inputs {
            let Some((info, id)) = graph.inputs.iter().find(|(info, _)| info.name == *name) else {
                let names: Vec<&str> = graph.inputs.iter().map(|(info, _)| info.name.as_str()).collect();
                let found = format!("{name:?}; the model has {}", listed(&names, ", "));
                return Err(unexpected("inputs", "the names of the model's inputs", found));
            };
            let mut value = self.on_device.accept(info, input)?;
            check_extents(info, input.shape(), &mut extents)?;
            if let (Some(recording), Value::Float(x)) = (self.recorder.recording(), &value) {
                // In another call this input may share memory with other inputs, or with none.
                let own = Tensor::from_vec(x.device(), x.shape(), x.to_vec()?)?;
                recording.input(&own)?;
                value = Value::Float(own);
            }
            self.live += value.bytes();
            if self.values[id.0].replace(value).is_some() {
                return Err(unexpected("inputs", "each input once", format!("{name:?} twice")));
            }
        }
        let values = &self.values;
        let missing: Vec<String> =
            graph.inputs.iter().filter(|(_, id)| values[id.0].is_none()).map(|(info, _)| info.to_string()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(unexpected("inputs", "all inputs of the model", format!("none for {}", listed(&missing, ", "))))
    }

    /// Runs one step.
    fn step(&mut self, step: &Step, function: &NodeFn) -> Result<()> {
        let own = |slot: usize| !step.operation.holds(slot);
        let given: Vec<Option<(ValueId, &Value)>> = step
            .inputs
            .iter()
            .enumerate()
            .map(|(slot, id)| {
                let id = id.filter(|_| own(slot))?;
                let value = self.values[id.0].as_ref().or_else(|| self.graph.constants.get(&id))?;
                Some((id, value))
            })
            .collect();
        // If all inputs are on the host, the node runs there: shapes, and values that are computed from shapes.
        let on_host = matches!(step.operation, Operation::Plain(_)) && given.iter().flatten().all(|(_, v)| v.is_host());
        let device = if on_host { Device::Cpu } else { self.on_device.device.clone() };
        let inputs = given.iter().map(|one| match one {
            None => Ok(None),
            Some((id, _)) if !on_host && self.on_device.constants.contains_key(id) => {
                Ok(self.on_device.constants.get(id).cloned())
            }
            Some((_, value)) => value.on(&device).map(Some),
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let mut host = None;
        let recorder = match on_host && !matches!(self.on_device.device, Device::Cpu) {
            true => host.insert(Device::Cpu.recorder()),
            false => &mut self.recorder,
        };
        let room = self.graph.memory_limit.saturating_sub(self.live);
        let mut context = Context { recorder, room, short: false.into() };
        let results = function(&mut context, &Inputs(&inputs))?;
        if results.len() < step.outputs.len() {
            let found = format!("{} of {}", results.len(), step.outputs.len());
            return Err(unexpected("outputs", "all that the node names", found));
        }
        for (id, value) in step.outputs.iter().zip(results) {
            if let Some(id) = id {
                // A recording must not depend on the elements of a mask, so the mask stays one.
                let mut varies = |x: &Tensor| self.recorder.recording().is_some_and(|recording| recording.varies(x));
                let value = if matches!(&value, Value::Mask(x) if varies(x)) { value } else { value.settled()? };
                self.live += value.bytes();
                self.values[id.0] = Some(value);
            }
        }
        for id in &step.last {
            if let Some(value) = self.values[id.0].take() {
                self.live = self.live.saturating_sub(value.bytes());
            }
        }
        Ok(())
    }
}

//! What each kind of layer does with what reaches it.

use ndarray::{Array1, Array2, Array3, Axis, s};

use super::super::graph::{self, Graph};
use super::super::parse::{ConvSpec, Function, Kind, Layer, Padding};
use super::load::Loader;
use super::recurrent::Walk;
use super::value::{Data, Value, refused};
use super::{OP, Results, Run};
use crate::error::{Error, Result, axes};
use crate::nn::{Conv1d, Embedding, Linear};
use crate::ops::{self, Conv1dGeometry, Math, PadMode, Recorder};
use crate::tensor::Tensor;
use crate::text::listed;

/// A layer whose weights lie on a device.
pub(super) enum Placed {
    Same,
    Masking(f32),
    Repeat(usize),
    Embedding {
        table: Embedding,
        width: usize,
        mask_zero: bool,
    },
    Dense {
        linear: Linear,
        activation: Function,
    },
    Activation {
        function: Function,
        masked: bool,
    },
    Conv1d(Convolution),
    Walk(Box<Walk>),
    EachStep(String, Box<Placed>),
    Graph(Vec<(String, Placed)>, Box<Graph>),
    /// Compares with a number that each call brings along.
    NotEqual,
    Any,
}

pub(super) struct Convolution {
    conv: Conv1d,
    /// How far one output reaches.
    reach: usize,
    stride: usize,
    padding: Padding,
    activation: Function,
}

impl Placed {
    pub(super) fn new(loader: &Loader<'_>, layer: &Layer) -> Result<Self> {
        let bias = |path: &Option<String>, units: usize| -> Result<Option<Array1<f32>>> {
            path.as_ref().map(|path| loader.array(path, &[Some(units)])).transpose()
        };
        Ok(match &layer.kind {
            Kind::Input | Kind::Identity => Self::Same,
            Kind::Masking(value) => Self::Masking(*value),
            Kind::Repeat(count) => Self::Repeat(*count),
            Kind::Embedding { symbols, width, mask_zero, table } => {
                let table: Array2<f32> = loader.array(table, &[Some(*symbols), Some(*width)])?;
                Self::Embedding { table: Embedding::new(loader.device, &table)?, width: *width, mask_zero: *mask_zero }
            }
            Kind::Dense { units, kernel, bias: path, activation } => {
                let kernel: Array2<f32> = loader.array(kernel, &[None, Some(*units)])?;
                let bias = bias(path, *units)?;
                let linear = Linear::new(loader.device, &kernel.reversed_axes(), bias.as_ref())?;
                Self::Dense { linear, activation: *activation }
            }
            Kind::Activation { function, masked } => Self::Activation { function: *function, masked: *masked },
            Kind::Conv1d(spec) => {
                let kernel = loader.array(&spec.kernel, &[Some(spec.size), None, Some(spec.filters)])?;
                let bias = bias(&spec.bias, spec.filters)?;
                Self::Conv1d(Convolution::new(loader, spec, &kernel, bias.as_ref())?)
            }
            Kind::Rnn(spec) => Self::Walk(Box::new(Walk::one(loader, &layer.path, spec)?)),
            Kind::Both(spec) => Self::Walk(Box::new(Walk::both(loader, &layer.path, spec)?)),
            Kind::EachStep(inner) => Self::EachStep(inner.path.clone(), Box::new(Self::new(loader, inner)?)),
            Kind::Graph(graph) => {
                let placed = graph.layers.iter().map(|layer| Ok((layer.path.clone(), Self::new(loader, layer)?)));
                Self::Graph(placed.collect::<Result<_>>()?, Box::new(Graph { layers: Vec::new(), ..graph.clone() }))
            }
            Kind::NotEqual => Self::NotEqual,
            Kind::Any => Self::Any,
        })
    }

    pub(super) fn run(&self, run: &mut Run<'_>, takes: &[Value]) -> Result<Results> {
        match self {
            Self::Walk(walk) => return walk.run(run, takes),
            Self::Graph(placed, graph) => return whole(run, placed, graph, takes),
            _ => {}
        }
        let [x] = takes else {
            let found = takes.len().to_string();
            return Err(Error::Value { op: OP, what: "inputs", expected: "one", found });
        };
        let mask = x.mask.clone();
        Ok(match self {
            Self::Same => Results::one(x.data.clone(), mask),
            Self::Masking(number) => {
                let valid = x.differs(*number)?;
                let Data::Floats(floats) = &x.data else {
                    return Err(refused("input", "floats", &x.data));
                };
                let last = last_axis(&x.data)?;
                let any = valid.fold_axis(last, false, |&any, &valid| any || valid);
                let mut kept = floats.clone();
                for (mut row, &any) in kept.lanes_mut(last).into_iter().zip(&any) {
                    if !any {
                        row.fill(0.0);
                    }
                }
                let mask = Value { data: Data::Bools(any), mask: None }.as_mask()?;
                Results::one(Data::Floats(kept), Some(mask))
            }
            Self::Repeat(count) => {
                let x = x.tensor(run)?;
                let [batch, width] = axes(OP, "x", "[B, I]", x.shape())?;
                let x = x.reshape(&[batch, 1, width])?;
                let repeated = ops::expand(run.recorder, &x, &[batch, *count, width])?;
                Results::one(Data::Tensor(repeated), None)
            }
            Self::Embedding { table, width, mask_zero } => {
                let symbols = x.symbols()?;
                let y = table.record(run.recorder, &symbols)?;
                let y = y.reshape(&[x.data.shape(), &[*width]].concat())?;
                let mask = match mask_zero {
                    true => Some(Value { data: Data::Bools(x.differs(0.0)?), mask: None }.as_mask()?),
                    false => None,
                };
                Results::one(Data::Tensor(y), mask)
            }
            Self::Dense { linear, activation } => {
                let x = x.tensor(run)?;
                let y = linear.record(run.recorder, &x)?;
                Results::one(Data::Tensor(activation.record(run.recorder, &y)?), mask)
            }
            Self::Activation { masked: true, .. } if mask.is_some() => {
                return Err(Error::Unsupported { op: OP, option: "a mask of Softmax".to_owned(), by: "by KerasLayer" });
            }
            Self::Activation { function, .. } => {
                let x = x.tensor(run)?;
                Results::one(Data::Tensor(function.record(run.recorder, &x)?), mask)
            }
            Self::Conv1d(convolution) => {
                let x = x.tensor(run)?;
                // Keras' convolutions end a mask.
                Results::one(Data::Tensor(convolution.record(run.recorder, &x)?), None)
            }
            Self::EachStep(path, inner) => each_step(run, path, inner, x)?,
            Self::NotEqual => return Err(refused("input", "a number to compare with", &x.data)),
            Self::Any => {
                let Data::Bools(valid) = &x.data else {
                    return Err(refused("input", "truth values", &x.data));
                };
                let any = valid.fold_axis(last_axis(&x.data)?, false, |&any, &valid| any || valid);
                Results::one(Data::Bools(any), None)
            }
            Self::Walk(_) | Self::Graph(..) => Results { values: Vec::new(), states: Vec::new() },
        })
    }
}

fn last_axis(data: &Data) -> Result<Axis> {
    match data.shape().len().checked_sub(1) {
        Some(last) => Ok(Axis(last)),
        None => Err(refused("input", "an array with axes", data)),
    }
}

/// A layer that every step passes through by itself: steps become rows.
fn each_step(run: &mut Run<'_>, path: &str, inner: &Placed, x: &Value) -> Result<Results> {
    let tensor = x.tensor(run)?;
    let [batch, time, rest @ ..] = tensor.shape() else {
        let expected = "[B, T, ..]".to_owned();
        return Err(Error::Shape { op: OP, what: "x", expected, found: tensor.shape().to_vec() });
    };
    let (batch, time) = (*batch, *time);
    if let (Some(_), Placed::Walk(_) | Placed::Graph(..)) = (&x.mask, inner) {
        // Keras would hand the layer a mask of each step.
        let option = "a mask of TimeDistributed around a layer with steps of its own".to_owned();
        return Err(Error::Unsupported { op: OP, option, by: "by KerasLayer" });
    }
    let rows = tensor.reshape(&[&[batch * time], rest].concat())?;
    let results = run.layer(path, inner, &[Value { data: Data::Tensor(rows), mask: None }])?;
    let mut values = Vec::new();
    for value in results.values {
        let y = value.tensor(run)?;
        let y = y.reshape(&[&[batch, time], &y.shape()[1..]].concat())?;
        values.push(Value { data: Data::Tensor(y), mask: x.mask.clone() });
    }
    Ok(Results { values, states: Vec::new() })
}

/// A model: its calls in order.
fn whole(run: &mut Run<'_>, placed: &[(String, Placed)], graph: &Graph, takes: &[Value]) -> Result<Results> {
    if takes.len() != graph.inputs.len() {
        let found = format!("{} for {}", takes.len(), listed(&graph.inputs, ", "));
        return Err(Error::Value { op: OP, what: "inputs", expected: "one an input of the model", found });
    }
    let mut results: Vec<Vec<Value>> = Vec::new();
    let find = |results: &[Vec<Value>], value: &graph::Value| {
        let found = match *value {
            graph::Value::Input(at) => takes.get(at),
            graph::Value::Result { step, at } => results.get(step).and_then(|values| values.get(at)),
        };
        let missing =
            || Error::Value { op: OP, what: "output", expected: "one that the layer has", found: format!("{value:?}") };
        found.cloned().ok_or_else(missing)
    };
    for step in &graph.steps {
        let mut takes = step.takes.iter().map(|value| find(&results, value)).collect::<Result<Vec<_>>>()?;
        if let (Some(mask), Some(first)) = (&step.mask, takes.first_mut()) {
            first.mask = Some(find(&results, mask)?.as_mask()?);
        }
        let Some((path, layer)) = placed.get(step.layer) else { continue };
        results.push(match (layer, takes.as_slice()) {
            (Placed::NotEqual, [x]) => vec![Value { data: Data::Bools(x.differs(step.number)?), mask: None }],
            _ => run.layer(path, layer, &takes)?.values,
        });
    }
    let outputs = graph.outputs.iter().map(|value| find(&results, value)).collect::<Result<_>>()?;
    Ok(Results { values: outputs, states: Vec::new() })
}

impl Function {
    fn record(self, recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Each(crate::cell::Activation::Identity) => Ok(x.clone()),
            Self::Each(activation) => ops::activation(recorder, activation, x),
            Self::Exp => ops::math(recorder, Math::Exp, x),
            Self::Softmax => ops::softmax(recorder, x),
        }
    }
}

impl Convolution {
    /// `kernel [K, C, O]`, as Keras has it.
    fn new(loader: &Loader<'_>, spec: &ConvSpec, kernel: &Array3<f32>, bias: Option<&Array1<f32>>) -> Result<Self> {
        let (size, channels, filters) = kernel.dim();
        let reach = (size - 1).checked_mul(spec.dilation).and_then(|steps| steps.checked_add(1));
        let reach = reach.filter(|&reach| reach <= LONGEST).ok_or_else(|| {
            let found = format!("{size} elements, {} apart", spec.dilation);
            loader.source.refuse(&spec.kernel, &format!("a kernel that reaches over at most {LONGEST} steps"), &found)
        })?;
        loader.spend(&spec.kernel, 4 * (filters * channels) as u64 * reach as u64)?;
        // Zeros between the elements of a dilated kernel.
        let mut weight = Array3::zeros((filters, channels, reach));
        weight.slice_mut(s![.., .., ..;spec.dilation]).assign(&kernel.view().permuted_axes([2, 1, 0]));
        let conv = Conv1d::new(loader.device, &weight, bias, Conv1dGeometry { stride: spec.stride, padding: 0 })?;
        Ok(Self { conv, reach, stride: spec.stride, padding: spec.padding, activation: spec.activation })
    }

    fn record(&self, recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
        let [_, time, _] = axes(OP, "x", "[B, T, I]", x.shape())?;
        let x = ops::permute(recorder, x, &[0, 2, 1])?;
        let (left, right) = match self.padding {
            Padding::Valid => (0, 0),
            Padding::Causal => (self.reach - 1, 0),
            // As many outputs as strides begin inside the signal; the odd zero stands behind it.
            Padding::Same => {
                let begins = time.div_ceil(self.stride).saturating_sub(1) * self.stride;
                let zeros = (begins + self.reach).saturating_sub(time);
                (zeros / 2, zeros - zeros / 2)
            }
        };
        let x = if left + right == 0 { x } else { ops::pad1d(recorder, &x, left, right, PadMode::Zero)? };
        let y = self.conv.record(recorder, &x)?;
        let y = ops::permute(recorder, &y, &[0, 2, 1])?;
        self.activation.record(recorder, &y)
    }
}

/// Steps that a kernel may reach over.
const LONGEST: usize = 1 << 16;

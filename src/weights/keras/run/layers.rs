//! The layers of Keras on a device, and their computations.

use ndarray::{Array1, Array2, Array3, Axis};

use super::super::model::{ModelSpec, ValueRef};
use super::super::parse::{ConvSpec, LayerActivation, LayerKind, LayerSpec, Padding};
use super::load::Loader;
use super::recurrent::DeviceRnn;
use super::value::{MaskedValue, ValueData, refused};
use super::{LayerContext, LayerResults, OP};
use crate::error::{Error, Result, axes};
use crate::nn::{Conv1d, Embedding, Linear};
use crate::op::same_padding;
use crate::ops::{self, Math, Recorder};
use crate::path::FilterGeometry;
use crate::tensor::Tensor;
use crate::text::listed;

/// A layer with its weights on a device.
pub(super) enum DeviceLayer {
    Identity,
    Masking(f32),
    Repeat(usize),
    Embedding {
        table: Embedding,
        width: usize,
        mask_zero: bool,
    },
    Dense {
        linear: Linear,
        activation: LayerActivation,
    },
    Activation {
        function: LayerActivation,
        masked: bool,
    },
    Conv1d(DeviceConv1d),
    Rnn(Box<DeviceRnn>),
    TimeDistributed {
        path: String,
        inner: Box<DeviceLayer>,
    },
    Model {
        /// The layers with their paths.
        layers: Vec<(String, DeviceLayer)>,
        /// The model without its layers.
        spec: Box<ModelSpec>,
    },
    /// `ops.not_equal` with a number, which each call gives.
    NotEqual,
    Any,
}

/// A Conv1D layer on a device.
pub(super) struct DeviceConv1d {
    conv: Conv1d,
    /// The number of steps from the first to the last step that one output reads.
    reach: usize,
    stride: usize,
    padding: Padding,
    activation: LayerActivation,
}

impl DeviceLayer {
    /// Reads the arrays of a layer and puts them on the loader's device.
    pub(super) fn new(loader: &Loader<'_>, layer: &LayerSpec) -> Result<Self> {
        let bias = |path: &Option<String>, units: usize| -> Result<Option<Array1<f32>>> {
            path.as_ref().map(|path| loader.array(path, &[Some(units)])).transpose()
        };
        Ok(match &layer.kind {
            LayerKind::Input | LayerKind::Identity => Self::Identity,
            LayerKind::Masking(value) => Self::Masking(*value),
            LayerKind::Repeat(count) => Self::Repeat(*count),
            LayerKind::Embedding { symbols, width, mask_zero, table } => {
                let table: Array2<f32> = loader.array(table, &[Some(*symbols), Some(*width)])?;
                Self::Embedding { table: Embedding::new(loader.device, &table)?, width: *width, mask_zero: *mask_zero }
            }
            LayerKind::Dense { units, kernel, bias: path, activation } => {
                let kernel: Array2<f32> = loader.array(kernel, &[None, Some(*units)])?;
                let bias = bias(path, *units)?;
                let linear = Linear::new(loader.device, &kernel.reversed_axes(), bias.as_ref())?;
                Self::Dense { linear, activation: *activation }
            }
            LayerKind::Activation { function, masked } => Self::Activation { function: *function, masked: *masked },
            LayerKind::Conv1d(spec) => {
                let kernel = loader.array(&spec.kernel, &[Some(spec.size), None, Some(spec.filters)])?;
                let bias = bias(&spec.bias, spec.filters)?;
                Self::Conv1d(DeviceConv1d::new(loader, spec, &kernel, bias.as_ref())?)
            }
            LayerKind::Rnn(spec) => Self::Rnn(Box::new(DeviceRnn::new(loader, &layer.path, spec)?)),
            LayerKind::Bidirectional(spec) => Self::Rnn(Box::new(DeviceRnn::bidirectional(loader, &layer.path, spec)?)),
            LayerKind::TimeDistributed(inner) => {
                Self::TimeDistributed { path: inner.path.clone(), inner: Box::new(Self::new(loader, inner)?) }
            }
            LayerKind::Model(spec) => {
                let layers = spec.layers.iter().map(|layer| Ok((layer.path.clone(), Self::new(loader, layer)?)));
                let layers = layers.collect::<Result<_>>()?;
                Self::Model { layers, spec: Box::new(ModelSpec { layers: Vec::new(), ..spec.clone() }) }
            }
            LayerKind::NotEqual => Self::NotEqual,
            LayerKind::Any => Self::Any,
        })
    }

    /// Runs the layer on its inputs. For a recurrent layer the initial states follow the input.
    pub(super) fn run(&self, context: &mut LayerContext<'_>, inputs: &[MaskedValue]) -> Result<LayerResults> {
        match (self, inputs) {
            (Self::Rnn(rnn), _) => rnn.run(context, inputs),
            (Self::Model { layers, spec }, _) => run_model(context, layers, spec, inputs),
            (_, [x]) => self.run_one(context, x),
            _ => {
                let found = inputs.len().to_string();
                Err(Error::Value { op: OP, what: "inputs", expected: "one", found })
            }
        }
    }

    /// Runs a layer that takes a single input.
    fn run_one(&self, context: &mut LayerContext<'_>, x: &MaskedValue) -> Result<LayerResults> {
        let mask = x.mask.clone();
        let (y, mask) = match self {
            Self::Identity => return Ok(LayerResults::one(x.data.clone(), mask)),
            Self::Masking(number) => return masking(x, *number),
            Self::Any => return any(x),
            Self::TimeDistributed { path, inner } => return each_step(context, path, inner, x),
            Self::NotEqual => return Err(refused("input", "a number to compare with", &x.data)),
            Self::Activation { masked: true, .. } if mask.is_some() => {
                return Err(Error::Unsupported { op: OP, option: "a mask of Softmax".to_owned(), by: "by KerasLayer" });
            }
            Self::Repeat(count) => {
                let x = x.tensor(context)?;
                let [batch, width] = axes(OP, "x", "[B, I]", x.shape())?;
                let x = x.reshape(&[batch, 1, width])?;
                (ops::expand(context.recorder, &x, &[batch, *count, width])?, None)
            }
            Self::Embedding { table, width, mask_zero } => {
                let y = table.record(context.recorder, &x.symbols()?)?;
                let y = y.reshape(&[x.data.shape(), &[*width]].concat())?;
                let valid = mask_zero.then(|| x.differs(0.0)).transpose()?;
                let valid = valid.map(|valid| MaskedValue { data: ValueData::Bools(valid), mask: None });
                (y, valid.map(|valid| valid.as_mask()).transpose()?)
            }
            Self::Dense { linear, activation } => {
                let y = linear.record(context.recorder, &x.tensor(context)?)?;
                (activation.record(context.recorder, &y)?, mask)
            }
            Self::Activation { function, .. } => (function.record(context.recorder, &x.tensor(context)?)?, mask),
            // Convolutions of Keras drop the mask.
            Self::Conv1d(conv) => (conv.record(context.recorder, &x.tensor(context)?)?, None),
            // `run` has handled these.
            Self::Rnn(_) | Self::Model { .. } => return Ok(LayerResults { values: Vec::new(), states: Vec::new() }),
        };
        Ok(LayerResults::one(ValueData::Tensor(y), mask))
    }
}

/// Masking: masks the steps whose elements all equal a number, and sets them to zero.
fn masking(x: &MaskedValue, number: f32) -> Result<LayerResults> {
    let differs = x.differs(number)?;
    let ValueData::Floats(floats) = &x.data else {
        return Err(refused("input", "floats", &x.data));
    };
    let last = last_axis(&x.data)?;
    let valid = differs.fold_axis(last, false, |&any, &differs| any || differs);
    let mut kept = floats.clone();
    for (mut row, &valid) in kept.lanes_mut(last).into_iter().zip(&valid) {
        if !valid {
            row.fill(0.0);
        }
    }
    let mask = MaskedValue { data: ValueData::Bools(valid), mask: None }.as_mask()?;
    Ok(LayerResults::one(ValueData::Floats(kept), Some(mask)))
}

/// `ops.any` over the last axis of truth values.
fn any(x: &MaskedValue) -> Result<LayerResults> {
    let ValueData::Bools(bools) = &x.data else {
        return Err(refused("input", "truth values", &x.data));
    };
    let any = bools.fold_axis(last_axis(&x.data)?, false, |&any, &x| any || x);
    Ok(LayerResults::one(ValueData::Bools(any), None))
}

fn last_axis(data: &ValueData) -> Result<Axis> {
    match data.shape().len().checked_sub(1) {
        Some(last) => Ok(Axis(last)),
        None => Err(refused("input", "an array with axes", data)),
    }
}

/// TimeDistributed: runs a layer on every step, with the steps as rows of the batch.
fn each_step(context: &mut LayerContext<'_>, path: &str, inner: &DeviceLayer, x: &MaskedValue) -> Result<LayerResults> {
    let tensor = x.tensor(context)?;
    let [batch, time, rest @ ..] = tensor.shape() else {
        let expected = "[B, T, ..]".to_owned();
        return Err(Error::Shape { op: OP, what: "x", expected, found: tensor.shape().to_vec() });
    };
    let (batch, time) = (*batch, *time);
    if let (Some(_), DeviceLayer::Rnn(_) | DeviceLayer::Model { .. }) = (&x.mask, inner) {
        // Keras would give the layer the mask of each step.
        let option = "a mask of TimeDistributed around a layer with steps of its own".to_owned();
        return Err(Error::Unsupported { op: OP, option, by: "by KerasLayer" });
    }
    let rows = tensor.reshape(&[&[batch * time], rest].concat())?;
    let results = context.run(path, inner, &[MaskedValue { data: ValueData::Tensor(rows), mask: None }])?;
    let mut values = Vec::new();
    for value in results.values {
        let y = value.tensor(context)?;
        let y = y.reshape(&[&[batch, time], &y.shape()[1..]].concat())?;
        values.push(MaskedValue { data: ValueData::Tensor(y), mask: x.mask.clone() });
    }
    Ok(LayerResults { values, states: Vec::new() })
}

/// Runs the calls of a model in order.
fn run_model(
    context: &mut LayerContext<'_>,
    layers: &[(String, DeviceLayer)],
    spec: &ModelSpec,
    inputs: &[MaskedValue],
) -> Result<LayerResults> {
    if inputs.len() != spec.inputs.len() {
        let found = format!("{} for {}", inputs.len(), listed(&spec.inputs, ", "));
        return Err(Error::Value { op: OP, what: "inputs", expected: "one value per input of the model", found });
    }
    let mut results: Vec<Vec<MaskedValue>> = Vec::new();
    let find = |results: &[Vec<MaskedValue>], value: &ValueRef| {
        let found = match *value {
            ValueRef::Input(at) => inputs.get(at),
            ValueRef::Result { call, at } => results.get(call).and_then(|values| values.get(at)),
        };
        let missing =
            || Error::Value { op: OP, what: "output", expected: "one that the layer has", found: format!("{value:?}") };
        found.cloned().ok_or_else(missing)
    };
    for call in &spec.calls {
        let mut takes = call.takes.iter().map(|value| find(&results, value)).collect::<Result<Vec<_>>>()?;
        if let (Some(mask), Some(first)) = (&call.mask, takes.first_mut()) {
            first.mask = Some(find(&results, mask)?.as_mask()?);
        }
        let Some((path, layer)) = layers.get(call.layer) else { continue };
        results.push(match (layer, takes.as_slice()) {
            (DeviceLayer::NotEqual, [x]) => {
                vec![MaskedValue { data: ValueData::Bools(x.differs(call.number)?), mask: None }]
            }
            _ => context.run(path, layer, &takes)?.values,
        });
    }
    let outputs = spec.outputs.iter().map(|value| find(&results, value)).collect::<Result<_>>()?;
    Ok(LayerResults { values: outputs, states: Vec::new() })
}

impl LayerActivation {
    fn record(self, recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Each(crate::cell::Activation::Identity) => Ok(x.clone()),
            Self::Each(activation) => ops::activation(recorder, activation, x),
            Self::Exp => ops::math(recorder, Math::Exp, x),
            Self::Softmax => ops::softmax(recorder, x),
        }
    }
}

impl DeviceConv1d {
    /// Puts a layer on a device. `kernel` has Keras' layout, `[K, C, O]`.
    fn new(loader: &Loader<'_>, spec: &ConvSpec, kernel: &Array3<f32>, bias: Option<&Array1<f32>>) -> Result<Self> {
        let (size, channels, filters) = kernel.dim();
        let reach = (size - 1).checked_mul(spec.dilation).and_then(|steps| steps.checked_add(1));
        let reach = reach.filter(|&reach| reach <= LONGEST).ok_or_else(|| {
            let found = format!("{size} elements, {} apart", spec.dilation);
            loader.file.refuse(&spec.kernel, format!("a kernel that reaches over at most {LONGEST} steps"), &found)
        })?;
        loader.spend(&spec.kernel, 4 * (filters * channels) as u64 * reach as u64)?;
        let weight = kernel.view().permuted_axes([2, 1, 0]).to_owned();
        let geometry = FilterGeometry { stride: spec.stride, dilation: spec.dilation, groups: 1 };
        let conv = Conv1d::with_groups(loader.device, &weight, bias, geometry, 0)?;
        Ok(Self { conv, reach, stride: spec.stride, padding: spec.padding, activation: spec.activation })
    }

    fn record(&self, recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
        let [_, time, _] = axes(OP, "x", "[B, T, I]", x.shape())?;
        let x = ops::permute(recorder, x, &[0, 2, 1])?;
        let (left, right) = match self.padding {
            Padding::Valid => (0, 0),
            Padding::Causal => (self.reach - 1, 0),
            Padding::Same => same_padding(time, self.stride, self.reach).into(),
        };
        let y = self.conv.record_padded(recorder, &x, [left, right])?;
        let y = ops::permute(recorder, &y, &[0, 2, 1])?;
        self.activation.record(recorder, &y)
    }
}

/// The largest accepted [`DeviceConv1d::reach`].
const LONGEST: usize = 1 << 16;

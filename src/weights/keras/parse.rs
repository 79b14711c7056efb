//! Configurations to descriptions of layers: every option honoured or refused.

use serde_json::{Value as Json, json};

use super::cells::{BothSpec, RnnSpec};
use super::fields::{Fields, describe};
use super::graph::Graph;
use super::store::Store;
use super::{Generation, Source};
use crate::cell::Activation;
use crate::error::Result;

/// A layer as the file describes it.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Its name, behind the names of the models and wrappers that hold it: `inner/lstm`.
    pub(super) path: String,
    pub(super) class: String,
    pub(super) kind: Kind,
}

/// What a layer computes, and the paths of its arrays.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Input,
    /// What acts in training only.
    Identity,
    Masking(f32),
    Repeat(usize),
    Embedding {
        symbols: usize,
        width: usize,
        mask_zero: bool,
        table: String,
    },
    Dense {
        units: usize,
        kernel: String,
        bias: Option<String>,
        activation: Function,
    },
    /// `masked`: a mask changes the result (`Softmax`).
    Activation {
        function: Function,
        masked: bool,
    },
    Conv1d(ConvSpec),
    Rnn(RnnSpec),
    Both(BothSpec),
    EachStep(Box<Layer>),
    Graph(Graph),
    /// `ops.not_equal` with a number: how functional models write masks.
    NotEqual,
    /// `ops.any` over the last axis.
    Any,
}

#[derive(Clone, Debug)]
pub(super) struct ConvSpec {
    pub(super) filters: usize,
    pub(super) size: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) padding: Padding,
    pub(super) kernel: String,
    pub(super) bias: Option<String>,
    pub(super) activation: Function,
}

/// How far a convolution reaches beyond its signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    Valid,
    Same,
    Causal,
}

/// An activation of a layer, rows included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Function {
    Each(Activation),
    Exp,
    /// Over the last axis.
    Softmax,
}

/// A layer, cell or model as JSON writes it.
pub(super) struct Object<'a> {
    source: Source<'a>,
    pub(super) class: &'a str,
    pub(super) name: &'a str,
    pub(super) json: &'a Json,
    pub(super) path: String,
    /// The file's own model: its layers are named without it.
    pub(super) outermost: bool,
}

impl<'a> Object<'a> {
    pub(super) fn fields(&self) -> Result<Fields<'a>> {
        Fields::new(self.source, &self.path, self.json.get("config"))
    }

    /// Whether it was trained, and so stands first in a whole-model `.h5`.
    pub(super) fn trainable(&self) -> bool {
        self.json.get("config").and_then(|config| config.get("trainable")).and_then(Json::as_bool).unwrap_or(true)
    }
}

/// Copies that a RepeatVector makes.
const MOST_COPIES: usize = 1 << 24;

/// Reads the configurations of one file.
pub(super) struct Parser<'a> {
    pub(super) source: Source<'a>,
    pub(super) generation: Option<Generation>,
}

impl<'a> Parser<'a> {
    /// A layer of Keras' own.
    pub(super) fn named<'b>(&self, prefix: &str, json: &'b Json) -> Result<Object<'b>>
    where
        'a: 'b,
    {
        let site = |what: &str| if prefix.is_empty() { what.to_owned() } else { format!("{prefix}: {what}") };
        let Some(class) = json.get("class_name").and_then(Json::as_str) else {
            return Err(self.source.refuse(
                &site("class_name"),
                "the name of a class",
                &describe(json.get("class_name")),
            ));
        };
        // A Sequential model of Keras before 2.2 is a bare list.
        let name = json.get("config").and_then(|config| config.get("name")).or_else(|| json.get("name"));
        let Some(name) = name.and_then(Json::as_str) else {
            return Err(self.source.refuse(&site(class), "a layer with a name", &describe(json.get("config"))));
        };
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let module = json.get("module").and_then(Json::as_str).unwrap_or("keras");
        let own = ["keras", "tf_keras", "tensorflow"];
        if !own.iter().any(|own| module.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        {
            return Err(self.source.refuse(&format!("layer {path}: module"), "one of Keras", module));
        }
        Ok(Object { source: self.source, class, name, json, path, outermost: false })
    }

    /// An object in a layer's field.
    pub(super) fn object<'b>(&self, fields: &Fields<'_>, field: &str, json: Option<&'b Json>) -> Result<Object<'b>>
    where
        'a: 'b,
    {
        match json {
            Some(json @ Json::Object(_)) => self.named(fields.path(), json),
            other => Err(fields.refuse(field, "a layer", &describe(other))),
        }
    }

    pub(super) fn layer(&self, object: &Object<'_>, store: &Store<'_>, trainable: bool) -> Result<Layer> {
        let trainable = trainable && object.trainable();
        let fields = object.fields()?;
        let arrays = |count: usize| store.arrays(self.source, &object.path, count, trainable);
        let kind = match object.class {
            "Sequential" | "Functional" | "Model" => {
                fields.without_effect(&["layers", "input_layers", "output_layers"]);
                Kind::Graph(self.graph(object, store, trainable)?)
            }
            "InputLayer" => {
                // The type of symbols is their own; the shape is that of the data the model was built with.
                fields.without_effect(&["dtype", "sparse", "optional"]);
                fields.only("ragged", &json!(false))?;
                Kind::Input
            }
            "Dropout"
            | "SpatialDropout1D"
            | "GaussianNoise"
            | "GaussianDropout"
            | "AlphaDropout"
            | "ActivityRegularization" => {
                fields.without_effect(&["rate", "noise_shape", "stddev", "l1", "l2"]);
                Kind::Identity
            }
            "Masking" => Kind::Masking(fields.number("mask_value")?.unwrap_or(0.0)),
            "RepeatVector" => match fields.count("n")? {
                count if count <= MOST_COPIES => Kind::Repeat(count),
                count => return Err(fields.refuse("n", &format!("at most {MOST_COPIES}"), &count.to_string())),
            },
            "Embedding" => {
                fields.without_effect(&["input_length"]);
                let [symbols, width] = [fields.count("input_dim")?, fields.count("output_dim")?];
                let mask_zero = fields.flag("mask_zero", false)?;
                Kind::Embedding { symbols, width, mask_zero, table: arrays(1)?.swap_remove(0) }
            }
            "Dense" => {
                let bias = fields.flag("use_bias", true)?;
                let mut arrays = arrays(if bias { 2 } else { 1 })?;
                let bias = bias.then(|| arrays.swap_remove(1));
                let (units, activation) = (fields.count("units")?, self.function(&fields, "activation")?);
                Kind::Dense { units, kernel: arrays.swap_remove(0), bias, activation }
            }
            "Activation" => Kind::Activation { function: self.function(&fields, "activation")?, masked: false },
            "ReLU" | "LeakyReLU" | "ELU" => {
                let function = Function::Each(self.activation_layer(object.class, &fields)?);
                Kind::Activation { function, masked: false }
            }
            "Softmax" => {
                fields.only("axis", &json!(-1))?;
                Kind::Activation { function: Function::Softmax, masked: true }
            }
            "Conv1D" => {
                let bias = fields.flag("use_bias", true)?;
                let mut arrays = arrays(if bias { 2 } else { 1 })?;
                let bias = bias.then(|| arrays.swap_remove(1));
                Kind::Conv1d(self.conv1d(&fields, arrays.swap_remove(0), bias)?)
            }
            "Bidirectional" => Kind::Both(self.both(&fields, store, trainable)?),
            "TimeDistributed" => {
                let inner = self.object(&fields, "layer", fields.get("layer"))?;
                Kind::EachStep(Box::new(self.layer(&inner, &store.child("layer"), trainable)?))
            }
            "NotEqual" => Kind::NotEqual,
            "Any" => {
                fields.only("keepdims", &json!(false))?;
                match fields.get("axis") {
                    Some(axis) if *axis == json!(-1) || *axis == json!([-1]) => Kind::Any,
                    other => return Err(fields.refuse("axis", "-1", &describe(other))),
                }
            }
            class if Self::is_rnn(class) => Kind::Rnn(self.rnn(class, &fields, store, trainable)?),
            other => {
                return Err(fields.refuse("class_name", "a layer that is carried out", other));
            }
        };
        fields.finish()?;
        Ok(Layer { path: object.path.clone(), class: object.class.to_owned(), kind })
    }

    fn conv1d(&self, fields: &Fields<'_>, kernel: String, bias: Option<String>) -> Result<ConvSpec> {
        fields.only("groups", &json!(1))?;
        fields.only("data_format", &json!("channels_last"))?;
        let padding = match fields.text("padding")?.unwrap_or("valid") {
            "valid" => Padding::Valid,
            "same" => Padding::Same,
            "causal" => Padding::Causal,
            other => return Err(fields.refuse("padding", "valid, same or causal", other)),
        };
        let one = |name| if fields.get(name).is_some() { fields.along_one_axis(name) } else { Ok(1) };
        Ok(ConvSpec {
            filters: fields.count("filters")?,
            size: fields.along_one_axis("kernel_size")?,
            stride: one("strides")?,
            dilation: one("dilation_rate")?,
            padding,
            kernel,
            bias,
            activation: self.function(fields, "activation")?,
        })
    }

    /// The activation of a cell: element by element.
    pub(super) fn cell_activation(&self, fields: &Fields<'_>, name: &'static str) -> Result<Activation> {
        if fields.get(name).is_none() {
            return Err(fields.refuse(name, "an activation", "nothing"));
        }
        match self.function(fields, name)? {
            Function::Each(activation) => Ok(activation),
            other => Err(fields.refuse(name, "an activation of single elements", &format!("{other:?}").to_lowercase())),
        }
    }

    /// The activation of a layer; none is the identity.
    fn function(&self, fields: &Fields<'_>, name: &'static str) -> Result<Function> {
        let json = match fields.get(name) {
            None => return Ok(Function::Each(Activation::Identity)),
            Some(json @ Json::Object(_)) => {
                let layer = self.object(fields, name, Some(json))?;
                let inner = layer.fields()?;
                let activation = self.activation_layer(layer.class, &inner)?;
                inner.finish()?;
                return Ok(Function::Each(activation));
            }
            Some(json) => json,
        };
        let generation = || {
            self.generation.ok_or_else(|| {
                let found = "a file without keras_version";
                fields.refuse(name, "a version of Keras, which decides what the activation computes", found)
            })
        };
        Ok(Function::Each(match json.as_str() {
            Some("linear") => Activation::Identity,
            Some("tanh") => Activation::Tanh,
            Some("sigmoid") => Activation::Sigmoid,
            Some("relu") => Activation::Relu,
            Some("softsign") => Activation::Softsign,
            Some("softplus") => Activation::Softplus,
            Some("elu") => Activation::Elu { alpha: 1.0 },
            Some("leaky_relu") => Activation::LeakyRelu { alpha: 0.2 },
            Some("hard_sigmoid") => match generation()? {
                Generation::Keras2 => Activation::HARD_SIGMOID_ONNX,
                Generation::Keras3 => Activation::HARD_SIGMOID_KERAS3,
            },
            Some("softmax") => return Ok(Function::Softmax),
            Some("exponential") => return Ok(Function::Exp),
            _ => {
                let expected = "linear, tanh, sigmoid, hard_sigmoid, relu, leaky_relu, elu, softsign, softplus, softmax or \
                                exponential";
                return Err(fields.refuse(name, expected, &describe(Some(json))));
            }
        }))
    }

    fn activation_layer(&self, class: &str, fields: &Fields<'_>) -> Result<Activation> {
        Ok(match class {
            "ReLU" => {
                fields.only("threshold", &json!(0.0))?;
                match fields.get("max_value") {
                    None => {}
                    Some(limit) => return Err(fields.refuse("max_value", "none", &limit.to_string())),
                }
                match fields.number("negative_slope")?.unwrap_or(0.0) {
                    0.0 => Activation::Relu,
                    alpha => Activation::LeakyRelu { alpha },
                }
            }
            "LeakyReLU" => {
                // Keras 2 calls it alpha.
                let slope = fields.number("negative_slope")?.or(fields.number("alpha")?);
                Activation::LeakyRelu { alpha: slope.unwrap_or(0.3) }
            }
            "ELU" => Activation::Elu { alpha: fields.number("alpha")?.unwrap_or(1.0) },
            other => return Err(fields.refuse("class_name", "ReLU, LeakyReLU or ELU", other)),
        })
    }
}

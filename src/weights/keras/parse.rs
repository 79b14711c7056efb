//! Descriptions of layers, from their configurations. Every option is either read or refused.

use serde_json::{Value as Json, json};

use super::cells::{BidirectionalSpec, RnnSpec};
use super::fields::{Fields, describe};
use super::model::ModelSpec;
use super::store::ArrayStore;
use super::{FileName, Generation};
use crate::cell::Activation;
use crate::error::Result;

/// A layer as the file describes it.
#[derive(Clone, Debug)]
pub(super) struct LayerSpec {
    /// The name of the layer after the names of the models and wrappers that hold it, for example `inner/lstm`.
    pub(super) path: String,
    pub(super) class: String,
    pub(super) kind: LayerKind,
}

/// The computation of a layer, and the paths of its arrays.
#[derive(Clone, Debug)]
pub(super) enum LayerKind {
    Input,
    /// A layer that acts in training only.
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
        activation: LayerActivation,
    },
    Activation {
        function: LayerActivation,
        /// Whether a mask changes the result (`Softmax`).
        masked: bool,
    },
    Conv1d(ConvSpec),
    Rnn(RnnSpec),
    Bidirectional(BidirectionalSpec),
    TimeDistributed(Box<LayerSpec>),
    Model(ModelSpec),
    /// `ops.not_equal` with a number, with which functional models compute masks.
    NotEqual,
    /// `ops.any` over the last axis.
    Any,
}

/// A Conv1D layer.
#[derive(Clone, Debug)]
pub(super) struct ConvSpec {
    pub(super) filters: usize,
    pub(super) size: usize,
    pub(super) stride: usize,
    pub(super) dilation: usize,
    pub(super) padding: Padding,
    pub(super) kernel: String,
    pub(super) bias: Option<String>,
    pub(super) activation: LayerActivation,
}

/// The zeros around the signal of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Padding {
    Valid,
    Same,
    Causal,
}

/// An activation of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum LayerActivation {
    /// An activation of every element.
    Each(Activation),
    Exp,
    /// Softmax over the last axis.
    Softmax,
}

/// The JSON of a layer, cell or model.
pub(super) struct JsonObject<'a> {
    file: FileName<'a>,
    pub(super) class: &'a str,
    pub(super) name: &'a str,
    pub(super) json: &'a Json,
    pub(super) path: String,
    /// Whether the object is the file's own model, whose name is no part of the paths of its layers.
    pub(super) outermost: bool,
}

impl<'a> JsonObject<'a> {
    pub(super) fn fields(&self) -> Result<Fields<'a>> {
        Fields::new(self.file, &self.path, self.json.get("config"))
    }

    /// Whether the object is trainable. A whole-model `.h5` lists trainable arrays first.
    pub(super) fn trainable(&self) -> bool {
        self.json.get("config").and_then(|config| config.get("trainable")).and_then(Json::as_bool).unwrap_or(true)
    }
}

/// The most copies that a RepeatVector makes.
const MOST_COPIES: usize = 1 << 24;

/// Reads the configurations of one file. The generation is `None` if the file does not state its version of Keras.
pub(super) struct Parser<'a> {
    pub(super) file: FileName<'a>,
    pub(super) generation: Option<Generation>,
}

impl<'a> Parser<'a> {
    /// The class, name and path of a layer that belongs to Keras itself.
    pub(super) fn named<'b>(&self, prefix: &str, json: &'b Json) -> Result<JsonObject<'b>>
    where
        'a: 'b,
    {
        let site = |what: &str| if prefix.is_empty() { what.to_owned() } else { format!("{prefix}: {what}") };
        let Some(class) = json.get("class_name").and_then(Json::as_str) else {
            let found = describe(json.get("class_name"));
            return Err(self.file.refuse(&site("class_name"), "the name of a class", found));
        };
        // The Sequential model of Keras before 2.2 has a list as its configuration.
        let name = json.get("config").and_then(|config| config.get("name")).or_else(|| json.get("name"));
        let Some(name) = name.and_then(Json::as_str) else {
            return Err(self.file.refuse(&site(class), "a layer with a name", describe(json.get("config"))));
        };
        let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        let module = json.get("module").and_then(Json::as_str).unwrap_or("keras");
        let own = ["keras", "tf_keras", "tensorflow"];
        if !own.iter().any(|own| module.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        {
            return Err(self.file.refuse(&format!("layer {path}: module"), "one of Keras", module));
        }
        Ok(JsonObject { file: self.file, class, name, json, path, outermost: false })
    }

    /// A layer or cell in a field of another one.
    pub(super) fn object<'b>(&self, fields: &Fields<'_>, field: &str, json: Option<&'b Json>) -> Result<JsonObject<'b>>
    where
        'a: 'b,
    {
        match json {
            Some(json @ Json::Object(_)) => self.named(fields.path(), json),
            other => Err(fields.refuse(field, "a layer", &describe(other))),
        }
    }

    /// Reads a layer with its options and the paths of its arrays.
    pub(super) fn layer(&self, object: &JsonObject<'_>, store: &ArrayStore<'_>, trainable: bool) -> Result<LayerSpec> {
        let trainable = trainable && object.trainable();
        let fields = object.fields()?;
        let kind = match self.without_arrays(object, &fields)? {
            Some(kind) => kind,
            None => self.with_arrays(object, &fields, store, trainable)?,
        };
        fields.finish()?;
        Ok(LayerSpec { path: object.path.clone(), class: object.class.to_owned(), kind })
    }

    /// Reads a layer of a class that has no arrays; `None` for other classes.
    fn without_arrays(&self, object: &JsonObject<'_>, fields: &Fields<'_>) -> Result<Option<LayerKind>> {
        Ok(Some(match object.class {
            "InputLayer" => {
                // Inputs of symbols may have any type.
                fields.without_effect(&["dtype", "sparse", "optional"]);
                fields.only("ragged", &json!(false))?;
                LayerKind::Input
            }
            "Dropout"
            | "SpatialDropout1D"
            | "GaussianNoise"
            | "GaussianDropout"
            | "AlphaDropout"
            | "ActivityRegularization" => {
                fields.without_effect(&["rate", "noise_shape", "stddev", "l1", "l2"]);
                LayerKind::Identity
            }
            "Masking" => LayerKind::Masking(fields.number("mask_value")?.unwrap_or(0.0)),
            "RepeatVector" => match fields.count("n")? {
                count if count <= MOST_COPIES => LayerKind::Repeat(count),
                count => return Err(fields.refuse("n", &format!("at most {MOST_COPIES}"), &count.to_string())),
            },
            "Activation" => LayerKind::Activation { function: self.function(fields, "activation")?, masked: false },
            "ReLU" | "LeakyReLU" | "ELU" => {
                let function = LayerActivation::Each(self.activation_layer(object.class, fields)?);
                LayerKind::Activation { function, masked: false }
            }
            "Softmax" => {
                fields.only("axis", &json!(-1))?;
                LayerKind::Activation { function: LayerActivation::Softmax, masked: true }
            }
            "NotEqual" => LayerKind::NotEqual,
            "Any" => {
                fields.only("keepdims", &json!(false))?;
                match fields.get("axis") {
                    Some(axis) if *axis == json!(-1) || *axis == json!([-1]) => LayerKind::Any,
                    other => return Err(fields.refuse("axis", "-1", &describe(other))),
                }
            }
            _ => return Ok(None),
        }))
    }

    /// Reads a layer of a class that has arrays, or that holds layers.
    fn with_arrays(
        &self,
        object: &JsonObject<'_>,
        fields: &Fields<'_>,
        store: &ArrayStore<'_>,
        trainable: bool,
    ) -> Result<LayerKind> {
        let arrays = |count: usize| store.arrays(self.file, &object.path, count, trainable);
        let kernel_and_bias = || -> Result<(String, Option<String>)> {
            let bias = fields.flag("use_bias", true)?;
            let mut arrays = arrays(if bias { 2 } else { 1 })?;
            let bias = bias.then(|| arrays.swap_remove(1));
            Ok((arrays.swap_remove(0), bias))
        };
        Ok(match object.class {
            "Sequential" | "Functional" | "Model" => {
                fields.without_effect(&["layers", "input_layers", "output_layers"]);
                LayerKind::Model(self.model(object, store, trainable)?)
            }
            "Embedding" => {
                fields.without_effect(&["input_length"]);
                let [symbols, width] = [fields.count("input_dim")?, fields.count("output_dim")?];
                let mask_zero = fields.flag("mask_zero", false)?;
                LayerKind::Embedding { symbols, width, mask_zero, table: arrays(1)?.swap_remove(0) }
            }
            "Dense" => {
                let (kernel, bias) = kernel_and_bias()?;
                let (units, activation) = (fields.count("units")?, self.function(fields, "activation")?);
                LayerKind::Dense { units, kernel, bias, activation }
            }
            "Conv1D" => {
                let (kernel, bias) = kernel_and_bias()?;
                LayerKind::Conv1d(self.conv1d(fields, kernel, bias)?)
            }
            "Bidirectional" => LayerKind::Bidirectional(self.bidirectional(fields, store, trainable)?),
            "TimeDistributed" => {
                let inner = self.object(fields, "layer", fields.get("layer"))?;
                LayerKind::TimeDistributed(Box::new(self.layer(&inner, &store.child("layer"), trainable)?))
            }
            class if Self::is_rnn(class) => LayerKind::Rnn(self.rnn(class, fields, store, trainable)?),
            other => return Err(fields.refuse("class_name", "a supported layer", other)),
        })
    }

    /// Reads the options of a Conv1D layer.
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

    /// Reads the activation of a cell; refuses one that does not act on single elements.
    pub(super) fn cell_activation(&self, fields: &Fields<'_>, name: &'static str) -> Result<Activation> {
        if fields.get(name).is_none() {
            return Err(fields.refuse(name, "an activation", "nothing"));
        }
        match self.function(fields, name)? {
            LayerActivation::Each(activation) => Ok(activation),
            other => Err(fields.refuse(name, "an activation of single elements", &format!("{other:?}").to_lowercase())),
        }
    }

    /// Reads the activation of a layer; the identity if there is none.
    fn function(&self, fields: &Fields<'_>, name: &'static str) -> Result<LayerActivation> {
        let json = match fields.get(name) {
            None => return Ok(LayerActivation::Each(Activation::Identity)),
            Some(json @ Json::Object(_)) => {
                let layer = self.object(fields, name, Some(json))?;
                let inner = layer.fields()?;
                let activation = self.activation_layer(layer.class, &inner)?;
                inner.finish()?;
                return Ok(LayerActivation::Each(activation));
            }
            Some(json) => json,
        };
        let generation = || {
            self.generation.ok_or_else(|| {
                let found = "a file without keras_version";
                fields.refuse(name, "a version of Keras, which decides what the activation computes", found)
            })
        };
        Ok(LayerActivation::Each(match json.as_str() {
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
            Some("softmax") => return Ok(LayerActivation::Softmax),
            Some("exponential") => return Ok(LayerActivation::Exp),
            _ => {
                let expected = "linear, tanh, sigmoid, hard_sigmoid, relu, leaky_relu, elu, softsign, softplus, softmax or \
                                exponential";
                return Err(fields.refuse(name, expected, &describe(Some(json))));
            }
        }))
    }

    /// Reads a layer class that is an activation with parameters.
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
                // Keras 2 calls the slope alpha.
                let slope = fields.number("negative_slope")?.or(fields.number("alpha")?);
                Activation::LeakyRelu { alpha: slope.unwrap_or(0.3) }
            }
            "ELU" => Activation::Elu { alpha: fields.number("alpha")?.unwrap_or(1.0) },
            other => return Err(fields.refuse("class_name", "ReLU, LeakyReLU or ELU", other)),
        })
    }
}

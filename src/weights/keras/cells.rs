//! Recurrent layers as Keras configures them.

use serde_json::{Value as Json, json};

use super::fields::Fields;
use super::parse::Parser;
use super::store::Store;
use crate::cell::{Activation, Cell, GruCell, LstmCell, Reset, RnnCell};
use crate::error::Result;
use crate::nn::Merge;

/// One cell: what it computes, and where its arrays lie.
#[derive(Clone, Debug)]
pub(super) struct CellSpec {
    pub(super) cell: Cell,
    pub(super) units: usize,
    /// Kernel, recurrent kernel and, with bias, the bias.
    pub(super) arrays: Vec<String>,
    /// The arrays are cuDNN's (`CuDNNLSTM`, `CuDNNGRU`).
    pub(super) cudnn: bool,
}

/// A layer that walks through time.
#[derive(Clone, Debug)]
pub(super) struct RnnSpec {
    /// More than one for `StackedRNNCells`.
    pub(super) cells: Vec<CellSpec>,
    pub(super) backwards: bool,
    pub(super) sequences: bool,
    pub(super) states: bool,
    pub(super) stateful: bool,
    /// Zeros at masked steps rather than the output before.
    pub(super) zero_masked: bool,
}

/// Two of them, side by side.
#[derive(Clone, Debug)]
pub(super) struct BothSpec {
    pub(super) forward: RnnSpec,
    pub(super) backward: RnnSpec,
    pub(super) merge: Option<Merge>,
}

const CUDNN: [&str; 2] = ["CuDNNLSTM", "CuDNNGRU"];

impl Parser<'_> {
    /// Whether a class is a recurrent layer.
    pub(super) fn is_rnn(class: &str) -> bool {
        ["SimpleRNN", "LSTM", "GRU", "RNN"].contains(&class) || CUDNN.contains(&class)
    }

    pub(super) fn rnn(&self, class: &str, fields: &Fields<'_>, store: &Store<'_>, trainable: bool) -> Result<RnnSpec> {
        let cells = match class {
            "RNN" => self.wrapped(fields, &store.child("cell"), trainable)?,
            _ if CUDNN.contains(&class) => vec![self.cell(class, fields, store, trainable)?],
            _ => vec![self.cell(class, fields, &store.child("cell"), trainable)?],
        };
        fields.without_effect(&["unroll", "activity_regularizer"]);
        fields.only("time_major", &json!(false))?;
        Ok(RnnSpec {
            cells,
            backwards: fields.flag("go_backwards", false)?,
            sequences: fields.flag("return_sequences", false)?,
            states: fields.flag("return_state", false)?,
            stateful: fields.flag("stateful", false)?,
            zero_masked: fields.flag("zero_output_for_mask", false)?,
        })
    }

    /// `RNN(cell)` and `RNN([cell, ..])`.
    fn wrapped(&self, fields: &Fields<'_>, store: &Store<'_>, trainable: bool) -> Result<Vec<CellSpec>> {
        let cell = self.object(fields, "cell", fields.get("cell"))?;
        let trainable = trainable && cell.trainable();
        let inner = cell.fields()?;
        if cell.class != "StackedRNNCells" {
            let spec = self.bare(cell.class, &inner, store, trainable)?;
            return Ok(vec![spec]);
        }
        inner.only("reverse_state_order", &json!(false))?;
        let Some(Json::Array(list)) = inner.get("cells") else {
            return Err(inner.refuse("cells", "a list of cells", "none"));
        };
        let siblings = store.layers("cells");
        let mut specs = Vec::new();
        for one in list {
            let cell = self.object(&inner, "cells", Some(one))?;
            let place = siblings.next(self.source, cell.class, cell.name)?;
            specs.push(self.bare(cell.class, &cell.fields()?, &place, trainable && cell.trainable())?);
        }
        if specs.is_empty() {
            return Err(inner.refuse("cells", "at least one cell", "none"));
        }
        inner.finish()?;
        Ok(specs)
    }

    fn bare(&self, class: &str, fields: &Fields<'_>, store: &Store<'_>, trainable: bool) -> Result<CellSpec> {
        let Some(kind) = class.strip_suffix("Cell") else {
            return Err(fields.refuse("class_name", "SimpleRNNCell, LSTMCell, GRUCell or StackedRNNCells", class));
        };
        let spec = self.cell(kind, fields, store, trainable)?;
        fields.finish()?;
        Ok(spec)
    }

    fn cell(&self, kind: &str, fields: &Fields<'_>, store: &Store<'_>, trainable: bool) -> Result<CellSpec> {
        let units = fields.count("units")?;
        let cudnn = CUDNN.contains(&kind);
        let (candidate, bias) = if cudnn {
            (Activation::Tanh, true)
        } else {
            // Each step of a matmul, and what training drops, change nothing at inference.
            fields.without_effect(&["dropout", "recurrent_dropout", "implementation"]);
            (self.cell_activation(fields, "activation")?, fields.flag("use_bias", true)?)
        };
        let gate =
            || if cudnn { Ok(Activation::Sigmoid) } else { self.cell_activation(fields, "recurrent_activation") };
        let cell = match kind {
            "SimpleRNN" => RnnCell { activation: candidate, bias, ..Default::default() }.into(),
            "LSTM" | "CuDNNLSTM" => {
                // How the bias began.
                fields.without_effect(&["unit_forget_bias"]);
                LstmCell { gate: gate()?, candidate, output: candidate, bias, ..Default::default() }.into()
            }
            "GRU" | "CuDNNGRU" => {
                let after = cudnn || fields.required_flag("reset_after")?;
                let reset = if after { Reset::After } else { Reset::Before };
                GruCell { gate: gate()?, candidate, reset, bias, ..Default::default() }.into()
            }
            other => {
                return Err(fields.refuse("class_name", "a cell of the kind SimpleRNN, LSTM or GRU", other));
            }
        };
        let arrays = store.arrays(self.source, fields.path(), if bias { 3 } else { 2 }, trainable)?;
        Ok(CellSpec { cell, units, arrays, cudnn })
    }

    pub(super) fn both(&self, fields: &Fields<'_>, store: &Store<'_>, trainable: bool) -> Result<BothSpec> {
        let merge = match fields.get("merge_mode") {
            None => None,
            Some(mode) => match mode.as_str() {
                Some("concat") => Some(Merge::Concat),
                Some("sum") => Some(Merge::Sum),
                Some("mul") => Some(Merge::Mul),
                Some("ave") => Some(Merge::Ave),
                _ => return Err(fields.refuse("merge_mode", "concat, sum, mul, ave or null", &mode.to_string())),
            },
        };
        let one = |json: Option<&Json>, field: &'static str, attribute: &str| {
            let layer = self.object(fields, field, json)?;
            if !Self::is_rnn(layer.class) {
                return Err(fields.refuse(field, "a recurrent layer", layer.class));
            }
            let inner = layer.fields()?;
            let spec = self.rnn(layer.class, &inner, &store.child(attribute), trainable && layer.trainable())?;
            inner.finish()?;
            Ok(spec)
        };
        let layer = fields.get("layer");
        let forward = one(layer, "layer", "forward_layer")?;
        let backward = match fields.get("backward_layer") {
            Some(own) => one(Some(own), "backward_layer", "backward_layer")?,
            // A copy that walks the other way.
            None => {
                let copy = one(layer, "layer", "backward_layer")?;
                RnnSpec { backwards: !copy.backwards, ..copy }
            }
        };
        let shared = |spec: &RnnSpec| (spec.sequences, spec.states, spec.stateful);
        if forward.backwards == backward.backwards || shared(&forward) != shared(&backward) {
            let expected =
                "the opposite go_backwards, and the same return_sequences, return_state and stateful, as layer";
            return Err(fields.refuse("backward_layer", expected, "another"));
        }
        // Keras forces it on both layers.
        let zero_masked = forward.sequences;
        Ok(BothSpec {
            forward: RnnSpec { zero_masked, ..forward },
            backward: RnnSpec { zero_masked, ..backward },
            merge,
        })
    }
}

//! Descriptions of recurrent layers, from Keras' configurations.

use serde_json::{Value as Json, json};

use super::fields::Fields;
use super::parse::Parser;
use super::store::ArrayStore;
use crate::cell::{Activation, Cell, GruCell, LstmCell, Reset, RnnCell};
use crate::error::Result;
use crate::nn::Merge;

/// A cell, its size, and the paths of its arrays.
#[derive(Clone, Debug)]
pub(super) struct CellSpec {
    pub(super) cell: Cell,
    pub(super) units: usize,
    /// The paths of the kernel, the recurrent kernel and, if the cell has one, the bias.
    pub(super) arrays: Vec<String>,
    /// Whether the arrays have cuDNN's layout (`CuDNNLSTM`, `CuDNNGRU`).
    pub(super) cudnn: bool,
}

/// A recurrent layer of one direction.
#[derive(Clone, Debug)]
pub(super) struct RnnSpec {
    /// The cells, each reading the output of the one before. Only `StackedRNNCells` has more than one.
    pub(super) cells: Vec<CellSpec>,
    /// `go_backwards`: whether the layer runs from the last step to the first.
    pub(super) backwards: bool,
    /// `return_sequences`: whether the layer returns the output of every step.
    pub(super) sequences: bool,
    /// `return_state`: whether the layer returns its final state, too.
    pub(super) states: bool,
    pub(super) stateful: bool,
    /// `zero_output_for_mask`: whether the output at masked steps is zero instead of the output of the step before.
    pub(super) zero_masked: bool,
}

/// A Bidirectional layer.
#[derive(Clone, Debug)]
pub(super) struct BidirectionalSpec {
    pub(super) forward: RnnSpec,
    pub(super) backward: RnnSpec,
    /// `merge_mode`; `None` if both outputs are returned.
    pub(super) merge: Option<Merge>,
}

const CUDNN: [&str; 2] = ["CuDNNLSTM", "CuDNNGRU"];

impl Parser<'_> {
    /// Whether a class is a recurrent layer.
    pub(super) fn is_rnn(class: &str) -> bool {
        ["SimpleRNN", "LSTM", "GRU", "RNN"].contains(&class) || CUDNN.contains(&class)
    }

    /// Reads a recurrent layer of one direction.
    pub(super) fn rnn(
        &self,
        class: &str,
        fields: &Fields<'_>,
        store: &ArrayStore<'_>,
        trainable: bool,
    ) -> Result<RnnSpec> {
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

    /// Reads the cells of `RNN(cell)` and `RNN([cell, ..])`.
    fn wrapped(&self, fields: &Fields<'_>, store: &ArrayStore<'_>, trainable: bool) -> Result<Vec<CellSpec>> {
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
            let place = siblings.next(self.file, cell.class, cell.name)?;
            specs.push(self.bare(cell.class, &cell.fields()?, &place, trainable && cell.trainable())?);
        }
        if specs.is_empty() {
            return Err(inner.refuse("cells", "at least one cell", "none"));
        }
        inner.finish()?;
        Ok(specs)
    }

    /// Reads a cell class, for example `LSTMCell`.
    fn bare(&self, class: &str, fields: &Fields<'_>, store: &ArrayStore<'_>, trainable: bool) -> Result<CellSpec> {
        let Some(kind) = class.strip_suffix("Cell") else {
            return Err(fields.refuse("class_name", "SimpleRNNCell, LSTMCell, GRUCell or StackedRNNCells", class));
        };
        let spec = self.cell(kind, fields, store, trainable)?;
        fields.finish()?;
        Ok(spec)
    }

    /// Reads a cell from the fields of its layer or cell class.
    fn cell(&self, kind: &str, fields: &Fields<'_>, store: &ArrayStore<'_>, trainable: bool) -> Result<CellSpec> {
        let units = fields.count("units")?;
        let cudnn = CUDNN.contains(&kind);
        let (candidate, bias) = if cudnn {
            (Activation::Tanh, true)
        } else {
            // `implementation` only orders the computation; dropout acts in training only.
            fields.without_effect(&["dropout", "recurrent_dropout", "implementation"]);
            (self.cell_activation(fields, "activation")?, fields.flag("use_bias", true)?)
        };
        let gate =
            || if cudnn { Ok(Activation::Sigmoid) } else { self.cell_activation(fields, "recurrent_activation") };
        let cell = match kind {
            "SimpleRNN" => RnnCell { activation: candidate, bias, ..Default::default() }.into(),
            "LSTM" | "CuDNNLSTM" => {
                // The option only sets the initial bias.
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
        let arrays = store.arrays(self.file, fields.path(), if bias { 3 } else { 2 }, trainable)?;
        Ok(CellSpec { cell, units, arrays, cudnn })
    }

    /// Reads a Bidirectional layer.
    pub(super) fn bidirectional(
        &self,
        fields: &Fields<'_>,
        store: &ArrayStore<'_>,
        trainable: bool,
    ) -> Result<BidirectionalSpec> {
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
            // Keras copies the forward layer and inverts its direction.
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
        // Keras sets `zero_output_for_mask` of both layers to `return_sequences`.
        let zero_masked = forward.sequences;
        Ok(BidirectionalSpec {
            forward: RnnSpec { zero_masked, ..forward },
            backward: RnnSpec { zero_masked, ..backward },
            merge,
        })
    }
}

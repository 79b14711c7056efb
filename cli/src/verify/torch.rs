//! Cases of the kind `torch`: PyTorch's `nn.RNN`, `nn.LSTM` and `nn.GRU`, with PyTorch's names and layouts.

use gatewise::Result;
use gatewise::cell::{Activation, Cell, Direction, GruCell, LstmCell, RnnCell, Sequence};
use gatewise::nn::{Config, Merge};
use gatewise::weights::torch_name;
use serde::Deserialize;

use super::case::Case;
use super::layer::{Layer, LossGradient};
use super::outputs::{CasePath, NamedArrays, Outputs, Supported};

#[derive(Deserialize)]
struct Fields {
    cell: String,
    layers: usize,
    bidirectional: bool,
    bias: bool,
    proj_size: usize,
    dims: Dims,
}

#[derive(Deserialize)]
struct Dims {
    #[serde(rename = "I")]
    input: usize,
    #[serde(rename = "H")]
    hidden: usize,
}

fn layer(case: &Case, path: &CasePath) -> Result<Supported<Layer>> {
    let fields: Fields = case.fields()?;
    let bias = fields.bias;
    let cell: Cell = match fields.cell.as_str() {
        "rnn_tanh" => RnnCell { bias, ..Default::default() }.into(),
        "rnn_relu" => RnnCell { activation: Activation::Relu, bias, ..Default::default() }.into(),
        "lstm" => {
            let projection = (fields.proj_size > 0).then_some(fields.proj_size);
            LstmCell { bias, projection, ..Default::default() }.into()
        }
        "gru" => GruCell { bias, ..Default::default() }.into(),
        other => return Ok(Err(format!("cell {other}"))),
    };
    let Dims { input, hidden } = fields.dims;
    let mut config = Config::new(cell, input, hidden).layers(fields.layers).weight_type(path.weight_type);
    if fields.bidirectional {
        config = config.bidirectional(Merge::Concat);
    }
    let parameters = config.collect(|layer, direction, spec| case.floats(&torch_name(spec.name, layer, direction)))?;
    let (h, s, x) = (case.optional("h0")?, case.optional("c0")?, case.floats("x")?);
    let sequence = match case.lengths("lengths")? {
        Some(lengths) => Sequence::new().lengths(lengths),
        None => Sequence::new(),
    };
    Ok(Ok(Layer { config, parameters, h, s, x, sequence }))
}

pub(super) fn outputs(case: &Case, path: &CasePath) -> Result<Supported<Outputs>> {
    let layer = match layer(case, path)? {
        Ok(layer) => layer,
        Err(option) => return Ok(Err(option)),
    };
    let mut stack = layer.stack(&path.device)?;
    let got = stack.run(&layer.x, &layer.sequence)?;

    let mut outputs = stack.outputs();
    outputs.add("y", got.y);
    outputs.add("hn", got.h);
    if let Some(s) = got.s {
        outputs.add("cn", s);
    }
    Ok(Ok(outputs))
}

/// The gradients of the case's loss: `sum(y r_y)`, plus the same sum over the last state if the case has weights for it.
pub(super) fn gradients(case: &Case, path: &CasePath) -> Result<Supported<NamedArrays>> {
    let layer = match layer(case, path)? {
        Ok(layer) => layer,
        Err(option) => return Ok(Err(option)),
    };
    let loss = LossGradient { y: case.floats("r_y")?, h: case.optional("r_hn")?, s: case.optional("r_cn")? };
    let d = layer.gradients(&path.device, |_| Ok(loss))?;

    let mut named = NamedArrays::new();
    named.add("x", d.x);
    named.add("h0", d.h);
    if let Some(s) = d.s {
        named.add("c0", s);
    }
    for (at, parameters) in d.parameters.iter().enumerate() {
        for (p, direction) in parameters.iter().zip([Direction::Forward, Direction::Reverse]) {
            for (name, array) in p.named() {
                named.add(&torch_name(name, at, direction), array.to_owned());
            }
        }
    }
    Ok(Ok(named))
}

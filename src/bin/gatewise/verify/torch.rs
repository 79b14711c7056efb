//! Cases of the kind `torch`: PyTorch's `nn.RNN`, `nn.LSTM`, `nn.GRU`, in their own names and layouts.

use gatewise::Result;
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, RnnCell, Sequence};
use gatewise::nn::{Config, Merge};
use gatewise::weights::torch_name;
use ndarray::{Array3, Ix3};
use serde::Deserialize;

use super::case::Case;
use super::layer::Stack;
use super::outputs::{Outputs, Path, Supported};

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
    #[serde(rename = "B")]
    batch: usize,
}

pub(super) fn outputs(case: &Case, path: &Path) -> Result<Supported<Outputs>> {
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
    let Dims { input, hidden, batch } = fields.dims;
    let mut config = Config::new(cell, input, hidden).layers(fields.layers).weight_type(path.weight_type);
    if fields.bidirectional {
        config = config.bidirectional(Merge::Concat);
    }
    let parameters = config.collect(|layer, direction, spec| case.floats(&torch_name(spec.name, layer, direction)))?;
    let (h0, c0): (Option<Array3<f32>>, Option<Array3<f32>>) = (case.optional("h0")?, case.optional("c0")?);
    let x = case.floats::<Ix3>("x")?;
    let mut stack = Stack::new(&path.device, &config, parameters, batch, (h0.as_ref(), c0.as_ref()))?;
    let sequence = match case.lengths("lengths")? {
        Some(lengths) => Sequence::new().lengths(lengths),
        None => Sequence::new(),
    };
    let got = stack.run(&x, &sequence)?;

    let mut outputs = stack.outputs();
    outputs.add("y", got.y);
    outputs.add("hn", got.h);
    if let Some(s) = got.s {
        outputs.add("cn", s);
    }
    Ok(Ok(outputs))
}

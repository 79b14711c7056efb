//! Cases of the kind `torch`: PyTorch's `nn.RNN`, `nn.LSTM`, `nn.GRU`, in their own names and layouts.

use gatewise::cell::{Activation, Cell, GruCell, LstmCell, RnnCell, Sequence};
use gatewise::nn::{Config, Merge};
use gatewise::weights::torch_name;
use gatewise::{Device, Result};
use ndarray::{Array3, ArrayD, Ix3};
use serde::Deserialize;

use super::case::Case;
use super::compare::Tolerance;
use super::layer::Stack;
use super::{Verdict, unsupported};

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

pub(super) fn run(case: &Case, device: &Device) -> Result<Verdict> {
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
        other => return Ok(unsupported(format!("cell {other}"))),
    };
    let Dims { input, hidden, batch } = fields.dims;
    let mut config = Config::new(cell, input, hidden).layers(fields.layers);
    if fields.bidirectional {
        config = config.bidirectional(Merge::Concat);
    }
    let parameters = config.collect(|layer, direction, spec| case.floats(&torch_name(spec.name, layer, direction)))?;
    let (h0, c0): (Option<Array3<f32>>, Option<Array3<f32>>) = (case.optional("h0")?, case.optional("c0")?);
    let x = case.floats::<Ix3>("x")?;
    let mut stack = Stack::new(device, &config, parameters, batch, (h0.as_ref(), c0.as_ref()))?;
    let sequence = match case.lengths("lengths")? {
        Some(lengths) => Sequence::new().lengths(lengths),
        None => Sequence::new(),
    };
    let got = stack.run(&x, &sequence)?;

    let mut verdict = Verdict::of_plan(stack.plan(&x)?);
    let tolerance = Tolerance::absolute(case.tolerance("fwd_abs")?);
    verdict.comparison.close(&got.y, &case.floats("y")?, tolerance);
    verdict.comparison.close(&got.h, &case.floats("hn")?, tolerance);
    if let Some(s) = &got.s {
        let expected: ArrayD<f32> = case.floats("cn")?;
        verdict.comparison.close(s, &expected, tolerance);
    }
    Ok(verdict)
}

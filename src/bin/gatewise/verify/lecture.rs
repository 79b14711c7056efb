//! Cases of the kind `lecture`: the lectures' own equations, `W` on the state, `U` on the input, gates by suffix.
//!
//! | lectures | here |
//! | --- | --- |
//! | LSTM `i`, `f`, `o`, candidate `s` | `i`, `f`, `o`, `g` |
//! | GRU `o` (reset), `i` (weight of the new candidate), candidate `s` | `r`, `z` with [`Mix::TakesNew`], `n` |
//!
//! [`Mix::TakesNew`]: gatewise::cell::Mix::TakesNew

use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, RnnCell, Sequence};
use gatewise::nn::{Config, Linear};
use gatewise::{Device, Result, Tensor};
use ndarray::{Array1, Array2, Array3, ArrayD, Axis, Ix1, Ix2, Ix3, concatenate, stack};
use serde::Deserialize;

use super::case::Case;
use super::layer::{Outcome, Stack};
use super::outputs::{Outputs, Path, Supported};

#[derive(Deserialize)]
struct Fields {
    cell: String,
    activation: String,
    use_bias: bool,
    readout: bool,
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
    let bias = fields.use_bias;
    let activation = match fields.activation.as_str() {
        "sigmoid" => Activation::Sigmoid,
        "tanh" => Activation::Tanh,
        other => return Ok(Err(format!("activation {other}"))),
    };
    let lstm = LstmCell { candidate: activation, output: activation, bias, ..LstmCell::LECTURE };
    let (cell, suffixes): (Cell, &[&str]) = match fields.cell.as_str() {
        "rnn" => (RnnCell { activation, bias, ..RnnCell::LECTURE }.into(), &[""]),
        "lstm" => (lstm.into(), &["_i", "_f", "_s", "_o"]),
        "lstm_noforget" => (LstmCell { forget: Forget::Never, ..lstm }.into(), &["_i", "_s", "_o"]),
        "gru" => (GruCell { candidate: activation, bias, ..GruCell::LECTURE }.into(), &["_o", "_i", "_s"]),
        other => return Ok(Err(format!("cell {other}"))),
    };
    let Dims { input, hidden, batch } = fields.dims;
    let config = Config::new(cell, input, hidden).weight_type(path.weight_type);
    let parameters = config.collect(|_, _, spec| {
        let letter = match spec.name {
            "weight_ih" => "U",
            "weight_hh" => "W",
            "bias_ih" => "b",
            // The lectures have one bias; it stands on the input's side.
            _ => return Ok(ArrayD::zeros(spec.shape.as_slice())),
        };
        let gates = suffixes.iter().map(|suffix| case.floats(&format!("{letter}{suffix}")));
        let gates = gates.collect::<Result<Vec<ArrayD<f32>>>>()?;
        let views: Vec<_> = gates.iter().map(|gate| gate.view()).collect();
        Ok(concatenate(Axis(0), &views).unwrap_or_else(|_| ArrayD::zeros(vec![0])))
    })?;

    let row = |name: &str| -> Result<Option<Array3<f32>>> {
        Ok(case.optional::<Ix2>(name)?.map(|array| array.insert_axis(Axis(0))))
    };
    // The lectures call the state of a cell without a cell state `s`, too.
    let initial = if cell.has_cell_state() { (row("h0")?, row("s0")?) } else { (row("s0")?, None) };
    let start =
        || Stack::new(&path.device, &config, parameters.clone(), batch, (initial.0.as_ref(), initial.1.as_ref()));
    let x = case.floats::<Ix3>("x")?;
    let mut stack = start()?;
    let got = stack.run(&x, &Sequence::new())?;

    let mut outputs = stack.outputs();
    let last = |state: &Array3<f32>| state.index_axis(Axis(0), 0).to_owned();
    match &got.s {
        Some(s) => {
            outputs.add("h_last", last(&got.h));
            outputs.add("s_last", last(s));
            outputs.add("s", every_cell_state(start()?, &x)?);
        }
        None => outputs.add("s_last", last(&got.h)),
    }
    if fields.readout {
        let (logits, probabilities) = readout(case, &path.device, &got)?;
        outputs.add("logits", logits);
        outputs.add("probs", probabilities);
    }
    outputs.add("y", got.y);
    Ok(Ok(outputs))
}

/// `s` after every step, `[T, B, hidden]`: the sequence taken step by step.
fn every_cell_state(mut stack_of_one: Stack, x: &Array3<f32>) -> Result<Array3<f32>> {
    let mut states = Vec::new();
    for step in x.axis_chunks_iter(Axis(0), 1) {
        let got = stack_of_one.run(&step.to_owned(), &Sequence::new())?;
        states.extend(got.s.map(|s| s.index_axis(Axis(0), 0).to_owned()));
    }
    let views: Vec<_> = states.iter().map(|s| s.view()).collect();
    Ok(stack(Axis(0), &views).unwrap_or_else(|_| Array3::zeros((0, 0, 0))))
}

/// The readout `V h + c` and its softmax, both `[T, B, C]`.
fn readout(case: &Case, device: &Device, got: &Outcome) -> Result<(Array3<f32>, Array3<f32>)> {
    let (v, c): (Array2<f32>, Array1<f32>) = (case.floats::<Ix2>("V")?, case.floats::<Ix1>("c")?);
    let linear = Linear::new(device, &v, Some(&c))?;
    let logits: Array3<f32> = linear.forward(&Tensor::from_array(device, &got.y)?)?.to_array()?;
    let mut probabilities = logits.clone();
    for mut lane in probabilities.lanes_mut(Axis(2)) {
        let largest = lane.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        lane.mapv_inplace(|x| (x - largest).exp());
        let sum = lane.sum();
        lane /= sum;
    }
    Ok((logits, probabilities))
}

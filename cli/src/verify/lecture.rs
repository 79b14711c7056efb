//! Cases of the kind `lecture`: the lectures' own equations. `W` are the weights on the state, `U` on the input; a suffix names the
//! gate.
//!
//! | lectures | here |
//! | --- | --- |
//! | LSTM `i`, `f`, `o`, candidate `s` | `i`, `f`, `o`, `g` |
//! | GRU `o` (reset), `i` (weight of the new candidate), candidate `s` | `r`, `z` with [`Mix::TakesNew`], `n` |
//!
//! [`Mix::TakesNew`]: gatewise::cell::Mix::TakesNew

use gatewise::cell::{Activation, Cell, Forget, GruCell, LstmCell, RnnCell, Sequence};
use gatewise::nn::{Config, Linear};
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array1, Array2, Array3, ArrayD, Axis, Ix1, Ix2, Ix3, concatenate, s, stack};
use serde::Deserialize;

use super::case::Case;
use super::layer::{Layer, LossGradient, Stack};
use super::outputs::{CasePath, NamedArrays, Outputs, Supported};

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
}

/// A case's layer with the suffixes of its gates and its readout.
struct Setup {
    fields: Fields,
    /// The gates' suffixes, in the order of [`Cell::gates`].
    suffixes: &'static [&'static str],
    layer: Layer,
}

fn setup(case: &Case, path: &CasePath) -> Result<Supported<Setup>> {
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
    let Dims { input, hidden } = fields.dims;
    let config = Config::new(cell, input, hidden).weight_type(path.weight_type);
    let parameters = config.collect(|_, _, spec| {
        let letter = match spec.name {
            "weight_ih" => "U",
            "weight_hh" => "W",
            "bias_ih" => "b",
            // The lectures have one bias, which counts as the input's. The recurrent bias is zero, and has its size from the file.
            _ => "b",
        };
        let gates = suffixes.iter().map(|suffix| case.floats(&format!("{letter}{suffix}")));
        let gates = gates.collect::<Result<Vec<ArrayD<f32>>>>()?;
        let views: Vec<_> = gates.iter().map(|gate| gate.view()).collect();
        let array = concatenate(Axis(0), &views).unwrap_or_else(|_| ArrayD::zeros(vec![0]));
        Ok(if spec.name == "bias_hh" { ArrayD::zeros(array.raw_dim()) } else { array })
    })?;

    let row = |name: &str| -> Result<Option<Array3<f32>>> {
        Ok(case.optional::<Ix2>(name)?.map(|array| array.insert_axis(Axis(0))))
    };
    // The lectures also call the state of an RNN or a GRU `s`.
    let (h, s) = if cell.has_cell_state() { (row("h0")?, row("s0")?) } else { (row("s0")?, None) };
    let layer = Layer { config, parameters, h, s, x: case.floats::<Ix3>("x")?, sequence: Sequence::new() };
    Ok(Ok(Setup { fields, suffixes, layer }))
}

pub(super) fn outputs(case: &Case, path: &CasePath) -> Result<Supported<Outputs>> {
    let Setup { fields, layer, .. } = match setup(case, path)? {
        Ok(setup) => setup,
        Err(option) => return Ok(Err(option)),
    };
    let mut stack = layer.stack(&path.device)?;
    let got = stack.run(&layer.x, &layer.sequence)?;

    let mut outputs = stack.outputs();
    let last = |state: &Array3<f32>| state.index_axis(Axis(0), 0).to_owned();
    match &got.s {
        Some(s) => {
            outputs.add("h_last", last(&got.h));
            outputs.add("s_last", last(s));
            outputs.add("s", every_cell_state(layer.stack(&path.device)?, &layer.x)?);
        }
        None => outputs.add("s_last", last(&got.h)),
    }
    if fields.readout {
        let (logits, probabilities) = readout(case, &path.device, &got.y)?;
        outputs.add("logits", logits);
        outputs.add("probs", probabilities);
    }
    outputs.add("y", got.y);
    Ok(Ok(outputs))
}

/// The gradients of the case's loss: `sum(y r_y)`, or the summed cross-entropy of the readout's softmax.
pub(super) fn gradients(case: &Case, path: &CasePath) -> Result<Supported<NamedArrays>> {
    let Setup { fields, suffixes, layer } = match setup(case, path)? {
        Ok(setup) => setup,
        Err(option) => return Ok(Err(option)),
    };
    let mut named = NamedArrays::new();
    let d = layer.gradients(&path.device, |y| {
        let dy = if fields.readout { readout_gradient(case, path, y, &mut named)? } else { case.floats("r_y")? };
        Ok(LossGradient { y: dy, h: None, s: None })
    })?;

    named.add("x", d.x);
    let row = |state: &Array3<f32>| state.index_axis(Axis(0), 0).to_owned();
    match &d.s {
        Some(s) => {
            named.add("h0", row(&d.h));
            named.add("s0", row(s));
        }
        None => named.add("s0", row(&d.h)),
    }
    let p = &d.parameters[0][0];
    let hidden = fields.dims.hidden;
    for (at, suffix) in suffixes.iter().enumerate() {
        let gate = at * hidden..(at + 1) * hidden;
        named.add(&format!("U{suffix}"), p.weight_ih.slice(s![gate.clone(), ..]).to_owned());
        named.add(&format!("W{suffix}"), p.weight_hh.slice(s![gate.clone(), ..]).to_owned());
        if let Some(bias) = &p.bias_ih {
            named.add(&format!("b{suffix}"), bias.slice(s![gate]).to_owned());
        }
    }
    Ok(Ok(named))
}

/// The gradient of the cross-entropy with respect to `y`; adds the gradients with respect to `V` and `c` to `named`. The gradient
/// with respect to the logits is the probabilities minus the target.
fn readout_gradient(case: &Case, path: &CasePath, y: &Array3<f32>, named: &mut NamedArrays) -> Result<Array3<f32>> {
    let target: Array2<i32> = case.integers("target")?;
    let (_, mut d) = readout(case, &path.device, y)?;
    for (mut d, &target) in d.lanes_mut(Axis(2)).into_iter().zip(&target) {
        let class = usize::try_from(target).ok().filter(|&class| class < d.len());
        let expected = "a class of the readout";
        let found = target.to_string();
        d[class.ok_or(Error::Value { op: "verify", what: "target", expected, found })?] -= 1.0;
    }
    let v = case.floats::<Ix2>("V")?;
    let rows = |array: &Array3<f32>| {
        let (time, batch, width) = array.dim();
        Array2::from_shape_fn((time * batch, width), |(row, column)| array[[row / batch, row % batch, column]])
    };
    let (d_rows, y_rows) = (rows(&d), rows(y));
    named.add("V", d_rows.t().dot(&y_rows));
    named.add("c", d_rows.sum_axis(Axis(0)));
    let dy = d_rows.dot(&v);
    let batch = y.len_of(Axis(1));
    Ok(Array3::from_shape_fn(y.raw_dim(), |(t, b, u)| dy[[t * batch + b, u]]))
}

/// The state `s` after every step, `[T, B, hidden]`, from running the sequence step by step.
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
fn readout(case: &Case, device: &Device, y: &Array3<f32>) -> Result<(Array3<f32>, Array3<f32>)> {
    let (v, c): (Array2<f32>, Array1<f32>) = (case.floats::<Ix2>("V")?, case.floats::<Ix1>("c")?);
    let linear = Linear::new(device, &v, Some(&c))?;
    let logits: Array3<f32> = linear.forward(&Tensor::from_array(device, y)?)?.to_array()?;
    let mut probabilities = logits.clone();
    for mut lane in probabilities.lanes_mut(Axis(2)) {
        let largest = lane.fold(f32::NEG_INFINITY, |a, &b| a.max(b));
        lane.mapv_inplace(|x| (x - largest).exp());
        let sum = lane.sum();
        lane /= sum;
    }
    Ok((logits, probabilities))
}

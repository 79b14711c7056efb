//! Cases of the kind `keras`: Keras 3's SimpleRNN, LSTM and GRU, alone or in a Bidirectional wrapper, batch first.

use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Pad, Parameters, Reset, RnnCell, Sequence};
use gatewise::nn::{Config, Merge};
use gatewise::weights::layout::KerasArrays;
use gatewise::{Error, Result, batch_first};
use ndarray::{Array1, Array2, Array3, ArrayD, Axis, Ix2, Ix3, s, stack};
use serde::Deserialize;

use super::case::Case;
use super::layer::{Layer, LossGradient, Outcome};
use super::outputs::{CasePath, NamedArrays, Outputs, Supported};

#[derive(Deserialize)]
struct Fields {
    cell: String,
    activation: String,
    recurrent_activation: Option<String>,
    use_bias: bool,
    go_backwards: bool,
    return_sequences: bool,
    masked: bool,
    gru_reset: Option<String>,
    bidirectional: bool,
    merge_mode: Option<String>,
}

impl Fields {
    fn cell(&self) -> Supported<Cell> {
        let activation = |name: &str| match name {
            "tanh" => Ok(Activation::Tanh),
            "relu" => Ok(Activation::Relu),
            "sigmoid" => Ok(Activation::Sigmoid),
            "hard_sigmoid" => Ok(Activation::HARD_SIGMOID_KERAS3),
            other => Err(format!("activation {other}")),
        };
        let candidate = activation(&self.activation)?;
        let gate = activation(self.recurrent_activation.as_deref().unwrap_or("sigmoid"))?;
        let bias = self.use_bias;
        match (self.cell.as_str(), self.gru_reset.as_deref()) {
            ("simple_rnn", _) => Ok(RnnCell { activation: candidate, bias, ..Default::default() }.into()),
            ("lstm", _) => Ok(LstmCell { gate, candidate, output: candidate, bias, ..Default::default() }.into()),
            ("gru", reset) => {
                let reset = if reset == Some("before") { Reset::Before } else { Reset::After };
                Ok(GruCell { gate, candidate, reset, bias, ..Default::default() }.into())
            }
            (other, _) => Err(format!("cell {other}")),
        }
    }

    fn merge(&self) -> Supported<Merge> {
        match self.merge_mode.as_deref() {
            None | Some("concat") => Ok(Merge::Concat),
            Some("sum") => Ok(Merge::Sum),
            Some("mul") => Ok(Merge::Mul),
            Some("ave") => Ok(Merge::Ave),
            Some(other) => Err(format!("merge_mode {other}")),
        }
    }
}

/// A case's layer with its wrapper.
struct Setup {
    fields: Fields,
    cell: Cell,
    merge: Merge,
    directions: &'static [&'static str],
    layer: Layer,
}

fn setup(case: &Case, path: &CasePath) -> Result<Supported<Setup>> {
    let fields: Fields = case.fields()?;
    let (cell, merge) = match (fields.cell(), fields.merge()) {
        (Ok(cell), Ok(merge)) => (cell, merge),
        (Err(option), _) | (_, Err(option)) => return Ok(Err(option)),
    };
    let directions: &[&str] = if fields.bidirectional { &["fwd_", "bwd_"] } else { &[""] };
    let parameters =
        directions.iter().map(|direction| parameters(case, &cell, direction)).collect::<Result<Vec<_>>>()?;
    let x = case.floats::<Ix3>("x")?;
    let x = batch_first(&x).to_owned();
    if x.is_empty() {
        return Err(case.refuse("x", "at least one step of one row", &format!("shape {:?}", x.shape())));
    }
    let (input, hidden) = (x.len_of(Axis(2)), parameters[0].weight_hh.ncols());
    let mut config = Config::new(cell, input, hidden).weight_type(path.weight_type);
    if fields.bidirectional {
        // Without sequences, Keras merges the last output of each direction; these belong to different steps.
        config = config.bidirectional(if fields.return_sequences { merge } else { Merge::Concat });
    } else if fields.go_backwards {
        config = config.reverse();
    }
    let state = |letter: &str| states(case, directions, |direction| format!("init_{direction}{letter}"));
    let (h, s, sequence) = (state("h")?, state("c")?, sequence(case, &fields)?);
    let layer = Layer { config, parameters: vec![parameters], h, s, x, sequence };
    Ok(Ok(Setup { fields, cell, merge, directions, layer }))
}

pub(super) fn outputs(case: &Case, path: &CasePath) -> Result<Supported<Outputs>> {
    let Setup { fields, merge, directions, layer, .. } = match setup(case, path)? {
        Ok(setup) => setup,
        Err(option) => return Ok(Err(option)),
    };
    let mut stack = layer.stack(&path.device)?;
    let got = stack.run(&layer.x, &layer.sequence)?;

    let mut outputs = stack.outputs();
    outputs.add("y", output(&fields, merge, &got)?);
    for (letter, state) in [("h", Some(&got.h)), ("c", got.s.as_ref())] {
        for (direction, rows) in directions.iter().zip(state.iter().flat_map(|state| state.outer_iter())) {
            outputs.add(&format!("final_{direction}{letter}"), rows.to_owned());
        }
    }
    Ok(Ok(outputs))
}

/// The gradients of the loss `sum(y r_y)`.
pub(super) fn gradients(case: &Case, path: &CasePath) -> Result<Supported<NamedArrays>> {
    let Setup { fields, cell, merge, directions, layer } = match setup(case, path)? {
        Ok(setup) => setup,
        Err(option) => return Ok(Err(option)),
    };
    let d = layer.gradients(&path.device, |y| {
        Ok(LossGradient { y: output_gradient(case, &fields, merge, y)?, h: None, s: None })
    })?;

    let mut named = NamedArrays::new();
    named.add("x", batch_first(&d.x).to_owned());
    for (letter, state) in [("h", Some(&d.h)), ("c", d.s.as_ref())] {
        for (direction, row) in directions.iter().zip(state.iter().flat_map(|state| state.outer_iter())) {
            named.add(&format!("init_{direction}{letter}"), row.to_owned());
        }
    }
    for (direction, p) in directions.iter().zip(&d.parameters[0]) {
        let mut p = p.clone();
        if !matches!(cell, Cell::Gru(GruCell { reset: Reset::After, .. })) {
            // In these cells Keras has only the input's bias. Our recurrent bias is a constant zero, so its gradient does not count.
            p.bias_hh.iter_mut().for_each(|bias: &mut Array1<f32>| bias.fill(0.0));
        }
        let arrays = KerasArrays::from_parameters(&cell, &p)?;
        named.add(&format!("{direction}kernel"), arrays.kernel);
        named.add(&format!("{direction}recurrent_kernel"), arrays.recurrent_kernel);
        if let Some(bias) = arrays.bias {
            named.add(&format!("{direction}bias"), bias);
        }
    }
    Ok(Ok(named))
}

/// The gradient with respect to `y` of the loss `sum(result r_y)`, where [`output`] computes Keras' result from `y`.
fn output_gradient(case: &Case, fields: &Fields, merge: Merge, y: &Array3<f32>) -> Result<Array3<f32>> {
    if fields.return_sequences {
        let mut weights: Array3<f32> = case.floats("r_y")?;
        weights.swap_axes(0, 1);
        if fields.go_backwards && !fields.bidirectional {
            weights.invert_axis(Axis(0));
        }
        return Ok(weights);
    }
    let (time, batch, width) = y.dim();
    let half = if fields.bidirectional && merge != Merge::Concat { width / 2 } else { width };
    let weights: Array2<f32> = case.floats("r_y")?;
    if weights.dim() != (batch, half) {
        let (expected, found) = (format!("[{batch}, {half}]"), weights.shape().to_vec());
        return Err(Error::Shape { op: "verify", what: "r_y", expected, found });
    }
    let mut dy = Array3::zeros(y.raw_dim());
    if !fields.bidirectional {
        dy.index_axis_mut(Axis(0), if fields.go_backwards { 0 } else { time - 1 }).assign(&weights);
        return Ok(dy);
    }
    let (forward, backward) = (s![time - 1, .., ..width / 2], s![0, .., width / 2..]);
    let [first, second] = match merge {
        Merge::Concat => [weights.slice(s![.., ..width / 2]).to_owned(), weights.slice(s![.., width / 2..]).to_owned()],
        Merge::Sum => [weights.clone(), weights],
        Merge::Mul => [&weights * &y.slice(backward), &weights * &y.slice(forward)],
        Merge::Ave => [&weights / 2.0, &weights / 2.0],
        other => return Err(unknown_merge(other)),
    };
    dy.slice_mut(forward).assign(&first);
    dy.slice_mut(backward).assign(&second);
    Ok(dy)
}

fn parameters(case: &Case, cell: &Cell, direction: &str) -> Result<Parameters> {
    let arrays = KerasArrays {
        kernel: case.floats(&format!("{direction}kernel"))?,
        recurrent_kernel: case.floats(&format!("{direction}recurrent_kernel"))?,
        bias: case.optional(&format!("{direction}bias"))?,
    };
    arrays.to_parameters(cell)
}

/// A state tensor of every direction, `[directions, B, hidden]`, if the case has it.
fn states(case: &Case, directions: &[&str], name: impl Fn(&str) -> String) -> Result<Option<Array3<f32>>> {
    let rows = directions.iter().map(|direction| case.optional::<Ix2>(&name(direction))).collect::<Result<Vec<_>>>()?;
    let rows: Vec<Array2<f32>> = rows.into_iter().flatten().collect();
    let views: Vec<_> = rows.iter().map(|row| row.view()).collect();
    Ok(stack(Axis(0), &views).ok())
}

/// Keras repeats the last output at a masked step; inside a Bidirectional that returns sequences it writes zeros.
fn sequence(case: &Case, fields: &Fields) -> Result<Sequence> {
    if !fields.masked {
        return Ok(Sequence::new());
    }
    let mask: Array2<i32> = case.integers("mask")?;
    let pad = if fields.bidirectional { Pad::Zero } else { Pad::Hold };
    Ok(Sequence::new().mask(mask.t().mapv(|valid| valid != 0)).pad(pad))
}

/// The result in Keras' layout: `[B, T, width]`, or `[B, width]` for the last processed step.
fn output(fields: &Fields, merge: Merge, got: &Outcome) -> Result<ArrayD<f32>> {
    let y = &got.y;
    let (last, width) = (y.len_of(Axis(0)) - 1, y.len_of(Axis(2)));
    Ok(match (fields.return_sequences, fields.bidirectional, fields.go_backwards) {
        // `go_backwards` returns the steps in the order in which they were processed.
        (true, false, true) => y.slice(s![..;-1, .., ..]).permuted_axes([1, 0, 2]).to_owned().into_dyn(),
        (true, ..) => batch_first(y).to_owned().into_dyn(),
        (false, true, _) => {
            let halves = [y.slice(s![last, .., ..width / 2]), y.slice(s![0, .., width / 2..])];
            merged(merge, &halves.map(|half| half.to_owned()))?
        }
        (false, false, backwards) => y.index_axis(Axis(0), if backwards { 0 } else { last }).to_owned().into_dyn(),
    })
}

fn unknown_merge(merge: Merge) -> Error {
    Error::Unsupported { op: "verify", option: format!("the merge {merge:?}"), by: "in Keras' golden cases" }
}

fn merged(merge: Merge, [forward, backward]: &[Array2<f32>; 2]) -> Result<ArrayD<f32>> {
    let both = match merge {
        Merge::Concat => ndarray::concatenate![Axis(1), *forward, *backward],
        Merge::Sum => forward + backward,
        Merge::Mul => forward * backward,
        Merge::Ave => (forward + backward) / 2.0,
        other => return Err(unknown_merge(other)),
    };
    Ok(both.into_dyn())
}

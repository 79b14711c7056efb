//! Cases of the kind `keras`: Keras 3's SimpleRNN, LSTM and GRU, alone or in a Bidirectional wrapper, batch first.

use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Pad, Parameters, Reset, RnnCell, Sequence};
use gatewise::nn::{Config, Merge};
use gatewise::weights::layout::KerasArrays;
use gatewise::{Result, batch_first};
use ndarray::{Array2, Array3, ArrayD, Axis, Ix2, Ix3, s, stack};
use serde::Deserialize;

use super::case::Case;
use super::layer::{Outcome, Stack};
use super::outputs::{Outputs, Path, Supported};

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

pub(super) fn outputs(case: &Case, path: &Path) -> Result<Supported<Outputs>> {
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
    let (input, hidden) = (x.len_of(Axis(2)), parameters[0].weight_hh.ncols());
    let mut config = Config::new(cell, input, hidden).weight_type(path.weight_type);
    if fields.bidirectional {
        // Without sequences, Keras merges the last output of each direction, which lie at two steps.
        config = config.bidirectional(if fields.return_sequences { merge } else { Merge::Concat });
    } else if fields.go_backwards {
        config = config.reverse();
    }
    let state = |letter: &str| states(case, directions, |direction| format!("init_{direction}{letter}"));
    let (h0, c0) = (state("h")?, state("c")?);
    let batch = x.len_of(Axis(1));
    let mut layer = Stack::new(&path.device, &config, vec![parameters], batch, (h0.as_ref(), c0.as_ref()))?;
    let got = layer.run(&x, &sequence(case, &fields)?)?;

    let mut outputs = layer.outputs();
    outputs.add("y", output(&fields, merge, &got));
    for (letter, state) in [("h", Some(&got.h)), ("c", got.s.as_ref())] {
        for (direction, rows) in directions.iter().zip(state.iter().flat_map(|state| state.outer_iter())) {
            outputs.add(&format!("final_{direction}{letter}"), rows.to_owned());
        }
    }
    Ok(Ok(outputs))
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

/// What Keras returns: `[B, T, width]`, or `[B, width]` of the last step processed.
fn output(fields: &Fields, merge: Merge, got: &Outcome) -> ArrayD<f32> {
    let y = &got.y;
    let (last, width) = (y.len_of(Axis(0)) - 1, y.len_of(Axis(2)));
    match (fields.return_sequences, fields.bidirectional, fields.go_backwards) {
        // `go_backwards` returns the steps in the order in which they were processed.
        (true, false, true) => y.slice(s![..;-1, .., ..]).permuted_axes([1, 0, 2]).to_owned().into_dyn(),
        (true, ..) => batch_first(y).to_owned().into_dyn(),
        (false, true, _) => {
            let halves = [y.slice(s![last, .., ..width / 2]), y.slice(s![0, .., width / 2..])];
            merged(merge, &halves.map(|half| half.to_owned()))
        }
        (false, false, backwards) => y.index_axis(Axis(0), if backwards { 0 } else { last }).to_owned().into_dyn(),
    }
}

fn merged(merge: Merge, [forward, backward]: &[Array2<f32>; 2]) -> ArrayD<f32> {
    let both = match merge {
        Merge::Concat => ndarray::concatenate![Axis(1), *forward, *backward],
        Merge::Sum => forward + backward,
        Merge::Mul => forward * backward,
        Merge::Ave => (forward + backward) / 2.0,
    };
    both.into_dyn()
}

//! Layers as arrays with PyTorch's names.

use ndarray::{Array, Array1, ArrayD, Dimension};

use crate::cell::{Activation, Cell, Direction, Forget, GruCell, LstmCell, Mix, Parameters, Reset, RnnCell};
use crate::error::{Error, Result};
use crate::nn::{Config, Conv1d, Embedding, Linear, Merge, Recurrent, TrainableRecurrent};
use crate::weights::torch_name;

/// A layer that `torch.nn` has too, as the arrays of `Module.state_dict`. [`Weights::add`](crate::weights::Weights::add) adds
/// them under a prefix.
///
/// | layer | names |
/// | --- | --- |
/// | [`Recurrent`], [`TrainableRecurrent`] | `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, `weight_hr_l0`, then `_l0_reverse`, `_l1` and so on |
/// | [`Linear`], [`Conv1d`] | `weight`, `bias` |
/// | [`Embedding`] | `weight` |
///
/// A recurrent layer returns the values that it computes with (see [`Recurrent::parameters`]), as `f32` whatever the type of the
/// weights. Biases that have been added up are split as (sum, 0), so that PyTorch computes the same.
///
/// An option that PyTorch's layers do not have is refused by name, never left out:
/// * peepholes, clips, another forget gate;
/// * other activations, as in the lectures' forms;
/// * a GRU that resets before the matmul, or whose update gate weighs the candidate;
/// * a reverse direction without a forward one, or directions that are not concatenated.
///
/// # Examples
/// ```
/// use gatewise::{Device, nn::Gru, weights::StateDict};
/// let gru = Gru::config(3, 4).random(&Device::Cpu, 7)?;
/// let names: Vec<String> = gru.state_dict()?.into_iter().map(|(name, _)| name).collect();
/// assert_eq!(names, ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]);
/// # Ok::<(), gatewise::Error>(())
/// ```
pub trait StateDict {
    /// The arrays with PyTorch's names, without a prefix.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for options that `torch.nn` does not have; the errors of a read-back.
    fn state_dict(&self) -> Result<Vec<(String, ArrayD<f32>)>>;
}

impl<C: Clone + Into<Cell>> StateDict for Recurrent<C> {
    fn state_dict(&self) -> Result<Vec<(String, ArrayD<f32>)>> {
        check(self.configuration())?;
        Ok(named(self.configuration(), &self.parameters()?))
    }
}

impl<C: Clone + Into<Cell>> StateDict for TrainableRecurrent<C> {
    fn state_dict(&self) -> Result<Vec<(String, ArrayD<f32>)>> {
        check(self.config())?;
        Ok(named(self.config(), &self.parameters()?))
    }
}

impl StateDict for Linear {
    fn state_dict(&self) -> Result<Vec<(String, ArrayD<f32>)>> {
        Ok(weight_and_bias(self.to_weight()?, self.to_bias()?))
    }
}

impl StateDict for Conv1d {
    fn state_dict(&self) -> Result<Vec<(String, ArrayD<f32>)>> {
        Ok(weight_and_bias(self.to_weight()?, self.to_bias()?))
    }
}

impl StateDict for Embedding {
    fn state_dict(&self) -> Result<Vec<(String, ArrayD<f32>)>> {
        Ok(weight_and_bias(self.to_weight()?, None))
    }
}

fn weight_and_bias<D: Dimension>(weight: Array<f32, D>, bias: Option<Array1<f32>>) -> Vec<(String, ArrayD<f32>)> {
    let bias = bias.map(|bias| ("bias".to_owned(), bias.into_dyn()));
    std::iter::once(("weight".to_owned(), weight.into_dyn())).chain(bias).collect()
}

/// The parameters of a stack with their names, layer by layer and direction by direction.
fn named<C: Clone + Into<Cell>>(config: &Config<C>, parameters: &[Vec<Parameters>]) -> Vec<(String, ArrayD<f32>)> {
    let mut arrays = Vec::new();
    for (layer, directions) in parameters.iter().enumerate() {
        for (&direction, p) in config.directions().iter().zip(directions) {
            let named = p.named().into_iter();
            arrays.extend(named.map(|(name, array)| (torch_name(name, layer, direction), array.to_owned())));
        }
    }
    arrays
}

/// Refuses options that `torch.nn.RNN`, `LSTM` and `GRU` do not have.
fn check<C: Clone + Into<Cell>>(config: &Config<C>) -> Result<()> {
    let refuse = |option: String| Err(Error::Unsupported { op: "state_dict", option, by: "by PyTorch" });
    let cells = config.cells();
    if let Some(option) = cells.iter().find_map(beyond_torch) {
        return refuse(option);
    }
    match (config.directions(), config.merge()) {
        ([Direction::Reverse], _) => refuse("reverse without forward".to_owned()),
        ([_, _], merge) if merge != Merge::Concat => refuse(format!("merge {merge:?}")),
        _ if cells.iter().any(|cell| *cell != cells[0]) => refuse("reverse_cell".to_owned()),
        _ => Ok(()),
    }
}

/// The first option of a cell that PyTorch's cell does not have.
fn beyond_torch(cell: &Cell) -> Option<String> {
    let activation =
        |what: &str, found: Activation, own: Activation| (found != own).then(|| format!("{what} activation {found:?}"));
    let clip = |what: &str, clip: Option<f32>| clip.map(|clip| format!("{what} {clip}"));
    match *cell {
        Cell::Rnn(RnnCell { activation: found, gate_clip, bias: _ }) => {
            let other = (found != Activation::Relu).then(|| activation("cell", found, Activation::Tanh)).flatten();
            other.or_else(|| clip("gate_clip", gate_clip))
        }
        Cell::Lstm(LstmCell {
            gate,
            candidate,
            output,
            forget,
            peephole,
            gate_clip,
            cell_clip,
            projection: _,
            bias: _,
        }) => activation("gate", gate, Activation::Sigmoid)
            .or_else(|| activation("candidate", candidate, Activation::Tanh))
            .or_else(|| activation("output", output, Activation::Tanh))
            .or_else(|| (forget != Forget::Gate).then(|| format!("forget {forget:?}")))
            .or_else(|| peephole.then(|| "peephole".to_owned()))
            .or_else(|| clip("gate_clip", gate_clip))
            .or_else(|| clip("cell_clip", cell_clip)),
        Cell::Gru(GruCell { gate, candidate, reset, mix, gate_clip, bias: _ }) => {
            activation("gate", gate, Activation::Sigmoid)
                .or_else(|| activation("candidate", candidate, Activation::Tanh))
                .or_else(|| (reset != Reset::After).then(|| format!("reset {reset:?}")))
                .or_else(|| (mix != Mix::KeepsOld).then(|| format!("mix {mix:?}")))
                .or_else(|| clip("gate_clip", gate_clip))
        }
    }
}

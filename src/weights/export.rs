//! Layers to PyTorch-named arrays.

use ndarray::ArrayD;

use crate::cell::{Activation, Cell, Direction, Forget, GruCell, LstmCell, Mix, Parameters, Reset, RnnCell};
use crate::error::{Error, Result};
use crate::nn::{Config, Conv1d, Embedding, Linear, Merge, Recurrent, TrainableRecurrent};
use crate::weights::torch_name;

/// A layer that `torch.nn` has too, as what `Module.state_dict` holds of it: the arrays that
/// [`Weights::add`](crate::weights::Weights::add) puts under a prefix.
///
/// | layer | names |
/// | --- | --- |
/// | [`Recurrent`], [`TrainableRecurrent`] | `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, `weight_hr_l0`, then `_l0_reverse`, `_l1` and so on |
/// | [`Linear`], [`Conv1d`] | `weight`, `bias` |
/// | [`Embedding`] | `weight` |
///
/// A recurrent layer gives the values it computes with, as [`Recurrent::parameters`] reads them: `f32`, whatever type the
/// weights have. Biases that have been added up are split as (sum, 0), so that PyTorch computes the same; a layer that goes on
/// learning there sees two biases again.
///
/// What PyTorch's layers cannot be told is refused with the option's name, never left out: peepholes, another forget gate,
/// clips, other activations (the lectures' forms), a GRU that resets before the matmul or whose gate weighs the new candidate,
/// a reverse direction by itself, directions that are not merged by concatenation.
pub trait StateDict {
    /// The arrays by PyTorch's names, without prefix.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what `torch.nn` does not have; what a read-back may meet.
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
        let weight = ("weight".to_owned(), self.to_weight()?.into_dyn());
        let bias = self.to_bias()?.map(|bias| ("bias".to_owned(), bias.into_dyn()));
        Ok(std::iter::once(weight).chain(bias).collect())
    }
}

impl StateDict for Conv1d {
    fn state_dict(&self) -> Result<Vec<(String, ArrayD<f32>)>> {
        let weight = ("weight".to_owned(), self.to_weight()?.into_dyn());
        let bias = self.to_bias()?.map(|bias| ("bias".to_owned(), bias.into_dyn()));
        Ok(std::iter::once(weight).chain(bias).collect())
    }
}

impl StateDict for Embedding {
    fn state_dict(&self) -> Result<Vec<(String, ArrayD<f32>)>> {
        Ok(vec![("weight".to_owned(), self.to_weight()?.into_dyn())])
    }
}

fn named<C: Clone + Into<Cell>>(config: &Config<C>, parameters: &[Vec<Parameters>]) -> Vec<(String, ArrayD<f32>)> {
    let places = parameters.iter().enumerate().flat_map(|(layer, directions)| {
        directions.iter().zip(config.directions()).map(move |(p, &direction)| (layer, direction, p))
    });
    let of = |(layer, direction, p)| {
        let name = move |(name, array): (&str, ndarray::ArrayViewD<'_, f32>)| {
            (torch_name(name, layer, direction), array.to_owned())
        };
        Parameters::named(p).into_iter().map(name)
    };
    places.flat_map(of).collect()
}

/// Refuses what `torch.nn.RNN`, `LSTM` and `GRU` do not have.
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

/// The first option of a cell that PyTorch's does not have.
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

//! Initial biases that let a cell keep its state for many steps before training.

use ndarray::s;

use crate::cell::{Cell, Forget, LstmCell, Mix, Parameters};
use crate::error::{Error, Result};
use crate::memory;

const OP: &str = "MemoryBias";

/// The initial bias of the gates that keep the state. With PyTorch's initial weights these gates are half open, so that after
/// `n` steps `2^-n` of the state is left.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum MemoryBias {
    /// The same bias for every unit (Gers, Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015 recommend 1).
    Constant(f32),
    /// Units that keep their state for 2 to `longest` steps (Tallec and Ollivier, "Can recurrent neural networks warp time?",
    /// 2018). The bias is `b_f = ln(u)` with `u` uniform in `[1, longest - 1]`; for an LSTM also `b_i = -b_f`.
    Chrono {
        /// The longest dependency in the data, in steps.
        longest: usize,
        /// The seed of the random numbers.
        seed: u64,
    },
}

impl MemoryBias {
    /// Sets the biases of one layer and direction. The recurrent biases of the same gates become 0.
    ///
    /// The gate is the forget gate of an LSTM, or its input gate if the forget gate is coupled to it. For a GRU it is the update
    /// gate, with the sign that its [`Mix`] asks for.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a cell without such a gate or without biases.
    ///
    /// # Examples
    /// ```
    /// use gatewise::{nn::Lstm, train::MemoryBias};
    /// let config = Lstm::config(3, 4);
    /// let mut parameters = config.random_parameters(7)?;
    /// MemoryBias::Constant(1.0).set(&gatewise::cell::LstmCell::default().into(), &mut parameters[0][0])?;
    /// assert_eq!(parameters[0][0].bias_ih.as_ref().map(|b| b[4]), Some(1.0)); // the gates are i, f, g, o
    /// # Ok::<(), gatewise::Error>(())
    /// ```
    pub fn set(&self, cell: &Cell, parameters: &mut Parameters) -> Result<()> {
        let refused = |option: &str| Error::Unsupported { op: OP, option: option.to_owned(), by: "by this cell" };
        let hidden = parameters.weight_hh.nrows() / cell.gates().len();
        // The gates to set, and the sign: -1 for a gate that keeps the state while it is closed.
        let gates: &[(usize, f32)] = match (cell, self) {
            (Cell::Lstm(LstmCell { forget: Forget::Gate, .. }), Self::Constant(_)) => &[(1, 1.0)],
            (Cell::Lstm(LstmCell { forget: Forget::Gate, .. }), Self::Chrono { .. }) => &[(1, 1.0), (0, -1.0)],
            (Cell::Lstm(LstmCell { forget: Forget::Coupled, .. }), _) => &[(0, -1.0)],
            (Cell::Gru(gru), _) if gru.mix == Mix::KeepsOld => &[(1, 1.0)],
            (Cell::Gru(_), _) => &[(1, -1.0)],
            (Cell::Rnn(_) | Cell::Lstm(_), _) => return Err(refused("a bias of the gate that keeps the state")),
        };
        let values: Vec<f32> = match *self {
            Self::Constant(value) => memory::filled(OP, hidden, value)?,
            Self::Chrono { longest, seed } => {
                let mut rng = fastrand::Rng::with_seed(seed);
                let span = longest.max(3) as f32 - 2.0;
                memory::collected(OP, hidden, std::iter::repeat_with(|| (1.0 + span * rng.f32()).ln()))?
            }
        };
        let (Some(input), Some(state)) = (&mut parameters.bias_ih, &mut parameters.bias_hh) else {
            return Err(refused("biases"));
        };
        for &(gate, sign) in gates {
            let rows = gate * hidden..(gate + 1) * hidden;
            input.slice_mut(s![rows.clone()]).iter_mut().zip(&values).for_each(|(b, value)| *b = sign * value);
            state.slice_mut(s![rows]).fill(0.0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::{GruCell, RnnCell};
    use crate::nn::Config;

    fn biases(cell: Cell, memory: MemoryBias) -> Result<Vec<f32>> {
        let mut p = Config::new(cell, 2, 3).random_parameters(5)?.remove(0).remove(0);
        memory.set(&cell, &mut p)?;
        let sum = p.bias_ih.zip(p.bias_hh).map(|(a, b)| (a + b).to_vec());
        Ok(sum.unwrap_or_default())
    }

    #[test]
    fn the_gate_that_keeps_the_state_opens() {
        let chrono = MemoryBias::Chrono { longest: 100, seed: 1 };
        let lstm = biases(LstmCell::default().into(), chrono).expect("biases");
        for u in 0..3 {
            assert!((0.0..=99.0_f32.ln()).contains(&lstm[3 + u]), "{lstm:?}");
            assert_eq!(lstm[u], -lstm[3 + u]);
        }
        assert_ne!(lstm[3], lstm[4]);
        let one = MemoryBias::Constant(1.0);
        assert_eq!(biases(GruCell::default().into(), one).expect("biases")[3..6], [1.0; 3]);
        assert_eq!(biases(GruCell::LECTURE.into(), one).expect("biases")[3..6], [-1.0; 3]);
        let coupled = LstmCell { forget: Forget::Coupled, ..LstmCell::default() };
        assert_eq!(biases(coupled.into(), one).expect("biases")[..3], [-1.0; 3]);
        assert_ne!(biases(LstmCell::default().into(), one).expect("biases")[..3], [-1.0; 3]);
    }

    #[test]
    fn a_cell_without_such_a_gate_is_refused() {
        let never = LstmCell { forget: Forget::Never, ..LstmCell::default() };
        let bare = GruCell { bias: false, ..GruCell::default() };
        for cell in [Cell::from(RnnCell::default()), never.into(), bare.into()] {
            let refused = biases(cell, MemoryBias::Constant(1.0));
            assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
        }
    }
}

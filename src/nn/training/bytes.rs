//! An estimate of the memory that a training pass of the reference takes.

use crate::cell::{Cell, ParameterSpec};
use crate::error::Result;
use crate::nn::config::Config;

impl<C: Clone + Into<Cell>> Config<C> {
    /// The most bytes that a forward and a backward pass of the reference take. `shown` is the number of bytes per
    /// unit, step and row that the caller takes for one layer of the backward pass.
    ///
    /// # Errors
    /// [`Error::Value`](crate::Error::Value) for an impossible configuration.
    pub(crate) fn reference_pass_bytes(&self, time: usize, batch: usize, shown: u128) -> Result<u128> {
        self.check()?;
        const NUMBER: u128 = size_of::<f64>() as u128;
        let (problem, cells) = (self.problem(0, 0), self.cells());
        let [out, hidden, width, directions] =
            [self.out(), self.hidden, self.output_size(), cells.len()].map(|n| n as u128);
        let s = if self.cell().has_cell_state() { hidden } else { 0 };
        let parameters = |layer: usize| {
            let numbers = |spec: ParameterSpec| spec.shape.iter().map(|&n| n as u128).product::<u128>();
            let specs = |cell: &Cell| cell.parameters(problem.layer_input(layer), self.hidden);
            cells.iter().flat_map(specs).map(numbers).sum::<u128>()
        };
        let (mut of_row, mut kept, mut widest) = (0_u128, 0_u128, 0_u128);
        // All layers above the first have the same sizes.
        for (layer, times) in [(0, 1), (1, self.layers as u128 - 1)].into_iter().filter(|(_, times)| *times > 0) {
            let input = problem.layer_input(layer) as u128;
            // The tape: a layer's input, its directions' outputs; its parameters and their gradients.
            of_row += times * NUMBER * (input + directions * out);
            kept += times * 3 * NUMBER * parameters(layer);
            // The backward pass: gradients with respect to output and input, of all directions and of one; the states of a row.
            widest = widest.max(NUMBER * (width + 3 * input + 3 * out + s) + shown * hidden);
        }
        let states = 8 * NUMBER * self.layers as u128 * directions * (out + s);
        let rows = (time as u128).saturating_mul(batch as u128);
        let of_rows = rows.saturating_mul(of_row + widest + NUMBER * (width + self.input as u128));
        let of_steps = (time as u128).saturating_mul(NUMBER * (out + s));
        let of_batch = (batch as u128).saturating_mul(states);
        Ok(of_rows.saturating_add(of_steps).saturating_add(of_batch).saturating_add(kept))
    }
}

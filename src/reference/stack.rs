//! A stack of layers with its directions: each layer reads the merged output of the one below.

mod training;

use ndarray::{Array2, Array3, ArrayBase, ArrayView3, Axis, Data, Dimension, Zip};

use super::{LayerState, Real, layer_with_noise};
use crate::cell::{Cell, Direction, Noise, Parameters, Sequence};
use crate::error::Result;
use crate::memory;
use crate::op::Binary;

pub(crate) use training::{LayerPass, StackGradient, StackTape};

const OP: &str = "Recurrent";

/// A stack that computes in `f64`. Inputs, outputs and states are `f32`, as on every device.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// One cell per direction.
    cells: Vec<Cell>,
    directions: Vec<Direction>,
    /// How two directions' outputs become one; they are concatenated if it is absent.
    merge: Option<Binary>,
    /// `[layer][direction]`
    parameters: Vec<Vec<Parameters<f64>>>,
}

/// The state of a stack between two calls. Row `layer * directions + direction` belongs to one layer and direction.
pub(crate) struct StackState {
    /// `[layers directions, B, O]`
    pub(crate) h: Array3<f32>,
    /// `[layers directions, B, hidden]`; `[layers directions, B, 0]` unless the cell is an LSTM.
    pub(crate) s: Array3<f32>,
    /// The value that a reset returns `h` to.
    pub(crate) initial_h: Array3<f32>,
    /// The value that a reset returns `s` to.
    pub(crate) initial_s: Array3<f32>,
}

impl StackState {
    fn row(&self, row: usize) -> Result<LayerState<f64>> {
        let of = |array: &Array3<f32>| widened(&array.index_axis(Axis(0), row));
        Ok(LayerState {
            h: of(&self.h)?,
            s: of(&self.s)?,
            initial_h: of(&self.initial_h)?,
            initial_s: of(&self.initial_s)?,
        })
    }

    fn set_row(&mut self, row: usize, state: &LayerState<f64>) {
        let put = |to: &mut Array3<f32>, from: &Array2<f64>| {
            Zip::from(to.index_axis_mut(Axis(0), row)).and(from).for_each(|to, &from| *to = rounded(from));
        };
        put(&mut self.h, &state.h);
        put(&mut self.s, &state.s);
    }
}

impl Stack {
    /// A stack of `parameters[layer][direction]`, which fit the cells.
    pub(crate) fn new(
        cells: Vec<Cell>,
        directions: &[Direction],
        merge: Option<Binary>,
        parameters: &[Vec<Parameters>],
    ) -> Result<Self> {
        let wide = |layer: &Vec<Parameters>| layer.iter().map(|p| p.mapped(OP, f64::from)).collect();
        let parameters = parameters.iter().map(wide).collect::<Result<_>>()?;
        Ok(Self { cells, directions: directions.to_vec(), merge, parameters })
    }

    /// The parameters, `[layer][direction]`.
    pub(crate) fn parameters(&self) -> Result<Vec<Vec<Parameters>>> {
        self.parameters.iter().map(|layer| layer.iter().map(|p| p.mapped(OP, rounded)).collect()).collect()
    }

    /// Runs all layers and advances the state. Every direction's output is rounded to `f32`, as devices store it between
    /// layers. If the call fails, the state holds no meaningful value.
    ///
    /// # Shapes
    /// `x [T, B, input]`; returns `[T, B, D O]`, or `[T, B, O]` if the directions are merged.
    pub(crate) fn forward(
        &self,
        x: ArrayView3<'_, f32>,
        sequence: &Sequence,
        state: &mut StackState,
    ) -> Result<Array3<f32>> {
        let mut below = memory::owned(OP, &x)?;
        for layer in 0..self.parameters.len() {
            let directions = self.run_layer(layer, widened(&below)?.view(), sequence, &Noise::default(), state)?;
            let outputs = directions.iter().map(|(_, y)| memory::mapped(OP, y, rounded)).collect::<Result<_>>()?;
            below = merged(self.merge, outputs)?;
        }
        Ok(below)
    }

    /// Runs all directions of one layer and advances their states. Returns, by direction, the state before the first step and
    /// the output.
    fn run_layer(
        &self,
        layer: usize,
        x: ArrayView3<'_, f64>,
        sequence: &Sequence,
        noise: &Noise,
        state: &mut StackState,
    ) -> Result<Vec<(LayerState<f64>, Array3<f64>)>> {
        let mut directions = Vec::new();
        for (at, cell) in self.cells.iter().enumerate() {
            let row = layer * self.cells.len() + at;
            let before = state.row(row)?;
            let mut after = before.mapped(OP, |x| x)?;
            let (p, direction) = (&self.parameters[layer][at], self.directions[at]);
            let y = layer_with_noise(cell, p, direction, sequence, (noise, row), x, &mut after)?;
            state.set_row(row, &after);
            directions.push((before, y));
        }
        Ok(directions)
    }
}

/// Merges the outputs of a layer's directions: concatenates their units, or applies an operation to the two.
///
/// # Shapes
/// All `[T, B, O]`; returns `[T, B, D O]`, or `[T, B, O]` if an operation merges them.
fn merged<F: Real>(op: Option<Binary>, mut outputs: Vec<Array3<F>>) -> Result<Array3<F>> {
    match (op, outputs.as_slice()) {
        (_, [_]) => Ok(outputs.remove(0)),
        (Some(op), [a, b]) => memory::array(OP, a.raw_dim(), |at| op.apply(a[at], b[at])),
        _ => {
            let [time, batch, out] = outputs.first().map_or([0; 3], |y| y.dim().into());
            let shape = (time, batch, outputs.len() * out);
            memory::array(OP, shape, |(t, b, u)| outputs[u / out][[t, b, u % out]])
        }
    }
}

fn widened<S: Data<Elem = f32>, D: Dimension>(x: &ArrayBase<S, D>) -> Result<ndarray::Array<f64, D>> {
    memory::mapped(OP, x, f64::from)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
fn rounded(x: f64) -> f32 {
    x as f32
}

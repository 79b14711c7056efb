//! The training pass of a stack. Each layer's input and first state are kept; the backward pass computes the rest again.

use ndarray::{Array2, Array3, ArrayView3, Axis, Zip, s};

use super::{OP, Stack, StackState, merged, rounded, widened};
use crate::cell::{Cell, Direction, Draw, Mask, Noise, Parameters, Sequence};
use crate::error::Result;
use crate::memory;
use crate::op::Binary;
use crate::reference::{LayerGradient, LayerState, Training, layer_backward_with_noise};

/// The values that a forward pass keeps for its backward pass.
pub(crate) struct StackTape {
    stack: Stack,
    sequence: Sequence,
    noise: Noise,
    layers: Vec<LayerTape>,
}

struct LayerTape {
    x: Array3<f64>,
    /// By direction: the state before the first step, and the output.
    directions: Vec<(LayerState<f64>, Array3<f64>)>,
}

/// One layer and direction of a stack in the backward pass: the values that it read, and the gradients with respect to them.
pub(crate) struct LayerPass<'a> {
    pub(crate) layer: usize,
    pub(crate) direction: Direction,
    pub(crate) cell: &'a Cell,
    pub(crate) parameters: &'a Parameters<f64>,
    pub(crate) x: ArrayView3<'a, f64>,
    /// The state before the first step.
    pub(crate) state: &'a LayerState<f64>,
    /// The gradient with respect to the layer's output.
    pub(crate) dy: ArrayView3<'a, f64>,
    pub(crate) gradient: &'a LayerGradient<f64>,
}

/// The gradients with respect to everything that a forward pass read, each laid out as the array that it belongs to.
pub(crate) struct StackGradient {
    pub(crate) x: Vec<f32>,
    pub(crate) h: Vec<f32>,
    pub(crate) s: Vec<f32>,
    pub(crate) initial_h: Vec<f32>,
    pub(crate) initial_s: Vec<f32>,
    /// `[layer][direction]`
    pub(crate) parameters: Vec<Vec<Parameters>>,
}

impl Stack {
    /// Runs all layers, advances the state and keeps the values that the backward pass needs. Between layers the output stays
    /// in `f64`.
    ///
    /// # Shapes
    /// As [`Stack::forward`].
    pub(crate) fn forward_training(
        self,
        x: ArrayView3<'_, f32>,
        sequence: &Sequence,
        noise: Noise,
        state: &mut StackState,
    ) -> Result<(Array3<f32>, StackTape)> {
        let mut layers = Vec::new();
        let mut below = widened(&x)?;
        for layer in 0..self.parameters.len() {
            let directions = self.run_layer(layer, below.view(), sequence, &noise, state)?;
            let outputs = directions.iter().map(|(_, y)| memory::owned(OP, y)).collect::<Result<_>>()?;
            let mut y = merged(self.merge, outputs)?;
            if layer + 1 < self.parameters.len() {
                drop_out(noise.draw(Mask::Dropout { layer }), &mut y);
            }
            layers.push(LayerTape { x: std::mem::replace(&mut below, y), directions });
        }
        let y = memory::mapped(OP, &below, rounded)?;
        Ok((y, StackTape { stack: self, sequence: sequence.clone(), noise, layers }))
    }
}

impl StackTape {
    /// Back-propagation through time. `d_h` and `d_s` are the gradients with respect to the state that the forward pass left;
    /// they are zero if absent. `clip` clamps the gradient with respect to the state between two steps.
    ///
    /// `show` is called for every layer and direction, from the last layer to the first.
    pub(crate) fn backward(
        &self,
        dy: &Array3<f32>,
        [d_h, d_s]: [Option<&Array3<f32>>; 2],
        clip: Option<f32>,
        mut show: impl FnMut(&LayerPass<'_>) -> Result<()>,
    ) -> Result<StackGradient> {
        let Stack { cells, directions, .. } = &self.stack;
        let batch = dy.len_of(Axis(1));
        let row_of = |d: Option<&Array3<f32>>, row: usize, width: usize| match d {
            Some(d) => widened(&d.index_axis(Axis(0), row)),
            None => memory::zero_array(OP, (batch, width)),
        };
        let mut states: Vec<Option<LayerState<f64>>> = vec![None; self.layers.len() * cells.len()];
        let mut parameters = Vec::new();
        let mut dy = widened(dy)?;
        for (layer, tape) in self.layers.iter().enumerate().rev() {
            let mut dx = memory::zero_array(OP, tape.x.raw_dim())?;
            let mut of_layer = Vec::new();
            for (at, cell) in cells.iter().enumerate() {
                let row = layer * cells.len() + at;
                let ((state, _), p) = (&tape.directions[at], &self.stack.parameters[layer][at]);
                let training = Training { noise: self.noise, row, clip };
                let dy = self.unmerged(&dy, at, &tape.directions)?;
                let (d_h, d_s) = (row_of(d_h, row, state.h.ncols())?, row_of(d_s, row, state.s.ncols())?);
                let gradient = layer_backward_with_noise(
                    cell,
                    p,
                    directions[at],
                    &self.sequence,
                    &training,
                    (tape.x.view(), state),
                    (dy.view(), d_h.view(), d_s.view()),
                )?;
                show(&LayerPass {
                    layer,
                    direction: directions[at],
                    cell,
                    parameters: p,
                    x: tape.x.view(),
                    state,
                    dy: dy.view(),
                    gradient: &gradient,
                })?;
                Zip::from(&mut dx).and(&gradient.x).for_each(|dx, &d| *dx += d);
                of_layer.push(gradient.parameters.mapped(OP, rounded)?);
                states[row] = Some(gradient.state);
            }
            if layer > 0 {
                drop_out(self.noise.draw(Mask::Dropout { layer: layer - 1 }), &mut dx);
            }
            parameters.push(of_layer);
            dy = dx;
        }
        parameters.reverse();
        let flat = |of: fn(&LayerState<f64>) -> &Array2<f64>| {
            let len = states.iter().flatten().map(|state| of(state).len()).sum();
            let all = states.iter().flatten().flat_map(|state| of(state).iter().map(|&d| rounded(d)));
            memory::collected(OP, len, all)
        };
        Ok(StackGradient {
            x: memory::collected(OP, dy.len(), dy.iter().map(|&x| rounded(x)))?,
            h: flat(|state| &state.h)?,
            s: flat(|state| &state.s)?,
            initial_h: flat(|state| &state.initial_h)?,
            initial_s: flat(|state| &state.initial_s)?,
            parameters,
        })
    }

    /// The gradient with respect to one direction's output, from the gradient with respect to the merged output.
    fn unmerged(
        &self,
        dy: &Array3<f64>,
        at: usize,
        directions: &[(LayerState<f64>, Array3<f64>)],
    ) -> Result<Array3<f64>> {
        match self.stack.merge {
            _ if directions.len() == 1 => memory::owned(OP, dy),
            None => {
                let out = directions[at].1.len_of(Axis(2));
                memory::owned(OP, &dy.slice(s![.., .., at * out..(at + 1) * out]))
            }
            Some(Binary::Mul) => {
                let other = &directions[1 - at].1;
                memory::array(OP, dy.raw_dim(), |at| dy[at] * other[at])
            }
            Some(Binary::Mean) => memory::mapped(OP, dy, |d| d / 2.0),
            Some(_) => memory::owned(OP, dy),
        }
    }
}

/// Multiplies a layer's output, or the gradient with respect to it, by the layer's mask.
fn drop_out(draw: Option<Draw>, y: &mut Array3<f64>) {
    let Some(draw) = draw else { return };
    for (at, y) in y.iter_mut().enumerate() {
        *y *= f64::from(draw.factor(at));
    }
}

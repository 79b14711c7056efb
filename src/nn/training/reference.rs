//! The specification's training pass over a stack, in `f64`: each layer's input and first state are kept, the rest is
//! computed again on the way back.

use ndarray::{Array2, Array3, ArrayView3, Axis, Zip, concatenate, s};

use super::tape::HostGradient;
use super::{OP, TrainingOptions};
use crate::cell::{Cell, Draw, Mask, Parameters, Sequence};
use crate::error::{Error, Result};
use crate::nn::config::Config;
use crate::nn::state::State;
use crate::reference::{
    Binary, Direction, LayerGradient, LayerState, Training, binary, layer_backward_with_noise, layer_with_noise,
};
use crate::tensor::Tensor;

/// What is kept of a call.
pub(super) struct ReferenceTape {
    config: Config<Cell>,
    parameters: Vec<Vec<Parameters<f64>>>,
    sequence: Sequence,
    options: TrainingOptions,
    layers: Vec<Layer>,
}

struct Layer {
    x: Array3<f64>,
    /// By direction: the state before the first step, and the output.
    directions: Vec<(LayerState<f64>, Array3<f64>)>,
}

/// One layer and direction of a stack on the way back: what it read, and the gradients by it.
pub(crate) struct LayerPass<'a> {
    pub(crate) layer: usize,
    pub(crate) direction: Direction,
    pub(crate) cell: &'a Cell,
    pub(crate) parameters: &'a Parameters<f64>,
    pub(crate) x: ArrayView3<'a, f64>,
    /// The state before the first step.
    pub(crate) state: &'a LayerState<f64>,
    /// The gradient by the layer's output.
    pub(crate) dy: ArrayView3<'a, f64>,
    pub(crate) gradient: &'a LayerGradient<f64>,
}

/// Multiplies a layer's output, or its gradient, by the layer's mask.
fn drop_out(draw: Option<Draw>, y: &mut Array3<f64>) {
    let Some(draw) = draw else { return };
    for (at, y) in (0_u32..).zip(y.iter_mut()) {
        *y *= f64::from(draw.factor(at));
    }
}

impl ReferenceTape {
    /// Runs all layers; returns the output and advances the state.
    pub(super) fn forward(
        config: &Config<Cell>,
        parameters: &[Vec<Parameters>],
        x: &Tensor,
        state: &mut State,
        sequence: &Sequence,
        options: &TrainingOptions,
    ) -> Result<(Tensor, Self)> {
        let batch = x.shape()[1];
        let (h_shape, s_shape) = config.state_shapes(batch);
        let s_shape = s_shape.unwrap_or([h_shape[0], batch, 0]);
        let read = |tensor: Option<&Tensor>, shape: [usize; 3]| -> Result<Array3<f32>> {
            tensor.map_or_else(|| Ok(Array3::zeros(shape)), Tensor::to_array)
        };
        let (initial_h, initial_s) = state.initial();
        let (initial_h, initial_s) = (read(initial_h, h_shape)?, read(initial_s, s_shape)?);
        let (mut h, mut s) = (read(Some(&state.h), h_shape)?, read(state.s.as_ref(), s_shape)?);
        let wide = |p: &Vec<Parameters>| p.iter().map(|p| p.map(f64::from)).collect();
        let mut tape = Self {
            config: config.clone(),
            parameters: parameters.iter().map(wide).collect(),
            sequence: sequence.clone(),
            options: *options,
            layers: Vec::new(),
        };
        let mut below = x.to_array::<ndarray::Ix3>()?.mapv(f64::from);
        let cells = config.cells();
        for layer in 0..config.layers {
            let mut directions = Vec::new();
            for (at, cell) in cells.iter().enumerate() {
                let row = layer * cells.len() + at;
                let of = |array: &Array3<f32>| array.index_axis(Axis(0), row).mapv(f64::from);
                let before = LayerState { h: of(&h), s: of(&s), initial_h: of(&initial_h), initial_s: of(&initial_s) };
                let mut after = before.clone();
                let p = &tape.parameters[layer][at];
                let noise = (&options.noise, row);
                let y = layer_with_noise(cell, p, config.directions[at], sequence, noise, below.view(), &mut after)?;
                h.index_axis_mut(Axis(0), row).assign(&after.h.mapv(narrow));
                s.index_axis_mut(Axis(0), row).assign(&after.s.mapv(narrow));
                directions.push((before, y));
            }
            let mut y = tape.merged(&directions)?;
            if layer + 1 < config.layers {
                drop_out(options.noise.draw(Mask::Dropout { layer }), &mut y);
            }
            tape.layers.push(Layer { x: std::mem::replace(&mut below, y), directions });
        }
        let y = Tensor::from_array(x.device(), &below.mapv(narrow))?;
        let s = state.s.as_ref().map(|_| Tensor::from_array(x.device(), &s)).transpose()?;
        state.h = Tensor::from_array(x.device(), &h)?;
        state.s = s;
        Ok((y, tape))
    }

    fn merged(&self, directions: &[(LayerState<f64>, Array3<f64>)]) -> Result<Array3<f64>> {
        let wrong = |found: &Array3<f64>, expected: String| Error::Shape {
            op: OP,
            what: "the directions' outputs",
            expected,
            found: found.shape().to_vec(),
        };
        match (self.config.merge.op(), directions) {
            (Some(op), [(_, a), (_, b)]) => {
                let flat = |y: &Array3<f64>| {
                    let (time, batch, out) = y.dim();
                    y.to_shape((time * batch, out)).map(|y| y.into_owned()).map_err(|e| wrong(y, e.to_string()))
                };
                let y = binary(op, flat(a)?.view(), flat(b)?.view());
                y.into_shape_with_order(a.dim()).map_err(|e| wrong(a, e.to_string()))
            }
            (None, [(_, a), (_, b)]) => {
                concatenate(Axis(2), &[a.view(), b.view()]).map_err(|e| wrong(a, e.to_string()))
            }
            (_, directions) => Ok(directions.first().map_or_else(|| Array3::zeros((0, 0, 0)), |(_, y)| y.clone())),
        }
    }

    /// One direction's share of the gradient by the merged output.
    fn unmerged(&self, dy: &Array3<f64>, at: usize, directions: &[(LayerState<f64>, Array3<f64>)]) -> Array3<f64> {
        match self.config.merge.op() {
            _ if directions.len() == 1 => dy.clone(),
            None => {
                let out = self.config.out();
                dy.slice(s![.., .., at * out..(at + 1) * out]).to_owned()
            }
            Some(Binary::Mul) => dy * &directions[1 - at].1,
            Some(Binary::Mean) => dy / 2.0,
            Some(_) => dy.clone(),
        }
    }

    pub(super) fn backward(
        &self,
        dy: &Array3<f32>,
        d_h: Option<&Array3<f32>>,
        d_s: Option<&Array3<f32>>,
        clip: Option<f32>,
    ) -> Result<HostGradient> {
        self.backward_showing(dy, d_h, d_s, clip, |_| Ok(()))
    }

    /// [`ReferenceTape::backward`] that shows each layer and direction, from the last layer to the first.
    pub(super) fn backward_showing(
        &self,
        dy: &Array3<f32>,
        d_h: Option<&Array3<f32>>,
        d_s: Option<&Array3<f32>>,
        clip: Option<f32>,
        mut show: impl FnMut(&LayerPass<'_>) -> Result<()>,
    ) -> Result<HostGradient> {
        let cells = self.config.cells();
        let batch = dy.len_of(Axis(1));
        let row_of = |d: Option<&Array3<f32>>, row: usize, width: usize| match d {
            Some(d) => d.index_axis(Axis(0), row).mapv(f64::from),
            None => Array2::zeros((batch, width)),
        };
        let rows = self.config.layers * cells.len();
        let mut states: Vec<Option<LayerState<f64>>> = vec![None; rows];
        let mut parameters = Vec::new();
        let mut dy = dy.mapv(f64::from);
        for (layer, tape) in self.layers.iter().enumerate().rev() {
            let mut dx = Array3::zeros(tape.x.raw_dim());
            let mut of_layer = Vec::new();
            for (at, cell) in cells.iter().enumerate() {
                let row = layer * cells.len() + at;
                let (state, _) = &tape.directions[at];
                let training = Training { noise: self.options.noise, row, clip };
                let dy = self.unmerged(&dy, at, &tape.directions);
                let (d_h, d_s) = (row_of(d_h, row, state.h.ncols()), row_of(d_s, row, state.s.ncols()));
                let back = layer_backward_with_noise(
                    cell,
                    &self.parameters[layer][at],
                    self.config.directions[at],
                    &self.sequence,
                    &training,
                    (tape.x.view(), state),
                    (dy.view(), d_h.view(), d_s.view()),
                )?;
                show(&LayerPass {
                    layer,
                    direction: self.config.directions[at],
                    cell,
                    parameters: &self.parameters[layer][at],
                    x: tape.x.view(),
                    state,
                    dy: dy.view(),
                    gradient: &back,
                })?;
                Zip::from(&mut dx).and(&back.x).for_each(|dx, &d| *dx += d);
                of_layer.push(back.parameters.map(narrow));
                states[row] = Some(back.state);
            }
            if layer > 0 {
                drop_out(self.options.noise.draw(Mask::Dropout { layer: layer - 1 }), &mut dx);
            }
            parameters.push(of_layer);
            dy = dx;
        }
        parameters.reverse();
        let flat = |of: fn(&LayerState<f64>) -> &Array2<f64>| {
            states.iter().flatten().flat_map(|state| of(state).iter().map(|&d| narrow(d))).collect()
        };
        let elements = |array: ArrayView3<'_, f64>| array.iter().map(|&d| narrow(d)).collect();
        Ok(HostGradient {
            x: elements(dy.view()),
            h: flat(|state| &state.h),
            s: flat(|state| &state.s),
            initial_h: flat(|state| &state.initial_h),
            initial_s: flat(|state| &state.initial_s),
            parameters,
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
fn narrow(x: f64) -> f32 {
    x as f32
}

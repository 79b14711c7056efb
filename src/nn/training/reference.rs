//! The specification's training pass over a stack, in `f64`: each layer's input and first state are kept, the rest is
//! computed again on the way back.

use ndarray::{Array2, Array3, ArrayBase, ArrayView3, Axis, Data, Dimension, Ix3, Zip, s};

use super::tape::HostGradient;
use super::{OP, TrainingOptions};
use crate::cell::{Cell, Direction, Draw, Mask, ParameterSpec, Parameters, Sequence};
use crate::error::Result;
use crate::memory;
use crate::nn::config::Config;
use crate::nn::state::State;
use crate::op::Binary;
use crate::reference::{LayerGradient, LayerState, Training, layer_backward_with_noise, layer_with_noise, merged};
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

impl<C: Clone + Into<Cell>> Config<C> {
    /// Bytes that a pass forward and back takes at the most in the specification's loops, where a layer on its way back is
    /// shown to what takes `shown` bytes a unit and step itself.
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
        // Layers above the second are like it.
        for (layer, times) in [(0, 1), (1, self.layers as u128 - 1)].into_iter().filter(|(_, times)| *times > 0) {
            let input = problem.layer_input(layer) as u128;
            // The tape: a layer's input, its directions' outputs; its parameters and their gradients.
            of_row += times * NUMBER * (input + directions * out);
            kept += times * 3 * NUMBER * parameters(layer);
            // The way back: gradients by output and input, of all directions and of one, the states of a row.
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
            tensor.map_or_else(|| memory::zero_array(OP, shape), Tensor::to_array)
        };
        let (initial_h, initial_s) = state.initial();
        let (initial_h, initial_s) = (read(initial_h, h_shape)?, read(initial_s, s_shape)?);
        let (mut h, mut s) = (read(Some(&state.h), h_shape)?, read(state.s.as_ref(), s_shape)?);
        let widened = |p: &Vec<Parameters>| p.iter().map(|p| p.mapped(OP, f64::from)).collect();
        let mut tape = Self {
            config: config.clone(),
            parameters: parameters.iter().map(widened).collect::<Result<_>>()?,
            sequence: sequence.clone(),
            options: *options,
            layers: Vec::new(),
        };
        let mut below = wide(&x.to_array::<Ix3>()?)?;
        let cells = config.cells();
        for layer in 0..config.layers {
            let mut directions = Vec::new();
            for (at, cell) in cells.iter().enumerate() {
                let row = layer * cells.len() + at;
                let of = |array: &Array3<f32>| wide(&array.index_axis(Axis(0), row));
                let before =
                    LayerState { h: of(&h)?, s: of(&s)?, initial_h: of(&initial_h)?, initial_s: of(&initial_s)? };
                let mut after = before.mapped(OP, |x| x)?;
                let p = &tape.parameters[layer][at];
                let noise = (&options.noise, row);
                let y = layer_with_noise(cell, p, config.directions[at], sequence, noise, below.view(), &mut after)?;
                for (to, from) in [(&mut h, &after.h), (&mut s, &after.s)] {
                    Zip::from(to.index_axis_mut(Axis(0), row)).and(from).for_each(|to, &from| *to = narrow(from));
                }
                directions.push((before, y));
            }
            let outputs = directions.iter().map(|(_, y)| memory::owned(OP, y)).collect::<Result<_>>()?;
            let mut y = merged(config.merge.op(), outputs)?;
            if layer + 1 < config.layers {
                drop_out(options.noise.draw(Mask::Dropout { layer }), &mut y);
            }
            tape.layers.push(Layer { x: std::mem::replace(&mut below, y), directions });
        }
        let y = Tensor::from_vec(x.device(), below.shape(), narrowed(&below)?)?;
        let s = state.s.as_ref().map(|_| Tensor::from_array(x.device(), &s)).transpose()?;
        state.h = Tensor::from_array(x.device(), &h)?;
        state.s = s;
        Ok((y, tape))
    }

    /// One direction's share of the gradient by the merged output.
    fn unmerged(
        &self,
        dy: &Array3<f64>,
        at: usize,
        directions: &[(LayerState<f64>, Array3<f64>)],
    ) -> Result<Array3<f64>> {
        match self.config.merge.op() {
            _ if directions.len() == 1 => memory::owned(OP, dy),
            None => {
                let out = self.config.out();
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
            Some(d) => wide(&d.index_axis(Axis(0), row)),
            None => memory::zero_array(OP, (batch, width)),
        };
        let rows = self.config.layers * cells.len();
        let mut states: Vec<Option<LayerState<f64>>> = vec![None; rows];
        let mut parameters = Vec::new();
        let mut dy = wide(dy)?;
        for (layer, tape) in self.layers.iter().enumerate().rev() {
            let mut dx = memory::zero_array(OP, tape.x.raw_dim())?;
            let mut of_layer = Vec::new();
            for (at, cell) in cells.iter().enumerate() {
                let row = layer * cells.len() + at;
                let (state, _) = &tape.directions[at];
                let training = Training { noise: self.options.noise, row, clip };
                let dy = self.unmerged(&dy, at, &tape.directions)?;
                let (d_h, d_s) = (row_of(d_h, row, state.h.ncols())?, row_of(d_s, row, state.s.ncols())?);
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
                of_layer.push(back.parameters.mapped(OP, narrow)?);
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
            let len = states.iter().flatten().map(|state| of(state).len()).sum();
            let all = states.iter().flatten().flat_map(|state| of(state).iter().map(|&d| narrow(d)));
            memory::collected(OP, len, all)
        };
        Ok(HostGradient {
            x: narrowed(&dy)?,
            h: flat(|state| &state.h)?,
            s: flat(|state| &state.s)?,
            initial_h: flat(|state| &state.initial_h)?,
            initial_s: flat(|state| &state.initial_s)?,
            parameters,
        })
    }
}

fn wide<S: Data<Elem = f32>, D: Dimension>(x: &ArrayBase<S, D>) -> Result<ndarray::Array<f64, D>> {
    memory::mapped(OP, x, f64::from)
}

/// An array's numbers in `f32`, row by row.
fn narrowed(x: &Array3<f64>) -> Result<Vec<f32>> {
    memory::collected(OP, x.len(), x.iter().map(|&x| narrow(x)))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is the point")]
fn narrow(x: f64) -> f32 {
    x as f32
}

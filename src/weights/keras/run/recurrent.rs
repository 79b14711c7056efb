//! Recurrent layers on a device, in one direction or both.

use super::super::cells::{BidirectionalSpec, CellSpec, RnnSpec};
use super::load::Loader;
use super::value::{MaskedValue, ValueData};
use super::{LayerContext, LayerResults, OP};
use crate::cell::{Cell, Pad, Sequence};
use crate::error::{Error, Result, axes, check_shape};
use crate::nn::{Config, Merge, Recurrent, State};
use crate::ops::{self, Binary, Recorder, Slice};
use crate::tensor::Tensor;

/// A recurrent layer on a device.
pub(super) struct DeviceRnn {
    directions: RnnDirections,
    /// Whether the layer returns the output of every step.
    sequences: bool,
    /// Whether the layer returns its final state, too.
    states: bool,
    pad: Pad,
}

/// The directions of a recurrent layer.
enum RnnDirections {
    One(CellStack),
    /// Both directions in one layer, which share dispatches. If the layer returns sequences, it merges them itself.
    Fused {
        layer: CellLayer,
        units: usize,
        merge: Option<Merge>,
    },
    /// Each direction by itself; the outputs are merged afterwards.
    Two {
        forward: CellStack,
        backward: CellStack,
        merge: Option<Merge>,
    },
}

/// Cells of one direction, each reading the output of the one before (`StackedRNNCells`).
struct CellStack {
    layers: Vec<CellLayer>,
    backwards: bool,
}

/// One cell as a layer of this crate, or two cells of a Bidirectional.
pub(super) struct CellLayer {
    pub(super) layer: Recurrent<Cell>,
    /// Whether the cell has a state `c` (an LSTM).
    cell_state: bool,
}

/// The output of a direction in the order of time, `[T, B, units]`, and its final states.
struct StackOutput {
    y: Tensor,
    states: Vec<Tensor>,
}

impl DeviceRnn {
    /// A layer of one direction.
    pub(super) fn new(loader: &Loader<'_>, path: &str, spec: &RnnSpec) -> Result<Self> {
        refuse_stateful(loader, path, spec)?;
        Ok(Self::with(spec, RnnDirections::One(CellStack::new(loader, spec)?)))
    }

    /// A Bidirectional layer.
    pub(super) fn bidirectional(loader: &Loader<'_>, path: &str, spec: &BidirectionalSpec) -> Result<Self> {
        refuse_stateful(loader, path, &spec.forward)?;
        let (forward, backward, merge) = (&spec.forward, &spec.backward, spec.merge);
        let directions = match fused(loader, spec)? {
            Some(layer) => RnnDirections::Fused { layer, units: forward.cells[0].units, merge },
            None => RnnDirections::Two {
                forward: CellStack::new(loader, forward)?,
                backward: CellStack::new(loader, backward)?,
                merge,
            },
        };
        Ok(Self::with(forward, directions))
    }

    fn with(spec: &RnnSpec, directions: RnnDirections) -> Self {
        let pad = if spec.zero_masked { Pad::Zero } else { Pad::Hold };
        Self { directions, sequences: spec.sequences, states: spec.states, pad }
    }

    /// Runs the layer. `inputs` are the sequence, `[B, T, I]`, then the initial states, if they are given.
    pub(super) fn run(&self, context: &mut LayerContext<'_>, inputs: &[MaskedValue]) -> Result<LayerResults> {
        let Some((x, states)) = inputs.split_first() else {
            return Err(wrong_states(1, 0));
        };
        let tensor = x.tensor(context)?;
        let [batch, time, _] = axes(OP, "x", "[B, T, I]", tensor.shape())?;
        if time == 0 || batch == 0 {
            let expected = "[B, T, I] with B and T at least 1".to_owned();
            return Err(Error::Shape { op: OP, what: "x", expected, found: tensor.shape().to_vec() });
        }
        let mut sequence = Sequence::new();
        if let Some(mask) = &x.mask {
            check_shape(OP, "mask", &[batch, time], mask.shape())?;
            sequence = sequence.mask(mask.t().to_owned()).pad(self.pad);
        }
        let initial = states.iter().map(|state| state.tensor(context)).collect::<Result<Vec<_>>>()?;
        let count = self.directions.state_count();
        if !initial.is_empty() && initial.len() != count {
            return Err(wrong_states(count, initial.len()));
        }
        let x_steps = exchange_batch_and_time(context.recorder, &tensor)?;
        let (outputs, states) = self.directions.run(context.recorder, &x_steps, &initial, &sequence, self.sequences)?;
        let mask = x.mask.clone().filter(|_| self.sequences);
        let value = |y, mask| MaskedValue { data: ValueData::Tensor(y), mask };
        let mut values: Vec<MaskedValue> = outputs.into_iter().map(|y| value(y, mask.clone())).collect();
        if self.states {
            values.extend(states.iter().map(|state| value(state.clone(), None)));
        }
        Ok(LayerResults { values, states })
    }
}

fn wrong_states(expected: usize, found: usize) -> Error {
    Error::Shape { op: OP, what: "initial_state", expected: format!("[{expected}] states"), found: vec![found] }
}

/// Refuses a stateful layer, whose calls would depend on each other.
fn refuse_stateful(loader: &Loader<'_>, path: &str, spec: &RnnSpec) -> Result<()> {
    if !spec.stateful {
        return Ok(());
    }
    let expected = "false in KerasFile::layer and KerasFile::model; KerasFile::recurrent keeps its state in a State";
    Err(loader.file.refuse(&format!("layer {path}: stateful"), expected, "true"))
}

/// Both directions as one layer; `None` unless both have one cell of the same kind and size.
pub(super) fn fused(loader: &Loader<'_>, spec: &BidirectionalSpec) -> Result<Option<CellLayer>> {
    let ([a], [b]) = (spec.forward.cells.as_slice(), spec.backward.cells.as_slice()) else {
        return Ok(None);
    };
    let reset = |cell: &Cell| if let Cell::Gru(gru) = cell { Some(gru.reset) } else { None };
    let described = |spec: &CellSpec| (spec.cell.name(), spec.units, spec.cell.bias(), reset(&spec.cell));
    if spec.forward.backwards || described(a) != described(b) {
        return Ok(None);
    }
    // Without sequences, Keras merges outputs of two different steps, which the layer cannot do.
    let inside = spec.merge.filter(|_| spec.forward.sequences).unwrap_or(Merge::Concat);
    let parameters = vec![loader.cell(a)?, loader.cell(b)?];
    let config = Config::new(a.cell, parameters[0].weight_ih.ncols(), a.units).bidirectional(inside);
    let layer = config.reverse_cell(b.cell).build(loader.device, vec![parameters])?;
    Ok(Some(CellLayer { layer, cell_state: a.cell.has_cell_state() }))
}

impl CellLayer {
    /// One cell as a layer.
    pub(super) fn new(loader: &Loader<'_>, spec: &CellSpec, backwards: bool) -> Result<Self> {
        let parameters = loader.cell(spec)?;
        let config = Config::new(spec.cell, parameters.weight_ih.ncols(), spec.units);
        let config = if backwards { config.reverse() } else { config };
        let layer = config.build(loader.device, vec![vec![parameters]])?;
        Ok(Self { layer, cell_state: spec.cell.has_cell_state() })
    }

    /// The number of states of one direction.
    fn state_count(&self) -> usize {
        if self.cell_state { 2 } else { 1 }
    }
}

impl CellStack {
    fn new(loader: &Loader<'_>, spec: &RnnSpec) -> Result<Self> {
        let layer = |cell: &CellSpec| CellLayer::new(loader, cell, spec.backwards);
        Ok(Self { layers: spec.cells.iter().map(layer).collect::<Result<_>>()?, backwards: spec.backwards })
    }

    fn state_count(&self) -> usize {
        self.layers.iter().map(CellLayer::state_count).sum()
    }

    fn run(&self, recorder: &mut Recorder, x: &Tensor, initial: &[Tensor], sequence: &Sequence) -> Result<StackOutput> {
        let (mut y, mut states, mut initial) = (x.clone(), Vec::new(), initial);
        for layer in &self.layers {
            let own;
            (own, initial) = initial.split_at(layer.state_count().min(initial.len()));
            let mut state = start_state(recorder, layer, &[own], x.shape()[1])?;
            y = layer.layer.record(recorder, &y, &mut state, sequence)?;
            states.extend(final_states(recorder, &state)?);
        }
        Ok(StackOutput { y, states })
    }

    /// The output in Keras' layout. With `sequences`, the outputs of all steps in the order of processing, `[B, T, units]`;
    /// otherwise the output of the step that was processed last, `[B, units]`.
    fn output(&self, recorder: &mut Recorder, y: &Tensor, sequences: bool) -> Result<Tensor> {
        match (sequences, self.backwards) {
            (false, true) => index_first(recorder, y, 0),
            (false, false) => index_first(recorder, y, y.shape()[0] - 1),
            (true, true) => {
                let y = reverse_time(recorder, y)?;
                exchange_batch_and_time(recorder, &y)
            }
            (true, false) => exchange_batch_and_time(recorder, y),
        }
    }
}

impl RnnDirections {
    /// The number of states that a call starts from.
    fn state_count(&self) -> usize {
        match self {
            Self::One(stack) => stack.state_count(),
            Self::Fused { layer, .. } => 2 * layer.state_count(),
            Self::Two { forward, backward, .. } => forward.state_count() + backward.state_count(),
        }
    }

    /// The outputs in Keras' layout, and the final states.
    fn run(
        &self,
        recorder: &mut Recorder,
        x: &Tensor,
        initial: &[Tensor],
        sequence: &Sequence,
        sequences: bool,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        match self {
            Self::One(stack) => {
                let StackOutput { y, states } = stack.run(recorder, x, initial, sequence)?;
                Ok((vec![stack.output(recorder, &y, sequences)?], states))
            }
            Self::Fused { layer, units, merge } => {
                let (forward, backward) = initial.split_at(initial.len() / 2);
                let mut state = start_state(recorder, layer, &[forward, backward], x.shape()[1])?;
                let y = layer.layer.record(recorder, x, &mut state, sequence)?;
                let states = final_states(recorder, &state)?;
                Ok((fused_outputs(recorder, &y, *units, *merge, sequences)?, states))
            }
            Self::Two { forward, backward, merge } => {
                let (own, other) = initial.split_at(forward.state_count().min(initial.len()));
                let a = forward.run(recorder, x, own, sequence)?;
                let b = backward.run(recorder, x, other, sequence)?;
                let pair = match sequences {
                    false => [forward.output(recorder, &a.y, false)?, backward.output(recorder, &b.y, false)?],
                    // Keras returns both outputs in the order in which the first direction has processed the steps.
                    true => [forward.output(recorder, &a.y, true)?, forward.output(recorder, &b.y, true)?],
                };
                Ok((merged(recorder, *merge, pair)?, [a.states, b.states].concat()))
            }
        }
    }
}

/// The outputs of two directions in Keras' layout, from the output of one layer that has run both.
fn fused_outputs(
    recorder: &mut Recorder,
    y: &Tensor,
    units: usize,
    merge: Option<Merge>,
    sequences: bool,
) -> Result<Vec<Tensor>> {
    if sequences && merge.is_some() {
        return Ok(vec![exchange_batch_and_time(recorder, y)?]);
    }
    let mut half = |start| ops::slice(recorder, y, Slice { axis: 2, start, step: 1, count: units });
    let [a, b] = [half(0)?, half(units)?];
    let pair = if sequences {
        [exchange_batch_and_time(recorder, &a)?, exchange_batch_and_time(recorder, &b)?]
    } else {
        [index_first(recorder, &a, a.shape()[0] - 1)?, index_first(recorder, &b, 0)?]
    };
    merged(recorder, merge, pair)
}

/// The start state of a layer from `h` and, for an LSTM, `c` of each direction; zeros if none is given.
fn start_state(recorder: &mut Recorder, layer: &CellLayer, directions: &[&[Tensor]], batch: usize) -> Result<State> {
    if directions.iter().all(|states| states.is_empty()) {
        return layer.layer.zero_state(batch);
    }
    let mut joined = |at: usize| -> Result<Tensor> {
        let mut rows = Vec::new();
        for states in directions {
            let Some(state) = states.get(at) else {
                return Err(wrong_states(at + 1, states.len()));
            };
            let [rows_of, units] = axes(OP, "initial_state", "[B, units]", state.shape())?;
            rows.push(state.reshape(&[1, rows_of, units])?);
        }
        match rows.as_slice() {
            [one] => Ok(one.clone()),
            rows => ops::concat(recorder, &rows.iter().collect::<Vec<_>>(), 0),
        }
    };
    let h = joined(0)?;
    let s = if layer.cell_state { Some(joined(1)?) } else { None };
    layer.layer.record_initial_state(recorder, &h, s.as_ref())
}

/// The final state in the order in which Keras lists it.
fn final_states(recorder: &mut Recorder, state: &State) -> Result<Vec<Tensor>> {
    let (h, s) = (state.h_tensor(recorder)?, state.s_tensor(recorder)?);
    let mut states = Vec::new();
    for direction in 0..h.shape()[0] {
        for part in [Some(&h), s.as_ref()].into_iter().flatten() {
            states.push(index_first(recorder, part, direction)?);
        }
    }
    Ok(states)
}

/// The slice at one index of the first axis.
fn index_first(recorder: &mut Recorder, x: &Tensor, at: usize) -> Result<Tensor> {
    let shape = &x.shape()[1..];
    let cut = match x.shape() {
        [1, ..] => x.clone(),
        _ => ops::slice(recorder, x, Slice { axis: 0, start: at, step: 1, count: 1 })?,
    };
    cut.reshape(shape)
}

/// The steps of `[T, B, units]` in reverse order.
fn reverse_time(recorder: &mut Recorder, y: &Tensor) -> Result<Tensor> {
    let count = y.shape()[0];
    ops::slice(recorder, y, Slice { axis: 0, start: count - 1, step: -1, count })
}

/// `[B, T, I]` to `[T, B, I]`, or back.
fn exchange_batch_and_time(recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
    match *x.shape() {
        [a, b, c] if a == 1 || b == 1 => x.reshape(&[b, a, c]),
        _ => ops::permute(recorder, x, &[1, 0, 2]),
    }
}

/// Merges the outputs of two directions; without a merge mode returns both.
fn merged(recorder: &mut Recorder, merge: Option<Merge>, [a, b]: [Tensor; 2]) -> Result<Vec<Tensor>> {
    let op = match merge {
        None => return Ok(vec![a, b]),
        Some(Merge::Concat) => {
            let last = a.shape().len() - 1;
            return Ok(vec![ops::concat(recorder, &[&a, &b], last)?]);
        }
        Some(Merge::Sum) => Binary::Add,
        Some(Merge::Mul) => Binary::Mul,
        Some(Merge::Ave) => Binary::Mean,
    };
    Ok(vec![ops::binary(recorder, op, &a, &b)?])
}

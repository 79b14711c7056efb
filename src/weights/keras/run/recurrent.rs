//! Recurrent layers, alone or in both directions.

use super::super::cells::{BothSpec, CellSpec, RnnSpec};
use super::load::Loader;
use super::value::{Data, Value};
use super::{OP, Results, Run};
use crate::cell::{Cell, Pad, Sequence};
use crate::error::{Error, Result, axes, check_shape};
use crate::nn::{Config, Merge, Recurrent, State};
use crate::ops::{self, Binary, Recorder, Slice};
use crate::tensor::Tensor;

/// A recurrent layer on a device.
pub(super) struct Walk {
    lanes: Lanes,
    sequences: bool,
    states: bool,
    pad: Pad,
}

/// The directions of time.
enum Lanes {
    One(Lane),
    /// Both in one stack, so that they share dispatches; merged there if they return sequences.
    Fused {
        stack: Stack,
        units: usize,
        merge: Option<Merge>,
    },
    /// Both apart, merged afterwards.
    Two {
        lanes: [Lane; 2],
        merge: Option<Merge>,
    },
}

/// Layers that walk the same way, each reading the one below (`StackedRNNCells`).
struct Lane {
    stack: Vec<Stack>,
    backwards: bool,
}

/// One of this crate's layers.
pub(super) struct Stack {
    pub(super) layer: Recurrent<Cell>,
    cell_state: bool,
}

/// What a lane returns: outputs at their steps' places, `[T, B, units]`, and the final states.
struct Walked {
    y: Tensor,
    states: Vec<Tensor>,
}

impl Walk {
    pub(super) fn one(loader: &Loader<'_>, path: &str, spec: &RnnSpec) -> Result<Self> {
        stateless(loader, path, spec)?;
        Ok(Self::of(spec, Lanes::One(Lane::new(loader, spec)?)))
    }

    pub(super) fn both(loader: &Loader<'_>, path: &str, spec: &BothSpec) -> Result<Self> {
        stateless(loader, path, &spec.forward)?;
        let (forward, backward, merge) = (&spec.forward, &spec.backward, spec.merge);
        let lanes = match fused(loader, spec)? {
            Some(stack) => Lanes::Fused { stack, units: forward.cells[0].units, merge },
            None => Lanes::Two { lanes: [Lane::new(loader, forward)?, Lane::new(loader, backward)?], merge },
        };
        Ok(Self::of(forward, lanes))
    }

    fn of(spec: &RnnSpec, lanes: Lanes) -> Self {
        let pad = if spec.zero_masked { Pad::Zero } else { Pad::Hold };
        Self { lanes, sequences: spec.sequences, states: spec.states, pad }
    }

    /// `takes` is the input, `[B, T, I]`, then the initial states.
    pub(super) fn run(&self, run: &mut Run<'_>, takes: &[Value]) -> Result<Results> {
        let Some((x, states)) = takes.split_first() else {
            return Err(wrong_states(1, 0));
        };
        let tensor = x.tensor(run)?;
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
        let initial = states.iter().map(|state| state.tensor(run)).collect::<Result<Vec<_>>>()?;
        let count = self.lanes.states();
        if !initial.is_empty() && initial.len() != count {
            return Err(wrong_states(count, initial.len()));
        }
        let x_steps = swapped(run.recorder, &tensor)?;
        let (outputs, states) = self.lanes.run(run.recorder, &x_steps, &initial, &sequence, self.sequences)?;
        let mask = x.mask.clone().filter(|_| self.sequences);
        let mut values: Vec<Value> =
            outputs.into_iter().map(|y| Value { data: Data::Tensor(y), mask: mask.clone() }).collect();
        if self.states {
            values.extend(states.iter().map(|state| Value { data: Data::Tensor(state.clone()), mask: None }));
        }
        Ok(Results { values, states })
    }
}

fn wrong_states(expected: usize, found: usize) -> Error {
    Error::Shape { op: OP, what: "initial_state", expected: format!("[{expected}] states"), found: vec![found] }
}

fn stateless(loader: &Loader<'_>, path: &str, spec: &RnnSpec) -> Result<()> {
    if !spec.stateful {
        return Ok(());
    }
    // Its calls would depend on each other; a `State` of the caller's says so openly.
    let expected = "false in KerasFile::layer and KerasFile::model; KerasFile::recurrent keeps its state in a State";
    Err(loader.source.refuse(&format!("layer {path}: stateful"), expected, "true"))
}

/// One stack of both directions, where both are of one kind and size.
pub(super) fn fused(loader: &Loader<'_>, spec: &BothSpec) -> Result<Option<Stack>> {
    let ([a], [b]) = (spec.forward.cells.as_slice(), spec.backward.cells.as_slice()) else {
        return Ok(None);
    };
    let reset = |cell: &Cell| if let Cell::Gru(gru) = cell { Some(gru.reset) } else { None };
    let described = |spec: &CellSpec| (spec.cell.name(), spec.units, spec.cell.bias(), reset(&spec.cell));
    if spec.forward.backwards || described(a) != described(b) {
        return Ok(None);
    }
    // Without sequences the two last outputs lie at two steps, so the stack cannot merge them.
    let inside = spec.merge.filter(|_| spec.forward.sequences).unwrap_or(Merge::Concat);
    let parameters = vec![loader.cell(a)?, loader.cell(b)?];
    let config = Config::new(a.cell, parameters[0].weight_ih.ncols(), a.units).bidirectional(inside);
    let layer = config.reverse_cell(b.cell).build(loader.device, vec![parameters])?;
    Ok(Some(Stack { layer, cell_state: a.cell.has_cell_state() }))
}

/// A stack of one cell.
pub(super) fn single(loader: &Loader<'_>, spec: &CellSpec, backwards: bool) -> Result<Stack> {
    let parameters = loader.cell(spec)?;
    let config = Config::new(spec.cell, parameters.weight_ih.ncols(), spec.units);
    let config = if backwards { config.reverse() } else { config };
    let layer = config.build(loader.device, vec![vec![parameters]])?;
    Ok(Stack { layer, cell_state: spec.cell.has_cell_state() })
}

impl Stack {
    /// States of one direction.
    fn states(&self) -> usize {
        if self.cell_state { 2 } else { 1 }
    }
}

impl Lane {
    fn new(loader: &Loader<'_>, spec: &RnnSpec) -> Result<Self> {
        let one = |cell: &CellSpec| single(loader, cell, spec.backwards);
        Ok(Self { stack: spec.cells.iter().map(one).collect::<Result<_>>()?, backwards: spec.backwards })
    }

    fn states(&self) -> usize {
        self.stack.iter().map(Stack::states).sum()
    }

    fn run(&self, recorder: &mut Recorder, x: &Tensor, initial: &[Tensor], sequence: &Sequence) -> Result<Walked> {
        let (mut y, mut states, mut initial) = (x.clone(), Vec::new(), initial);
        for stack in &self.stack {
            let own;
            (own, initial) = initial.split_at(stack.states().min(initial.len()));
            let mut state = begin(recorder, stack, &[own], x.shape()[1])?;
            y = stack.layer.record(recorder, &y, &mut state, sequence)?;
            states.extend(ended(recorder, &state)?);
        }
        Ok(Walked { y, states })
    }

    /// The output of the step processed last, `[B, units]`.
    fn last(&self, recorder: &mut Recorder, y: &Tensor) -> Result<Tensor> {
        step(recorder, y, if self.backwards { 0 } else { y.shape()[0] - 1 })
    }
}

impl Lanes {
    /// How many states a call begins with.
    fn states(&self) -> usize {
        match self {
            Self::One(lane) => lane.states(),
            Self::Fused { stack, .. } => 2 * stack.states(),
            Self::Two { lanes, .. } => lanes.iter().map(Lane::states).sum(),
        }
    }

    /// Outputs in Keras' layout, and the final states.
    fn run(
        &self,
        recorder: &mut Recorder,
        x: &Tensor,
        initial: &[Tensor],
        sequence: &Sequence,
        sequences: bool,
    ) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        match self {
            Self::One(lane) => {
                let Walked { y, states } = lane.run(recorder, x, initial, sequence)?;
                let y = match (sequences, lane.backwards) {
                    (false, _) => lane.last(recorder, &y)?,
                    // Keras returns steps in the order in which they were processed.
                    (true, true) => {
                        let y = reversed(recorder, &y)?;
                        swapped_back(recorder, &y)?
                    }
                    (true, false) => swapped_back(recorder, &y)?,
                };
                Ok((vec![y], states))
            }
            Self::Fused { stack, units, merge } => {
                let (forward, backward) = initial.split_at(initial.len() / 2);
                let mut state = begin(recorder, stack, &[forward, backward], x.shape()[1])?;
                let y = stack.layer.record(recorder, x, &mut state, sequence)?;
                let states = ended(recorder, &state)?;
                if sequences && merge.is_some() {
                    return Ok((vec![swapped_back(recorder, &y)?], states));
                }
                let mut half = |start| ops::slice(recorder, &y, Slice { axis: 2, start, step: 1, count: *units });
                let halves = [half(0)?, half(*units)?];
                let [a, b] = &halves;
                let pair = if sequences {
                    [swapped_back(recorder, a)?, swapped_back(recorder, b)?]
                } else {
                    [step(recorder, a, a.shape()[0] - 1)?, step(recorder, b, 0)?]
                };
                Ok((merged(recorder, *merge, pair)?, states))
            }
            Self::Two { lanes: [forward, backward], merge } => {
                let (own, other) = initial.split_at(forward.states().min(initial.len()));
                let a = forward.run(recorder, x, own, sequence)?;
                let b = backward.run(recorder, x, other, sequence)?;
                let pair = if !sequences {
                    [forward.last(recorder, &a.y)?, backward.last(recorder, &b.y)?]
                } else if forward.backwards {
                    // Both in the order in which the first one walked.
                    let (a, b) = (reversed(recorder, &a.y)?, reversed(recorder, &b.y)?);
                    [swapped_back(recorder, &a)?, swapped_back(recorder, &b)?]
                } else {
                    [swapped_back(recorder, &a.y)?, swapped_back(recorder, &b.y)?]
                };
                Ok((merged(recorder, *merge, pair)?, [a.states, b.states].concat()))
            }
        }
    }
}

/// The state a stack begins with: of each direction `h` and, of an LSTM, `c`; or zeros.
fn begin(recorder: &mut Recorder, stack: &Stack, directions: &[&[Tensor]], batch: usize) -> Result<State> {
    if directions.iter().all(|states| states.is_empty()) {
        return stack.layer.zero_state(batch);
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
    let s = if stack.cell_state { Some(joined(1)?) } else { None };
    stack.layer.record_initial_state(recorder, &h, s.as_ref())
}

/// The final state as Keras lists it.
fn ended(recorder: &mut Recorder, state: &State) -> Result<Vec<Tensor>> {
    let (h, s) = (state.h_tensor(recorder)?, state.s_tensor(recorder)?);
    let mut states = Vec::new();
    for direction in 0..h.shape()[0] {
        for part in [Some(&h), s.as_ref()].into_iter().flatten() {
            states.push(step(recorder, part, direction)?);
        }
    }
    Ok(states)
}

/// One index of the first axis.
fn step(recorder: &mut Recorder, x: &Tensor, at: usize) -> Result<Tensor> {
    let shape = &x.shape()[1..];
    let cut = match x.shape() {
        [1, ..] => x.clone(),
        _ => ops::slice(recorder, x, Slice { axis: 0, start: at, step: 1, count: 1 })?,
    };
    cut.reshape(shape)
}

fn reversed(recorder: &mut Recorder, y: &Tensor) -> Result<Tensor> {
    let count = y.shape()[0];
    ops::slice(recorder, y, Slice { axis: 0, start: count - 1, step: -1, count })
}

/// `[B, T, I]` to `[T, B, I]`.
fn swapped(recorder: &mut Recorder, x: &Tensor) -> Result<Tensor> {
    match *x.shape() {
        [a, b, c] if a == 1 || b == 1 => x.reshape(&[b, a, c]),
        _ => ops::permute(recorder, x, &[1, 0, 2]),
    }
}

/// `[T, B, units]` to `[B, T, units]`.
fn swapped_back(recorder: &mut Recorder, y: &Tensor) -> Result<Tensor> {
    swapped(recorder, y)
}

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

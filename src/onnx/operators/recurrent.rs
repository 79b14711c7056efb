//! `RNN`, `GRU` and `LSTM`. Every attribute becomes an option of the cell or of the layer.

mod activations;

use std::sync::Arc;

use ndarray::{Array1, Array2, Array3, Axis};

use self::activations::Activations;
use super::{NodeFn, Operation, Reader};
use crate::cell::{Cell, Direction, Forget, GruCell, LstmCell, Mix, Parameters, Reset, RnnCell, Sequence};
use crate::error::Result;
use crate::nn::{Config, Merge, Recurrent};
use crate::onnx::context::{Context, Inputs, unexpected};
use crate::onnx::value::Value;
use crate::onnx::{GruReset, Warning};
use crate::ops::Binary;
use crate::tensor::{Device, Tensor};
use crate::weights::layout::{GateOrder, OnnxArrays};

// Indices of the inputs in the specification.
const W: usize = 1;
const R: usize = 2;
const B: usize = 3;
const LENGTHS: usize = 4;
const INITIAL_H: usize = 5;
const INITIAL_C: usize = 6;
const P: usize = 7;

/// The attributes that the three operators share.
struct CommonAttributes {
    directions: Vec<Direction>,
    clip: Option<f32>,
    /// `layout=1`: the batch is the first axis.
    batch_first: bool,
    bias: bool,
}

pub(super) fn rnn(reader: &mut Reader<'_>) -> Result<Operation> {
    let common = CommonAttributes::read(reader)?;
    let mut activations = Activations::read(reader, &["Tanh"], common.directions.len())?;
    let cells = common.cells(|| {
        let [activation] = activations.next();
        Cell::Rnn(RnnCell { activation, gate_clip: common.clip, bias: common.bias })
    });
    build(reader, &common, &cells)
}

pub(super) fn gru(reader: &mut Reader<'_>) -> Result<Operation> {
    let common = CommonAttributes::read(reader)?;
    let reset = reset(reader)?;
    let mut activations = Activations::read(reader, &["Sigmoid", "Tanh"], common.directions.len())?;
    let cells = common.cells(|| {
        let [gate, candidate] = activations.next();
        // In ONNX z weighs the old state: Ht = (1 - zt) ht + zt Ht-1.
        let mix = Mix::KeepsOld;
        Cell::Gru(GruCell { gate, candidate, reset, mix, gate_clip: common.clip, bias: common.bias })
    });
    build(reader, &common, &cells)
}

pub(super) fn lstm(reader: &mut Reader<'_>) -> Result<Operation> {
    let common = CommonAttributes::read(reader)?;
    let coupled = reader.attributes.flag("input_forget", false)?;
    let peephole = reader.given(P);
    let mut activations = Activations::read(reader, &["Sigmoid", "Tanh", "Tanh"], common.directions.len())?;
    let cells = common.cells(|| {
        let [gate, candidate, output] = activations.next();
        Cell::Lstm(LstmCell {
            gate,
            candidate,
            output,
            forget: if coupled { Forget::Coupled } else { Forget::Gate },
            peephole,
            projection: None,
            gate_clip: common.clip,
            cell_clip: None,
            bias: common.bias,
        })
    });
    build(reader, &common, &cells)
}

/// Reads whether a GRU resets before or after the matmul: from the file, or from the caller's option.
///
/// PyTorch's GRU always resets after the matmul. Some exporters leave out the attribute `linear_before_reset` (onnxscript 2852,
/// pytorch 189225), so a file from PyTorch without the attribute is read as if it had `linear_before_reset=1`.
fn reset(reader: &mut Reader<'_>) -> Result<Reset> {
    let stated = if reader.attributes.flag("linear_before_reset", false)? { Reset::After } else { Reset::Before };
    let node = reader.site.node.clone();
    let used = match reader.gru_reset {
        GruReset::Before => Reset::Before,
        GruReset::After => Reset::After,
        GruReset::Auto if stated == Reset::Before && reader.producer == "pytorch" => {
            reader.warnings.push(Warning::SuspectGruReset { node });
            return Ok(Reset::After);
        }
        GruReset::Auto => stated,
    };
    if used != stated {
        reader.warnings.push(Warning::OverriddenGruReset { node, stated, used });
    }
    Ok(used)
}

impl CommonAttributes {
    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let directions = match reader.attributes.string("direction")?.as_deref() {
            None | Some("forward") => vec![Direction::Forward],
            Some("reverse") => vec![Direction::Reverse],
            Some("bidirectional") => vec![Direction::Forward, Direction::Reverse],
            Some(other) => {
                return Err(reader.refuse("direction", "forward, reverse or bidirectional", format!("{other:?}")));
            }
        };
        let clip = match reader.attributes.float("clip")? {
            Some(clip) if clip.is_nan() || clip <= 0.0 => {
                return Err(reader.refuse("clip", "a positive number", clip.to_string()));
            }
            clip => clip,
        };
        let batch_first = reader.opset >= 14 && reader.attributes.flag("layout", false)?;
        Ok(Self { directions, clip, batch_first, bias: reader.given(B) })
    }

    /// One cell per direction.
    fn cells(&self, next: impl FnMut() -> Cell) -> Vec<Cell> {
        std::iter::repeat_with(next).take(self.directions.len()).collect()
    }
}

/// The constant inputs of an operator, for all directions.
struct Weights {
    w: Array3<f32>,
    r: Array3<f32>,
    b: Option<Array2<f32>>,
    p: Option<Array2<f32>>,
}

impl Weights {
    /// Reads and checks the constant inputs.
    fn read(reader: &Reader<'_>, cell: &Cell, directions: usize) -> Result<Self> {
        let (Some(w), Some(r)) = (weight(reader, W, "W", 3, directions)?, weight(reader, R, "R", 3, directions)?)
        else {
            return Err(reader.refuse("W and R", "inputs", "none"));
        };
        let (b, p) = (weight(reader, B, "B", 2, directions)?, weight(reader, P, "P", 2, directions)?);
        let (input, hidden) = (w.shape()[2], r.shape()[2]);
        let gates = GateOrder::Onnx.gates(cell).len();
        // The file bounds the extents, so the products below do not overflow.
        for (name, tensor, shape) in [
            ("W", Some(&w), vec![directions, gates * hidden, input]),
            ("R", Some(&r), vec![directions, gates * hidden, hidden]),
            ("B", b.as_ref(), vec![directions, 2 * gates * hidden]),
            ("P", p.as_ref(), vec![directions, 3 * hidden]),
        ] {
            if let Some(tensor) = tensor.filter(|tensor| tensor.shape() != shape) {
                return Err(reader.refuse(name, format!("shape {shape:?}"), format!("shape {:?}", tensor.shape())));
            }
        }
        if hidden == 0 || input == 0 {
            return Err(reader.refuse("W and R", "at least one unit and one feature", format!("{hidden} and {input}")));
        }
        let matrix = |x: Option<Tensor>| x.map(|x| x.to_array()).transpose();
        Ok(Self { w: w.to_array()?, r: r.to_array()?, b: matrix(b)?, p: matrix(p)? })
    }

    fn input(&self) -> usize {
        self.w.dim().2
    }

    fn hidden(&self) -> usize {
        self.r.dim().2
    }

    /// The parameters of every direction.
    fn parameters(&self, cells: &[Cell]) -> Result<Vec<Parameters>> {
        let parameters = cells.iter().enumerate().map(|(direction, cell)| {
            let matrix = |x: &Array3<f32>| -> Array2<f32> { x.index_axis(Axis(0), direction).to_owned() };
            let vector = |x: &Array2<f32>| -> Array1<f32> { x.row(direction).to_owned() };
            let (b, p) = (self.b.as_ref().map(vector), self.p.as_ref().map(vector));
            OnnxArrays { w: matrix(&self.w), r: matrix(&self.r), b, p }.to_parameters(cell)
        });
        parameters.collect()
    }
}

/// A constant input of the given rank, whose first axis counts the directions; `None` if the input is not given.
fn weight(reader: &Reader<'_>, slot: usize, name: &str, rank: usize, directions: usize) -> Result<Option<Tensor>> {
    match reader.constant(slot) {
        Some(Value::Float(x)) if x.shape().len() == rank && x.shape()[0] == directions => Ok(Some(x.clone())),
        Some(other) => {
            let expected = format!("floats of {rank} axes, the first of extent {directions}");
            Err(reader.refuse(name, expected, other.describe()))
        }
        None if !reader.given(slot) => Ok(None),
        None => Err(reader.refuse(name, "a constant", "a value that is computed at run time")),
    }
}

/// Builds the operation. Its inputs in a run are the sequence, the lengths and the initial state.
fn build(reader: &mut Reader<'_>, common: &CommonAttributes, cells: &[Cell]) -> Result<Operation> {
    let directions = common.directions.len();
    let weights = Weights::read(reader, &cells[0], directions)?;
    let (input, hidden) = (weights.input(), weights.hidden());
    if let Some(stated) = reader.attributes.int("hidden_size")?
        && usize::try_from(stated) != Ok(hidden)
    {
        return Err(reader.refuse("hidden_size", format!("{hidden}, as R"), stated.to_string()));
    }
    let parameters = weights.parameters(cells).map_err(|error| reader.site.wrap(error))?;
    let mut config = Config::new(cells[0], input, hidden);
    config = match cells {
        [_, reverse] => config.bidirectional(Merge::Concat).reverse_cell(*reverse),
        _ if common.directions[0] == Direction::Reverse => config.reverse(),
        _ => config,
    };
    let call = RecurrentCall {
        directions,
        hidden,
        batch_first: common.batch_first,
        cell_state: cells[0].has_cell_state(),
        wanted: [reader.wanted(0), reader.wanted(1), reader.wanted(2)],
    };
    let build = move |device: &Device| -> Result<NodeFn> {
        let layer = config.build(device, vec![parameters.clone()])?;
        Ok(Arc::new(move |context: &mut Context<'_>, inputs: &Inputs<'_>| call.run(context, inputs, &layer)))
    };
    Ok(Operation::WithWeights { slots: vec![W, R, B, P], build: Box::new(build) })
}

/// A call of a recurrent layer, whose inputs and outputs have ONNX's shapes.
#[derive(Clone, Copy, Debug)]
struct RecurrentCall {
    directions: usize,
    hidden: usize,
    batch_first: bool,
    cell_state: bool,
    /// Whether Y, Y_h and Y_c are read.
    wanted: [bool; 3],
}

impl RecurrentCall {
    fn run(self, context: &mut Context<'_>, inputs: &Inputs<'_>, layer: &Recurrent<Cell>) -> Result<Vec<Value>> {
        let x = inputs.float(0, "X")?;
        let &[first, second, _] = x.shape() else {
            return Err(unexpected("X", "three axes", format!("shape {:?}", x.shape())));
        };
        let [time, batch] = if self.batch_first { [second, first] } else { [first, second] };
        // The call holds outputs, gates and their projections at once.
        context.reserve(&[time.max(1), batch, self.directions, self.hidden, 6], 4)?;
        let x = self.exchange_batch(context, x)?;
        let lengths = self.lengths(inputs, time, batch)?;
        let mut state = self.state(context, inputs, layer, lengths.as_deref(), batch)?;
        let y = if batch == 0 {
            context.full(&[time, batch, self.directions * self.hidden], 0.0)?
        } else {
            let sequence = lengths.map_or_else(Sequence::new, |lengths| Sequence::new().lengths(lengths));
            layer.record(context.recorder, &x, &mut state, &sequence)?
        };
        // [T, B, D H] becomes [T, D, B, H] or, if the batch is the first axis, [B, T, D, H].
        let y = match self.wanted[0] {
            true => {
                let y = context.reshape(&y, &[time, batch, self.directions, self.hidden])?;
                context.permute(&y, if self.batch_first { &[1, 0, 2, 3] } else { &[0, 2, 1, 3] })?
            }
            false => y,
        };
        let mut outputs = vec![Value::Float(y)];
        let h = state.h_tensor(context.recorder)?;
        outputs.push(Value::Float(self.exchange_batch(context, &h)?));
        if let Some(s) = state.s_tensor(context.recorder)? {
            outputs.push(Value::Float(self.exchange_batch(context, &s)?));
        }
        Ok(outputs)
    }

    /// Exchanges the first two axes of `[B, T, I]` or `[B, D, H]`, if the batch is the first axis.
    fn exchange_batch(self, context: &mut Context<'_>, x: &Tensor) -> Result<Tensor> {
        if self.batch_first { context.permute(x, &[1, 0, 2]) } else { Ok(x.clone()) }
    }

    /// The lengths of the rows, if they are given.
    fn lengths(self, inputs: &Inputs<'_>, time: usize, batch: usize) -> Result<Option<Vec<usize>>> {
        let Some(list) = inputs.optional_list(LENGTHS, "sequence_lens")? else {
            return Ok(None);
        };
        let inside = |&length: &i64| usize::try_from(length).ok().filter(|&length| length <= time);
        let lengths: Option<Vec<usize>> = list.iter().map(inside).collect();
        let lengths = lengths.filter(|lengths| lengths.len() == batch);
        let found = || format!("{list:?} for {batch} rows of {time} steps");
        lengths.map(Some).ok_or_else(|| unexpected("sequence_lens", "one length per row, from 0 to T", found()))
    }

    /// The state that the call starts from. As in onnxruntime, a row of length 0 ends with a state of zeros, whatever its start.
    fn state(
        self,
        context: &mut Context<'_>,
        inputs: &Inputs<'_>,
        layer: &Recurrent<Cell>,
        lengths: Option<&[usize]>,
        batch: usize,
    ) -> Result<crate::nn::State> {
        let given = [
            inputs.optional_float(INITIAL_H, "initial_h")?,
            if self.cell_state { inputs.optional_float(INITIAL_C, "initial_c")? } else { None },
        ];
        if given.iter().all(Option::is_none) {
            return layer.zero_state(batch);
        }
        let expected = [self.directions, batch, self.hidden];
        let mut begin = |x: Option<&Tensor>| -> Result<Tensor> {
            let Some(x) = x else {
                return context.full(&expected, 0.0);
            };
            let x = if x.shape().len() == 3 { self.exchange_batch(context, x)? } else { x.clone() };
            if x.shape() != expected {
                let found = format!("shape {:?}, where [D, B, H] is {expected:?}", x.shape());
                return Err(unexpected("initial_h and initial_c", "one state per direction and row", found));
            }
            match lengths.filter(|lengths| lengths.contains(&0)) {
                None => Ok(x),
                Some(lengths) => {
                    let alive = lengths.iter().map(|&length| f32::from(u8::from(length > 0))).collect();
                    let alive = context.tensor(&[1, batch, 1], alive)?;
                    context.binary(Binary::Keep, &x, &alive)
                }
            }
        };
        let h = begin(given[0])?;
        let s = if self.cell_state { Some(begin(given[1])?) } else { None };
        layer.record_initial_state(context.recorder, &h, s.as_ref())
    }
}

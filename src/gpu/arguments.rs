//! The arguments and results of the GPU path's functions, as far as they are plain data. They also exist without the feature `gpu`.

use super::Buffer;
use crate::cell::{Direction, Noise, Pad};
use crate::op::Binary;
use crate::plan::Problem;

/// Sizes of a matrix product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatmulSize {
    pub(crate) rows: usize,
    pub(crate) depth: usize,
    pub(crate) columns: usize,
}

/// An operand of `binary`: `columns` elements of every row, from `offset` on, rows `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub(crate) buffer: &'a Buffer,
    pub(crate) stride: usize,
    pub(crate) offset: usize,
}

/// The type of the words in a buffer of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowWords {
    /// `u32`
    Integers,
    /// Whole numbers in `f32`, as `argmax_rows` writes them.
    Floats,
}

/// The sequence that a call reads.
pub(crate) struct SequenceInput<'a> {
    /// `[time, batch, input]`
    pub(crate) x: &'a Buffer,
    pub(crate) time: usize,
    pub(crate) batch: usize,
    /// Flag words `[time, batch]`.
    pub(crate) flags: Option<Buffer>,
    pub(crate) resets: bool,
    pub(crate) pad: Pad,
}

/// The buffers of the state that a call reads and writes, `[layers, directions, batch, ..]`.
pub(crate) struct StateBuffers<'a> {
    pub(crate) h: &'a Buffer,
    pub(crate) s: Option<&'a Buffer>,
    /// The initial values, which a reset restores; zeros if absent.
    pub(crate) initial: Option<(&'a Buffer, Option<&'a Buffer>)>,
}

/// The parameters of one layer and direction, or their gradients; shapes as [`Cell::parameters`](crate::cell::Cell::parameters)
/// says.
#[derive(Clone)]
pub(crate) struct ParameterBuffers {
    pub(crate) weight_ih: Buffer,
    pub(crate) weight_hh: Buffer,
    /// `bias_ih` and `bias_hh`.
    pub(crate) bias: Option<[Buffer; 2]>,
    pub(crate) weight_hr: Option<Buffer>,
    pub(crate) peephole: Option<Buffer>,
}

/// The stack of a training pass.
pub(crate) struct TrainingStack<'a> {
    /// The stack's sizes; its `time` and `batch` are 0.
    pub(crate) problem: Problem,
    pub(crate) directions: &'a [Direction],
    pub(crate) merge: Option<Binary>,
    /// `[layer][direction]`
    pub(crate) parameters: Vec<Vec<ParameterBuffers>>,
}

/// The input of a training pass.
pub(crate) struct TrainingInput<'a> {
    pub(crate) sequence: SequenceInput<'a>,
    pub(crate) noise: Noise,
    /// Largest number of steps of a chunk. If it is given, only the states between chunks are kept.
    pub(crate) checkpoint: Option<usize>,
}

/// The gradients that a backward pass begins with.
pub(crate) struct IncomingGradient<'a> {
    /// `[time, batch, width]`
    pub(crate) dy: &'a Buffer,
    /// Gradient with respect to the last h, in the layout of the state; zeros if absent.
    pub(crate) d_h: Option<&'a Buffer>,
    /// Gradient with respect to the last cell state; zeros if absent.
    pub(crate) d_s: Option<&'a Buffer>,
    /// Largest magnitude to which the gradient with respect to the state is clamped between two steps.
    pub(crate) clip: Option<f32>,
}

/// Gradients of a training pass, in the layout of the values that they belong to.
pub(crate) struct TrainingGradient {
    /// `[time, batch, input]`
    pub(crate) x: Buffer,
    /// `[layers directions, batch, out]`
    pub(crate) h: Buffer,
    /// `[layers directions, batch, hidden]`
    pub(crate) s: Option<Buffer>,
    pub(crate) initial_h: Buffer,
    pub(crate) initial_s: Option<Buffer>,
    /// `[layer][direction]`
    pub(crate) parameters: Vec<Vec<ParameterBuffers>>,
}

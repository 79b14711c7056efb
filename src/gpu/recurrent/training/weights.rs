//! Gradients with respect to a layer's parameters and input: products and sums over all steps of a chunk at once. They run from the
//! last step to the first, so that several chunks give the same bits as one.

use super::{ChunkTape, TrainingPass};
use crate::cell::{Cell, Mask, Stage};
use crate::error::Result;
use crate::gpu::arguments::{Operand, ParameterBuffers};
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::ops::binary;
use crate::gpu::strided::{Axis, Gap, Matrix, Sum, dropout_into, matmul_strided, sum_strided};
use crate::gpu::submit::recorder::Recorder;
use crate::op::Binary;
use crate::plan::{Chunk, Problem};

/// Elements of a word of a tape's gates.
const GATE_WORD: usize = 4;
/// The element of that word in which a GRU that resets before the matrix product keeps `r h`.
const RESET_H: usize = 3;

/// The gradients of one layer, summed chunk by chunk.
pub(super) struct WeightGradients<'a> {
    pass: &'a TrainingPass,
    layer: usize,
    directions: Vec<DirectionGradients>,
    /// Whether a chunk has been added.
    begun: bool,
}

struct DirectionGradients {
    weight_ih: Buffer,
    weight_hh: Buffer,
    weight_hr: Option<Buffer>,
    /// `[batch, rows of d_gates, hidden]`: sums over time.
    sums: Buffer,
    /// `[time, batch, input]`
    x: Buffer,
    /// h times the mask of recurrent dropout.
    masked: Option<Buffer>,
}

impl<'a> WeightGradients<'a> {
    pub(super) fn new(recorder: &mut Recorder, pass: &'a TrainingPass, layer: usize) -> Result<Self> {
        let device = recorder.device().clone();
        let problem = pass.problem();
        let Problem { time, batch, hidden, .. } = *problem;
        let (out, input, rows) = (problem.out(), problem.layer_input(layer), problem.gates() * hidden);
        let one = |direction: usize| -> Result<DirectionGradients> {
            let new = |len| Buffer::new(&device, "gradients of the parameters", len);
            let mask = Mask::Recurrent { row: layer * pass.directions() + direction };
            let masked = pass.noise.draw(mask).map(|_| new(pass.longest() * batch * out)).transpose()?;
            Ok(DirectionGradients {
                weight_ih: new(rows * input)?,
                weight_hh: new(rows * out)?,
                weight_hr: problem.cells[0].projection().map(|out| new(out * hidden)).transpose()?,
                sums: new(batch * pass.plan.rows.count * hidden)?,
                x: new(time * batch * input)?,
                masked,
            })
        };
        let directions = (0..pass.directions()).map(one).collect::<Result<_>>()?;
        Ok(Self { pass, layer, directions, begun: false })
    }

    /// Buffers of zeros in the shapes of the parameters of a layer and direction.
    pub(super) fn zeros(
        recorder: &mut Recorder,
        pass: &TrainingPass,
        (layer, direction): (usize, usize),
    ) -> Result<ParameterBuffers> {
        let problem = pass.problem();
        let (hidden, out, rows) = (problem.hidden, problem.out(), problem.gates() * problem.hidden);
        let cell: &Cell = &problem.cells[direction];
        let mut new = |len: usize| -> Result<Buffer> {
            let buffer = Buffer::new(recorder.device(), "gradients of the parameters", len)?;
            recorder.clear(&buffer, 0, len);
            Ok(buffer)
        };
        Ok(ParameterBuffers {
            weight_ih: new(rows * problem.layer_input(layer))?,
            weight_hh: new(rows * out)?,
            bias: if cell.bias() { Some([new(rows)?, new(rows)?]) } else { None },
            weight_hr: cell.projection().map(|out| new(out * hidden)).transpose()?,
            peephole: if cell.peephole() { Some(new(3 * hidden)?) } else { None },
        })
    }

    /// Adds a chunk, from the layer's input, the tape of its forward steps and the gradients that its backward steps have written.
    pub(super) fn add(
        &mut self,
        recorder: &mut Recorder,
        (x, tape, d_gates): (&Buffer, &ChunkTape, &Buffer),
        chunk: Chunk,
    ) -> Result<()> {
        for direction in 0..self.directions.len() {
            let part = DirectionChunk { all: self, direction, chunk, x, tape, d_gates };
            part.add(recorder)?;
        }
        self.begun = true;
        Ok(())
    }

    /// Records the gradient with respect to the layer's input, `[time, batch, input]`.
    pub(super) fn input_gradient(&self, recorder: &mut Recorder) -> Result<Buffer> {
        let Problem { time, batch, .. } = *self.pass.problem();
        let width = self.pass.problem().layer_input(self.layer);
        match self.directions.as_slice() {
            [forward, reverse] => {
                let all = |buffer| Operand { buffer, stride: width, offset: 0 };
                binary(recorder, Binary::Add, all(&forward.x), all(&reverse.x), [time * batch, width])
            }
            directions => directions
                .first()
                .map_or_else(|| Buffer::new(recorder.device(), "gradients of the input", 0), |one| Ok(one.x.clone())),
        }
    }

    /// Records the gradients with respect to the parameters, once every chunk has been added.
    pub(super) fn parameters(self, recorder: &mut Recorder) -> Result<Vec<ParameterBuffers>> {
        let pass = self.pass;
        let device = recorder.device().clone();
        let problem = pass.problem();
        let hidden = problem.hidden;
        let gates = problem.gates() * hidden;
        let width = pass.plan.rows.count * hidden;
        let mut all = Vec::with_capacity(self.directions.len());
        for (direction, sums) in self.directions.into_iter().enumerate() {
            let cell = &problem.cells[direction];
            let over_rows = |recorder: &mut Recorder, columns: usize, offset: usize, gap: Option<Gap>| {
                let to = Buffer::new(&device, "gradients of the parameters", columns)?;
                let terms = problem.batch;
                let term = Axis::of(width);
                let sum = Sum { x: &sums.sums, offset, outer: 1, outer_stride: 0, terms, term, columns, gap };
                sum_strided(recorder, &sum, (&to, 0), false)?;
                Ok::<_, crate::Error>(to)
            };
            let bias = if cell.bias() {
                let gap = pass.input_gap(direction);
                Some([over_rows(recorder, gates, 0, gap)?, over_rows(recorder, gates, 0, None)?])
            } else {
                None
            };
            let peephole = if cell.peephole() {
                Some(over_rows(recorder, 3 * hidden, pass.plan.rows.peephole * hidden, None)?)
            } else {
                None
            };
            let DirectionGradients { weight_ih, weight_hh, weight_hr, .. } = sums;
            all.push(ParameterBuffers { weight_ih, weight_hh, bias, weight_hr, peephole });
        }
        Ok(all)
    }
}

impl TrainingPass {
    /// The rows that the gradients with respect to the input, its weights and its bias leave out: the recurrent part of a candidate whose
    /// two parts have gradients of their own.
    fn input_gap(&self, direction: usize) -> Option<Gap> {
        let problem = self.problem();
        let hidden = problem.hidden;
        problem.cells[direction].resets_after().then_some(Gap { at: 2 * hidden, elements: hidden })
    }
}

/// A chunk of one direction.
struct DirectionChunk<'a> {
    all: &'a WeightGradients<'a>,
    direction: usize,
    chunk: Chunk,
    x: &'a Buffer,
    tape: &'a ChunkTape,
    d_gates: &'a Buffer,
}

impl DirectionChunk<'_> {
    /// The rows of a matrix of all steps, from the direction's last step to its first.
    fn steps(&self, width: usize) -> Axis {
        Axis::of(width).descending(!self.all.pass.is_reverse(self.direction))
    }

    /// Columns of the gradients with respect to the gates, from one of the rows of `hidden` on.
    fn d_gates(&self, row: usize, gap: Option<Gap>) -> Matrix<'_> {
        let pass = self.all.pass;
        let hidden = pass.problem().hidden;
        let width = pass.plan.rows.count * hidden;
        let offset = self.direction * self.depth() * width + row * hidden;
        Matrix { buffer: self.d_gates, offset, outer: Axis::of(1).gap(gap), depth: self.steps(width) }
    }

    fn depth(&self) -> usize {
        self.chunk.steps * self.all.pass.problem().batch
    }

    /// h as the recurrent products read it, before every step.
    fn h(&self, recorder: &mut Recorder) -> Result<Matrix<'_>> {
        let WeightGradients { pass, layer, directions, .. } = self.all;
        let h_len = pass.h_len();
        let steps = self.chunk.steps;
        // A reverse direction's first state lies behind its last step.
        let place = self.direction * (steps + 1) + usize::from(pass.is_reverse(self.direction));
        let offset = pass.history(steps).h + place * h_len;
        let (outer, depth) = (Axis::of(1), self.steps(pass.problem().out()));
        let draw = pass.noise.draw(Mask::Recurrent { row: layer * pass.directions() + self.direction });
        if let (Some(draw), Some(masked)) = (draw, &directions[self.direction].masked) {
            dropout_into(recorder, &draw, (&self.tape.history, offset), (masked, 0), [steps * h_len, h_len])?;
            return Ok(Matrix { buffer: masked, offset: 0, outer, depth });
        }
        Ok(Matrix { buffer: &self.tape.history, offset, outer, depth })
    }

    fn add(&self, recorder: &mut Recorder) -> Result<()> {
        let WeightGradients { pass, layer, directions, begun } = self.all;
        let problem = pass.problem();
        let (hidden, out, batch) = (problem.hidden, problem.out(), problem.batch);
        let (input, gates) = (problem.layer_input(*layer), problem.gates() * hidden);
        let to = &directions[self.direction];
        let depth = self.depth();
        let start = pass.start_of(self.direction, self.chunk) * batch * input;
        let gap = pass.input_gap(self.direction);

        let x = Matrix { buffer: self.x, offset: start, outer: Axis::of(1), depth: self.steps(input) };
        matmul_strided(recorder, (self.d_gates(0, gap), x), [gates, depth, input], (&to.weight_ih, 0), *begun)?;
        let h = self.h(recorder)?;
        let resets_before = problem.cells[self.direction].stages()[0] == Stage::Reset;
        let first = if resets_before { 2 * hidden } else { gates };
        matmul_strided(recorder, (self.d_gates(0, None), h), [first, depth, out], (&to.weight_hh, 0), *begun)?;
        if resets_before {
            let reset_h = Matrix {
                buffer: &self.tape.gates,
                offset: self.direction * depth * hidden * GATE_WORD + RESET_H,
                outer: Axis::of(GATE_WORD),
                depth: self.steps(hidden * GATE_WORD),
            };
            let candidate = (self.d_gates(2, None), reset_h);
            matmul_strided(recorder, candidate, [hidden, depth, out], (&to.weight_hh, first * out), *begun)?;
        }
        if let Some(weight_hr) = &to.weight_hr {
            let (projected, _) = pass.d_gates(self.chunk.steps);
            let offset = projected + self.direction * depth * out;
            let d = Matrix { buffer: self.d_gates, offset, outer: Axis::of(1), depth: self.steps(out) };
            let m = self.d_gates(pass.plan.rows.second, None);
            matmul_strided(recorder, (d, m), [out, depth, hidden], (weight_hr, 0), *begun)?;
        }
        let width = pass.plan.rows.count * hidden;
        let sum = Sum {
            x: self.d_gates,
            offset: self.direction * depth * width,
            outer: batch,
            outer_stride: width,
            terms: self.chunk.steps,
            term: self.steps(batch * width),
            columns: width,
            gap: None,
        };
        sum_strided(recorder, &sum, (&to.sums, 0), *begun)?;

        let weight_ih = &pass.parameters[*layer][self.direction].weight_ih;
        let a = Matrix {
            buffer: self.d_gates,
            offset: self.direction * depth * width,
            outer: Axis::of(width),
            depth: Axis::of(1).gap(gap),
        };
        let b = Matrix { buffer: weight_ih, offset: 0, outer: Axis::of(1), depth: Axis::of(input) };
        matmul_strided(recorder, (a, b), [depth, gates, input], (&to.x, start), false)
    }
}

//! Packs parameters on the device at the beginning of a pass.

use crate::cell::{Stage, WeightType};
use crate::error::Result;
use crate::gpu::arguments::{ParameterBuffers, TrainingStack};
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{PACK_VECTORS, PACK_WEIGHTS};
use crate::gpu::kept::uniform::uniform;
use crate::gpu::ops::{WORKGROUP_SIZE, fold, grid, word};
use crate::gpu::recurrent::in_whole_words;
use crate::gpu::recurrent::pack::{PackedLayer, PackedPart, PackedStack, VECTOR_ROWS};
use crate::gpu::submit::GpuDevice;
use crate::gpu::submit::recorder::Recorder;
use crate::plan::{BLOCK, Problem, Work, packed_words};

uniform! {
    /// Mirrors the struct in `shaders/cell/pack_weights.wgsl`.
    struct PackWeightsDims {
        padded_units: u32,
        padded_depth: u32,
        units: u32,
        depth: u32,
        columns: u32,
        unit_columns: u32,
        gate_columns: u32,
        column_stride: u32,
        depth_stride: u32,
        from_offset: u32,
        to_word: u32,
    }
}

uniform! {
    /// Mirrors the struct in `shaders/cell/pack_vectors.wgsl`.
    struct PackVectorsDims {
        hidden: u32,
        gates: u32,
        to_offset: u32,
    }
}

/// The layout of a source matrix of `columns` by `depth`: each column begins at `offset + column * column_stride`.
#[derive(Clone, Copy)]
struct PackLayout {
    /// Columns that one invocation of the product owns.
    gates: usize,
    units: usize,
    depth: usize,
    columns: usize,
    unit_columns: usize,
    gate_columns: usize,
    column_stride: usize,
    depth_stride: usize,
    offset: usize,
}

/// The way in which a source is read: the values of `WORDS` in `shaders/cell/pack_weights.wgsl`.
enum SourceWords {
    /// Element by element.
    None,
    /// Four elements of the depth at a time.
    AlongDepth,
    /// Four columns of a unit.
    AlongColumns,
}

impl PackLayout {
    /// Rows of a weight, gate by gate: `weight [gates * units, depth]`.
    fn gates(gates: usize, units: usize, depth: usize) -> Self {
        let columns = gates * units;
        let (unit_columns, gate_columns) = (1, units);
        let (column_stride, depth_stride) = (depth, 1);
        Self { gates, units, depth, columns, unit_columns, gate_columns, column_stride, depth_stride, offset: 0 }
    }

    /// The transpose of `rows` of a weight `[.., columns]`: an invocation owns `side_by_side` adjacent columns.
    fn transpose(side_by_side: usize, columns: usize, rows: std::ops::Range<usize>) -> Self {
        Self {
            gates: side_by_side,
            units: columns.div_ceil(side_by_side),
            depth: rows.len(),
            columns,
            unit_columns: side_by_side,
            gate_columns: 1,
            column_stride: 1,
            depth_stride: columns,
            offset: rows.start * columns,
        }
    }

    /// Length of the packed matrix in words of 16 bytes.
    fn words(&self) -> usize {
        packed_words(WeightType::F32, self.gates, self.units, self.depth)
    }

    /// Packs `from` into `to`, from word `at` on.
    fn pack(&self, recorder: &mut Recorder, from: &Buffer, (to, at): (&Buffer, usize)) -> Result<()> {
        let op = PACK_WEIGHTS.name;
        let device = recorder.device().clone();
        let n = |size: usize| word(&device, op, size);
        n((at + self.words()) * 4)?;
        n(self.offset + self.columns * self.depth)?;
        let (units, depth) = (self.units.next_multiple_of(BLOCK), self.depth.next_multiple_of(16));
        let dims = PackWeightsDims {
            padded_units: n(units)?,
            padded_depth: n(depth)?,
            units: n(self.units)?,
            depth: n(self.depth)?,
            columns: n(self.columns)?,
            unit_columns: n(self.unit_columns)?,
            gate_columns: n(self.gate_columns)?,
            column_stride: n(self.column_stride)?,
            depth_stride: n(self.depth_stride)?,
            from_offset: n(self.offset)?,
            to_word: n(at)?,
        };
        let from = in_whole_words(recorder, from, from.words())?;
        let constants = vec![("GATES", n(self.gates)?), ("WORDS", self.source_words() as u32)];
        let bound = recorder.bind(&PACK_WEIGHTS, &constants, [&from, to].map(Buffer::clone))?;
        let whole = [units.div_ceil(WORKGROUP_SIZE), depth / 4, 1];
        recorder.dispatch(bound, &dims, &grid(&device, op, whole, Work::each(4 * self.words(), 1))?)
    }

    fn source_words(&self) -> SourceWords {
        let whole = |sizes: [usize; 3]| sizes.iter().all(|size| size.is_multiple_of(4));
        let side_by_side = (self.column_stride, self.gate_columns, self.unit_columns) == (1, 1, 4) && self.gates == 4;
        if self.depth_stride == 1 && whole([self.offset, self.column_stride, self.depth]) {
            SourceWords::AlongDepth
        } else if side_by_side && whole([self.offset, self.depth_stride, self.columns]) {
            SourceWords::AlongColumns
        } else {
            SourceWords::None
        }
    }
}

/// Packs one matrix of every direction into a new buffer.
fn part<'a>(
    recorder: &mut Recorder,
    layout: PackLayout,
    weights: impl ExactSizeIterator<Item = &'a Buffer>,
) -> Result<PackedPart> {
    let stride = layout.words();
    let buffer = Buffer::new(recorder.device(), PACK_WEIGHTS.name, weights.len() * stride * 4)?;
    for (direction, weight) in weights.enumerate() {
        layout.pack(recorder, weight, (&buffer, direction * stride))?;
    }
    Ok(PackedPart { buffer, at: 0, stride })
}

impl PackedStack {
    /// The packed stack of a pass that has no steps.
    pub(super) fn empty(device: &GpuDevice) -> Result<Self> {
        Ok(Self { layers: Vec::new(), vectors: Buffer::new(device, PACK_VECTORS.name, 0)? })
    }

    /// Packs a stack's parameters for the forward pass.
    pub(super) fn record(recorder: &mut Recorder, stack: &TrainingStack<'_>) -> Result<Self> {
        let problem = &stack.problem;
        let device = recorder.device().clone();
        let (gates, hidden, out) = (problem.gates(), problem.hidden, problem.out());
        let rows = VECTOR_ROWS * hidden;
        let count = problem.layers * problem.cells.len();
        let vectors = Buffer::new(&device, PACK_VECTORS.name, count * rows)?;
        let mut layers = Vec::with_capacity(problem.layers);
        for (layer, parameters) in stack.parameters.iter().enumerate() {
            let of = |get: fn(&ParameterBuffers) -> &Buffer| parameters.iter().map(get);
            let input =
                part(recorder, PackLayout::gates(gates, hidden, problem.layer_input(layer)), of(|p| &p.weight_ih))?;
            let recurrent = part(recorder, PackLayout::gates(gates, hidden, out), of(|p| &p.weight_hh))?;
            let projecting: Vec<&Buffer> = parameters.iter().filter_map(|p| p.weight_hr.as_ref()).collect();
            let projection = if projecting.is_empty() {
                PackedPart { buffer: recurrent.buffer.clone(), at: 0, stride: 0 }
            } else {
                part(recorder, PackLayout::gates(1, out, hidden), projecting.into_iter())?
            };
            layers.push(PackedLayer { input, recurrent, projection });
            for (direction, p) in parameters.iter().enumerate() {
                let at = (layer * problem.cells.len() + direction) * rows;
                pack_vectors(recorder, problem, direction, p, (&vectors, at))?;
            }
        }
        Ok(Self { layers, vectors })
    }
}

fn pack_vectors(
    recorder: &mut Recorder,
    problem: &Problem,
    direction: usize,
    p: &ParameterBuffers,
    (vectors, at): (&Buffer, usize),
) -> Result<()> {
    let op = PACK_VECTORS.name;
    let device = recorder.device().clone();
    let n = |size: usize| word(&device, op, size);
    let dims = PackVectorsDims { hidden: n(problem.hidden)?, gates: n(problem.gates())?, to_offset: n(at)? };
    n(at + VECTOR_ROWS * problem.hidden)?;
    let constants = vec![
        ("BIASED", u32::from(p.bias.is_some())),
        ("PEEPHOLE", u32::from(p.peephole.is_some())),
        ("RESETS_AFTER", u32::from(problem.cells[direction].resets_after())),
    ];
    // Every binding needs a buffer; the constants say which ones are not read.
    let [bias_ih, bias_hh] = p.bias.as_ref().map_or([&p.weight_ih; 2], |[ih, hh]| [ih, hh]);
    let peephole = p.peephole.as_ref().unwrap_or(&p.weight_ih);
    let bound = recorder.bind(&PACK_VECTORS, &constants, [bias_ih, bias_hh, peephole, vectors].map(Buffer::clone))?;
    let len = VECTOR_ROWS * problem.hidden;
    let grid = fold(&device, op, len.div_ceil(WORKGROUP_SIZE), Work::each(len, 3))?;
    recorder.dispatch(bound, &dims, &grid)
}

/// One layer's transposed weights.
pub(super) struct BackWeights {
    pub(super) buffer: Buffer,
    /// The recurrent weights of the product that computes the gradient with respect to h.
    pub(super) first: BackMatrices,
    /// The weights of the product within a step: a GRU's candidate, or the projection.
    pub(super) second: Option<BackMatrices>,
    /// Offset of the peepholes in elements.
    pub(super) peepholes: usize,
}

/// The matrices of a layer's directions, in words of 16 bytes.
#[derive(Clone, Copy)]
pub(super) struct BackMatrices {
    pub(super) at: usize,
    pub(super) stride: usize,
    pub(super) depth: usize,
}

impl BackWeights {
    pub(super) fn record(
        recorder: &mut Recorder,
        problem: &Problem,
        columns: usize,
        parameters: &[ParameterBuffers],
    ) -> Result<Self> {
        let (hidden, out, rows) = (problem.hidden, problem.out(), problem.gates() * problem.hidden);
        let resets_before = problem.cells[0].stages()[0] == Stage::Reset;
        let first = PackLayout::transpose(columns, out, 0..if resets_before { 2 * hidden } else { rows });
        let second = match (problem.cells[0].projection(), resets_before) {
            (Some(_), _) => Some(PackLayout::transpose(columns, hidden, 0..out)),
            (None, true) => Some(PackLayout::transpose(columns, out, 2 * hidden..3 * hidden)),
            (None, false) => None,
        };
        let directions = parameters.len();
        let matrices =
            |at: usize, layout: &PackLayout| BackMatrices { at, stride: layout.words(), depth: layout.depth };
        let second_at = directions * first.words();
        let peepholes = 4 * (second_at + second.map_or(0, |second| directions * second.words()));
        let peephole_len = if problem.cells[0].peephole() { directions * 3 * hidden } else { 0 };
        let buffer = Buffer::new(recorder.device(), PACK_WEIGHTS.name, peepholes + peephole_len)?;
        for (direction, p) in parameters.iter().enumerate() {
            first.pack(recorder, &p.weight_hh, (&buffer, direction * first.words()))?;
            if let Some(second) = &second {
                let from = p.weight_hr.as_ref().unwrap_or(&p.weight_hh);
                second.pack(recorder, from, (&buffer, second_at + direction * second.words()))?;
            }
            if let Some(peephole) = &p.peephole {
                recorder.copy((peephole, 0), (&buffer, peepholes + direction * 3 * hidden), 3 * hidden);
            }
        }
        Ok(Self {
            buffer,
            first: matrices(0, &first),
            second: second.as_ref().map(|second| matrices(second_at, second)),
            peepholes,
        })
    }
}

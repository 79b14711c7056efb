//! Weights as the kernels read them; `shaders/common/tile.wgsl` and `shaders/cell/vector_rows.wgsl` describe the layouts.

use half::{bf16, f16};
use ndarray::{Array1, Array2, ArrayD, ArrayView2, IxDyn};

use crate::cell::{Cell, Parameters, WeightType, quantize};
use crate::error::{Result, axes};
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::submit::GpuDevice;
use crate::memory;
use crate::plan::{BLOCK, Problem, packed_words, step_depth, step_words};

const OP: &str = "weights";

/// 32-bit elements of a word of 16 bytes.
const WORD: usize = 4;

/// Rows of `hidden` elements in a layer and direction's vectors.
const BIAS: usize = 0;
const SCALE_HIDDEN: usize = 4;
const SCALE_INPUT: usize = 8;
const PEEPHOLE: usize = 12;
const CANDIDATE_BIAS: usize = 15;
const SCALE_PROJECTION: usize = 16;
pub(super) const VECTOR_ROWS: usize = 17;

/// A part of a buffer that holds the matrices of a layer's directions, one after another. Offsets count words of 16 bytes.
pub(super) struct PackedPart {
    pub(super) buffer: Buffer,
    pub(super) at: usize,
    /// Words from the matrix of one direction to that of the next.
    pub(super) stride: usize,
}

/// One layer's weights, all directions.
pub(super) struct PackedLayer {
    pub(super) input: PackedPart,
    pub(super) recurrent: PackedPart,
    /// Empty unless the cell projects its state.
    pub(super) projection: PackedPart,
}

/// A stack's weights on the device.
pub(super) struct PackedStack {
    pub(super) layers: Vec<PackedLayer>,
    /// `[layers, directions, VECTOR_ROWS, hidden]`
    pub(super) vectors: Buffer,
}

/// A packed matrix of `gates * units` rows, and the scales of its rows if it is int8.
pub(super) struct Packed {
    pub(super) words: Vec<u32>,
    pub(super) scales: Vec<f32>,
}

impl Packed {
    pub(super) fn new(weight: ArrayView2<'_, f32>, gates: usize, kind: WeightType) -> Result<Self> {
        let (rows, depth) = weight.dim();
        let units = rows / gates.max(1);
        let (scales, integers) = match kind {
            WeightType::Int8 => quantize(OP, weight)?,
            _ => (Vec::new(), Vec::new()),
        };
        // The row and the depth of element `i` of column `c` in a group of packed weights (a `step` along the depth): it has one column
        // per gate, or four columns along the depth of a single gate.
        let place = |unit: usize, step: usize, c: usize, i: usize| {
            let (gate, k) = if gates == 1 { (0, step * 16 + 4 * c + i) } else { (c, step * 4 + i) };
            (gate < gates && unit < units && k < depth).then_some((gate * units + unit, k))
        };
        let float = |unit, step, c, i| place(unit, step, c, i).map_or(0.0, |(row, k)| weight[[row, k]]);
        let halves = |unit, step, c, i, bits: fn(f32) -> u16| {
            let bits = |i| u32::from(bits(float(unit, step, c, i)));
            bits(i) | (bits(i + 1) << 16)
        };
        let half = |x| f16::from_f32(x).to_bits();
        let brain = |x| bf16::from_f32(x).to_bits();
        let bytes = |unit, step, c| {
            let byte = |i| place(unit, step, c, i).map_or(0, |(row, k)| integers[row * depth + k].cast_unsigned());
            u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        };
        let steps = depth.next_multiple_of(16) / step_depth(gates);
        let mut words = memory::room(OP, packed_words(kind, gates, units, depth) * WORD)?;
        for block in (0..units).step_by(BLOCK) {
            for step in 0..steps {
                for word in 0..step_words(kind, gates) {
                    for unit in block..block + BLOCK {
                        words.extend((0..WORD).map(|i| match kind {
                            WeightType::F32 => float(unit, step, word, i).to_bits(),
                            WeightType::F16 => halves(unit, step, 2 * word + i / 2, 2 * (i % 2), half),
                            WeightType::Bf16 => halves(unit, step, 2 * word + i / 2, 2 * (i % 2), brain),
                            WeightType::Int8 => bytes(unit, step, i),
                        }));
                    }
                }
            }
        }
        Ok(Self { words, scales })
    }

    /// Packs the matrix that projects h; empty if there is none.
    pub(super) fn projection(p: &Parameters, kind: WeightType) -> Result<Self> {
        match &p.weight_hr {
            Some(weight) => Self::new(weight.view(), 1, kind),
            None => Ok(Self { words: Vec::new(), scales: Vec::new() }),
        }
    }
}

/// The inverse of [`Packed::new`]: the matrix `[rows, depth]` as the kernels read it.
fn unpacked(packed: &Packed, gates: usize, kind: WeightType, (rows, depth): (usize, usize)) -> Result<Array2<f32>> {
    let units = rows / gates.max(1);
    let steps = depth.next_multiple_of(16) / step_depth(gates);
    memory::array(OP, (rows, depth), |(row, k)| {
        let (gate, unit) = (row / units, row % units);
        let (step, c, i) = if gates == 1 { (k / 16, k % 16 / 4, k % 4) } else { (k / 4, gate, k % 4) };
        let element = |word: usize, i: usize| {
            let before = (unit / BLOCK * steps + step) * step_words(kind, gates) + word;
            packed.words[(before * BLOCK + unit % BLOCK) * WORD + i]
        };
        let half = || (element(c / 2, 2 * (c % 2) + i / 2) >> (16 * (i % 2))) as u16;
        match kind {
            WeightType::F32 => f32::from_bits(element(c, i)),
            WeightType::F16 => f16::from_bits(half()).to_f32(),
            WeightType::Bf16 => bf16::from_bits(half()).to_f32(),
            WeightType::Int8 => packed.scales[row] * f32::from(element(0, c).to_le_bytes()[i].cast_signed()),
        }
    })
}

impl PackedPart {
    /// Reads a direction's matrix back.
    fn read(
        &self,
        device: &GpuDevice,
        direction: usize,
        scales: &[f32],
        gates: usize,
        kind: WeightType,
        shape: &[usize],
    ) -> Result<ArrayD<f32>> {
        let words = device.read_words(&self.buffer, (self.at + direction * self.stride) * WORD, self.stride * WORD)?;
        let [rows, depth] = axes("weights", "matrix", "[rows, depth]", shape)?;
        let packed = Packed { words, scales: scales.to_vec() };
        Ok(unpacked(&packed, gates, kind, (rows, depth))?.into_dyn())
    }
}

impl PackedStack {
    /// Words from the part of layer `from` to the part of the layer above, in the buffer that they share. `from` is 0 for parts that all
    /// layers have alike, and 1 for the input weights, because those of layer 0 have another size.
    pub(super) fn stride(&self, from: usize, part: impl Fn(&PackedLayer) -> &PackedPart) -> usize {
        match self.layers.get(from..from + 2) {
            Some([below, above]) => part(above).at.saturating_sub(part(below).at),
            _ => 0,
        }
    }

    /// Reads the packed parameters back, `[layer][direction]`. Biases that were added up are all in `bias_ih`; `bias_hh` is then zero.
    pub(super) fn parameters(&self, device: &GpuDevice, problem: &Problem) -> Result<Vec<Vec<Parameters>>> {
        let (hidden, kind) = (problem.hidden, problem.weight_type);
        let one = |layer: usize, direction: usize, cell: &Cell| {
            let gates = cell.gates().len();
            let rows = (layer * problem.cells.len() + direction) * VECTOR_ROWS;
            let vectors: Vec<f32> = device.read_words(&self.vectors, rows * hidden, VECTOR_ROWS * hidden)?;
            let from = |row: usize| &vectors[row * hidden..];
            let packed = &self.layers[layer];
            Parameters::collect(cell, problem.layer_input(layer), hidden, |spec| {
                let shape = spec.shape.as_slice();
                let array = |values: &[f32]| {
                    let mut values = values.iter().copied();
                    memory::array(OP, IxDyn(shape), |_| values.next().unwrap_or_default())
                };
                match spec.name {
                    "weight_ih" => packed.input.read(device, direction, from(SCALE_INPUT), gates, kind, shape),
                    "weight_hh" => packed.recurrent.read(device, direction, from(SCALE_HIDDEN), gates, kind, shape),
                    "weight_hr" => packed.projection.read(device, direction, from(SCALE_PROJECTION), 1, kind, shape),
                    "peephole" => array(from(PEEPHOLE)),
                    "bias_ih" => array(from(BIAS)),
                    _ => {
                        let apart = kept_apart(cell, hidden);
                        let mut bias = memory::zeros(OP, gates * hidden)?;
                        let own = gates * hidden - apart;
                        bias[apart..].copy_from_slice(&from(CANDIDATE_BIAS)[..own]);
                        array(&bias)
                    }
                }
            })
        };
        let layer = |layer| problem.cells.iter().enumerate().map(|(d, cell)| one(layer, d, cell)).collect();
        (0..self.layers.len()).map(layer).collect()
    }

    /// Packs the weights and uploads them. `parameters[layer][direction]` must fit the cells.
    pub(super) fn new(device: &GpuDevice, problem: &Problem, parameters: &[Vec<Parameters>]) -> Result<Self> {
        let hidden = problem.hidden;
        let shared_buffer = problem.weight_words() as u64 * 16 <= device.plan_limits().binding_bytes;
        let mut vectors = Vec::new();
        let mut all: Vec<u32> = Vec::new();
        // Per layer: input, recurrent, projection. Each has its place in the shared buffer, or a buffer of its own.
        let mut places = Vec::new();
        for layer in parameters {
            let mut parts = [Vec::new(), Vec::new(), Vec::new()];
            for (cell, p) in problem.cells.iter().zip(layer) {
                let gates = cell.gates().len();
                let input = Packed::new(p.weight_ih.view(), gates, problem.weight_type)?;
                let recurrent = Packed::new(p.weight_hh.view(), gates, problem.weight_type)?;
                let projection = Packed::projection(p, problem.weight_type)?;
                let scales = [&input.scales[..], &recurrent.scales, &projection.scales];
                memory::append(OP, &mut vectors, &pack_vectors(cell, hidden, p, scales)?)?;
                for (part, packed) in parts.iter_mut().zip([input, recurrent, projection]) {
                    memory::append(OP, part, &packed.words)?;
                }
            }
            for part in parts {
                let stride = part.len() / WORD / problem.cells.len();
                let (at, own) = if shared_buffer {
                    let at = all.len() / WORD;
                    memory::append(OP, &mut all, &part)?;
                    (at, None)
                } else {
                    (0, Some(Buffer::from_slice(device, OP, &part)?))
                };
                places.push((at, stride, own));
            }
        }
        let shared = Buffer::from_slice(device, OP, &all)?;
        let mut parts = places.into_iter().map(|(at, stride, own)| PackedPart {
            buffer: own.unwrap_or_else(|| shared.clone()),
            at,
            stride,
        });
        let mut layers = Vec::new();
        while let (Some(input), Some(recurrent), Some(projection)) = (parts.next(), parts.next(), parts.next()) {
            layers.push(PackedLayer { input, recurrent, projection });
        }
        Ok(Self { layers, vectors: Buffer::from_slice(device, OP, &vectors)? })
    }
}

/// The first row whose recurrent bias is kept apart from the input bias: the reset gate weighs the recurrent part of the candidate
/// before the input part is added.
fn kept_apart(cell: &Cell, hidden: usize) -> usize {
    if cell.resets_after() { 2 * hidden } else { cell.gates().len() * hidden }
}

/// Packs the vectors `[VECTOR_ROWS, hidden]`. `scales` are those of the input, recurrent and projecting weights.
pub(super) fn pack_vectors(cell: &Cell, hidden: usize, p: &Parameters, scales: [&[f32]; 3]) -> Result<Vec<f32>> {
    let mut vectors = memory::zeros(OP, VECTOR_ROWS * hidden)?;
    let mut put = |row: usize, values: &[f32]| vectors[row * hidden..][..values.len()].copy_from_slice(values);
    let rows = cell.gates().len() * hidden;
    let of = |bias: &Option<Array1<f32>>| match bias {
        Some(bias) => memory::elements_of(OP, bias),
        None => memory::zeros(OP, rows),
    };
    let (mut bias, state_bias) = (of(&p.bias_ih)?, of(&p.bias_hh)?);
    let apart = kept_apart(cell, hidden);
    bias.iter_mut().zip(&state_bias[..apart]).for_each(|(x, h)| *x += h);
    put(BIAS, &bias);
    put(CANDIDATE_BIAS, &state_bias[apart..]);
    put(SCALE_INPUT, scales[0]);
    put(SCALE_HIDDEN, scales[1]);
    put(SCALE_PROJECTION, scales[2]);
    if let Some(peephole) = &p.peephole {
        for (row, values) in peephole.rows().into_iter().enumerate() {
            put(PEEPHOLE + row, &memory::elements_of(OP, &values)?);
        }
    }
    Ok(vectors)
}

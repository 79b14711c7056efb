//! Weights as the kernels read them; `shaders/common/tile.wgsl` and `shaders/cell/vectors.wgsl` describe the layouts.

use half::{bf16, f16};
use ndarray::{Array1, ArrayView2};

use crate::cell::{Cell, GruCell, Parameters, Reset, WeightType, quantize_row};
use crate::error::Result;
use crate::gpu::buffer::Buffer;
use crate::gpu::context::GpuDevice;
use crate::plan::{Problem, packed_words, step_depth, step_words};

/// Units whose words lie side by side.
const BLOCK: usize = 8;
/// 32-bit elements of a word.
const WORD: usize = 4;

/// Rows of `hidden` elements in a layer and direction's vectors.
const BIAS: usize = 0;
const SCALE_HIDDEN: usize = 4;
const SCALE_INPUT: usize = 8;
const PEEPHOLE: usize = 12;
const CANDIDATE_BIAS: usize = 15;
const SCALE_PROJECTION: usize = 16;
pub(super) const VECTOR_ROWS: usize = 17;

/// Part of a buffer: the matrices of a layer's directions, one after another. In words of 16 bytes.
pub(super) struct Part {
    pub(super) buffer: Buffer,
    pub(super) at: usize,
    /// From one direction to the next.
    pub(super) stride: usize,
}

/// One layer's weights, all directions.
pub(super) struct PackedLayer {
    pub(super) input: Part,
    pub(super) recurrent: Part,
    /// Of a cell that projects its state.
    pub(super) projection: Part,
}

/// A stack's weights on the device.
pub(super) struct PackedStack {
    pub(super) layers: Vec<PackedLayer>,
    /// `[layers, directions, VECTOR_ROWS, hidden]`
    pub(super) vectors: Buffer,
}

/// A matrix of `gates * units` rows in words, and its rows' scales.
struct Packed {
    words: Vec<u32>,
    scales: Vec<f32>,
}

impl Packed {
    fn new(weight: ArrayView2<'_, f32>, gates: usize, kind: WeightType) -> Self {
        let (rows, depth) = weight.dim();
        let units = rows / gates.max(1);
        let narrow: Vec<(f32, Vec<i8>)> = match kind {
            WeightType::Int8 => weight.rows().into_iter().map(quantize_row).collect(),
            _ => Vec::new(),
        };
        // Element `i` of column `c` of a step: a column a gate, or four columns along the depth of the only gate.
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
            let byte = |i| place(unit, step, c, i).map_or(0, |(row, k)| narrow[row].1[k].cast_unsigned());
            u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        };
        let steps = depth.next_multiple_of(16) / step_depth(gates);
        let mut words = Vec::with_capacity(packed_words(kind, gates, units, depth) * WORD);
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
        Self { words, scales: narrow.into_iter().map(|(scale, _)| scale).collect() }
    }
}

impl PackedStack {
    /// Packs and uploads. `parameters[layer][direction]` fit the cells.
    pub(super) fn new(device: &GpuDevice, problem: &Problem, parameters: &[Vec<Parameters>]) -> Result<Self> {
        let op = "weights";
        let hidden = problem.hidden;
        let together = problem.weight_words() as u64 * 16 <= device.plan_limits().binding_bytes;
        let mut vectors = Vec::new();
        let mut all: Vec<u32> = Vec::new();
        // Per layer: input, recurrent, projection; where each begins if together, else a buffer of its own.
        let mut places = Vec::new();
        for layer in parameters {
            let mut parts = [Vec::new(), Vec::new(), Vec::new()];
            for (cell, p) in problem.cells.iter().zip(layer) {
                let gates = cell.gates().len();
                let input = Packed::new(p.weight_ih.view(), gates, problem.weight_type);
                let recurrent = Packed::new(p.weight_hh.view(), gates, problem.weight_type);
                let projection = match &p.weight_hr {
                    Some(weight) => Packed::new(weight.view(), 1, problem.weight_type),
                    None => Packed { words: Vec::new(), scales: Vec::new() },
                };
                let scales = [&input.scales[..], &recurrent.scales, &projection.scales];
                vectors.extend(pack_vectors(cell, hidden, p, scales));
                for (part, packed) in parts.iter_mut().zip([input, recurrent, projection]) {
                    part.extend(packed.words);
                }
            }
            for part in parts {
                let stride = part.len() / WORD / problem.cells.len();
                let (at, own) = if together {
                    let at = all.len() / WORD;
                    all.extend(part);
                    (at, None)
                } else {
                    (0, Some(Buffer::from_slice(device, op, &part)?))
                };
                places.push((at, stride, own));
            }
        }
        let shared = Buffer::from_slice(device, op, &all)?;
        let mut parts = places.into_iter().map(|(at, stride, own)| Part {
            buffer: own.unwrap_or_else(|| shared.clone()),
            at,
            stride,
        });
        let mut layers = Vec::new();
        while let (Some(input), Some(recurrent), Some(projection)) = (parts.next(), parts.next(), parts.next()) {
            layers.push(PackedLayer { input, recurrent, projection });
        }
        Ok(Self { layers, vectors: Buffer::from_slice(device, op, &vectors)? })
    }
}

/// `[VECTOR_ROWS, hidden]`; `scales` of the input's, the recurrent and the projecting weights.
fn pack_vectors(cell: &Cell, hidden: usize, p: &Parameters, scales: [&[f32]; 3]) -> Vec<f32> {
    let mut vectors = vec![0.0; VECTOR_ROWS * hidden];
    let mut put = |row: usize, values: &[f32]| vectors[row * hidden..][..values.len()].copy_from_slice(values);
    let rows = cell.gates().len() * hidden;
    let of = |bias: &Option<Array1<f32>>| bias.clone().unwrap_or_else(|| Array1::zeros(rows)).to_vec();
    let (mut bias, state_bias) = (of(&p.bias_ih), of(&p.bias_hh));
    // The reset gate weighs the state's side of the candidate before the input's side is added.
    let apart = if matches!(cell, Cell::Gru(GruCell { reset: Reset::After, .. })) { 2 * hidden } else { rows };
    bias.iter_mut().zip(&state_bias[..apart]).for_each(|(x, h)| *x += h);
    put(BIAS, &bias);
    put(CANDIDATE_BIAS, &state_bias[apart..]);
    put(SCALE_INPUT, scales[0]);
    put(SCALE_HIDDEN, scales[1]);
    put(SCALE_PROJECTION, scales[2]);
    if let Some(peephole) = &p.peephole {
        for (row, values) in peephole.rows().into_iter().enumerate() {
            put(PEEPHOLE + row, &values.to_vec());
        }
    }
    vectors
}

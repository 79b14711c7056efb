//! Weights packed for the micro-kernel: panels that are a few registers wide, one register per gate and block of units. A
//! panel's product thus holds all gates of its units.

use std::ops::Range;

use half::{bf16, f16};
use ndarray::{Array1, Array2, ArrayViewMut2};

use super::memory::AlignedVec;
use super::simd::Verified;
use super::stored::{PanelWeights, UnpackPanels, interleaved};
use crate::cell::{WeightType, quantize};
use crate::error::Result;

const OP: &str = "Recurrent";

/// The rows of a weight matrix in the registers of a panel: `gates` registers for each of `blocks` blocks of units.
#[derive(Clone, Copy, Debug)]
pub(super) struct PanelLayout {
    /// The gates of a block, as positions in the weight matrix.
    pub(super) gates: &'static [usize],
    /// Blocks per panel.
    pub(super) blocks: usize,
    /// Units per gate.
    pub(super) units: usize,
    /// Units per block: the lanes of a register.
    pub(super) lanes: usize,
}

impl PanelLayout {
    /// Registers per row of a panel.
    pub(super) fn vectors(&self) -> usize {
        self.gates.len() * self.blocks
    }

    /// Columns per panel.
    pub(super) fn width(&self) -> usize {
        self.vectors() * self.lanes
    }

    pub(super) fn panels(&self) -> usize {
        self.units.div_ceil(self.blocks * self.lanes)
    }

    /// The matrix row in a panel's column; `None` beyond the last unit.
    fn row(&self, panel: usize, column: usize) -> Option<usize> {
        let (vector, lane) = (column / self.lanes, column % self.lanes);
        let (slot, gate) = (vector / self.gates.len(), vector % self.gates.len());
        let unit = (panel * self.blocks + slot) * self.lanes + lane;
        (unit < self.units).then(|| self.gates[gate] * self.units + unit)
    }

    /// One value per column of every panel: `of` the column's matrix row, or 0 beyond the last unit.
    fn columns(&self, of: impl Fn(usize) -> f32) -> Result<AlignedVec<f32>> {
        let column = |at: usize| self.row(at / self.width(), at % self.width()).map_or(0.0, &of);
        let len = self.panels() * self.width();
        AlignedVec::collect(OP, len, (0..len).map(column))
    }
}

/// The operand by which a packed matrix is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// The input of many steps, in f32.
    Input,
    /// The state of one step, rounded to 16 bits if the weights are 8-bit integers.
    State,
}

impl PanelLayout {
    /// Panel, depth and column of every number, in the order of [`PanelWeights`].
    fn places(self, depth: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let width = self.width();
        (0..self.panels()).flat_map(move |panel| (0..depth).flat_map(move |k| (0..width).map(move |c| (panel, k, c))))
    }

    /// Packs a matrix in a floating-point type.
    fn pack_floats(self, weight: &Array2<f32>, kind: WeightType) -> Result<PackedWeights> {
        let (depth, width) = (weight.ncols(), self.width());
        let len = self.panels() * depth * width;
        let places = self.places(depth);
        let at = |panel, k, column| self.row(panel, column).map_or(0.0, |row| weight[[row, k]]);
        match kind {
            WeightType::F16 => {
                let bits = places.map(|(p, k, c)| f16::from_f32(at(p, k, c)).to_bits());
                Ok(PackedWeights::F16(AlignedVec::collect(OP, len, bits)?))
            }
            WeightType::Bf16 => {
                let mut numbers = AlignedVec::zeros(OP, len)?;
                for (p, k, c) in places {
                    let place = (p * depth + k) * width + interleaved(c, self.vectors(), self.lanes);
                    numbers[place] = bf16::from_f32(at(p, k, c)).to_bits();
                }
                Ok(PackedWeights::Bf16(numbers))
            }
            _ => {
                let numbers = places.map(|(p, k, c)| at(p, k, c));
                Ok(PackedWeights::F32(AlignedVec::collect(OP, len, numbers)?))
            }
        }
    }

    /// The byte of a matrix `[rows, depth]` at a panel's place; zero outside the matrix.
    fn byte(self, depth: usize, bytes: &[i8], (panel, k, column): (usize, usize, usize)) -> i8 {
        match self.row(panel, column) {
            Some(row) if k < depth => bytes[row * depth + k],
            _ => 0,
        }
    }

    /// Packs 8-bit weights in the order of floating-point ones.
    fn pack_bytes(self, depth: usize, bytes: &[i8]) -> Result<PackedWeights> {
        let numbers = self.places(depth).map(|place| self.byte(depth, bytes, place));
        Ok(PackedWeights::Int8(AlignedVec::collect(OP, self.panels() * depth * self.width(), numbers)?))
    }

    /// Packs 8-bit weights for integer products: four numbers of the depth per column.
    fn pack_dot(self, depth: usize, bytes: &[i8]) -> Result<PackedWeights> {
        let (panels, width, fours) = (self.panels(), self.width(), depth.div_ceil(4));
        let number = |at: usize| {
            let (rest, k) = (at / 4, at % 4);
            let (rest, column) = (rest / width, rest % width);
            self.byte(depth, bytes, (rest / fours.max(1), 4 * (rest % fours.max(1)) + k, column))
        };
        let sum = |at: usize| (0..depth).map(|k| f32::from(self.byte(depth, bytes, (at / width, k, at % width)))).sum();
        let sums = AlignedVec::collect(OP, panels * width, (0..panels * width).map(sum))?;
        let len = panels * fours * width * 4;
        Ok(PackedWeights::Dot(AlignedVec::collect(OP, len, (0..len).map(number))?, sums))
    }
}

/// A packed matrix with its bias.
pub(super) struct Panels {
    pub(super) layout: PanelLayout,
    pub(super) depth: usize,
    numbers: PackedWeights,
    /// Factor of every column, `[panels, width]`.
    scale: AlignedVec<f32>,
    /// Bias of every column, `[panels, width]`.
    bias: AlignedVec<f32>,
}

enum PackedWeights {
    F32(AlignedVec<f32>),
    F16(AlignedVec<u16>),
    Bf16(AlignedVec<u16>),
    Int8(AlignedVec<i8>),
    /// `[panels, depth / 4, width, 4]`, and the sum of every column's weights.
    Dot(AlignedVec<i8>, AlignedVec<f32>),
}

/// Consecutive panels, ready to be multiplied.
#[derive(Clone, Copy)]
pub(super) struct PanelSlice<'a> {
    pub(super) weights: PanelWeights<'a>,
    /// `[panels, width]`
    pub(super) scale: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) depth: usize,
    /// Registers per row of a panel.
    pub(super) vectors: usize,
    pub(super) count: usize,
    /// Whether the panels are multiplied from the last to the first.
    pub(super) last_first: bool,
}

impl PanelSlice<'_> {
    /// The index of the panel that comes `at`th in the order of multiplication.
    #[inline(always)]
    pub(super) fn nth(&self, at: usize) -> usize {
        if self.last_first { self.count - 1 - at } else { at }
    }
}

impl Panels {
    /// Packs `weight [rows, depth]` and its bias.
    pub(super) fn new(
        layout: PanelLayout,
        weight: &Array2<f32>,
        bias: Option<&Array1<f32>>,
        kind: WeightType,
        operand: Operand,
    ) -> Result<Self> {
        let (scales, bytes) = match kind {
            WeightType::Int8 => quantize(OP, weight.view())?,
            _ => (Vec::new(), Vec::new()),
        };
        let depth = weight.ncols();
        let numbers = match (kind, operand) {
            (WeightType::Int8, Operand::Input) => layout.pack_bytes(depth, &bytes)?,
            (WeightType::Int8, Operand::State) => layout.pack_dot(depth, &bytes)?,
            _ => layout.pack_floats(weight, kind)?,
        };
        let scale = layout.columns(|row| scales.get(row).copied().unwrap_or(1.0))?;
        let bias = layout.columns(|row| bias.map_or(0.0, |bias| bias[row]))?;
        Ok(Self { layout, depth, numbers, scale, bias })
    }

    /// Writes the numbers of the panels back to their positions in the matrix and the bias.
    pub(super) fn unpack(&self, mut weight: ArrayViewMut2<'_, f32>, bias: Option<&mut Array1<f32>>) {
        let (width, depth) = (self.layout.width(), self.depth);
        let places = || {
            let columns = (0..self.layout.panels()).flat_map(|panel| (0..width).map(move |column| (panel, column)));
            columns.filter_map(|(panel, column)| Some((self.layout.row(panel, column)?, panel, column)))
        };
        for (row, panel, column) in places() {
            let scale = self.scale[panel * width + column];
            for k in 0..depth {
                let place = (panel * depth + k) * width;
                weight[[row, k]] = match &self.numbers {
                    PackedWeights::F32(n) => n[place + column],
                    PackedWeights::F16(n) => f16::from_bits(n[place + column]).to_f32(),
                    PackedWeights::Bf16(n) => {
                        let column = interleaved(column, self.layout.vectors(), self.layout.lanes);
                        bf16::from_bits(n[place + column]).to_f32()
                    }
                    PackedWeights::Int8(n) => scale * f32::from(n[place + column]),
                    PackedWeights::Dot(n, _) => {
                        let place = (panel * depth.div_ceil(4) + k / 4) * width + column;
                        scale * f32::from(n[4 * place + k % 4])
                    }
                };
            }
        }
        if let Some(bias) = bias {
            places().for_each(|(row, panel, column)| bias[row] = self.bias[panel * width + column]);
        }
    }

    pub(super) fn slice(&self, panels: Range<usize>) -> PanelSlice<'_> {
        let width = self.layout.width();
        let columns = panels.start * width..panels.end * width;
        let numbers = columns.start * self.depth..columns.end * self.depth;
        let weights = match &self.numbers {
            PackedWeights::F32(n) => PanelWeights::F32(&n[numbers]),
            PackedWeights::F16(n) => PanelWeights::F16(&n[numbers]),
            PackedWeights::Bf16(n) => PanelWeights::Bf16(&n[numbers]),
            PackedWeights::Int8(n) => PanelWeights::Int8(&n[numbers]),
            PackedWeights::Dot(n, sums) => {
                let depth = 4 * self.depth.div_ceil(4);
                PanelWeights::Dot(&n[columns.start * depth..columns.end * depth], &sums[columns.clone()])
            }
        };
        PanelSlice {
            weights,
            scale: &self.scale[columns.clone()],
            bias: &self.bias[columns],
            depth: self.depth,
            vectors: self.layout.vectors(),
            count: panels.len(),
            last_first: false,
        }
    }

    /// Whether the operand must be rounded before the product.
    pub(super) fn rounds_operand(&self) -> bool {
        matches!(self.numbers, PackedWeights::Dot(..))
    }
}

/// From this many rows on, narrow weights are widened once instead of in every tile.
const UNPACK_ROWS: usize = 16;

impl Panels {
    /// Numbers of a widened panel, if a product of `rows` rows widens its panels, else 0. The choice does not change
    /// the products' bits.
    pub(super) fn unpacked_len(&self, rows: usize) -> usize {
        match &self.numbers {
            PackedWeights::F32(_) | PackedWeights::Dot(..) => 0,
            _ if rows < UNPACK_ROWS => 0,
            _ => self.layout.width() * self.depth,
        }
    }
}

impl<'a> PanelSlice<'a> {
    /// Widens the panels to `f32` in `buffer`.
    pub(super) fn unpacked(self, buffer: &'a mut [f32], set: Verified) -> PanelSlice<'a> {
        set.run(UnpackPanels { weights: self.weights, vectors: self.vectors, out: buffer });
        PanelSlice { weights: PanelWeights::F32(buffer), ..self }
    }
}

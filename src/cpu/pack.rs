//! Weights packed for the micro-kernel: panels that are a few registers wide, one register per gate and block of units. A
//! panel's product thus holds all gates of its units. A panel is stored as strips that are as wide as the tiles of the
//! instruction set.

use std::ops::Range;

use half::{bf16, f16};
use ndarray::{Array1, Array2, ArrayViewMut2};

use super::memory::AlignedVec;
use super::simd::{DotOrder, Verified};
use super::stored::{PanelSlice, PanelWeights, UnpackPanels, interleaved};
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
    lanes: usize,
    /// Registers per strip.
    strip: usize,
}

impl PanelLayout {
    pub(super) fn new(gates: &'static [usize], blocks: usize, units: usize, set: Verified) -> Self {
        Self { gates, blocks, units, lanes: set.lanes(), strip: set.strip(gates.len() * blocks) }
    }

    /// Columns per panel.
    pub(super) fn width(&self) -> usize {
        self.gates.len() * self.blocks * self.lanes
    }

    pub(super) fn panels(&self) -> usize {
        self.units.div_ceil(self.blocks * self.lanes)
    }

    /// The first unit of a panel, or of the end.
    pub(super) fn first_unit(&self, panel: usize) -> usize {
        (panel * self.blocks * self.lanes).min(self.units)
    }

    /// Registers per strip.
    pub(super) fn strip(&self) -> usize {
        self.strip
    }

    /// Columns per strip.
    pub(super) fn strip_width(&self) -> usize {
        self.strip * self.lanes
    }

    /// Columns of all panels.
    fn all_columns(&self) -> usize {
        self.panels() * self.width()
    }

    /// The matrix row in a column of all panels; `None` beyond the last unit.
    fn row(&self, column: usize) -> Option<usize> {
        let (vector, lane) = (column / self.lanes, column % self.lanes);
        let (block, gate) = (vector / self.gates.len(), vector % self.gates.len());
        let unit = block * self.lanes + lane;
        (unit < self.units).then(|| self.gates[gate] * self.units + unit)
    }

    /// One value per column of every panel: `of` the column's matrix row, or 0 beyond the last unit.
    fn columns(&self, of: impl Fn(usize) -> f32) -> Result<AlignedVec<f32>> {
        let len = self.all_columns();
        AlignedVec::collect(OP, len, (0..len).map(|column| self.row(column).map_or(0.0, &of)))
    }

    /// The index of a number in [`PanelWeights`], except those of 8-bit products.
    fn place(&self, depth: usize, k: usize, column: usize) -> usize {
        let width = self.strip_width();
        (column / width * depth + k) * width + column % width
    }

    /// The index of a bf16 number in [`PanelWeights::Bf16`].
    fn bf16_place(&self, depth: usize, k: usize, column: usize) -> usize {
        let at = column % self.strip_width();
        self.place(depth, k, column - at) + interleaved(at, self.strip, self.lanes)
    }

    /// The index of an 8-bit weight in [`PanelWeights::Dot`].
    fn dot_place(&self, depth: usize, order: DotOrder, k: usize, column: usize) -> usize {
        let block = self.place(depth.div_ceil(4), k / 4, column - column % self.lanes);
        4 * block + order.place(self.lanes, column % self.lanes, k % 4)
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
    /// Depth and column of every number, in the order of [`PanelWeights`].
    fn places(self, depth: usize) -> impl Iterator<Item = (usize, usize)> {
        let width = self.strip_width();
        let strips = (0..self.all_columns()).step_by(width);
        strips.flat_map(move |first| (0..depth).flat_map(move |k| (first..first + width).map(move |c| (k, c))))
    }

    /// Packs a matrix in a floating-point type.
    fn pack_floats(self, weight: &Array2<f32>, kind: WeightType) -> Result<PackedWeights> {
        let depth = weight.ncols();
        let len = self.all_columns() * depth;
        let places = self.places(depth);
        let at = |k, column| self.row(column).map_or(0.0, |row| weight[[row, k]]);
        match kind {
            WeightType::F16 => {
                let bits = places.map(|(k, c)| f16::from_f32(at(k, c)).to_bits());
                Ok(PackedWeights::F16(AlignedVec::collect(OP, len, bits)?))
            }
            WeightType::Bf16 => {
                let mut numbers = AlignedVec::zeros(OP, len)?;
                places.for_each(|(k, c)| numbers[self.bf16_place(depth, k, c)] = bf16::from_f32(at(k, c)).to_bits());
                Ok(PackedWeights::Bf16(numbers))
            }
            _ => {
                let numbers = places.map(|(k, c)| at(k, c));
                Ok(PackedWeights::F32(AlignedVec::collect(OP, len, numbers)?))
            }
        }
    }

    /// The byte of a matrix `[rows, depth]` at a panel's place; zero outside the matrix.
    fn byte(self, depth: usize, bytes: &[i8], (k, column): (usize, usize)) -> i8 {
        self.row(column).map_or(0, |row| bytes[row * depth + k])
    }

    /// Packs 8-bit weights in the order of floating-point ones.
    fn pack_bytes(self, depth: usize, bytes: &[i8]) -> Result<PackedWeights> {
        let numbers = self.places(depth).map(|place| self.byte(depth, bytes, place));
        Ok(PackedWeights::Int8(AlignedVec::collect(OP, self.all_columns() * depth, numbers)?))
    }

    /// Packs 8-bit weights for integer products.
    fn pack_dot(self, depth: usize, bytes: &[i8], order: DotOrder) -> Result<PackedWeights> {
        let columns = self.all_columns();
        let mut numbers = AlignedVec::zeros(OP, columns * 4 * depth.div_ceil(4))?;
        self.places(depth).for_each(|(k, column)| {
            numbers[self.dot_place(depth, order, k, column)] = self.byte(depth, bytes, (k, column));
        });
        let sum = |column| (0..depth).map(|k| f32::from(self.byte(depth, bytes, (k, column)))).sum();
        Ok(PackedWeights::Dot(numbers, AlignedVec::collect(OP, columns, (0..columns).map(sum))?))
    }
}

/// A packed matrix with its bias.
pub(super) struct Panels {
    pub(super) layout: PanelLayout,
    pub(super) depth: usize,
    numbers: PackedWeights,
    order: DotOrder,
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
    /// Blocks of four numbers of the depth, and the sum of every column's weights.
    Dot(AlignedVec<i8>, AlignedVec<f32>),
}

impl Panels {
    /// Packs `weight [rows, depth]` and its bias.
    pub(super) fn new(
        layout: PanelLayout,
        weight: &Array2<f32>,
        bias: Option<&Array1<f32>>,
        (kind, operand): (WeightType, Operand),
        set: Verified,
    ) -> Result<Self> {
        let order = set.dot_order();
        let (scales, bytes) = match kind {
            WeightType::Int8 => quantize(OP, weight.view())?,
            _ => (Vec::new(), Vec::new()),
        };
        let depth = weight.ncols();
        let numbers = match (kind, operand) {
            (WeightType::Int8, Operand::Input) => layout.pack_bytes(depth, &bytes)?,
            (WeightType::Int8, Operand::State) => layout.pack_dot(depth, &bytes, order)?,
            _ => layout.pack_floats(weight, kind)?,
        };
        let scale = layout.columns(|row| scales.get(row).copied().unwrap_or(1.0))?;
        let bias = layout.columns(|row| bias.map_or(0.0, |bias| bias[row]))?;
        Ok(Self { layout, depth, numbers, order, scale, bias })
    }

    /// Writes the numbers of the panels back to their positions in the matrix and the bias.
    pub(super) fn unpack(&self, mut weight: ArrayViewMut2<'_, f32>, bias: Option<&mut Array1<f32>>) {
        let Self { layout, depth, .. } = *self;
        let rows = || (0..layout.all_columns()).filter_map(|column| Some((layout.row(column)?, column)));
        for (row, column) in rows() {
            let scale = self.scale[column];
            for k in 0..depth {
                weight[[row, k]] = match &self.numbers {
                    PackedWeights::F32(n) => n[layout.place(depth, k, column)],
                    PackedWeights::F16(n) => f16::from_bits(n[layout.place(depth, k, column)]).to_f32(),
                    PackedWeights::Bf16(n) => bf16::from_bits(n[layout.bf16_place(depth, k, column)]).to_f32(),
                    PackedWeights::Int8(n) => scale * f32::from(n[layout.place(depth, k, column)]),
                    PackedWeights::Dot(n, _) => scale * f32::from(n[layout.dot_place(depth, self.order, k, column)]),
                };
            }
        }
        if let Some(bias) = bias {
            rows().for_each(|(row, column)| bias[row] = self.bias[column]);
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
            vectors: self.layout.strip,
            count: panels.len() * width / self.layout.strip_width(),
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

//! Weights as the micro-kernel reads them: panels of a few registers' width, one register a gate and block of units, so
//! that a panel's product holds all gates of its units side by side.

use std::ops::Range;

use half::{bf16, f16};
use ndarray::{Array1, Array2, ArrayViewMut2};

use super::memory::Aligned;
use super::product::{Source, Unpack, interleaved};
use super::simd::Verified;
use crate::cell::{WeightType, quantize};
use crate::error::Result;

const OP: &str = "Recurrent";

/// Which rows of a weight matrix the registers of a panel hold: `gates` registers for each of `blocks` blocks of units.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// The gates of a block, as positions in the matrix's stack.
    pub(super) gates: &'static [usize],
    /// Blocks of units in a panel.
    pub(super) blocks: usize,
    /// Units of a gate.
    pub(super) units: usize,
    /// Units of a block: lanes of a register.
    pub(super) lanes: usize,
}

impl Layout {
    /// Registers of a panel.
    pub(super) fn vectors(&self) -> usize {
        self.gates.len() * self.blocks
    }

    /// Columns of a panel's product.
    pub(super) fn width(&self) -> usize {
        self.vectors() * self.lanes
    }

    pub(super) fn panels(&self) -> usize {
        self.units.div_ceil(self.blocks * self.lanes)
    }

    /// The matrix row behind a panel's column, `None` beyond the last unit.
    fn row(&self, panel: usize, column: usize) -> Option<usize> {
        let (vector, lane) = (column / self.lanes, column % self.lanes);
        let (slot, gate) = (vector / self.gates.len(), vector % self.gates.len());
        let unit = (panel * self.blocks + slot) * self.lanes + lane;
        (unit < self.units).then(|| self.gates[gate] * self.units + unit)
    }

    /// A value of every column of every panel.
    fn columns(&self, of: impl Fn(usize) -> f32) -> Result<Aligned<f32>> {
        let column = |at: usize| self.row(at / self.width(), at % self.width()).map_or(0.0, &of);
        let len = self.panels() * self.width();
        Aligned::collect(OP, len, (0..len).map(column))
    }
}

/// How a matrix is going to be multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// The input of all steps: kept as it is.
    Input,
    /// The state of one step: rounded to 16 bits where the weights are integers.
    State,
}

/// A packed matrix with its bias.
pub(super) struct Panels {
    pub(super) layout: Layout,
    pub(super) depth: usize,
    numbers: Numbers,
    /// Factor and offset of every column, `[panels, width]`.
    scale: Aligned<f32>,
    bias: Aligned<f32>,
}

enum Numbers {
    F32(Aligned<f32>),
    F16(Aligned<u16>),
    Bf16(Aligned<u16>),
    Int8(Aligned<i8>),
    /// Four of the depth together, `[panels, depth / 4, width, 4]`, and the sum of every column's weights.
    Dot(Aligned<i8>, Aligned<f32>),
}

/// Some neighbouring panels, ready to be multiplied.
#[derive(Clone, Copy)]
pub(super) struct PanelRun<'a> {
    pub(super) source: Source<'a>,
    /// `[panels, width]`
    pub(super) scale: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) depth: usize,
    /// Registers of a panel.
    pub(super) vectors: usize,
    pub(super) count: usize,
    /// Whether the last panel comes first.
    pub(super) backwards: bool,
}

impl PanelRun<'_> {
    /// The panel whose turn is `at`.
    #[inline(always)]
    pub(super) fn nth(&self, at: usize) -> usize {
        if self.backwards { self.count - 1 - at } else { at }
    }
}

impl Panels {
    /// Packs `weight [rows, depth]` and its bias.
    pub(super) fn new(
        layout: Layout,
        weight: &Array2<f32>,
        bias: Option<&Array1<f32>>,
        kind: WeightType,
        operand: Operand,
    ) -> Result<Self> {
        let (panels, width, depth) = (layout.panels(), layout.width(), weight.ncols());
        let (scales, bytes) = match kind {
            WeightType::Int8 => quantize(OP, weight.view())?,
            _ => (Vec::new(), Vec::new()),
        };
        let scale = layout.columns(|row| scales.get(row).copied().unwrap_or(1.0))?;
        let at = |panel, k, column: usize| layout.row(panel, column).map_or(0.0, |row| weight[[row, k]]);
        let byte = |panel, k: usize, column: usize| match layout.row(panel, column) {
            Some(row) if k < depth => bytes[row * depth + k],
            _ => 0,
        };
        let places =
            || (0..panels).flat_map(move |panel| (0..depth).flat_map(move |k| (0..width).map(move |c| (panel, k, c))));
        let len = panels * depth * width;
        let numbers = match (kind, operand) {
            (WeightType::F32, _) => Numbers::F32(Aligned::collect(OP, len, places().map(|(p, k, c)| at(p, k, c)))?),
            (WeightType::F16, _) => {
                let bits = places().map(|(p, k, c)| f16::from_f32(at(p, k, c)).to_bits());
                Numbers::F16(Aligned::collect(OP, len, bits)?)
            }
            (WeightType::Bf16, _) => {
                let mut numbers = Aligned::zeros(OP, len)?;
                for (p, k, c) in places() {
                    let place = (p * depth + k) * width + interleaved(c, layout.vectors(), layout.lanes);
                    numbers[place] = bf16::from_f32(at(p, k, c)).to_bits();
                }
                Numbers::Bf16(numbers)
            }
            (WeightType::Int8, Operand::Input) => {
                Numbers::Int8(Aligned::collect(OP, len, places().map(|(p, k, c)| byte(p, k, c)))?)
            }
            (WeightType::Int8, Operand::State) => {
                let fours = depth.div_ceil(4);
                let place = |at: usize| {
                    let (rest, k) = (at / 4, at % 4);
                    let (rest, column) = (rest / width, rest % width);
                    byte(rest / fours.max(1), 4 * (rest % fours.max(1)) + k, column)
                };
                let sum = |at: usize| (0..depth).map(|k| f32::from(byte(at / width, k, at % width))).sum();
                let sums = Aligned::collect(OP, panels * width, (0..panels * width).map(sum))?;
                let len = panels * fours * width * 4;
                Numbers::Dot(Aligned::collect(OP, len, (0..len).map(place))?, sums)
            }
        };
        let bias = layout.columns(|row| bias.map_or(0.0, |bias| bias[row]))?;
        Ok(Self { layout, depth, numbers, scale, bias })
    }

    /// The rows of a matrix and its bias that the panels hold, written to their places.
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
                    Numbers::F32(n) => n[place + column],
                    Numbers::F16(n) => f16::from_bits(n[place + column]).to_f32(),
                    Numbers::Bf16(n) => {
                        let column = interleaved(column, self.layout.vectors(), self.layout.lanes);
                        bf16::from_bits(n[place + column]).to_f32()
                    }
                    Numbers::Int8(n) => scale * f32::from(n[place + column]),
                    Numbers::Dot(n, _) => {
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

    pub(super) fn run(&self, panels: Range<usize>) -> PanelRun<'_> {
        let width = self.layout.width();
        let columns = panels.start * width..panels.end * width;
        let numbers = columns.start * self.depth..columns.end * self.depth;
        let source = match &self.numbers {
            Numbers::F32(n) => Source::F32(&n[numbers]),
            Numbers::F16(n) => Source::F16(&n[numbers]),
            Numbers::Bf16(n) => Source::Bf16(&n[numbers]),
            Numbers::Int8(n) => Source::Int8(&n[numbers]),
            Numbers::Dot(n, sums) => {
                let depth = 4 * self.depth.div_ceil(4);
                Source::Dot(&n[columns.start * depth..columns.end * depth], &sums[columns.clone()])
            }
        };
        PanelRun {
            source,
            scale: &self.scale[columns.clone()],
            bias: &self.bias[columns],
            depth: self.depth,
            vectors: self.layout.vectors(),
            count: panels.len(),
            backwards: false,
        }
    }

    /// Whether the state must be rounded before it is multiplied.
    pub(super) fn rounds_operand(&self) -> bool {
        matches!(self.numbers, Numbers::Dot(..))
    }
}

/// Rows from which on narrow panels are widened once rather than in every tile.
const UNPACK_ROWS: usize = 16;

impl Panels {
    /// Numbers of a panel that is worth widening for so many rows; 0 where it is read as it is. The products' bits do not
    /// depend on it.
    pub(super) fn unpacked_len(&self, rows: usize) -> usize {
        match &self.numbers {
            Numbers::F32(_) | Numbers::Dot(..) => 0,
            _ if rows < UNPACK_ROWS => 0,
            _ => self.layout.width() * self.depth,
        }
    }
}

impl<'a> PanelRun<'a> {
    /// The same panels in `f32`.
    pub(super) fn unpacked(self, buffer: &'a mut [f32], set: Verified) -> PanelRun<'a> {
        set.run(Unpack { source: self.source, vectors: self.vectors, out: buffer });
        PanelRun { source: Source::F32(buffer), ..self }
    }
}

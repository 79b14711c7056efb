//! The micro-kernel: rows of an operand times one panel of weights.
//!
//! Every element of a product is one sum over the depth in ascending order, in any tile. A row's result therefore depends
//! neither on the other rows nor on the number of threads.
#![allow(unsafe_code)]

use std::ops::Range;

use super::pack::PanelSlice;
use super::simd::{Kernel, Simd};
use super::stored::{Bf16Bits, F16Bits, PanelWeights, StoredWeight, bits};

/// Rows of numbers, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct OperandRows<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl<'a> OperandRows<'a> {
    pub(super) fn slice(self, rows: Range<usize>) -> OperandRows<'a> {
        OperandRows { numbers: &self.numbers[rows.start * self.stride..], count: rows.len(), ..self }
    }
}

/// Rows rounded to 16 bits: `x ~ scale (256 high + low - 32768)`.
#[derive(Clone, Copy)]
pub(super) struct RoundedRows<'a> {
    /// Per row the high bytes of all numbers, four per word, then their low bytes.
    bytes: &'a [u32],
    scales: &'a [f32],
}

impl<'a> RoundedRows<'a> {
    /// Words per row.
    pub(super) fn words(depth: usize) -> usize {
        2 * depth.div_ceil(4)
    }

    pub(super) fn new(bytes: &'a [u32], scales: &'a [f32], depth: usize, rows: Range<usize>) -> Self {
        let words = Self::words(depth);
        Self { bytes: &bytes[rows.start * words..rows.end * words], scales: &scales[rows] }
    }
}

/// The array that a product is written to: `[panels, rows, width]` with strides of panels and of rows.
pub(super) struct ProductTarget<'a> {
    pub(super) numbers: &'a mut [f32],
    pub(super) panel_stride: usize,
    pub(super) row_stride: usize,
}

impl ProductTarget<'_> {
    /// Whether every row of every panel has room for `width` numbers.
    fn holds(&self, panels: usize, rows: usize, width: usize) -> bool {
        panels == 0
            || rows == 0
            || self.numbers.len() >= (panels - 1) * self.panel_stride + (rows - 1) * self.row_stride + width
    }
}

/// Computes `target = rows x panel * scale + bias` for each of some panels.
pub(super) struct Product<'a> {
    pub(super) panels: PanelSlice<'a>,
    pub(super) rows: OperandRows<'a>,
    pub(super) target: ProductTarget<'a>,
}

/// A [`Product`] of rounded rows with 8-bit panels ([`PanelWeights::Dot`]).
pub(super) struct DotProduct<'a> {
    pub(super) panels: PanelSlice<'a>,
    pub(super) rows: RoundedRows<'a>,
    pub(super) target: ProductTarget<'a>,
}

/// Bytes by which a tile prefetches ahead of its multiplications. The processor's own prefetchers follow a panel, but not far
/// enough ahead to hide the latency of the third-level cache.
const PREFETCH_BYTES: usize = 4096;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Prefetches the rows of a panel, then those of the next panel.
struct PanelPrefetch<W> {
    /// The first number of the panel, and of the next one.
    panels: [*const W; 2],
    depth: usize,
    /// Numbers per row.
    width: usize,
}

impl<W> PanelPrefetch<W> {
    /// Prefetches the row that is multiplied [`PREFETCH_BYTES`] bytes after row `k`.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, v: S, k: usize) {
        let bytes = self.width * size_of::<W>();
        let ahead = k + PREFETCH_BYTES / bytes;
        let (panel, row) = if ahead < self.depth { (0, ahead) } else { (1, ahead - self.depth) };
        let at = self.panels[panel].wrapping_add(row * self.width).cast::<u8>();
        for line in 0..bytes.div_ceil(LINE_BYTES) {
            v.prefetch(at.wrapping_add(line * LINE_BYTES));
        }
    }
}

/// A tile of a product: the first numbers that it reads and writes, and their strides.
#[derive(Clone, Copy)]
struct ProductTile<W> {
    rows: *const f32,
    stride: usize,
    panel: *const W,
    /// The next panel, which is only prefetched; it may lie outside the weights.
    next: *const W,
    depth: usize,
    scale: *const f32,
    bias: *const f32,
    out: *mut f32,
    out_stride: usize,
}

impl<W: StoredWeight> ProductTile<W> {
    /// # Safety
    /// `rows` points to `R` rows of `depth` numbers, `panel` to `depth x V` registers, `scale` and `bias` to `V` registers
    /// each, and `out` to `R` rows of `V` writable registers.
    #[inline(always)]
    unsafe fn run<S: Simd, const V: usize, const R: usize>(self, v: S) {
        // SAFETY: `row`, `k` and `column` stay below `R`, `depth` and `V`, so every access is inside the ranges of this
        // function's contract.
        unsafe {
            let mut sums = [[v.splat(0.0); V]; R];
            let mut panel = self.panel;
            let prefetch = PanelPrefetch { panels: [self.panel, self.next], depth: self.depth, width: V * S::LANES };
            for k in 0..self.depth {
                // A single row of f32 keeps up with the third-level cache by itself: a prefetch would only cost time.
                if R > 1 || size_of::<W>() < size_of::<f32>() {
                    prefetch.prefetch(v, k);
                }
                let weights = W::load::<S, V>(v, panel);
                panel = panel.add(V * S::LANES);
                for (row, sums) in sums.iter_mut().enumerate() {
                    let x = v.splat(*self.rows.add(row * self.stride + k));
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = v.fma(x, weights, *sum);
                    }
                }
            }
            for (row, sums) in sums.into_iter().enumerate() {
                for (column, sum) in sums.into_iter().enumerate() {
                    let at = column * S::LANES;
                    let y = v.fma(sum, v.load(self.scale.add(at)), v.load(self.bias.add(at)));
                    v.store(self.out.add(row * self.out_stride + at), y);
                }
            }
        }
    }
}

impl Product<'_> {
    #[inline(always)]
    fn with<S: Simd, W: StoredWeight, const V: usize>(self, v: S, numbers: &[W]) {
        let Self { panels, rows, target } = self;
        let PanelSlice { scale, bias, depth, count, .. } = panels;
        let (width, most) = (V * S::LANES, S::ROWS[4 - V]);
        assert!(numbers.len() >= count * depth * width && scale.len().min(bias.len()) >= count * width);
        assert!(rows.count == 0 || rows.numbers.len() >= (rows.count - 1) * rows.stride + depth);
        assert!(target.holds(count, rows.count, width));
        let out = target.numbers.as_mut_ptr();
        // Loops, not closures: code that is not inlined would lose the instruction set.
        for at in 0..count {
            let panel = panels.nth(at);
            let size = depth * width;
            let start = numbers[panel * size..].as_ptr();
            let next = if panels.last_first { start.wrapping_sub(size) } else { start.wrapping_add(size) };
            // Tiles of nearly equal height.
            let tiles = rows.count.div_ceil(most);
            let mut first = 0;
            for at in 0..tiles {
                let height = (rows.count - first).div_ceil(tiles - at);
                let tile = ProductTile {
                    rows: rows.numbers[first * rows.stride..].as_ptr(),
                    stride: rows.stride,
                    panel: start,
                    next,
                    depth,
                    scale: scale[panel * width..].as_ptr(),
                    bias: bias[panel * width..].as_ptr(),
                    out: out.wrapping_add(panel * target.panel_stride + first * target.row_stride),
                    out_stride: target.row_stride,
                };
                // SAFETY: the assertions above cover all panels and rows. The tiles' heights add up to `rows.count`, so every
                // tile ends inside them.
                unsafe {
                    match height {
                        1 => tile.run::<S, V, 1>(v),
                        2 => tile.run::<S, V, 2>(v),
                        3 => tile.run::<S, V, 3>(v),
                        4 if most >= 4 => tile.run::<S, V, 4>(v),
                        5 if most >= 5 => tile.run::<S, V, 5>(v),
                        6 if most >= 6 => tile.run::<S, V, 6>(v),
                        7 if most >= 7 => tile.run::<S, V, 7>(v),
                        8 if most >= 8 => tile.run::<S, V, 8>(v),
                        _ => debug_assert!(false, "a tile of {height} rows"),
                    }
                }
                first += height;
            }
        }
    }

    #[inline(always)]
    fn of_weights<S: Simd, W: StoredWeight>(self, v: S, numbers: &[W]) {
        match self.panels.vectors {
            3 => self.with::<S, W, 3>(v, numbers),
            4 => self.with::<S, W, 4>(v, numbers),
            other => debug_assert!(false, "a panel of {other} registers"),
        }
    }
}

impl Kernel for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match self.panels.weights {
            PanelWeights::F32(n) => self.of_weights(v, n),
            PanelWeights::F16(n) => self.of_weights(v, bits::<F16Bits>(n)),
            PanelWeights::Bf16(n) => self.of_weights(v, bits::<Bf16Bits>(n)),
            PanelWeights::Int8(n) => self.of_weights(v, n),
            PanelWeights::Dot(..) => debug_assert!(false, "8-bit panels take rounded rows"),
        }
    }
}

impl Kernel for DotProduct<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match (self.panels.weights, self.panels.vectors) {
            (PanelWeights::Dot(numbers, sums), 3) => self.with::<S, 3>(v, numbers, sums),
            (PanelWeights::Dot(numbers, sums), 4) => self.with::<S, 4>(v, numbers, sums),
            _ => debug_assert!(false, "rounded rows take 8-bit panels"),
        }
    }
}

impl DotProduct<'_> {
    #[inline(always)]
    fn with<S: Simd, const V: usize>(self, v: S, numbers: &[i8], sums: &[f32]) {
        let Self { panels, rows, target } = self;
        let PanelSlice { scale, bias, depth, count, .. } = panels;
        let (width, fours) = (V * S::LANES, depth.div_ceil(4));
        assert!(numbers.len() >= 4 * count * fours * width);
        assert!([scale, bias, sums].iter().all(|columns| columns.len() >= count * width));
        assert!(target.holds(count, rows.scales.len(), width));
        let out = target.numbers.as_mut_ptr();
        for at in 0..count {
            let panel = panels.nth(at);
            let size = 4 * fours * width;
            let numbers = numbers[panel * size..].as_ptr();
            let next = if panels.last_first { numbers.wrapping_sub(size) } else { numbers.wrapping_add(size) };
            let prefetch = PanelPrefetch { panels: [numbers, next], depth: fours, width: 4 * width };
            for (row, (bytes, &row_scale)) in rows.bytes.chunks_exact((2 * fours).max(1)).zip(rows.scales).enumerate() {
                let (high, low) = bytes.split_at(fours);
                let mut high_sums = [v.zero_i32(); V];
                let mut low_sums = [v.zero_i32(); V];
                for (k, (&high, &low)) in high.iter().zip(low).enumerate() {
                    prefetch.prefetch(v, k);
                    for column in 0..V {
                        // SAFETY: `k` is below `fours` and `column` below `V`, so the access is inside the panel.
                        unsafe {
                            let weights = numbers.add(4 * (k * width + column * S::LANES));
                            high_sums[column] = v.dot_bytes(high_sums[column], high, weights);
                            low_sums[column] = v.dot_bytes(low_sums[column], low, weights);
                        }
                    }
                }
                for column in 0..V {
                    let at = panel * width + column * S::LANES;
                    let place = panel * target.panel_stride + row * target.row_stride + column * S::LANES;
                    // SAFETY: the assertions above cover every column and every place of the target.
                    unsafe {
                        // 256 high + low - 32768 = 256 (high - 128) + low
                        let sum = v.load(sums.as_ptr().add(at));
                        let high = v.fma(sum, v.splat(-128.0), v.to_float(high_sums[column]));
                        let whole = v.fma(high, v.splat(256.0), v.to_float(low_sums[column]));
                        let scale = v.mul(v.load(scale.as_ptr().add(at)), v.splat(row_scale));
                        v.store(out.add(place), v.fma(whole, scale, v.load(bias.as_ptr().add(at))));
                    }
                }
            }
        }
    }
}

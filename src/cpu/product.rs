//! The micro-kernel: rows of an operand times strips of weights.
//!
//! Every element of a product is one sum over the depth in ascending order, in any tile. A row's result therefore depends
//! neither on the other rows nor on the number of threads.
#![allow(unsafe_code)]

mod dot;

pub(super) use dot::{DotProduct, RoundedRows};

use std::ops::Range;

use super::simd::{Kernel, MOST_ROWS, MOST_STRIPS, Simd};
use super::stored::{Bf16Bits, F16Bits, PanelSlice, PanelWeights, StoredWeight, bits};

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

/// The array that a product is written to: `[strips, rows, width]` with strides of strips and of rows.
pub(super) struct ProductTarget<'a> {
    pub(super) numbers: &'a mut [f32],
    /// From one strip's columns to the next one's.
    pub(super) panel_stride: usize,
    pub(super) row_stride: usize,
}

impl ProductTarget<'_> {
    /// Whether every row of every strip has room for `width` numbers.
    fn holds(&self, panels: usize, rows: usize, width: usize) -> bool {
        panels == 0
            || rows == 0
            || self.numbers.len() >= (panels - 1) * self.panel_stride + (rows - 1) * self.row_stride + width
    }
}

/// Computes `target = rows x strip * scale + bias` for each of some strips.
pub(super) struct Product<'a> {
    pub(super) panels: PanelSlice<'a>,
    pub(super) rows: OperandRows<'a>,
    pub(super) target: ProductTarget<'a>,
}

/// Bytes by which a tile prefetches ahead of its multiplications. The processor's own prefetchers follow a strip, but not far
/// enough ahead to hide the latency of the third-level cache.
const PREFETCH_BYTES: usize = 4096;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Where the loop over a strip's rows prefetches: first rows of the same strip, then rows of the strip that is multiplied next.
/// It is one distance from the row that is multiplied, so that it takes one register.
#[derive(Clone, Copy)]
struct PrefetchSpan {
    /// The row at which the span ends.
    end: usize,
    /// Bytes from the row that is multiplied to the row that is prefetched.
    ahead: usize,
}

impl PrefetchSpan {
    /// The spans of a strip of `depth` rows. `next` may lie outside the weights, because it is only prefetched.
    #[inline(always)]
    fn both(strip: *const u8, next: *const u8, depth: usize, row_bytes: usize) -> [Self; 2] {
        let rows = PREFETCH_BYTES / row_bytes;
        let same = rows * row_bytes;
        let other = next.addr().wrapping_sub(strip.addr()).wrapping_add(same).wrapping_sub(depth * row_bytes);
        [Self { end: depth.saturating_sub(rows), ahead: same }, Self { end: depth, ahead: other }]
    }
}

/// Prefetches a row of `bytes` bytes.
#[inline(always)]
fn prefetch_row<S: Simd>(v: S, row: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(LINE_BYTES) {
        v.prefetch(row.wrapping_add(line * LINE_BYTES));
    }
}

/// A tile of a product: the first numbers that it reads and writes, and their strides.
#[derive(Clone, Copy)]
struct ProductTile<W> {
    rows: *const f32,
    stride: usize,
    strip: *const W,
    /// The strip that is multiplied next, which is only prefetched; it may lie outside the weights.
    next: *const W,
    depth: usize,
    scale: *const f32,
    bias: *const f32,
    out: *mut f32,
    out_strip: usize,
    out_stride: usize,
}

/// The product of a tile: `R` rows by `N` strips of `V` registers. It is compiled as a function of its own.
///
/// Only [`ProductTile::of_rows`] makes one. Its caller promises that the pointers point to these numbers:
///
/// - `rows` to `R` rows of `depth` numbers,
/// - `strip` to `N` strips of `depth x V` registers,
/// - `scale` and `bias` to `N V` registers each,
/// - `out` to `N` strips of `R` rows of `V` writable registers.
struct TileProduct<W, const V: usize, const N: usize, const R: usize>(ProductTile<W>);

impl<W: StoredWeight, const V: usize, const N: usize, const R: usize> Kernel for TileProduct<W, V, N, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let Self(tile) = self;
        let width = V * S::LANES;
        // SAFETY: `row`, `k`, `strip` and `column` stay below `R`, `depth`, `N` and `V`, so every access is inside the ranges of
        // the tile's contract.
        unsafe {
            let mut sums = [[[v.splat(0.0); V]; R]; N];
            let mut at = tile.strip;
            let row_bytes = width * size_of::<W>();
            let mut k = 0;
            for span in PrefetchSpan::both(at.cast(), tile.next.cast(), tile.depth, row_bytes) {
                while k < span.end {
                    for (strip, sums) in sums.iter_mut().enumerate() {
                        let at = at.add(strip * tile.depth * width);
                        // A single row of f32 keeps up with the third-level cache by itself: a prefetch would only cost time.
                        if R > 1 || size_of::<W>() < size_of::<f32>() {
                            prefetch_row(v, at.cast::<u8>().wrapping_add(span.ahead), row_bytes);
                        }
                        let weights = W::load::<S, V>(v, at);
                        for (row, sums) in sums.iter_mut().enumerate() {
                            let x = v.splat(*tile.rows.add(row * tile.stride + k));
                            for (sum, weights) in sums.iter_mut().zip(weights) {
                                *sum = v.fma(x, weights, *sum);
                            }
                        }
                    }
                    at = at.add(width);
                    k += 1;
                }
            }
            for (strip, sums) in sums.into_iter().enumerate() {
                for (row, sums) in sums.into_iter().enumerate() {
                    for (column, sum) in sums.into_iter().enumerate() {
                        let at = column * S::LANES;
                        let of_column = |factors: *const f32| v.load(factors.add(strip * width + at));
                        let y = v.fma(sum, of_column(tile.scale), of_column(tile.bias));
                        v.store(tile.out.add(strip * tile.out_strip + row * tile.out_stride + at), y);
                    }
                }
            }
        }
    }
}

impl<W: StoredWeight> ProductTile<W> {
    /// Multiplies `R` rows by 1, 2 or 4 strips.
    ///
    /// # Safety
    /// The contract of [`TileProduct`], with `strips` for `N`: at most [`most_strips`].
    #[inline(always)]
    unsafe fn of_rows<S: Simd, const V: usize, const R: usize>(self, v: S, strips: usize) {
        // A tile that the set does not use is not compiled.
        match strips {
            4 if const { most_strips::<S, W>(V, R) >= 4 } => v.apart(TileProduct::<W, V, 4, R>(self)),
            2 if const { most_strips::<S, W>(V, R) >= 2 } => v.apart(TileProduct::<W, V, 2, R>(self)),
            _ => v.apart(TileProduct::<W, V, 1, R>(self)),
        }
    }

    /// Multiplies at most [`most_rows`] rows by 1, 2 or 4 strips.
    ///
    /// # Safety
    /// The contract of [`Self::of_rows`], with `height` for `R`.
    #[inline(always)]
    unsafe fn of_height<S: Simd, const V: usize>(self, v: S, height: usize, strips: usize) {
        const { assert!(MOST_ROWS == 8) };
        // SAFETY: by this function's contract.
        unsafe {
            match height {
                1 => self.of_rows::<S, V, 1>(v, strips),
                2 => self.of_rows::<S, V, 2>(v, strips),
                3 if const { most_rows::<S, W>(V) >= 3 } => self.of_rows::<S, V, 3>(v, strips),
                4 if const { most_rows::<S, W>(V) >= 4 } => self.of_rows::<S, V, 4>(v, strips),
                5 if const { most_rows::<S, W>(V) >= 5 } => self.of_rows::<S, V, 5>(v, strips),
                6 if const { most_rows::<S, W>(V) >= 6 } => self.of_rows::<S, V, 6>(v, strips),
                7 if const { most_rows::<S, W>(V) >= 7 } => self.of_rows::<S, V, 7>(v, strips),
                8 if const { most_rows::<S, W>(V) >= 8 } => self.of_rows::<S, V, 8>(v, strips),
                _ => debug_assert!(false, "a tile of {height} rows"),
            }
        }
    }
}

/// The most rows of a tile that multiplies strips of `vectors` registers of this weight.
const fn most_rows<S: Simd, W: StoredWeight>(vectors: usize) -> usize {
    S::TILES.rows(vectors, S::TILES.spare(W::WIDENING))
}

/// The most strips that a tile of `rows` rows multiplies at once.
const fn most_strips<S: Simd, W: StoredWeight>(vectors: usize, rows: usize) -> usize {
    S::TILES.strips(vectors, rows, S::TILES.spare(W::WIDENING))
}

/// The strips that are multiplied at once: a power of two, at most `most` and at most the strips that are left.
#[inline(always)]
fn strips_at_once(left: usize, most: usize) -> usize {
    let mut strips = most.min(MOST_STRIPS);
    while strips > left {
        strips /= 2;
    }
    strips.max(1)
}

impl Product<'_> {
    #[inline(always)]
    fn with<S: Simd, W: StoredWeight, const V: usize>(self, v: S, numbers: &[W]) {
        let Self { panels, rows, target } = self;
        let PanelSlice { scale, bias, depth, count, .. } = panels;
        let (width, size) = (V * S::LANES, depth * V * S::LANES);
        assert!(numbers.len() >= count * size && scale.len().min(bias.len()) >= count * width);
        assert!(rows.count == 0 || rows.numbers.len() >= (rows.count - 1) * rows.stride + depth);
        assert!(target.holds(count, rows.count, width));
        let out = target.numbers.as_mut_ptr();
        // Tiles of nearly equal height.
        let tiles = rows.count.div_ceil(const { most_rows::<S, W>(V) });
        // A few rows take several strips at once.
        let most = if tiles == 1 { most_strips::<S, W>(V, rows.count) } else { 1 };
        let mut at = 0;
        // Loops, not closures: code that is not inlined would lose the instruction set.
        while at < count && tiles > 0 {
            let strips = strips_at_once(count - at, most);
            let strip = panels.first(at, strips);
            let start = numbers[strip * size..].as_ptr();
            let after = strips * size;
            let next = if panels.last_first { start.wrapping_sub(after) } else { start.wrapping_add(after) };
            let mut first = 0;
            for tile in 0..tiles {
                let height = (rows.count - first).div_ceil(tiles - tile);
                let tile = ProductTile {
                    rows: rows.numbers[first * rows.stride..].as_ptr(),
                    stride: rows.stride,
                    strip: start,
                    next,
                    depth,
                    scale: scale[strip * width..].as_ptr(),
                    bias: bias[strip * width..].as_ptr(),
                    out: out.wrapping_add(strip * target.panel_stride + first * target.row_stride),
                    out_strip: target.panel_stride,
                    out_stride: target.row_stride,
                };
                // SAFETY: the assertions above cover all strips and rows. The tiles' heights add up to `rows.count`, so every
                // tile ends inside them.
                unsafe { tile.of_height::<S, V>(v, height, strips) };
                first += height;
            }
            at += strips;
        }
    }

    #[inline(always)]
    fn of_weights<S: Simd, W: StoredWeight>(self, v: S, numbers: &[W]) {
        match self.panels.vectors {
            2 if const { S::TILES.strip == 2 } => self.with::<S, W, 2>(v, numbers),
            3 => self.with::<S, W, 3>(v, numbers),
            4 if const { S::TILES.strip == 4 } => self.with::<S, W, 4>(v, numbers),
            other => unreachable!("a strip of {other} registers"),
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
            PanelWeights::Dot(..) => debug_assert!(false, "8-bit strips take rounded rows"),
        }
    }
}

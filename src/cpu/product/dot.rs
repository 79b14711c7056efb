//! The micro-kernel of 8-bit weights: rounded rows times strips, in integers.
#![allow(unsafe_code)]

use std::ops::Range;

use super::{PrefetchSpan, ProductTarget, prefetch_row, strips_at_once};
use crate::cpu::simd::{Kernel, Simd};
use crate::cpu::stored::{PanelSlice, PanelWeights};

/// Rows rounded to 16 bits, as multiples of a scale.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct RoundedRows<'a> {
    /// Two words per four numbers of a row, in the set's [`DotOrder`](crate::cpu::simd::DotOrder).
    words: &'a [u32],
    scales: &'a [f32],
}

impl<'a> RoundedRows<'a> {
    /// Words per row.
    pub(in crate::cpu) fn words(depth: usize) -> usize {
        2 * depth.div_ceil(4)
    }

    pub(in crate::cpu) fn new(words: &'a [u32], scales: &'a [f32], depth: usize, rows: Range<usize>) -> Self {
        let count = Self::words(depth);
        Self { words: &words[rows.start * count..rows.end * count], scales: &scales[rows] }
    }
}

/// A [`Product`] of rounded rows with 8-bit strips ([`PanelWeights::Dot`]).
pub(in crate::cpu) struct DotProduct<'a> {
    pub(in crate::cpu) panels: PanelSlice<'a>,
    pub(in crate::cpu) rows: RoundedRows<'a>,
    pub(in crate::cpu) target: ProductTarget<'a>,
}

/// A tile of a [`DotProduct`]: one row by some strips.
#[derive(Clone, Copy)]
struct DotTile {
    /// Two words per block.
    row: *const u32,
    blocks: usize,
    row_scale: f32,
    strip: *const i8,
    /// The strip that is multiplied next, which is only prefetched; it may lie outside the weights.
    next: *const i8,
    scale: *const f32,
    bias: *const f32,
    /// The sum of every column.
    sums: *const f32,
    out: *mut f32,
    out_strip: usize,
}

/// The product of a [`DotTile`]: its row by `N` strips of `V` registers. It is compiled as a function of its own.
///
/// Only `DotProduct` makes one, with pointers to these numbers:
///
/// - `row` to the words of `blocks` blocks,
/// - `strip` to `N` strips of `V` times as many blocks,
/// - `scale`, `bias` and `sums` to `N V` registers each,
/// - `out` to `N` strips of `V` writable registers.
struct DotTileProduct<const V: usize, const N: usize>(DotTile);

impl<const V: usize, const N: usize> Kernel for DotTileProduct<V, N> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let Self(tile) = self;
        let (row_bytes, blocks) = (4 * V * S::LANES, tile.blocks);
        let mut wholes = [[v.splat(0.0); V]; N];
        let (mut at, mut words) = (tile.strip, tile.row);
        let mut k = 0;
        // SAFETY: `k`, `strip` and `column` stay below `blocks`, `N` and `V`, so every access is inside the ranges of the tile's
        // contract.
        unsafe {
            for span in PrefetchSpan::both(tile.strip.cast(), tile.next.cast(), blocks, row_bytes) {
                while k < span.end {
                    // Sums of 32 bits could overflow after more blocks.
                    let end = span.end.min(k + S::DOT.most_blocks());
                    let mut sums = [[v.zero_dot(); V]; N];
                    while k < end {
                        let x = [*words, *words.add(1)];
                        for (strip, sums) in sums.iter_mut().enumerate() {
                            let at = at.add(strip * blocks * row_bytes);
                            prefetch_row(v, at.cast::<u8>().wrapping_add(span.ahead), row_bytes);
                            for (column, sum) in sums.iter_mut().enumerate() {
                                *sum = v.dot(*sum, x, at.add(4 * column * S::LANES));
                            }
                        }
                        (at, words) = (at.add(row_bytes), words.add(2));
                        k += 1;
                    }
                    for (wholes, sums) in wholes.iter_mut().zip(sums) {
                        for (whole, sum) in wholes.iter_mut().zip(sums) {
                            *whole = v.add(*whole, v.dot_sum(sum));
                        }
                    }
                }
            }
            for (strip, wholes) in wholes.into_iter().enumerate() {
                for (column, whole) in wholes.into_iter().enumerate() {
                    let of_column = |factors: *const f32| v.load(factors.add((strip * V + column) * S::LANES));
                    let whole = v.fma(of_column(tile.sums), v.splat(-S::DOT.excess()), whole);
                    let scale = v.mul(of_column(tile.scale), v.splat(tile.row_scale));
                    let y = v.fma(whole, scale, of_column(tile.bias));
                    v.store(tile.out.add(strip * tile.out_strip + column * S::LANES), y);
                }
            }
        }
    }
}

impl Kernel for DotProduct<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match (self.panels.weights, self.panels.vectors) {
            (PanelWeights::Dot(numbers, sums), 2) if const { S::TILES.strip == 2 } => {
                self.with::<S, 2>(v, numbers, sums)
            }
            (PanelWeights::Dot(numbers, sums), 3) => self.with::<S, 3>(v, numbers, sums),
            (PanelWeights::Dot(numbers, sums), 4) if const { S::TILES.strip == 4 } => {
                self.with::<S, 4>(v, numbers, sums)
            }
            _ => unreachable!("rounded rows take 8-bit strips as wide as the tiles"),
        }
    }
}

impl DotProduct<'_> {
    #[inline(always)]
    fn with<S: Simd, const V: usize>(self, v: S, numbers: &[i8], sums: &[f32]) {
        let Self { panels, rows, target } = self;
        let PanelSlice { scale, bias, depth, count, .. } = panels;
        let (width, blocks) = (V * S::LANES, depth.div_ceil(4));
        let size = 4 * blocks * width;
        assert!(numbers.len() >= count * size);
        assert!([scale, bias, sums].iter().all(|columns| columns.len() >= count * width));
        assert!(target.holds(count, rows.scales.len(), width) && rows.words.len() >= 2 * blocks * rows.scales.len());
        let out = target.numbers.as_mut_ptr();
        let mut at = 0;
        while at < count {
            let strips = strips_at_once(count - at, const { S::TILES.dot_strips(V) });
            let strip = panels.first(at, strips);
            let start = numbers[strip * size..].as_ptr();
            let after = strips * size;
            let next = if panels.last_first { start.wrapping_sub(after) } else { start.wrapping_add(after) };
            for (row, &row_scale) in rows.scales.iter().enumerate() {
                let tile = DotTile {
                    row: rows.words[2 * row * blocks..].as_ptr(),
                    blocks,
                    row_scale,
                    strip: start,
                    next,
                    scale: scale[strip * width..].as_ptr(),
                    bias: bias[strip * width..].as_ptr(),
                    sums: sums[strip * width..].as_ptr(),
                    out: out.wrapping_add(strip * target.panel_stride + row * target.row_stride),
                    out_strip: target.panel_stride,
                };
                // The assertions above cover all strips and rows, as `DotTileProduct` demands.
                match strips {
                    4 if const { S::TILES.dot_strips(V) >= 4 } => v.apart(DotTileProduct::<V, 4>(tile)),
                    2 if const { S::TILES.dot_strips(V) >= 2 } => v.apart(DotTileProduct::<V, 2>(tile)),
                    _ => v.apart(DotTileProduct::<V, 1>(tile)),
                }
            }
            at += strips;
        }
    }
}

//! The micro-kernel: rows of an operand times one panel of weights.
//!
//! Every element of a product is one sum over the depth in rising order, whatever the tile that computes it: a row's
//! result depends neither on the rows beside it nor on the number of threads.
#![allow(unsafe_code)]

use std::ops::Range;

use super::pack::PanelRun;
use super::simd::{Kernel, Simd};

/// Some panels' numbers, `[panels, depth, width]`.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Bf16(&'a [u16]),
    Int8(&'a [i8]),
    /// `[panels, depth / 4, width, 4]` with each column's sum.
    Dot(&'a [i8], &'a [f32]),
}

/// Rows of numbers, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) numbers: &'a [f32],
    pub(super) stride: usize,
    pub(super) count: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn slice(self, rows: Range<usize>) -> Rows<'a> {
        Rows { numbers: &self.numbers[rows.start * self.stride..], count: rows.len(), ..self }
    }
}

/// Rows rounded to 16 bits: `x ~ scale (256 high + low - 32768)`.
#[derive(Clone, Copy)]
pub(super) struct RoundedRows<'a> {
    /// Per row the high bytes of the depth in words of four, then the low ones.
    bytes: &'a [u32],
    scales: &'a [f32],
}

impl<'a> RoundedRows<'a> {
    /// Words of a row.
    pub(super) fn words(depth: usize) -> usize {
        2 * depth.div_ceil(4)
    }

    pub(super) fn new(bytes: &'a [u32], scales: &'a [f32], depth: usize, rows: Range<usize>) -> Self {
        let words = Self::words(depth);
        Self { bytes: &bytes[rows.start * words..rows.end * words], scales: &scales[rows] }
    }
}

/// Where a product is written: `[panels, rows, width]` by the distances of panels and of rows.
pub(super) struct Target<'a> {
    pub(super) numbers: &'a mut [f32],
    pub(super) panel_stride: usize,
    pub(super) row_stride: usize,
}

impl Target<'_> {
    /// Whether every row of every panel has room for `width` numbers.
    fn holds(&self, panels: usize, rows: usize, width: usize) -> bool {
        panels == 0
            || rows == 0
            || self.numbers.len() >= (panels - 1) * self.panel_stride + (rows - 1) * self.row_stride + width
    }
}

/// `target = rows x panel * scale + bias` for each of some panels.
pub(super) struct Product<'a> {
    pub(super) panels: PanelRun<'a>,
    pub(super) rows: Rows<'a>,
    pub(super) target: Target<'a>,
}

/// The same for panels of [`Source::Dot`].
pub(super) struct DotProduct<'a> {
    pub(super) panels: PanelRun<'a>,
    pub(super) rows: RoundedRows<'a>,
    pub(super) target: Target<'a>,
}

/// A number as weights are stored.
///
/// # Safety
/// `load` reads no more than the `V * LANES` numbers that it is given: kernels size their panels by it.
unsafe trait Weight: Copy {
    /// A row of a panel: `V` registers.
    ///
    /// # Safety
    /// `at` points to `V` times [`Simd::LANES`] readable numbers.
    unsafe fn load<S: Simd, const V: usize>(v: S, at: *const Self) -> [S::F; V];
}

/// A weight that is 16 bits of a type of its own.
///
/// # Safety
/// The type is `repr(transparent)` over `u16`.
unsafe trait Bits16: Weight {}

/// 16-bit floats by their bits.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Half(#[allow(dead_code, reason = "read through a pointer")] u16);

/// The upper halves of 32-bit floats by their bits; neighbouring registers interleaved, as [`interleaved`] says.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Brain(#[allow(dead_code, reason = "read through a pointer")] u16);

// SAFETY: transparent over `u16`.
unsafe impl Bits16 for Half {}
// SAFETY: transparent over `u16`.
unsafe impl Bits16 for Brain {}

/// Where a column of a panel of bf16 lies in its row: two registers share their words, so that a shift and a mask widen
/// both; an odd last one lies by itself.
pub(super) fn interleaved(column: usize, vectors: usize, lanes: usize) -> usize {
    let (vector, lane) = (column / lanes, column % lanes);
    if vector / 2 * 2 + 1 < vectors { vector / 2 * 2 * lanes + 2 * lane + vector % 2 } else { column }
}

macro_rules! weight {
    ($($number:ty: $load:ident as $stored:ty),*) => {$(
        // SAFETY: `V` registers are read, one behind the other.
        unsafe impl Weight for $number {
            #[inline(always)]
            unsafe fn load<S: Simd, const V: usize>(v: S, at: *const Self) -> [S::F; V] {
                let mut row = [v.splat(0.0); V];
                for (column, weights) in row.iter_mut().enumerate() {
                    // SAFETY: `at` points to `V * LANES` numbers and `column` is below `V`.
                    *weights = unsafe { v.$load(at.add(column * S::LANES).cast::<$stored>()) };
                }
                row
            }
        }
    )*};
}
weight!(f32: load as f32, Half: load_f16 as u16, i8: load_i8 as i8);

// SAFETY: `V` registers are read, two at a time and an odd last one by itself.
unsafe impl Weight for Brain {
    #[inline(always)]
    unsafe fn load<S: Simd, const V: usize>(v: S, at: *const Self) -> [S::F; V] {
        let mut row = [v.splat(0.0); V];
        for pair in 0..V / 2 {
            // SAFETY: `at` points to `V * LANES` numbers, and pair `pair` ends with register `2 * pair + 1`, below `V`. A register
            // of words of 32 bits is two of 16.
            [row[2 * pair], row[2 * pair + 1]] = unsafe { v.load_bf16_pair(at.add(2 * pair * S::LANES).cast()) };
        }
        if V % 2 == 1 {
            // SAFETY: `at` points to `V * LANES` numbers, of which these are the last `LANES`.
            row[V - 1] = unsafe { v.load_bf16(at.add((V - 1) * S::LANES).cast()) };
        }
        row
    }
}

/// Bytes between what a tile multiplies and what it asks the cache for. The processor's own prefetchers follow a panel, but not
/// far enough ahead to hide the third cache.
const AHEAD: usize = 4096;
/// Bytes of a cache line.
const LINE: usize = 64;

/// The stream of a run's panels through the caches: rows of a panel, then those of the panel whose turn is next.
struct Stream<W> {
    /// Where the panel and the next one begin.
    panels: [*const W; 2],
    depth: usize,
    /// Numbers of a row.
    width: usize,
}

impl<W> Stream<W> {
    /// Asks for the row that is multiplied [`AHEAD`] bytes after row `k`.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, v: S, k: usize) {
        let bytes = self.width * size_of::<W>();
        let ahead = k + AHEAD / bytes;
        let (panel, row) = if ahead < self.depth { (0, ahead) } else { (1, ahead - self.depth) };
        let at = self.panels[panel].wrapping_add(row * self.width).cast::<u8>();
        for line in 0..bytes.div_ceil(LINE) {
            v.prefetch(at.wrapping_add(line * LINE));
        }
    }
}

/// A tile's corner: where it reads and writes.
#[derive(Clone, Copy)]
struct Tile<W> {
    rows: *const f32,
    stride: usize,
    panel: *const W,
    /// The panel whose turn is next; need not exist.
    next: *const W,
    depth: usize,
    scale: *const f32,
    bias: *const f32,
    out: *mut f32,
    out_stride: usize,
}

impl<W: Weight> Tile<W> {
    /// # Safety
    /// `R` rows of `depth` numbers, a panel of `depth x V` registers, `V` registers of scale and bias, and `R` rows of `V`
    /// registers to write to.
    #[inline(always)]
    unsafe fn run<S: Simd, const V: usize, const R: usize>(self, v: S) {
        // SAFETY: row, depth and column stay below `R`, `depth` and `V`: inside the ranges of this function's contract.
        unsafe {
            let mut sums = [[v.splat(0.0); V]; R];
            let mut panel = self.panel;
            let stream = Stream { panels: [self.panel, self.next], depth: self.depth, width: V * S::LANES };
            for k in 0..self.depth {
                // One row times f32 keeps up with what the third cache gives, and only loses by asking twice.
                if R > 1 || size_of::<W>() < size_of::<f32>() {
                    stream.prefetch(v, k);
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
    fn with<S: Simd, W: Weight, const V: usize>(self, v: S, numbers: &[W]) {
        let Self { panels, rows, target } = self;
        let PanelRun { scale, bias, depth, count, .. } = panels;
        let (width, most) = (V * S::LANES, S::ROWS[4 - V]);
        assert!(numbers.len() >= count * depth * width && scale.len().min(bias.len()) >= count * width);
        assert!(rows.count == 0 || rows.numbers.len() >= (rows.count - 1) * rows.stride + depth);
        assert!(target.holds(count, rows.count, width));
        let out = target.numbers.as_mut_ptr();
        // Loops, not closures: what is not inlined would lose the instruction set.
        for at in 0..count {
            let panel = panels.nth(at);
            let size = depth * width;
            let start = numbers[panel * size..].as_ptr();
            let next = if panels.backwards { start.wrapping_sub(size) } else { start.wrapping_add(size) };
            // Tiles of even height.
            let tiles = rows.count.div_ceil(most);
            let mut first = 0;
            for at in 0..tiles {
                let height = (rows.count - first).div_ceil(tiles - at);
                let tile = Tile {
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
                // SAFETY: the assertions above cover all panels and rows; a height never exceeds `most`.
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
    fn wide<S: Simd, W: Weight>(self, v: S, numbers: &[W]) {
        match self.panels.vectors {
            3 => self.with::<S, W, 3>(v, numbers),
            4 => self.with::<S, W, 4>(v, numbers),
            other => debug_assert!(false, "a panel of {other} registers"),
        }
    }
}

/// Bits under a type that knows how to widen them.
#[inline(always)]
fn bits<T: Bits16>(numbers: &[u16]) -> &[T] {
    const { assert!(size_of::<T>() == size_of::<u16>()) };
    // SAFETY: `T` is transparent over `u16`, by the trait's contract, so the slice is as long and as aligned.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
}

impl Kernel for Product<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match self.panels.source {
            Source::F32(n) => self.wide(v, n),
            Source::F16(n) => self.wide(v, bits::<Half>(n)),
            Source::Bf16(n) => self.wide(v, bits::<Brain>(n)),
            Source::Int8(n) => self.wide(v, n),
            Source::Dot(..) => debug_assert!(false, "integer panels take rounded rows"),
        }
    }
}

impl Kernel for DotProduct<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match (self.panels.source, self.panels.vectors) {
            (Source::Dot(numbers, sums), 3) => self.with::<S, 3>(v, numbers, sums),
            (Source::Dot(numbers, sums), 4) => self.with::<S, 4>(v, numbers, sums),
            _ => debug_assert!(false, "rounded rows take integer panels"),
        }
    }
}

impl DotProduct<'_> {
    #[inline(always)]
    fn with<S: Simd, const V: usize>(self, v: S, numbers: &[i8], sums: &[f32]) {
        let Self { panels, rows, target } = self;
        let PanelRun { scale, bias, depth, count, .. } = panels;
        let (width, fours) = (V * S::LANES, depth.div_ceil(4));
        assert!(numbers.len() >= 4 * count * fours * width);
        assert!([scale, bias, sums].iter().all(|columns| columns.len() >= count * width));
        assert!(target.holds(count, rows.scales.len(), width));
        let out = target.numbers.as_mut_ptr();
        for at in 0..count {
            let panel = panels.nth(at);
            let size = 4 * fours * width;
            let numbers = numbers[panel * size..].as_ptr();
            let next = if panels.backwards { numbers.wrapping_sub(size) } else { numbers.wrapping_add(size) };
            let stream = Stream { panels: [numbers, next], depth: fours, width: 4 * width };
            for (row, (bytes, &row_scale)) in rows.bytes.chunks_exact((2 * fours).max(1)).zip(rows.scales).enumerate() {
                let (high, low) = bytes.split_at(fours);
                let mut high_sums = [v.zero_i32(); V];
                let mut low_sums = [v.zero_i32(); V];
                for (k, (&high, &low)) in high.iter().zip(low).enumerate() {
                    stream.prefetch(v, k);
                    for column in 0..V {
                        // SAFETY: `k` is below `fours` and `column` below `V`: inside the panel.
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
                    // SAFETY: inside the columns and the target by the assertions above.
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

/// Widens panels' numbers, which the product then reads again and again.
pub(super) struct Unpack<'a> {
    pub(super) source: Source<'a>,
    /// Registers of a panel.
    pub(super) vectors: usize,
    pub(super) out: &'a mut [f32],
}

impl Kernel for Unpack<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match self.source {
            Source::F16(numbers) => self.widen(v, bits::<Half>(numbers)),
            Source::Bf16(numbers) => self.widen(v, bits::<Brain>(numbers)),
            Source::Int8(numbers) => self.widen(v, numbers),
            Source::F32(_) | Source::Dot(..) => debug_assert!(false, "nothing to unpack"),
        }
    }
}

impl Unpack<'_> {
    #[inline(always)]
    fn widen<S: Simd, W: Weight>(self, v: S, numbers: &[W]) {
        match self.vectors {
            3 => self.rows::<S, W, 3>(v, numbers),
            4 => self.rows::<S, W, 4>(v, numbers),
            other => debug_assert!(false, "a panel of {other} registers"),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, W: Weight, const V: usize>(self, v: S, numbers: &[W]) {
        let width = V * S::LANES;
        for (numbers, out) in numbers.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            // SAFETY: both are `V` registers long.
            unsafe {
                for (column, weights) in W::load::<S, V>(v, numbers.as_ptr()).into_iter().enumerate() {
                    v.store(out.as_mut_ptr().add(column * S::LANES), weights);
                }
            }
        }
    }
}

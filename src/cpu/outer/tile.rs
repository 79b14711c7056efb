//! Outer products of packed rows, in tiles that fill the registers.
#![allow(unsafe_code)]

use crate::cpu::simd::{Kernel, MOST_LANES, Simd, Tiles};

/// Rows that are packed and summed in registers at once.
pub(super) const DEPTH: usize = 192;
/// Columns per piece of a packed `a`: one cache line.
pub(in crate::cpu) const BLOCK: usize = 16;

/// The registers of `b` in a tile.
pub(super) const fn tile_vectors(tiles: Tiles) -> usize {
    if tiles.registers >= 32 { 3 } else { 2 }
}

/// The rows of a tile: as many as the registers hold, and such that they divide a block.
const fn tile_rows(tiles: Tiles) -> usize {
    if tiles.rows(tile_vectors(tiles), 0) >= 8 { 8 } else { 4 }
}

/// `into += a^T b` of packed rows.
pub(in crate::cpu) struct OuterBlock<'a> {
    pub(in crate::cpu) a: &'a [f32],
    pub(in crate::cpu) b: &'a [f32],
    pub(in crate::cpu) depth: usize,
    /// `[columns of a, width]`
    pub(in crate::cpu) into: &'a mut [f32],
    pub(in crate::cpu) width: usize,
}

/// The operands of a tile and its place in `into`, rows of `width` numbers: the columns from `first` on.
struct TileOperands<'a> {
    a: *const f32,
    b: *const f32,
    depth: usize,
    into: &'a mut [f32],
    width: usize,
    first: usize,
}

impl TileOperands<'_> {
    /// Runs a tile of `R` rows and at most [`tile_vectors`] registers.
    #[inline(always)]
    fn add<S: Simd, const R: usize>(self, v: S, vectors: usize) {
        match vectors {
            1 => v.apart(OuterTile::<1, R>(self)),
            3 if const { tile_vectors(S::TILES) == 3 } => v.apart(OuterTile::<3, R>(self)),
            _ => v.apart(OuterTile::<2, R>(self)),
        }
    }
}

/// Adds `R` rows of `V` registers, or fewer rows at the end of `into`. The last register may be partial. It is compiled as a
/// function of its own.
///
/// Only `OuterBlock` makes one, with pointers to these numbers:
///
/// - `a` to `depth` rows of at least `R` numbers, [`BLOCK`] apart,
/// - `b` to `depth` rows of [`tile_vectors`] registers.
struct OuterTile<'a, const V: usize, const R: usize>(TileOperands<'a>);

impl<const V: usize, const R: usize> Kernel for OuterTile<'_, V, R> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let TileOperands { a, b, depth, into, width, first } = self.0;
        let mut sums = [[v.splat(0.0); V]; R];
        // SAFETY: `k` stays below `depth`, `row` below `R` and `column` below `V`, so every access is inside the rows that the tile
        // promises.
        unsafe {
            for k in 0..depth {
                let (a, b) = (a.add(k * BLOCK), b.add(k * const { tile_vectors(S::TILES) } * S::LANES));
                let mut columns = [v.splat(0.0); V];
                for (column, numbers) in columns.iter_mut().enumerate() {
                    *numbers = v.load(b.add(column * S::LANES));
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let a = v.splat(*a.add(row));
                    for (sum, b) in sums.iter_mut().zip(columns) {
                        *sum = v.fma(a, b, *sum);
                    }
                }
            }
        }
        // Through memory, because the last register may be partial.
        let mut numbers = [[[0.0_f32; MOST_LANES]; V]; R];
        for (numbers, sums) in numbers.iter_mut().zip(sums) {
            for (numbers, sum) in numbers.iter_mut().zip(sums) {
                // SAFETY: no register has more than `MOST_LANES` lanes.
                unsafe { v.store(numbers.as_mut_ptr(), sum) };
            }
        }
        for (into, numbers) in into.chunks_exact_mut(width).zip(&numbers) {
            for (into, numbers) in into[first..].chunks_mut(S::LANES).zip(numbers) {
                into.iter_mut().zip(numbers).for_each(|(into, number)| *into += number);
            }
        }
    }
}

impl Kernel for OuterBlock<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        let Self { a, b, depth, into, width } = self;
        let most_vectors = const { tile_vectors(S::TILES) };
        let panel = most_vectors * S::LANES;
        // Whole rows: a partial row would read a column of `a` that the count below leaves out.
        assert!(width > 0 && into.len().is_multiple_of(width));
        let rows = const { tile_rows(S::TILES) };
        let (blocks, panels) = ((into.len() / width).div_ceil(BLOCK), width.div_ceil(panel));
        assert!(depth <= DEPTH && a.len() >= blocks * DEPTH * BLOCK && b.len() >= panels * DEPTH * panel);
        for (block, into) in into.chunks_mut(BLOCK * width).enumerate() {
            for at in 0..panels {
                let first = at * panel;
                for (tile, into) in into.chunks_mut(rows * width).enumerate() {
                    // By the assertions above, `a` and `b` hold `depth` rows of every block and panel, and the columns of a tile end
                    // inside its block.
                    let a = a[block * DEPTH * BLOCK + tile * rows..].as_ptr();
                    let b = b[at * DEPTH * panel..].as_ptr();
                    let vectors = (width - first).div_ceil(S::LANES).min(most_vectors);
                    let tile = TileOperands { a, b, depth, into, width, first };
                    match const { tile_rows(S::TILES) } {
                        8 => tile.add::<S, 8>(v, vectors),
                        _ => tile.add::<S, 4>(v, vectors),
                    }
                }
            }
        }
    }
}

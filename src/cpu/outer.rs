//! Sums of outer products, `into += a^T b`: the gradient of a matrix.
//!
//! Every element is a sum over blocks of rows in a fixed order, for any number of threads and any share of the columns.

mod tile;

pub(super) use tile::BLOCK;

use super::buffer_cache::{BufferCache, CachedBuffer};
use super::simd::Verified;
use crate::error::Result;
use crate::memory;
use tile::{DEPTH, OuterBlock, tile_vectors};

/// Columns of `a` that are packed at once, so that they stay in the second-level cache, as does `b`.
const COLUMNS: usize = 256;

/// Some rows of the sums `a^T b` for one `a` and several `b`.
pub(super) struct OuterSums<'a> {
    /// The column of `a` that belongs to the first row of the sums.
    pub(super) first: usize,
    pub(super) sums: Vec<OuterSum<'a>>,
}

/// Some rows of one sum, row-major.
pub(super) struct OuterSum<'a> {
    pub(super) into: &'a mut [f32],
    /// Columns of `b`.
    pub(super) width: usize,
}

impl OuterSums<'_> {
    /// Adds the outer products of the rows of `a` with those of each `b`.
    pub(super) fn add<'r>(
        &mut self,
        set: Verified,
        buffers: &BufferCache,
        mut a: impl Iterator<Item = &'r [f32]>,
        b: &mut [impl Iterator<Item = &'r [f32]>],
    ) -> Result<()> {
        let Some(count) = self.sums.first().and_then(|sum| sum.into.len().checked_div(sum.width)) else {
            return Ok(());
        };
        let panel = tile_vectors(set.tiles()) * set.lanes();
        let mut packed_a = PackedColumns::new(buffers, BLOCK, count.min(COLUMNS))?;
        let packed = |sum: &OuterSum<'_>| PackedColumns::new(buffers, panel, sum.width);
        let mut packed_b: Vec<PackedColumns> = self.sums.iter().map(packed).collect::<Result<_>>()?;
        let mut rows: Vec<&[f32]> = memory::room("training", DEPTH)?;
        loop {
            rows.clear();
            rows.extend(a.by_ref().take(DEPTH));
            let depth = rows.len();
            if depth == 0 {
                return Ok(());
            }
            for ((packed, b), sum) in packed_b.iter_mut().zip(&mut *b).zip(&self.sums) {
                packed.pack(b.take(depth).map(|row| &row[..sum.width]));
            }
            for part in (0..count).step_by(COLUMNS) {
                let columns = part..count.min(part + COLUMNS);
                packed_a.pack(rows.iter().map(|row| &row[self.first + columns.start..self.first + columns.end]));
                for (packed, OuterSum { into, width }) in packed_b.iter().zip(&mut self.sums) {
                    let into = &mut into[columns.start * *width..columns.end * *width];
                    set.run(OuterBlock { a: &packed_a.numbers, b: &packed.numbers, depth, into, width: *width });
                }
            }
        }
    }
}

/// Rows cut into pieces of a few columns, `[pieces, DEPTH, width]`. The numbers beyond the last column and row are
/// arbitrary and reach no sum.
struct PackedColumns {
    numbers: CachedBuffer,
    width: usize,
}

impl PackedColumns {
    fn new(buffers: &BufferCache, width: usize, columns: usize) -> Result<Self> {
        Ok(Self { numbers: buffers.take(columns.div_ceil(width) * DEPTH * width)?, width })
    }

    fn pack<'r>(&mut self, rows: impl Iterator<Item = &'r [f32]>) {
        for (k, row) in rows.enumerate() {
            let places = self.numbers.chunks_exact_mut(DEPTH * self.width);
            for (piece, place) in row.chunks(self.width).zip(places) {
                let place = &mut place[k * self.width..][..piece.len()];
                // Whole cache lines are copied by a few instructions, without a call.
                let (lines, rest) = piece.as_chunks::<BLOCK>();
                let (places, rest_place) = place.as_chunks_mut::<BLOCK>();
                places.iter_mut().zip(lines).for_each(|(place, line)| *place = *line);
                rest_place.copy_from_slice(rest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Instructions, MOST_LANES};
    use super::*;

    /// `into + a^T b` in `f64`.
    fn plain(into: &[f32], a: &[Vec<f32>], b: &[Vec<f32>], first: usize, width: usize) -> Vec<f64> {
        let element = |(at, &old): (usize, &f32)| {
            let product = |(a, b): (&Vec<f32>, &Vec<f32>)| f64::from(a[first + at / width]) * f64::from(b[at % width]);
            f64::from(old) + a.iter().zip(b).map(product).sum::<f64>()
        };
        into.iter().enumerate().map(element).collect()
    }

    fn rows(count: usize, width: usize, seed: usize) -> Vec<Vec<f32>> {
        let number = |at: usize| ((at * 7 + seed) as f32 * 0.37).sin();
        (0..count).map(|row| (0..width).map(|column| number(row * width + column)).collect()).collect()
    }

    #[test]
    fn sums_of_outer_products_at_the_edges_of_tiles_and_blocks() {
        for set in Instructions::ALL.into_iter().filter_map(Instructions::verify) {
            for (depth, first, count, width) in [
                (0, 0, 3, 5),
                (1, 0, 1, 1),
                (3, 2, 17, 49),
                (DEPTH, 1, 15, 16),
                (DEPTH + 1, 0, COLUMNS + 3, 33),
                (2 * DEPTH + 5, 4, 24, 97),
            ] {
                let a = rows(depth, first + count + 2, 1);
                let widths = [width, 2 * width + 1];
                let b = widths.map(|width| rows(depth, width, 2 + width));
                let start = |width: usize| -> Vec<f32> { (0..count * width).map(|at| at as f32 * 0.01).collect() };
                let mut into = widths.map(start);
                let sums = into.iter_mut().zip(widths).map(|(into, width)| OuterSum { into, width }).collect();
                let mut iterators = [&b[0], &b[1]].map(|b| b.iter().map(Vec::as_slice));
                let rows_of_a = a.iter().map(Vec::as_slice);
                OuterSums { first, sums }.add(set, &BufferCache::default(), rows_of_a, &mut iterators).expect("room");
                for ((into, width), b) in into.iter().zip(widths).zip(&b) {
                    let expected = plain(&start(width), &a, b, first, width);
                    for (at, (found, expected)) in into.iter().zip(expected).enumerate() {
                        let right = (f64::from(*found) - expected).abs() < 1e-5 * (1.0 + expected.abs());
                        assert!(right, "{} {count}x{width}, {at}: {found} for {expected}", set.set());
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "is_multiple_of")]
    fn a_sum_with_a_partial_row_is_refused() {
        let numbers = vec![0.0; 3 * DEPTH * MOST_LANES];
        let mut into = [0.0; 7];
        let block = OuterBlock { a: &numbers, b: &numbers, depth: 1, into: &mut into, width: 3 };
        Instructions::Portable.verify().expect("any processor").run(block);
    }
}

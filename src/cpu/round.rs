//! A state rounded to 16 bits, for products with 8-bit weights.

use super::product::{OperandRows, RoundedRows};
use super::simd::{Kernel, Simd};

/// Rounds every row to `scale (256 high + low - 32768)` with `scale = max |x| / 32767`, and writes the bytes and the scale. If
/// a row has a NaN or an infinity, its scale is NaN.
pub(super) struct RoundRows<'a> {
    pub(super) rows: OperandRows<'a>,
    pub(super) depth: usize,
    pub(super) bytes: &'a mut [u32],
    pub(super) scales: &'a mut [f32],
}

impl Kernel for RoundRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let words = RoundedRows::words(self.depth);
        for row in 0..self.rows.count {
            let numbers = &self.rows.numbers[row * self.rows.stride..][..self.depth];
            // The bits of a NaN are larger than those of any number. No integer stands for an infinity, so its row becomes NaN,
            // too.
            let most = f32::from_bits(numbers.iter().fold(0, |most, x| x.abs().to_bits().max(most)));
            let scale = if most.is_finite() { most / 32767.0 } else { f32::NAN };
            self.scales[row] = scale;
            // The inverse of a subnormal scale may overflow: such a row is rounded to zeros.
            let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            let (high, low) = self.bytes[row * words..(row + 1) * words].split_at_mut(words / 2);
            for ((four, high), low) in numbers.chunks(4).zip(high).zip(low) {
                let (mut highs, mut lows) = ([128; 4], [0; 4]);
                for ((x, high), low) in four.iter().zip(&mut highs).zip(&mut lows) {
                    // The rounding of the sum leaves the nearest integer plus 32768 in the low bits.
                    let biased = (x * inverse + 12_615_680.0).to_bits().to_le_bytes();
                    (*low, *high) = (biased[0], biased[1]);
                }
                (*high, *low) = (u32::from_le_bytes(highs), u32::from_le_bytes(lows));
            }
        }
    }
}

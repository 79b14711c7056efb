//! A state rounded to 16 bits, for products with 8-bit weights.

use super::product::{OperandRows, RoundedRows};
use super::simd::{Kernel, Simd};

/// Rounds every row to whole multiples of `scale = max |x| / 32767`, and writes them in the set's
/// [`DotOrder`](super::simd::DotOrder) and the scale. If a row has a NaN or an infinity, its scale is NaN.
pub(super) struct RoundRows<'a> {
    pub(super) rows: OperandRows<'a>,
    pub(super) depth: usize,
    pub(super) words: &'a mut [u32],
    pub(super) scales: &'a mut [f32],
}

impl Kernel for RoundRows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let count = RoundedRows::words(self.depth);
        for row in 0..self.rows.count {
            let numbers = &self.rows.numbers[row * self.rows.stride..][..self.depth];
            // The bits of a NaN are larger than those of any number. No integer stands for an infinity, so its row becomes NaN,
            // too.
            let most = f32::from_bits(numbers.iter().fold(0, |most, x| x.abs().to_bits().max(most)));
            let scale = if most.is_finite() { most / 32767.0 } else { f32::NAN };
            self.scales[row] = scale;
            // The inverse of a subnormal scale may overflow: such a row is rounded to zeros.
            let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
            let words = self.words[row * count..(row + 1) * count].chunks_exact_mut(2);
            for (four, words) in numbers.chunks(4).zip(words) {
                // The rounding of the sum leaves the nearest integer plus 32768 in the low bits.
                let mut rounded = [0x8000; 4];
                four.iter().zip(&mut rounded).for_each(|(x, to)| *to = (x * inverse + 12_615_680.0).to_bits() as u16);
                words.copy_from_slice(&S::DOT.words(rounded));
            }
        }
    }
}

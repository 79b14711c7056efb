//! Weights in their storage types, and how registers read them.
#![allow(unsafe_code)]

use super::simd::{Kernel, Simd};

/// The weights of some strips, `[strips, depth, width]`.
#[derive(Clone, Copy)]
pub(super) enum PanelWeights<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Bf16(&'a [u16]),
    Int8(&'a [i8]),
    /// `[strips, depth / 4, registers]` blocks in the set's [`DotOrder`](super::simd::DotOrder), and the sum of every column.
    Dot(&'a [i8], &'a [f32]),
}

/// Consecutive strips of weights, ready to be multiplied. A strip is as many registers wide as the set's tiles.
#[derive(Clone, Copy)]
pub(super) struct PanelSlice<'a> {
    pub(super) weights: PanelWeights<'a>,
    /// `[strips, width]`
    pub(super) scale: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) depth: usize,
    /// Registers per row of a strip: [`Verified::strip`](super::simd::Verified::strip) says how many the set's tiles take.
    pub(super) vectors: usize,
    /// Strips.
    pub(super) count: usize,
    /// Whether the strips are multiplied from the last to the first.
    pub(super) last_first: bool,
}

impl PanelSlice<'_> {
    /// The first of `strips` strips that come from the `at`th on in the order of multiplication.
    #[inline(always)]
    pub(super) fn first(&self, at: usize, strips: usize) -> usize {
        if self.last_first { self.count - at - strips } else { at }
    }
}

/// A weight in its storage type.
///
/// # Safety
/// `load` reads no more than `V * LANES` numbers: kernels size their panels by it.
pub(super) unsafe trait StoredWeight: Copy {
    /// The type's position in [`Tiles::widening`](super::simd::Tiles::widening); `None` if it is not widened.
    const WIDENING: Option<usize>;

    /// Loads a row of a strip into `V` registers.
    ///
    /// # Safety
    /// `at` points to `V` times [`Simd::LANES`] readable numbers.
    unsafe fn load<S: Simd, const V: usize>(v: S, at: *const Self) -> [S::F; V];
}

/// A weight of 16 bits.
///
/// # Safety
/// The type is `repr(transparent)` over `u16`.
pub(super) unsafe trait Bits16: StoredWeight {}

/// The bits of an IEEE 16-bit float.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct F16Bits(#[allow(dead_code, reason = "read through a pointer")] u16);

/// The bits of a bf16, the upper half of a 32-bit float. Pairs of registers are interleaved: see [`interleaved`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Bf16Bits(#[allow(dead_code, reason = "read through a pointer")] u16);

// SAFETY: the type is transparent over `u16`.
unsafe impl Bits16 for F16Bits {}
// SAFETY: the type is transparent over `u16`.
unsafe impl Bits16 for Bf16Bits {}

/// The position of a column in a row of a bf16 strip. Two registers share 32-bit words, so that a shift and a mask widen both;
/// an odd last register is stored by itself.
pub(super) fn interleaved(column: usize, vectors: usize, lanes: usize) -> usize {
    let (vector, lane) = (column / lanes, column % lanes);
    if vector / 2 * 2 + 1 < vectors { vector / 2 * 2 * lanes + 2 * lane + vector % 2 } else { column }
}

macro_rules! weight {
    ($($number:ty: $load:ident as $stored:ty, $widening:expr;)*) => {$(
        // SAFETY: `load` reads `V` consecutive registers.
        unsafe impl StoredWeight for $number {
            const WIDENING: Option<usize> = $widening;

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
weight! {
    f32: load as f32, None;
    F16Bits: load_f16 as u16, Some(0);
    i8: load_i8 as i8, Some(2);
}

// SAFETY: `load` reads `V` consecutive registers, two at a time and an odd last one by itself.
unsafe impl StoredWeight for Bf16Bits {
    const WIDENING: Option<usize> = Some(1);

    #[inline(always)]
    unsafe fn load<S: Simd, const V: usize>(v: S, at: *const Self) -> [S::F; V] {
        let mut row = [v.splat(0.0); V];
        for pair in 0..V / 2 {
            // SAFETY: `at` points to `V * LANES` numbers, and pair `pair` ends with register `2 * pair + 1`, below `V`.
            // A register of 32-bit words is as long as two registers of 16-bit numbers.
            [row[2 * pair], row[2 * pair + 1]] = unsafe { v.load_bf16_pair(at.add(2 * pair * S::LANES).cast()) };
        }
        if V % 2 == 1 {
            // SAFETY: `at` points to `V * LANES` numbers, of which these are the last `LANES`.
            row[V - 1] = unsafe { v.load_bf16(at.add((V - 1) * S::LANES).cast()) };
        }
        row
    }
}

/// Views 16-bit words as a type that knows how to widen them.
#[inline(always)]
pub(super) fn bits<T: Bits16>(numbers: &[u16]) -> &[T] {
    const { assert!(size_of::<T>() == size_of::<u16>()) };
    // SAFETY: `T` is transparent over `u16`, by the contract of `Bits16`, so both slices have the same length and alignment.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), numbers.len()) }
}

/// Widens panels to `f32`, for products that read them many times.
pub(super) struct UnpackPanels<'a> {
    pub(super) weights: PanelWeights<'a>,
    /// Registers per row of a strip.
    pub(super) vectors: usize,
    pub(super) out: &'a mut [f32],
}

impl Kernel for UnpackPanels<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, v: S) {
        match self.weights {
            PanelWeights::F16(numbers) => self.widen(v, bits::<F16Bits>(numbers)),
            PanelWeights::Bf16(numbers) => self.widen(v, bits::<Bf16Bits>(numbers)),
            PanelWeights::Int8(numbers) => self.widen(v, numbers),
            PanelWeights::F32(_) | PanelWeights::Dot(..) => debug_assert!(false, "nothing to unpack"),
        }
    }
}

impl UnpackPanels<'_> {
    #[inline(always)]
    fn widen<S: Simd, W: StoredWeight>(self, v: S, numbers: &[W]) {
        match self.vectors {
            2 => self.rows::<S, W, 2>(v, numbers),
            3 => self.rows::<S, W, 3>(v, numbers),
            4 => self.rows::<S, W, 4>(v, numbers),
            other => debug_assert!(false, "a strip of {other} registers"),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, W: StoredWeight, const V: usize>(self, v: S, numbers: &[W]) {
        let width = V * S::LANES;
        for (numbers, out) in numbers.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            // SAFETY: both slices are `V` registers long.
            unsafe {
                for (column, weights) in W::load::<S, V>(v, numbers.as_ptr()).into_iter().enumerate() {
                    v.store(out.as_mut_ptr().add(column * S::LANES), weights);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::simd::Instructions;
    use super::*;

    #[test]
    fn every_16_bit_number_is_widened_exactly() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        for set in Instructions::ALL.into_iter().filter_map(Instructions::verify) {
            let (vectors, lanes) = (set.strip(4), set.lanes());
            let widen = |weights| {
                let mut out = vec![0.0_f32; all.len()];
                set.run(UnpackPanels { weights, vectors, out: &mut out });
                out
            };
            let same = |found: f32, expected: f32| {
                found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan()
            };
            for (&bits, found) in all.iter().zip(widen(PanelWeights::F16(&all))) {
                let expected = f16::from_bits(bits).to_f32();
                assert!(same(found, expected), "{}: f16 {bits:#x} becomes {found}, not {expected}", set.set());
            }
            for (column, found) in widen(PanelWeights::Bf16(&all)).into_iter().enumerate() {
                let row = column / (vectors * lanes) * vectors * lanes;
                let bits = all[row + interleaved(column - row, vectors, lanes)];
                let expected = bf16::from_bits(bits).to_f32();
                assert!(same(found, expected), "{}: bf16 {bits:#x} becomes {found}, not {expected}", set.set());
            }
        }
    }
}

//! Four lanes in plain Rust, which the compiler turns into the target's short vectors if it has any.

use super::{DotOrder, Kernel, Simd, Tiles};

/// Registers in plain Rust, for any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable;

const LANES: usize = 4;

#[inline(always)]
fn map2(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

/// # Safety
/// `at` points to [`LANES`] readable numbers.
#[inline(always)]
unsafe fn read<T: Copy>(at: *const T) -> [T; LANES] {
    // SAFETY: `at` points to `LANES` readable numbers, by this function's contract; it need not be aligned.
    unsafe { at.cast::<[T; LANES]>().read_unaligned() }
}

/// The value of a 16-bit float. The exponent is shifted into place, and a product with 2^112 corrects its bias and makes
/// subnormal numbers normal. An exponent of 31 marks infinities and NaNs.
#[inline(always)]
fn widen_f16(bits: u16) -> f32 {
    let (sign, rest) = (u32::from(bits & 0x8000) << 16, u32::from(bits & 0x7fff) << 13);
    let scaled = (f32::from_bits(rest) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if rest >= 0x7c00 << 13 { rest | 0x7f80_0000 } else { scaled };
    f32::from_bits(special | sign)
}

// SAFETY: `F` has `LANES` lanes, and no method reads or writes more than its contract allows.
unsafe impl Simd for Portable {
    type F = [f32; LANES];
    type Dot = [f32; LANES];
    const LANES: usize = LANES;
    const TILES: Tiles = Tiles { registers: 16, beside: 2, strip: 2, chains: 4, widening: [6, 1, 2], dot: 2 };
    const DOT: DotOrder = DotOrder::Singles;

    #[inline(never)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> Self::F {
        // SAFETY: `at` points to `LANES` readable numbers, by the trait's contract.
        unsafe { read(at) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32, x: Self::F) {
        // SAFETY: `at` points to `LANES` writable numbers, by the trait's contract; it need not be aligned.
        unsafe { at.cast::<Self::F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u16) -> Self::F {
        // SAFETY: `at` points to `LANES` readable numbers, by the trait's contract.
        unsafe { read(at) }.map(widen_f16)
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u16) -> Self::F {
        // SAFETY: `at` points to `LANES` readable numbers, by the trait's contract.
        unsafe { read(at) }.map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    unsafe fn load_bf16_pair(self, at: *const u32) -> [Self::F; 2] {
        // SAFETY: `at` points to `LANES` readable numbers, by the trait's contract.
        let words = unsafe { read(at) };
        [words.map(|bits| f32::from_bits(bits << 16)), words.map(|bits| f32::from_bits(bits & 0xffff_0000))]
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const i8) -> Self::F {
        // SAFETY: `at` points to `LANES` readable numbers, by the trait's contract.
        unsafe { read(at) }.map(f32::from)
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // Not `mul_add`: without a fused instruction it calls the C library.
        map2(map2(a, b, |a, b| a * b), c, |ab, c| ab + c)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn reciprocal(self, x: Self::F) -> Self::F {
        x.map(|x| 1.0 / x)
    }
    #[inline(always)]
    fn power_of_two(self, biased: Self::F) -> Self::F {
        biased.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(0x3f80_0000)))
    }

    #[inline(always)]
    fn zero_dot(self) -> Self::Dot {
        [0.0; LANES]
    }
    #[inline(always)]
    unsafe fn dot(self, sum: Self::Dot, [early, late]: [u32; 2], w: *const i8) -> Self::Dot {
        let mut sum = sum;
        for (k, x) in [early as i16, (early >> 16) as i16, late as i16, (late >> 16) as i16].into_iter().enumerate() {
            // SAFETY: `w` points to `4 * LANES` readable bytes, by the trait's contract, and `k` is below 4.
            let w = unsafe { self.load_i8(w.add(k * LANES)) };
            sum = self.fma(self.splat(f32::from(x)), w, sum);
        }
        sum
    }
    #[inline(always)]
    fn dot_sum(self, sum: Self::Dot) -> Self::F {
        sum
    }
}

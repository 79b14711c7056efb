//! 64-bit x86: sixteen lanes with AVX-512, eight with AVX2.

use std::arch::x86_64::*;

use super::{Kernel, Simd};

/// The body of a method, in intrinsics.
macro_rules! x86 {
    ($body:expr) => {
        // SAFETY: a value of the set's type exists only if `available` has found every feature of the set. The pointers point
        // to as many numbers as the contract of the trait's method demands of its caller.
        unsafe { $body }
    };
}

/// Declares a set by its features, so that a kernel is compiled with exactly the features that `available` looks for.
macro_rules! set {
    ($(#[$doc:meta])* $set:ident: $($feature:tt),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(super) struct $set(());

        impl $set {
            pub(super) fn available() -> bool {
                $(is_x86_feature_detected!($feature))&&+
            }

            /// # Safety
            /// [`Self::available`] has returned true: the processor has every feature of the set.
            pub(super) unsafe fn verified() -> Self {
                Self(())
            }

            pub(super) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
                $(#[target_feature(enable = $feature)])+
                fn inside<K: Kernel>(simd: $set, kernel: K) -> K::Output {
                    kernel.run(simd)
                }
                x86!(inside(self, kernel))
            }
        }
    };
}

set! {
    /// AVX-512.
    Avx512: "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx2", "fma", "f16c"
}

// SAFETY: `F` and `I` have `LANES` lanes, and no method reads or writes more than its contract allows.
unsafe impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const LANES: usize = 16;
    const ROWS: [usize; 2] = [6, 8];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        x86!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        x86!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> Self::F {
        x86!(_mm512_loadu_ps(at))
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32, x: Self::F) {
        x86!(_mm512_storeu_ps(at, x))
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u16) -> Self::F {
        x86!(_mm512_cvtph_ps(_mm256_loadu_si256(at.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u16) -> Self::F {
        x86!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast())))))
    }
    #[inline(always)]
    unsafe fn load_bf16_pair(self, at: *const u32) -> [Self::F; 2] {
        x86!({
            let words = _mm512_loadu_si512(at.cast());
            let upper = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(upper)]
        })
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const i8) -> Self::F {
        x86!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(at.cast()))))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        x86!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm512_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn reciprocal(self, x: Self::F) -> Self::F {
        // 14 bits of precision from the instruction, doubled by one step of Newton's method: y + y (1 - x y).
        x86!({
            let y = _mm512_rcp14_ps(x);
            _mm512_fmadd_ps(y, _mm512_fnmadd_ps(x, y, _mm512_set1_ps(1.0)), y)
        })
    }
    #[inline(always)]
    fn power_of_two(self, biased: Self::F) -> Self::F {
        x86!({
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(biased));
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f80_0000)))
        })
    }

    #[inline(always)]
    fn zero_i32(self) -> Self::I {
        x86!(_mm512_setzero_si512())
    }
    #[inline(always)]
    unsafe fn dot_bytes(self, sum: Self::I, a: u32, w: *const i8) -> Self::I {
        x86!(_mm512_dpbusd_epi32(sum, _mm512_set1_epi32(a.cast_signed()), _mm512_loadu_si512(w.cast())))
    }
    #[inline(always)]
    fn to_float(self, x: Self::I) -> Self::F {
        x86!(_mm512_cvtepi32_ps(x))
    }
}

set! {
    /// AVX2 with FMA and F16C.
    Avx2: "avx2", "fma", "f16c"
}

// SAFETY: `F` and `I` have `LANES` lanes, and no method reads or writes more than its contract allows.
unsafe impl Simd for Avx2 {
    type F = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const ROWS: [usize; 2] = [3, 4];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        x86!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn prefetch(self, at: *const u8) {
        x86!(_mm_prefetch::<_MM_HINT_T0>(at.cast()))
    }
    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> Self::F {
        x86!(_mm256_loadu_ps(at))
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32, x: Self::F) {
        x86!(_mm256_storeu_ps(at, x))
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u16) -> Self::F {
        x86!(_mm256_cvtph_ps(_mm_loadu_si128(at.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u16) -> Self::F {
        x86!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())))))
    }
    #[inline(always)]
    unsafe fn load_bf16_pair(self, at: *const u32) -> [Self::F; 2] {
        x86!({
            let words = _mm256_loadu_si256(at.cast());
            let upper = _mm256_and_si256(words, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
            [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)), _mm256_castsi256_ps(upper)]
        })
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const i8) -> Self::F {
        x86!(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(at.cast()))))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        x86!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm256_min_ps(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        x86!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn reciprocal(self, x: Self::F) -> Self::F {
        x86!(_mm256_div_ps(_mm256_set1_ps(1.0), x))
    }
    #[inline(always)]
    fn power_of_two(self, biased: Self::F) -> Self::F {
        x86!({
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(biased));
            _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f80_0000)))
        })
    }

    #[inline(always)]
    fn zero_i32(self) -> Self::I {
        x86!(_mm256_setzero_si256())
    }
    #[inline(always)]
    unsafe fn dot_bytes(self, sum: Self::I, a: u32, w: *const i8) -> Self::I {
        // `maddubs` would saturate: bytes of even and of odd index are widened to 16 bits and multiplied there.
        x86!({
            let w = _mm256_loadu_si256(w.cast());
            let a = _mm256_set1_epi32(a.cast_signed());
            let (w_even, w_odd) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w));
            let (a_even, a_odd) = (_mm256_and_si256(a, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(a));
            let products = _mm256_add_epi32(_mm256_madd_epi16(a_even, w_even), _mm256_madd_epi16(a_odd, w_odd));
            _mm256_add_epi32(sum, products)
        })
    }
    #[inline(always)]
    fn to_float(self, x: Self::I) -> Self::F {
        x86!(_mm256_cvtepi32_ps(x))
    }
}

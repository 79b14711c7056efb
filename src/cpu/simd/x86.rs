//! 64-bit x86: sixteen lanes with AVX-512, eight with AVX2.

use std::arch::x86_64::*;

use super::{DotOrder, Kernel, Simd, Tiles};

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

// SAFETY: `F` has `LANES` lanes, and no method reads or writes more than its contract allows.
unsafe impl Simd for Avx512 {
    type F = __m512;
    /// Sums of the high and of the low bytes.
    type Dot = [__m512i; 2];
    const LANES: usize = 16;
    const TILES: Tiles = Tiles { registers: 32, beside: 1, strip: 4, chains: 8, widening: [0, 1, 0], dot: 2 };
    const DOT: DotOrder = DotOrder::Bytes;

    // The compiler ignores `inline(never)` at a function with target features, but inlines none into a function without them.
    #[inline(never)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        self.enter(kernel)
    }
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
    fn zero_dot(self) -> Self::Dot {
        x86!([_mm512_setzero_si512(); 2])
    }
    #[inline(always)]
    unsafe fn dot(self, [high, low]: Self::Dot, x: [u32; 2], w: *const i8) -> Self::Dot {
        x86!({
            let w = _mm512_loadu_si512(w.cast());
            let [x_high, x_low] = x.map(|x| _mm512_set1_epi32(x.cast_signed()));
            [_mm512_dpbusd_epi32(high, x_high, w), _mm512_dpbusd_epi32(low, x_low, w)]
        })
    }
    #[inline(always)]
    fn dot_sum(self, [high, low]: Self::Dot) -> Self::F {
        x86!(_mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(256.0), _mm512_cvtepi32_ps(low)))
    }
}

set! {
    /// AVX2 with FMA and F16C.
    Avx2: "avx2", "fma", "f16c"
}

// SAFETY: `F` has `LANES` lanes, and no method reads or writes more than its contract allows.
unsafe impl Simd for Avx2 {
    type F = __m256;
    type Dot = __m256i;
    const LANES: usize = 8;
    const TILES: Tiles = Tiles { registers: 16, beside: 1, strip: 2, chains: 8, widening: [0, 1, 0], dot: 1 };
    const DOT: DotOrder = DotOrder::Pairs;

    // The compiler ignores `inline(never)` at a function with target features, but inlines none into a function without them.
    #[inline(never)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        self.enter(kernel)
    }
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
    fn zero_dot(self) -> Self::Dot {
        x86!(_mm256_setzero_si256())
    }
    #[inline(always)]
    unsafe fn dot(self, sum: Self::Dot, x: [u32; 2], w: *const i8) -> Self::Dot {
        // `maddubs` would saturate: the weights are widened to 16 bits.
        x86!({
            let [early, late] = x.map(|x| _mm256_set1_epi32(x.cast_signed()));
            let early_w = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.cast()));
            let late_w = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(16).cast()));
            let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(early, early_w));
            _mm256_add_epi32(sum, _mm256_madd_epi16(late, late_w))
        })
    }
    #[inline(always)]
    fn dot_sum(self, sum: Self::Dot) -> Self::F {
        x86!(_mm256_cvtepi32_ps(sum))
    }
}

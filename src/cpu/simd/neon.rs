//! 64-bit ARM: four lanes, 32 registers.

use std::arch::aarch64::*;

use super::{Kernel, Simd};

/// NEON, which every 64-bit ARM has.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn available() -> bool {
        std::arch::is_aarch64_feature_detected!("neon")
    }

    /// # Safety
    /// [`Self::available`] has returned true: the processor has NEON.
    pub(super) unsafe fn verified() -> Self {
        Self(())
    }

    pub(super) fn enter<K: Kernel>(self, kernel: K) -> K::Output {
        // NEON is part of the target's baseline, so no `#[target_feature]` is needed.
        kernel.run(self)
    }
}

/// The body of a method, in intrinsics.
macro_rules! neon {
    ($body:expr) => {
        // SAFETY: a `Neon` exists only if `available` has found the feature. The pointers point to as many numbers as the
        // contract of the trait's method demands of its caller.
        #[allow(unused_unsafe, reason = "most intrinsics are safe if their feature is on")]
        unsafe {
            $body
        }
    };
}

// SAFETY: `F` and `I` have `LANES` lanes, and no method reads or writes more than its contract allows.
unsafe impl Simd for Neon {
    type F = float32x4_t;
    type I = int32x4_t;
    const LANES: usize = 4;
    const ROWS: [usize; 2] = [6, 8];

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        neon!(vdupq_n_f32(x))
    }
    #[inline(always)]
    unsafe fn load(self, at: *const f32) -> Self::F {
        neon!(vld1q_f32(at))
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32, x: Self::F) {
        neon!(vst1q_f32(at, x))
    }
    #[inline(always)]
    unsafe fn load_f16(self, at: *const u16) -> Self::F {
        // The intrinsic on `f16` is not stable. So the exponent is shifted into place, and a product with 2^112 corrects its
        // bias and makes subnormal numbers normal. An exponent of 31 marks infinities and NaNs.
        neon!({
            let half = vmovl_u16(vld1_u16(at));
            let sign = vshlq_n_u32::<16>(vandq_u32(half, vdupq_n_u32(0x8000)));
            let rest = vshlq_n_u32::<13>(vandq_u32(half, vdupq_n_u32(0x7fff)));
            let scaled = vmulq_f32(vreinterpretq_f32_u32(rest), vdupq_n_f32(f32::from_bits(0x7780_0000)));
            let special = vcgeq_u32(rest, vdupq_n_u32(0x7c00 << 13));
            let bits = vbslq_u32(special, vorrq_u32(rest, vdupq_n_u32(0x7f80_0000)), vreinterpretq_u32_f32(scaled));
            vreinterpretq_f32_u32(vorrq_u32(bits, sign))
        })
    }
    #[inline(always)]
    unsafe fn load_bf16(self, at: *const u16) -> Self::F {
        neon!(vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(at))))
    }
    #[inline(always)]
    unsafe fn load_bf16_pair(self, at: *const u32) -> [Self::F; 2] {
        neon!({
            let words = vld1q_u32(at);
            let upper = vandq_u32(words, vdupq_n_u32(0xffff_0000));
            [vreinterpretq_f32_u32(vshlq_n_u32::<16>(words)), vreinterpretq_f32_u32(upper)]
        })
    }
    #[inline(always)]
    unsafe fn load_i8(self, at: *const i8) -> Self::F {
        neon!({
            let bytes = vreinterpret_s8_u32(vdup_n_u32(at.cast::<u32>().read_unaligned()));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))))
        })
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        neon!(vaddq_f32(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        neon!(vsubq_f32(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        neon!(vmulq_f32(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        neon!(vfmaq_f32(c, a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        neon!(vminq_f32(a, b))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        neon!(vmaxq_f32(a, b))
    }
    #[inline(always)]
    fn reciprocal(self, x: Self::F) -> Self::F {
        neon!(vdivq_f32(vdupq_n_f32(1.0), x))
    }
    #[inline(always)]
    fn power_of_two(self, biased: Self::F) -> Self::F {
        neon!({
            let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(biased));
            vreinterpretq_f32_s32(vaddq_s32(exponent, vdupq_n_s32(0x3f80_0000)))
        })
    }

    #[inline(always)]
    fn zero_i32(self) -> Self::I {
        neon!(vdupq_n_s32(0))
    }
    #[inline(always)]
    unsafe fn dot_bytes(self, sum: Self::I, a: u32, w: *const i8) -> Self::I {
        neon!({
            let w = vld1q_s8(w);
            let a = vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(a))));
            // Four products per lane, which two rounds of pairwise sums reduce to one number per lane.
            let products = |w: int8x8_t| {
                let w = vmovl_s8(w);
                vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(w)), vmull_s16(vget_high_s16(a), vget_high_s16(w)))
            };
            vaddq_s32(sum, vpaddq_s32(products(vget_low_s8(w)), products(vget_high_s8(w))))
        })
    }
    #[inline(always)]
    fn to_float(self, x: Self::I) -> Self::F {
        neon!(vcvtq_f32_s32(x))
    }
}

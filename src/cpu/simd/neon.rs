//! 64-bit ARM: four lanes, 32 registers.

use std::arch::aarch64::*;

use super::{DotOrder, Kernel, Simd, Tiles};

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

// SAFETY: `F` has `LANES` lanes, and no method reads or writes more than its contract allows.
unsafe impl Simd for Neon {
    type F = float32x4_t;
    /// Sums of the first half's and of the second half's lanes: two per lane, of two numbers of the depth.
    type Dot = [int32x4_t; 2];
    const LANES: usize = 4;
    const TILES: Tiles = Tiles { registers: 32, beside: 1, strip: 4, chains: 16, widening: [4, 4, 4], dot: 2 };
    const DOT: DotOrder = DotOrder::Pairs;

    #[inline(never)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
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
        // The intrinsic on `f16` is not stable, but its instruction is one of every 64-bit ARM.
        neon!({
            let wide: float32x4_t;
            std::arch::asm!(
                "fcvtl {wide:v}.4s, {half:v}.4h",
                wide = lateout(vreg) wide,
                half = in(vreg) vld1_u16(at),
                options(pure, nomem, nostack, preserves_flags)
            );
            wide
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
    fn zero_dot(self) -> Self::Dot {
        neon!([vdupq_n_s32(0); 2])
    }
    #[inline(always)]
    unsafe fn dot(self, [first, second]: Self::Dot, x: [u32; 2], w: *const i8) -> Self::Dot {
        neon!({
            let w = vld1q_s8(w);
            let [early, late] = x.map(|x| vreinterpretq_s16_u32(vdupq_n_u32(x)));
            let (early_w, late_w) = (vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w));
            let first = vmlal_s16(first, vget_low_s16(early_w), vget_low_s16(early));
            let second = vmlal_high_s16(second, early_w, early);
            let first = vmlal_s16(first, vget_low_s16(late_w), vget_low_s16(late));
            [first, vmlal_high_s16(second, late_w, late)]
        })
    }
    #[inline(always)]
    fn dot_sum(self, [first, second]: Self::Dot) -> Self::F {
        neon!(vcvtq_f32_s32(vpaddq_s32(first, second)))
    }
}

//! Vector registers behind one trait, and the choice of an instruction set at run time.
//!
//! A kernel is written once, generic over [`Simd`], and compiled for every instruction set. [`Verified::run`] enters the copy
//! for its set. Every function below that entry must be `#[inline(always)]`, so that it is compiled with the set's features.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;

use crate::error::{Error, Result};

/// The most lanes that a register of any instruction set has.
pub(super) const MOST_LANES: usize = 16;

/// Registers of `f32` lanes. A value of an implementing type is the proof that the processor has its instructions.
///
/// In [`Simd::min`] and [`Simd::max`] a NaN of the second operand wins, so that clamping `x` as
/// `min(high, max(low, x))` keeps a NaN.
///
/// # Safety
/// Kernels rely on these sizes when they read and write through pointers. An implementation upholds them:
///
/// - `LANES` is the number of lanes of `F` and of `I`, at most [`MOST_LANES`].
/// - `load`, `load_*` and `store` touch no more than `LANES` numbers.
/// - `dot_bytes` touches no more than `4 * LANES` bytes.
pub(super) unsafe trait Simd: Copy {
    /// A register of `f32`.
    type F: Copy;
    /// A register of `i32`, with as many lanes.
    type I: Copy;
    /// Lanes of a register, at most [`MOST_LANES`].
    const LANES: usize;
    /// The most rows of a tile with 4 and with 3 accumulators per row, such that accumulators and operands fit in
    /// registers.
    const ROWS: [usize; 2];

    fn splat(self, x: f32) -> Self::F;
    /// Prefetches the cache line at an address. Any address is allowed, because the program reads nothing.
    fn prefetch(self, at: *const u8) {
        let _ = at;
    }
    /// # Safety
    /// `at` points to [`Simd::LANES`] readable numbers; no alignment is asked for.
    unsafe fn load(self, at: *const f32) -> Self::F;
    /// # Safety
    /// `at` points to [`Simd::LANES`] writable numbers; no alignment is asked for.
    unsafe fn store(self, at: *mut f32, x: Self::F);
    /// Loads 16-bit floats and widens them.
    /// # Safety
    /// `at` points to [`Simd::LANES`] readable numbers.
    unsafe fn load_f16(self, at: *const u16) -> Self::F;
    /// Loads bf16 numbers and widens them.
    /// # Safety
    /// `at` points to [`Simd::LANES`] readable numbers.
    unsafe fn load_bf16(self, at: *const u16) -> Self::F;
    /// Loads two registers of bf16 numbers from 32-bit words: the lower halves, then the upper ones.
    /// # Safety
    /// `at` points to [`Simd::LANES`] readable words.
    unsafe fn load_bf16_pair(self, at: *const u32) -> [Self::F; 2];
    /// Loads 8-bit integers and widens them.
    /// # Safety
    /// `at` points to [`Simd::LANES`] readable numbers.
    unsafe fn load_i8(self, at: *const i8) -> Self::F;

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a b + c`, fused if the processor can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `1 / x` within 2 ulp, for `x` in `[1, 1e38]`.
    fn reciprocal(self, x: Self::F) -> Self::F;
    /// `2^n` for a lane that holds `1.5 * 2^23 + n` with `n` in `[-126, 127]`.
    fn power_of_two(self, biased: Self::F) -> Self::F;

    fn zero_i32(self) -> Self::I;
    /// Adds to every lane the sum of four products: the unsigned bytes of `a` with the lane's four signed bytes at `w`.
    /// # Safety
    /// `w` points to `4 *` [`Simd::LANES`] readable bytes.
    unsafe fn dot_bytes(self, sum: Self::I, a: u32, w: *const i8) -> Self::I;
    fn to_float(self, x: Self::I) -> Self::F;
}

/// Work that is compiled for every instruction set. `run` must be `#[inline(always)]`.
pub(super) trait Kernel {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The instruction sets that the CPU path is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Instructions {
    /// AVX-512 (F, BW, DQ, VL, VNNI) with AVX2, FMA and F16C: Intel servers from Ice Lake on, AMD from Zen 4 on.
    Avx512,
    /// AVX2, FMA and F16C.
    Avx2,
    /// NEON, 64-bit ARM.
    Neon,
    /// Any processor.
    Portable,
}

impl Instructions {
    /// Every set, fastest first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Portable];

    /// The fastest set that this processor has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().find(|set| set.available()).unwrap_or(Self::Portable)
    }

    /// Whether this processor has the set.
    pub fn available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::Avx512::available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::Avx2::available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => neon::Neon::available(),
            Self::Portable => true,
            #[allow(unreachable_patterns, reason = "which sets exist depends on the target")]
            _ => false,
        }
    }

    /// `"avx512"`, `"avx2"`, `"neon"` or `"portable"`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// Checks that this processor has the set.
    pub(super) fn verify(self) -> Result<Verified> {
        if self.available() {
            return Ok(Verified(self));
        }
        Err(Error::Unsupported {
            op: "Device::cpu_with",
            option: format!("instructions {self}"),
            by: "by this processor",
        })
    }
}

/// An instruction set that the processor has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verified(Instructions);

impl Verified {
    /// The fastest set.
    pub(super) fn detect() -> Self {
        Self(Instructions::detect())
    }

    pub(super) fn set(self) -> Instructions {
        self.0
    }

    /// Lanes of a register.
    pub(super) fn lanes(self) -> usize {
        struct Lanes;
        impl Kernel for Lanes {
            type Output = usize;
            #[inline(always)]
            fn run<S: Simd>(self, _: S) -> usize {
                S::LANES
            }
        }
        self.run(Lanes)
    }

    /// Runs the copy of a kernel that was compiled for this set.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            // SAFETY: the processor has the set: only `verify` and `detect` make a `Verified`, and both ask `available`.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { x86::Avx512::verified() }.enter(kernel),
            // SAFETY: the processor has the set: only `verify` and `detect` make a `Verified`, and both ask `available`.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { x86::Avx2::verified() }.enter(kernel),
            // SAFETY: the processor has the set: only `verify` and `detect` make a `Verified`, and both ask `available`.
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => unsafe { neon::Neon::verified() }.enter(kernel),
            _ => kernel.run(portable::Portable),
        }
    }
}

impl fmt::Display for Instructions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

//! Vector registers behind one trait, and the choice of an instruction set at run time.
//!
//! A kernel is written once, generic over [`Simd`], and compiled for every instruction set. [`Verified::run`] enters the copy
//! for its set. Every function below that entry must be `#[inline(always)]`, so that it is compiled with the set's features.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod neon;
mod part;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;

pub(super) use part::{load_part, store_part};

/// The most lanes that a register of any instruction set has.
pub(super) const MOST_LANES: usize = 16;

/// The register file of an instruction set, from which the tiles of its products follow. A tile multiplies some rows of an
/// operand by some registers of weights. Its sums and operands fit in the registers, so that its loop needs no stack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles {
    /// Registers.
    pub(super) registers: usize,
    /// Registers that a multiplication needs beside sums and weights: the operand, and without a fused multiply-add a product.
    pub(super) beside: usize,
    /// Registers of the strips in which panels of 4 registers are stored. Panels of 3 registers are one strip.
    pub(super) strip: usize,
    /// Independent sums that hide the latency of a multiply-add.
    pub(super) chains: usize,
    /// Registers that it takes to widen weights in f16, bf16 and int8, beside those of the weights.
    pub(super) widening: [usize; 3],
    /// Registers that a sum of products with 8-bit weights and its operands take.
    pub(super) dot: usize,
}

/// The most rows of a tile.
pub(super) const MOST_ROWS: usize = 8;
/// The most strips that a tile multiplies at once.
pub(super) const MOST_STRIPS: usize = 4;

impl Tiles {
    /// Registers of the strips in which a panel of `vectors` registers is stored.
    pub(super) const fn strip(self, vectors: usize) -> usize {
        if vectors == 4 { self.strip } else { vectors }
    }

    /// Registers that it takes to widen weights of the type at this position of [`Tiles::widening`].
    pub(super) const fn spare(self, widening: Option<usize>) -> usize {
        match widening {
            Some(at) => self.widening[at],
            None => 0,
        }
    }

    /// The most rows of a tile that multiplies a strip of `vectors` registers, if loading it takes `spare` more registers.
    pub(super) const fn rows(self, vectors: usize, spare: usize) -> usize {
        let rows = (self.registers - self.beside - spare - vectors) / vectors;
        if rows < MOST_ROWS { rows } else { MOST_ROWS }
    }

    /// The strips of `vectors` registers of 8-bit weights that a rounded row is multiplied by at once.
    pub(super) const fn dot_strips(self, vectors: usize) -> usize {
        // The rounded numbers and the widened weights take 4 registers.
        self.strips(self.dot * vectors, 1, 4)
    }

    /// The strips of `vectors` registers that a tile of a few rows multiplies at once, so that it has enough independent sums.
    pub(super) const fn strips(self, vectors: usize, rows: usize, spare: usize) -> usize {
        let mut strips = 1;
        // The rows' operands stay in registers from one strip to the next.
        while strips < MOST_STRIPS
            && strips * vectors * rows < self.chains
            && 2 * strips * vectors * rows + vectors + self.beside + spare + rows - 1 <= self.registers
        {
            strips *= 2;
        }
        strips
    }
}

/// The order of 8-bit weights and of the rounded numbers that multiply them. Both come in blocks of four numbers of the depth;
/// a block of rounded numbers is two words, and a block of weights is `4 * LANES` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DotOrder {
    /// The numbers are unsigned, plus 32768; the first word holds their high bytes, the second one their low bytes. The four
    /// weights of a lane lie side by side.
    Bytes,
    /// The numbers are signed, two per word. The weights of the first two numbers of all lanes come before those of the others,
    /// and the two weights of a lane lie side by side.
    Pairs,
    /// The numbers are signed, two per word. The weights of all lanes of one number come before those of the next number.
    Singles,
}

impl DotOrder {
    /// The position of a weight in its block.
    pub(super) const fn place(self, lanes: usize, lane: usize, k: usize) -> usize {
        match self {
            Self::Bytes => 4 * lane + k,
            Self::Pairs => k / 2 * 2 * lanes + 2 * lane + k % 2,
            Self::Singles => k * lanes + lane,
        }
    }

    /// The words of four numbers that were rounded to 16 bits, plus 32768.
    pub(super) const fn words(self, [a, b, c, d]: [u16; 4]) -> [u32; 2] {
        match self {
            Self::Bytes => {
                let [[a, e], [b, f], [c, g], [d, h]] =
                    [a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_le_bytes()];
                [u32::from_le_bytes([e, f, g, h]), u32::from_le_bytes([a, b, c, d])]
            }
            Self::Pairs | Self::Singles => {
                const SIGN: u32 = 0x8000_8000;
                [(a as u32 | (b as u32) << 16) ^ SIGN, (c as u32 | (d as u32) << 16) ^ SIGN]
            }
        }
    }

    /// The number by which rounded numbers are too large.
    pub(super) const fn excess(self) -> f32 {
        match self {
            Self::Bytes => 32768.0,
            Self::Pairs | Self::Singles => 0.0,
        }
    }

    /// The most blocks whose sum of products fits in 32 bits.
    pub(super) const fn most_blocks(self) -> usize {
        match self {
            Self::Bytes => i32::MAX as usize / (4 * 255 * 128),
            Self::Pairs | Self::Singles => i32::MAX as usize / (4 * 32768 * 128),
        }
    }
}

/// Registers of `f32` lanes. A value of an implementing type is the proof that the processor has its instructions.
///
/// In [`Simd::min`] and [`Simd::max`] a NaN of the second operand wins, so that clamping `x` as
/// `min(high, max(low, x))` keeps a NaN.
///
/// # Safety
/// Kernels rely on these sizes when they read and write through pointers. An implementation upholds them:
///
/// - `LANES` is the number of lanes of `F`, at most [`MOST_LANES`].
/// - `load`, `load_*` and `store` touch no more than `LANES` numbers.
/// - `dot` touches no more than `4 * LANES` bytes.
pub(super) unsafe trait Simd: Copy {
    /// A register of `f32`.
    type F: Copy;
    /// Sums of [`Simd::dot`], which stay exact or within the rounding of `f32`.
    type Dot: Copy;
    /// Lanes of a register, at most [`MOST_LANES`].
    const LANES: usize;
    /// The tiles of its products.
    const TILES: Tiles;
    /// How [`Simd::dot`] reads its operands.
    const DOT: DotOrder;

    /// Runs a kernel in a function of its own, compiled for this set, so that no other code takes registers from its loops.
    fn apart<K: Kernel>(self, kernel: K) -> K::Output;
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

    fn zero_dot(self) -> Self::Dot;
    /// Adds to every lane the sum of four products: four rounded numbers `x` times the lane's four weights at `w`, in the order
    /// [`Simd::DOT`].
    /// # Safety
    /// `w` points to `4 *` [`Simd::LANES`] readable bytes.
    unsafe fn dot(self, sum: Self::Dot, x: [u32; 2], w: *const i8) -> Self::Dot;
    /// The sums as floating-point numbers.
    fn dot_sum(self, sum: Self::Dot) -> Self::F;
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

    /// The set as one that this processor has, or `None`.
    pub(super) fn verify(self) -> Option<Verified> {
        self.available().then_some(Verified(self))
    }
}

/// The lanes of a set's registers, its tiles, and the order of its 8-bit products.
struct Layout;

impl Kernel for Layout {
    type Output = (usize, Tiles, DotOrder);
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Self::Output {
        (S::LANES, S::TILES, S::DOT)
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
        self.run(Layout).0
    }

    /// The tiles of the set's products.
    pub(super) fn tiles(self) -> Tiles {
        self.run(Layout).1
    }

    /// Registers of the strips in which a panel of `vectors` registers is stored.
    pub(super) fn strip(self, vectors: usize) -> usize {
        self.tiles().strip(vectors)
    }

    /// How sums of products with 8-bit weights read their operands.
    pub(super) fn dot_order(self) -> DotOrder {
        self.run(Layout).2
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

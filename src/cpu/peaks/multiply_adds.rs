//! Independent chains of multiply-adds, as many as a processor may have in flight.
#![allow(unsafe_code)]

use std::hint::black_box;

use crate::cpu::simd::{Kernel, MOST_LANES, Simd, Tiles};

/// The chains that the registers hold beside two factors: more than any processor's latency (in cycles) times its units.
pub(super) const fn chains(tiles: Tiles) -> usize {
    match (tiles.registers, tiles.beside) {
        (32.., _) => 24,
        (_, 1) => 12,
        // Without a fused multiply-add, a product takes a register of its own.
        _ => 8,
    }
}

/// Rounds of one multiply-add per chain.
pub(in crate::cpu) struct MultiplyAdds {
    pub(in crate::cpu) rounds: usize,
}

impl Kernel for MultiplyAdds {
    /// A number that depends on all chains, and the operations done.
    type Output = (f32, usize);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, usize) {
        let Self { rounds } = self;
        let value = match const { chains(S::TILES) } {
            24 => simd.apart(Chains::<24> { rounds }),
            12 => simd.apart(Chains::<12> { rounds }),
            _ => simd.apart(Chains::<8> { rounds }),
        };
        (value, 2 * const { chains(S::TILES) } * S::LANES * rounds)
    }
}

/// The numbers that the chains begin with: a chain's register begins at its own number.
pub(super) const FIRST: [f32; 24 + MOST_LANES] = {
    let mut numbers = [0.0; 24 + MOST_LANES];
    let mut at = 0;
    while at < numbers.len() {
        numbers[at] = at as f32;
        at += 1;
    }
    numbers
};

/// Chains in registers, in a function of their own.
struct Chains<const N: usize> {
    rounds: usize,
}

impl<const N: usize> Kernel for Chains<N> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let (factor, summand) = (simd.splat(black_box(0.999)), simd.splat(black_box(0.001)));
        let first = black_box(FIRST);
        let mut chains = [simd.splat(0.0); N];
        for (at, chain) in chains.iter_mut().enumerate() {
            // SAFETY: `FIRST` has room for the lanes of any register after the last chain's number.
            *chain = unsafe { simd.load(first.as_ptr().add(at)) };
        }
        for _ in 0..self.rounds {
            for chain in &mut chains {
                *chain = simd.fma(*chain, factor, summand);
            }
        }
        let mut sum = simd.splat(0.0);
        for chain in chains {
            sum = simd.add(sum, chain);
        }
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: `lanes` has room for the lanes of any register.
        unsafe { simd.store(lanes.as_mut_ptr(), sum) };
        lanes.iter().sum()
    }
}

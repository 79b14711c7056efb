//! The kernels that measure an adapter: they must do the work that is timed.

use super::{Case, Slot, WORKGROUPS, grid, n};
use crate::support::{Tolerance, uniform};

const EXACT: Tolerance = Tolerance { abs: 0.0, rel: 0.0 };
/// Words of 16 bytes around a workgroup's edges.
const SIZES: [usize; 6] = [1, 63, 64, 65, 129, 200];

fn case(name: String, size: usize, dims: Vec<u32>, buffers: Vec<Slot>, grid: [u32; 3], tolerance: Tolerance) -> Case {
    Case { name, constants: vec![("WORKGROUP_SIZE", n(size))], dims, buffers, grid, tolerance }
}

pub(crate) fn peak_copy() -> Vec<Case> {
    let of = |(at, count): (usize, usize)| {
        let (x, size) = (uniform(61, 4 * count, 1.0), WORKGROUPS[at % 3]);
        let buffers = vec![Slot::floats(&x), Slot::output(4 * count).exactly(0, x.iter().copied())];
        case(format!("{count}"), size, vec![n(count)], buffers, grid(count, size, at % 2 == 1), EXACT)
    };
    SIZES.into_iter().enumerate().map(of).collect()
}

pub(crate) fn peak_read() -> Vec<Case> {
    let of = |(at, count): (usize, usize)| {
        let (words, step, reads) = ([64, 128, 16][at % 3], count + 3, [4, 8, 12][at % 3]);
        let x: Vec<f32> = uniform(62, 4 * words, 1.0);
        let sums = (0..4 * count).map(|lane| {
            let word = |k: usize| (lane / 4 + k * step) % words;
            (0..reads).map(|k| f64::from(x[4 * word(k) + lane % 4])).sum()
        });
        let buffers = vec![Slot::floats(&x), Slot::output(4 * count).near(0, sums.collect::<Vec<f64>>())];
        let (size, dims) = (WORKGROUPS[at % 3], vec![n(count), n(words - 1), n(step), n(reads)]);
        case(
            format!("{count} of {words}"),
            size,
            dims,
            buffers,
            grid(count, size, at % 2 == 1),
            Tolerance::sum(12, 3.0),
        )
    };
    SIZES.into_iter().enumerate().map(of).collect()
}

pub(crate) fn peak_fma() -> Vec<Case> {
    let of = |(at, count): (usize, usize)| {
        let (iterations, factor, summand) = ([0, 1, 7][at % 3], 0.75_f32, 0.5_f32);
        let value = |lane: usize| {
            let first = [0.0, 0.25, 0.5, 0.75][lane % 4] + (lane / 4 % 8) as f64;
            let chain = |at: usize| (0..4 * iterations).fold(first + at as f64, |s, _| s * 0.75 + 0.5);
            (0..4).map(chain).sum()
        };
        let y = Slot::output(4 * count).near(0, (0..4 * count).map(value).collect::<Vec<f64>>());
        let (size, dims) = (WORKGROUPS[at % 3], vec![n(count), iterations, factor.to_bits(), summand.to_bits()]);
        let tolerance = Tolerance { abs: 0.0, rel: 2e-6 };
        case(
            format!("{count}, {iterations} iterations"),
            size,
            dims,
            vec![y],
            grid(count, size, at % 2 == 1),
            tolerance,
        )
    };
    SIZES.into_iter().enumerate().map(of).collect()
}

pub(crate) fn peak_step() -> Vec<Case> {
    let of = |(at, count): (usize, usize)| {
        let x = uniform(63, count, 8.0);
        let stepped = x.iter().map(|x| x + 1.0).collect::<Vec<_>>();
        // More workgroups than words: the last ones have nothing to do.
        let groups = [n(count) + [0, 1, 9][at % 3], 1, 1];
        let x = Slot::in_place(&x).exactly(0, stepped);
        case(format!("{count}"), WORKGROUPS[at % 3], vec![n(count)], vec![x], groups, EXACT)
    };
    SIZES.into_iter().enumerate().map(of).collect()
}

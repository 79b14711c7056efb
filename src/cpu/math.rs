//! Activations over vector registers.
//!
//! For every argument, `sigmoid` is within 1.5e-7 of the true value and `tanh` within 3e-7. They stay within `[0, 1]`
//! and `[-1, 1]`, and keep a NaN. ONNX's other activations that need more than a clamp call the reference lane by lane.

pub(super) use super::simd::{load_part, store_part};

use super::simd::{MOST_LANES, Simd};
use crate::cell::Activation;
use crate::reference::activate as activate_one;

/// `1 / (1 + 2^t)`.
#[inline(always)]
fn logistic<S: Simd>(v: S, t: S::F) -> S::F {
    // 2^126 neither overflows nor becomes subnormal when inverted; the sum rounds to 1 long before 2^-126.
    let t = v.min(v.splat(126.0), v.max(v.splat(-126.0), t));
    // The rounding of the sum leaves the nearest integer in the low bits.
    let biased = v.add(t, v.splat(12_582_912.0));
    let fraction = v.sub(t, v.sub(biased, v.splat(12_582_912.0)));
    // 2^fraction on [-1/2, 1/2] by a minimax polynomial of degree 6 (relative error 2e-9 before rounding), summed in pairs for
    // a shorter dependency chain.
    let pair = |low: f32, high: f32| v.fma(fraction, v.splat(high), v.splat(low));
    let square = v.mul(fraction, fraction);
    let upper = v.fma(square, v.splat(1.534_581_2e-4), pair(9.618_489e-3, 1.339_993_1e-3));
    let upper = v.fma(square, upper, pair(2.402_264_7e-1, 5.550_328_8e-2));
    let power = v.fma(square, upper, pair(1.0, 6.931_472e-1));
    v.reciprocal(v.fma(power, v.power_of_two(biased), v.splat(1.0)))
}

/// `1 / (1 + exp(-x))`
#[inline(always)]
pub(super) fn sigmoid<S: Simd>(v: S, x: S::F) -> S::F {
    logistic(v, v.mul(x, v.splat(-std::f32::consts::LOG2_E)))
}

/// `tanh(x) = 2 sigmoid(2 x) - 1`
#[inline(always)]
pub(super) fn tanh<S: Simd>(v: S, x: S::F) -> S::F {
    let y = logistic(v, v.mul(x, v.splat(-2.0 * std::f32::consts::LOG2_E)));
    v.fma(v.splat(2.0), y, v.splat(-1.0))
}

/// `tanh(x)` within 1e-6 of the true value in proportion to it, also near zero. A quotient of polynomials, as in Eigen.
#[inline(always)]
pub(super) fn tanh_precise<S: Simd>(v: S, x: S::F) -> S::F {
    // From this argument on, the quotient would leave [-1, 1].
    let x = v.min(v.splat(7.905_311), v.max(v.splat(-7.905_311), x));
    let square = v.mul(x, x);
    let sum = |coefficients: &[f32]| {
        let mut sum = v.splat(0.0);
        for &coefficient in coefficients {
            sum = v.fma(sum, square, v.splat(coefficient));
        }
        sum
    };
    // Both polynomials are divided by the lower one's constant, so that the divisor is at least 1.
    let upper = sum(&[
        -5.641_677e-14,
        4.087_417_2e-11,
        -1.758_378_9e-8,
        1.046_749_9e-5,
        3.036_098_3e-3,
        1.302_255_3e-1,
        9.999_999e-1,
    ]);
    let lower = sum(&[2.448_661e-4, 2.422_276_4e-2, 4.635_583_9e-1, 1.0]);
    v.mul(x, v.mul(upper, v.reciprocal(lower)))
}

/// `exp(x)` within 2e-7 of the true value in proportion to it. Results below 2^-126 are subnormal, then 0; results beyond the
/// largest number are infinity.
#[inline(always)]
pub(super) fn exp<S: Simd>(v: S, x: S::F) -> S::F {
    let x = v.min(v.splat(89.0), v.max(v.splat(-104.0), x));
    // x = n ln(2) + r; the rounding of the sum leaves n in the low bits. ln(2) is subtracted in two parts, the first of which
    // has few enough bits for an exact product.
    let round = v.splat(12_582_912.0);
    let n = v.sub(v.fma(x, v.splat(std::f32::consts::LOG2_E), round), round);
    let r = v.fma(n, v.splat(2.121_944_4e-4), v.fma(n, v.splat(-0.693_359_4), x));
    let mut sum = v.splat(1.987_569_2e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = v.fma(sum, r, v.splat(coefficient));
    }
    let power = v.add(v.fma(sum, v.mul(r, r), r), v.splat(1.0));
    // 2^n in two factors: n reaches from -150 to 128.
    let biased = v.fma(n, v.splat(0.5), round);
    let rest = v.add(v.sub(n, v.sub(biased, round)), round);
    v.mul(v.mul(power, v.power_of_two(biased)), v.power_of_two(rest))
}

/// Clamps to `[-limit, limit]`; a NaN stays.
#[inline(always)]
pub(super) fn clip<S: Simd>(v: S, x: S::F, limit: Option<f32>) -> S::F {
    match limit {
        Some(limit) => v.min(v.splat(limit), v.max(v.splat(-limit), x)),
        None => x,
    }
}

/// Applies any activation.
#[inline(always)]
pub(super) fn activate<S: Simd>(v: S, activation: Activation, x: S::F) -> S::F {
    match activation {
        Activation::Tanh => tanh(v, x),
        Activation::Sigmoid => sigmoid(v, x),
        Activation::Identity => x,
        Activation::Relu => v.max(v.splat(0.0), x),
        Activation::LeakyRelu { alpha } => v.fma(v.min(v.splat(0.0), x), v.splat(alpha), v.max(v.splat(0.0), x)),
        Activation::Affine { alpha, beta } => v.fma(x, v.splat(alpha), v.splat(beta)),
        Activation::HardSigmoid { alpha, beta } => {
            v.min(v.splat(1.0), v.max(v.splat(0.0), v.fma(x, v.splat(alpha), v.splat(beta))))
        }
        rare => in_memory(v, x, |lanes| map_each(lanes, rare)),
    }
}

/// Applies a scalar function to every lane.
#[inline(always)]
pub(super) fn map_lanes<S: Simd>(v: S, x: S::F, f: impl Fn(f32) -> f32) -> S::F {
    in_memory(v, x, |lanes| lanes.iter_mut().for_each(|lane| *lane = f(*lane)))
}

/// Changes a register's lanes as a slice.
#[inline(always)]
fn in_memory<S: Simd>(v: S, x: S::F, change: impl FnOnce(&mut [f32])) -> S::F {
    let mut lanes = [0.0; MOST_LANES];
    store_part(v, &mut lanes[..S::LANES], x);
    change(&mut lanes[..S::LANES]);
    load_part(v, &lanes[..S::LANES])
}

/// Applies the reference's function to every lane. It is not inlined, because the kernels that call it are compiled
/// many times over.
#[inline(never)]
fn map_each(lanes: &mut [f32], activation: Activation) {
    for lane in lanes {
        *lane = activate_one(activation, *lane);
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Instructions, Kernel, Verified};
    use super::*;

    struct ActivateAll<'a>(Activation, &'a [f32], &'a mut [f32]);

    impl Kernel for ActivateAll<'_> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, v: S) {
            for (x, y) in self.1.chunks(S::LANES).zip(self.2.chunks_mut(S::LANES)) {
                let out = activate(v, self.0, load_part(v, x));
                store_part(v, y, out);
            }
        }
    }

    fn sets() -> impl Iterator<Item = Verified> {
        Instructions::ALL.into_iter().filter_map(Instructions::verify)
    }

    fn evaluate(set: Verified, activation: Activation, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        set.run(ActivateAll(activation, x, &mut y));
        y
    }

    /// The largest error over every 2048th float of both signs. It also asserts the range.
    fn largest_error(set: Verified, activation: Activation, low: f32, truth: fn(f64) -> f64) -> f64 {
        let x: Vec<f32> = (0..=u32::MAX >> 11).map(|i| f32::from_bits(i << 11)).filter(|x| x.is_finite()).collect();
        let y = evaluate(set, activation, &x);
        x.iter().zip(&y).fold(0.0, |worst, (&x, &y)| {
            assert!((low..=1.0).contains(&y), "{set:?}: {activation:?}({x}) = {y}");
            worst.max((f64::from(y) - truth(f64::from(x))).abs())
        })
    }

    #[test]
    fn sigmoid_and_tanh_keep_their_stated_error_and_range() {
        for set in sets() {
            let sigmoid = largest_error(set, Activation::Sigmoid, 0.0, |x| 1.0 / (1.0 + (-x).exp()));
            let tanh = largest_error(set, Activation::Tanh, -1.0, f64::tanh);
            assert!(sigmoid < 1.5e-7 && tanh < 3e-7, "{set:?}: sigmoid {sigmoid:e}, tanh {tanh:e}");
        }
    }

    #[test]
    fn special_arguments_give_exact_values() {
        let x = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 100.0, -100.0, f32::NAN, -f32::NAN, 1e-40];
        for set in sets() {
            let (sigmoid, tanh) = (evaluate(set, Activation::Sigmoid, &x), evaluate(set, Activation::Tanh, &x));
            assert_eq!(sigmoid[..3], [0.5, 0.5, 1.0], "{set:?}");
            assert_eq!(sigmoid[4], 1.0, "{set:?}");
            assert!(sigmoid[3] < 1e-37 && sigmoid[5] < 1e-37, "{set:?}: {sigmoid:?}");
            assert_eq!(tanh[..6], [0.0, 0.0, 1.0, -1.0, 1.0, -1.0], "{set:?}");
            assert!(sigmoid[6].is_nan() && sigmoid[7].is_nan() && tanh[6].is_nan() && tanh[7].is_nan(), "{set:?}");
            assert!(tanh[8].abs() < 1e-7, "{set:?}");
        }
    }

    #[test]
    fn every_activation_agrees_with_the_reference_and_keeps_nan() {
        let x: Vec<f32> = (-90..=90).map(|i| i as f32 / 7.0).chain([1e4, -1e4, f32::NAN]).collect();
        for set in sets() {
            for activation in Activation::ALL {
                for (&x, y) in x.iter().zip(evaluate(set, activation, &x)) {
                    let truth = activate_one(activation, f64::from(x));
                    let close = (f64::from(y) - truth).abs() <= 3e-7 * truth.abs().max(1.0);
                    assert!(close || (x.is_nan() && y.is_nan()), "{set:?}: {activation:?}({x}) = {y}, not {truth}");
                }
            }
        }
    }
}

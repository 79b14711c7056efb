//! Compares outputs with the outputs of an oracle.

use ndarray::{ArrayBase, ArrayD, Data, Dimension};

/// All comparisons of one case on one device. It keeps the worst error in units of its tolerance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Comparison {
    pub(super) error: f64,
    pub(super) tolerance: f64,
    pub(super) compared: usize,
    failed: bool,
}

/// The largest distance from the oracle's value: `absolute + relative |expected| + to_max max |expected|`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tolerance {
    pub(super) absolute: f64,
    pub(super) relative: f64,
    pub(super) to_max: f64,
}

impl Tolerance {
    pub(super) fn absolute(absolute: f64) -> Self {
        Self { absolute, ..Self::default() }
    }
}

impl Comparison {
    pub(super) fn passed(&self) -> bool {
        !self.failed && self.compared > 0
    }

    /// Compares element by element; a different shape is an infinite error.
    pub(super) fn close<S, D, E>(&mut self, got: &ArrayBase<S, D>, expected: &ArrayD<E>, tolerance: Tolerance)
    where
        S: Data<Elem = f32>,
        D: Dimension,
        E: Copy + Into<f64>,
    {
        if got.shape() != expected.shape() {
            self.record(f64::INFINITY, tolerance.absolute);
        } else {
            let largest = expected.iter().map(|&x| x.into().abs()).fold(0.0, f64::max);
            for (&got, &expected) in got.iter().zip(expected) {
                let expected: f64 = expected.into();
                let limit = tolerance.absolute + tolerance.relative * expected.abs() + tolerance.to_max * largest;
                self.record((f64::from(got) - expected).abs(), limit);
            }
        }
        self.compared += 1;
    }

    /// Compares gradients. Errors are relative to the largest expected value, which counts as at least 0.001.
    pub(super) fn relative_to_max(&mut self, got: &ArrayD<f32>, expected: &ArrayD<f32>, tolerance: f64) {
        if got.shape() != expected.shape() {
            self.record(f64::INFINITY, tolerance);
        } else {
            let largest = expected.iter().map(|&x| f64::from(x).abs()).fold(1e-3, f64::max);
            for (&got, &expected) in got.iter().zip(expected) {
                self.record((f64::from(got) - f64::from(expected)).abs() / largest, tolerance);
            }
        }
        self.compared += 1;
    }

    /// Compares values for equality; the error is the number of differences.
    pub(super) fn equal<T: PartialEq>(&mut self, got: &[T], expected: &[T]) {
        let differences = got.iter().zip(expected).filter(|(got, expected)| got != expected).count();
        self.record((differences + got.len().abs_diff(expected.len())) as f64, 0.0);
        self.compared += 1;
    }

    fn record(&mut self, error: f64, tolerance: f64) {
        // NaN is never within a tolerance.
        let within = error <= tolerance;
        let worse = if self.failed || !within {
            !within && (!self.failed || error.is_nan() || error - tolerance > self.error - self.tolerance)
        } else {
            self.compared == 0 && self.tolerance == 0.0 || error * self.tolerance > self.error * tolerance
        };
        self.failed |= !within;
        if worse {
            (self.error, self.tolerance) = (error, tolerance);
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{arr1, array};

    use super::*;

    #[test]
    fn a_difference_over_the_tolerance_fails_whatever_follows() {
        let mut comparison = Comparison::default();
        let tolerance = Tolerance { absolute: 0.1, relative: 0.5, to_max: 0.0 };
        comparison.close(&arr1(&[1.0, 2.0]), &arr1(&[1.05_f32, 3.0]).into_dyn(), tolerance);
        assert!(comparison.passed());
        comparison.close(&arr1(&[1.0, 2.0]), &arr1(&[1.7_f32, 2.0]).into_dyn(), Tolerance::absolute(0.1));
        comparison.close(&arr1(&[1.0]), &arr1(&[1.0_f32]).into_dyn(), Tolerance::absolute(0.1));
        assert!(!comparison.passed());
        assert!((comparison.error - 0.7).abs() < 1e-6 && comparison.tolerance == 0.1, "{comparison:?}");
    }

    #[test]
    fn nan_and_other_shapes_and_nothing_at_all_fail() {
        assert!(!Comparison::default().passed());
        let mut nan = Comparison::default();
        nan.close(&arr1(&[f32::NAN]), &arr1(&[0.0_f32]).into_dyn(), Tolerance::absolute(1.0));
        assert!(!nan.passed() && nan.error.is_nan());
        let mut shape = Comparison::default();
        shape.close(&arr1(&[0.0, 0.0]), &array![[0.0_f32, 0.0]].into_dyn(), Tolerance::absolute(1.0));
        assert!(!shape.passed());
        assert_eq!(shape.compared, 1);
        let mut words = Comparison::default();
        words.equal(&["a", "b"], &["a", "c", "d"]);
        assert!(!words.passed() && words.error == 2.0);
    }

    #[test]
    fn gradients_are_measured_by_their_largest() {
        let mut comparison = Comparison::default();
        let of = |values: &[f32]| arr1(values).into_dyn();
        comparison.relative_to_max(&of(&[99.0, 1.0]), &of(&[100.0, 1.0]), 0.02);
        assert!(comparison.passed() && (comparison.error - 0.01).abs() < 1e-9, "{comparison:?}");
        comparison.relative_to_max(&of(&[1e-5]), &of(&[0.0]), 0.02);
        assert!(comparison.passed(), "1e-5 is a hundredth of the least that counts");
        comparison.relative_to_max(&of(&[]), &of(&[0.0]), 0.02);
        assert!(!comparison.passed() && comparison.error.is_infinite());
    }

    #[test]
    fn the_worst_is_measured_in_its_own_tolerance() {
        let mut comparison = Comparison::default();
        comparison.close(&arr1(&[0.4]), &arr1(&[0.0_f32]).into_dyn(), Tolerance::absolute(10.0));
        assert_eq!(comparison.error, f64::from(0.4_f32));
        comparison.close(&arr1(&[0.1]), &arr1(&[0.0_f32]).into_dyn(), Tolerance::absolute(0.2));
        assert!(comparison.passed() && comparison.tolerance == 0.2, "{comparison:?}");
    }
}

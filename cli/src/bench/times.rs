//! The statistics of a series of runs.

use serde::Serialize;

/// The times of a series of runs in milliseconds. The median hides calls that wait for a busy processor; the mean, the 99th percentile
/// and the maximum show them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Times {
    pub(super) median_ms: f64,
    pub(super) mean_ms: f64,
    /// The least time that 99 % of the runs do not exceed.
    pub(super) p99_ms: f64,
    pub(super) min_ms: f64,
    pub(super) max_ms: f64,
    pub(super) runs: usize,
}

impl Times {
    /// The statistics of some samples in milliseconds; `None` if there are none.
    pub(super) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let runs = samples.len();
        Some(Self {
            median_ms: *samples.get(runs / 2)?,
            mean_ms: samples.iter().sum::<f64>() / runs as f64,
            p99_ms: *samples.get((99 * runs).div_ceil(100) - 1)?,
            min_ms: *samples.first()?,
            max_ms: *samples.last()?,
            runs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Times;

    #[test]
    fn statistics_of_known_samples() {
        // 1 to 1000 in an order of their own: 7 and 1000 have no common factor.
        let samples: Vec<f64> = (0..1000).map(|at| f64::from(7 * at % 1000 + 1)).collect();
        let expected =
            Times { median_ms: 501.0, mean_ms: 500.5, p99_ms: 990.0, min_ms: 1.0, max_ms: 1000.0, runs: 1000 };
        assert_eq!(Times::of(samples), Some(expected));
    }

    #[test]
    fn one_late_run_of_many_is_in_the_mean_and_the_maximum_alone() {
        let late = |runs: usize| Times::of([vec![900.0], vec![1.0; runs - 1]].concat()).expect("samples");
        let Times { median_ms, mean_ms, p99_ms, max_ms, .. } = late(101);
        assert_eq!((median_ms, mean_ms, p99_ms, max_ms), (1.0, 1000.0 / 101.0, 1.0, 900.0));
        // Fewer than 100 runs: the last one is among the slowest 1 %.
        assert_eq!(late(99).p99_ms, 900.0);
    }

    #[test]
    fn few_samples_have_statistics_and_none_have_none() {
        assert_eq!(Times::of(Vec::new()), None);
        let [one, two] = [vec![3.0], vec![4.0, 2.0]].map(|samples| Times::of(samples).expect("samples"));
        assert_eq!([one.median_ms, one.mean_ms, one.p99_ms, one.min_ms, one.max_ms], [3.0; 5]);
        assert_eq!([two.median_ms, two.mean_ms, two.p99_ms, two.min_ms, two.max_ms], [4.0, 3.0, 4.0, 2.0, 4.0]);
    }
}

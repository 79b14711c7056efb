//! Estimates the time of a shape from the shapes measured before it.

use super::shapes::Shape;

/// The measurements of one device so far.
#[derive(Default)]
pub(super) struct Estimates {
    known: Vec<Known>,
}

struct Known {
    /// Operations per step.
    step: f64,
    steps: f64,
    /// Operations per second.
    rate: f64,
}

impl Estimates {
    /// Notes the seconds of a pass.
    pub(super) fn note(&mut self, shape: &Shape, seconds: f64) {
        let (step, steps) = per_step(shape);
        self.known.push(Known { step, steps, rate: step * steps / seconds });
    }

    /// Estimates the seconds of a pass from the rate of the nearest measured shape; `None` if nothing was measured. The nearest is
    /// nearest in steps and in work per step, because the rate depends on both: submission bounds short calls, latency bounds small
    /// steps, arithmetic or memory bounds large steps.
    pub(super) fn seconds(&self, shape: &Shape) -> Option<f64> {
        let (step, steps) = per_step(shape);
        let distance = |known: &Known| (known.step / step).ln().abs() + (known.steps / steps).ln().abs();
        let nearest = self.known.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
        Some(step * steps / nearest.rate)
    }
}

/// Operations per step, and the number of steps.
fn per_step(shape: &Shape) -> (f64, f64) {
    let steps = shape.time.max(1) as f64;
    ((shape.flops() / steps).max(1.0), steps)
}

#[cfg(test)]
mod tests {
    use super::Estimates;
    use crate::bench::shapes::Shape;

    fn lstm(hidden: usize, time: usize, batch: usize) -> Shape {
        Shape::new("x".to_owned(), "lstm", hidden, hidden, time, batch)
    }

    /// Seconds on a device with 1 TFLOP/s, where a step takes at least 20 us and a call 0.1 ms more.
    fn true_seconds(shape: &Shape) -> f64 {
        1e-4 + 20e-6 * shape.time as f64 + shape.flops() / 1e12
    }

    #[test]
    fn large_shapes_are_judged_by_large_ones() {
        let mut estimates = Estimates::default();
        assert_eq!(estimates.seconds(&lstm(64, 1, 1)), None);
        // As in the suite of streams: every batch is four times the one before it.
        for time in [1, 32] {
            for batch in [1, 4, 16, 64, 256, 1024, 4096, 16_384] {
                let shape = lstm(64, time, batch);
                if let Some(seconds) = estimates.seconds(&shape) {
                    let ratio = seconds / true_seconds(&shape);
                    assert!((0.2..6.0).contains(&ratio), "T = {time}, B = {batch}: {ratio}");
                }
                estimates.note(&shape, true_seconds(&shape));
            }
        }
    }

    #[test]
    fn many_small_steps_are_judged_by_small_ones() {
        let mut estimates = Estimates::default();
        for shape in [lstm(64, 1000, 1), lstm(64, 1000, 16_384)] {
            estimates.note(&shape, true_seconds(&shape));
        }
        let long = lstm(80, 100_000, 1);
        let seconds = estimates.seconds(&long).expect("two were measured");
        assert!((0.5..5.0).contains(&(seconds / true_seconds(&long))), "{seconds}");
        // If nothing larger was measured, the small shape decides.
        let mut small = Estimates::default();
        small.note(&lstm(64, 10, 1), 1.0);
        let seconds = small.seconds(&lstm(64, 20, 4)).expect("one was measured");
        assert!((seconds - 8.0).abs() < 1e-9, "{seconds}");
        // Shapes without work have no rate and are never skipped.
        assert!(small.seconds(&lstm(64, 0, 4)).expect("one was measured").is_finite());
    }
}

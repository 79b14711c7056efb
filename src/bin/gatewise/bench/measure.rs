//! Timing one shape on one device.

use std::time::{Duration, Instant};

use gatewise::nn::{Recurrent, State};
use gatewise::weights::torch_name;
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array3, ArrayD, IxDyn};
use serde::Serialize;

use super::shapes::Shape;

/// A stack with its input, ready to run: weights and input on the device.
pub(super) struct Loaded {
    stack: Recurrent,
    x: Tensor,
    batch: usize,
}

impl Loaded {
    /// Seeded weights and input.
    pub(super) fn random(device: &Device, shape: &Shape) -> Result<Self> {
        let stack = shape.config()?.random(device, 2024)?;
        let wave = |(t, b, i): (usize, usize, usize)| ((7 * t + 3 * b + i) as f32 * 0.37).sin();
        let x = Tensor::from_array(device, &Array3::from_shape_fn((shape.time, shape.batch, shape.input), wave))?;
        Ok(Self { stack, x, batch: shape.batch })
    }

    /// Given weights, one array for each name and layer, and input.
    pub(super) fn new(
        device: &Device,
        shape: &Shape,
        x: Vec<f32>,
        mut array: impl FnMut(&str) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let config = shape.config()?;
        let parameters = config.collect(|layer, direction, spec| {
            let values = array(&torch_name(spec.name, layer, direction))?;
            let found = vec![values.len()];
            ArrayD::from_shape_vec(IxDyn(&spec.shape), values).map_err(|_| Error::Shape {
                op: "bench",
                what: spec.name,
                expected: format!("{:?}", spec.shape),
                found,
            })
        })?;
        let stack = config.build(device, parameters)?;
        let x = Tensor::from_vec(device, &[shape.time, shape.batch, shape.input], x)?;
        Ok(Self { stack, x, batch: shape.batch })
    }

    /// One pass from a zero state to the output on the host.
    pub(super) fn run(&self) -> Result<Vec<f32>> {
        let mut state: State = self.stack.zero_state(self.batch)?;
        self.stack.forward(&self.x, &mut state)?.to_vec()
    }

    /// Dispatches and submissions of a pass, 0 where there is no GPU.
    pub(super) fn counts(&self) -> Result<(usize, usize)> {
        let on_gpu = !matches!(self.stack.device(), Device::Cpu | Device::Reference);
        if !on_gpu {
            return Ok((0, 0));
        }
        let plan = self.stack.plan(self.x.shape()[0], self.batch)?;
        Ok((plan.dispatches(), plan.submits()))
    }
}

/// Times of a series of runs, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Times {
    pub(super) median_ms: f64,
    pub(super) min_ms: f64,
    pub(super) max_ms: f64,
    pub(super) runs: usize,
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Runs until the budget is spent, at least `min_runs` times; a slow subject is stopped after ten budgets.
pub(super) fn series(budget_ms: f64, min_runs: usize, mut run: impl FnMut() -> Result<()>) -> Result<Times> {
    const MOST: usize = 100_000;
    let begin = Instant::now();
    let mut times: Vec<f64> = Vec::new();
    loop {
        let spent = milliseconds(begin.elapsed());
        let within = spent < budget_ms && times.len() < MOST;
        let wanted = times.len() < min_runs && spent < 10.0 * budget_ms;
        if !(times.is_empty() || within || wanted) {
            break;
        }
        let start = Instant::now();
        run()?;
        times.push(milliseconds(start.elapsed()));
    }
    times.sort_by(f64::total_cmp);
    Ok(Times { median_ms: times[times.len() / 2], min_ms: times[0], max_ms: times[times.len() - 1], runs: times.len() })
}

/// Calls until the time of a call has settled: three in a row no more than a tenth faster than the best before.
pub(super) fn warm_up(mut run: impl FnMut() -> Result<()>) -> Result<usize> {
    let limit = Duration::from_secs(20);
    let begin = Instant::now();
    let (mut runs, mut best, mut stale) = (0, Duration::MAX, 0);
    while stale < 3 && begin.elapsed() < limit {
        let start = Instant::now();
        run()?;
        let time = start.elapsed();
        runs += 1;
        stale = if time < best.mul_f64(0.9) { 0 } else { stale + 1 };
        best = best.min(time);
    }
    Ok(runs)
}

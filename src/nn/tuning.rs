//! Choosing a plan by measuring.

use std::time::{Duration, Instant};

use ndarray::Array3;

use super::recurrent::Recurrent;
use crate::cell::{Cell, Sequence};
use crate::error::{Error, Result};
use crate::gpu::{Detail, GpuDevice};
use crate::plan::{Choice, Plan};
use crate::tensor::Tensor;

const OP: &str = "Recurrent::tune";
/// Timed runs of a candidate.
const RUNS: usize = 5;
/// A candidate is not timed again if it takes more than this many times the best time.
const HOPELESS: u32 = 3;

/// The measurements of [`Recurrent::tune`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tuned {
    /// The choices, each with its best time of a whole call; the fastest first.
    pub times: Vec<(Choice, Duration)>,
    /// The time of the plan that runs without tuning.
    pub untuned: Duration,
}

impl<C: Clone + Into<Cell>> Recurrent<C> {
    /// Times the possible plans of a call of `time` steps and `batch` rows, and keeps the fastest. It serves this
    /// device from now on and, from disk, later devices with the same adapter and driver. If the GPU has a clock, times
    /// come from it. The choice holds for all calls of the same stack whose steps and rows round up to the same powers
    /// of two.
    ///
    /// Meanwhile, other threads' calls of the same kind run by the candidate that is being timed.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless the stack lives on a GPU opened with
    /// [`GpuOptions::tuning`](crate::gpu::GpuOptions::tuning); the errors of a call; [`Error::Io`] if the result cannot be
    /// written.
    pub fn tune(&self, time: usize, batch: usize) -> Result<Tuned> {
        let unsupported = |option: &str, by| Err(Error::Unsupported { op: OP, option: option.to_owned(), by });
        let Some(gpu) = self.device().as_gpu() else { return unsupported("a choice of plans", "by host devices") };
        if !gpu.is_tuned() {
            return unsupported("tuning", "by GPUs opened without GpuOptions::tuning");
        }
        let config = self.configuration();
        let problem = config.problem(time, batch);
        let kind = config.plan.or(gpu.plan_kind());
        let candidates = Plan::candidates(&problem, gpu.plan_limits(), kind)?;
        let x =
            Array3::from_shape_fn((time, batch, problem.input), |(t, b, i)| ((7 * t + 3 * b + i) as f32 * 0.37).sin());
        let x = Tensor::from_array(self.device(), &x)?;
        let before = gpu.prefer(&problem, None);
        let mut times = Vec::new();
        let mut best = Duration::MAX;
        for choice in &candidates {
            gpu.prefer(&problem, Some(*choice));
            match self.fastest(gpu, &x, best) {
                Ok(time) => {
                    best = best.min(time);
                    times.push((*choice, time));
                }
                // A lost device ends the search. After any other error another candidate may still work.
                Err(error @ Error::DeviceLost { .. }) => return Err(error),
                Err(_) => {}
            }
        }
        let untuned = times.iter().find(|(choice, _)| *choice == candidates[0]).map_or(best, |(_, time)| *time);
        times.sort_by_key(|(_, time)| *time);
        let found = times.first().map(|(choice, _)| *choice);
        gpu.prefer(&problem, found.or(before));
        gpu.save_tuning()?;
        Ok(Tuned { times, untuned })
    }

    /// The best time of a whole call.
    fn fastest(&self, gpu: &GpuDevice, x: &Tensor, best: Duration) -> Result<Duration> {
        let mut state = self.zero_state(x.shape()[1])?;
        let mut fastest = Duration::MAX;
        // The first run compiles.
        for run in 0..=RUNS {
            let mut recorder = self.device().recorder();
            let y = self.record(&mut recorder, x, &mut state, &Sequence::new())?;
            let time = if gpu.has_timestamps() {
                recorder.submit_profiled(Detail::Passes)?.total
            } else {
                let begin = Instant::now();
                recorder.submit_and_read(&y)?.wait()?;
                begin.elapsed()
            };
            if run > 0 {
                fastest = fastest.min(time);
                if fastest / HOPELESS > best {
                    break;
                }
            }
        }
        Ok(fastest)
    }
}

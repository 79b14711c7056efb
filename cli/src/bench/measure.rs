//! Timing one shape on one device.

use std::time::{Duration, Instant};

use gatewise::cell::{Parameters, Sequence, WeightType};
#[cfg(feature = "gpu")]
use gatewise::gpu::{Detail, GpuDevice};
use gatewise::nn::{Config, Recurrent, State, TrainableRecurrent, TrainingOptions};
use gatewise::weights::torch_name;
use gatewise::{Device, Error, Recorder, Result, Tensor};
use ndarray::{Array3, ArrayD, IxDyn};

use super::shapes::Shape;
use super::times::Times;
use crate::choice::numbers;

/// The weights, one array per name and layer, and the input.
pub(super) struct Given<A> {
    pub(super) x: Vec<f32>,
    pub(super) array: A,
}

impl<A: FnMut(&str) -> Result<Vec<f32>>> Given<A> {
    fn fit(mut self, shape: &Shape, config: &Config) -> Result<(Vec<Vec<Parameters>>, Array3<f32>)> {
        let parameters = config.collect(|layer, direction, spec| {
            let values = (self.array)(&torch_name(spec.name, layer, direction))?;
            let found = vec![values.len()];
            ArrayD::from_shape_vec(IxDyn(&spec.shape), values).map_err(|_| misfit(spec.name, &spec.shape, found))
        })?;
        let (sizes, found) = ([shape.time, shape.batch, shape.input], vec![self.x.len()]);
        let x = Array3::from_shape_vec(sizes, self.x).map_err(|_| misfit("x", &sizes, found))?;
        Ok((parameters, x))
    }
}

/// A stack with its input, ready to run: weights and input lie in the device's memory.
pub(super) struct Loaded {
    stack: Recurrent,
    x: Input,
    state: State,
    y: Array3<f32>,
}

/// The input: an array of the host for the CPU, a tensor for a GPU.
enum Input {
    Host(Array3<f32>),
    Resident(Tensor),
}

impl Loaded {
    /// A stack with random weights and input from a fixed seed.
    pub(super) fn random(device: &Device, shape: &Shape, dtype: WeightType) -> Result<Self> {
        let stack = shape.config()?.weight_type(dtype).random(device, 2024)?;
        if device.cpu().is_none() {
            // Plans before it computes the input, because a GPU may refuse the shape.
            stack.plan(shape.time, shape.batch)?;
        }
        Self::of(stack, waves(shape)?)
    }

    fn of(stack: Recurrent, x: Array3<f32>) -> Result<Self> {
        let (time, batch, _) = x.dim();
        let (state, y) = (stack.zero_state(batch)?, array([time, batch, stack.output_size()], |_| 0.0)?);
        let x = match stack.device().cpu() {
            Some(_) => Input::Host(x),
            None => Input::Resident(Tensor::from_array(stack.device(), &x)?),
        };
        Ok(Self { stack, x, state, y })
    }

    /// A stack with the given weights and input.
    pub(super) fn new(
        device: &Device,
        shape: &Shape,
        dtype: WeightType,
        given: Given<impl FnMut(&str) -> Result<Vec<f32>>>,
    ) -> Result<Self> {
        let config = shape.config()?.weight_type(dtype);
        let (parameters, x) = given.fit(shape, &config)?;
        Self::of(config.build(device, parameters)?, x)
    }

    /// Runs one pass from a zero state to the output on the host. On a GPU, pass and read-back are one submission.
    pub(super) fn run(&mut self) -> Result<()> {
        self.state.reset()?;
        match &self.x {
            Input::Host(x) => self.stack.forward_into(x.view(), &mut self.state, self.y.view_mut()),
            Input::Resident(x) => {
                let mut recorder = self.stack.device().recorder();
                let y = self.stack.record(&mut recorder, x, &mut self.state, &Sequence::new())?;
                self.y = recorder.submit_and_read(&y)?.wait_array()?;
                Ok(())
            }
        }
    }

    /// The median milliseconds of several passes by the GPU's own clock, without submission and read-back. `None` if the device has no
    /// such clock.
    #[cfg(feature = "gpu")]
    pub(super) fn on_device_ms(&mut self, runs: usize) -> Result<Option<f64>> {
        let (Device::Gpu(gpu), Input::Resident(x)) = (self.stack.device(), &self.x) else { return Ok(None) };
        profiled(gpu, runs, || {
            self.state.reset()?;
            let mut recorder = self.stack.device().recorder();
            self.stack.record(&mut recorder, x, &mut self.state, &Sequence::new())?;
            Ok(recorder)
        })
    }

    /// Always `None`: the program was built without the feature `gpu`.
    #[cfg(not(feature = "gpu"))]
    pub(super) fn on_device_ms(&mut self, _runs: usize) -> Result<Option<f64>> {
        Ok(None)
    }

    /// The number of time chunks during which a GPU's plan keeps the recurrent weights in registers; `None` if every step reads them.
    #[cfg(feature = "gpu")]
    pub(super) fn kept_chunks(&self) -> Result<Option<usize>> {
        let Device::Gpu(_) = self.stack.device() else { return Ok(None) };
        let (time, batch, _) = self.y.dim();
        let plan = self.stack.plan(time, batch)?;
        Ok(plan.schedule().keeps_weights().then_some(plan.chunks().len()))
    }

    /// Always `None`: the program was built without the feature `gpu`.
    #[cfg(not(feature = "gpu"))]
    pub(super) fn kept_chunks(&self) -> Result<Option<usize>> {
        Ok(None)
    }

    /// Chooses the plan of this shape by measurement; only a GPU has a choice.
    pub(super) fn tune(&self) -> Result<()> {
        #[cfg(feature = "gpu")]
        if let Device::Gpu(_) = self.stack.device() {
            let (time, batch, _) = self.y.dim();
            self.stack.tune(time, batch)?;
        }
        Ok(())
    }

    /// The output of the last pass, `[T, B, D O]`.
    pub(super) fn output(&self) -> &Array3<f32> {
        &self.y
    }
}

/// A trainable stack with its input and output. The loss is half the sum of the squared outputs, so the gradient with respect to
/// the output is the output itself.
pub(super) struct Learning {
    stack: TrainableRecurrent,
    x: Tensor,
    y: Tensor,
}

impl Learning {
    /// A stack with random weights and input from a fixed seed.
    pub(super) fn random(device: &Device, shape: &Shape) -> Result<Self> {
        let config = shape.config()?;
        let x = waves(shape)?;
        Self::of(config.trainable(device, &config.random_parameters(2024)?)?, &x)
    }

    /// A stack with the given weights and input.
    pub(super) fn new(
        device: &Device,
        shape: &Shape,
        given: Given<impl FnMut(&str) -> Result<Vec<f32>>>,
    ) -> Result<Self> {
        let config = shape.config()?;
        let (parameters, x) = given.fit(shape, &config)?;
        Self::of(config.trainable(device, &parameters)?, &x)
    }

    fn of(stack: TrainableRecurrent, x: &Array3<f32>) -> Result<Self> {
        let x = Tensor::from_array(stack.device(), x)?;
        Ok(Self { y: x.clone(), x, stack })
    }

    /// Runs one pass forward from a zero state, and back to the gradients with respect to all parameters and the input. The gradients
    /// stay on the device, where an optimiser needs them; the output is read back, which waits for all work.
    pub(super) fn run(&mut self) -> Result<()> {
        let (recorder, y) = self.record()?;
        match self.stack.device().cpu() {
            Some(_) => recorder.submit()?,
            None => drop(recorder.submit_and_read(&y)?.wait_array::<ndarray::Ix3>()?),
        }
        self.y = y;
        Ok(())
    }

    fn record(&self) -> Result<(Recorder, Tensor)> {
        let mut state = self.stack.zero_state(self.x.shape()[1])?;
        let mut recorder = self.stack.device().recorder();
        let options = TrainingOptions::default();
        let (y, tape) = self.stack.record_training(&mut recorder, &self.x, &mut state, &Sequence::new(), &options)?;
        let _gradient = tape.record_backward(&mut recorder, &y, None)?;
        Ok((recorder, y))
    }

    /// The median milliseconds of several forward and backward passes by the GPU's own clock (see [`Loaded::on_device_ms`]).
    #[cfg(feature = "gpu")]
    pub(super) fn on_device_ms(&self, runs: usize) -> Result<Option<f64>> {
        let Device::Gpu(gpu) = self.stack.device() else { return Ok(None) };
        profiled(gpu, runs, || Ok(self.record()?.0))
    }

    /// Always `None`: the program was built without the feature `gpu`.
    #[cfg(not(feature = "gpu"))]
    pub(super) fn on_device_ms(&self, _runs: usize) -> Result<Option<f64>> {
        Ok(None)
    }

    /// The output of the last pass, `[T, B, D O]`.
    pub(super) fn output(&self) -> Result<Array3<f32>> {
        self.y.to_array()
    }
}

/// The median milliseconds of several recordings by the GPU's own clock; `None` if the device has no such clock.
#[cfg(feature = "gpu")]
fn profiled(gpu: &GpuDevice, runs: usize, mut record: impl FnMut() -> Result<Recorder>) -> Result<Option<f64>> {
    if !gpu.has_timestamps() {
        return Ok(None);
    }
    let mut times = Vec::new();
    for _ in 0..runs {
        times.push(milliseconds(record()?.submit_profiled(Detail::Passes)?.total));
    }
    times.sort_by(f64::total_cmp);
    Ok(times.get(times.len() / 2).copied())
}

/// An input that varies in every element.
fn waves(shape: &Shape) -> Result<Array3<f32>> {
    let sizes @ [_, batch, input] = [shape.time, shape.batch, shape.input];
    array(sizes, |at| ((7 * (at / (batch * input)) + 3 * (at / input % batch) + at % input) as f32 * 0.37).sin())
}

/// An array of numbers that depend on their index; an error if memory is short.
fn array(sizes: [usize; 3], number: impl FnMut(usize) -> f32) -> Result<Array3<f32>> {
    let numbers = numbers("bench", sizes.iter().product(), number)?;
    let found = vec![numbers.len()];
    Array3::from_shape_vec(sizes, numbers).map_err(|_| misfit("x", &sizes, found))
}

fn misfit(what: &'static str, expected: &[usize], found: Vec<usize>) -> Error {
    Error::Shape { op: "bench", what, expected: format!("{expected:?}"), found }
}

/// The dispatches and submissions of `run`; 0 without a GPU.
pub(super) fn counted(device: &Device, run: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
    match device {
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let before = gpu.counters();
            run()?;
            let spent = gpu.counters() - before;
            Ok((spent.dispatches, spent.submits))
        }
        _ => {
            drop(run);
            Ok((0, 0))
        }
    }
}

pub(super) fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// The largest number of runs in a series.
const MOST_RUNS: usize = 100_000;
/// One hour in milliseconds, the longest budget.
const MOST_MS: f64 = 3.6e6;

/// The time budget of a shape, and its smallest number of runs.
#[derive(Clone, Copy)]
pub(super) struct Budget {
    ms: f64,
    min_runs: usize,
}

impl Budget {
    /// Refuses numbers with which a series would not end.
    pub(super) fn new(ms: f64, min_runs: usize) -> Result<Self> {
        let refuse = |what, expected, found| Err(Error::Value { op: "bench", what, expected, found });
        if !(0.0..=MOST_MS).contains(&ms) {
            return refuse("--budget-ms", "between 0 and 3600000, an hour", ms.to_string());
        }
        if min_runs > MOST_RUNS {
            return refuse("--min-runs", "at most 100000", min_runs.to_string());
        }
        Ok(Self { ms, min_runs })
    }
}

/// Runs until the budget is spent and the smallest number of runs is reached, but no longer than ten budgets.
pub(super) fn series(budget: Budget, mut run: impl FnMut() -> Result<()>) -> Result<Times> {
    let Budget { ms, min_runs } = budget;
    let begin = Instant::now();
    let mut times: Vec<f64> = Vec::new();
    loop {
        let spent = milliseconds(begin.elapsed());
        let within = spent < ms && times.len() < MOST_RUNS;
        let wanted = times.len() < min_runs && spent < 10.0 * ms;
        if !(within || wanted)
            && let Some(times) = Times::of(std::mem::take(&mut times))
        {
            return Ok(times);
        }
        let start = Instant::now();
        run()?;
        times.push(milliseconds(start.elapsed()));
    }
}

/// Calls until the time per call has settled: three calls in a row are at most a tenth faster than the best before them.
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

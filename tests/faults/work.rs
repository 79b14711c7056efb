//! Every call of Vulkan fails in turn while something works.

use gatewise::cell::Sequence;
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{Gru, Lstm, State, TrainingOptions};
use gatewise::train::{Adam, Linear, Loss, Parameters, Recurrent, Trainer};
use gatewise::{Device, Error, Result, Tensor};
use ndarray::{Array, Array3};

use crate::driver::{Driver, Fault};

/// Calls at which each function fails.
const PLACES: i64 = 5;
/// Calls of the library in a run.
const CALLS: usize = 6;

/// Something that is called again and again, each call going on where the one before has ended.
pub(crate) trait Work: Sized {
    /// Begins on a device that works.
    fn begin(device: &Device) -> Result<Self>;
    /// Makes the call of this number; returns the bits of its result.
    fn call(&mut self, number: usize) -> Result<Vec<u32>>;
    /// Puts what was saved after call `number - 1` on another device: the way back after a loss.
    fn resume(device: &Device, number: usize) -> Result<Self> {
        let mut work = Self::begin(device)?;
        for earlier in 0..number {
            work.call(earlier)?;
        }
        Ok(work)
    }
}

fn open() -> Device {
    Device::Gpu(GpuDevice::new(&GpuOptions { software: true, ..Default::default() }).expect("opens"))
}

/// Runs the work undisturbed, then once for every fault.
pub(crate) fn run<W: Work>() {
    let driver = Driver::loaded();
    let mut work = W::begin(&open()).expect("begins");
    driver.disarm();
    let right: Vec<Vec<u32>> = (0..CALLS).map(|number| work.call(number).expect("runs")).collect();
    let faults = driver.faults(PLACES);
    assert!(faults.len() >= 20, "{} faults", faults.len());
    let mut met = 0;
    for fault in &faults {
        println!("{}: {fault:?}", driver.name(fault.function).expect("a name"));
        // Pipelines and memory of the run before would spare a device the calls that are to fail.
        met += usize::from(disturbed::<W>(&driver, open(), *fault, &right));
    }
    driver.disarm();
    println!("{} faults, {met} met by an error", faults.len());
    assert!(met > faults.len() / 4, "only {met} of {} faults were met", faults.len());
}

/// One run under a fault: every call gives the right bits, or an error and the right bits when it is made again. Returns
/// whether there was an error.
fn disturbed<W: Work>(driver: &Driver, mut device: Device, fault: Fault, right: &[Vec<u32>]) -> bool {
    driver.disarm();
    let mut work = W::begin(&device).expect("begins");
    driver.arm(fault);
    let mut failed = false;
    for (number, right) in right.iter().enumerate() {
        let error = match work.call(number) {
            Ok(bits) => {
                assert!(bits == *right, "call {number} is wrong, after an error: {failed}");
                continue;
            }
            Err(error) => error,
        };
        println!("  call {number}: {error}");
        assert!(!error.to_string().contains('\n'), "one line: {error}");
        failed = true;
        match error {
            Error::DeviceLost { .. } => {
                for _ in 0..2 {
                    let again = work.call(number).expect_err("a lost device stays lost");
                    assert!(matches!(again, Error::DeviceLost { .. }), "{again}");
                }
                driver.disarm();
                drop((work, std::mem::replace(&mut device, open())));
                work = W::resume(&device, number).expect("a new device");
            }
            Error::OutOfMemory { .. } | Error::Gpu { .. } => driver.disarm(),
            error => panic!("{error}"),
        }
        match work.call(number) {
            Ok(bits) => assert!(bits == *right, "call {number} is wrong when it is made again"),
            Err(error) => panic!("call {number} fails without a fault: {error}"),
        }
    }
    driver.disarm();
    failed
}

fn wave(time: usize, batch: usize, width: usize, seed: usize) -> Array3<f32> {
    Array::from_shape_fn((time, batch, width), |(t, b, i)| ((t * 31 + b * 17 + i * 7 + seed * 5) as f32 * 0.37).sin())
}

/// A stack of layers, its results read back in every way.
pub(crate) struct Layer {
    lstm: Lstm,
    state: State,
}

impl Work for Layer {
    fn begin(device: &Device) -> Result<Self> {
        let lstm = Lstm::config(8, 16).layers(2).random(device, 1)?;
        let state = lstm.zero_state(3)?;
        Ok(Self { lstm, state })
    }

    fn call(&mut self, number: usize) -> Result<Vec<u32>> {
        let device = self.lstm.device().clone();
        // Ever other shapes ask for ever other memory.
        let x = Tensor::from_array(&device, &wave(3 + 5 * number, 3, 8, number))?;
        let before = self.state.try_clone()?;
        let y = match number % 3 {
            0 => self.lstm.forward(&x, &mut self.state).and_then(|y| y.to_vec()),
            1 => self.lstm.forward(&x, &mut self.state).and_then(|y| pollster::block_on(y.to_vec_async())),
            _ => {
                let mut recorder = device.recorder();
                let y = self.lstm.record(&mut recorder, &x, &mut self.state, &Sequence::new())?;
                recorder.submit_and_read(&y).and_then(|read| read.wait())
            }
        };
        // A call that has succeeded has moved the state, whether or not its result could be read.
        let y = y.inspect_err(|_| self.state = before)?;
        Ok(y.into_iter().map(f32::to_bits).collect())
    }
}

/// Steps of training.
pub(crate) struct Training {
    trainer: Trainer,
    gru: Recurrent,
    head: Linear,
}

impl Work for Training {
    fn begin(device: &Device) -> Result<Self> {
        let mut parameters = Parameters::new(device, 7);
        let gru = Recurrent::new(&mut parameters, "gru.", &Gru::config(8, 6))?;
        let head = Linear::new(&mut parameters, "head.", [6, 2])?;
        Ok(Self { trainer: Trainer::new(parameters, Adam::default(), 0.01)?, gru, head })
    }

    fn call(&mut self, number: usize) -> Result<Vec<u32>> {
        let device = self.trainer.parameters().device().clone();
        let x = Tensor::from_array(&device, &wave(3 + 4 * number, 3, 8, number))?;
        let target = Tensor::zeros(&device, &[3, 2])?;
        let (gru, head) = (&self.gru, &self.head);
        let report = self.trainer.step(|graph| {
            let x = graph.input(&x);
            let y = gru.forward(graph, x, None, &Sequence::new(), &TrainingOptions::default())?;
            let last = graph.last_step(y, &Sequence::new())?;
            let scores = head.forward(graph, last)?;
            graph.mean_squared_error(scores, &target, &Loss::default())
        })?;
        Ok(vec![report.loss.to_bits(), report.gradient_norm.to_bits()])
    }
}

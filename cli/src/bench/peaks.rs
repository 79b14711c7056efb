//! The peaks of a device, and the least time of a shape that follows from them.

use gatewise::cell::WeightType;
use gatewise::{Device, Result};
use serde::Serialize;

use super::machine::Machine;
use super::shapes::Shape;
use crate::choice::adapter;
use crate::output::say;

/// The least time between two steps of a GPU whose workgroups exchange a state: one store to the shared cache and one load from it.
const EXCHANGE: f64 = 0.5e-6;

/// The peaks of a device; the fields of the JSON line are a contract.
#[derive(Clone, Serialize)]
pub(super) struct Peaks {
    device: &'static str,
    adapter: Option<String>,
    driver: Option<String>,
    threads: usize,
    instructions: Option<&'static str>,
    /// Whether the times come from the GPU's own clock.
    timestamps: bool,
    fma_gflops: f64,
    /// The rate of a product whose operands lie in the first-level cache.
    product_gflops: Option<f64>,
    copy_gb_s: Option<f64>,
    read: Vec<Bandwidth>,
    dispatch_us: Option<f64>,
    wide_dispatch_us: Option<f64>,
    wide_workgroups: Option<usize>,
    submit_us: Option<f64>,
    read_back_us: Option<f64>,
    #[serde(flatten)]
    machine: Machine,
}

/// The rate of reading an array repeatedly.
#[derive(Clone, Copy, Serialize)]
struct Bandwidth {
    bytes: usize,
    gb_s: f64,
}

impl Peaks {
    /// Measures a device; `None` for the reference, whose speed does not matter.
    pub(super) fn measure(device: &Device, machine: &Machine) -> Result<Option<Self>> {
        let (kind, adapter) = adapter(device);
        let list = |read: &[(usize, f64)]| {
            read.iter().map(|&(bytes, rate)| Bandwidth { bytes, gb_s: rate / 1e9 }).collect::<Vec<_>>()
        };
        let none = Self {
            device: kind,
            adapter,
            driver: super::machine::driver(device),
            threads: super::threads(device),
            instructions: None,
            timestamps: false,
            fma_gflops: 0.0,
            product_gflops: None,
            copy_gb_s: None,
            read: Vec::new(),
            dispatch_us: None,
            wide_dispatch_us: None,
            wide_workgroups: None,
            submit_us: None,
            read_back_us: None,
            machine: machine.clone(),
        };
        if let Some(cpu) = device.cpu() {
            let peaks = cpu.measure_peaks();
            return Ok(Some(Self {
                instructions: Some(cpu.instructions().name()),
                fma_gflops: peaks.flops / 1e9,
                product_gflops: Some(peaks.product / 1e9),
                read: list(&peaks.read),
                ..none
            }));
        }
        match device {
            #[cfg(feature = "gpu")]
            Device::Gpu(gpu) => {
                let peaks = gpu.measure_peaks()?;
                Ok(Some(Self {
                    timestamps: peaks.timestamps,
                    fma_gflops: peaks.flops / 1e9,
                    copy_gb_s: Some(peaks.copy / 1e9),
                    read: list(&peaks.read),
                    dispatch_us: Some(peaks.dispatch * 1e6),
                    wide_dispatch_us: Some(peaks.wide_dispatch * 1e6),
                    wide_workgroups: Some(gatewise::gpu::Peaks::MANY_WORKGROUPS),
                    submit_us: Some(peaks.submit * 1e6),
                    read_back_us: Some(peaks.read_back * 1e6),
                    ..none
                }))
            }
            _ => Ok(None),
        }
    }

    /// The least milliseconds of a pass: first by the hardware alone, then with one dispatch per step.
    ///
    /// A step takes the longest of three times: (1) reading the recurrent weights of all directions from the fastest memory that holds
    /// them; (2) multiplying by them; (3) waiting for the step before. The input products come first.
    /// Training runs through the steps once more. It multiplies by the input weights twice more, and by each step's gradients once.
    /// If registers keep the recurrent weights, `kept` is the number of time chunks, and each chunk reads them once. One dispatch per
    /// step reads them at every step.
    pub(super) fn least_ms(
        &self,
        shape: &Shape,
        weight_type: WeightType,
        training: bool,
        kept: Option<usize>,
    ) -> [f64; 2] {
        let weight = weight_type.bytes() as f64;
        let [hidden, directions, time, batch] =
            [shape.hidden, shape.directions(), shape.time, shape.batch].map(|n| n as f64);
        let rows = directions * shape.gates() * hidden;
        let flops = self.fma_gflops * 1e9;
        let reads = kept.map_or(time, |chunks| chunks as f64);
        let (mut before, mut after, mut as_planned, mut with_dispatches) = (0.0, 0.0, 0.0, 0.0);
        for layer in 0..shape.layers {
            let input = if layer == 0 { shape.input as f64 } else { hidden * directions };
            let moved = rows * input * weight + time * batch * (input + rows) * 4.0;
            before += f64::max(2.0 * rows * input * batch * time / flops, moved / self.bandwidth(moved));
            let weights = rows * hidden * weight;
            let (product, reading) = (2.0 * rows * hidden * batch / flops, weights / self.bandwidth(weights));
            as_planned += f64::max(time * product, reads * reading);
            with_dispatches += time * f64::max(product, reading);
            if training {
                let stored = 2.0 * (rows + directions * hidden) * batch * time * 4.0;
                after += 2.0 * f64::max(2.0 * rows * input * batch * time / flops, moved / self.bandwidth(moved));
                after += 2.0 * rows * hidden * batch * time / flops + stored / self.bandwidth(stored);
            }
        }
        let passes = if training { 2.0 } else { 1.0 };
        // Layers that run as a wave wait at the same time.
        let steps = (time + shape.layers as f64 - 1.0).max(time);
        let on_gpu = self.dispatch_us.is_some();
        let least = |work: f64, wait: f64| 1e3 * (before + after + passes * f64::max(work, steps * wait));
        let dispatch = self.dispatch_us.unwrap_or(0.0) * 1e-6;
        [least(as_planned, if on_gpu { EXCHANGE } else { 0.0 }), least(with_dispatches, dispatch)]
    }

    /// The bytes per second that an array of this size is read with: the best rate measured with at least that size.
    fn bandwidth(&self, bytes: f64) -> f64 {
        let fits = self.read.iter().filter(|read| read.bytes as f64 >= bytes).map(|read| read.gb_s);
        let largest = self.read.last().map(|read| read.gb_s);
        let beyond = self.copy_gb_s.into_iter().chain(largest).fold(0.0, f64::max);
        1e9 * fits.fold(beyond, f64::max)
    }

    pub(super) fn print(&self) -> Result<()> {
        let name = self.adapter.clone().unwrap_or_else(|| self.machine.cpu.clone());
        let with = self.instructions.map_or(String::new(), |set| format!(", {} thread(s), {set}", self.threads));
        say!("{} ({name}{with})", self.device)?;
        let clock = if self.timestamps { "the adapter's clock" } else { "the host's clock" };
        say!("  multiply-adds      {:>10.1} GFLOP/s", self.fma_gflops)?;
        if let Some(rate) = self.product_gflops {
            say!("  products           {rate:>10.1} GFLOP/s, {:.0} % of it", 100.0 * rate / self.fma_gflops)?;
        }
        for Bandwidth { bytes, gb_s } in &self.read {
            say!("  reads of {:>9} {gb_s:>10.1} GB/s", size(*bytes))?;
        }
        let lines = [
            ("copy", self.copy_gb_s, "GB/s"),
            ("dispatch", self.dispatch_us, "us after another"),
            ("wide dispatch", self.wide_dispatch_us, "us after another, of 1,024 workgroups"),
            ("submission", self.submit_us, "us until it is done, seen from the host"),
            ("with read-back", self.read_back_us, "us"),
        ];
        for (what, value, unit) in lines {
            if let Some(value) = value {
                say!("  {what:<18} {value:>10.1} {unit}")?;
            }
        }
        if self.dispatch_us.is_some() {
            say!("  by {clock}")?;
        }
        Ok(())
    }
}

fn size(bytes: usize) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{} KiB", bytes >> 10) }
}

#[cfg(test)]
mod tests {
    use super::{Bandwidth, Peaks};
    use crate::bench::machine::Machine;
    use crate::bench::shapes::Shape;
    use gatewise::cell::WeightType;

    fn peaks(dispatch_us: Option<f64>) -> Peaks {
        Peaks {
            device: "gpu",
            adapter: None,
            driver: None,
            threads: 1,
            instructions: None,
            timestamps: true,
            fma_gflops: 1000.0,
            product_gflops: None,
            copy_gb_s: Some(100.0),
            read: vec![Bandwidth { bytes: 1 << 20, gb_s: 1000.0 }, Bandwidth { bytes: 1 << 26, gb_s: 200.0 }],
            dispatch_us,
            wide_dispatch_us: None,
            wide_workgroups: None,
            submit_us: None,
            read_back_us: None,
            machine: Machine::of_this_process(),
        }
    }

    fn lstm(hidden: usize, time: usize, batch: usize) -> Shape {
        Shape::new("x".to_owned(), "lstm", hidden, hidden, time, batch)
    }

    fn near(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found}, expected {expected}");
    }

    #[test]
    fn the_least_time_is_the_largest_of_reading_multiplying_and_waiting() {
        // 4 x 1024 x 1024 x 4 bytes = 16.8 MB at 200 GB/s: 83.9 us per step. The input product reads as much once, and x and the
        // gates of one step.
        let bytes = 4.0 * 1024.0 * 1024.0 * 4.0;
        let input = |steps: f64| (bytes + steps * (1024.0 + 4096.0) * 4.0) / 200e9;
        let [physical, dispatched] = peaks(Some(3.0)).least_ms(&lstm(1024, 10, 1), WeightType::F32, false, None);
        near(physical, 1e3 * (input(10.0) + 10.0 * bytes / 200e9));
        near(dispatched, physical);
        // Weights of half the width take half the time.
        let [half, _] = peaks(Some(3.0)).least_ms(&lstm(1024, 1000, 1), WeightType::F16, false, None);
        let [whole, _] = peaks(Some(3.0)).least_ms(&lstm(1024, 1000, 1), WeightType::F32, false, None);
        assert!((0.5..0.56).contains(&(half / whole)), "{half}, {whole}");
        // 64 units: 64 KiB take less than a microsecond, so the wait decides.
        let waits = |wait: f64| 100.0 * wait;
        let [physical, dispatched] = peaks(Some(3.0)).least_ms(&lstm(64, 100, 1), WeightType::F32, false, None);
        near(dispatched - physical, 1e3 * (waits(3e-6) - waits(0.5e-6)));
        // Many rows: 2 x 4 x 64 x 64 x 4096 operations per step at 1 TFLOP/s.
        let [rows, _] = peaks(Some(3.0)).least_ms(&lstm(64, 100, 4096), WeightType::F32, false, None);
        assert!(rows > 100.0 * 2.0 * 4.0 * 64.0 * 64.0 * 4096.0 / 1e12 * 1e3);
        // Weights in registers are read once per chunk: the products or the waits remain.
        let large = |kept, batch| peaks(Some(3.0)).least_ms(&lstm(1024, 1000, batch), WeightType::F32, false, kept);
        let products = 1000.0 * 2.0 * 4.0 * 1024.0 * 1024.0 / 1e12;
        let [physical, dispatched] = large(Some(2), 1);
        near(physical, 1e3 * (products + products));
        near(dispatched, large(None, 1)[1]);
        near(large(Some(200), 1)[0], 1e3 * (products + 200.0 * bytes / 200e9));
        near(large(None, 1)[0], 1e3 * (products + 1000.0 * bytes / 200e9));
        near(large(Some(2), 64)[0], large(None, 64)[0]);
        // A CPU has no wait between steps.
        let [physical, dispatched] = peaks(None).least_ms(&lstm(64, 100, 1), WeightType::F32, false, None);
        near(physical, dispatched);
        assert!(physical < 1e3 * waits(0.5e-6));
    }

    #[test]
    fn training_takes_more_than_two_passes_and_less_than_four() {
        let of = |training: bool| peaks(Some(3.0)).least_ms(&lstm(512, 50, 32), WeightType::F32, training, None)[0];
        assert!((2.0..4.0).contains(&(of(true) / of(false))));
    }

    #[test]
    fn directions_and_layers_add_up_but_wait_together() {
        let one = lstm(1024, 10, 1);
        let both = Shape { bidirectional: true, ..one.clone() };
        let three = Shape { layers: 3, ..one.clone() };
        let of = |shape: &Shape| peaks(Some(3.0)).least_ms(shape, WeightType::F32, false, None)[0];
        assert!((1.9..2.1).contains(&(of(&both) / of(&one))));
        assert!((2.9..3.1).contains(&(of(&three) / of(&one))));
        let waiting = |layers: usize| {
            peaks(Some(1e3)).least_ms(&Shape { layers, ..lstm(8, 10, 1) }, WeightType::F32, false, None)[1]
        };
        near(((waiting(3) - waiting(1)) * 100.0).round(), 200.0);
    }
}

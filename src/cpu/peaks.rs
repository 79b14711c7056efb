//! The processor's peak rates, measured with the registers that the CPU path uses.
#![allow(unsafe_code)]

mod multiply_adds;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::device::CpuDevice;
use super::pool::{Barrier, ThreadPool};
use super::product::{OperandRows, Product, ProductTarget};
use super::simd::{Kernel, MOST_LANES, Simd, Verified};
use super::stored::{PanelSlice, PanelWeights};
use multiply_adds::MultiplyAdds;

/// A processor's peak rates with all threads of the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Floating-point operations per second in f32 multiply-adds, each of which counts as two.
    pub flops: f64,
    /// Floating-point operations per second of a product in f32 whose operands lie in the first-level cache. It shows how close
    /// the tiles come to [`Peaks::flops`].
    pub product: f64,
    /// Read rates for growing sizes: the bytes of all threads' parts, and bytes per second. Each thread reads its own
    /// part repeatedly. The list ends before the first size for which there is no memory, or which exceeds 4 GiB for
    /// all threads.
    pub read: Vec<(usize, f64)>,
}

const KIBIBYTE: usize = 1 << 10;
const MEBIBYTE: usize = 1 << 20;
/// Bytes of a thread's part: from the first-level cache to memory.
const PARTS: [usize; 6] = [16 * KIBIBYTE, 256 * KIBIBYTE, MEBIBYTE, 4 * MEBIBYTE, 16 * MEBIBYTE, 64 * MEBIBYTE];
/// The most bytes of all threads' parts: more than any processor's caches.
const MOST_BYTES: u64 = 4 << 30;
/// The time for which a thread works before the threads meet again.
const SLICE: Duration = Duration::from_millis(8);

/// The sum of an array, read `times` times.
struct ReadArray<'a> {
    data: &'a [f32],
    times: usize,
}

impl Kernel for ReadArray<'_> {
    type Output = (f32, usize);

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> (f32, usize) {
        const REGISTERS: usize = 8;
        let mut sums = [simd.splat(0.0); REGISTERS];
        for _ in 0..self.times {
            for block in black_box(self.data).chunks_exact(REGISTERS * S::LANES) {
                for (at, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: a block holds `REGISTERS` registers, and `at` is below that.
                    *sum = simd.add(*sum, unsafe { simd.load(block.as_ptr().add(at * S::LANES)) });
                }
            }
        }
        let sum = sums[1..].iter().fold(sums[0], |sum, other| simd.add(sum, *other));
        let mut lanes = [0.0; MOST_LANES];
        // SAFETY: `lanes` has room for the lanes of any register.
        unsafe { simd.store(lanes.as_mut_ptr(), sum) };
        (lanes.iter().sum(), size_of_val(self.data) * self.times)
    }
}

/// Rows, strips and depth of the product that is measured: 20 KiB at most, and whole tiles of every set.
const PRODUCT_ROWS: usize = 24;
const PRODUCT_STRIPS: usize = 2;
const PRODUCT_DEPTH: usize = 96;
const PRODUCTS: usize = 64;

/// Operands and result of a product in the first-level cache.
struct CachedProduct {
    set: Verified,
    /// Numbers of a strip's row.
    width: usize,
    rows: Vec<f32>,
    strips: Vec<f32>,
    columns: Vec<f32>,
    out: Vec<f32>,
}

impl CachedProduct {
    fn new(set: Verified) -> Option<Self> {
        let numbers = |count: usize| {
            let mut numbers = Vec::new();
            numbers.try_reserve_exact(count).ok()?;
            numbers.resize(count, 0.5_f32);
            Some(numbers)
        };
        let width = set.strip(4) * set.lanes();
        Some(Self {
            set,
            width,
            rows: numbers(PRODUCT_ROWS * PRODUCT_DEPTH)?,
            strips: numbers(PRODUCT_STRIPS * PRODUCT_DEPTH * width)?,
            columns: numbers(PRODUCT_STRIPS * width)?,
            out: numbers(PRODUCT_ROWS * PRODUCT_STRIPS * width)?,
        })
    }

    /// A number of the result, and the operations done.
    fn run(&mut self) -> (f32, usize) {
        let Self { set, width, .. } = *self;
        for _ in 0..PRODUCTS {
            let panels = PanelSlice {
                weights: PanelWeights::F32(black_box(&self.strips)),
                scale: &self.columns,
                bias: &self.columns,
                depth: PRODUCT_DEPTH,
                vectors: set.strip(4),
                count: PRODUCT_STRIPS,
                last_first: false,
            };
            let rows = OperandRows { numbers: &self.rows, stride: PRODUCT_DEPTH, count: PRODUCT_ROWS };
            let row_stride = PRODUCT_STRIPS * width;
            let target = ProductTarget { numbers: &mut self.out, panel_stride: width, row_stride };
            set.run(Product { panels, rows, target });
        }
        (self.out[0], 2 * PRODUCTS * PRODUCT_ROWS * PRODUCT_DEPTH * PRODUCT_STRIPS * width)
    }
}

impl CpuDevice {
    /// Measures the processor with the device's instructions and number of threads, in about half a second. If the system gives
    /// fewer threads, it measures with those.
    pub fn measure_peaks(&self) -> Peaks {
        // A pool of its own: the device's threads may be busy with a call.
        measure(self.verified(), &ThreadPool::new(self.threads()))
    }
}

fn measure(instructions: Verified, pool: &ThreadPool) -> Peaks {
    let flops = rate(pool, |_| Some(()), |_| instructions.run(MultiplyAdds { rounds: 20_000 }));
    let product = rate(pool, |_| CachedProduct::new(instructions), CachedProduct::run);
    let mut read = Vec::with_capacity(PARTS.len());
    for bytes in PARTS.into_iter().filter(|&bytes| (bytes as u64) * (pool.threads() as u64) <= MOST_BYTES) {
        let times = (2 * MEBIBYTE / bytes).max(1);
        let part = |thread: usize| {
            let (count, mut part) = (bytes / size_of::<f32>(), Vec::new());
            part.try_reserve_exact(count).ok()?;
            part.resize(count, 1.0 + thread as f32);
            Some(part)
        };
        let Some((threads, rate)) = rate(pool, part, |data| instructions.run(ReadArray { data, times })) else { break };
        read.push((bytes * threads, rate));
    }
    let of = |rate: Option<(usize, f64)>| rate.map_or(0.0, |(_, rate)| rate);
    Peaks { flops: of(flops), product: of(product), read }
}

/// The number of threads, and the work per second of all of them: the best of several slices of time that all threads begin
/// together. `None` if a thread cannot prepare its data.
fn rate<D>(
    pool: &ThreadPool,
    prepare: impl Fn(usize) -> Option<D> + Sync,
    work: impl Fn(&mut D) -> (f32, usize) + Sync,
) -> Option<(usize, f64)> {
    const SLICES: usize = 5;
    let barrier = Barrier::default();
    let unprepared = AtomicBool::new(false);
    let rates: Mutex<Vec<[f64; SLICES]>> = Mutex::new(Vec::with_capacity(pool.threads()));
    pool.run(pool.threads(), &[&barrier], |thread, threads| {
        let mut data = prepare(thread);
        match &mut data {
            Some(data) => drop(black_box(work(data))),
            None => unprepared.store(true, Ordering::Relaxed),
        }
        barrier.wait(threads);
        let Some(mut data) = data.filter(|_| !unprepared.load(Ordering::Relaxed)) else { return };
        let own = std::array::from_fn(|_| {
            barrier.wait(threads);
            let (begin, mut done) = (Instant::now(), 0);
            while begin.elapsed() < SLICE {
                let (value, more) = work(&mut data);
                black_box(value);
                done += more;
            }
            done as f64 / begin.elapsed().as_secs_f64()
        });
        rates.lock().unwrap_or_else(PoisonError::into_inner).push(own);
    });
    let rates = rates.into_inner().unwrap_or_else(PoisonError::into_inner);
    let best = (0..SLICES).map(|slice| rates.iter().map(|rate| rate[slice]).sum::<f64>()).fold(0.0, f64::max);
    (!rates.is_empty()).then_some((rates.len(), best))
}

#[cfg(test)]
mod tests {
    use super::multiply_adds::{FIRST, MultiplyAdds, chains};
    use super::{PARTS, ReadArray, ThreadPool, measure, rate};
    use crate::cpu::simd::Verified;
    use crate::cpu::{CpuDevice, CpuOptions, Instructions};

    #[test]
    fn the_work_is_done_and_counted() {
        for set in Instructions::ALL.into_iter().filter(|set| set.available()) {
            let verified = set.verify().expect("available");
            let (value, operations) = verified.run(MultiplyAdds { rounds: 3 });
            let chain = |first: f32| (0..3).fold(first, |x, _| x * 0.999 + 0.001);
            let count = chains(verified.tiles());
            let lanes = |at: usize| FIRST[at..at + verified.lanes()].iter().map(|&first| chain(first)).sum::<f32>();
            let expected: f32 = (0..count).map(lanes).sum();
            assert!((value - expected).abs() < 1e-3 * expected, "{set}: {value}, {expected}");
            assert_eq!(operations, 2 * 3 * count * verified.lanes());
            let data: Vec<f32> = (0..1024).map(|x| x as f32 * 0.5).collect();
            let (sum, bytes) = verified.run(ReadArray { data: &data, times: 2 });
            assert_eq!((sum, bytes), (2.0 * data.iter().sum::<f32>(), 8192), "{set}");
        }
    }

    #[test]
    fn peaks_are_measured_with_every_thread() {
        let peaks =
            CpuDevice::new(&CpuOptions { threads: Some(2), ..Default::default() }).expect("opens").measure_peaks();
        assert!(peaks.flops > 1e6 && peaks.flops.is_finite());
        assert!(peaks.product > 1e6 && peaks.product.is_finite());
        assert!(
            peaks.read.windows(2).all(|pair| pair[0].0 < pair[1].0) && peaks.read.iter().all(|(_, rate)| *rate > 1e6)
        );
        assert_eq!(peaks.read[0].0, 2 * 16 * 1024);
    }

    #[test]
    fn peaks_are_measured_with_the_threads_that_there_are() {
        let peaks = measure(Verified::detect(), &ThreadPool::with_workers(9, 1));
        assert!(peaks.flops > 1e6 && peaks.flops.is_finite());
        assert!(peaks.read.iter().map(|(bytes, _)| *bytes).eq(PARTS.map(|bytes| 2 * bytes)), "{:?}", peaks.read);
    }

    #[test]
    fn a_size_without_memory_is_left_out() {
        let pool = ThreadPool::new(2);
        assert_eq!(rate(&pool, |thread| (thread == 0).then_some(()), |()| (0.0, 1)), None);
        assert!(rate(&pool, |_| Some(()), |()| (0.0, 1)).is_some_and(|(threads, rate)| threads == 2 && rate > 0.0));
    }
}

//! Measures an adapter's peak rates, by which all other times are judged.

use std::time::{Duration, Instant};

use super::ops::{WORKGROUP_SIZE, fold, grid, word};
use crate::error::Result;
use crate::gpu::kept::buffer::Buffer;
use crate::gpu::kept::kernel::{PEAK_COPY, PEAK_FMA, PEAK_READ, PEAK_STEP};
use crate::gpu::kept::uniform::uniform;
use crate::gpu::submit::GpuDevice;
use crate::gpu::submit::profile::Detail;
use crate::gpu::submit::recorder::Recorder;
use crate::plan::{AdapterClass, Work};

/// An adapter's peak rates, measured by small kernels: on the adapter's clock if it has one, else on the host's clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// Whether the adapter's own clock was read.
    pub timestamps: bool,
    /// Bytes per second that a copy of a large buffer reads and writes.
    pub copy: f64,
    /// For buffers of growing size that are read repeatedly: bytes of the buffer, bytes per second.
    pub read: Vec<(usize, f64)>,
    /// Floating-point operations per second of multiply-adds in f32; each counts as two.
    pub flops: f64,
    /// Seconds per dispatch of one workgroup, if each dispatch waits for the one before it.
    pub dispatch: f64,
    /// Seconds per dispatch of [`Peaks::MANY_WORKGROUPS`] workgroups, if each dispatch waits for the one before it.
    pub wide_dispatch: f64,
    /// Seconds from a submission of one dispatch to its end, on the host's clock.
    pub submit: f64,
    /// Seconds from a submission of one dispatch to the arrival of four bytes that it reads back, on the host's clock.
    pub read_back: f64,
}

impl Peaks {
    /// Number of workgroups of the dispatches that [`Peaks::wide_dispatch`] times.
    pub const MANY_WORKGROUPS: usize = 1024;
}

uniform! {
    struct PeakCopyDims { count: u32 }
    struct PeakReadDims { count: u32, mask: u32, step: u32, reads: u32 }
    struct PeakFmaDims { count: u32, iterations: u32, factor: f32, summand: f32 }
    struct PeakStepDims { count: u32 }
}

const MEBIBYTE: usize = 1 << 20;
/// Bytes of a word of the kernels.
const WORD: usize = 16;
/// Number of consecutive dispatches in one measurement.
const CHAIN: usize = 1000;
/// Floating-point operations of an invocation of `peak_fma` per iteration.
const FMA_OPERATIONS: usize = 128;

/// The work of the kernels: enough to keep the device busy for some milliseconds.
struct Load {
    copy_bytes: usize,
    read_bytes: &'static [usize],
    /// Bytes that one measurement of reads reads in all.
    read_total: usize,
    invocations: usize,
    iterations: usize,
}

const HARDWARE: Load = Load {
    copy_bytes: 256 * MEBIBYTE,
    read_bytes: &[MEBIBYTE / 4, MEBIBYTE, 4 * MEBIBYTE, 16 * MEBIBYTE, 32 * MEBIBYTE, 64 * MEBIBYTE, 256 * MEBIBYTE],
    read_total: 2048 * MEBIBYTE,
    invocations: 1 << 19,
    iterations: 2048,
};

const SOFTWARE: Load = Load {
    copy_bytes: 16 * MEBIBYTE,
    read_bytes: &[MEBIBYTE / 4, MEBIBYTE, 4 * MEBIBYTE, 16 * MEBIBYTE],
    read_total: 16 * MEBIBYTE,
    invocations: 1 << 12,
    iterations: 128,
};

impl GpuDevice {
    /// Measures the adapter: well under a second on a GPU, some seconds on a software adapter.
    ///
    /// # Errors
    /// As any call: [`Error::OutOfMemory`](crate::Error::OutOfMemory),
    /// [`Error::DeviceLost`](crate::Error::DeviceLost).
    pub fn measure_peaks(&self) -> Result<Peaks> {
        let load = if self.plan_limits().class == AdapterClass::Software { SOFTWARE } else { HARDWARE };
        let largest = usize::try_from(self.plan_limits().binding_bytes).unwrap_or(usize::MAX);
        let read = load.read_bytes.iter().filter(|bytes| **bytes <= largest);
        let read = read.map(|&bytes| Ok((bytes, self.peak_read(bytes, &load)?))).collect::<Result<_>>()?;
        Ok(Peaks {
            timestamps: self.has_timestamps(),
            copy: self.peak_copy(load.copy_bytes.min(largest / 2 / MEBIBYTE * MEBIBYTE))?,
            read,
            flops: self.peak_flops(&load)?,
            dispatch: self.peak_dispatch(1)?,
            wide_dispatch: self.peak_dispatch(Peaks::MANY_WORKGROUPS)?,
            submit: self.peak_submit(false)?,
            read_back: self.peak_submit(true)?,
        })
    }

    /// Seconds of the fastest of several submissions.
    fn fastest(&self, record: impl Fn(&mut Recorder) -> Result<()>) -> Result<f64> {
        let mut fastest = Duration::MAX;
        let begin = Instant::now();
        // The first run compiles and allocates, so it does not count. The next ones raise clocks.
        for run in 0.. {
            let mut recorder = Recorder::new(self);
            record(&mut recorder)?;
            let time = if self.has_timestamps() {
                recorder.submit_profiled(Detail::Passes)?.total
            } else {
                let begin = Instant::now();
                recorder.submit_and_wait()?;
                begin.elapsed()
            };
            if run > 0 {
                fastest = fastest.min(time);
            }
            if run >= 20 || (run >= 3 && begin.elapsed() > Duration::from_millis(300)) {
                break;
            }
        }
        Ok(fastest.as_secs_f64().max(1e-9))
    }

    fn peak_copy(&self, bytes: usize) -> Result<f64> {
        let count = bytes / WORD;
        let x = Buffer::zeros(self, PEAK_COPY.name, bytes / 4)?;
        let y = Buffer::new(self, PEAK_COPY.name, bytes / 4)?;
        let dims = PeakCopyDims { count: word(self, PEAK_COPY.name, count)? };
        let work = Work::of(8 * count as u64, 2 * bytes as u64);
        let grid = fold(self, PEAK_COPY.name, count.div_ceil(WORKGROUP_SIZE), work)?;
        let seconds = self.fastest(|recorder| {
            let bound = recorder.bind(&PEAK_COPY, &Vec::new(), [x.clone(), y.clone()])?;
            recorder.dispatch(bound, &dims, &grid)
        })?;
        Ok(2.0 * bytes as f64 / seconds)
    }

    fn peak_read(&self, bytes: usize, load: &Load) -> Result<f64> {
        let (name, words) = (PEAK_READ.name, bytes / WORD);
        // Small buffers are read by as many invocations as large ones, each word by several of them.
        let count = load.invocations.min(load.read_total / WORD / 4);
        let reads = (load.read_total / WORD / count).max(4);
        let x = Buffer::zeros(self, name, bytes / 4)?;
        let y = Buffer::new(self, name, count * WORD / 4)?;
        let dims = PeakReadDims {
            count: word(self, name, count)?,
            mask: word(self, name, words - 1)?,
            // No multiple of the buffer's length, so that no read of an invocation repeats the one before.
            step: word(self, name, count + WORKGROUP_SIZE)?,
            reads: word(self, name, reads)?,
        };
        let work = Work::of((4 * count * reads) as u64, (count * reads * WORD) as u64);
        let grid = fold(self, name, count.div_ceil(WORKGROUP_SIZE), work)?;
        let seconds = self.fastest(|recorder| {
            let bound = recorder.bind(&PEAK_READ, &Vec::new(), [x.clone(), y.clone()])?;
            recorder.dispatch(bound, &dims, &grid)
        })?;
        Ok((count * reads * WORD) as f64 / seconds)
    }

    fn peak_flops(&self, load: &Load) -> Result<f64> {
        let (name, count) = (PEAK_FMA.name, load.invocations);
        let y = Buffer::new(self, name, count * WORD / 4)?;
        let iterations = word(self, name, load.iterations)?;
        let dims = PeakFmaDims { count: word(self, name, count)?, iterations, factor: 0.999, summand: 0.001 };
        // The estimate assumes that kernels reach a fifth of the peak rate, but this one has nothing but multiply-adds.
        let work = Work::of((count * load.iterations * FMA_OPERATIONS / 2 / 5) as u64, 0);
        let grid = fold(self, name, count.div_ceil(WORKGROUP_SIZE), work)?;
        let seconds = self.fastest(|recorder| {
            let bound = recorder.bind(&PEAK_FMA, &Vec::new(), [y.clone()])?;
            recorder.dispatch(bound, &dims, &grid)
        })?;
        Ok((count * load.iterations * FMA_OPERATIONS) as f64 / seconds)
    }

    fn peak_dispatch(&self, workgroups: usize) -> Result<f64> {
        let x = Buffer::zeros(self, PEAK_STEP.name, workgroups)?;
        let count = word(self, PEAK_STEP.name, workgroups)?;
        let grid = grid(self, PEAK_STEP.name, [workgroups, 1, 1], Work::default())?;
        let seconds = self.fastest(|recorder| {
            let bound = recorder.bind(&PEAK_STEP, &Vec::new(), [x.clone()])?;
            (0..CHAIN).try_for_each(|_| recorder.dispatch(bound, &PeakStepDims { count }, &grid))
        })?;
        Ok(seconds / CHAIN as f64)
    }

    /// Seconds of a submission on the host's clock, because the device's clock misses the time before the work arrives.
    fn peak_submit(&self, read: bool) -> Result<f64> {
        let x = Buffer::zeros(self, PEAK_STEP.name, 1)?;
        let grid = grid(self, PEAK_STEP.name, [1; 3], Work::default())?;
        let mut times = Vec::new();
        for _ in 0..60 {
            let begin = Instant::now();
            let mut recorder = Recorder::new(self);
            let bound = recorder.bind(&PEAK_STEP, &Vec::new(), [x.clone()])?;
            recorder.dispatch(bound, &PeakStepDims { count: 1 }, &grid)?;
            if read {
                recorder.submit_and_read((&x, 0), 1)?.wait::<f32>()?;
            } else {
                recorder.submit_and_wait()?;
            }
            times.push(begin.elapsed().as_secs_f64());
        }
        // The first runs compile and allocate.
        let mut times = times.split_off(10);
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

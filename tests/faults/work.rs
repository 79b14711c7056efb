//! Every call of Vulkan fails in turn while a layer, a stream or a trainer works.

use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::{Device, Error, Result};

use crate::driver::{Driver, Fault};

/// Calls at which each function fails.
const PLACES: i64 = 5;
/// Calls of the library in a run.
const CALLS: usize = 6;

/// Work that is called again and again; each call goes on where the previous one ended.
pub(crate) trait Work: Sized {
    /// The values that a caller keeps on the host, to go on from after a loss.
    type Saved;
    /// Begins on a device.
    fn begin(device: &Device) -> Result<Self>;
    /// Makes the call of this number; returns the bits of its result.
    fn call(&mut self, number: usize) -> Result<Vec<u32>>;
    /// Copies the current state to the host.
    fn save(&mut self) -> Result<Self::Saved>;
    /// Continues on another device from the state that was saved after `calls` calls.
    fn resume(device: &Device, saved: &Self::Saved, calls: usize) -> Result<Self>;
}

/// Begins anew and makes calls again: the way back for work that keeps nothing on the host.
pub(crate) fn again<W: Work>(device: &Device, calls: usize) -> Result<W> {
    let mut work = W::begin(device)?;
    (0..calls).try_for_each(|number| work.call(number).map(drop))?;
    Ok(work)
}

/// An undisturbed run: the result of each call, and the state before it.
struct Undisturbed<W: Work> {
    right: Vec<Vec<u32>>,
    saved: Vec<W::Saved>,
}

fn open() -> Device {
    Device::Gpu(GpuDevice::new(&GpuOptions { software: true, ..Default::default() }).expect("opens"))
}

/// Runs the work undisturbed, then once for every fault.
pub(crate) fn run<W: Work>() {
    let driver = Driver::loaded();
    let mut work = W::begin(&open()).expect("begins");
    let mut undisturbed = Undisturbed::<W> { right: Vec::new(), saved: Vec::new() };
    for number in 0..CALLS {
        undisturbed.saved.push(work.save().expect("saved"));
        undisturbed.right.push(work.call(number).expect("runs"));
    }
    let mut work = W::begin(&open()).expect("begins");
    driver.disarm();
    (0..CALLS)
        .for_each(|number| assert_eq!(work.call(number).expect("runs"), undisturbed.right[number], "not repeatable"));
    let faults = driver.faults(PLACES);
    assert!(faults.len() >= 20, "{} faults", faults.len());
    let mut met = 0;
    for fault in &faults {
        println!("{}: {fault:?}", driver.name(fault.function).expect("a name"));
        // Pipelines and memory of the run before would spare a device the calls that are to fail.
        met += usize::from(disturbed(&driver, open(), *fault, &undisturbed));
    }
    driver.disarm();
    println!("{} faults, {met} met by an error", faults.len());
    assert!(met > faults.len() / 4, "only {met} of {} faults were met", faults.len());
}

/// One run under a fault: every call gives the right bits, or an error and the right bits when it is made again. Returns
/// whether there was an error.
fn disturbed<W: Work>(driver: &Driver, mut device: Device, fault: Fault, undisturbed: &Undisturbed<W>) -> bool {
    driver.disarm();
    let mut work = W::begin(&device).expect("begins");
    driver.arm(fault);
    let mut failed = false;
    for (number, right) in undisturbed.right.iter().enumerate() {
        let error = match work.call(number) {
            Ok(bits) => {
                assert!(bits == *right, "call {number} is wrong, after an error: {failed}");
                continue;
            }
            Err(Error::Node { source, .. }) => *source,
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
                work = W::resume(&device, &undisturbed.saved[number], number).expect("a new device");
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

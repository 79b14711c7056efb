//! Every call of Vulkan fails in turn while a device opens.

use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::Lstm;
use gatewise::{Device, Error, Tensor};

use crate::driver::Driver;

/// Calls at which each function fails.
const PLACES: i64 = 4;

pub(crate) fn run() {
    let options = GpuOptions { software: true, ..Default::default() };
    let driver = Driver::loaded();
    driver.disarm();
    drop(GpuDevice::new(&options).expect("opens"));
    let faults = driver.faults(PLACES);
    assert!(faults.len() > 40, "{} faults", faults.len());
    for fault in &faults {
        println!("{}: {fault:?}", driver.name(fault.function).expect("a name"));
        driver.arm(*fault);
        match GpuDevice::new(&options) {
            Ok(device) => drop(device),
            Err(Error::NoAdapter { reason, .. }) => assert!(!reason.is_empty() && !reason.contains('\n'), "{reason:?}"),
            Err(error) => panic!("{error}"),
        }
        assert!(driver.hits() > 0, "the driver was not asked");
        driver.arm(*fault);
        let auto = Device::auto();
        driver.disarm();
        let lstm = Lstm::config(3, 4).random(&auto, 1).expect("a layer");
        let x = Tensor::zeros(&auto, &[2, 1, 3]).expect("x");
        lstm.forward(&x, &mut lstm.zero_state(1).expect("state")).expect("runs");
    }
    driver.disarm();
    GpuDevice::new(&options).expect("a driver that works again opens");
    println!("{} faults", faults.len());
}

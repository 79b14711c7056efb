//! A Vulkan driver that fails: whatever call fails, once or for good, a call of the library ends in an error and leaves
//! states, streams and trainers as they were, so that the same call again gives the right bits.
//!
//! Every scenario runs in a process of its own, on a driver that fails when it is told to (`tests/faults/driver.rs`).
#![cfg(all(feature = "gpu", target_os = "linux"))]

mod common;
#[path = "faults/driver.rs"]
mod driver;
#[path = "faults/opening.rs"]
mod opening;
#[path = "faults/work.rs"]
mod work;

use driver::{SCENARIO, in_own_process};

#[test]
fn a_driver_that_fails_while_a_device_opens_is_no_adapter() {
    in_own_process("opening");
}

#[test]
fn a_layer_goes_on_as_if_no_call_had_failed() {
    in_own_process("layer");
}

#[test]
fn a_trainer_goes_on_as_if_no_step_had_failed() {
    in_own_process("trainer");
}

/// What the tests above start; by itself it has nothing to do.
#[test]
fn scenario() {
    match std::env::var(SCENARIO).as_deref() {
        Ok("opening") => opening::run(),
        Ok("layer") => work::run::<work::Layer>(),
        Ok("trainer") => work::run::<work::Training>(),
        Ok(other) => panic!("no scenario is called {other}"),
        Err(_) => {}
    }
}

//! A Vulkan driver that fails: whatever call fails, once or for good, a call of the library ends in an error and leaves
//! states, streams and trainers as they were, so that the same call again gives the right bits.
//!
//! Every scenario runs in a process of its own, on a driver that fails when it is told to (`tests/faults/driver.rs`).
#![cfg(all(feature = "gpu", feature = "onnx", feature = "keras", feature = "models", target_os = "linux"))]

#[path = "faults/driver.rs"]
mod driver;
#[path = "faults/opening.rs"]
mod opening;
#[path = "faults/work.rs"]
mod work;
#[path = "faults/works.rs"]
mod works;

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

#[test]
fn a_stream_of_speech_goes_on_as_if_no_push_had_failed() {
    in_own_process("speech");
}

#[test]
fn a_stream_of_features_goes_on_as_if_no_push_had_failed() {
    in_own_process("noise");
}

#[test]
fn models_of_files_run_again_after_a_run_that_failed() {
    in_own_process("files");
}

/// The process that the tests above start. Without their variable it does nothing.
#[test]
fn scenario() {
    match std::env::var(SCENARIO).as_deref() {
        Ok("opening") => opening::run(),
        Ok("layer") => work::run::<works::Layer>(),
        Ok("trainer") => work::run::<works::Training>(),
        Ok("speech") => work::run::<works::Speech>(),
        Ok("noise") => work::run::<works::Noise>(),
        Ok("files") => work::run::<works::Files>(),
        Ok(other) => panic!("no scenario is called {other}"),
        Err(_) => {}
    }
}

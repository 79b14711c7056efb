//! If memory ends, a call is an error, its state and its stack are as they were, and the same call later gives the same bits.
//! Every allocation of 2,500 bytes and more fails in turn, by itself or with all later ones.

#[path = "common/failing.rs"]
mod failing;
#[path = "memory/huge.rs"]
mod huge;
#[path = "memory/layers.rs"]
mod layers;
#[path = "memory/operations.rs"]
mod operations;
#[path = "memory/training.rs"]
mod training;

use failing::{Fails, failing};
use gatewise::cpu::CpuOptions;
use gatewise::nn::State;
use gatewise::{Device, Error, Result, Tensor};

/// The host devices. Each keeps its own buffers for later calls.
fn devices() -> Vec<Device> {
    vec![Device::Reference, cpu(1)]
}

fn cpu(threads: usize) -> Device {
    Device::cpu_with(&CpuOptions { threads: Some(threads), ..Default::default() }).expect("threads")
}

/// A tensor of the given shape, every element another number.
fn tensor(device: &Device, shape: &[usize]) -> Tensor {
    let len = shape.iter().product::<usize>();
    Tensor::from_vec(device, shape, (0..len).map(|at| (at as f32 * 0.37).sin()).collect()).expect("a tensor")
}

/// Every bit of a tensor.
fn bits(tensor: Tensor) -> Vec<u32> {
    numbers(tensor.to_vec().expect("elements"))
}

fn numbers(numbers: impl IntoIterator<Item = f32>) -> Vec<u32> {
    numbers.into_iter().map(f32::to_bits).collect()
}

/// Every bit of a state.
fn state_bits(state: &State) -> Vec<u32> {
    let s = state.to_s().expect("s").map(|s| s.into_raw_vec_and_offset().0).unwrap_or_default();
    numbers(state.to_h().expect("h").into_iter().chain(s))
}

/// Makes a subject for every large allocation of `call` and lets that allocation fail. The call must be refused and leave the
/// subject as it was (by `look`). When the call is made again, its result must have the right bits (by `read`).
#[track_caller]
fn each_allocation_fails<S, R>(
    name: &str,
    make: impl Fn() -> S,
    look: impl Fn(&S) -> Vec<u32>,
    call: impl Fn(&mut S) -> Result<R>,
    read: impl Fn(R) -> Vec<u32>,
) {
    let mut whole = make();
    let expected = read(call(&mut whole).unwrap_or_else(|error| panic!("{name}: {error}")));
    let after = look(&whole);
    for count in 0.. {
        let fails = if count % 2 == 0 { Fails::Only(count) } else { Fails::From(count) };
        let mut subject = make();
        let before = look(&subject);
        let (result, failed) = failing(fails, || call(&mut subject));
        if failed == 0 {
            assert!(count > 0, "{name}: nothing of it was large");
            assert!(read(result.expect("nothing failed")) == expected, "{name}");
            return;
        }
        let error = match result {
            Err(error) => error,
            // If only memory that is kept for later calls is refused, the call succeeds as any other.
            Ok(result) => {
                assert!(read(result) == expected && look(&subject) == after, "{name}, {fails:?}: a wrong result");
                continue;
            }
        };
        assert!(matches!(error, Error::OutOfMemory { .. }), "{name}, {fails:?}: {error}");
        assert!(look(&subject) == before, "{name}, {fails:?}: not as it was");
        // Every third one goes on: whole calls take the most time.
        if count % 3 == 0 {
            let again = call(&mut subject).unwrap_or_else(|error| panic!("{name}, {fails:?}, again: {error}"));
            assert!(read(again) == expected && look(&subject) == after, "{name}, {fails:?}: another result");
        }
    }
}

/// [`each_allocation_fails`] of a call that changes nothing.
#[track_caller]
fn each_fails<R>(name: &str, call: impl Fn() -> Result<R>, read: impl Fn(R) -> Vec<u32>) {
    each_allocation_fails(name, || (), |()| Vec::new(), |()| call(), read);
}

#[test]
fn an_allocation_that_is_told_to_fail_fails() {
    let _alone = failing::alone();
    let large = |bytes: usize| Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
    assert_eq!(failing(Fails::Only(1), || [large(5000), large(5000), large(5000)]), ([true, false, true], 1));
    assert_eq!(failing(Fails::From(1), || [large(5000), large(5000), large(5000)]), ([true, false, false], 2));
    assert_eq!(failing(Fails::Above(6000), || [large(5000), large(7000), large(100)]), ([true, false, true], 1));
    assert_eq!(failing(Fails::From(0), || large(100)), (true, 0));
    assert!(large(5000));
}

//! Replays on the CPU: the same bits as the layers one by one, whatever the calls before were.

use gatewise::weights::keras::{KerasCall, KerasFile, KerasLayer, KerasOutputs};
use gatewise::{Device, Tensor};
use ndarray::{Array2, Array3};

use crate::fixtures::{Expected, FILES, fixture, loaded, stem};

fn words(outputs: &KerasOutputs) -> Vec<(Vec<usize>, Vec<u32>)> {
    let one = |tensor: &Tensor| {
        (tensor.shape().to_vec(), tensor.to_vec().expect("reads").into_iter().map(f32::to_bits).collect())
    };
    outputs.outputs.iter().chain(&outputs.states).map(one).collect()
}

/// The first call of a fresh layer, which runs layer by layer.
fn fresh(file: &KerasFile, layer: &str, call: &KerasCall) -> KerasOutputs {
    loaded(file, layer, &Device::Cpu).call(call.clone()).expect("runs")
}

#[test]
fn every_case_gives_the_same_bits_in_every_call() {
    for name in FILES {
        let file = KerasFile::open(fixture(name)).expect("a sound file");
        let expected = Expected::new(stem(name));
        for case in expected.cases() {
            let (layer, _) = case.split_once('/').expect("a layer and a case");
            let warm = loaded(&file, layer, &Device::Cpu);
            let call = expected.call(case, &Device::Cpu);
            let right = fresh(&file, layer, &call);
            let mut outputs = KerasOutputs::default();
            for _ in 0..4 {
                warm.call_into(&call, &mut outputs).expect("runs");
                assert_eq!((words(&outputs), &outputs.mask), (words(&right), &right.mask), "{name}, {case}");
            }
        }
    }
}

#[test]
fn masks_states_and_shapes_change_between_calls() {
    let file = KerasFile::open(fixture("around.keras")).expect("a sound file");
    let warm: KerasLayer = loaded(&file, "lstm", &Device::Cpu);
    let frames = |batch: usize, seed: usize| {
        Array3::from_shape_fn((batch, 5, 4), |(b, t, i)| ((seed + 20 * b + 4 * t + i) as f32).sin())
    };
    let mut held: Option<(KerasOutputs, Vec<_>)> = None;
    for at in 0..24 {
        let batch = [2, 3][at / 2 % 2];
        let mut call = KerasCall::new(frames(batch, at));
        if at % 3 > 0 {
            call = call.mask(Array2::from_shape_fn((batch, 5), |(b, t)| t < 2 + b + at % 3));
        }
        if at % 8 > 3 {
            let state = |seed: usize| {
                let value = Array2::from_shape_fn((batch, 3), |(b, i)| ((seed + 7 * b + i) as f32).cos());
                Tensor::from_array(&Device::Cpu, &value).expect("fits")
            };
            call = call.initial_state([state(at), state(3 * at)]);
        }
        let outputs = warm.call(call.clone()).expect("runs");
        assert_eq!(words(&outputs), words(&fresh(&file, "lstm", &call)), "call {at}");
        if let Some((before, bits)) = held.take() {
            assert_eq!(words(&before), bits, "call {at} changed the results of the call before");
        }
        held = Some((outputs.clone(), words(&outputs)));
    }
}

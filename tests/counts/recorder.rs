//! Several calls in one submission, or in none.

use gatewise::cell::Sequence;
use gatewise::gpu::{Counters, GpuDevice};
use gatewise::models::{RnNoise, SileroVad};
use gatewise::nn::{Config, Conv1d, Gru, Linear, Lstm, Merge, Recurrent};
use gatewise::ops::Conv1dGeometry;
use gatewise::weights::Weights;
use gatewise::{Device, Tensor};
use ndarray::{Array1, Array2, Array3};

use super::common::{bits, gpu};
use super::{BATCH, cells, cost, input, place};

#[test]
fn a_reset_returns_in_place_and_leaves_what_is_recorded_alone() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).random(&device, 3).expect("a stack");
    let x = input(&device, [6, BATCH, 5]);
    let mut state = stack.zero_state(BATCH).expect("state");
    let first = stack.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("runs");
    let (spent, ()) = cost(&gpu, || state.reset().expect("resets"));
    assert_eq!(spent, Counters { writes: 2, ..Counters::default() });
    let again = stack.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("runs");
    assert_eq!(first, again);

    // A recorder that has begun from the value before the reset ends from it, whenever it is submitted.
    let onward = stack.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("runs");
    state.reset().expect("resets");
    stack.forward(&x, &mut state).expect("runs");
    let mut recorder = device.recorder();
    let y = stack.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
    state.reset().expect("resets");
    recorder.submit().expect("runs");
    assert_eq!(y.to_vec().expect("y"), onward);
    assert!(state.to_h().expect("h").iter().all(|h| *h == 0.0));
}

#[test]
fn a_chain_in_one_recorder_is_one_submission_and_computes_what_its_parts_do() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let kernel = Array3::from_shape_fn((6, 1, 3), |(o, _, k)| ((o + 7 * k) as f32 * 0.3).cos());
    let conv = Conv1d::new(&device, &kernel, None, Conv1dGeometry { stride: 1, padding: 1 }).expect("conv");
    let gru = Gru::config(6, 9).bidirectional(Merge::Concat).random(&device, 1).expect("gru");
    let lstm = Lstm::config(18, 8).layers(2).random(&device, 2).expect("lstm");
    let weight = Array2::from_shape_fn((3, 8), |(o, i)| ((o + i) as f32).sin());
    let head = Linear::new(&device, &weight, Some(&Array1::from_vec(vec![0.1, 0.2, 0.3]))).expect("head");
    let signal = input(&device, [20, 1, 1]);
    let states = || (gru.zero_state(1).expect("state"), lstm.zero_state(1).expect("state"));

    let (mut gru_state, mut lstm_state) = states();
    let features = conv.forward(&signal).and_then(|y| y.reshape(&[20, 1, 6])).expect("conv");
    let h = gru.forward(&features, &mut gru_state).expect("gru");
    let h = lstm.forward(&h, &mut lstm_state).expect("lstm");
    let apart: Array3<f32> = head.forward(&h).and_then(|y| y.to_array()).expect("head");
    let apart_h = lstm_state.to_h().expect("h");

    let (mut gru_state, mut lstm_state) = states();
    let (spent, y) = cost(&gpu, || {
        let mut recorder = device.recorder();
        let features = conv.record(&mut recorder, &signal).and_then(|y| y.reshape(&[20, 1, 6])).expect("conv");
        let h = gru.record(&mut recorder, &features, &mut gru_state, &Sequence::new()).expect("gru");
        let h = lstm.record(&mut recorder, &h, &mut lstm_state, &Sequence::new()).expect("lstm");
        let y = head.record(&mut recorder, &h).expect("head");
        recorder.submit().expect("runs");
        y
    });
    let plans = [gru.plan(20, 1).expect("fits"), lstm.plan(20, 1).expect("fits")];
    // The wave copies a part of its state before its first step and behind its last.
    assert!(spent.passes <= 3, "{spent:?}");
    // One more for the convolution and for the head.
    assert_eq!(spent.dispatches as usize, 2 + plans.iter().map(|plan| plan.dispatches()).sum::<usize>());
    assert_eq!(spent.submits, 1);
    let together: Array3<f32> = y.to_array().expect("y");
    assert_eq!(bits(&together), bits(&apart));
    assert_eq!(bits(&lstm_state.to_h().expect("h")), bits(&apart_h));
}

/// `calls` of a stack from zero, in one recorder or in one each; returns the outputs and the final `h`.
fn calls(stack: &Recurrent, x: &[Tensor], together: bool) -> (Vec<Vec<f32>>, Vec<u32>) {
    let mut state = stack.zero_state(BATCH).expect("state");
    let mut outputs = Vec::new();
    let mut recorder = stack.device().recorder();
    for x in x {
        outputs.push(stack.record(&mut recorder, x, &mut state, &Sequence::new()).expect("records"));
        if !together {
            let full = std::mem::replace(&mut recorder, stack.device().recorder());
            full.submit().expect("runs");
        }
    }
    recorder.submit().expect("runs");
    let outputs = outputs.iter().map(|y| y.to_vec().expect("y")).collect();
    (outputs, bits(&state.to_h().expect("h")))
}

#[test]
fn calls_that_share_a_state_may_share_a_submission() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (cell, _) in cells() {
        let stack = Config::new(cell, 5, 7).layers(2).random(&device, 3).expect("a stack");
        let x: Vec<Tensor> = [3, 1, 5].map(|time| input(&device, [time, BATCH, 5])).to_vec();
        let apart = calls(&stack, &x, false);
        let (spent, together) = cost(&gpu, || calls(&stack, &x, true));
        assert!(together == apart, "{cell:?}");
        // One for the calls, one for each of the four results read back.
        assert_eq!(spent.submits, 5, "{cell:?}");
    }
}

#[test]
fn a_recorder_that_is_dropped_leaves_no_trace() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).random(&device, 3).expect("a stack");
    let x = input(&device, [6, BATCH, 5]);
    let mut state = stack.zero_state(BATCH).expect("state");
    stack.forward(&x, &mut state).expect("runs");
    let before = (bits(&state.to_h().expect("h")), bits(&state.to_s().expect("s").expect("an LSTM's")));
    let (spent, ()) = cost(&gpu, || {
        let mut recorder = device.recorder();
        stack.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
        drop(recorder);
    });
    assert_eq!((spent.submits, spent.dispatches), (0, 0));
    assert_eq!((bits(&state.to_h().expect("h")), bits(&state.to_s().expect("s").expect("an LSTM's"))), before);
}

/// Pushes until both copies of the state have been used, then counts the cost of 20 pushes.
fn warm_pushes(gpu: &GpuDevice, mut push: impl FnMut()) -> Counters {
    (0..6).for_each(|_| push());
    let (spent, ()) = cost(gpu, || (0..20).for_each(|_| push()));
    assert_eq!((spent.buffers, spent.bind_groups, spent.pipelines), (0, 0, 0), "{spent:?}");
    spent
}

#[test]
fn a_push_to_a_stream_is_one_submission() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let weights = |name: &str| Weights::from_file(place::root().join("models").join(name)).expect("weights");
    let vad = SileroVad::new(&device, &weights("silero_vad_16k.safetensors")).expect("detector");
    for frames in [1, 4] {
        let mut stream = vad.stream().expect("stream");
        let samples: Vec<f32> = (0..frames * SileroVad::FRAME).map(|at| (at as f32 * 0.05).sin()).collect();
        let spent = warm_pushes(&gpu, || assert_eq!(stream.push(&samples).expect("runs").len(), frames));
        assert_eq!(spent.submits, 20, "{frames} frames: {spent:?}");
        let (spent, _) = cost(&gpu, || stream.state().expect("reads"));
        assert_eq!(spent.submits, 1, "h and s are read together");
    }

    let net = RnNoise::new(&device, &weights("rnnoise.safetensors")).expect("the net");
    let mut stream = net.stream(2).expect("stream");
    let features = Array3::from_shape_fn((1, 2, RnNoise::FEATURES), |(_, b, i)| ((5 * b + i) as f32 * 0.05).sin());
    let spent = warm_pushes(&gpu, || drop(stream.push(features.view(), None).expect("runs")));
    assert_eq!(spent.submits, 20, "{spent:?}");
    let (spent, _) = cost(&gpu, || stream.states().expect("reads"));
    assert_eq!(spent.submits, 1, "three states are read together");
    let (spent, _) = cost(&gpu, || stream.trace(features.view(), None).expect("runs"));
    assert_eq!(spent.submits, 1, "outputs and states are read together");
}

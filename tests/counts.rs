//! What a call costs on the GPU: one submission, the dispatches that its plan names, and once warm neither memory nor
//! compilation.
#![cfg(feature = "gpu")]

#[path = "common/allocations.rs"]
mod allocations;
mod common;
#[path = "common/place.rs"]
mod place;

use allocations::allocations;
use common::{bits, gpu};
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Noise, Pad, Reset, RnnCell, Sequence};
use gatewise::gpu::{Counters, GpuDevice, GpuOptions};
use gatewise::models::SileroVad;
use gatewise::nn::{
    Config, Conv1d, Gru, Linear, Lstm, Merge, Recurrent, RecurrentGradient, TrainableRecurrent, TrainingOptions,
};
use gatewise::ops::Conv1dGeometry;
use gatewise::train::{Adam, Clip, CrossEntropy, Parameters, Schedule, Trainer};
use gatewise::weights::Weights;
use gatewise::{Device, Tensor};
use ndarray::{Array1, Array2, Array3};

/// What the device did while `work` ran.
fn cost<T>(gpu: &GpuDevice, work: impl FnOnce() -> T) -> (Counters, T) {
    let before = gpu.counters();
    let result = work();
    let spent = gpu.counters() - before;
    (spent, result)
}

/// A cell of every schedule, with the dispatches that one of its steps takes at most.
fn cells() -> [(Cell, usize); 6] {
    [
        (RnnCell::default().into(), 1),
        (LstmCell::default().into(), 1),
        (LstmCell { peephole: true, ..LstmCell::LECTURE }.into(), 1),
        (LstmCell { projection: Some(3), ..Default::default() }.into(), 2),
        (GruCell::default().into(), 1),
        (GruCell { reset: Reset::Before, ..Default::default() }.into(), 2),
    ]
}

fn input(device: &Device, [time, batch, width]: [usize; 3]) -> Tensor {
    let wave = |(t, b, i): (usize, usize, usize)| ((5 * t + 3 * b + i) as f32 * 0.7).sin();
    Tensor::from_array(device, &Array3::from_shape_fn((time, batch, width), wave)).expect("input")
}

const BATCH: usize = 3;

/// Every stack is one of these: directions, merge, layers, with the dispatches of a layer beside its steps.
fn stacks(cell: Cell) -> Vec<(Config, usize, usize)> {
    let one = Config::new(cell, 5, 7);
    vec![
        (one.clone(), 1, 1),
        (one.clone().reverse().layers(2), 2, 1),
        (one.clone().bidirectional(Merge::Concat).layers(3), 3, 2),
        // Two directions' outputs take one dispatch to merge.
        (one.clone().bidirectional(Merge::Sum).layers(2), 2, 3),
        (one.clone().bidirectional(Merge::Ave), 1, 3),
    ]
}

#[test]
fn a_call_is_one_submission_of_the_dispatches_that_its_plan_names() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (cell, a_step) in cells() {
        for (config, layers, beside) in stacks(cell) {
            let stack = config.random(&device, 3).expect("a stack");
            for time in [0, 1, 7, 40] {
                for sequence in [Sequence::new(), Sequence::new().lengths([time, time / 2, 0]).pad(Pad::Hold)] {
                    let x = input(&device, [time, BATCH, 5]);
                    let mut state = stack.zero_state(BATCH).expect("state");
                    let plan = stack.plan(time, BATCH).expect("fits");
                    let (spent, _y) = cost(&gpu, || stack.forward_sequence(&x, &mut state, &sequence).expect("runs"));
                    let what = format!("{config:?}, T = {time}: {plan}");
                    assert_eq!(spent.submits, u64::from(time > 0), "{what}");
                    assert_eq!(plan.submits(), usize::from(time > 0), "{what}");
                    assert_eq!(spent.dispatches, plan.dispatches() as u64, "{what}");
                    assert_eq!(spent.passes, u64::from(time > 0), "{what}");
                    let most = layers * (a_step * time + if time > 0 { beside } else { 0 });
                    assert!(plan.dispatches() <= most, "at most {most}: {what}");
                }
            }
        }
    }
}

/// The exact counts of a GPU's schedules: small layers are scanned, a dispatch a chunk beside the projection.
#[test]
fn small_layers_take_a_dispatch_a_chunk_and_larger_ones_a_dispatch_a_step() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let one = |hidden: usize| Config::new(Cell::from(LstmCell::default()), 5, hidden);
    let before = Cell::from(GruCell { reset: Reset::Before, ..Default::default() });
    // Layers that a workgroup has all at once; a layer of two directions reads the whole layer below first.
    let cases = [
        (one(7), 2),
        (one(128), 2),
        (one(7).layers(3), 2),
        (one(7).bidirectional(Merge::Concat), 2),
        (one(7).layers(3).bidirectional(Merge::Concat), 3 * 2),
        (one(129), 9 + 1),
        (one(129).layers(3), 9 + 3),
        (one(129).bidirectional(Merge::Concat), 9 + 1),
        // Steps would take more than T + L + 2.
        (one(129).layers(3).bidirectional(Merge::Concat), 3 * 2),
        (one(129).layers(2).bidirectional(Merge::Sum), 2 * 3),
        (Config::new(before, 5, 129), 2),
    ];
    for (config, dispatches) in cases {
        let stack = config.random(&device, 3).expect("a stack");
        let x = input(&device, [9, 2, 5]);
        let mut state = stack.zero_state(2).expect("state");
        let plan = stack.plan(9, 2).expect("fits");
        let (spent, _y) = cost(&gpu, || stack.forward(&x, &mut state).expect("runs"));
        assert_eq!((spent.dispatches, spent.submits), (dispatches, 1), "{plan}");
    }
    let low = GpuDevice::new(&GpuOptions { software: true, loop_cap: Some(120), ..Default::default() }).expect("a GPU");
    let stack = one(7).random(&Device::Gpu(low.clone()), 3).expect("a stack");
    let plan = stack.plan(40, 2).expect("fits");
    let chunks = plan.chunks.len() as u64;
    let x = input(&Device::Gpu(low.clone()), [40, 2, 5]);
    let mut state = stack.zero_state(2).expect("state");
    let (spent, _y) = cost(&low, || stack.forward(&x, &mut state).expect("runs"));
    assert!(chunks > 2, "{plan}");
    assert_eq!((spent.dispatches, spent.submits), (2 * chunks, 1), "{plan}");
}

#[test]
fn directions_with_cells_of_their_own_take_a_dispatch_each_at_most() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let relu = RnnCell { activation: Activation::Relu, ..Default::default() };
    let config = Config::new(RnnCell::default(), 5, 7).bidirectional(Merge::Concat).reverse_cell(relu);
    let stack = config.random(&device, 3).expect("a stack");
    let x = input(&device, [9, BATCH, 5]);
    let mut state = stack.zero_state(BATCH).expect("state");
    let plan = stack.plan(9, BATCH).expect("fits");
    let (spent, _y) = cost(&gpu, || stack.forward(&x, &mut state).expect("runs"));
    assert_eq!((spent.submits, spent.dispatches), (1, plan.dispatches() as u64), "{plan}");
    assert!(plan.dispatches() <= 2 * 9 + 2, "{plan}");
}

#[test]
fn a_warm_call_takes_no_memory_binds_nothing_and_compiles_nothing() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (cell, _) in cells() {
        for (config, ..) in stacks(cell) {
            let stack = config.random(&device, 3).expect("a stack");
            let x = input(&device, [6, BATCH, 5]);
            let mut state = stack.zero_state(BATCH).expect("state");
            let mut call = |read: bool| {
                let y = stack.forward(&x, &mut state).expect("runs");
                if read {
                    y.to_vec().and(state.h()).and(state.s()).expect("read");
                }
                y
            };
            let (spent, y) = cost(&gpu, || call(true));
            assert!(spent.bind_groups > 0, "{config:?}: {spent:?}");
            drop(y);
            let warm = Counters { submits: 5, passes: 5, dispatches: 5 * spent.dispatches, ..Counters::default() };
            let (spent, ()) = cost(&gpu, || (0..5).for_each(|_| drop(call(false))));
            assert_eq!(spent, warm, "{config:?}");
            let reads = if config.output_size() > 0 && state_has_cells(cell) { 3 } else { 2 };
            let (spent, ()) = cost(&gpu, || (0..5).for_each(|_| drop(call(true))));
            assert_eq!(spent, Counters { submits: 5 + 5 * reads, ..warm }, "read back: {config:?}");
        }
    }
}

fn state_has_cells(cell: Cell) -> bool {
    matches!(cell, Cell::Lstm(_))
}

#[test]
fn lengths_take_one_write_a_call_and_nothing_else() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).layers(2).random(&device, 3).expect("a stack");
    let x = input(&device, [6, BATCH, 5]);
    let mut state = stack.zero_state(BATCH).expect("state");
    let sequence = Sequence::new().lengths([6, 2, 0]);
    let mut call = || drop(stack.forward_sequence(&x, &mut state, &sequence).expect("runs"));
    call();
    let (spent, ()) = cost(&gpu, call);
    assert_eq!((spent.buffers, spent.bind_groups, spent.pipelines, spent.writes), (0, 0, 0, 1));
}

#[test]
fn calls_that_hold_their_results_settle_too() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Gru::config(5, 7).random(&device, 3).expect("a stack");
    let mut state = stack.zero_state(BATCH).expect("state");
    let mut held = None;
    // The step before is dropped after the next one has run: two outputs and two inputs take turns.
    let mut step = || {
        let x = input(&device, [1, BATCH, 5]);
        let y = stack.forward(&x, &mut state).expect("runs");
        held = Some((x, y));
    };
    (0..4).for_each(|_| step());
    let (spent, ()) = cost(&gpu, || (0..10).for_each(|_| step()));
    assert_eq!((spent.buffers, spent.bind_groups, spent.pipelines), (0, 0, 0));
    assert_eq!((spent.submits, spent.writes), (10, 10), "a write for each input");
    drop(held);
}

#[test]
fn shapes_that_take_turns_find_what_they_left() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).random(&device, 3).expect("a stack");
    let sizes = [1, 4, 9, 30];
    let inputs = sizes.map(|time| input(&device, [time, BATCH, 5]));
    let mut state = stack.zero_state(BATCH).expect("state");
    let mut round = || inputs.iter().for_each(|x| drop(stack.forward(x, &mut state).expect("runs")));
    round();
    let (spent, ()) = cost(&gpu, || (0..3).for_each(|_| round()));
    let kept = Counters { submits: 12, passes: 12, dispatches: spent.dispatches, ..Counters::default() };
    assert_eq!(spent, kept);
}

#[test]
fn threads_of_one_device_share_its_bind_groups_and_get_the_same_bits() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).random(&device, 3).expect("a stack");
    let x = input(&device, [6, BATCH, 5]);
    let run = || {
        let mut state = stack.zero_state(BATCH).expect("state");
        let outputs = (0..8).map(|_| stack.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("runs"));
        outputs.flatten().map(f32::to_bits).collect::<Vec<_>>()
    };
    let alone = run();
    let several: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("runs")).collect()
    });
    assert!(several.iter().all(|bits| *bits == alone));
}

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
    assert!(state.h().expect("h").iter().all(|h| *h == 0.0));
}

#[test]
fn a_warm_call_allocates_little_on_the_host_and_hardly_more_for_more_steps() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let stack = Lstm::config(5, 7).layers(2).random(&device, 3).expect("a stack");
    let of = |time: usize| {
        let x = input(&device, [time, BATCH, 5]);
        let mut state = stack.zero_state(BATCH).expect("state");
        let mut call = || drop(stack.forward(&x, &mut state).expect("runs"));
        (0..4).for_each(|_| call());
        allocations(|| (0..10).for_each(|_| call())) / 10
    };
    let (few, many) = (of(10), of(110));
    println!("{few} allocations for 10 steps, {many} for 110");
    // What a step adds is wgpu's own: an encoder's list of commands and barriers.
    assert!(few <= 130, "{few} for 10 steps");
    assert!((many - few) as f64 / 100.0 <= 1.3, "{few} for 10 steps, {many} for 110");
}

/// A step of training in one recorder: forward, and back from the output as the loss' gradient.
fn training_step(stack: &TrainableRecurrent, x: &Tensor, sequence: &Sequence) -> RecurrentGradient {
    let mut state = stack.zero_state(x.shape()[1]).expect("state");
    let mut recorder = stack.device().recorder();
    let options = TrainingOptions::default();
    let (y, tape) = stack.record_training(&mut recorder, x, &mut state, sequence, &options).expect("records");
    let gradient = tape.record_backward(&mut recorder, &y, None).expect("records");
    recorder.submit().expect("runs");
    gradient
}

#[test]
fn a_step_of_training_is_one_submission_of_a_dispatch_or_two_a_step_each_way() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (cell, a_step) in cells() {
        for (config, layers, beside) in stacks(cell) {
            let directions = if beside > 1 { 2 } else { 1 };
            let stack = config.trainable(&device, &config.random_parameters(3).expect("parameters")).expect("a stack");
            let spent = |time: usize| {
                let x = input(&device, [time, BATCH, 5]);
                let (spent, _) = cost(&gpu, || training_step(&stack, &x, &Sequence::new()));
                // Without steps there are gradients to clear.
                assert_eq!(spent.submits, 1, "{config:?}, T = {time}");
                spent.dispatches
            };
            assert_eq!(spent(0), 0, "{config:?}");
            let (short, long) = (spent(7), spent(40));
            assert_eq!(long - short, (2 * layers * a_step * 33) as u64, "{config:?}");
            // Beside the steps: packing, the last product, the weights' gradients; the zero states cost nothing.
            let beside = short - (2 * layers * a_step * 7) as u64;
            assert!(beside <= (layers * directions * 14 + 8) as u64, "{config:?}: {beside}");
        }
    }
}

#[test]
fn a_warm_step_of_training_takes_no_memory_and_compiles_nothing() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (cell, _) in cells() {
        let config = Config::new(cell, 5, 7).bidirectional(Merge::Mul).layers(2);
        let stack = config.trainable(&device, &config.random_parameters(3).expect("parameters")).expect("a stack");
        let x = input(&device, [6, BATCH, 5]);
        let sequence = Sequence::new().lengths([6, 2, 0]);
        (0..2).for_each(|_| drop(training_step(&stack, &x, &sequence)));
        let (spent, ()) = cost(&gpu, || (0..3).for_each(|_| drop(training_step(&stack, &x, &sequence))));
        assert_eq!((spent.buffers, spent.pipelines, spent.submits), (0, 0, 3), "{config:?}");
    }
}

/// A whole step, the optimiser's included: its number, its rate and its masks' keys are others every time, and yet it finds
/// memory and bind groups of the steps before.
#[test]
fn a_warm_step_of_a_trainer_creates_nothing() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let mut parameters = Parameters::new(&device, 5);
    let config = Lstm::config(5, 7).layers(2);
    let stack = gatewise::train::Recurrent::new(&mut parameters, "lstm.", &config).expect("a stack");
    let head = gatewise::train::Linear::new(&mut parameters, "head.", [7, 3]).expect("a head");
    let mut trainer = Trainer::new(parameters, Adam::default(), 0.01)
        .and_then(|trainer| trainer.clip(Clip::norm(1.0)))
        .expect("a trainer")
        .schedule(Schedule::Exponential { gamma: 0.99 });
    let noise = Noise { dropout: 0.2, recurrent_dropout: 0.2, ..Noise::default() };
    let options = TrainingOptions { noise, ..TrainingOptions::default() };
    let x = input(&device, [6, BATCH, 5]);
    let mut step = |read: bool| {
        trainer
            .submit_step(|graph| {
                let x = graph.input(&x);
                let y = stack.forward(graph, x, None, &Sequence::new(), &options)?;
                let last = graph.last_step(y, &Sequence::new())?;
                let last = graph.dropout(last, 0.1)?;
                let scores = head.forward(graph, last)?;
                graph.cross_entropy(scores, &[0, 2, 1], &CrossEntropy::default())
            })
            .expect("a step");
        if read {
            trainer.report().expect("a report");
        }
    };
    for read in [false, true] {
        (0..6).for_each(|_| step(read));
        // More steps than blocks of uniforms are kept.
        let (spent, ()) = cost(&gpu, || (0..70).for_each(|_| step(read)));
        assert_eq!((spent.buffers, spent.bind_groups, spent.pipelines), (0, 0, 0), "{spent:?}");
        assert_eq!(spent.submits, if read { 140 } else { 70 }, "{spent:?}");
    }
}

#[test]
fn stacks_of_one_description_share_their_pipelines() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let run = |seed: u64| {
        let stack = Lstm::config(5, 7).layers(2).random(&device, seed).expect("a stack");
        let mut state = stack.zero_state(BATCH).expect("state");
        stack.forward(&input(&device, [6, BATCH, 5]), &mut state).expect("runs")
    };
    let (spent, _) = cost(&gpu, || run(1));
    assert!(spent.pipelines > 0);
    let (spent, _) = cost(&gpu, || run(2));
    assert_eq!(spent.pipelines, 0);
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
    let apart_h = lstm_state.h().expect("h");

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
    assert_eq!(bits(&lstm_state.h().expect("h")), bits(&apart_h));
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
    (outputs, bits(&state.h().expect("h")))
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
    let before = (bits(&state.h().expect("h")), bits(&state.s().expect("s").expect("an LSTM's")));
    let (spent, ()) = cost(&gpu, || {
        let mut recorder = device.recorder();
        stack.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
        drop(recorder);
    });
    assert_eq!((spent.submits, spent.dispatches), (0, 0));
    assert_eq!((bits(&state.h().expect("h")), bits(&state.s().expect("s").expect("an LSTM's"))), before);
}

#[test]
fn a_block_of_speech_is_one_submission_and_one_read_back() {
    let gpu = gpu();
    let weights = Weights::from_file(place::root().join("models/silero_vad_16k.safetensors")).expect("weights");
    let vad = SileroVad::new(&Device::Gpu(gpu.clone()), &weights).expect("detector");
    let mut stream = vad.stream().expect("stream");
    let samples: Vec<f32> = (0..4 * SileroVad::FRAME).map(|at| (at as f32 * 0.05).sin()).collect();
    stream.push(&samples).expect("runs");
    for _ in 0..3 {
        let (spent, probabilities) = cost(&gpu, || stream.push(&samples).expect("runs"));
        assert_eq!(probabilities.len(), 4);
        assert_eq!((spent.submits, spent.buffers, spent.bind_groups, spent.pipelines), (2, 0, 0, 0));
    }
}

//! Masks and resets that lie on the device give the bits of the same masks and resets on the host.

use crate::common::case::{Arrays, Case, Directions, Instructions};
use crate::common::{bits, devices, gpu, gpu_with, refusal};
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Pad, Reset, RnnCell, Sequence, WeightType};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{Config, DeviceSequence, Lstm, Merge, Recurrent, State, TrainingOptions};
use gatewise::op::Math;
use gatewise::plan::{CooperativeScans, PlanKind};
use gatewise::train::{LossOptions, Parameters, RecurrentModule, Sgd, Trainer};
use gatewise::{Device, Error, Tensor, ops};
use ndarray::{Array2, ArrayD};

const TIME: usize = 6;
const BATCH: usize = 3;

/// Numbers that say no.
const NO: [f32; 2] = [0.0, -0.0];
/// Numbers that say yes.
const YES: [f32; 7] = [1.0, -0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-45, f32::MIN_POSITIVE];

/// Which rows a device mask skips: each row another step, and one row all of its steps but the last.
fn counts(t: usize, b: usize) -> bool {
    if b == 1 { t + 1 == TIME } else { (t + 2 * b) % 3 != 1 }
}

/// Where a device tensor resets: at the first step, at a skipped one, and inside.
fn resets(t: usize, b: usize) -> bool {
    (t * 5 + b * 3).is_multiple_of(4)
}

fn array(answer: impl Fn(usize, usize) -> bool) -> Array2<bool> {
    Array2::from_shape_fn((TIME, BATCH), |(t, b)| answer(t, b))
}

/// A tensor with these answers, by ever other numbers.
fn tensor(device: &Device, answer: impl Fn(usize, usize) -> bool) -> Tensor {
    let number = |at: usize| match answer(at / BATCH, at % BATCH) {
        true => YES[at % YES.len()],
        false => NO[at % NO.len()],
    };
    Tensor::from_vec(device, &[TIME, BATCH], (0..TIME * BATCH).map(number).collect()).expect("a tensor")
}

/// A call's instructions: those that the host gives beside the tensors, whether there is a mask or a reset tensor, and
/// the same instructions given by the host alone.
struct Given {
    host: Sequence,
    mask: bool,
    reset: bool,
    whole: Sequence,
}

fn given() -> Vec<Given> {
    let host_mask = |t: usize, b: usize| !(t == 2 && b == 0);
    let host_reset = |t: usize, b: usize| t == 1 && b == 2;
    let lengths = [TIME, TIME - 1, 2];
    let plain = Sequence::new();
    vec![
        Given { host: plain.clone(), mask: true, reset: false, whole: plain.clone().mask(array(counts)) },
        Given {
            host: plain.clone().pad(Pad::Hold),
            mask: true,
            reset: true,
            whole: plain.clone().mask(array(counts)).reset(array(resets)).pad(Pad::Hold),
        },
        Given {
            host: plain.clone().lengths(lengths),
            mask: true,
            reset: true,
            whole: plain.clone().lengths(lengths).mask(array(counts)).reset(array(resets)),
        },
        Given {
            host: plain.clone().mask(array(host_mask)).reset(array(host_reset)),
            mask: true,
            reset: true,
            whole: plain
                .clone()
                .mask(array(|t, b| host_mask(t, b) && counts(t, b)))
                .reset(array(|t, b| host_reset(t, b) || resets(t, b))),
        },
        Given {
            host: plain.clone().lengths(lengths).reset(array(host_reset)),
            mask: false,
            reset: true,
            whole: plain.clone().lengths(lengths).reset(array(|t, b| host_reset(t, b) || resets(t, b))),
        },
        Given {
            host: plain.clone().lengths(lengths).reset(array(host_reset)),
            mask: true,
            reset: false,
            whole: plain.lengths(lengths).mask(array(counts)).reset(array(host_reset)),
        },
    ]
}

fn case(cell: Cell, layers: usize, directions: Directions) -> Case {
    let instructions = Instructions { lengths: None, masked: None, reset: None, pad: Pad::Zero };
    Case {
        cell,
        reverse_cell: None,
        input: 3,
        hidden: 5,
        layers,
        directions,
        time: TIME,
        batch: BATCH,
        instructions,
        weight_type: WeightType::F32,
        given_state: true,
        seed: 17,
    }
}

fn cases() -> Vec<Case> {
    vec![
        case(RnnCell::default().into(), 1, Directions::Reverse),
        case(LstmCell::default().into(), 2, Directions::Forward),
        case(LstmCell { peephole: true, ..LstmCell::LECTURE }.into(), 1, Directions::Both(Merge::Concat)),
        case(LstmCell { projection: Some(3), ..Default::default() }.into(), 2, Directions::Both(Merge::Sum)),
        case(GruCell::default().into(), 3, Directions::Forward),
        case(GruCell { reset: Reset::Before, ..Default::default() }.into(), 1, Directions::Both(Merge::Concat)),
    ]
}

/// Every bit of an output and of a state.
fn all_bits(y: &Tensor, state: &State) -> Vec<u32> {
    let y: ArrayD<f32> = y.to_array().expect("y");
    let s = state.to_s().expect("s").map_or_else(Vec::new, |s| bits(&s));
    [bits(&y), bits(&state.to_h().expect("h")), s].concat()
}

fn start(stack: &Recurrent, arrays: &Arrays<f32>) -> State {
    let s = (!arrays.s.is_empty()).then(|| arrays.s.view());
    stack.initial_state(arrays.h.view(), s).expect("state")
}

/// Compares every kind of instructions on a stack.
fn compare(stack: &Recurrent, arrays: &Arrays<f32>, what: &str) {
    let device = stack.device();
    let x = Tensor::from_array(device, &arrays.x).expect("x");
    let (mask, reset) = (tensor(device, counts), tensor(device, resets));
    let mut seen = Vec::new();
    for (at, Given { host, mask: masked, reset: is_reset, whole }) in given().iter().enumerate() {
        let mut expected_state = start(stack, arrays);
        let y = stack.forward_sequence(&x, &mut expected_state, whole).expect("runs");
        let expected = all_bits(&y, &expected_state);
        let mut sequence = DeviceSequence::from(host);
        sequence = if *masked { sequence.mask(&mask) } else { sequence };
        sequence = if *is_reset { sequence.reset(&reset) } else { sequence };
        let mut state = start(stack, arrays);
        let y = stack.forward_sequence(&x, &mut state, sequence).expect("runs");
        assert!(all_bits(&y, &state) == expected, "{what}: instructions {at}");
        assert!(!seen.contains(&expected), "{what}: instructions {at} change nothing");
        seen.push(expected);
    }
}

#[test]
fn device_masks_give_the_bits_of_host_masks_on_every_device() {
    for device in devices() {
        for case in cases() {
            let arrays = case.arrays();
            let stack = case.config().build(&device, arrays.parameters.clone()).expect("a stack");
            compare(&stack, &arrays, &format!("{device} {:?}", case.cell));
        }
    }
}

#[test]
fn device_masks_give_the_bits_of_host_masks_by_every_schedule() {
    let cooperative = Some(CooperativeScans { workgroups: 1, polls: 1 });
    let options = GpuOptions { software: true, cooperative, ..GpuOptions::default() };
    let device = Device::Gpu(GpuDevice::new(&options).expect("install mesa-vulkan-drivers and libvulkan1"));
    let mut run = 0;
    // The schedules read the same flags for every cell, so a cell of every kind of step will do.
    for case in cases().into_iter().skip(1).step_by(2) {
        let arrays = case.arrays();
        for kind in PlanKind::ALL {
            if refusal(kind, &case.cell, case.ways().len()).is_some() {
                continue;
            }
            let stack = case.config().plan(kind).build(&device, arrays.parameters.clone()).expect("a stack");
            compare(&stack, &arrays, &format!("{kind} {:?}", case.cell));
            run += 1;
        }
    }
    assert_eq!(run, 8);
}

#[test]
fn training_gives_the_same_gradients() {
    for device in devices() {
        for case in cases() {
            let arrays = case.arrays();
            let stack = case.config().trainable(&device, &arrays.parameters).expect("a stack");
            let frozen = stack.freeze().expect("a stack");
            let x = Tensor::from_array(&device, &arrays.x).expect("x");
            let (mask, reset) = (tensor(&device, counts), tensor(&device, resets));
            let options = TrainingOptions { checkpoint: (case.layers == 2).then_some(2), ..Default::default() };
            let pass = |sequence: DeviceSequence<'_>| {
                let mut state = start(&frozen, &arrays);
                let mut recorder = device.recorder();
                let (y, tape) =
                    stack.record_training(&mut recorder, &x, &mut state, sequence, &options).expect("records");
                let gradient = tape.record_backward(&mut recorder, &y, None).expect("records");
                recorder.submit().expect("runs");
                let tensors =
                    [&gradient.x, &gradient.state.h, &gradient.initial.h].into_iter().chain(gradient.tensors());
                let gradients = tensors.flat_map(|tensor| tensor.to_vec().expect("a gradient")).map(f32::to_bits);
                all_bits(&y, &state).into_iter().chain(gradients).collect::<Vec<u32>>()
            };
            let lengths = Sequence::new().lengths([TIME, TIME - 1, 2]);
            let whole = lengths.clone().mask(array(counts)).reset(array(resets));
            let expected = pass(DeviceSequence::from(&whole));
            assert!(
                pass(DeviceSequence::from(&lengths).mask(&mask).reset(&reset)) == expected,
                "{device} {:?}",
                case.cell
            );
            assert!(pass(DeviceSequence::from(&lengths)) != expected, "{device} {:?}", case.cell);
        }
    }
}

/// The loss and the gradients' norm of a training step in a graph, from zeros and from a state that gradients flow into.
#[test]
fn a_graph_takes_device_masks() {
    for device in devices() {
        let x =
            Tensor::from_vec(&device, &[TIME, BATCH, 2], (0..TIME * BATCH * 2).map(|at| (at as f32).sin()).collect());
        let x = x.expect("x");
        let (mask, reset) = (tensor(&device, counts), tensor(&device, resets));
        let step = |sequence: DeviceSequence<'_>| {
            let mut parameters = Parameters::new(&device, 7);
            let lstm = RecurrentModule::new(&mut parameters, "lstm.", &Lstm::config(2, 3)).expect("a stack");
            let mut trainer = Trainer::new(parameters, Sgd::default(), 0.05).expect("a trainer");
            let target = Tensor::zeros(&device, &[TIME, BATCH, 3]).expect("a target");
            let report = trainer.step(|graph| {
                let x = graph.input(&x);
                let options = TrainingOptions::default();
                let y = lstm.forward(graph, x, None, sequence, &options)?;
                let start = Tensor::from_vec(&device, &[1, BATCH, 3], vec![0.25; 3 * BATCH])?;
                let (h, s) = (graph.input(&start), graph.input(&start));
                let from = lstm.forward_from(graph, x, (h, Some(s)), sequence, &options)?;
                let sum = graph.add(y, from.y)?;
                graph.mean_squared_error(sum, &target, &LossOptions::default())
            });
            let report = report.expect("a step");
            (report.loss.to_bits(), report.gradient_norm.to_bits())
        };
        let whole = Sequence::new().mask(array(counts)).reset(array(resets));
        let expected = step(DeviceSequence::from(&whole));
        assert_eq!(step(DeviceSequence::new().mask(&mask).reset(&reset)), expected, "{device}");
        assert_ne!(step(DeviceSequence::new()), expected, "{device}");
    }
}

#[test]
fn a_mask_computed_on_the_device_stays_there_and_costs_one_dispatch() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let lstm = Lstm::config(3, 5).layers(2).random(&device, 3).expect("a stack");
    let wave = |at: usize| (at as f32 * 1.3).sin();
    let x = Tensor::from_vec(&device, &[TIME, BATCH, 3], (0..TIME * BATCH * 3).map(wave).collect()).expect("x");
    // [B, T], as a caller may have it.
    let loudness: Vec<f32> = (0..TIME * BATCH).map(|at| wave(at + 1) * 2.0).collect();
    let by_row = Tensor::from_vec(&device, &[BATCH, TIME], loudness.clone()).expect("loudness");
    let mask = Array2::from_shape_fn((TIME, BATCH), |(t, b)| loudness[b * TIME + t] > 0.0);
    let mut expected_state = lstm.zero_state(BATCH).expect("state");
    let y = lstm.forward_sequence(&x, &mut expected_state, &Sequence::new().mask(mask.clone())).expect("runs");
    let expected = all_bits(&y, &expected_state);

    let run = |state: &mut State| {
        let before = gpu.counters();
        let mut recorder = device.recorder();
        let loudness = ops::permute(&mut recorder, &by_row, &[1, 0]).expect("records");
        let loud = ops::activation(&mut recorder, Activation::Relu, &loudness).expect("records");
        let sequence = DeviceSequence::new().mask(&loud);
        let y = lstm.record(&mut recorder, &x, state, sequence).expect("records");
        let read = recorder.submit_and_read(&y).expect("submits");
        read.wait().expect("arrives");
        (y, gpu.counters() - before)
    };
    let mut state = lstm.zero_state(BATCH).expect("state");
    let (y, spent) = run(&mut state);
    assert_eq!(all_bits(&y, &state), expected);
    let plan = lstm.plan(TIME, BATCH).expect("fits").dispatches();
    assert_eq!((spent.submits, spent.dispatches as usize), (1, 3 + plan));
    drop(y);
    // A warm call writes nothing to the device, not even flags.
    (0..2).for_each(|_| drop(run(&mut state)));
    let (_, spent) = run(&mut state);
    assert_eq!((spent.submits, spent.writes, spent.buffers, spent.bind_groups), (1, 0, 0, 0));
    assert!(mask.iter().any(|&counts| !counts));
}

/// A caller's own buffers of exactly the mask's length, and one tensor as mask and reset.
#[test]
fn own_buffers_of_any_length_are_masks() {
    let gpu = gpu_with(|_| ());
    let device = Device::Gpu(gpu.clone());
    let usage = wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);
    for (time, batch) in [(1, 1), (5, 3), (7, 9)] {
        let size = 4 * (time * batch) as u64;
        let descriptor = wgpu::BufferDescriptor { label: Some("mask"), size, usage, mapped_at_creation: false };
        let buffer = gpu.wgpu().0.create_buffer(&descriptor);
        let answers: Vec<f32> = (0..time * batch).map(|at| ((at * 7) % 3) as f32 * 0.5).collect();
        gpu.wgpu().1.write_buffer(&buffer, 0, bytemuck::cast_slice(&answers));
        let own = Tensor::from_wgpu_buffer(&gpu, buffer, &[time, batch]).expect("fits");
        let host = Array2::from_shape_vec((time, batch), answers.iter().map(|x| *x != 0.0).collect()).expect("fits");
        let gru: Recurrent = Config::new(GruCell::default().into(), 3, 5).random(&device, 3).expect("a stack");
        let x = Tensor::from_vec(&device, &[time, batch, 3], vec![0.75; 3 * time * batch]).expect("x");
        let mut expected_state = gru.zero_state(batch).expect("state");
        let whole = Sequence::new().mask(host.clone()).reset(host);
        let y = gru.forward_sequence(&x, &mut expected_state, &whole).expect("runs");
        let mut state = gru.zero_state(batch).expect("state");
        let sequence = DeviceSequence::new().mask(&own).reset(&own);
        let own_y = gru.forward_sequence(&x, &mut state, sequence).expect("runs");
        assert_eq!(all_bits(&own_y, &state), all_bits(&y, &expected_state), "[{time}, {batch}]");
    }
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    for device in devices() {
        let other = if matches!(device, Device::Cpu) { Device::Reference } else { Device::Cpu };
        let lstm = Lstm::config(3, 5).random(&device, 3).expect("a stack");
        let trainable = Lstm::config(3, 5);
        let parameters = trainable.random_parameters(3).expect("parameters");
        let trainable = trainable.trainable(&device, &parameters).expect("a stack");
        let mut state = lstm.zero_state(BATCH).expect("state");
        let x = Tensor::zeros(&device, &[TIME, BATCH, 3]).expect("x");
        let wrong = Tensor::zeros(&device, &[BATCH, TIME]).expect("a tensor");
        let elsewhere = Tensor::zeros(&other, &[TIME, BATCH]).expect("a tensor");
        for what in ["mask", "reset"] {
            let of = |tensor| match what {
                "mask" => DeviceSequence::new().mask(tensor),
                _ => DeviceSequence::new().reset(tensor),
            };
            for error in [
                lstm.forward_sequence(&x, &mut state, of(&wrong)).expect_err("[B, T]"),
                trainable.forward_training(&x, &mut state, of(&wrong)).expect_err("[B, T]"),
            ] {
                assert_eq!(error.to_string(), format!("sequence: {what} must be [6, 3], got [3, 6]"));
            }
            for error in [
                lstm.forward_sequence(&x, &mut state, of(&elsewhere)).expect_err("elsewhere"),
                trainable.forward_training(&x, &mut state, of(&elsewhere)).expect_err("elsewhere"),
            ] {
                let Error::DeviceMismatch { op: "sequence", what: found, .. } = error else { panic!("{error}") };
                assert_eq!(found, what);
            }
        }
        // A legal tensor does not hide host instructions that do not fit.
        let right = tensor(&device, counts);
        let long = Sequence::new().lengths([TIME + 1, 0, 0]);
        let refused = lstm.forward_sequence(&x, &mut state, DeviceSequence::from(&long).mask(&right));
        assert!(matches!(refused, Err(Error::Value { what: "lengths", .. })));
        assert!(state.to_h().expect("h").iter().all(|h| *h == 0.0), "no refused call has run");
    }
}

#[test]
fn calls_without_steps_or_rows_take_empty_masks() {
    for device in devices() {
        let lstm = Lstm::config(3, 5).random(&device, 3).expect("a stack");
        for [time, batch] in [[0, BATCH], [TIME, 0]] {
            let mut state = lstm.zero_state(batch).expect("state");
            let x = Tensor::zeros(&device, &[time, batch, 3]).expect("x");
            let mask = Tensor::zeros(&device, &[time, batch]).expect("a mask");
            let y =
                lstm.forward_sequence(&x, &mut state, DeviceSequence::new().mask(&mask).reset(&mask)).expect("runs");
            assert_eq!(y.shape(), [time, batch, 5]);
            let wrong = Tensor::zeros(&device, &[time + 1, batch]).expect("a mask");
            lstm.forward_sequence(&x, &mut state, DeviceSequence::new().reset(&wrong)).expect_err("a step too many");
        }
    }
}

/// The answer of a number does not depend on how a driver treats denormals.
#[test]
fn a_denormal_says_yes_on_every_device() {
    for device in devices() {
        let gru: Recurrent = Config::new(GruCell::default().into(), 3, 5).random(&device, 3).expect("a stack");
        let x = Tensor::from_vec(&device, &[2, 1, 3], vec![0.5; 6]).expect("x");
        let mask = Tensor::from_vec(&device, &[2, 1], vec![f32::from_bits(1), -0.0]).expect("a mask");
        let mut state = gru.zero_state(1).expect("state");
        let y = gru.forward_sequence(&x, &mut state, DeviceSequence::new().mask(&mask)).expect("runs").to_vec();
        let y = y.expect("y");
        assert!(y[..5].iter().any(|y| *y != 0.0) && y[5..].iter().all(|y| *y == 0.0), "{device}: {y:?}");
        let mut recorder = device.recorder();
        let none = ops::math(&mut recorder, Math::Floor, &mask).expect("records");
        recorder.submit().expect("runs");
        let mut state = gru.zero_state(1).expect("state");
        let y = gru.forward_sequence(&x, &mut state, DeviceSequence::new().mask(&none)).expect("runs").to_vec();
        assert!(y.expect("y").iter().all(|y| *y == 0.0), "{device}");
    }
}

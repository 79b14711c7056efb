//! A layer's output in a tensor that is there already, for example in a caller's own buffer.

use crate::common::{bits, devices, gpu_with, refusal};
use gatewise::cell::{Activation, Cell, GruCell, LstmCell, Reset, RnnCell, Sequence};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{Config, DeviceSequence, Lstm, Merge, Recurrent, State};
use gatewise::plan::{CooperativeScans, PlanKind};
use gatewise::{Device, Error, Recorder, Tensor, ops};
use ndarray::ArrayD;

const TIME: usize = 5;
const BATCH: usize = 3;
const INPUT: usize = 4;
const HIDDEN: usize = 5;
/// Fills memory that no call may write to.
const GUARD: f32 = -12345.678;

fn x(device: &Device, phase: f32) -> Tensor {
    let x = (0..TIME * BATCH * INPUT).map(|at| (at as f32 * 0.7 + phase).sin()).collect();
    Tensor::from_vec(device, &[TIME, BATCH, INPUT], x).expect("x")
}

/// Stacks of every kind of output: one direction, two, and two that are merged. Returns cell, directions and configuration.
fn configs() -> Vec<(Cell, usize, Config)> {
    let before = GruCell { reset: Reset::Before, ..Default::default() };
    let of = |cell: Cell| (cell, Config::new(cell, INPUT, HIDDEN));
    let [rnn, lstm, gru, before] =
        [RnnCell::default().into(), LstmCell::default().into(), GruCell::default().into(), before.into()].map(of);
    vec![
        (rnn.0, 1, rnn.1.reverse()),
        (lstm.0, 1, lstm.1.clone().layers(3)),
        (lstm.0, 2, lstm.1.layers(2).bidirectional(Merge::Sum)),
        (gru.0, 2, gru.1.bidirectional(Merge::Concat)),
        (before.0, 2, before.1.layers(2).bidirectional(Merge::Mul)),
    ]
}

fn all_bits(y: &Tensor, state: &State) -> Vec<u32> {
    let y: ArrayD<f32> = y.to_array().expect("y");
    let s = state.to_s().expect("s").map_or_else(Vec::new, |s| bits(&s));
    [bits(&y), bits(&state.to_h().expect("h")), s].concat()
}

fn submitted(device: &Device, record: impl FnOnce(&mut Recorder)) {
    let mut recorder = device.recorder();
    record(&mut recorder);
    recorder.submit().expect("runs");
}

/// A caller's buffer with room for `len` elements and guard words behind them, as a tensor of `shape`.
fn own(gpu: &GpuDevice, shape: &[usize]) -> (wgpu::Buffer, Tensor) {
    let usage = wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);
    let len = shape.iter().product::<usize>();
    let size = 4 * (len + 64) as u64;
    let descriptor = wgpu::BufferDescriptor { label: Some("own"), size, usage, mapped_at_creation: false };
    let buffer = gpu.wgpu().0.create_buffer(&descriptor);
    gpu.wgpu().1.write_buffer(&buffer, 0, bytemuck::cast_slice(&vec![GUARD; len + 64]));
    (buffer.clone(), Tensor::from_wgpu_buffer(gpu, buffer, shape).expect("fits"))
}

/// Fails unless calls into `y` give the bits of calls that make their output, call after call.
fn compare(stack: &Recurrent, y: &mut Tensor, what: &str) {
    let device = stack.device();
    let [mut expected_state, mut state] = [0, 1].map(|_| stack.zero_state(BATCH).expect("state"));
    let sequence = Sequence::new().lengths([TIME, 2, TIME - 1]);
    for call in 0..3 {
        let x = x(device, call as f32);
        let made = stack.forward_sequence(&x, &mut expected_state, &sequence).expect("runs");
        let record =
            |recorder: &mut Recorder| stack.record_into(recorder, &x, &mut state, &sequence, y).expect("records");
        submitted(device, record);
        assert!(all_bits(y, &state) == all_bits(&made, &expected_state), "{what}: call {call}");
    }
}

#[test]
fn an_output_in_a_given_tensor_has_the_same_bits_on_every_device() {
    for device in devices() {
        for (cell, _, config) in configs() {
            let stack = config.random(&device, 3).expect("a stack");
            let mut y = Tensor::zeros(&device, &[TIME, BATCH, stack.output_size()]).expect("y");
            compare(&stack, &mut y, &format!("{device} {cell:?}"));
        }
    }
}

#[test]
fn a_callers_buffer_is_written_in_place_by_every_schedule() {
    let cooperative = Some(CooperativeScans { workgroups: 1, polls: 1 });
    // The cap cuts scans into several chunks.
    let (mut run, mut cut) = (0, 0);
    for loop_cap in [None, Some(60)] {
        let options = GpuOptions { software: true, cooperative, loop_cap, ..GpuOptions::default() };
        let gpu = GpuDevice::new(&options).expect("install mesa-vulkan-drivers and libvulkan1");
        let device = Device::Gpu(gpu.clone());
        for (cell, directions, config) in configs() {
            for kind in PlanKind::ALL {
                let config = config.clone().plan(kind);
                let stack = config.random(&device, 3).expect("a stack");
                if refusal(kind, &cell, directions).is_some() || stack.plan(TIME, BATCH).is_err() {
                    continue;
                }
                run += 1;
                cut += usize::from(stack.plan(TIME, BATCH).expect("fits").chunks().len() > 1);
                let shape = [TIME, BATCH, stack.output_size()];
                let (buffer, mut y) = own(&gpu, &shape);
                compare(&stack, &mut y, &format!("{kind} {cell:?} {loop_cap:?}"));
                assert_eq!(y.wgpu_buffer(), Some(&buffer));
                let whole = Tensor::from_wgpu_buffer(&gpu, buffer, &[y.len() + 64]).expect("fits");
                assert!(whole.to_vec().expect("reads")[y.len()..].iter().all(|&word| word == GUARD), "{kind} {cell:?}");
            }
        }
    }
    assert!(run >= 20 && cut >= 3, "{run} runs, {cut} of them in several chunks");
}

#[test]
fn a_warm_call_into_a_callers_buffer_creates_and_copies_nothing() {
    let gpu = gpu_with(|_| ());
    let device = Device::Gpu(gpu.clone());
    for merge in [None, Some(Merge::Sum)] {
        let config = Config::new(Cell::from(GruCell::default()), INPUT, HIDDEN);
        let config = merge.map_or(config.clone(), |merge| config.bidirectional(merge));
        let stack = config.random(&device, 3).expect("a stack");
        let mut state = stack.zero_state(BATCH).expect("state");
        let (_, mut y) = own(&gpu, &[TIME, BATCH, HIDDEN]);
        let x = x(&device, 0.0);
        let mut call = || {
            let before = gpu.counters();
            submitted(&device, |recorder| {
                stack.record_into(recorder, &x, &mut state, &Sequence::new(), &mut y).expect("records");
            });
            gpu.counters() - before
        };
        (0..2).for_each(|_| _ = call());
        let spent = call();
        assert_eq!((spent.submits, spent.passes, spent.buffers, spent.bind_groups), (1, 1, 0, 0), "{merge:?}");
        assert_eq!(spent.dispatches as usize, stack.plan(TIME, BATCH).expect("fits").dispatches(), "{merge:?}");
    }
}

/// Operations recorded between two calls into one tensor read the output of the first.
#[test]
fn calls_into_one_tensor_keep_their_order() {
    let gpu = gpu_with(|_| ());
    for device in [Device::Reference, Device::Cpu, Device::Gpu(gpu.clone())] {
        let lstm = Lstm::config(INPUT, HIDDEN).random(&device, 3).expect("a stack");
        let mut expected_state = lstm.zero_state(BATCH).expect("state");
        let expected = [0.0, 1.0].map(|phase| lstm.forward(&x(&device, phase), &mut expected_state).expect("runs"));
        let expected = expected.map(|y| y.to_vec().expect("y"));
        let shape = [TIME, BATCH, HIDDEN];
        let mut places = vec![Tensor::zeros(&device, &shape).expect("y")];
        if matches!(device, Device::Gpu(_)) {
            places.push(own(&gpu, &shape).1);
        }
        for mut y in places {
            let mut state = lstm.zero_state(BATCH).expect("state");
            let mut recorder = device.recorder();
            lstm.record_into(&mut recorder, &x(&device, 0.0), &mut state, &Sequence::new(), &mut y).expect("records");
            let identity = Activation::Affine { alpha: 1.0, beta: 0.0 };
            let copy = ops::activation(&mut recorder, identity, &y).expect("records");
            lstm.record_into(&mut recorder, &x(&device, 1.0), &mut state, &Sequence::new(), &mut y).expect("records");
            recorder.submit().expect("runs");
            assert_eq!([copy, y].map(|y| y.to_vec().expect("y")), expected, "{device}");
        }
    }
}

#[test]
fn a_clone_keeps_its_elements_unless_the_buffer_is_the_callers() {
    let gpu = gpu_with(|_| ());
    let shape = [TIME, BATCH, HIDDEN];
    for device in [Device::Reference, Device::Cpu, Device::Gpu(gpu.clone())] {
        let lstm = Lstm::config(INPUT, HIDDEN).random(&device, 3).expect("a stack");
        let run = |y: &mut Tensor| {
            let mut state = lstm.zero_state(BATCH).expect("state");
            submitted(&device, |recorder| {
                lstm.record_into(recorder, &x(&device, 0.0), &mut state, &Sequence::new(), y).expect("records");
            });
            y.to_vec().expect("y")
        };
        let mut y = Tensor::from_vec(&device, &shape, vec![7.0; TIME * BATCH * HIDDEN]).expect("y");
        let clone = y.clone();
        let written = run(&mut y);
        assert!(written.iter().all(|y| y.abs() < 1.0));
        assert!(clone.to_vec().expect("the clone").iter().all(|y| *y == 7.0), "{device}");
        if matches!(device, Device::Gpu(_)) {
            let (_, mut y) = own(&gpu, &shape);
            let clone = y.clone();
            assert_eq!(run(&mut y), written);
            assert_eq!(clone.to_vec().expect("the clone"), written);
            // A tensor of the library whose buffer a caller has seen stays where the caller looks for it.
            let mut y = Tensor::zeros(&device, &shape).expect("y");
            let buffer = y.wgpu_buffer().expect("on the GPU").clone();
            assert_eq!(run(&mut y), written);
            assert_eq!(y.wgpu_buffer(), Some(&buffer));
        }
    }
}

#[test]
fn a_buffer_that_the_call_reads_is_refused() {
    let gpu = gpu_with(|_| ());
    let device = Device::Gpu(gpu.clone());
    let lstm = Lstm::config(HIDDEN, HIDDEN).random(&device, 3).expect("a stack");
    let (buffer, x) = own(&gpu, &[TIME, BATCH, HIDDEN]);
    let other = Tensor::zeros(&device, x.shape()).expect("x");
    // Another tensor over the caller's buffer.
    let again = |shape: &[usize]| Tensor::from_wgpu_buffer(&gpu, buffer.clone(), shape).expect("fits");
    let mut state = lstm.zero_state(BATCH).expect("state");
    let mask = again(&[TIME, BATCH]);
    let refusals: [(&Tensor, DeviceSequence<'_>, &str); 3] = [
        (&x, DeviceSequence::new(), "x"),
        (&other, DeviceSequence::new().mask(&mask), "mask"),
        (&other, DeviceSequence::new().reset(&mask), "reset"),
    ];
    for (x, sequence, what) in refusals {
        let mut y = again(&[TIME, BATCH, HIDDEN]);
        let refused = lstm.record_into(&mut device.recorder(), x, &mut state, sequence, &mut y);
        let expected = format!("Recurrent: y must be memory that the call does not read, got the buffer of {what}");
        assert_eq!(refused.expect_err(what).to_string(), expected);
    }
}

#[test]
fn an_output_that_does_not_fit_is_refused_and_the_state_stays() {
    for device in devices() {
        let other = if matches!(device, Device::Cpu) { Device::Reference } else { Device::Cpu };
        let lstm = Lstm::config(INPUT, HIDDEN).random(&device, 3).expect("a stack");
        let mut state = lstm.zero_state(BATCH).expect("state");
        let into = |x: &Tensor, state: &mut State, y: &mut Tensor| {
            lstm.record_into(&mut device.recorder(), x, state, &Sequence::new(), y)
        };
        let mut narrow = Tensor::zeros(&device, &[TIME, BATCH, HIDDEN - 1]).expect("y");
        let error = into(&x(&device, 0.0), &mut state, &mut narrow).expect_err("too narrow");
        assert_eq!(error.to_string(), "Recurrent: y must be [5, 3, 5], got [5, 3, 4]");
        let mut elsewhere = Tensor::zeros(&other, &[TIME, BATCH, HIDDEN]).expect("y");
        let error = into(&x(&device, 0.0), &mut state, &mut elsewhere).expect_err("elsewhere");
        assert!(matches!(error, Error::DeviceMismatch { op: "Recurrent", what: "y", .. }), "{error}");
        assert!(state.to_h().expect("h").iter().all(|h| *h == 0.0));
        for [time, batch] in [[0, BATCH], [TIME, 0]] {
            let mut state = lstm.zero_state(batch).expect("state");
            let x = Tensor::zeros(&device, &[time, batch, INPUT]).expect("x");
            let mut y = Tensor::zeros(&device, &[time, batch, HIDDEN]).expect("y");
            into(&x, &mut state, &mut y).expect("nothing to do");
        }
    }
}

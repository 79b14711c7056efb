//! Recorded operations in a caller's own encoder: one submission, in the caller's order, and memory that waits for it.

use std::time::Duration;

use crate::common::{gpu, gpu_with, gpus_with};
use gatewise::cell::{Cell, GruCell, LstmCell, Reset, Sequence};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{Config, Lstm, Recurrent, State};
use gatewise::plan::{CooperativeScans, PlanKind, Watchdog};
use gatewise::{Device, Error, Tensor};
use ndarray::{Array2, Array3};

const TIME: usize = 5;
const BATCH: usize = 3;
const INPUT: usize = 5;
const HIDDEN: usize = 7;

fn wave(phase: f32) -> Vec<f32> {
    (0..TIME * BATCH * INPUT).map(|at| (at as f32 * 0.7 + phase).sin()).collect()
}

fn input(device: &Device, phase: f32) -> Tensor {
    Tensor::from_vec(device, &[TIME, BATCH, INPUT], wave(phase)).expect("x")
}

/// Resets a row per step, from row `first` on.
fn resets(first: usize) -> Sequence {
    Sequence::new().reset(Array2::from_shape_fn((TIME, BATCH), |(t, b)| t > 0 && (t + first) % BATCH == b))
}

fn state_bits(state: &State) -> Vec<u32> {
    let (h, s) = (state.to_h().expect("h"), state.to_s().expect("s"));
    h.iter().chain(s.iter().flatten()).map(|x| x.to_bits()).collect()
}

fn bits(y: &Tensor) -> Vec<u32> {
    y.to_vec().expect("y").iter().map(|x| x.to_bits()).collect()
}

fn encoder(gpu: &GpuDevice) -> wgpu::CommandEncoder {
    gpu.wgpu().0.create_command_encoder(&wgpu::CommandEncoderDescriptor { label: Some("caller") })
}

/// A pass of the caller: writes `from[i]`, followed by a rule such as `* 0.5`, to `to[i]`.
fn scale(gpu: &GpuDevice, encoder: &mut wgpu::CommandEncoder, from: &Tensor, to: &Tensor, rule: &str) {
    let source = format!(
        "@group(0) @binding(0) var<storage, read> input: array<f32>;
        @group(0) @binding(1) var<storage, read_write> output: array<f32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            if id.x < {}u {{ output[id.x] = input[id.x] {rule}; }}
        }}",
        from.len()
    );
    let device = gpu.wgpu().0;
    let source = wgpu::ShaderSource::Wgsl(source.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("scale"), source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("scale"),
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: wgpu::PipelineCompilationOptions::default(),
        cache: None,
    });
    let buffers = [from, to].map(|tensor| tensor.wgpu_buffer().expect("on the GPU"));
    let entries =
        [0, 1].map(|at| wgpu::BindGroupEntry { binding: at, resource: buffers[at as usize].as_entire_binding() });
    let layout = pipeline.get_bind_group_layout(0);
    let descriptor = wgpu::BindGroupDescriptor { label: Some("scale"), layout: &layout, entries: &entries };
    let group = device.create_bind_group(&descriptor);
    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
    pass.set_pipeline(&pipeline);
    pass.set_bind_group(0, &group, &[]);
    pass.dispatch_workgroups(64, 1, 1);
}

#[test]
fn own_kernels_before_and_after_a_layer_are_one_submission() {
    for gpu in [gpu(), gpu_with(|_| ())] {
        let device = Device::Gpu(gpu.clone());
        let lstm = Lstm::config(INPUT, HIDDEN).layers(2).random(&device, 5).expect("a stack");
        // The expected values by calls of the library alone; the caller's products and sums are exact.
        let mut expected_state = lstm.zero_state(BATCH).expect("state");
        let mut expected = Vec::new();
        for phase in [0.0, 1.0] {
            let halved = wave(phase).iter().map(|x| x * 0.5).collect();
            let halved = Tensor::from_vec(&device, &[TIME, BATCH, INPUT], halved).expect("x");
            expected.push(lstm.forward_sequence(&halved, &mut expected_state, &resets(1)).expect("runs"));
        }
        let expected: Vec<Vec<f32>> = expected.iter().map(|y| y.to_vec().expect("y")).collect();

        let mut state = lstm.zero_state(BATCH).expect("state");
        for (phase, expected) in [0.0, 1.0].into_iter().zip(expected) {
            let raw = input(&device, phase);
            let x = Tensor::zeros(&device, raw.shape()).expect("x");
            let doubled = Tensor::zeros(&device, &[TIME, BATCH, HIDDEN]).expect("room");
            let before = gpu.counters();
            let mut encoder = encoder(&gpu);
            scale(&gpu, &mut encoder, &raw, &x, "* 0.5");
            let mut recorder = device.recorder();
            let y = lstm.record(&mut recorder, &x, &mut state, &resets(1)).expect("records");
            let commands = recorder.encode_and_read(&mut encoder, &[&y]).expect("encodes");
            scale(&gpu, &mut encoder, &y, &doubled, "* 2.0");
            assert_eq!((gpu.counters() - before).dispatches, 0, "nothing has been submitted");
            let submission = gpu.wgpu().1.submit([encoder.finish()]);
            let mut reads = commands.submitted(submission).expect("alive");
            let read = reads.pop().expect("one tensor").wait().expect("arrives");
            let spent = gpu.counters() - before;
            assert_eq!(spent.submits, 0, "the caller's submission is the only one");
            assert_eq!(spent.dispatches as usize, lstm.plan(TIME, BATCH).expect("fits").dispatches());
            assert!(reads.is_empty());
            assert_eq!(read, expected);
            let twice: Vec<f32> = expected.iter().map(|y| y * 2.0).collect();
            assert_eq!(doubled.to_vec().expect("reads"), twice);
        }
        assert_eq!(state_bits(&state), state_bits(&expected_state));
    }
}

/// The device for a kind of plan.
fn opened(watchdog: Option<Watchdog>) -> GpuDevice {
    let cooperative = Some(CooperativeScans { workgroups: 1, polls: 1 });
    let options = GpuOptions { software: true, cooperative, watchdog, ..GpuOptions::default() };
    GpuDevice::new(&options).expect("install mesa-vulkan-drivers and libvulkan1")
}

/// A stack for every schedule.
fn stacks(device: &Device) -> Vec<(PlanKind, Recurrent)> {
    let before = GruCell { reset: Reset::Before, ..Default::default() };
    let kinds: [(Cell, usize, PlanKind); 5] = [
        (LstmCell::default().into(), 1, PlanKind::Step),
        (before.into(), 2, PlanKind::Step),
        (LstmCell::default().into(), 3, PlanKind::Wave),
        (GruCell::default().into(), 2, PlanKind::Scan),
        (LstmCell::default().into(), 2, PlanKind::CooperativeScan),
    ];
    let stack = |(cell, layers, kind): (Cell, usize, PlanKind)| {
        let config = Config::new(cell, INPUT, HIDDEN).layers(layers).plan(kind);
        (kind, config.random(device, 3).expect("a stack"))
    };
    kinds.into_iter().map(stack).collect()
}

/// Encodes a call into an encoder of its own, with the read-back of its output.
fn encoded(
    gpu: &GpuDevice,
    stack: &Recurrent,
    x: &Tensor,
    state: &mut State,
    sequence: &Sequence,
) -> (wgpu::CommandEncoder, gatewise::EncodedCommands, Tensor) {
    let mut encoder = encoder(gpu);
    let mut recorder = stack.device().recorder();
    let y = stack.record(&mut recorder, x, state, sequence).expect("records");
    let commands = recorder.encode(&mut encoder).expect("encodes");
    (encoder, commands, y)
}

#[test]
fn every_schedule_gives_the_bits_of_its_own_submission_and_a_warm_call_creates_nothing() {
    let gpu = opened(None);
    let device = Device::Gpu(gpu.clone());
    let x = [0.0, 1.0, 2.0].map(|phase| input(&device, phase));
    for (kind, stack) in stacks(&device) {
        let mut expected_state = stack.zero_state(BATCH).expect("state");
        let expected = x.each_ref().map(|x| bits(&stack.forward(x, &mut expected_state).expect("runs")));
        let mut state = stack.zero_state(BATCH).expect("state");
        for (at, (x, expected)) in x.iter().zip(&expected).enumerate() {
            let before = gpu.counters();
            let (encoder, commands, y) = encoded(&gpu, &stack, x, &mut state, &Sequence::new());
            let submission = gpu.wgpu().1.submit([encoder.finish()]);
            assert!(commands.submitted(submission).expect("alive").is_empty());
            let spent = gpu.counters() - before;
            assert_eq!(spent.submits, 0, "{kind}");
            if at == 2 && kind != PlanKind::CooperativeScan {
                assert_eq!((spent.buffers, spent.pipelines, spent.bind_groups), (0, 0, 0), "{kind}");
            }
            assert!(bits(&y) == *expected, "{kind}: call {at}");
        }
        assert_eq!(state_bits(&state), state_bits(&expected_state), "{kind}");
    }
}

#[test]
fn an_encoder_that_is_dropped_leaves_the_state_as_it_was() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let lstm: Recurrent = Config::new(LstmCell::default().into(), INPUT, HIDDEN).random(&device, 3).expect("a stack");
    let x = input(&device, 0.5);
    let mut state = lstm.zero_state(BATCH).expect("state");
    lstm.forward(&x, &mut state).expect("runs");
    let good = state_bits(&state);
    for commands_first in [true, false] {
        let before = gpu.counters();
        let (encoder, commands, _) = encoded(&gpu, &lstm, &x, &mut state, &resets(1));
        if commands_first {
            drop(commands);
            drop(encoder);
        } else {
            drop(encoder.finish());
            drop(commands);
        }
        let spent = gpu.counters() - before;
        assert_eq!((spent.submits, spent.dispatches), (0, 0));
        assert_eq!(state_bits(&state), good);
    }
    // The state can be advanced as ever.
    let mut expected = lstm.zero_state(BATCH).expect("state");
    lstm.forward(&x, &mut expected).expect("runs");
    let y = lstm.forward(&x, &mut expected).expect("runs");
    assert_eq!(bits(&lstm.forward(&x, &mut state).expect("runs")), bits(&y));
}

/// Calls that are made between the encoding and the submission of another one get other memory, whether the caller
/// keeps the commands or drops them.
#[test]
fn memory_is_not_used_again_before_the_submission() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    for (kind, stack) in [PlanKind::Step, PlanKind::Scan].map(|kind| {
        let config = Config::new(Cell::from(LstmCell::default()), INPUT, HIDDEN).layers(2).plan(kind);
        (kind, config.random(&device, 3).expect("a stack"))
    }) {
        let run = |phase: f32, first: usize| {
            let mut state = stack.zero_state(BATCH).expect("state");
            let y = stack.forward_sequence(&input(&device, phase), &mut state, &resets(first)).expect("runs");
            (bits(&y), state_bits(&state))
        };
        let expected: Vec<_> = (0..4).map(|at| run(at as f32, at)).collect();
        for keep in [true, false] {
            let mut state = stack.zero_state(BATCH).expect("state");
            // The input goes out of scope: only the commands own it then.
            let (encoder, commands, y) = encoded(&gpu, &stack, &input(&device, 0.0), &mut state, &resets(0));
            let mut commands = Some(commands);
            if !keep {
                drop(commands.take());
            }
            for (at, expected) in expected.iter().enumerate().skip(1) {
                assert_eq!(run(at as f32, at), *expected, "{kind}");
            }
            // More uniforms of the same size than a device keeps push those of the encoded call out.
            for batch in 4..=72 {
                let mut state = stack.zero_state(batch).expect("state");
                stack.forward(&Tensor::zeros(&device, &[TIME, batch, INPUT]).expect("x"), &mut state).expect("runs");
            }
            let submission = gpu.wgpu().1.submit([encoder.finish()]);
            if let Some(commands) = commands {
                commands.submitted(submission).expect("alive");
            }
            assert_eq!((bits(&y), state_bits(&state)), expected[0], "{kind}, keep: {keep}");
        }
    }
}

#[test]
fn several_recorders_share_an_encoder_and_a_state() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let gru: Recurrent = Config::new(GruCell::default().into(), INPUT, INPUT).random(&device, 3).expect("a stack");
    let mut expected_state = gru.zero_state(BATCH).expect("state");
    let x = input(&device, 0.0);
    let first = gru.forward_sequence(&x, &mut expected_state, &resets(0)).expect("runs");
    let halved = first.to_vec().expect("y").iter().map(|y| y * 0.5).collect();
    let halved = Tensor::from_vec(&device, first.shape(), halved).expect("x");
    let second = gru.forward_sequence(&halved, &mut expected_state, &resets(2)).expect("runs");

    let mut state = gru.zero_state(BATCH).expect("state");
    let between = Tensor::zeros(&device, first.shape()).expect("room");
    let mut encoder = encoder(&gpu);
    let mut recorder = device.recorder();
    let y = gru.record(&mut recorder, &x, &mut state, &resets(0)).expect("records");
    let one = recorder.encode_and_read(&mut encoder, &[]).expect("encodes");
    scale(&gpu, &mut encoder, &y, &between, "* 0.5");
    let mut recorder = device.recorder();
    let y = gru.record(&mut recorder, &between, &mut state, &resets(2)).expect("records");
    let h = state.h_tensor(&mut recorder).expect("records");
    let none = Tensor::zeros(&device, &[0, 3]).expect("a tensor");
    let two = recorder.encode_and_read(&mut encoder, &[&h, &none, &y]).expect("encodes");
    let submission = gpu.wgpu().1.submit([encoder.finish()]);
    assert!(one.submitted(submission.clone()).expect("alive").is_empty());
    let reads = two.submitted(submission).expect("alive");
    let reads: Vec<Vec<f32>> = reads.into_iter().map(|read| pollster::block_on(read.arrive()).expect("y")).collect();
    let expected_h: Array3<f32> = expected_state.to_h().expect("h");
    let second = second.to_vec().expect("y");
    assert_eq!(reads, [expected_h.into_raw_vec_and_offset().0, Vec::new(), second]);
}

#[test]
fn commands_that_a_watchdog_would_cut_are_refused_until_the_caller_allows_them() {
    let watchdog = Watchdog { dispatch: Duration::from_micros(14), submission: Duration::from_micros(30) };
    let gpu = opened(Some(watchdog));
    let device = Device::Gpu(gpu.clone());
    let (kind, stack) = stacks(&device).remove(0);
    let x = input(&device, 0.0);
    let mut state = stack.zero_state(BATCH).expect("state");
    let mut expected_state = stack.zero_state(BATCH).expect("state");
    let before = gpu.counters().submits;
    let expected = stack.forward(&x, &mut expected_state).expect("runs");
    assert!(gpu.counters().submits - before > 1, "{kind}");
    let mut encoder = encoder(&gpu);
    let mut recorder = device.recorder();
    stack.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
    let error = recorder.encode(&mut encoder).expect_err("too long");
    let message = error.to_string();
    assert!(matches!(error, Error::Limit { op: "Recorder::encode", limit: 30, needed: 60.., .. }), "{message}");
    assert!(message.contains("record less per encoder, or set Recorder::submission_bound"), "{message}");
    // The encoder is as it was, and takes the call with another bound.
    let mut recorder = device.recorder().submission_bound(Duration::MAX);
    let y = stack.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
    let commands = recorder.encode(&mut encoder).expect("allowed");
    commands.submitted(gpu.wgpu().1.submit([encoder.finish()])).expect("alive");
    assert_eq!(bits(&y), bits(&expected));
    assert_eq!(state_bits(&state), state_bits(&expected_state));
    // The bound also holds for submissions of the library.
    let before = gpu.counters().submits;
    let mut recorder = device.recorder().submission_bound(Duration::MAX);
    stack.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
    recorder.submit().expect("runs");
    assert_eq!(gpu.counters().submits - before, 1);
}

#[test]
fn an_encoder_that_does_not_fit_is_refused() {
    let [here, there] = gpus_with(|_| ());
    for device in [Device::Cpu, Device::Reference] {
        let error = device.recorder().encode(&mut encoder(&here)).expect_err("no GPU");
        assert_eq!(error.to_string(), "Recorder::encode: a wgpu encoder is not supported by host devices");
    }
    let device = Device::Gpu(here.clone());
    let foreign = Tensor::zeros(&Device::Gpu(there.clone()), &[2]).expect("a tensor");
    let refused = device.recorder().encode_and_read(&mut encoder(&here), &[&foreign]);
    assert!(matches!(refused, Err(Error::DeviceMismatch { op: "Recorder::encode", what: "tensor", .. })));

    // wgpu recognises an encoder of another device when it is finished; the state keeps its value.
    let lstm = Lstm::config(INPUT, HIDDEN).random(&device, 3).expect("a stack");
    let mut state = lstm.zero_state(BATCH).expect("state");
    let good = state_bits(&state);
    let mut elsewhere = encoder(&there);
    let mut recorder = device.recorder();
    lstm.record(&mut recorder, &input(&device, 0.0), &mut state, &Sequence::new()).expect("records");
    let commands = recorder.encode(&mut elsewhere).expect("wgpu says so later");
    let scope = there.wgpu().0.push_error_scope(wgpu::ErrorFilter::Validation);
    drop(elsewhere.finish());
    assert!(pollster::block_on(scope.pop()).is_some(), "the encoder is invalid");
    drop(commands);
    assert_eq!(state_bits(&state), good);

    // An encoder of a device that is lost.
    let mut late = encoder(&here);
    let mut recorder = device.recorder();
    lstm.record(&mut recorder, &input(&device, 0.0), &mut state, &Sequence::new()).expect("records");
    here.wgpu().0.destroy();
    here.wgpu().0.poll(wgpu::PollType::wait_indefinitely()).expect("waits");
    assert!(matches!(recorder.encode(&mut late), Err(Error::DeviceLost { op: "Recorder::encode", .. })));
}

/// A device that is lost between the encoding and the submission.
#[test]
fn a_loss_before_the_submission_is_reported() {
    let gpu = gpu_with(|_| ());
    let device = Device::Gpu(gpu.clone());
    let lstm: Recurrent = Config::new(LstmCell::default().into(), INPUT, HIDDEN).random(&device, 3).expect("a stack");
    let mut state = lstm.zero_state(BATCH).expect("state");
    let (encoder, commands, _) = encoded(&gpu, &lstm, &input(&device, 0.0), &mut state, &Sequence::new());
    gpu.wgpu().0.destroy();
    gpu.wgpu().0.poll(wgpu::PollType::wait_indefinitely()).expect("waits");
    let submission = gpu.wgpu().1.submit([encoder.finish()]);
    assert!(matches!(commands.submitted(submission), Err(Error::DeviceLost { .. })));
}

/// Workgroups that wait in vain are noticed in a caller's submission as in the library's own.
#[test]
fn a_cooperative_scan_that_gives_up_is_right_and_not_chosen_again() {
    const WIDE: usize = 33;
    let cooperative = Some(CooperativeScans { workgroups: 16, polls: 1 });
    let options = GpuOptions { software: true, cooperative, ..GpuOptions::default() };
    let gpu = GpuDevice::new(&options).expect("install mesa-vulkan-drivers and libvulkan1");
    let device = Device::Gpu(gpu.clone());
    let config = Config::new(Cell::from(LstmCell::default()), INPUT, WIDE);
    let x = input(&device, 0.0);
    let steps = config.clone().plan(PlanKind::Step).random(&device, 3).expect("a stack");
    let expected = steps.forward(&x, &mut steps.zero_state(BATCH).expect("state")).expect("runs");
    let stack = config.plan(PlanKind::CooperativeScan).random(&device, 3).expect("a stack");
    assert_eq!(stack.plan(TIME, BATCH).expect("fits").kind(), PlanKind::CooperativeScan);
    let mut state = stack.zero_state(BATCH).expect("state");
    let (encoder, commands, y) = encoded(&gpu, &stack, &x, &mut state, &Sequence::new());
    commands.submitted(gpu.wgpu().1.submit([encoder.finish()])).expect("alive");
    let near = y.to_vec().expect("y").iter().zip(expected.to_vec().expect("y")).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(near);
    if gpu.adapter().is_software() {
        assert_eq!(stack.plan(TIME, BATCH).expect("fits").why(), "its workgroups were found not to run at once");
    }
}

//! A GPU that goes away: every call says so, nothing panics, and what was read back before stays.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll, Wake, Waker};

use gatewise::cell::{Activation, Sequence};
use gatewise::gpu::{GpuDevice, KERNELS, KernelRun};
use gatewise::models::{RnNoise, SileroVad};
use gatewise::nn::{Gru, Lstm, Merge, State};
use gatewise::ops::{self, Reduction};
use gatewise::train::{Graph, LinearModule, LossOptions, Parameters, Sgd, Trainer};
use gatewise::weights::Weights;
use gatewise::{Device, Error, Tensor};

use crate::common::{gpu, gpu_with};
use crate::{tensor, value};

/// The machine's GPU, opened by a caller who can destroy it.
fn opened() -> (GpuDevice, Device) {
    let gpu = gpu_with(|_| ());
    (gpu.clone(), Device::Gpu(gpu))
}

/// Loses the GPU and waits until wgpu has reported it: it does so once the work in flight is done.
fn lose(gpu: &GpuDevice) {
    gpu.wgpu().0.destroy();
    gpu.wgpu().0.poll(wgpu::PollType::wait_indefinitely()).expect("waits");
}

#[track_caller]
fn lost<T>(what: &str, result: Result<T, Error>) {
    match result {
        Err(error @ Error::DeviceLost { .. }) => {
            let message = error.to_string();
            assert!(message.contains(": the GPU device was lost ("), "{what}: {message}");
        }
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what}: accepted"),
    }
}

struct Running {
    gpu: GpuDevice,
    device: Device,
    lstm: Lstm,
    x: Tensor,
    y: Tensor,
    state: State,
}

fn running() -> Running {
    let (gpu, device) = opened();
    let lstm = Lstm::config(3, 4).layers(2).bidirectional(Merge::Sum).random(&device, 5).expect("a stack");
    let mut state = lstm.zero_state(2).expect("state");
    let x = tensor(&device, &[5, 2, 3]);
    let y = lstm.forward(&x, &mut state).expect("runs");
    Running { gpu, device, lstm, x, y, state }
}

#[test]
fn every_call_on_a_lost_gpu_says_so() {
    let Running { gpu, device, lstm, x, y, mut state } = running();
    let mut recorded = device.recorder();
    let pending = ops::activation(&mut recorded, Activation::Tanh, &y).expect("records");
    let read_before = value(&state);
    let copy = state.try_clone().expect("a copy");
    lose(&gpu);

    lost("submit", recorded.submit());
    lost("an empty submit", device.recorder().submit());
    lost("forward", lstm.forward(&x, &mut state));
    lost("forward again", lstm.forward_sequence(&x, &mut state, &Sequence::new().lengths([3, 0])));
    lost("y", y.to_vec());
    lost("what was never computed", pending.to_vec());
    lost("h", state.to_h());
    lost("s", state.to_s());
    lost("the copy's h", copy.to_h());
    lost("try_clone", state.try_clone());
    lost("zero_state", lstm.zero_state(2));
    lost("another zero_state", lstm.zero_state(3000));
    lost("state", lstm.state(ndarray::Array3::zeros((4, 2, 4)).view(), Some(ndarray::Array3::zeros((4, 2, 4)).view())));
    lost("a tensor", Tensor::from_vec(&device, &[30], vec![1.0; 30]));
    lost("a large tensor", Tensor::zeros(&device, &[300, 3000]));
    lost("a stack", Gru::config(3, 4).random(&device, 5));
    lost("a sum", {
        let mut recorder = device.recorder();
        ops::reduce_rows(&mut recorder, Reduction::Sum, &x.reshape(&[10, 3]).expect("fits"))
            .and_then(|sum| recorder.submit().map(|()| sum))
            .and_then(|sum| sum.to_vec())
    });
    let kernel = KERNELS.iter().find(|kernel| kernel.name == "unary").expect("a kernel of the crate");
    let run = KernelRun { constants: &[], dims: &[1, 0, 0], buffers: &[vec![0], vec![0]], grid: [1; 3] };
    lost("run_kernel", gpu.run_kernel(kernel, &run));

    // The caller keeps the values that were read back before the loss.
    assert_eq!(read_before.len(), 2 * 4 * 2 * 4);
    // A state says clearly that its value is gone; it can be made anew from what was read back.
    let (_, fresh) = opened();
    let lstm = Lstm::config(3, 4).random(&fresh, 5).expect("a stack on a fresh opening");
    lstm.forward(&tensor(&fresh, &[5, 2, 3]), &mut lstm.zero_state(2).expect("state")).expect("runs");
}

/// Memory that was given back to the pool is handed out again without asking the driver.
#[test]
fn memory_from_the_pool_of_a_lost_gpu_is_refused() {
    let (gpu, device) = opened();
    let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
    drop(tensor(&device, &[5, 2, 3]));
    let mut state = lstm.zero_state(2).expect("state");
    drop(lstm.forward(&tensor(&device, &[5, 2, 3]), &mut state).and_then(|y| y.to_vec()).expect("runs"));
    drop(lstm.zero_state(2).expect("state"));
    lose(&gpu);
    lost("a tensor", Tensor::from_vec(&device, &[5, 2, 3], vec![0.0; 30]));
    lost("zero_state", lstm.zero_state(2));
}

#[test]
fn a_loss_between_recording_and_submission_is_met_at_submission() {
    let Running { gpu, device, lstm, x, mut state, .. } = running();
    let mut recorder = device.recorder();
    let y = lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
    lose(&gpu);
    lost("submit", recorder.submit());
    lost("y", y.to_vec());
    lost("h", state.to_h());
}

/// Until the work in flight is done, wgpu drops commands without an error. A call may then be accepted, but no value is returned,
/// and every failure names the loss.
#[test]
fn a_loss_that_is_not_reported_yet_gives_no_wrong_value() {
    for _ in 0..20 {
        let Running { gpu, device, lstm, x, mut state, .. } = running();
        let mut recorder = device.recorder();
        let y = lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
        gpu.wgpu().0.destroy();
        for (what, accepted) in [
            ("submit", recorder.submit()),
            ("forward", lstm.forward(&x, &mut state).map(drop)),
            ("a tensor", Tensor::from_vec(&device, &[9], vec![0.0; 9]).map(drop)),
            ("zero_state", lstm.zero_state(50).map(drop)),
            ("a stack", Gru::config(3, 4).random(&device, 5).map(drop)),
        ] {
            if accepted.is_err() {
                lost(what, accepted);
            }
        }
        lost("y", y.to_vec());
        lost("h", state.to_h());
    }
}

#[test]
fn another_opening_of_the_gpu_and_the_cpu_go_on() {
    let Running { gpu, .. } = running();
    let other = Device::Gpu(crate::common::gpu());
    for device in [other, Device::Cpu] {
        let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
        let x = tensor(&device, &[5, 2, 3]);
        let mut state = lstm.zero_state(2).expect("state");
        lstm.forward(&x, &mut state).expect("runs");
        lose(&gpu);
        let before = value(&state);
        lstm.forward(&x, &mut state).expect("runs");
        assert_ne!(value(&state), before);
    }
}

#[test]
fn a_stream_of_speech_meets_the_loss() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/silero_vad_16k.safetensors");
    let weights = Weights::from_file(path).expect("weights");
    let (gpu, device) = opened();
    let vad = SileroVad::new(&device, &weights).expect("detector");
    let mut stream = vad.stream().expect("stream");
    let samples: Vec<f32> = (0..4 * SileroVad::FRAME).map(|at| (at as f32 * 0.05).sin()).collect();
    assert_eq!(stream.push(&samples).expect("runs").len(), 4);
    assert!(stream.push(&samples[..9]).expect("kept").is_empty(), "a part of a frame");
    lose(&gpu);
    lost("push", stream.push(&samples));
    lost("push of several blocks", stream.push(&samples.repeat(300)));
    lost("state", stream.state());
    lost("finish", stream.finish());
    lost("a new stream", vad.stream());
    lost("a new detector", SileroVad::new(&device, &weights));
}

/// wgpu keeps one callback per device, that of whoever sets it last.
#[test]
fn an_application_keeps_its_own_lost_callback() {
    for set_last in [false, true] {
        for own in [false, true] {
            let told = Arc::new(AtomicBool::new(false));
            let set = |gpu: &wgpu::Device| {
                let told = Arc::clone(&told);
                gpu.set_device_lost_callback(move |_, _| told.store(true, Ordering::SeqCst));
            };
            let gpu = if own {
                gpu()
            } else {
                shared(|raw| {
                    if !set_last {
                        set(raw)
                    }
                })
            };
            if set_last || own {
                set(gpu.wgpu().0);
            }
            let device = Device::Gpu(gpu.clone());
            let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
            let x = tensor(&device, &[5, 2, 3]);
            let mut state = lstm.zero_state(2).expect("state");
            let y = lstm.forward(&x, &mut state).expect("runs");
            lose(&gpu);
            assert!(told.load(Ordering::SeqCst), "set last: {set_last}, opened by the library: {own}");
            lost("to_vec", y.to_vec());
            lost("to_vec_async", pollster::block_on(y.to_vec_async()));
            lost("forward", lstm.forward(&x, &mut state));
            lost("zeros", Tensor::zeros(&device, &[100]));
            lost("check", gpu.check());
        }
    }
}

#[test]
fn two_devices_of_the_library_on_one_of_wgpu_both_meet_its_loss() {
    let a = gpu_with(|_| ());
    let info = info();
    let again = || GpuDevice::from_wgpu(&info, a.wgpu().0.clone(), a.wgpu().1.clone());
    let b = again().expect("opens");
    let (of_a, of_b) = (tensor(&Device::Gpu(a.clone()), &[4]), tensor(&Device::Gpu(b), &[4]));
    a.wgpu().0.destroy();
    lost("a", of_a.to_vec());
    lost("b", of_b.to_vec());
    let error = again().expect_err("lost before it is opened");
    assert!(matches!(error, Error::Value { op: "GpuDevice::from_wgpu", what: "device", .. }), "{error}");
    assert!(error.to_string().contains("device must be one that is not lost, with its own queue, got"), "{error}");
}

/// The machine's first adapter.
fn info() -> wgpu::AdapterInfo {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    adapters.first().expect("install mesa-vulkan-drivers and libvulkan1").get_info()
}

/// The machine's GPU, whose owner does something before the library takes it.
fn shared(before: impl Fn(&wgpu::Device)) -> GpuDevice {
    let first = gpu_with(|_| ());
    before(first.wgpu().0);
    GpuDevice::from_wgpu(&info(), first.wgpu().0.clone(), first.wgpu().1.clone()).expect("alive")
}

/// A future is polled once before the device goes.
#[test]
fn an_await_ends_whenever_the_device_is_lost() {
    for poll_first in [false, true] {
        let Running { gpu, y, .. } = running();
        let read = y.read_back().expect("under way");
        let mut arriving = Box::pin(read.arrive());
        let mut poll = || arriving.as_mut().poll(&mut TaskContext::from_waker(Waker::noop()));
        let polled = if poll_first { poll() } else { Poll::Pending };
        gpu.wgpu().0.destroy();
        // The words may have arrived before the loss.
        let arrived = match polled {
            Poll::Ready(arrived) => arrived,
            Poll::Pending => pollster::block_on(arriving),
        };
        if arrived.is_err() {
            lost("arrive", arrived);
        }
        lost("a later await", pollster::block_on(y.to_vec_async()));
    }
}

/// A waker belongs to the caller's executor.
#[test]
fn a_waker_that_panics_ends_its_own_await_alone() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("the executor's own");
        }
    }
    let Running { y, .. } = running();
    let expected = y.to_vec().expect("y");
    for _ in 0..3 {
        let mut arriving = Box::pin(y.read_back().expect("under way").arrive());
        let waker = Waker::from(Arc::new(Panics));
        let polled = arriving.as_mut().poll(&mut TaskContext::from_waker(&waker));
        assert_eq!(pollster::block_on(y.to_vec_async()).expect("another await"), expected);
        let arrived = match polled {
            Poll::Ready(arrived) => arrived,
            Poll::Pending => pollster::block_on(arriving),
        };
        assert_eq!(arrived.expect("the same await, polled again"), expected);
    }
}

#[test]
fn a_stream_of_features_and_a_trainer_meet_the_loss() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/rnnoise.safetensors");
    let weights = Weights::from_file(path).expect("weights");
    let (gpu, device) = opened();
    let mut stream = RnNoise::new(&device, &weights).and_then(|net| net.stream(1)).expect("stream");
    let features = ndarray::Array3::zeros((2, 1, RnNoise::FEATURES));
    stream.push(features.view(), None).expect("runs");

    let mut parameters = Parameters::new(&device, 7);
    let linear = LinearModule::new(&mut parameters, "", [3, 2]).expect("a layer");
    let mut trainer = Trainer::new(parameters, Sgd::default(), 0.1).expect("a trainer");
    let (x, target) = (tensor(&device, &[4, 3]), tensor(&device, &[4, 2]));
    let loss = |graph: &mut Graph| {
        let x = graph.input(&x);
        let y = linear.forward(graph, x)?;
        graph.mean_squared_error(y, &target, &LossOptions::default())
    };
    let before = trainer.step(loss).expect("runs");
    lose(&gpu);
    lost("push", stream.push(features.view(), None));
    lost("states", stream.states());
    lost("step", trainer.step(loss));
    lost("submit_step", trainer.submit_step(loss));
    lost("report", trainer.report());
    assert_eq!(trainer.steps(), before.step, "no step is counted that was not made");
}

/// The library must not destroy a device that its owner still uses.
#[test]
fn the_library_leaves_a_callers_device_alive() {
    let (gpu, device) = opened();
    let raw = gpu.wgpu().0.clone();
    drop((tensor(&device, &[2, 3]), device, gpu));
    let scope = raw.push_error_scope(wgpu::ErrorFilter::Validation);
    let usage = wgpu::BufferUsages::COPY_DST;
    let _ = raw.create_buffer(&wgpu::BufferDescriptor { label: None, size: 64, usage, mapped_at_creation: false });
    assert!(pollster::block_on(scope.pop()).is_none());
    drop(gpu_and_tensor_in_any_order());
}

/// Values outlive the handle that made them.
fn gpu_and_tensor_in_any_order() -> Vec<f32> {
    let tensor = tensor(&Device::Gpu(gpu()), &[2, 3]);
    tensor.to_vec().expect("the tensor keeps its device")
}

//! Results that come back to the host, times by the device's clock, and pipelines on disk.

use std::time::{Duration, Instant};

use crate::common::{gpu, gpu_with};
use gatewise::cell::{Activation, Sequence};
use gatewise::gpu::{Detail, GpuDevice, GpuOptions};
use gatewise::nn::Lstm;
use gatewise::{Device, Error, Tensor, ops};
use ndarray::{Array2, Array3};

fn tensor(device: &Device, shape: [usize; 3]) -> Tensor {
    let wave = |(t, b, i): (usize, usize, usize)| ((5 * t + 3 * b + i) as f32 * 0.7).sin();
    Tensor::from_array(device, &Array3::from_shape_fn(shape, wave)).expect("a tensor")
}

#[test]
fn awaited_and_waited_for_are_the_same_on_every_device() {
    for device in crate::common::devices() {
        let x = tensor(&device, [3, 2, 5]);
        let waited: Array3<f32> = x.to_array().expect("waits");
        let awaited: Array3<f32> = pollster::block_on(x.to_array_async()).expect("awaits");
        assert_eq!(waited, awaited, "{device}");
        assert_eq!(pollster::block_on(x.to_vec_async()).expect("awaits"), x.to_vec().expect("waits"));
        let empty = Tensor::zeros(&device, &[0, 2]).expect("a tensor");
        assert!(pollster::block_on(empty.to_vec_async()).expect("awaits").is_empty());
        match pollster::block_on(x.to_array_async::<ndarray::Ix2>()) {
            Err(Error::Shape { found, .. }) => assert_eq!(found, [3, 2, 5]),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn many_results_are_awaited_at_once_and_in_any_order() {
    let device = Device::Gpu(gpu());
    let tensors: Vec<Tensor> = (1..20).map(|width| tensor(&device, [2, 3, width])).collect();
    let reads: Vec<_> = tensors.iter().map(|x| x.read_back().expect("starts")).collect();
    for (x, read) in tensors.iter().zip(reads).rev() {
        assert_eq!(pollster::block_on(read.arrive()).expect("arrives"), x.to_vec().expect("waits"));
    }
    // A read-back that nobody waits for costs nothing later.
    drop(tensors[0].read_back().expect("starts"));
    assert_eq!(tensors[1].to_vec().expect("waits").len(), 12);
}

#[test]
fn an_awaiting_task_lets_others_run() {
    let device = Device::Gpu(gpu());
    let x = tensor(&device, [40, 8, 64]);
    let lstm = Lstm::config(64, 64).random(&device, 1).expect("a stack");
    let mut state = lstm.zero_state(8).expect("state");
    lstm.forward(&x, &mut state).expect("warms");
    let mut recorder = device.recorder();
    let y = lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
    let read = recorder.submit_and_read(&y).expect("submits");
    let mut future = std::pin::pin!(read.arrive());
    let mut task = std::task::Context::from_waker(std::task::Waker::noop());
    // The first poll comes back at once, before the device is done.
    let begin = Instant::now();
    let first = future.as_mut().poll(&mut task);
    let asked = begin.elapsed();
    let y = match first {
        std::task::Poll::Ready(y) => y,
        std::task::Poll::Pending => pollster::block_on(future),
    };
    assert_eq!(y.expect("arrives").len(), 40 * 8 * 64);
    assert!(asked < begin.elapsed() || asked < Duration::from_millis(1), "the poll waited for the device");
}

#[test]
fn a_call_and_its_read_back_are_one_submission() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let lstm = Lstm::config(5, 7).random(&device, 1).expect("a stack");
    let x = Array3::from_shape_fn((4, 2, 5), |(t, b, i)| ((t + 2 * b + 3 * i) as f32).sin());
    let mut state = lstm.zero_state(2).expect("state");
    let mut y = Array3::zeros((4, 2, 7));
    // The state has two copies that alternate: after two calls it lies where it was.
    (0..2).for_each(|_| lstm.forward_into(x.view(), &mut state, y.view_mut()).expect("warms"));
    let before = gpu.counters();
    lstm.forward_into(x.view(), &mut state, y.view_mut()).expect("runs");
    let spent = gpu.counters() - before;
    assert_eq!((spent.submits, spent.passes, spent.writes), (1, 1, 1));
    assert_eq!((spent.buffers, spent.bind_groups, spent.pipelines), (0, 0, 0));

    let mut state = lstm.zero_state(2).expect("state");
    let on_device = Tensor::from_array(&device, &x).expect("x");
    (0..2).for_each(|_| drop(lstm.forward(&on_device, &mut state).expect("runs")));
    assert_eq!(y, lstm.forward(&on_device, &mut state).and_then(|y| y.to_array()).expect("runs"));
}

#[test]
fn several_results_come_back_by_one_submission() {
    for device in [Device::Reference, Device::Cpu, Device::Gpu(gpu())] {
        let lstm = Lstm::config(5, 7).random(&device, 1).expect("a stack");
        let x = tensor(&device, [4, 2, 5]);
        let run = || {
            let mut state = lstm.zero_state(2).expect("state");
            let mut recorder = device.recorder();
            let y = lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
            let h = state.h_tensor(&mut recorder).expect("records");
            let none = Tensor::zeros(&device, &[0, 3]).expect("a tensor");
            (recorder, [y, h, none])
        };
        let (recorder, [y, h, none]) = run();
        let before = counted(&device);
        let reads = recorder.submit_and_read_all(&[&y, &none, &h]).expect("submits");
        let submits = counted(&device) - before;
        assert_eq!(submits, u64::from(matches!(device, Device::Gpu(_))), "{device}");
        let values: Vec<Vec<f32>> = reads.into_iter().map(|read| read.wait().expect("waits")).collect();
        assert_eq!(values, [y.to_vec().expect("y"), Vec::new(), h.to_vec().expect("h")], "{device}");
        assert_eq!(values[0].len(), 4 * 2 * 7);
        assert!(values[2].iter().any(|h| *h != 0.0));
        // In any order, and awaited.
        let (recorder, [y, h, _]) = run();
        let mut reads = recorder.submit_and_read_all(&[&y, &h]).expect("submits");
        let last = reads.pop().map(|read| pollster::block_on(read.arrive()).expect("arrives"));
        assert_eq!(last.as_ref(), values.get(2), "{device}");
        // One that lives elsewhere is refused, and nothing runs.
        let (recorder, [y, ..]) = run();
        let other = match device {
            Device::Gpu(_) => Device::Cpu,
            _ => Device::Gpu(gpu()),
        };
        let stranger = Tensor::zeros(&other, &[2]).expect("a tensor");
        let refused = recorder.submit_and_read_all(&[&y, &stranger]);
        assert!(matches!(refused, Err(Error::DeviceMismatch { op: "read-back", what: "tensor", .. })), "{device}");
    }
}

/// Submissions of a device so far; a host device makes none.
fn counted(device: &Device) -> u64 {
    if let Device::Gpu(gpu) = device { gpu.counters().submits } else { 0 }
}

#[test]
fn a_profile_times_every_pass_and_every_dispatch() {
    let gpu = gpu();
    assert!(gpu.has_timestamps() && gpu.has_dispatch_timestamps(), "both software adapters have them");
    let device = Device::Gpu(gpu.clone());
    let lstm = Lstm::config(32, 48).random(&device, 1).expect("a stack");
    let mut state = lstm.zero_state(3).expect("state");
    let x = tensor(&device, [12, 3, 32]);
    let plain = lstm.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("runs");
    let plan = lstm.plan(12, 3).expect("fits");
    for detail in [Detail::Passes, Detail::Dispatches] {
        state.reset().expect("resets");
        let before = gpu.counters();
        let mut recorder = device.recorder();
        let y = lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
        let begin = Instant::now();
        let profile = recorder.submit_profiled(detail).expect("runs");
        let wall = begin.elapsed();
        let spent = gpu.counters() - before;
        assert_eq!((spent.submits, spent.passes, spent.dispatches), (1, 1, plan.dispatches() as u64));
        assert_eq!(y.to_vec().expect("y"), plain, "a profile changes no result");
        assert_eq!(profile.passes.len(), 1);
        assert!(profile.total > Duration::ZERO && profile.total <= wall, "{profile:?}, {wall:?}");
        assert_eq!(profile.total, profile.passes[0]);
        let each = if detail == Detail::Dispatches { plan.dispatches() } else { 0 };
        assert_eq!(profile.dispatches.len(), each);
        let sum: Duration = profile.dispatches.iter().map(|(_, time)| *time).sum();
        assert!(sum <= profile.total, "{profile:?}");
        if let Some((name, _)) = profile.dispatches.first() {
            assert!(name.starts_with("project"), "{name}");
            assert!(sum > profile.total / 2, "{profile:?}");
        }
    }
}

#[test]
fn passes_between_copies_are_timed_each() {
    let device = Device::Gpu(gpu());
    let lstm = Lstm::config(5, 7).layers(2).random(&device, 3).expect("a stack");
    let mut state = lstm.zero_state(2).expect("state");
    let x = tensor(&device, [3, 2, 5]);
    let mut recorder = device.recorder();
    for _ in 0..3 {
        // The copy of the state between two calls ends a pass.
        lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
        state.h_tensor(&mut recorder).expect("copies");
    }
    let profile = recorder.submit_profiled(Detail::Dispatches).expect("runs");
    let steps = lstm.plan(3, 2).expect("fits").dispatches();
    assert_eq!((profile.passes.len(), profile.dispatches.len()), (3, 3 * steps));
    let sum: Duration = profile.passes.iter().sum();
    assert!(sum <= profile.total);
}

#[test]
fn where_no_clock_is_the_profile_is_refused() {
    let gpu = gpu_with(|_| ());
    assert!(!gpu.has_timestamps());
    let refused = |device: &Device| match device.recorder().submit_profiled(Detail::Passes) {
        Err(Error::Unsupported { op: "profile", option, by }) => (option, by),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(&Device::Gpu(gpu)), ("timestamps".to_owned(), "by this adapter"));
    assert_eq!(refused(&Device::Cpu), ("timestamps".to_owned(), "by host devices"));
}

#[test]
fn an_empty_submission_has_an_empty_profile() {
    let profile = Device::Gpu(gpu()).recorder().submit_profiled(Detail::Dispatches).expect("nothing to run");
    assert_eq!((profile.total, profile.passes.len(), profile.dispatches.len()), (Duration::ZERO, 0, 0));
    let x: Array2<f32> = Tensor::zeros(&Device::Gpu(gpu()), &[2, 3]).and_then(|x| x.to_array()).expect("zeros");
    assert!(x.iter().all(|x| *x == 0.0));
}

/// An LSTM's output on a device that keeps its pipelines in a folder.
fn cached(folder: &std::path::Path) -> Vec<f32> {
    let options = GpuOptions { software: true, pipeline_cache: Some(folder.to_path_buf()), ..Default::default() };
    let gpu = GpuDevice::new(&options).expect("opens");
    let device = Device::Gpu(gpu.clone());
    let lstm = Lstm::config(5, 7).random(&device, 1).expect("a stack");
    let mut state = lstm.zero_state(2).expect("state");
    let y = lstm.forward(&tensor(&device, [3, 2, 5]), &mut state).and_then(|y| y.to_vec()).expect("runs");
    gpu.save_pipelines().expect("writes");
    y
}

#[test]
fn pipelines_are_kept_on_disk_and_a_damaged_file_is_no_harm() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path().join("of").join("caches");
    let y = cached(&folder);
    let files: Vec<_> =
        std::fs::read_dir(&folder).expect("made").map(|entry| entry.expect("an entry").path()).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let whole = std::fs::read(file).expect("a file");
    assert!(whole.starts_with(b"gatewise-cache-1") && whole.len() > 24);
    let flipped: Vec<u8> = whole.iter().map(|byte| !byte).collect();
    let mut one = whole.clone();
    *one.last_mut().expect("not empty") ^= 1;
    for damaged in [&whole[..], &[], &whole[..20], &whole[..whole.len() - 1], &flipped, &one, b"another program's file"]
    {
        std::fs::write(file, damaged).expect("writes");
        assert_eq!(cached(&folder), y, "{} bytes", damaged.len());
        assert!(std::fs::read(file).expect("a file").starts_with(b"gatewise-cache-1"));
    }
    // Nothing partial is left behind.
    assert_eq!(std::fs::read_dir(&folder).expect("there").count(), 1);
}

/// A call that needs more than the memory that is always kept. Repeated, it finds all of it; calls of another kind release it.
#[test]
fn a_call_that_takes_much_memory_finds_it_again() {
    let gpu = gpu();
    let device = Device::Gpu(gpu.clone());
    let x = Tensor::zeros(&device, &[48 << 20 >> 2]).expect("48 MiB");
    let created = |links: usize, x: &Tensor| {
        let before = gpu.counters();
        let mut recorder = device.recorder();
        let mut link = x.clone();
        for _ in 0..links {
            link = ops::activation(&mut recorder, Activation::Relu, &link).expect("records");
        }
        recorder.submit().expect("submits");
        drop(link);
        (gpu.counters() - before).buffers
    };
    assert!(created(7, &x) > 0);
    for _ in 0..3 {
        assert_eq!(created(7, &x), 0, "336 MiB are kept from one call to the next");
    }
    let small = Tensor::zeros(&device, &[3]).expect("a tensor");
    (0..9).for_each(|_| _ = created(2, &small));
    assert!(created(7, &x) > 0, "some of it has gone back to the driver");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let temporary = tempfile::tempdir().expect("a folder");
    let file = temporary.path().join("file");
    std::fs::write(&file, "no folder").expect("writes");
    let options = GpuOptions { software: true, pipeline_cache: Some(file.join("caches")), ..Default::default() };
    match GpuDevice::new(&options) {
        Err(Error::Io { path, .. }) => assert_eq!(path, file.join("caches")),
        other => panic!("{other:?}"),
    }
}

/// A GPU that is opened without blocking, and a caller's own device with the limits that the library asks for.
#[test]
fn a_device_is_opened_without_blocking_or_brought_by_the_caller() {
    let options = GpuOptions { software: true, ..Default::default() };
    let gpu = pollster::block_on(Device::gpu_async(&options)).expect("opens");
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().next().expect("install mesa-vulkan-drivers and libvulkan1");
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: GpuDevice::required_limits(),
        required_features: GpuDevice::optional_features(adapter.features()),
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor)).expect("WebGPU's limits");
    let own = GpuDevice::from_wgpu(&adapter.get_info(), device, queue).expect("enough");
    for device in [gpu, Device::Gpu(own)] {
        let x = Tensor::from_array(&device, &Array3::<f32>::ones((2, 3, 4))).expect("x");
        assert_eq!(x.to_vec().expect("reads"), [1.0; 24]);
    }
}

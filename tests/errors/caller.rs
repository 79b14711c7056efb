//! A caller's own device and buffers, and adapters that are not there.

use gatewise::gpu::{GpuDevice, GpuOptions, adapters};
use gatewise::nn::{Lstm, State};
use gatewise::{Device, Error, Tensor};
use ndarray::Array3;

use crate::common::{bits, gpu, gpu_with, gpus_with, wgpu_devices};
use crate::{array, refused, value};

const SHARED: wgpu::BufferUsages =
    wgpu::BufferUsages::STORAGE.union(wgpu::BufferUsages::COPY_SRC).union(wgpu::BufferUsages::COPY_DST);

fn buffer(gpu: &GpuDevice, usage: wgpu::BufferUsages, size: u64) -> wgpu::Buffer {
    let descriptor = wgpu::BufferDescriptor { label: Some("caller"), size, usage, mapped_at_creation: false };
    gpu.wgpu().0.create_buffer(&descriptor)
}

/// Copies a buffer to the host by the caller's own commands.
fn read(gpu: &GpuDevice, from: &wgpu::Buffer, bytes: u64) -> Vec<f32> {
    let (device, queue) = gpu.wgpu();
    let staging = buffer(gpu, wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST, bytes);
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(from, 0, &staging, 0, bytes);
    queue.submit([encoder.finish()]);
    staging.slice(..).map_async(wgpu::MapMode::Read, |result| result.expect("mapped"));
    device.poll(wgpu::PollType::wait_indefinitely()).expect("waits");
    let view = staging.slice(..).get_mapped_range().expect("mapped");
    bytemuck::pod_collect_to_vec(&view[..])
}

#[test]
fn a_layer_reads_a_callers_buffer_and_a_caller_reads_the_layers() {
    let gpu = gpu_with(|_| ());
    let device = Device::Gpu(gpu.clone());
    let x = array(5, 2, 3);
    let shared = buffer(&gpu, SHARED, 128);
    let flat: Vec<f32> = x.iter().copied().collect();
    gpu.wgpu().1.write_buffer(&shared, 0, bytemuck::cast_slice(&flat));
    let borrowed = Tensor::from_wgpu_buffer(&gpu, shared.clone(), &[5, 2, 3]).expect("fits");
    assert_eq!(borrowed.wgpu_buffer(), Some(&shared));

    let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
    let run = |x: &Tensor| {
        let mut state = lstm.zero_state(2).expect("state");
        (lstm.forward(x, &mut state).expect("runs"), state)
    };
    let (y, state) = run(&borrowed);
    let (expected, expected_state) = run(&Tensor::from_array(&device, &x).expect("input"));
    let expected: Array3<f32> = expected.to_array().expect("y");
    assert_eq!(bits(&y.to_array::<ndarray::Ix3>().expect("y")), bits(&expected));
    assert_eq!(value(&state), value(&expected_state));
    let by_hand = read(&gpu, y.wgpu_buffer().expect("on the GPU"), 5 * 2 * 4 * 4);
    assert_eq!(by_hand, expected.into_raw_vec_and_offset().0);

    // No copy: what the caller writes next is what the tensor holds.
    gpu.wgpu().1.write_buffer(&shared, 0, bytemuck::bytes_of(&7.5_f32));
    assert_eq!(borrowed.to_vec().expect("x")[0], 7.5);
    assert!(Tensor::from_array(&Device::Cpu, &x).expect("x").wgpu_buffer().is_none());
}

#[test]
fn a_buffer_that_cannot_be_a_tensor() {
    let gpu = gpu_with(|limits| limits.max_storage_buffer_binding_size = 4096);
    let op = "Tensor::from_wgpu_buffer: buffer must be usage STORAGE | COPY_SRC | COPY_DST and room for the shape, got";
    let lacking = SHARED.difference(wgpu::BufferUsages::COPY_SRC);
    for (usage, size, shape) in [(lacking, 64, [2, 3]), (SHARED, 20, [2, 3]), (SHARED, 64, [4, 5])] {
        let expected = format!("{op} usage {usage:?}, {size} bytes");
        let error = refused(Tensor::from_wgpu_buffer(&gpu, buffer(&gpu, usage, size), &shape), &expected);
        assert!(matches!(error, Error::Value { what: "buffer", .. }));
    }
    let large = Tensor::from_wgpu_buffer(&gpu, buffer(&gpu, SHARED, 8192), &[2048]);
    let adapter = &gpu.adapter().name;
    refused(
        large,
        &format!("Tensor::from_wgpu_buffer: a storage binding in bytes needs 8192, the limit of {adapter} is 4096"),
    );
    let endless = Tensor::from_wgpu_buffer(&gpu, buffer(&gpu, SHARED, 64), &[usize::MAX, 2]);
    let error = endless.expect_err("more elements than can be counted");
    assert!(matches!(error, Error::Shape { op: "Tensor::from_wgpu_buffer", .. }), "{error}");
}

/// Fails unless a buffer that the driver refuses is an error that leaves the state alone.
#[track_caller]
fn unusable(gpu: &GpuDevice, raw: wgpu::Buffer, before_use: impl FnOnce()) {
    let device = Device::Gpu(gpu.clone());
    let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
    let mut state: State = lstm.zero_state(2).expect("state");
    lstm.forward(&Tensor::from_array(&device, &array(5, 2, 3)).expect("x"), &mut state).expect("runs");
    let before = value(&state);
    let x = Tensor::from_wgpu_buffer(gpu, raw, &[5, 2, 3]).expect("the driver is asked later");
    before_use();
    let calls = [("forward", lstm.forward(&x, &mut state).map(|_| ())), ("read", x.to_vec().map(|_| ()))];
    for (what, result) in calls {
        let error = result.expect_err(what);
        assert!(matches!(error, Error::Gpu { .. }), "{error}");
        assert!(error.to_string().contains("caller"), "the label is named: {error}");
    }
    assert_eq!(value(&state), before);
    lstm.forward(&Tensor::from_array(&device, &array(5, 2, 3)).expect("x"), &mut state).expect("runs");
}

#[test]
fn a_buffer_of_another_device_or_one_that_is_gone() {
    let [here, there] = gpus_with(|_| ());
    let foreign = Tensor::from_wgpu_buffer(&here, buffer(&there, SHARED, 128), &[5, 2, 3]);
    let error = foreign.expect_err("a buffer of another device");
    let message = error.to_string();
    assert!(matches!(error, Error::Value { op: "Tensor::from_wgpu_buffer", what: "buffer", .. }), "{message}");
    assert!(message.contains("a living buffer of the device's own wgpu::Device"), "{message}");
    assert!(message.contains("caller") && !message.contains('\n'), "the label is named in one line: {message}");
    let gone = buffer(&here, SHARED, 128);
    unusable(&here, gone.clone(), || gone.destroy());
}

/// Opens a device with changed limits and returns the library's refusal of it.
#[track_caller]
fn limits_refused(change: fn(&mut wgpu::Limits)) -> String {
    let [(info, device, queue)] = wgpu_devices(change);
    let error = GpuDevice::from_wgpu(&info, device, queue).expect_err("limits that are too low");
    assert!(matches!(error, Error::Value { op: "GpuDevice::from_wgpu", what: "device", .. }), "{error}");
    error.to_string()
}

#[test]
fn a_device_whose_limits_no_kernel_can_live_with() {
    gpu_with(|_| ()).check().expect("the adapter's own limits");
    let must = "GpuDevice::from_wgpu: device must be opened with the limits of GpuDevice::required_limits() or higher ones, got";
    let storage = "max_storage_buffers_per_shader_stage = 4 (at least 8 needed)";
    let bindings = "max_bindings_per_bind_group = 8 (at least 9 needed)";
    let dynamic = "max_dynamic_uniform_buffers_per_pipeline_layout = 0 (at least 1 needed)";
    assert_eq!(limits_refused(|l| l.max_storage_buffers_per_shader_stage = 4), format!("{must} {storage}"));
    assert_eq!(limits_refused(|l| l.max_bindings_per_bind_group = 8), format!("{must} {bindings}"));
    let all = limits_refused(|l| {
        l.max_storage_buffers_per_shader_stage = 4;
        l.max_bindings_per_bind_group = 8;
        l.max_dynamic_uniform_buffers_per_pipeline_layout = 0;
    });
    assert_eq!(all, format!("{must} {storage}, {bindings}, {dynamic}"));
    // Just enough, and a call then runs.
    let device = Device::Gpu(gpu_with(|l| {
        l.max_storage_buffers_per_shader_stage = 8;
        l.max_bindings_per_bind_group = 9;
        l.max_dynamic_uniform_buffers_per_pipeline_layout = 1;
    }));
    let lstm = Lstm::config(3, 4).random(&device, 5).expect("a stack");
    let mut state = lstm.zero_state(2).expect("state");
    lstm.forward(&Tensor::from_array(&device, &array(5, 2, 3)).expect("x"), &mut state).expect("runs");
}

#[test]
fn a_device_with_the_queue_of_another_one() {
    let [(info, device, own), (_, _, foreign)] = wgpu_devices(|_| ());
    let error = GpuDevice::from_wgpu(&info, device.clone(), foreign).expect_err("a queue of another device");
    assert!(matches!(error, Error::Value { op: "GpuDevice::from_wgpu", what: "device", .. }), "{error}");
    assert!(error.to_string().contains("device must be one that is not lost, with its own queue, got"), "{error}");
    GpuDevice::from_wgpu(&info, device, own).expect("its own queue");
}

/// The caller may keep the driver's object: memory that it can write to or destroy is handed to nobody else.
#[test]
fn memory_that_a_caller_has_seen_is_not_used_again() {
    let gpu = gpu_with(|_| ());
    let device = Device::Gpu(gpu);
    let seen = Tensor::from_array(&device, &array(5, 2, 3)).expect("x");
    let raw = seen.wgpu_buffer().expect("on the GPU").clone();
    drop(seen);
    let next = Tensor::from_array(&device, &array(5, 2, 3)).expect("x");
    assert_ne!(next.wgpu_buffer(), Some(&raw));
    raw.destroy();
    assert_eq!(next.to_vec().expect("untouched").len(), 30);
    Tensor::from_array(&device, &array(5, 2, 3)).expect("another one");
}

#[test]
fn an_adapter_without_matrices() {
    let asked = GpuOptions { software: true, matrices: true, ..Default::default() };
    match GpuDevice::new(&asked) {
        Ok(found) => assert!(!found.plan_limits().matrices.is_empty(), "opened with what it was asked for"),
        Err(error) => {
            let message = error.to_string();
            assert!(matches!(error, Error::NoAdapter { .. }), "{message}");
            assert!(message.contains(" with cooperative matrices: "), "{message}");
            assert!(message.ends_with(" lists none that there is a kernel for"), "{message}");
        }
    }
}

#[test]
fn an_adapter_that_is_not_there() {
    let options = GpuOptions { software: true, name: Some("No Such Adapter".to_owned()), ..Default::default() };
    let error = GpuDevice::new(&options).expect_err("no such adapter");
    let message = error.to_string();
    assert!(matches!(error, Error::NoAdapter { .. }));
    let first = &adapters()[0].name;
    assert!(message.starts_with("no GPU adapter for the name \"No Such Adapter\": found only "), "{message}");
    assert!(message.contains(first), "{message}");
    // A part of the name in any case will do.
    let part = first[..first.len() / 2].to_uppercase();
    let found = GpuDevice::new(&GpuOptions { software: true, name: Some(part), ..Default::default() })
        .expect("the first adapter");
    assert_eq!(&found.adapter().name, first);
}

#[test]
fn software_is_no_hardware() {
    let software: Vec<bool> = adapters().iter().map(|adapter| adapter.is_software()).collect();
    let hardware = GpuDevice::new(&GpuOptions::default());
    if software.iter().all(|&software| software) {
        let message = hardware.expect_err("no hardware").to_string();
        assert!(message.starts_with("no GPU adapter for any hardware adapter: found only "), "{message}");
        assert!(matches!(Device::auto(), Device::Cpu));
    } else {
        assert!(!hardware.expect("hardware").adapter().is_software());
    }
    // Hardware comes first where there is any.
    assert!(software.is_sorted(), "{software:?}");
    assert_eq!(gpu().adapter().is_software(), software[0]);
}

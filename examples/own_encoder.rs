//! A caller's own kernels before and after an LSTM, all in one command encoder and one submission.
//!
//! `cargo run --example own_encoder`

use gatewise::cell::Sequence;
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::Lstm;
use gatewise::{Device, Tensor, wgpu};

const STEPS: usize = 40;
const FEATURES: usize = 12;
const UNITS: usize = 16;

/// Makes the features of every step from a signal.
const FEATURES_OF: &str = "
@group(0) @binding(0) var<storage, read> signal: array<f32>;
@group(0) @binding(1) var<storage, read_write> features: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&features) {
        features[id.x] = sin(signal[id.x / 12u] * f32(id.x % 12u + 1u));
    }
}";

/// Marks the steps whose output has a large first unit.
const MARKS_OF: &str = "
@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read_write> marks: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&marks) {
        marks[id.x] = select(0.0, 1.0, y[id.x * 16u] > 0.05);
    }
}";

/// A kernel of the caller, which reads one buffer and writes another.
struct OwnKernel {
    pipeline: wgpu::ComputePipeline,
}

impl OwnKernel {
    fn new(device: &wgpu::Device, source: &str) -> Self {
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("own"),
            source: wgpu::ShaderSource::Wgsl(source.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("own"),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { pipeline }
    }

    /// Encodes a pass over `len` elements of `to`.
    fn encode(&self, device: &wgpu::Device, encoder: &mut wgpu::CommandEncoder, buffers: [&wgpu::Buffer; 2], len: u32) {
        let entries =
            [0, 1].map(|at| wgpu::BindGroupEntry { binding: at, resource: buffers[at as usize].as_entire_binding() });
        let layout = self.pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: Some("own"), layout: &layout, entries: &entries };
        let group = device.create_bind_group(&descriptor);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(len.div_ceil(64), 1, 1);
    }
}

/// A buffer of the caller that a tensor can share.
fn own_buffer(device: &wgpu::Device, len: usize) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
    let size = 4 * len as u64;
    device.create_buffer(&wgpu::BufferDescriptor { label: Some("own"), size, usage, mapped_at_creation: false })
}

fn main() -> gatewise::Result<()> {
    let gpu = GpuDevice::new(&GpuOptions { software: true, ..Default::default() })?;
    let device = Device::Gpu(gpu.clone());
    let (own_device, queue) = gpu.wgpu();

    let signal: Vec<f32> = (0..STEPS).map(|t| (t as f32 * 0.2).sin()).collect();
    let signal = Tensor::from_vec(&device, &[STEPS], signal)?;
    let features = own_buffer(own_device, STEPS * FEATURES);
    let marks = own_buffer(own_device, STEPS);
    let x = Tensor::from_wgpu_buffer(&gpu, features.clone(), &[STEPS, 1, FEATURES])?;
    let lstm = Lstm::config(FEATURES, UNITS).random(&device, 2)?;
    let mut state = lstm.zero_state(1)?;
    let [before, after] = [FEATURES_OF, MARKS_OF].map(|source| OwnKernel::new(own_device, source));

    let submissions = gpu.counters().submits;
    let mut encoder = own_device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    if let Some(signal) = signal.wgpu_buffer() {
        before.encode(own_device, &mut encoder, [signal, &features], (STEPS * FEATURES) as u32);
    }
    let mut recorder = device.recorder();
    let y = lstm.record(&mut recorder, &x, &mut state, &Sequence::new())?;
    let commands = recorder.encode(&mut encoder)?;
    if let Some(y) = y.wgpu_buffer() {
        after.encode(own_device, &mut encoder, [y, &marks], STEPS as u32);
    }
    let submission = queue.submit([encoder.finish()]);
    commands.submitted(submission)?;
    println!("1 submission of the caller, {} of the library", gpu.counters().submits - submissions);

    let marks = Tensor::from_wgpu_buffer(&gpu, marks, &[STEPS])?.to_vec()?;
    println!("marks on {device}: {marks:?}");
    Ok(())
}

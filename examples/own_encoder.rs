//! A caller's own kernels before and after an LSTM, all in one command encoder and one submission. The caller's kernels compute
//! the LSTM's input and its mask, and the LSTM writes into a buffer of the caller.
//!
//! `cargo run --example own_encoder`

use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{DeviceSequence, Lstm};
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

/// Masks the steps at which the signal is quiet.
const MASK_OF: &str = "
@group(0) @binding(0) var<storage, read> signal: array<f32>;
@group(0) @binding(1) var<storage, read_write> mask: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&mask) {
        mask[id.x] = select(0.0, 1.0, abs(signal[id.x]) > 0.3);
    }
}";

/// Adds up the squares of all units of a step.
const ENERGY_OF: &str = "
@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read_write> energy: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    if id.x < arrayLength(&energy) {
        var sum = 0.0;
        for (var unit = 0u; unit < 16u; unit++) {
            sum += y[id.x * 16u + unit] * y[id.x * 16u + unit];
        }
        energy[id.x] = sum;
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
    fn encode(
        &self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        buffers: [&wgpu::Buffer; 2],
        len: usize,
    ) {
        let entries =
            [0, 1].map(|at| wgpu::BindGroupEntry { binding: at, resource: buffers[at as usize].as_entire_binding() });
        let layout = self.pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: Some("own"), layout: &layout, entries: &entries };
        let group = device.create_bind_group(&descriptor);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(len.div_ceil(64) as u32, 1, 1);
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
    let signal_buffer = own_buffer(own_device, STEPS);
    queue.write_buffer(&signal_buffer, 0, &signal.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    let [features, mask, y, energy] =
        [STEPS * FEATURES, STEPS, STEPS * UNITS, STEPS].map(|len| own_buffer(own_device, len));
    let x = Tensor::from_wgpu_buffer(&gpu, features.clone(), &[STEPS, 1, FEATURES])?;
    let loud = Tensor::from_wgpu_buffer(&gpu, mask.clone(), &[STEPS, 1])?;
    let mut output = Tensor::from_wgpu_buffer(&gpu, y.clone(), &[STEPS, 1, UNITS])?;
    let lstm = Lstm::config(FEATURES, UNITS).random(&device, 2)?;
    let mut state = lstm.zero_state(1)?;
    let [features_of, mask_of, energy_of] =
        [FEATURES_OF, MASK_OF, ENERGY_OF].map(|source| OwnKernel::new(own_device, source));

    let submissions = gpu.counters().submits;
    let mut encoder = own_device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    features_of.encode(own_device, &mut encoder, [&signal_buffer, &features], STEPS * FEATURES);
    mask_of.encode(own_device, &mut encoder, [&signal_buffer, &mask], STEPS);
    let mut recorder = device.recorder();
    lstm.record_into(&mut recorder, &x, &mut state, DeviceSequence::new().mask(&loud), &mut output)?;
    let commands = recorder.encode(&mut encoder)?;
    energy_of.encode(own_device, &mut encoder, [&y, &energy], STEPS);
    let submission = queue.submit([encoder.finish()]);
    commands.submitted(submission)?;
    println!("1 submission of the caller, {} of the library", gpu.counters().submits - submissions);

    let energy = Tensor::from_wgpu_buffer(&gpu, energy, &[STEPS])?.to_vec()?;
    println!("energy of every step on {device}; 0 where the signal is quiet: {energy:.3?}");
    Ok(())
}

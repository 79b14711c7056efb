//! A whole sequence through one recurrent layer, and speech detection over a recording, CPU against GPU.
//!
//! Every iteration ends with the read-back of the output, so that it measures the work and not its recording.
//! `benches/README.md` explains the numbers.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gatewise::gpu::GpuOptions;
use gatewise::models::SileroVad;
use gatewise::nn::{Gru, Lstm};
use gatewise::weights::Weights;
use gatewise::{Device, Tensor};
use ndarray::Array3;

/// Input, hidden, steps, rows.
const SHAPES: [(usize, usize, usize, usize); 4] =
    [(128, 128, 1, 1), (64, 128, 100, 1), (256, 256, 20, 8), (64, 64, 32, 64)];

fn devices() -> Vec<Device> {
    let gpu = Device::gpu(&GpuOptions::new().software(true));
    [Some(Device::Cpu), gpu.ok()].into_iter().flatten().collect()
}

fn layers(criterion: &mut Criterion) {
    for (input, hidden, time, batch) in SHAPES {
        let mut group = criterion.benchmark_group(format!("I{input} H{hidden} T{time} B{batch}"));
        group.throughput(Throughput::Elements((time * batch) as u64));
        for device in devices() {
            let x = Array3::from_shape_fn((time, batch, input), |(t, b, i)| ((t + 3 * b + 7 * i) as f32).sin());
            let x = Tensor::from_array(&device, &x).expect("input");
            let lstm = Lstm::config(input, hidden).random(&device, 1).expect("LSTM");
            let mut state = lstm.zero_state(batch).expect("state");
            group.bench_function(format!("lstm on {device}"), |bencher| {
                bencher.iter(|| black_box(lstm.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("forward")));
            });
            let gru = Gru::config(input, hidden).random(&device, 1).expect("GRU");
            let mut state = gru.zero_state(batch).expect("state");
            group.bench_function(format!("gru on {device}"), |bencher| {
                bencher.iter(|| black_box(gru.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("forward")));
            });
        }
        group.finish();
    }
}

fn speech(criterion: &mut Criterion) {
    let weights = Weights::from_file("models/silero_vad_16k.safetensors").expect("weights");
    let samples: Vec<f32> = (0..32_000).map(|i| (i as f32 * 0.05).sin() * 0.3).collect();
    let mut group = criterion.benchmark_group("vad, 2 s of audio");
    group.sample_size(10);
    for device in devices() {
        let vad = SileroVad::new(&device, &weights).expect("detector");
        group.bench_function(format!("on {device}"), |bencher| {
            bencher.iter(|| black_box(vad.probabilities(&samples).expect("probabilities")));
        });
    }
    group.finish();
}

criterion_group!(benches, layers, speech);
criterion_main!(benches);

//! The cost of a warm call on the host: recording it, submitting it, and reading its result back in one submission or in two.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use gatewise::cell::Sequence;
use gatewise::gpu::GpuOptions;
use gatewise::nn::Lstm;
use gatewise::{Device, Tensor};
use ndarray::Array3;

fn submission(criterion: &mut Criterion) {
    let device = Device::gpu(&GpuOptions::new().software(true)).expect("an adapter");
    for time in [1, 100] {
        let lstm = Lstm::config(32, 32).random(&device, 1).expect("LSTM");
        let x = Tensor::from_array(&device, &Array3::<f32>::ones((time, 1, 32))).expect("input");
        let mut state = lstm.zero_state(1).expect("state");
        let mut group = criterion.benchmark_group(format!("I32 H32 T{time} B1 on {device}"));
        group.bench_function("recorded and dropped", |bencher| {
            bencher.iter(|| {
                let mut recorder = device.recorder();
                black_box(lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records"));
            });
        });
        group.bench_function("submitted and read back at once", |bencher| {
            bencher.iter(|| {
                let mut recorder = device.recorder();
                let y = lstm.record(&mut recorder, &x, &mut state, &Sequence::new()).expect("records");
                black_box(recorder.submit_and_read(&y).and_then(gatewise::ReadBack::wait).expect("runs"));
            });
        });
        group.bench_function("submitted, then read back", |bencher| {
            bencher.iter(|| black_box(lstm.forward(&x, &mut state).and_then(|y| y.to_vec()).expect("runs")));
        });
        group.finish();
    }
}

criterion_group!(benches, submission);
criterion_main!(benches);

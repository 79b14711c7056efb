//! Several layers in one submission: convolution, GRU, LSTM and a linear head, nothing read back in between.
//!
//! `cargo run --example resident_chain`

use gatewise::cell::{Activation, Sequence};
use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::nn::{Conv1d, Gru, Linear, Lstm};
use gatewise::ops::{self, Conv1dGeometry};
use gatewise::{Device, Tensor};
use ndarray::{Array1, Array2, Array3};

fn main() -> gatewise::Result<()> {
    let gpu = GpuDevice::new(&GpuOptions::new().software(true))?;
    let device = Device::Gpu(gpu.clone());

    // A front of 40 frames with 12 features each, as a convolution makes them from a window of 3 samples.
    let kernel = Array3::from_shape_fn((12, 1, 3), |(o, _, k)| ((o + 7 * k) as f32 * 0.3).cos());
    let conv = Conv1d::new(&device, &kernel, None, Conv1dGeometry { stride: 1, padding: 1 })?;
    let gru = Gru::config(12, 24).random(&device, 1)?;
    let lstm = Lstm::config(24, 16).random(&device, 2)?;
    let weight = Array2::from_shape_fn((3, 16), |(o, i)| ((o + i) as f32).sin());
    let head = Linear::new(&device, &weight, Some(&Array1::from_vec(vec![0.1, 0.2, 0.3])))?;
    let mut gru_state = gru.zero_state(1)?;
    let mut lstm_state = lstm.zero_state(1)?;

    let signal = Array3::from_shape_fn((40, 1, 1), |(t, _, _)| (t as f32 * 0.2).sin());
    let signal = Tensor::from_array(&device, &signal)?;

    let before = gpu.counters();
    let mut recorder = device.recorder();
    let features = conv.record(&mut recorder, &signal)?.reshape(&[40, 1, 12])?;
    let features = ops::activation(&mut recorder, Activation::Relu, &features)?;
    let h = gru.record(&mut recorder, &features, &mut gru_state, &Sequence::new())?;
    let h = lstm.record(&mut recorder, &h, &mut lstm_state, &Sequence::new())?;
    let y = head.record(&mut recorder, &h)?;
    recorder.submit()?;
    let after = gpu.counters();
    println!(
        "{} dispatches in {} submission, no read-back",
        after.dispatches - before.dispatches,
        after.submits - before.submits
    );

    let y: Array3<f32> = y.to_array()?;
    println!("y {:?} on {device}; the last step: {:.4}", y.shape(), y.index_axis(ndarray::Axis(0), 39));
    Ok(())
}

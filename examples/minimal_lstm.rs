//! The smallest use: an LSTM on the GPU, software adapters allowed so that it runs anywhere.
//!
//! `cargo run --example minimal_lstm`

use gatewise::{Device, Tensor, gpu::GpuOptions, nn::Lstm};
use ndarray::Array3;

fn main() -> gatewise::Result<()> {
    let device = Device::gpu(&GpuOptions::new().software(true))?;
    println!("running on {device}");

    // 8 features, 16 units, two layers; PyTorch's initial weights from a seed.
    let lstm = Lstm::config(8, 16).layers(2).random(&device, 7)?;
    let mut state = lstm.zero_state(4)?;

    // Time-major input: [T, B, I].
    let x = Array3::from_shape_fn((10, 4, 8), |(t, b, i)| ((t + 3 * b + 5 * i) as f32).sin());
    let y = lstm.forward(&Tensor::from_array(&device, &x)?, &mut state)?;

    // The output and the state stay on the GPU until they are asked for.
    let y: Array3<f32> = y.to_array()?;
    println!("y {:?}, last step of row 0 begins with {:.4}", y.shape(), y[[9, 0, 0]]);
    println!("h {:?}", state.to_h()?.shape());
    println!("{}", lstm.plan(10, 4)?);
    Ok(())
}

//! Any bytes as a file of Keras: refused with an error, or read, every layer built and, where its input is small, run.
#![no_main]

use gatewise::Device;
use gatewise::nn::{Gru, Lstm, Merge};
use gatewise::weights::keras::{KerasCall, KerasFile, KerasLayer};
use libfuzzer_sys::fuzz_target;
use ndarray::{Array2, Array3, IxDyn};

/// Layers and arrays of a file that are looked at.
const SOME: usize = 16;

/// Calls a layer or model with symbols and with frames; what does not fit is refused.
fn run(layer: &KerasLayer) {
    let inputs = layer.inputs().count();
    for width in [3, 4] {
        let mut call = KerasCall::new(Array3::from_elem((2, 5, width), 0.5_f32));
        if inputs == 2 {
            call = KerasCall::new(Array2::from_elem((2, 6), 1_i64)).input(Array3::from_elem((2, 5, 3), 0.5_f32));
        }
        match layer.call(call.mask(Array2::from_elem((2, 5), width == 3))) {
            Ok(outputs) => outputs.outputs.iter().for_each(|output| drop(output.shape().to_vec())),
            Err(error) => drop(error.to_string()),
        }
    }
    drop(layer.forward(Array2::from_elem((2, 6), 1_i64)));
}

fuzz_target!(|bytes: &[u8]| {
    let file = match KerasFile::from_bytes("fuzz", bytes.to_vec()) {
        Ok(file) => file,
        Err(error) => return drop(error.to_string()),
    };
    let paths: Vec<String> = file.arrays().map(|(path, _)| path.to_owned()).take(SOME).collect();
    for path in &paths {
        drop(file.array::<IxDyn>(path));
    }
    match file.model(&Device::Cpu) {
        Ok(model) => run(&model),
        Err(error) => drop(error.to_string()),
    }
    for layer in file.layers().unwrap_or_default().iter().take(SOME) {
        if let Ok(layer) = file.layer(&layer.path, &Device::Cpu) {
            run(&layer);
        }
        drop(file.recurrent(&layer.path, &Device::Cpu));
        drop(file.recurrent_with(&layer.path, &Lstm::config(3, 4), &Device::Cpu));
        drop(file.recurrent_with(&layer.path, &Gru::config(3, 3).bidirectional(Merge::Sum), &Device::Cpu));
    }
});

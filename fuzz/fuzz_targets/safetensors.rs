//! Any bytes as a safetensors file: refused with an error or read, and what is read survives being written.
#![no_main]

use gatewise::Device;
use gatewise::nn::{Gru, Lstm};
use gatewise::ops::Conv1dGeometry;
use gatewise::weights::Weights;
use libfuzzer_sys::fuzz_target;
use ndarray::IxDyn;

fuzz_target!(|bytes: &[u8]| {
    let weights = match Weights::from_bytes("fuzz", bytes) {
        Ok(weights) => weights,
        Err(error) => return drop(error.to_string()),
    };
    drop(weights.check());
    drop(weights.metadata("format").map(str::to_owned));
    for prefix in ["", "net.", "lstm_cell."] {
        drop(weights.recurrent(prefix, &Lstm::config(3, 5), &Device::Cpu));
        drop(weights.recurrent(prefix, &Gru::config(3, 4).layers(2), &Device::Cpu));
        drop(weights.linear(prefix, [3, 5], &Device::Cpu));
        drop(weights.conv1d(prefix, [2, 3, 4], Conv1dGeometry { stride: 1, padding: 0 }, &Device::Cpu));
    }
    let Ok(written) = weights.to_bytes() else { return };
    let again = Weights::from_bytes("again", &written).expect("what is written can be read");
    for name in weights.names() {
        let bits = |weights: &Weights| {
            let array = weights.get::<IxDyn>(name).expect("a name of the file");
            (array.shape().to_vec(), array.iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        };
        assert!(bits(&weights) == bits(&again), "{name}");
    }
});

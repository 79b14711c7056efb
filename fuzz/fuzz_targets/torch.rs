//! Any bytes as a PyTorch checkpoint, or as the pickle of one: refused with an error or read, and the result survives being written.
//!
//! No fuzzer finds the checksums of a zip archive by itself, so bytes that are no archive become the pickle of one. Its storages `0` to
//! `7` hold 256 bytes each.
#![no_main]

use gatewise::Device;
use gatewise::nn::Config;
use gatewise::weights::Weights;
use libfuzzer_sys::fuzz_target;
use ndarray::IxDyn;

/// An archive of members that are not compressed.
fn zipped(members: &[(String, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, data) in members {
        let (offset, length) = (archive.len() as u32, (data.len() as u32).to_le_bytes());
        // Version, flags, method, time, date; then checksum, sizes, lengths of the name and of more fields.
        let header = [
            &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            crc32fast::hash(data).to_le_bytes().as_slice(),
            &[length, length].concat(),
            &(name.len() as u16).to_le_bytes(),
            &[0; 2],
        ]
        .concat();
        archive.extend([b"PK\x03\x04", header.as_slice(), name.as_bytes(), data].concat());
        let place = [&[0; 10], offset.to_le_bytes().as_slice()].concat();
        directory.extend([b"PK\x01\x02\x14\x00", header.as_slice(), &place, name.as_bytes()].concat());
    }
    let count = (members.len() as u16).to_le_bytes();
    let sizes = [directory.len() as u32, archive.len() as u32].map(u32::to_le_bytes).concat();
    let end = [b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count, &sizes, &[0; 2]].concat();
    [archive, directory, end].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let storage: Vec<u8> = (0..=255).collect();
    let mut members = vec![("x/data.pkl".to_owned(), bytes)];
    members.extend((0..8).map(|key| (format!("x/data/{key}"), storage.as_slice())));
    let archive = if bytes.starts_with(b"PK") { bytes.to_vec() } else { zipped(&members) };
    let weights = match Weights::from_bytes("fuzz", &archive) {
        Ok(weights) => weights,
        Err(error) => return drop(error.to_string()),
    };
    drop(weights.check());
    for prefix in weights.stacks().iter().take(4) {
        match Config::from_shapes(&weights, prefix) {
            Ok(config) => drop(weights.recurrent(prefix, &config, &Device::Cpu)),
            Err(error) => drop(error.to_string()),
        }
    }
    let Ok(written) = weights.to_bytes() else { return };
    let again = Weights::from_bytes("again", &written).expect("what is written can be read");
    for name in weights.names() {
        let bits = |weights: &Weights| {
            let array = weights.get::<IxDyn>(name).ok()?;
            Some((array.shape().to_vec(), array.iter().map(|x| x.to_bits()).collect::<Vec<_>>()))
        };
        assert!(bits(&weights) == bits(&again), "{name}");
    }
});

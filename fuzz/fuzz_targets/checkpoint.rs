//! Any bytes as a checkpoint, as they are and with the checksum that belongs to them. They are refused with an error and leave the
//! trainer as it was, or they are read and written again unchanged.
#![no_main]

use std::sync::LazyLock;

use gatewise::Device;
use gatewise::train::{Adam, Checkpoint, LinearModule, Parameters, Plateau, Trainer};
use libfuzzer_sys::fuzz_target;
use ndarray::IxDyn;

static TRAINER: LazyLock<Trainer> = LazyLock::new(|| {
    let mut parameters = Parameters::new(&Device::Cpu, 7);
    LinearModule::new(&mut parameters, "head.", [3, 2]).expect("a layer");
    let trainer = Trainer::new(parameters, Adam::default(), 0.01).expect("a trainer");
    trainer.plateau(Plateau::default())
});

/// The bytes before the checksum's digits.
const START: usize = 8 + "{\"__metadata__\":{\"checkpoint\":\"2 crc32 ".len();

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    if bytes.len() < START + 8 {
        return;
    }
    let mut sum = crc32fast::Hasher::new();
    sum.update(&bytes[..START]);
    sum.update(&bytes[START + 8..]);
    let mut sealed = bytes.to_vec();
    sealed[START..START + 8].copy_from_slice(format!("{:08x}", sum.finalize()).as_bytes());
    read(&sealed);
});

fn read(bytes: &[u8]) {
    let checkpoint = match Checkpoint::from_bytes("fuzz", bytes) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return drop(error.to_string()),
    };
    drop((checkpoint.step(), checkpoint.noted("progress").map(str::to_owned), checkpoint.get::<IxDyn>("state")));
    let written = checkpoint.to_bytes().expect("what is read can be written");
    Checkpoint::from_bytes("again", &written).expect("what is written can be read");
    let mut trainer = TRAINER.clone();
    let before = trainer.checkpoint().and_then(|checkpoint| checkpoint.to_bytes()).expect("a checkpoint");
    match trainer.restore(&checkpoint) {
        Ok(()) => trainer.observe(1.0),
        Err(error) => {
            drop(error.to_string());
            let after = trainer.checkpoint().and_then(|checkpoint| checkpoint.to_bytes()).expect("a checkpoint");
            assert!(before == after, "a checkpoint that is refused changes nothing");
        }
    }
}

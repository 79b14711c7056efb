//! Malformed files: an error that names the place, never a panic, never more memory than a file of this size may take.

use gatewise::Device;
use gatewise::weights::keras::KerasFile;
use rawzip::CompressionMethod;

use crate::fixtures::fixture;
use crate::refused::{archive, member};

const FILES: [&str; 8] = [
    "cells.keras",
    "flow.keras",
    "around.h5",
    "keras2_cudnn.h5",
    "keras2_both.h5",
    "last_gzip.h5",
    "cells.weights.h5",
    "cells_latest.weights.h5",
];

/// Calls every reading function of a file.
fn exhaust(bytes: Vec<u8>) {
    let Ok(file) = KerasFile::from_bytes("test", bytes) else { return };
    let _ = file.model(&Device::Cpu);
    let paths: Vec<String> = file.arrays().map(|(path, _)| path.to_owned()).take(40).collect();
    for path in paths {
        let _ = file.array::<ndarray::IxDyn>(&path);
    }
    for layer in file.layers().unwrap_or_default().into_iter().take(40) {
        let _ = file.layer(&layer.path, &Device::Cpu);
        let _ = file.recurrent(&layer.path, &Device::Cpu);
        let _ = file.recurrent_with(&layer.path, &gatewise::nn::Lstm::config(3, 4), &Device::Cpu);
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    for name in FILES {
        let whole = std::fs::read(fixture(name)).expect("a fixture");
        for cut in (0..whole.len()).step_by(whole.len() / 60) {
            let error = KerasFile::from_bytes(name, whole[..cut].to_vec()).map(|file| {
                // If the end of an HDF5 file belongs to an array, that array is missing.
                file.arrays().map(|(path, _)| file.array::<ndarray::IxDyn>(path)).find_map(Result::err)
            });
            match error {
                Err(error) => assert!(error.to_string().starts_with(name), "{error}"),
                Ok(error) => assert!(error.is_some(), "{name} cut at {cut} of {} reads", whole.len()),
            }
        }
    }
}

#[test]
fn changed_bytes_never_panic() {
    for (seed, name) in FILES.iter().enumerate() {
        let whole = std::fs::read(fixture(name)).expect("a fixture");
        let mut rng = fastrand::Rng::with_seed(seed as u64);
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..rng.usize(1..8) {
                let at = rng.usize(..bytes.len());
                let width = rng.usize(1..9).min(bytes.len() - at);
                let value = *rng.choice(&[0x00, 0xff, 0x7f, 0x01]).expect("a value");
                bytes[at..at + width].iter_mut().for_each(|byte| *byte = if rng.bool() { value } else { rng.u8(..) });
            }
            exhaust(bytes);
        }
    }
}

/// Changes the text of a configuration. The archive stays whole.
#[test]
fn changed_configurations_never_panic() {
    for (seed, name) in ["cells.keras", "both.keras", "around.keras", "flow.keras"].into_iter().enumerate() {
        let config = String::from_utf8(member(name, "config.json")).expect("text");
        let (metadata, weights) = (member(name, "metadata.json"), member(name, "model.weights.h5"));
        let mut rng = fastrand::Rng::with_seed(seed as u64);
        for _ in 0..60 {
            let mut text = config.clone();
            for _ in 0..rng.usize(1..4) {
                let words: Vec<&str> = text.split('"').collect();
                let (from, to) = (*rng.choice(&words).expect("words"), *rng.choice(&words).expect("words"));
                if from.chars().all(char::is_alphanumeric) && !from.is_empty() {
                    text = text.replacen(from, to, rng.usize(1..3));
                }
            }
            let members: [(&str, &[u8]); 3] =
                [("metadata.json", &metadata), ("config.json", text.as_bytes()), ("model.weights.h5", &weights)];
            exhaust(archive(&members, CompressionMethod::STORE));
        }
    }
}

#[test]
fn every_class_of_malformed_file_says_what_it_is() {
    let (metadata, config) = (member("cells.keras", "metadata.json"), member("cells.keras", "config.json"));
    let weights = member("cells.keras", "model.weights.h5");
    let zip = |members: &[(&str, &[u8])]| archive(members, CompressionMethod::DEFLATE);
    let all = |config: &[u8], weights: &[u8]| {
        zip(&[("metadata.json", &metadata), ("config.json", config), ("model.weights.h5", weights)])
    };
    let cells = std::fs::read(fixture("cells.h5")).expect("a fixture");
    // Zeros compress to a thousandth in the archive.
    let bomb = vec![0_u8; 100 << 20];
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "expected a zip archive or an HDF5 file of Keras, found an empty file"),
        ("magic", b"\x80\x02abcdefgh".to_vec(), "expected a zip archive or an HDF5 file of Keras, found a pickle"),
        ("an archive cut short", all(&config, &weights)[..5_000].to_vec(), "archive: expected a whole zip archive"),
        (
            "HDF5 cut short",
            cells[..cells.len() / 2].to_vec(),
            "/: cut short, 51560 bytes are needed and 25780 are there",
        ),
        (
            "no configuration",
            zip(&[("metadata.json", &metadata), ("model.weights.h5", &weights)]),
            "config.json: expected a member of this name, found only metadata.json, model.weights.h5",
        ),
        (
            "no weights",
            zip(&[("metadata.json", &metadata), ("config.json", &config)]),
            "model.weights.h5: expected a member of this name",
        ),
        (
            "two configurations",
            zip(&[("config.json", &config), ("config.json", &config)]),
            "the archive defines \"config.json\", which a member before it has defined",
        ),
        ("configuration of another kind", all(b"[1, 2]", &weights), "config.json: expected an object, found [1,2]"),
        ("configuration cut short", all(&config[..400], &weights), "config.json: expected JSON, found EOF"),
        (
            "weights of another kind",
            all(&config, b"PK not HDF5"),
            "expected a whole HDF5 object, found invalid HDF5 magic",
        ),
        ("a deflate bomb", all(&config, &bomb), "model.weights.h5: at most"),
    ];
    for (what, bytes, message) in cases {
        let error = KerasFile::from_bytes("test", bytes).map(|_| ()).expect_err(what).to_string();
        assert!(error.starts_with("test: ") && error.contains(message), "{what}: {error}");
    }
    let nested = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let error = KerasFile::from_bytes("test", all(nested.as_bytes(), &weights)).map(|_| ()).expect_err("deep");
    assert!(error.to_string().contains("recursion limit"), "{error}");
}

/// Arrays of another type, and a list of arrays that does not fit the layer.
#[test]
fn arrays_that_do_not_belong_are_refused() {
    // Class and size of a float type become those of an integer type: class 1 becomes class 0.
    let mut bytes = std::fs::read(fixture("cells.weights.h5")).expect("a fixture");
    let float: [u8; 8] = [0x11, 0x20, 0x1f, 0x00, 0x04, 0x00, 0x00, 0x00];
    let places: Vec<usize> = (0..bytes.len() - 8).filter(|&at| bytes[at..at + 8] == float).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + 4].copy_from_slice(&[0x10, 0x08, 0x00, 0x00]);
    }
    let file = KerasFile::from_bytes("test", bytes).expect("still a tree");
    let error = file.array::<ndarray::Ix2>("layers/lstm/cell/vars/0").expect_err("integers").to_string();
    assert!(
        error.contains("layers/lstm/cell/vars/0: expected elements of type 32-bit or 64-bit float, found"),
        "{error}"
    );

    let mut bytes = std::fs::read(fixture("cells.h5")).expect("a fixture");
    let name = b"lstm/lstm_cell/bias";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("a weight's name");
    bytes[at + name.len() - 1] = b'z';
    let file = KerasFile::from_bytes("test", bytes).expect("still a tree");
    let error = file.layer("lstm", &Device::Cpu).expect_err("no such array").to_string();
    assert!(error.contains("model_weights/lstm/lstm/lstm_cell/biaz: expected an array of this name"), "{error}");
    file.layer("gru", &Device::Cpu).expect("the others still load");
}

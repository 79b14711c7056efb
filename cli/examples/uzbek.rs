//! Prints root, part of speech and grammar of Uzbek words (Latin script): a bidirectional GRU tags every letter.
//!
//! `cargo run --release --example uzbek -- kitobim maktabda yozyapmiz`

use std::path::Path;
use std::process::ExitCode;

use gatewise::weights::Weights;
use gatewise::{Device, Result};
use gatewise_demos::{UzMorph, UzVocabulary};

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        eprintln!("usage: uzbek WORD...");
        return Ok(ExitCode::from(2));
    }
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let weights = Weights::from_file(models.join("uzmorph_bigru.safetensors"))?;
    let vocabulary = UzVocabulary::from_bytes("uzmorph_bigru.json", UzVocabulary::PACKAGED)?;
    let morph = UzMorph::new(&Device::auto(), &weights, vocabulary)?;
    for found in morph.analyze(&words)? {
        let suffix = found.word.strip_prefix(&found.stem).unwrap_or_default();
        let part = found.part_of_speech.as_deref().unwrap_or("no suffix");
        let told: Vec<&str> = std::iter::once(part).chain(found.features.iter().map(String::as_str)).collect();
        println!("{}: {}+{suffix} {}", found.word, found.stem, told.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

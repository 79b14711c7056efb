//! Prints the pronunciation of English words in ARPAbet, with a GRU encoder and decoder that run over all words at once.
//!
//! `cargo run --release --example phonemes -- vulkan rustacean wgpu`

use std::path::Path;
use std::process::ExitCode;

use gatewise::weights::Weights;
use gatewise::{Device, Result};
use gatewise_demos::G2p;

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        eprintln!("usage: phonemes WORD...");
        return Ok(ExitCode::from(2));
    }
    let weights = Weights::from_file(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/g2p_en.safetensors"))?;
    let g2p = G2p::new(&Device::auto(), &weights)?;
    for (word, phonemes) in words.iter().zip(g2p.phonemes(&words)?) {
        println!("{word}: {}", phonemes.join(" "));
    }
    Ok(ExitCode::SUCCESS)
}

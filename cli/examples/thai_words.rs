//! Prints the words of Thai text, which is written without spaces: a bidirectional LSTM runs over all runs of Thai letters at once.
//!
//! `cargo run --release --example thai_words -- ภาษาไทยภาษาไทย`, or text on standard input. Prints one line of words per line of text.

use std::io::Read;
use std::path::Path;

use gatewise::weights::Weights;
use gatewise::{Device, Error, Result};
use gatewise_demos::ThaiSegmenter;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut text = arguments.join("\n");
    if arguments.is_empty() {
        std::io::stdin().read_to_string(&mut text).map_err(|error| Error::io("standard input", error))?;
    }
    let weights = Weights::from_file(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/icu4x_thai.safetensors"))?;
    let segmenter = ThaiSegmenter::new(&Device::auto(), &weights)?;
    // The words are slices of the text, so their positions say to which line they belong.
    let start = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
    let mut words = segmenter.words(&text)?.into_iter().peekable();
    for line in text.lines() {
        let end = start(line) + line.len();
        let line: Vec<&str> = std::iter::from_fn(|| words.next_if(|word| start(word) < end)).collect();
        println!("{}", line.join("|"));
    }
    Ok(())
}

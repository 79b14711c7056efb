//! Any bytes as a WAV file: refused with an error of one line, or read to its end in blocks.
#![no_main]

#[allow(dead_code, reason = "the program does more with them")]
#[path = "../../cli/src"]
mod program {
    pub(crate) mod audio;
    pub(crate) mod file;
}

use libfuzzer_sys::fuzz_target;
use program::audio::Recording;
// The program's files name each other from the crate's root.
use program::file;

/// Samples of a block.
const BLOCK: usize = 1 << 12;

/// Reads all of it; returns the number of samples.
fn read(bytes: &[u8]) -> gatewise::Result<usize> {
    let mut recording = Recording::from_bytes("fuzz", bytes)?;
    let mut read = 0;
    loop {
        let block = recording.next(BLOCK)?;
        assert!(block.iter().all(|sample| sample.is_finite()), "{read}");
        read += block.len();
        if block.is_empty() {
            assert_eq!(read, recording.len());
            return Ok(read);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Err(error) = read(bytes) {
        let text = error.to_string();
        assert!(text.len() < 1_000 && !text.contains(char::is_control), "{text:?}");
    }
});

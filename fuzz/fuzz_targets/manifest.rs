//! Any bytes as a manifest of golden cases and, behind a NUL, the file `case` that they may name: refused with an error, or
//! judged, gradients included.
#![no_main]

#[allow(dead_code, unused_imports, reason = "the program does more with them")]
#[path = "../../cli/src"]
mod program {
    pub(crate) mod audio;
    pub(crate) mod choice;
    pub(crate) mod file;
    pub(crate) mod output;
    pub(crate) mod verify;
}

use std::fs;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
// The program's files name each other from the crate's root.
use program::{audio, choice, file, output, verify};

/// As deep below the package as `tests/golden`, so that cases find their models.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/case");

fuzz_target!(|bytes: &[u8]| {
    let (manifest, case) = match bytes.iter().position(|&byte| byte == 0) {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &[][..]),
    };
    let folder = Path::new(FOLDER);
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("manifest.json"), manifest).expect("a manifest");
    fs::write(folder.join("case"), case).expect("a case");
    if let Err(error) = verify::judge_all(folder) {
        let text = error.to_string();
        assert!(text.len() < 1_000 && !text.contains(char::is_control), "{text:?}");
    }
});

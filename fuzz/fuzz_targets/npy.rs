//! Any bytes as a `.npy` file: refused with an error of one line, or read.
#![no_main]

#[allow(dead_code, reason = "the program does more with them")]
#[path = "../../cli/src"]
mod program {
    pub(crate) mod file;
    pub(crate) mod npy;
}

use gatewise::onnx::Input;
use libfuzzer_sys::fuzz_target;
// The program's files name each other from the crate's root.
use program::{file, npy};

fuzz_target!(|bytes: &[u8]| {
    let elements = match npy::read_bytes("x", "fuzz", bytes) {
        Ok(Input::Float(array)) => array.len(),
        Ok(Input::Int(array)) => array.len(),
        Ok(Input::Bool(array)) => array.len(),
        Ok(_) => unreachable!("a file holds numbers or booleans"),
        Err(error) => {
            let text = error.to_string();
            return assert!(text.len() < 1_000 && !text.contains(char::is_control), "{text:?}");
        }
    };
    assert!(elements <= bytes.len(), "more elements than bytes");
});

//! Where the repository's files and the program are: where they were built, or where a pack was opened (`benches/pack.sh`).

#![allow(dead_code, reason = "every test file uses a part of it")]

#[path = "../../../tests/common/place.rs"]
mod place;

use std::path::PathBuf;

#[allow(unused_imports, reason = "every test file uses a part of it")]
pub(crate) use place::root;

/// The command line's program.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("GATEWISE_PROGRAM").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_gatewise")), PathBuf::from)
}

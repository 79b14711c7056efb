//! Where this package's files and program are: where they were built, or where a pack was opened (`benches/pack.sh`).

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::PathBuf;

/// The package's folder; Cargo sets the variable for every test that it runs.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// The command line's program.
#[cfg(feature = "cli")]
pub(crate) fn program() -> PathBuf {
    std::env::var_os("GATEWISE_PROGRAM").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_gatewise")), PathBuf::from)
}

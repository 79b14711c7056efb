//! The folder of the repository's files: where the tests were built, or where a pack was unpacked (`benches/pack.sh`).

use std::path::{Path, PathBuf};

/// The repository's folder, for the tests of every package in it.
pub(crate) fn root() -> PathBuf {
    if let Some(root) = std::env::var_os("GATEWISE_ROOT") {
        return PathBuf::from(root);
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.ancestors().find(|folder| folder.join("shaders").is_dir()).unwrap_or(package).to_owned()
}

//! Every file of tests belongs to a test program: Cargo says nothing about a file that no `mod` names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn rust_files(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.insert(path);
        }
    }
}

/// The files that become programs: `tests/NAME.rs` and `tests/NAME/main.rs`.
fn programs(tests: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(tests).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.map(|path| if path.is_dir() { path.join("main.rs") } else { path }).filter(|path| path.is_file()).collect()
}

/// Drops `.` and `..` from a path.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut all, part| {
        if part.as_os_str() == ".." {
            all.pop();
        } else {
            all.push(part);
        }
        all
    })
}

/// Adds a file and those that its `mod`s name. The modules of a file that is not the first of its folder lie in a folder of its name.
fn reach(file: &Path, first: bool, reached: &mut BTreeSet<PathBuf>) {
    if !file.is_file() || !reached.insert(file.to_owned()) {
        return;
    }
    let folder = file.parent().expect("a folder");
    let below = if first { folder.to_owned() } else { file.with_extension("") };
    let text = fs::read_to_string(file).expect("text");
    let mut place = None;
    for line in text.lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"") {
            place = path.split('"').next();
        } else if let Some((_, path)) = line.split_once("join(\"tests/") {
            // A source that a test compiles by itself.
            let path = path.split('"').next().unwrap_or_default();
            reach(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(path), true, reached);
        } else if let Some(module) = line.split("mod ").nth(1).and_then(|rest| rest.strip_suffix(';')) {
            match place.take() {
                Some(path) => reach(&plain(&folder.join(path)), true, reached),
                None => {
                    reach(&below.join(format!("{module}.rs")), false, reached);
                    reach(&below.join(module).join("mod.rs"), true, reached);
                }
            }
        }
    }
}

#[test]
fn every_file_of_tests_is_compiled() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let (mut all, mut reached) = (BTreeSet::new(), BTreeSet::new());
    rust_files(&tests, &mut all);
    programs(&tests).iter().for_each(|program| reach(program, true, &mut reached));
    let forgotten: Vec<_> = all.difference(&reached).collect();
    assert!(forgotten.is_empty(), "no `mod` names {forgotten:?}");
}

#[test]
fn a_file_that_no_module_names_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("written");
        path
    };
    let main = write("calls/main.rs", "mod edges;\n#[path = \"../common/mod.rs\"]\nmod common;\n");
    let named = [write("calls/edges.rs", "mod deep;\n"), write("calls/edges/deep.rs", ""), write("common/mod.rs", "")];
    let forgotten = write("calls/states.rs", "");
    let mut reached = BTreeSet::new();
    reach(&main, true, &mut reached);
    assert!(named.iter().all(|path| reached.contains(path)), "{reached:?}");
    assert!(!reached.contains(&forgotten));
}

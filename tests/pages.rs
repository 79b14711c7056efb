//! The repository's pages: they name files that exist, and ARCHITECTURE fits a terminal.

use std::fs;
use std::path::Path;

const PAGES: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "COMMANDS.md",
    "SUPPORT.md",
    "shaders/README.md",
    "benches/README.md",
    "models/README.md",
];

/// Folders in which a page may begin a path.
const BEGINS: [&str; 7] = ["", "src", "shaders", "cli/src", "tests", "benches", "models"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The texts between backquotes that are paths of source files.
fn paths(page: &str) -> impl Iterator<Item = &str> {
    let quoted = page.split('`').skip(1).step_by(2);
    quoted
        .filter(|text| [".rs", ".wgsl"].iter().any(|ending| text.ends_with(ending)) && !text.contains([' ', '*', '<']))
}

/// Whether a file of this path lies in one of the folders, or below them under its bare name.
fn exists(path: &str) -> bool {
    if BEGINS.iter().any(|folder| root().join(folder).join(path).exists()) {
        return true;
    }
    !path.contains('/') && ["src", "shaders", "cli", "tests"].iter().any(|folder| holds(&root().join(folder), path))
}

fn holds(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).any(|path| {
        if path.is_dir() { holds(&path, name) } else { path.file_name().is_some_and(|found| found == name) }
    })
}

#[test]
fn pages_name_files_that_exist() {
    let mut named = 0;
    for name in PAGES {
        let text = page(name);
        for path in paths(&text) {
            named += 1;
            assert!(exists(path), "{name} names {path}");
        }
    }
    assert!(named > 40, "{named} paths: are they still quoted?");
    assert!(!exists("gpu/no_such_file.rs") && !exists("no_such_file.rs"));
}

#[test]
fn lines_of_the_architecture_have_at_most_120_columns() {
    for (number, line) in (1..).zip(page("ARCHITECTURE.md").lines()) {
        assert!(line.chars().count() <= 120, "ARCHITECTURE.md:{number}");
    }
}

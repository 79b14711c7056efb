//! The rooms: who may name whom, how large a file may grow, and what no library file may do.

use std::fs;
use std::path::{Path, PathBuf};

/// The rooms from left to right; a room names only those before it. Rooms of one group do not name each other.
const ROOMS: &[&[&str]] = &[
    &["text"],
    &["error", "cell", "memory"],
    &["files"],
    &["reference"],
    &["plan"],
    &["cpu", "gpu"],
    &["tensor", "ops"],
    &["nn"],
    &["weights"],
    &["train"],
    &["onnx"],
    &["models"],
];

const MOST_LINES: usize = 450;

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(files(&entry, ending));
        } else if entry.extension().is_some_and(|e| e == ending) {
            found.push(entry);
        }
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A file's text without its unit tests, and the room it belongs to (none for `lib.rs` and the program).
fn library() -> Vec<(PathBuf, Option<String>, String)> {
    let source = root().join("src");
    let rooms = files(&source, "rs").into_iter().filter(|path| !path.ends_with("tests.rs")).map(|path| {
        let inside = path.strip_prefix(&source).expect("below src").to_path_buf();
        let first =
            inside.components().next().map(|c| c.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned());
        let text = fs::read_to_string(&path).expect("text");
        let text = text.split("\nmod tests {").next().unwrap_or_default().to_owned();
        (inside, first.filter(|room| room != "lib" && room != "bin"), text)
    });
    rooms.collect()
}

/// Lines of code: without comments and documentation.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn place(room: &str) -> Option<usize> {
    ROOMS.iter().position(|group| group.contains(&room))
}

/// A room and the ones it leans on within its group: tensors and the operations on them know each other.
const TOGETHER: [[&str; 2]; 4] = [["tensor", "ops"], ["error", "cell"], ["error", "memory"], ["cell", "memory"]];

#[test]
fn a_room_names_only_rooms_to_its_left() {
    let mut faults = Vec::new();
    for (path, room, text) in library() {
        let Some(room) = room else { continue };
        let own = place(&room).unwrap_or_else(|| panic!("{}: a room that the rule does not know", path.display()));
        for (number, line) in code(&text) {
            for (at, _) in line.match_indices("crate::") {
                let name: String =
                    line[at + 7..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let Some(other) = place(&name) else { continue };
                let together =
                    TOGETHER.iter().any(|pair| pair.contains(&room.as_str()) && pair.contains(&name.as_str()));
                if name != room && other >= own && !together {
                    faults.push(format!("{}:{number}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_the_gpu_room_names_wgpu() {
    for (path, room, text) in library() {
        // Two functions of `tensor.rs` share buffers with a caller.
        let allowed = room.as_deref() == Some("gpu") || path == Path::new("tensor.rs");
        let named = code(&text).find(|(_, line)| line.contains("wgpu::"));
        assert!(allowed || named.is_none(), "{}: {named:?}", path.display());
    }
}

#[test]
fn no_library_file_panics_on_purpose() {
    for (path, _, text) in library() {
        for (number, line) in code(&text) {
            for word in [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!("] {
                assert!(!line.contains(word), "{}:{number}: {}", path.display(), line.trim());
            }
        }
    }
}

#[test]
fn no_file_outgrows_its_reader() {
    let sources = ["src", "shaders"]
        .into_iter()
        .flat_map(|folder| files(&root().join(folder), if folder == "src" { "rs" } else { "wgsl" }));
    for path in sources {
        let lines = fs::read_to_string(&path).expect("text").lines().count();
        assert!(lines <= MOST_LINES, "{}: {lines} lines", path.display());
    }
}

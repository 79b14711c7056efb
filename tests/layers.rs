//! The rooms: who may name whom, how large a file may grow, and what no library file may do.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "layers/source.rs"]
mod source;

use source::{FoundPath, from_root, library_code, paths};

/// The rooms from left to right; a room names only those before it. Rooms of one group do not name each other.
const ROOMS: &[&[&str]] = &[
    &["text"],
    &["error", "cell", "memory", "op"],
    &["files"],
    &["reference"],
    &["plan"],
    &["cpu", "gpu"],
    &["tensor", "ops", "path"],
    &["nn"],
    &["weights"],
    &["train"],
    &["onnx"],
    &["models"],
];

/// Rooms of one group that name each other all the same.
const NEIGHBOURS: &[[&str; 2]] = &[
    ["tensor", "path"],
    ["ops", "path"],
    ["tensor", "ops"],
    ["error", "cell"],
    ["error", "memory"],
    ["error", "op"],
    ["cell", "memory"],
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

/// A file of the library or of the program.
struct SourceFile {
    path: PathBuf,
    /// The module that the file holds, from its crate's root on; empty for `lib.rs`.
    module: Vec<String>,
    code: String,
}

impl SourceFile {
    fn room(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    /// Lines of code with their numbers.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }
}

/// The folders of the library and of the program.
const SOURCES: [&str; 3] = ["src", "cli/src", "cli/demos"];

/// The files of the library without their unit tests.
fn library() -> Vec<SourceFile> {
    source_files("src")
}

/// The files of a folder without their unit tests.
fn source_files(folder: &str) -> Vec<SourceFile> {
    let source = root().join(folder);
    let found = files(&source, "rs").into_iter().filter_map(|path| {
        let inside = path.strip_prefix(&source).expect("below the folder").to_path_buf();
        let is_test = inside.ends_with("tests.rs");
        let stem = inside.with_extension("");
        let module = stem.iter().map(|name| name.to_string_lossy().into_owned());
        let module: Vec<String> = module.filter(|name| name != "lib").collect();
        (!is_test).then(|| SourceFile {
            path: inside,
            module,
            code: library_code(&fs::read_to_string(&path).expect("text")),
        })
    });
    found.collect()
}

/// The rooms of the items that the root of the crate exports: `Error` stands for `error`.
fn exported(root: &str) -> HashMap<String, String> {
    let exports = paths(root).into_iter().filter_map(|path| match path.segments.as_slice() {
        [room, .., item] => Some((item.clone(), room.clone())),
        _ => None,
    });
    exports.collect()
}

fn group(room: &str) -> Option<usize> {
    ROOMS.iter().position(|group| group.contains(&room))
}

/// The lines of a file that name a room which its own room must not name.
fn forbidden_names(code: &str, module: &[String], exported: &HashMap<String, String>) -> Vec<usize> {
    let Some(room) = module.first() else { return Vec::new() };
    let own = group(room).unwrap_or_else(|| panic!("{room}: a room that the rule does not know"));
    let forbidden = |name: &String| {
        let other = exported.get(name).unwrap_or(name);
        let neighbours = NEIGHBOURS.iter().any(|pair| pair.contains(&room.as_str()) && pair.contains(&other.as_str()));
        name == "*" || other != room && !neighbours && group(other).is_some_and(|other| other >= own)
    };
    let named = paths(code).into_iter().filter_map(|path| Some((path.line, from_root(&path, module)?)));
    // A path without segments is the root itself, under another name.
    let mut lines: Vec<_> =
        named.filter(|(_, path)| path.first().is_none_or(forbidden)).map(|(line, _)| line).collect();
    lines.dedup();
    lines
}

#[test]
fn a_room_names_only_rooms_to_its_left() {
    let library = library();
    let exported = exported(&library.iter().find(|file| file.module.is_empty()).expect("lib.rs").code);
    let mut faults = Vec::new();
    for file in &library {
        let lines = forbidden_names(&file.code, &file.module, &exported);
        faults.extend(lines.iter().map(|line| format!("{}:{line}", file.path.display())));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The specification is compared with the CPU and the GPU, so they share words and no code with it.
#[test]
fn the_paths_take_no_words_from_the_reference() {
    for file in library() {
        // The CPU has no fast form of some activations; it applies the reference's functions to single numbers.
        let functions: &[&str] = match file.room() {
            Some("cpu") => &["activate", "activate_derivative"],
            Some("gpu" | "plan") => &[],
            _ => continue,
        };
        for path in paths(&file.code) {
            let Some(named) = from_root(&path, &file.module).filter(|named| named[0] == "reference") else { continue };
            let allowed = matches!(named.as_slice(), [_, item] if functions.contains(&item.as_str()));
            assert!(allowed, "{}:{}: {}", file.path.display(), path.line, named.join("::"));
        }
    }
}

#[test]
fn only_the_gpu_room_names_wgpu() {
    for file in library() {
        // Two functions of `tensor.rs` share buffers with a caller, `path/encoded.rs` shares encoders, and `lib.rs` exports the crate.
        let allowed = file.room() == Some("gpu")
            || ["tensor.rs", "path/encoded.rs", "lib.rs"].map(Path::new).contains(&file.path.as_path());
        let named = paths(&file.code).into_iter().find(|path| path.segments.first().is_some_and(|name| name == "wgpu"));
        assert!(allowed || named.is_none(), "{}: {named:?}", file.path.display());
    }
}

/// Operations and layers state their work for each path; `path` alone decides between them.
#[test]
fn only_the_path_room_tells_devices_apart() {
    for file in library().iter().filter(|file| matches!(file.room(), Some("ops" | "nn" | "weights" | "train"))) {
        let tells = |path: &FoundPath| matches!(path.segments.as_slice(), [.., kind, _] if kind == "Device" || kind == "Storage");
        let found = paths(&file.code).into_iter().find(tells);
        assert!(found.is_none(), "{}: {found:?}", file.path.display());
    }
}

/// The types of `gpu/absent.rs` stand in for a GPU. Only items that name `wgpu`, or clocks that browsers lack, are left out.
#[test]
fn only_few_files_depend_on_the_feature_gpu() {
    let source = root().join("src");
    for path in files(&source, "rs") {
        let inside = path.strip_prefix(&source).expect("below src");
        let allowed = ["lib.rs", "nn.rs", "path.rs", "path/recorder.rs", "tensor.rs"].map(Path::new).contains(&inside)
            || inside.starts_with("gpu");
        let text = fs::read_to_string(&path).expect("text");
        let condition = |line: &&str| line.contains("feature = \"gpu\"") && !line.contains("test");
        let found = text.lines().find(condition);
        assert!(allowed || found.is_none(), "{}: {found:?}", path.display());
    }
}

#[test]
fn no_library_file_panics_on_purpose() {
    for file in SOURCES.into_iter().flat_map(source_files) {
        for (number, line) in file.lines() {
            for word in [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!("] {
                assert!(!line.contains(word), "{}:{number}: {}", file.path.display(), line.trim());
            }
        }
    }
}

#[test]
fn no_file_outgrows_its_reader() {
    let rust = SOURCES.into_iter().flat_map(|folder| files(&root().join(folder), "rs"));
    let sources = rust.chain(files(&root().join("shaders"), "wgsl"));
    for path in sources {
        let lines = fs::read_to_string(&path).expect("text").lines().count();
        assert!(lines <= MOST_LINES, "{}: {lines} lines", path.display());
    }
}

/// Lines that the rule forbids in a file of `cpu`, two modules deep.
fn forbidden_in_cpu(code: &str) -> Vec<usize> {
    let exported = exported("pub use error::{Error, Result};\npub use tensor::{Device, Tensor};\n");
    let module = ["cpu", "training", "step"].map(str::to_owned);
    forbidden_names(&library_code(code), &module, &exported)
}

#[test]
fn every_form_of_a_forbidden_name_is_seen() {
    let forms = [
        "use crate::gpu;",
        "use crate::gpu::Buffer;",
        "pub(crate) use crate::tensor::view as seen;",
        "use crate::{gpu, memory};",
        "use crate::{memory, gpu::{Buffer, Context}};",
        "use crate::{\n    memory,\n    nn::{self, config::Merge},\n};",
        "use {crate::plan::Plan, crate::nn};",
        "use super::super::super::gpu::Buffer;",
        "use super::super::{super::gpu, layer};",
        "use crate::Device;",
        "use crate::{Device, Result};",
        "use super::super::super::Tensor;",
        "use crate::*;",
        "use crate as whole;",
        "fn f(x: &crate::Tensor) {}",
        "fn f() { super::super::super::nn::f() }",
        "mod inner {\n    use super::super::super::super::gpu;\n}",
        "let x = \"//\"; crate::gpu::f();",
        "macro_rules! m { () => { $crate::ops::f() } }",
        "#[cfg(test)]\nuse crate::memory;\nuse crate::gpu;",
    ];
    for code in forms {
        assert_eq!(forbidden_in_cpu(code).len(), 1, "{code}");
    }
}

#[test]
fn allowed_names_comments_strings_and_tests_are_left_alone() {
    let forms = [
        "use crate::{Error, Result, plan::Plan, reference};",
        "use super::gpu;",
        "use super::super::{gpu, layer};",
        "use self::gpu::Buffer;",
        "use std::ops::Range;",
        "mod gpu {\n    use super::super::super::layer;\n}",
        "// use crate::gpu;",
        "/* use crate::gpu; */",
        "const TEXT: &str = \"crate::gpu::f\";",
        "const TEXT: &str = r#\"\"crate::gpu::f\"#;",
        "const QUOTE: char = '\"'; // \"\nuse crate::plan; // \"crate::gpu\"",
        "#[cfg(test)]\nmod tests {\n    use crate::gpu;\n}",
        "#[cfg(all(test, feature = \"gpu\"))]\nfn f() { crate::gpu::f() }",
    ];
    for code in forms {
        assert_eq!(forbidden_in_cpu(code), [0; 0], "{code}");
    }
    assert_eq!(forbidden_in_cpu("/*\n*/ fn f<'a>() {}\n#[cfg(test)]\nmod tests {\n}\nuse crate::nn;"), [6]);
}

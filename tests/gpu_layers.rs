//! The layers of the GPU path: each names only the layers below it.

use std::fs;
use std::path::Path;

#[path = "layers/source.rs"]
mod source;

use source::{from_root, library_code, paths};

/// From the bottom up. A layer is a file or folder of `src/gpu/`; the files of one entry may name each other.
const LAYERS: &[&[&str]] = &[
    &["device"],
    &["kept"],
    &["arguments"],
    &["submit"],
    &["kernel_run", "ops", "strided", "layout", "peaks"],
    &["training"],
    &["recurrent"],
];

/// The files of `submit/` from the bottom up.
const SUBMIT: &[&[&str]] =
    &[&["list", "marks", "waiter", "watch"], &["handle"], &["recorder"], &["readback"], &["profile", "tuned"]];

/// The paths in a file that name an entry above its own, if `prefix` is the module that holds the entries.
fn upward(module: &[String], code: &str, prefix: &[&str], entries: &[&[&str]]) -> Vec<String> {
    let level = |path: &[String]| {
        let name =
            path.strip_prefix(prefix.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>().as_slice())?.first()?;
        entries.iter().position(|group| group.contains(&name.as_str()))
    };
    let Some(own) = level(module) else { return Vec::new() };
    let named = paths(code).into_iter().filter_map(|path| Some((path.line, from_root(&path, module)?)));
    let above = named.filter(|(_, path)| level(path).is_some_and(|other| other > own));
    above.map(|(line, path)| format!("{}:{line}: {}", module.join("/"), path.join("::"))).collect()
}

fn files(folder: &Path, module: &[String], found: &mut Vec<(Vec<String>, String)>) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_stem().expect("a name").to_string_lossy().into_owned();
        let module: Vec<String> = module.iter().cloned().chain([name.clone()]).collect();
        if entry.is_dir() {
            files(&entry, &module, found);
        } else if name != "tests" && name != "absent" {
            found.push((module, library_code(&fs::read_to_string(&entry).expect("text"))));
        }
    }
}

#[test]
fn a_layer_names_only_the_layers_below_it() {
    let mut found = Vec::new();
    files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu"), &["gpu".to_owned()], &mut found);
    let mut faults = Vec::new();
    for (module, code) in &found {
        let known = LAYERS.iter().any(|group| group.contains(&module[1].as_str()));
        assert!(known, "{}: a layer that the rule does not know", module.join("/"));
        faults.extend(upward(module, code, &["gpu"], LAYERS));
        faults.extend(upward(module, code, &["gpu", "submit"], SUBMIT));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_name_of_a_higher_layer_is_seen() {
    let module = ["gpu", "kept", "buffer"].map(str::to_owned);
    for code in ["use crate::gpu::submit::GpuDevice;", "use crate::gpu::{device::lock, submit::list};"] {
        assert_eq!(upward(&module, code, &["gpu"], LAYERS).len(), 1, "{code}");
    }
    assert_eq!(upward(&module, "use crate::gpu::device::lock;", &["gpu"], LAYERS), [""; 0]);
}

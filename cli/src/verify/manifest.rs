//! Reads the manifest of a folder of golden cases, and checks the files that it names.

use std::fs;
use std::path::{Component, Path, PathBuf};

use gatewise::text::shown;
use gatewise::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use super::case::Case;
use crate::file;

/// The largest accepted manifest in bytes. Its parsed values take about thirty times as much memory.
const LONGEST_MANIFEST: u64 = 8 << 20;
/// The largest accepted case file in bytes.
const LONGEST_CASE: u64 = 256 << 20;

/// The list of cases of a folder.
#[derive(Deserialize)]
struct Manifest {
    cases: Vec<Value>,
}

/// The fields that every case has.
#[derive(Deserialize)]
struct CaseHeader {
    name: String,
    kind: String,
    file: String,
}

/// A case of a manifest whose file is not read yet.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) kind: String,
    file: String,
    entry: Value,
}

/// Lists the cases whose name contains `wanted`.
pub(super) fn cases(folder: &Path, wanted: Option<&str>) -> Result<Vec<Listed>> {
    // The manifest, too, must be a file of this folder and not a link out of it.
    let path = folder.join("manifest.json");
    let within = inside(folder, Path::new("manifest.json"))?;
    let text = file::read(&within, LONGEST_MANIFEST)?;
    parse(&path.display().to_string(), &text, wanted)
}

fn parse(file: &str, text: &[u8], wanted: Option<&str>) -> Result<Vec<Listed>> {
    let refuse = |field: &str, expected: &str, found: String| Error::Format {
        file: file.to_owned(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let unlike = |error: serde_json::Error| shown(&error.to_string()).to_string();
    let manifest: Manifest =
        serde_json::from_slice(text).map_err(|error| refuse("manifest", "an object with `cases`", unlike(error)))?;
    let mut cases = Vec::new();
    for (index, entry) in manifest.cases.into_iter().enumerate() {
        let CaseHeader { name, kind, file } = CaseHeader::deserialize(&entry)
            .map_err(|error| refuse(&format!("cases[{index}]"), "name, kind and file", unlike(error)))?;
        if wanted.is_none_or(|wanted| name.contains(wanted)) {
            cases.push(Listed { name, kind, file, entry });
        }
    }
    match (cases.is_empty(), wanted) {
        (true, Some(wanted)) => Err(refuse("cases", &format!("a name that contains {wanted:?}"), "none".to_owned())),
        (true, None) => Err(refuse("cases", "at least one", "none".to_owned())),
        _ => Ok(cases),
    }
}

impl Listed {
    /// Reads the case's file, which must lie in `folder`.
    pub(super) fn load(&self, folder: &Path) -> Result<Case> {
        let within = inside(folder, Path::new(&self.file))?;
        let bytes = file::read(&within, LONGEST_CASE)?;
        Ok(Case {
            name: self.name.clone(),
            kind: self.kind.clone(),
            folder: folder.to_owned(),
            path: folder.join(&self.file),
            entry: self.entry.clone(),
            bytes,
        })
    }
}

/// The path of a file in a folder; refuses paths and links that lead out of the folder.
fn inside(folder: &Path, file: &Path) -> Result<PathBuf> {
    let refuse = |expected: &str| Error::Format {
        file: folder.join("manifest.json").display().to_string(),
        field: "file".to_owned(),
        expected: expected.to_owned(),
        found: shown(&file.display().to_string()).to_string(),
    };
    // The path appears in errors, so it must not contain control characters.
    let plain = !file.to_string_lossy().contains(char::is_control);
    let downwards = file.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain || !downwards {
        return Err(refuse("the path of a file below the manifest's folder"));
    }
    let path = folder.join(file);
    let real = |path: &Path| fs::canonicalize(path).map_err(|error| Error::io(path, error));
    let real_file = real(&path)?;
    if real_file.starts_with(real(folder)?) {
        Ok(path)
    } else {
        Err(refuse("a file, not a link out of the manifest's folder"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(file: &str) -> Listed {
        Listed { name: "a".to_owned(), kind: "torch".to_owned(), file: file.to_owned(), entry: Value::Null }
    }

    #[test]
    fn only_files_of_the_folder_are_read() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("cases");
        fs::create_dir_all(folder.join("below")).unwrap();
        fs::write(folder.join("below/a"), "inside").unwrap();
        fs::write(root.path().join("b"), "outside").unwrap();
        let load = |file: &str| listed(file).load(&folder);
        assert_eq!(load("below/a").unwrap().bytes, b"inside");
        assert_eq!(load("./below/a").unwrap().bytes, b"inside");
        let absolute = root.path().join("b").display().to_string();
        for file in [
            "../b",
            "below/../../b",
            "below/../below/a",
            &absolute,
            "/dev/zero",
            "a\u{1b}[2Jb",
            "a\nb",
            "",
            ".",
            "below",
            "none",
        ] {
            let error = load(file).map(|_| ()).unwrap_err().to_string();
            assert!(!error.contains(char::is_control), "{error:?}");
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::symlink;
            symlink(root.path().join("b"), folder.join("out")).unwrap();
            symlink("below/a", folder.join("in")).unwrap();
            symlink("/dev/zero", folder.join("zero")).unwrap();
            symlink(root.path(), folder.join("up")).unwrap();
            assert_eq!(load("in").unwrap().bytes, b"inside");
            for file in ["out", "zero", "up/b"] {
                let error = load(file).map(|_| ()).unwrap_err().to_string();
                assert!(error.contains("not a link out"), "{error}");
            }
        }
    }

    #[test]
    fn a_manifest_is_bounded_in_depth_and_size() {
        for depth in [200, 100_000] {
            let error = parse("m", "[".repeat(depth).as_bytes(), None).map(|_| ()).unwrap_err().to_string();
            assert!(error.starts_with("m: manifest: expected") && error.len() < 300, "{error}");
            let nested = format!("{{\"cases\": [{}", "[".repeat(depth));
            let error = parse("m", nested.as_bytes(), None).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("recursion limit"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::create(folder.path().join("manifest.json")).unwrap();
        file.set_len(LONGEST_MANIFEST + 1).unwrap();
        let error = cases(folder.path(), None).map(|_| ()).unwrap_err();
        assert!(matches!(&error, Error::TooLarge { .. }), "{error}");
    }
}

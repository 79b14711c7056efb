//! Runs `gatewise train` on synthetic data in a temporary folder.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct JobFolder {
    pub(crate) folder: TempDir,
}

impl JobFolder {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Three speakers who differ in which of two features rises, and how.
    pub(crate) fn vowels(&self) -> String {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut file = |name: &str, count: usize| {
            let mut text = "#made up\n@dimensions 2\n@classLabel true a b c\n@data\n".to_owned();
            for at in 0..count {
                let class = at % 3;
                let length = 4 + rng.usize(..5);
                let mut row = |slope: f32| -> String {
                    let at = |t: usize| (slope * t as f32 + 0.4 * (rng.f32() - 0.5)).to_string();
                    (0..length).map(at).collect::<Vec<_>>().join(",")
                };
                let slopes = [[0.3, 0.0], [0.0, 0.3], [-0.3, 0.0]][class];
                let (first, second) = (row(slopes[0]), row(slopes[1]));
                text += &format!("{first}:{second}:{}\n", ["a", "b", "c"][class]);
            }
            fs::create_dir_all(self.path("data/vowels")).expect("a folder");
            fs::write(self.path("data/vowels").join(name), text).expect("a file");
        };
        file("JapaneseVowels_TRAIN.ts", 60);
        file("JapaneseVowels_TEST.ts", 30);
        self.name("data")
    }

    /// Trains on [`JobFolder::vowels`] and returns the final line.
    pub(crate) fn train_vowels(&self, data: &str, out: &str, more: &[&str]) -> Output {
        let arguments = self.vowels_job(data, out, more);
        gatewise(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The arguments of [`JobFolder::train_vowels`], for a process that is started by hand.
    pub(crate) fn vowels_job(&self, data: &str, out: &str, more: &[&str]) -> Vec<String> {
        let out = self.name(out);
        let mut arguments = vec!["train", "vowels", "--data", data, "--out", &out, "--hidden", "6", "--json"];
        if !more.contains(&"--rate") {
            arguments.extend(["--rate", "0.02"]);
        }
        if !more.contains(&"--device") {
            arguments.extend(["--device", "cpu"]);
        }
        arguments.extend(more);
        arguments.into_iter().map(str::to_owned).collect()
    }

    pub(crate) fn checkpoints(&self, out: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.path(out).join("checkpoints"))
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        files
    }
}

pub(crate) fn gatewise(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gatewise")).args(arguments).output().expect("the program runs")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub(crate) fn lines(output: &Output) -> Vec<Value> {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

pub(crate) fn last(output: &Output) -> Value {
    lines(output).pop().expect("a final line")
}

/// Every file below a folder, by its path there.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.strip_prefix(folder).expect("below it").to_owned();
        if path.is_dir() {
            found.extend(contents(&path).into_iter().map(|(inner, bytes)| (name.join(inner), bytes)));
        } else {
            found.insert(name, fs::read(&path).expect("a file"));
        }
    }
    found
}

/// Fails unless two folders hold the same files, byte for byte.
#[track_caller]
pub(crate) fn assert_same_files(place: &JobFolder, a: &str, b: &str) {
    let (a, b) = (contents(&place.path(a)), contents(&place.path(b)));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(b[name] == *bytes, "{} differs", name.display());
    }
}

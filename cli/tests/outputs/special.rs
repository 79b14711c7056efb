//! FIFOs and devices in the place of files: refused before they are opened, or left alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use gatewise::gpu::{GpuDevice, GpuOptions};
use gatewise::onnx::{OnnxModel, OnnxOptions};
use gatewise::weights::Weights;
use gatewise::weights::keras::KerasFile;
use gatewise::{Error, files};
use gatewise_demos::UzVocabulary;
use tempfile::TempDir;

use crate::refused;

fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
}

/// Calls a function that must not wait for anybody, and returns its result.
fn at_once<T: Send + 'static>(function: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    std::thread::spawn(move || done.send(function()));
    result.recv_timeout(Duration::from_secs(30)).expect("it waits for a writer")
}

#[test]
fn no_reader_waits_for_a_fifo() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("pipe");
    fifo(&path);
    let readers: [fn(PathBuf) -> Result<(), Error>; 6] = [
        |path| Weights::from_file(path).map(drop),
        |path| OnnxModel::from_file(path, &OnnxOptions::default()).map(drop),
        |path| KerasFile::open(path).map(drop),
        |path| UzVocabulary::from_file(path).map(drop),
        |path| files::open(path).map(drop),
        |path| files::read_to_string(path).map(drop),
    ];
    for reader in readers {
        for (path, found) in
            [(path.clone(), "a FIFO"), ("/dev/zero".into(), "a character device"), ("/tmp".into(), "a folder")]
        {
            let error = at_once(move || reader(path)).expect_err("no file").to_string();
            assert!(error.contains("expected a regular file, found ") && error.contains(found), "{error}");
        }
    }
}

#[test]
fn no_command_waits_for_a_fifo() {
    let folder = TempDir::new().expect("a folder");
    fifo(&folder.path().join("pipe"));
    for arguments in [
        "vad --weights pipe",
        "run pipe --check",
        "generate --weights pipe",
        "sentiment fine --weights pipe",
        "bench --suite pipe --device cpu --no-roofline",
        "bench --serve --shapes pipe --device cpu",
    ] {
        let said = refused(folder.path(), arguments);
        assert!(said.contains("pipe: expected a regular file, found a FIFO"), "{arguments}: {said}");
    }
}

#[test]
fn caches_that_are_no_files_are_left_alone() {
    let folder = TempDir::new().expect("a folder");
    let open = |folder: &Path| {
        let caches = Some(folder.to_owned());
        let options =
            GpuOptions { software: true, pipeline_cache: caches.clone(), tuning: caches, ..Default::default() };
        at_once(move || GpuDevice::new(&options).map(drop)).expect("install mesa-vulkan-drivers and libvulkan1");
    };
    open(folder.path());
    let names: Vec<PathBuf> =
        fs::read_dir(folder.path()).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    assert!(!names.is_empty(), "the cache has a file");
    for path in &names {
        fs::remove_file(path).expect("removed");
        fifo(path);
    }
    open(folder.path());
}

#[test]
fn measured_plans_have_a_place_before_they_are_measured() {
    let folder = TempDir::new().expect("a folder");
    // A folder that is there and takes no file, not even of the superuser.
    std::os::unix::fs::symlink("/proc/self", folder.path().join("gatewise")).expect("a link");
    let mut command = crate::command(folder.path(), "bench --device gpu --autotune --suite smoke --no-roofline");
    command.env("XDG_CACHE_HOME", folder.path());
    let said = crate::one_line(&crate::finish(&mut command), "bench");
    assert!(said.contains("gatewise/tuning: "), "{said}");
}

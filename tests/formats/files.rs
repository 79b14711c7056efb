//! Files are replaced as a whole or stay as they are, and a folder has one holder.

use std::fs;
use std::io::Error;
use std::path::Path;

use gatewise::files::{self, Lock};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn put(path: &Path, contents: &str) -> gatewise::Result<()> {
    files::replace(path, |out| out.write_all(contents.as_bytes()))
}

#[test]
fn a_file_is_replaced_as_a_whole_and_nothing_stays_beside_it() {
    let folder = folder();
    let path = folder.path().join("file");
    for contents in ["first", "", "a third, longer one"] {
        put(&path, contents).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("text"), contents);
        assert_eq!(names(folder.path()), ["file"]);
    }
}

#[test]
fn a_write_that_fails_leaves_the_file_that_was_there() {
    let folder = folder();
    let path = folder.path().join("file");
    put(&path, "whole").expect("written");
    let error = files::replace(&path, |out| {
        out.write_all(&[b'x'; 100_000])?;
        Err(Error::other("the disk is full"))
    });
    let message = error.expect_err("refused").to_string();
    assert_eq!(message, format!("{}: the disk is full", path.display()));
    assert_eq!(
        (fs::read_to_string(&path).expect("text").as_str(), names(folder.path())),
        ("whole", vec!["file".into()])
    );
}

#[test]
fn what_a_killed_writer_left_is_taken_over_or_swept() {
    let folder = folder();
    let left = folder.path().join(".file.partial");
    fs::write(&left, "half of what was to be written").expect("written");
    if cfg!(unix) {
        put(&folder.path().join("file"), "short").expect("written");
        assert_eq!(fs::read_to_string(folder.path().join("file")).expect("text"), "short");
        assert!(!left.exists());
    }
    for name in [".file.partial", ".other.partial", "mine.partial", ".hidden"] {
        fs::write(folder.path().join(name), "half").expect("written");
    }
    let lock = Lock::take(folder.path()).expect("a folder").expect("nobody holds it");
    let kept: Vec<_> = names(folder.path()).into_iter().filter(|name| !["file", ".lock"].contains(&&**name)).collect();
    assert_eq!(kept, [".hidden", "mine.partial"], "files of other names are the user's");
    drop(lock);
}

#[test]
fn names_that_are_no_files_are_refused_before_anything_is_opened() {
    let folder = folder();
    let is = |path: &Path, reason: &str| {
        for result in [put(path, "x"), files::check(path)] {
            let message = result.expect_err("refused").to_string();
            assert!(message.contains(reason) && message.lines().count() == 1, "{reason}: {message}");
        }
    };
    is(folder.path(), "is a folder");
    is(&folder.path().join("none/file"), "No such file");
    is(Path::new(""), "is no file's name");
    is(&folder.path().join("file.svg/"), "is no file's name");
    #[cfg(target_os = "linux")]
    {
        is(Path::new("/dev/full"), "is a pipe or a device");
        is(Path::new("/dev/null"), "is a pipe or a device");
        is(Path::new("/proc/file"), "");
    }
    assert_eq!(names(folder.path()), Vec::<String>::new());
    files::check(folder.path().join("file")).expect("it can be written");
    assert_eq!(names(folder.path()), Vec::<String>::new());
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_and_permissions_are_those_of_a_new_file() {
    use std::os::unix::fs::MetadataExt;
    let folder = folder();
    let [link, path, plain] = ["link", "file", "plain"].map(|name| folder.path().join(name));
    put(&path, "first").expect("written");
    std::os::unix::fs::symlink(&path, &link).expect("a link");
    put(&link, "second").expect("written");
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
    assert_eq!(fs::read_to_string(&path).expect("text"), "second");
    fs::File::create(&plain).expect("a file");
    let mode = |path| fs::metadata(path).expect("a file").mode();
    assert_eq!(mode(&path), mode(&plain));
}

#[test]
fn writers_at_the_same_time_leave_one_whole_file() {
    let folder = folder();
    let path = folder.path().join("file");
    let contents: Vec<String> = (0..6).map(|writer| writer.to_string().repeat(30_000 + 1000 * writer)).collect();
    std::thread::scope(|scope| {
        for contents in &contents {
            let path = &path;
            scope.spawn(move || (0..10).for_each(|_| put(path, contents).expect("written")));
        }
    });
    let found = fs::read_to_string(&path).expect("text");
    assert!(contents.contains(&found), "{} bytes", found.len());
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn a_folder_has_one_holder_and_a_killed_one_blocks_nobody() {
    let folder = folder();
    let run = folder.path().join("a/b");
    let lock = Lock::take(&run).expect("a folder").expect("nobody holds it");
    assert!(!lock.interrupted());
    assert!(Lock::take(&run).expect("a folder").is_none());
    drop(lock);
    assert_eq!(names(folder.path()), Vec::<String>::new(), "folders that were made for nothing are gone");

    // A killed process leaves its file, and no lock.
    fs::create_dir_all(&run).expect("a folder");
    fs::File::create(run.join(".lock")).expect("a file");
    let lock = Lock::take(&run).expect("a folder").expect("nobody holds it");
    assert!(lock.interrupted());
    drop(lock);
    assert!(run.exists(), "a folder that was there stays");
    let wrong = Lock::take(folder.path().join("a/b/.lock/c"));
    assert!(wrong.is_ok() || cfg!(windows));
    fs::write(folder.path().join("file"), "").expect("written");
    Lock::take(folder.path().join("file")).expect_err("a file is no folder");
}

/// Many threads take and release the lock: never two at a time, and one of them always gets it.
#[test]
fn holders_follow_each_other() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let folder = folder();
    let run = folder.path().join("run");
    let (holders, turns) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while turns.load(Ordering::SeqCst) < 200 {
                    let Some(lock) = Lock::take(&run).expect("a folder") else { continue };
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                    turns.fetch_add(1, Ordering::SeqCst);
                    holders.fetch_sub(1, Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
}

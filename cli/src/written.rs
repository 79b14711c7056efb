//! Files that a command writes: checked before its work begins, and replaced as a whole.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use gatewise::text::shown;
use gatewise::{Error, Result, files};

use crate::output;

/// A file from the command line, after the option or argument that names it.
pub(crate) type Named<'a> = (&'static str, &'a Path);

/// The files of the options that were given.
pub(crate) fn given<'a>(files: &[(&'static str, &'a Option<PathBuf>)]) -> Vec<Named<'a>> {
    files.iter().filter_map(|(name, path)| Some((*name, path.as_deref()?))).collect()
}

/// Refuses outputs that cannot be written, that are an input, or that are the same file as another output.
pub(crate) fn check(op: &'static str, outputs: &[Named<'_>], inputs: &[Named<'_>]) -> Result<()> {
    let refuse = |what, expected, found| Err(Error::Value { op, what, expected, found });
    let identified =
        |files: &[Named<'_>]| -> Vec<Option<Identity>> { files.iter().map(|file| Identity::of(file.1)).collect() };
    let (written, read) = (identified(outputs), identified(inputs));
    for (at, &(what, path)) in outputs.iter().enumerate() {
        let Some(own) = &written[at] else { continue };
        let same =
            |others: &[Option<Identity>]| others.iter().position(|other| other.as_ref().is_some_and(|o| own.is(o)));
        let clash = |other: Named<'_>| format!("{}, the same file as {} {}", show(path), other.0, show(other.1));
        if let Some(input) = same(&read) {
            return refuse(what, "a file that is not an input", clash(inputs[input]));
        }
        if let Some(output) = same(&written[..at]) {
            return refuse(what, "a file of its own", clash(outputs[output]));
        }
    }
    for &(what, path) in outputs {
        if !is_stream(path)
            && let Err(error) = files::check(path)
        {
            return refuse(what, "a file that can be written", error.to_string());
        }
    }
    Ok(())
}

fn show(path: &Path) -> String {
    shown(&path.display().to_string()).to_string()
}

/// Writes a file that passed [`check`]. If the write fails, the old file remains.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if is_stdout(path) {
        let mut out = io::stdout().lock();
        return out.write_all(bytes).and_then(|()| out.flush()).map_err(output::failed);
    }
    if is_stream(path) {
        return fs::write(path, bytes).map_err(|error| Error::io(path, error));
    }
    files::replace(path, |out| out.write_all(bytes))
}

/// Whether a path leads to the program's standard output, such as `/dev/stdout` or the file it was redirected to.
#[cfg(unix)]
fn is_stdout(path: &Path) -> bool {
    use std::os::fd::AsFd;
    let Some(own) = io::stdout().as_fd().try_clone_to_owned().ok().and_then(|fd| fs::File::from(fd).metadata().ok())
    else {
        return false;
    };
    fs::metadata(path).is_ok_and(|found| number(&found) == number(&own) && !is_device(&found))
}

#[cfg(not(unix))]
fn is_stdout(_path: &Path) -> bool {
    false
}

/// Whether a path is a stream: a terminal, a device, or the program's standard output.
pub(crate) fn is_stream(path: &Path) -> bool {
    is_stdout(path) || fs::metadata(path).is_ok_and(|found| is_device(&found))
}

/// Whether a file is a character device, such as a terminal or `/dev/null`. Several outputs may share one.
fn is_device(found: &Metadata) -> bool {
    files::kind(found) == "a character device"
}

/// The identity of a file: equal for two paths exactly if they lead to the same file.
struct Identity {
    /// The device and inode numbers of a file that exists.
    number: Option<(u64, u64)>,
    place: PathBuf,
}

#[cfg(unix)]
fn number(found: &Metadata) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    Some((found.dev(), found.ino()))
}

#[cfg(not(unix))]
fn number(_found: &Metadata) -> Option<(u64, u64)> {
    None
}

impl Identity {
    /// The identity of the file at a path; `None` for a device, and if neither the file nor its folder exists.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok();
        if found.as_ref().is_some_and(is_device) {
            return None;
        }
        let place = path.canonicalize().ok().or_else(|| {
            let folder = path.parent().filter(|folder| *folder != OsStr::new("")).unwrap_or(Path::new("."));
            Some(folder.canonicalize().ok()?.join(path.file_name()?))
        })?;
        Some(Self { number: found.as_ref().and_then(number), place })
    }

    fn is(&self, other: &Self) -> bool {
        self.place == other.place || (self.number.is_some() && self.number == other.number)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{check, write};

    #[test]
    fn one_file_by_two_paths_is_recognised() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("in"), "recording").expect("a file");
        fs::hard_link(path("in"), path("hard")).expect("a link");
        fs::create_dir(path("inner")).expect("a folder");
        let around = path("inner").join("..").join("in");
        let refused = |outputs: &[(&'static str, &Path)]| {
            check("vad", outputs, &[("the recording", &path("in"))]).expect_err("the same file").to_string()
        };
        for other in [&path("in"), &around, &path("hard")] {
            let said = refused(&[("--probs", other)]);
            assert!(
                said.contains("--probs must be a file that is not an input") && said.contains("the recording "),
                "{said}"
            );
        }
        let said = refused(&[("--probs", &path("new")), ("--plot", &path("inner").join("..").join("new"))]);
        assert!(
            said.contains("--plot must be a file of its own") && said.contains("the same file as --probs "),
            "{said}"
        );
        check("vad", &[("--probs", &path("new"))], &[("the recording", &path("in"))]).expect("another file");
        assert!(!path("new").exists(), "a check leaves nothing behind");
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for (bad, why) in
            [(path(""), "a folder"), (path("absent/x.csv"), "x.csv"), (path("x.csv/"), "name"), ("".into(), "name")]
        {
            let refused = check("vad", &[("--probs", &bad)], &[]).expect_err("no file").to_string();
            assert!(
                refused.contains("--probs must be a file that can be written") && refused.contains(why),
                "{refused}"
            );
        }
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_device_takes_several_outputs() {
        let null = Path::new("/dev/null");
        check("vad", &[("--probs", null), ("--plot", null)], &[]).expect("a device");
        write(null, b"gone").expect("written");
        assert_eq!(fs::metadata(null).map(|found| found.is_file()).ok(), Some(false), "it is a device still");
    }
}

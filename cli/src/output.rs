//! Printing of all commands: on standard output, where a failure ends the command, and on standard error, where it changes nothing.
//!
//! The program's lints forbid `println!` and its like, which panic where a reader has gone or a disk is full.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use gatewise::{Error, Result};

/// How errors name the file that has no path.
pub(crate) const STDOUT: &str = "standard output";

/// The exit status that a shell reports for a program ended by SIGPIPE: 128 + 13. Not 0: a command that its reader left has not done all
/// that it was asked for.
const READER_GONE: u8 = 141;

/// Writes a line to standard output, as `println!` does, and returns a [`Result`].
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}

/// Writes a line to standard error, as `eprintln!` does; one that cannot be written is lost.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::error_line(format_args!($($text)*)) };
}

pub(crate) use {note, say};

pub(crate) fn line(text: fmt::Arguments<'_>) -> Result<()> {
    writeln!(io::stdout().lock(), "{text}").map_err(failed)
}

pub(crate) fn error_line(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "gatewise: {text}");
}

/// A failure of standard output.
pub(crate) fn failed(error: io::Error) -> Error {
    Error::io(STDOUT, error)
}

/// Shows what clap has to say: help and version, or what is wrong with the arguments.
pub(crate) fn usage(said: &clap::Error) -> Result<ExitCode> {
    let shown = said.print().and_then(|()| io::stdout().flush());
    if said.use_stderr() {
        return Ok(ExitCode::from(2));
    }
    shown.map(|()| ExitCode::SUCCESS).map_err(failed)
}

/// The end of a command that failed: one line, or none where nobody reads on.
pub(crate) fn end(error: &Error) -> ExitCode {
    match error {
        Error::Io { path, source } if path.as_os_str() == STDOUT && source.kind() == ErrorKind::BrokenPipe => {
            ExitCode::from(READER_GONE)
        }
        error => {
            note!("{error}");
            ExitCode::from(2)
        }
    }
}

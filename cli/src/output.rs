//! Printing. A failed write to standard output ends the command; a failed write to standard error changes nothing.
//!
//! The program's lints forbid `println!` and its relatives, which panic if the reader is gone or the disk is full.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use console::Style;
use gatewise::text::shown;
use gatewise::{Error, Result};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// The name of standard output in errors.
pub(crate) const STDOUT: &str = "standard output";

/// The exit status that a shell reports for a program ended by SIGPIPE: 128 + 13. It is not 0, because the command has not done
/// all that it was asked for.
const READER_GONE: u8 = 141;

/// Writes a line to standard output, as `println!` does, and returns a [`Result`].
macro_rules! say {
    ($($text:tt)*) => { $crate::output::line(format_args!($($text)*)) };
}

/// Writes a line to standard error, as `eprintln!` does; a line that cannot be written is lost.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::error_line(format_args!($($text)*)) };
}

pub(crate) use {note, say};

pub(crate) fn line(text: fmt::Arguments<'_>) -> Result<()> {
    writeln!(io::stdout().lock(), "{text}").map_err(failed)
}

pub(crate) fn error_line(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{} {text}", Stream::Err.paint("gatewise:", &bad()));
}

/// One of the two streams that a command prints on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Stream {
    /// Paints text if this stream shows colours. A terminal with colours does; if `CLICOLOR_FORCE` is set, any stream does; if
    /// `NO_COLOR` is set (<https://no-color.org>), none does.
    pub(crate) fn paint(self, text: &str, style: &Style) -> String {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let shows = match self {
            Self::Out => console::colors_enabled(),
            Self::Err => console::colors_enabled_stderr(),
        };
        style.clone().force_styling(shows && !forbidden).apply_to(text).to_string()
    }
}

/// The style of good and best results.
pub(crate) fn good() -> Style {
    Style::new().green().bold()
}

/// The style of failures.
pub(crate) fn bad() -> Style {
    Style::new().red().bold()
}

/// The style of explanations.
pub(crate) fn faint() -> Style {
    Style::new().dim()
}

/// A progress bar on standard error if that is a terminal; hidden if the command prints JSON. It vanishes when it is dropped, so an error
/// stands on a line of its own.
pub(crate) fn bar(json: bool, length: u64, template: &str) -> ProgressBar {
    let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(length) };
    let bar = bar.with_finish(ProgressFinish::AndClear);
    // A broken template would leave the default style.
    ProgressStyle::with_template(template).map_or(bar.clone(), |style| bar.with_style(style))
}

/// The error of a failed write to standard output.
pub(crate) fn failed(error: io::Error) -> Error {
    Error::io(STDOUT, error)
}

/// Prints clap's message: help, the version, or a fault of the arguments.
pub(crate) fn usage(said: &clap::Error) -> Result<ExitCode> {
    let shown = said.print().and_then(|()| io::stdout().flush());
    if said.use_stderr() {
        return Ok(ExitCode::from(2));
    }
    shown.map(|()| ExitCode::SUCCESS).map_err(failed)
}

/// Ends a command whose model is missing, and names the command that makes one.
pub(crate) fn no_model(op: &str, path: &Path, maker: &str) -> ExitCode {
    let path = path.display().to_string();
    note!("{op}: no model at {}: run `{maker}` first, or name a file with --weights", shown(&path));
    ExitCode::from(2)
}

/// Ends a command that failed: one line on standard error, or none if the reader of standard output is gone.
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

//! Texts that come from files and drivers, made fit for one line of a terminal: they are escaped, and cut if they are long.
//!
//! Every [`Error`](crate::Error) shows such texts in this form. A program that prints names from a model's file should
//! use [`shown`] as well.

use std::fmt::{self, Write};

/// Characters of a name that are shown.
const NAME: usize = 160;
/// Characters of a sentence that are shown.
const SENTENCE: usize = 500;
/// Characters of a list that is the whole message.
const LIST: usize = 1400;

/// A text that displays on one line, see [`shown`].
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    text: &'a str,
    most: usize,
}

/// Shows a name. Control characters and characters that change the direction of writing are escaped. Of more than 160 characters
/// only the beginning and the end are shown, with the number of the others.
///
/// # Examples
/// ```
/// use gatewise::text::shown;
/// assert_eq!(shown("h_n").to_string(), "h_n");
/// assert_eq!(shown("\u{1b}[2J\n").to_string(), r"\u{1b}[2J\n");
/// let long = shown(&"a".repeat(5000)).to_string();
/// assert!(long.len() < 200 && long.contains("a... 4841 more ...a"));
/// ```
pub fn shown(text: &str) -> Shown<'_> {
    Shown { text, most: NAME }
}

/// Shows a sentence as [`shown`] does a name, but up to 500 characters of it.
pub(crate) fn sentence(text: &str) -> Shown<'_> {
    Shown { text, most: SENTENCE }
}

/// Shows a driver's message on one line, with single spaces, and cuts it like a sentence.
pub(crate) fn message(text: &str) -> String {
    sentence(&text.split_whitespace().collect::<Vec<_>>().join(" ")).to_string()
}

/// A list as a part of a sentence: as many names as fit, each as [`shown`] shows it, and the number of the others.
///
/// # Examples
/// ```
/// use gatewise::text::listed;
/// assert_eq!(listed(&["x", "h0"], ", "), "x, h0");
/// let many: Vec<String> = (0..2000).map(|at| format!("x{at}")).collect();
/// let text = listed(&many, ", ");
/// assert!(text.len() < 500 && text.starts_with("x0, x1, ") && text.ends_with(" more"));
/// ```
pub fn listed<S: AsRef<str>>(names: &[S], separator: &str) -> String {
    // Leaves room for the rest of the sentence.
    joined(names, separator, SENTENCE - 120)
}

/// A list that is the whole message.
pub(crate) fn long_list<S: AsRef<str>>(names: &[S], separator: &str) -> String {
    joined(names, separator, LIST)
}

fn joined<S: AsRef<str>>(names: &[S], separator: &str, most: usize) -> String {
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        let name = shown(name.as_ref()).to_string();
        if at > 0 && text.len() + separator.len() + name.len() > most {
            let _ = write!(text, "{separator}and {} more", names.len() - at);
            break;
        }
        if at > 0 {
            text += separator;
        }
        text += &name;
    }
    text
}

/// Whether a character moves the cursor, is invisible, or changes the direction of the text around it.
fn is_hidden(c: char) -> bool {
    let invisible =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    c.is_control() || invisible
}

/// The characters that show a character: itself, or its escape sequence.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let (plain, escape) = if is_hidden(c) { (None, Some(c.escape_default())) } else { (Some(c), None) };
    plain.into_iter().chain(escape.into_iter().flatten())
}

/// How many of the characters fit into `room`, escaped.
fn fitting(characters: impl Iterator<Item = char>, room: usize) -> usize {
    let mut used = 0;
    let fits = |c: &char| {
        used += escaped(*c).count();
        used <= room
    };
    characters.take_while(fits).count()
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, most } = *self;
        let mut write = |part: &str| part.chars().flat_map(escaped).try_for_each(|c| f.write_char(c));
        let count = text.chars().count();
        if fitting(text.chars(), most) == count {
            return write(text);
        }
        // The end is as useful as the beginning: it may be a file name or an index.
        let head = fitting(text.chars(), most * 2 / 3);
        let tail = fitting(text.chars().rev(), most / 3);
        let place = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(place, _)| place);
        write(&text[..place(head)])?;
        write(&format!("... {} more ...", count - head - tail))?;
        write(&text[place(count - tail)..])
    }
}

#[cfg(test)]
mod tests {
    use super::{listed, long_list, message, sentence, shown};

    #[test]
    fn nothing_hidden_reaches_the_terminal() {
        let all: String = (0..=0x20_ff).filter_map(char::from_u32).collect();
        for part in all.chars().collect::<Vec<_>>().chunks(20) {
            let text = shown(&part.iter().collect::<String>()).to_string();
            assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}' && c != '\u{200b}'), "{text:?}");
        }
        assert_eq!(shown("ä\u{202e}\0\u{9b}ü\\").to_string(), r"ä\u{202e}\u{0}\u{9b}ü\");
    }

    #[test]
    fn the_length_is_bounded_whatever_the_characters() {
        for text in ["a", "ä", "\u{1b}", "a\n"].map(|text| text.repeat(20_000)) {
            for (shown, most) in [(shown(&text).to_string(), 180), (sentence(&text).to_string(), 520)] {
                assert!(shown.chars().count() <= most, "{shown}");
            }
        }
        let exact = "x".repeat(160);
        assert_eq!(shown(&exact).to_string(), exact);
        assert_eq!(
            shown(&format!("{exact}yz")).to_string(),
            format!("{}... 3 more ...{}yz", "x".repeat(106), "x".repeat(51))
        );
    }

    #[test]
    fn lists_say_how_many_they_leave_out() {
        assert_eq!(listed::<&str>(&[], ", "), "");
        let names: Vec<String> = (0..300).map(|at| format!("name{at:03}")).collect();
        let text = listed(&names, "; ");
        let shown = text.matches("name").count();
        assert!(text.ends_with(&format!("; and {} more", 300 - shown)) && text.len() < 500, "{text}");
        assert!(long_list(&names, ", ").len() > 1300);
        // The first name is always shown.
        assert!(listed(&["b".repeat(900)], ", ").contains("more ..."));
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(
            message("Validation Error\n\nCaused by:\n    In a\tpass\r\n"),
            "Validation Error Caused by: In a pass"
        );
    }
}

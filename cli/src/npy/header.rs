//! Parses the header of a `.npy` file: a Python dictionary with three keys. Only the syntax that these keys need is accepted.

use gatewise::text::shown;

/// The largest number of axes of a NumPy array.
const MOST_AXES: usize = 64;

/// The layout of a file's array according to the header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The byte order, kind and width of an element, such as `<f4`.
    pub(super) descr: String,
    /// Whether the first axis varies fastest.
    pub(super) fortran_order: bool,
    pub(super) shape: Vec<usize>,
}

/// A fault of a header: the text expected, and the text found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) expected: String,
    pub(super) found: String,
}

type Parsed<T> = Result<T, Refusal>;

impl Header {
    /// Parses the dictionary. Its keys may come in any order, each of them once.
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        let mut cursor = Cursor { rest: text };
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        cursor.require('{')?;
        while !cursor.next_is('}') {
            let at = cursor.rest;
            let key = cursor.quoted("a key in quotes")?;
            cursor.require(':')?;
            let twice = match key {
                "descr" => descr.replace(cursor.quoted("an element type in quotes for 'descr'")?.to_owned()).is_some(),
                "fortran_order" => fortran_order.replace(cursor.boolean()?).is_some(),
                "shape" => shape.replace(cursor.tuple()?).is_some(),
                _ => return Err(refusal("the keys 'descr', 'fortran_order' and 'shape' alone", at)),
            };
            if twice {
                return Err(refusal(&format!("the key '{key}' once"), &format!("'{key}' twice")));
            }
            if !cursor.next_is(',') {
                break;
            }
            cursor.require(',')?;
        }
        cursor.require('}')?;
        cursor.end()?;
        let missing = |key: &str| refusal(&format!("the key '{key}'"), text);
        Ok(Self {
            descr: descr.ok_or_else(|| missing("descr"))?,
            fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
            shape: shape.ok_or_else(|| missing("shape"))?,
        })
    }
}

fn refusal(expected: &str, found: &str) -> Refusal {
    let found = found.trim();
    let found = if found.is_empty() { "the end of the header".to_owned() } else { shown(found).to_string() };
    Refusal { expected: expected.to_owned(), found }
}

/// The text that is not parsed yet.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn next_is(&mut self, c: char) -> bool {
        self.skip_blanks();
        self.rest.starts_with(c)
    }

    fn require(&mut self, c: char) -> Parsed<()> {
        self.skip_blanks();
        self.rest = self.rest.strip_prefix(c).ok_or_else(|| refusal(&format!("'{c}'"), self.rest))?;
        Ok(())
    }

    fn end(&mut self) -> Parsed<()> {
        self.skip_blanks();
        if self.rest.is_empty() { Ok(()) } else { Err(refusal("the end of the header after '}'", self.rest)) }
    }

    /// Parses text in single or double quotes, without escapes.
    fn quoted(&mut self, what: &str) -> Parsed<&'a str> {
        self.skip_blanks();
        let wrong = || refusal(what, self.rest);
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or_else(wrong)?;
        let (text, rest) = self.rest[1..].split_once(quote).ok_or_else(wrong)?;
        if text.contains('\\') {
            return Err(wrong());
        }
        self.rest = rest;
        Ok(text)
    }

    fn boolean(&mut self) -> Parsed<bool> {
        self.skip_blanks();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(refusal("True or False for 'fortran_order'", self.rest))
    }

    /// Parses the extents of an array: `()`, `(3,)`, `(3, 4)`.
    fn tuple(&mut self) -> Parsed<Vec<usize>> {
        let mut extents = Vec::new();
        self.require('(')?;
        while !self.next_is(')') {
            if extents.len() == MOST_AXES {
                return Err(refusal(&format!("a shape of at most {MOST_AXES} axes"), self.rest));
            }
            extents.push(self.extent()?);
            // In Python, `(3)` is a number, so a single extent needs a comma.
            if extents.len() > 1 && self.next_is(')') {
                break;
            }
            self.require(',')?;
        }
        self.require(')')?;
        Ok(extents)
    }

    fn extent(&mut self) -> Parsed<usize> {
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, rest) = self.rest.split_at(digits);
        let extent =
            number.parse().map_err(|_| refusal("an extent in decimal digits that memory can have", self.rest))?;
        self.rest = rest;
        Ok(extent)
    }
}

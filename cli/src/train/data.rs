//! The jobs' data files, and batches of sequences.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use gatewise::{Error, Result};
use ndarray::{Array2, Array3};

/// A sequence of numbers and its class.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    /// `[T, features]`
    pub(crate) x: Array2<f32>,
    pub(crate) class: usize,
}

/// A data file, read as text.
pub(crate) struct DataFile {
    path: PathBuf,
    pub(crate) text: String,
}

impl DataFile {
    /// Reads a file; if it is missing, the error names the script that fetches it. Refuses pipes and devices, because a resumed run
    /// reads its data again.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let refuse = |expected, found: &str| {
            let found = format!("{}, which {found}", path.display());
            Err(Error::Value { op: "train", what: "the data", expected, found })
        };
        match fs::metadata(path) {
            Ok(entry) if entry.is_file() => {
                let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
                Ok(Self { path: path.to_owned(), text })
            }
            Ok(_) => refuse("a file", "is not a file"),
            Err(_) => refuse("a file: run scripts/fetch-data to get the jobs' data", "does not exist"),
        }
    }

    /// A checksum that distinguishes this text from other texts of the same file name.
    pub(crate) fn checksum(&self) -> String {
        format!("crc32 {:08x} of {} bytes", crc32fast::hash(self.text.as_bytes()), self.text.len())
    }
}

fn refuse(path: &Path, line: usize, expected: &str, found: impl Into<String>) -> Error {
    Error::Format {
        file: path.display().to_string(),
        field: format!("line {line}"),
        expected: expected.to_owned(),
        found: found.into(),
    }
}

/// Reads time series in the `.ts` format of the UEA archive: colons separate dimensions, commas separate steps, and the class comes
/// last. Returns the series and the names of the classes.
pub(crate) fn series(source: &DataFile) -> Result<(Vec<Series>, Vec<String>)> {
    let DataFile { path, text } = source;
    let (mut classes, mut dimensions, mut all) = (Vec::new(), None, Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('@') {
            let mut words = header.split_whitespace();
            match words.next() {
                Some("classLabel") => classes = words.skip(1).map(str::to_owned).collect(),
                Some("dimensions") => dimensions = words.next().and_then(|word| word.parse::<usize>().ok()),
                _ => {}
            }
            continue;
        }
        let (values, name) = line.rsplit_once(':').ok_or_else(|| refuse(path, number, "values and a class", line))?;
        let class = classes.iter().position(|class| class == name.trim());
        let class = class.ok_or_else(|| refuse(path, number, &format!("a class among {}", classes.join(" ")), name))?;
        let mut rows = Vec::new();
        for dimension in values.split(':') {
            let numbers: std::result::Result<Vec<f32>, _> = dimension.split(',').map(|v| v.trim().parse()).collect();
            rows.push(numbers.map_err(|_| refuse(path, number, "numbers", dimension))?);
        }
        let (width, length) = (rows.len(), rows.first().map_or(0, Vec::len));
        if dimensions.is_some_and(|d| d != width) {
            let expected = format!("{} dimensions", dimensions.unwrap_or_default());
            return Err(refuse(path, number, &expected, width.to_string()));
        }
        if let Some(other) = rows.iter().find(|row| row.len() != length) {
            return Err(refuse(path, number, &format!("{length} steps in every dimension"), other.len().to_string()));
        }
        if let Some(bad) = rows.iter().flatten().find(|v| !v.is_finite()) {
            return Err(refuse(path, number, "finite numbers", bad.to_string()));
        }
        all.push(Series { x: Array2::from_shape_fn((length, width), |(t, i)| rows[i][t]), class });
    }
    if all.is_empty() {
        return Err(refuse(path, 1, "at least one series", "none"));
    }
    Ok((all, classes))
}

/// A batch of series, padded with zeros: `[T, B, features]`, and their lengths.
pub(crate) fn padded(series: &[&Series]) -> (Array3<f32>, Vec<usize>) {
    let lengths: Vec<usize> = series.iter().map(|s| s.x.nrows()).collect();
    let time = lengths.iter().copied().max().unwrap_or_default();
    let features = series.first().map_or(0, |s| s.x.ncols());
    let at = |(t, b, i): (usize, usize, usize)| series[b].x.get((t, i)).copied().unwrap_or_default();
    (Array3::from_shape_fn((time, series.len(), features), at), lengths)
}

/// Reads rated snippets: one per line, with number, mean rating and text, separated by tabs. A rating above 0 means praise.
pub(crate) fn snippets(source: &DataFile) -> Result<Vec<(bool, String)>> {
    let DataFile { path, text } = source;
    let snippet = |(number, line): (usize, &str)| {
        let mut fields = line.splitn(3, '\t').skip(1);
        let (rating, text) = (fields.next().unwrap_or_default(), fields.next());
        let text = text.ok_or_else(|| refuse(path, number, "number, rating and text, separated by tabs", line))?;
        let rating: f32 = rating.parse().map_err(|_| refuse(path, number, "a rating", rating))?;
        Ok((rating > 0.0, text.trim().to_owned()))
    };
    let all: Vec<_> =
        (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).map(snippet).collect::<Result<_>>()?;
    if all.is_empty() {
        return Err(refuse(path, 1, "at least one snippet", "none"));
    }
    Ok(all)
}

/// The words of a text in lower case; punctuation marks are words of their own.
pub(crate) fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() || c == '\'' {
            word.extend(c.to_lowercase());
            continue;
        }
        words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
        if ['!', '?', '.', ',', ';', ':'].contains(&c) {
            words.push(c.to_string());
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words.iter().map(|word| word.trim_matches('\'').to_owned()).filter(|word| !word.is_empty()).collect()
}

/// Words and their numbers, from 1 on; 0 stands for every other word.
#[derive(Clone, Debug)]
pub(crate) struct Vocabulary {
    pub(crate) words: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Vocabulary {
    pub(crate) fn new(words: Vec<String>) -> Self {
        let numbers = words.iter().cloned().zip(1..).collect();
        Self { words, numbers }
    }

    /// The words that occur at least `least` times, the most frequent first.
    pub(crate) fn of<'a>(texts: impl Iterator<Item = &'a [String]>, least: usize) -> Self {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        texts.flatten().for_each(|word| *counts.entry(word).or_default() += 1);
        let mut words: Vec<_> = counts.into_iter().filter(|(_, count)| *count >= least).collect();
        words.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        Self::new(words.into_iter().map(|(word, _)| word.to_owned()).collect())
    }

    /// The number of symbols, number 0 included.
    pub(crate) fn len(&self) -> usize {
        self.words.len() + 1
    }

    pub(crate) fn numbers(&self, words: &[String]) -> Vec<usize> {
        words.iter().map(|word| self.numbers.get(word).copied().unwrap_or_default()).collect()
    }
}

/// A generator that depends only on the seed, the purpose and the position in the run.
pub(crate) fn rng(seed: u64, purpose: u64, at: u64) -> fastrand::Rng {
    let mut rng = fastrand::Rng::with_seed(seed ^ purpose.rotate_left(32) ^ at.rotate_left(16));
    // Generators with neighbouring seeds start with similar numbers, so the first four numbers are dropped.
    (0..4).for_each(|_| {
        rng.u64(..);
    });
    rng
}

/// The numbers below `count`, in another order for every epoch.
pub(crate) fn shuffled(count: usize, seed: u64, epoch: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    rng(seed, 1, epoch).shuffle(&mut order);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> DataFile {
        DataFile { path: "data".into(), text: text.to_owned() }
    }

    #[test]
    fn series_are_read_by_dimension_and_step() {
        let source = file("#note\n@dimensions 2\n@classLabel true a b\n@data\n1,2,3:4,5,6:b\n7:8:a\n");
        let (series, classes) = series(&source).expect("series");
        assert_eq!(classes, ["a", "b"]);
        assert_eq!(series[0].x, ndarray::array![[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]);
        assert_eq!((series[0].class, series[1].class), (1, 0));
        let (x, lengths) = padded(&[&series[0], &series[1]]);
        assert_eq!((x.dim(), lengths), ((3, 2, 2), vec![3, 1]));
        assert_eq!((x[[0, 1, 1]], x[[1, 1, 1]], x[[2, 0, 1]]), (8.0, 0.0, 6.0));
    }

    #[test]
    fn what_is_wrong_with_a_series_is_named_with_its_line() {
        let header = "@dimensions 2\n@classLabel true a b\n@data\n";
        for (line, expected) in [
            ("1:2:c", "a class among a b, found c"),
            ("1,x:2:a", "expected numbers"),
            ("1,2:3:a", "2 steps in every dimension, found 1"),
            ("1:a", "2 dimensions, found 1"),
            ("1:nan:a", "finite numbers"),
        ] {
            let refused = series(&file(&format!("{header}{line}\n"))).expect_err("wrong data").to_string();
            assert!(refused.contains("line 4") && refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn data_that_are_no_file_are_refused() {
        let refused = |path: &str| DataFile::read(Path::new(path)).err().expect("refused").to_string();
        assert!(refused("no/such/file").contains("scripts/fetch-data"));
        assert!(refused("src").contains("must be a file, got src, which is not a file"));
    }

    #[test]
    fn texts_that_differ_have_other_checksums() {
        assert_eq!(file("123456789").checksum(), "crc32 cbf43926 of 9 bytes");
        assert_ne!(file("123456789").checksum(), file("123456788").checksum());
    }

    #[test]
    fn snippets_and_words() {
        let source = file("1\t2.5\tIt's GOOD, really!\n2\t-0.5\tNot 'good'\n3\t0\tso so\n");
        let snippets = snippets(&source).expect("snippets");
        assert_eq!(snippets.iter().map(|s| s.0).collect::<Vec<_>>(), [true, false, false]);
        let texts: Vec<_> = snippets.iter().map(|s| words(&s.1)).collect();
        assert_eq!(texts[0], ["it's", "good", ",", "really", "!"]);
        assert_eq!(texts[1], ["not", "good"]);
        let vocabulary = Vocabulary::of(texts.iter().map(|t| &t[..]), 2);
        assert_eq!(vocabulary.words, ["good", "so"]);
        assert_eq!(vocabulary.numbers(&texts[1]), [0, 1]);
        let source = file("1\tgood\ttext\n");
        assert!(super::snippets(&source).expect_err("no rating").to_string().contains("a rating"));
    }

    #[test]
    fn an_epoch_has_its_own_order_and_keeps_it() {
        assert_eq!(shuffled(20, 1, 3), shuffled(20, 1, 3));
        assert_ne!(shuffled(20, 1, 3), shuffled(20, 1, 4));
        assert_ne!(shuffled(20, 1, 3), shuffled(20, 2, 3));
        let mut order = shuffled(20, 1, 3);
        order.sort_unstable();
        assert_eq!(order, (0..20).collect::<Vec<_>>());
    }
}

//! Thai text to words: the LSTM segmenter of ICU4X (<https://github.com/unicode-org/icu4x>, `icu_segmenter`,
//! `complex/lstm/mod.rs`), model `Thai_codepoints_exclusive_model4_heavy`.
//!
//! ```text
//! embedding   a vector per known code point, and one for all others                   [40]
//! lstm        27 units in either direction, one bias per gate                         [54]
//! out         scores of Begin, Inside, End and Single; a word ends where End leads    [4]
//! ```

use std::collections::HashMap;
use std::ops::Range;

use gatewise::nn::{Embedding, Linear, Lstm, Merge};
use gatewise::weights::{Weights, torch_name};
use gatewise::{Device, Result, Tensor, ops};
use ndarray::{Array1, Array2, Ix3, s};

use crate::symbols::{Rows, blocks, choices};

const EMBEDDING: usize = 40;
const HIDDEN: usize = 27;
/// Begin, Inside, End, Single.
const TAGS: usize = 4;
const END: usize = 2;

/// Finds the words of Thai text, which is written without spaces between them.
///
/// # Examples
/// ```
/// use gatewise::{Device, weights::Weights};
/// use gatewise_demos::ThaiSegmenter;
/// let weights = Weights::from_file("../models/icu4x_thai.safetensors")?;
/// let segmenter = ThaiSegmenter::new(&Device::auto(), &weights)?;
/// assert_eq!(segmenter.words("ภาษาไทย ภาษาไทย")?, ["ภาษา", "ไทย", "ภาษา", "ไทย"]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ThaiSegmenter {
    dictionary: HashMap<char, usize>,
    embedding: Embedding,
    lstm: Lstm,
    head: Linear,
}

impl ThaiSegmenter {
    /// Loads the net's weights onto a device. The dictionary of code points is the JSON object under `dic` in the file's
    /// metadata.
    ///
    /// # Errors
    /// [`Error::Format`](gatewise::Error::Format) if the dictionary or a tensor is missing or does not fit, or if a tensor holds NaN or
    /// infinity;
    /// [`Error::Limit`](gatewise::Error::Limit) and [`Error::OutOfMemory`](gatewise::Error::OutOfMemory) if the device has no room.
    pub fn new(device: &Device, weights: &Weights) -> Result<Self> {
        weights.check_finite()?;
        let dictionary = dictionary(weights)?;
        let config = Lstm::config(EMBEDDING, HIDDEN).bidirectional(Merge::Concat);
        let parameters = config.collect(|layer, direction, spec| {
            // The net has one bias per gate, which becomes the input's bias.
            let stored = match spec.name {
                "bias_hh" => return Ok(Array1::zeros(4 * HIDDEN).into_dyn()),
                "bias_ih" => "bias",
                name => name,
            };
            weights.shaped(&format!("lstm.{}", torch_name(stored, layer, direction)), spec.shape.as_slice())
        })?;
        let table = weights.shaped("embedding", [dictionary.len() + 1, EMBEDDING])?;
        Ok(Self {
            dictionary,
            embedding: Embedding::new(device, &table)?,
            lstm: config.build(device, parameters)?,
            head: weights.linear("out.", [2 * HIDDEN, TAGS], device)?,
        })
    }

    /// The device that holds the net.
    pub fn device(&self) -> &Device {
        self.lstm.device()
    }

    /// The words of a text. The net divides all runs of Thai letters at once. White space separates words and is left out; any other run
    /// of characters is one word.
    ///
    /// # Errors
    /// [`Error::Limit`](gatewise::Error::Limit), [`Error::OutOfMemory`](gatewise::Error::OutOfMemory) or
    /// [`Error::DeviceLost`](gatewise::Error::DeviceLost).
    pub fn words<'a>(&self, text: &'a str) -> Result<Vec<&'a str>> {
        let runs = runs(text);
        let thai: Vec<&str> =
            runs.iter().filter(|(kind, _)| *kind == LetterKind::Thai).map(|(_, range)| &text[range.clone()]).collect();
        let mut ends = self.word_ends(&thai)?.into_iter();
        let mut words = Vec::new();
        for (kind, range) in runs {
            let run = &text[range];
            let mut first = 0;
            if kind == LetterKind::Thai {
                let flags = ends.next().unwrap_or_default();
                for ((at, letter), end) in run.char_indices().zip(flags) {
                    if end {
                        let next = at + letter.len_utf8();
                        words.push(&run[first..next]);
                        first = next;
                    }
                }
            }
            // The last word of a run ends with the run, even if the net disagrees.
            if first < run.len() {
                words.push(&run[first..]);
            }
        }
        Ok(words)
    }

    /// Whether a word ends with each code point of each text, according to the net. The texts should be runs of Thai letters. All texts
    /// run in one submission, unless they are very long.
    ///
    /// # Errors
    /// The same errors as [`ThaiSegmenter::words`].
    pub fn word_ends(&self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<bool>>> {
        let mut ends = Vec::with_capacity(texts.len());
        for block in blocks(&self.encoded(texts)) {
            ends.extend(self.run(block)?.ends);
        }
        Ok(ends)
    }

    /// Runs the net as [`ThaiSegmenter::word_ends`] does, and also returns its inner results, for comparisons.
    ///
    /// # Errors
    /// The same errors as [`ThaiSegmenter::words`].
    pub fn trace(&self, texts: &[impl AsRef<str>]) -> Result<Vec<ThaiTrace>> {
        let mut traces = Vec::with_capacity(texts.len());
        for block in blocks(&self.encoded(texts)) {
            let pass = self.run(block)?;
            let reads = self.device().recorder().submit_and_read_all(&[&pass.hidden, &pass.logits])?;
            let mut arrays = Vec::with_capacity(reads.len());
            for read in reads {
                arrays.push(read.wait_array::<Ix3>()?);
            }
            let [hidden, logits] = &arrays[..] else { continue };
            traces.extend(pass.ends.into_iter().enumerate().map(|(row, ends)| ThaiTrace {
                hidden: hidden.slice(s![..ends.len(), row, ..]).to_owned(),
                logits: logits.slice(s![..ends.len(), row, ..]).to_owned(),
                ends,
            }));
        }
        Ok(traces)
    }

    /// The numbers of every text's code points.
    fn encoded(&self, texts: &[impl AsRef<str>]) -> Vec<Vec<usize>> {
        let unknown = self.dictionary.len();
        let number = |letter: char| self.dictionary.get(&letter).copied().unwrap_or(unknown);
        texts.iter().map(|text| text.as_ref().chars().map(number).collect()).collect()
    }

    fn run(&self, texts: &[Vec<usize>]) -> Result<ThaiPass> {
        let rows = Rows::new(texts, 0);
        let (time, batch) = (rows.time, rows.batch());
        let mut recorder = self.device().recorder();
        let x = self.embedding.record(&mut recorder, &rows.symbols)?.reshape(&[time, batch, EMBEDDING])?;
        let mut state = self.lstm.zero_state(batch)?;
        let hidden = self.lstm.record(&mut recorder, &x, &mut state, &rows.sequence())?;
        let logits = self.head.record(&mut recorder, &hidden)?;
        let tags = ops::argmax_rows(&mut recorder, &logits.reshape(&[time * batch, TAGS])?)?;
        let tags = choices(recorder.submit_and_read(&tags)?)?;
        let row = |(row, &length): (usize, &usize)| {
            tags.iter().skip(row).step_by(batch).take(length).map(|&tag| tag == END).collect()
        };
        Ok(ThaiPass { hidden, logits, ends: rows.lengths.iter().enumerate().map(row).collect() })
    }
}

/// The results for a block of B texts of at most T code points.
struct ThaiPass {
    /// The LSTM's output, `[T, B, 2 HIDDEN]`.
    hidden: Tensor,
    /// The scores of the tags, `[T, B, TAGS]`.
    logits: Tensor,
    ends: Vec<Vec<bool>>,
}

/// The results of the net for a text of T code points.
#[derive(Clone, Debug)]
pub struct ThaiTrace {
    /// The LSTM's output, forward direction first, `[T, 54]`.
    pub hidden: Array2<f32>,
    /// Scores of Begin, Inside, End and Single, `[T, 4]`.
    pub logits: Array2<f32>,
    /// Whether a word ends with the code point, `[T]`.
    pub ends: Vec<bool>,
}

/// Reads the numbers of the code points, which must be `0..n`, each once.
fn dictionary(weights: &Weights) -> Result<HashMap<char, usize>> {
    const KEY: &str = "dic";
    let text = weights.metadata(KEY)?;
    let refuse = |found: String| {
        weights.refuse(&format!("metadata {KEY}"), "a JSON object that numbers code points from 0 on", &found)
    };
    let dictionary: HashMap<char, usize> = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    let mut numbers: Vec<usize> = dictionary.values().copied().collect();
    numbers.sort_unstable();
    if let Some((expected, found)) = (0..).zip(numbers).find(|(expected, found)| expected != found) {
        return Err(refuse(format!("{found} in the place of {expected}")));
    }
    Ok(dictionary)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LetterKind {
    Thai,
    Other,
    Space,
}

impl LetterKind {
    /// The kind of a character. Thai letters, vowels and marks have line-breaking class SA (Unicode's `LineBreak.txt`); the block's
    /// currency sign, digits and punctuation do not. U+200B, a space without width, separates words in Thai text.
    fn of(letter: char) -> Self {
        match letter {
            '\u{e01}'..='\u{e3a}' | '\u{e40}'..='\u{e4e}' => Self::Thai,
            '\u{200b}' => Self::Space,
            _ if letter.is_whitespace() => Self::Space,
            _ => Self::Other,
        }
    }
}

/// The byte ranges of a text's runs of one kind, without spaces.
fn runs(text: &str) -> Vec<(LetterKind, Range<usize>)> {
    let mut runs: Vec<(LetterKind, Range<usize>)> = Vec::new();
    for (at, letter) in text.char_indices() {
        let (kind, end) = (LetterKind::of(letter), at + letter.len_utf8());
        match runs.last_mut() {
            Some((last, range)) if *last == kind => range.end = end,
            _ => runs.push((kind, at..end)),
        }
    }
    runs.retain(|(kind, _)| *kind != LetterKind::Space);
    runs
}

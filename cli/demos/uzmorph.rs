//! Uzbek words to their morphology: the tagger of uzmorph-bigru 0.1 (<https://github.com/UlugbekSalaev/uzmorph_bigru>).
//!
//! ```text
//! char_embeddings   a vector for every letter; a word is padded to 30 letters       [64]
//! gru               two layers, 64 units in either direction                        [128]
//! hidden2tag        the largest of 746 logits is the letter's tag
//! ```
//!
//! The net also runs over the padding of a word, because it was trained that way: its backward direction begins there.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use gatewise::cell::Sequence;
use gatewise::nn::{Embedding, Gru, Linear, Merge};
use gatewise::weights::Weights;
use gatewise::{Device, Error, Result, Tensor, batch_first, files, ops};
use ndarray::{Array3, Axis};
use serde_json::Value;

use crate::symbols::{Rows, choices};

const EMBEDDING: usize = 64;
const HIDDEN: usize = 64;
/// The most words per submission.
const BLOCK: usize = 1024;

/// The net's letters and tags. The index in the file's list is the number of a letter or tag.
#[derive(Clone, Debug)]
pub struct UzVocabulary {
    characters: HashMap<char, usize>,
    count: usize,
    pad: usize,
    unknown: usize,
    tags: Vec<String>,
}

impl UzVocabulary {
    /// The file of the Python package `uzmorph-bigru` 0.1.1, which belongs to the weights in `models/`.
    pub const PACKAGED: &'static [u8] = include_bytes!("uzmorph_bigru.json");

    /// Reads a JSON object with the lists `characters` and `tags`. In `characters`, `PAD` is the padding and `UNK` any other letter.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; otherwise as [`UzVocabulary::from_bytes`].
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read(path)?;
        Self::from_bytes(&path.display().to_string(), &bytes)
    }

    /// Reads the bytes of such a file (see [`UzVocabulary::from_file`]); `file` is the name that messages give them.
    ///
    /// # Errors
    /// [`Error::Format`] if the bytes are not such an object.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self> {
        let refuse = |field: &str, expected: &str, found: String| Error::Format {
            file: file.to_owned(),
            field: field.to_owned(),
            expected: expected.to_owned(),
            found,
        };
        let mut json: HashMap<String, Value> =
            serde_json::from_slice(bytes).map_err(|error| refuse("JSON", "an object", error.to_string()))?;
        let mut list = |field: &str| -> Result<Vec<String>> {
            let value = json.remove(field).unwrap_or_default();
            serde_json::from_value(value).map_err(|error| refuse(field, "a list of strings", error.to_string()))
        };
        let (characters, tags) = (list("characters")?, list("tags")?);
        let place = |name: &str| {
            let place = characters.iter().position(|character| character == name);
            place.ok_or_else(|| refuse("characters", name, "no such entry".to_owned()))
        };
        let (pad, unknown) = (place("PAD")?, place("UNK")?);
        let mut numbers = HashMap::new();
        for (number, name) in characters.iter().enumerate().filter(|(number, _)| ![pad, unknown].contains(number)) {
            let mut letters = name.chars();
            match (letters.next(), letters.next()) {
                (Some(letter), None) if !numbers.contains_key(&letter) => numbers.insert(letter, number),
                _ => return Err(refuse("characters", "single characters, each once", format!("{name:?} at {number}"))),
            };
        }
        Ok(Self { characters: numbers, count: characters.len(), pad, unknown, tags })
    }

    /// The tags by number.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }

    fn tag(&self, number: usize) -> &str {
        self.tags.get(number).map_or("", String::as_str)
    }

    /// The numbers of a word's letters.
    fn letters(&self, word: &str) -> Vec<usize> {
        let number = |letter: char| self.characters.get(&letter).copied().unwrap_or(self.unknown);
        word.chars().take(UzMorph::LONGEST).map(number).collect()
    }
}

/// The morphology of a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Morphology {
    /// The word as it was read: trimmed, in small letters.
    pub word: String,
    /// The letters tagged as root.
    pub stem: String,
    /// `NOUN`, `VERB`, `ADJ`, `ADV`, `NUM` or `PRN`, from the suffix; `None` for a word without suffix.
    pub part_of_speech: Option<String>,
    /// The grammar of the suffix, for example `cases=Locative` or `plural=1`.
    pub features: Vec<String>,
    /// A tag for each of the first [`UzMorph::LONGEST`] letters.
    pub tags: Vec<String>,
}

/// Finds the root and the suffixes of Uzbek words (Latin script).
///
/// # Examples
/// ```
/// use gatewise::{Device, weights::Weights};
/// use gatewise_demos::{UzMorph, UzVocabulary};
/// let weights = Weights::from_file("../models/uzmorph_bigru.safetensors")?;
/// let vocabulary = UzVocabulary::from_bytes("uzmorph_bigru.json", UzVocabulary::PACKAGED)?;
/// let morph = UzMorph::new(&Device::auto(), &weights, vocabulary)?;
/// let words = morph.analyze(&["kitobim", "maktabda"])?;
/// assert_eq!((words[0].stem.as_str(), words[0].part_of_speech.as_deref()), ("kitob", Some("NOUN")));
/// assert_eq!(words[1].features, ["cases=Locative", "singular=1"]);
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct UzMorph {
    vocabulary: Arc<UzVocabulary>,
    embedding: Embedding,
    gru: Gru,
    head: Linear,
}

impl UzMorph {
    /// The most letters of a word that the net reads. Further letters are left out.
    pub const LONGEST: usize = 30;

    /// Loads the net's weights onto a device.
    ///
    /// # Errors
    /// [`Error::Format`] if a tensor is missing, does not fit this net and vocabulary, or holds NaN or infinity; [`Error::Limit`] and
    /// [`Error::OutOfMemory`] if the device has no room.
    pub fn new(device: &Device, weights: &Weights, vocabulary: UzVocabulary) -> Result<Self> {
        weights.check_finite()?;
        let table = weights.shaped("char_embeddings.weight", [vocabulary.count, EMBEDDING])?;
        let config = Gru::config(EMBEDDING, HIDDEN).layers(2).bidirectional(Merge::Concat);
        Ok(Self {
            embedding: Embedding::new(device, &table)?,
            gru: weights.recurrent("gru.", &config, device)?,
            head: weights.linear("hidden2tag.", [2 * HIDDEN, vocabulary.tags.len()], device)?,
            vocabulary: Arc::new(vocabulary),
        })
    }

    /// The device that holds the net.
    pub fn device(&self) -> &Device {
        self.gru.device()
    }

    /// The letters and tags.
    pub fn vocabulary(&self) -> &UzVocabulary {
        &self.vocabulary
    }

    /// Tags every letter of every word and reads root, part of speech and grammar from the tags, as the package's `analyze`
    /// does: the last suffix with a part of speech or grammar decides. A submission runs up to 1,024 words.
    ///
    /// # Errors
    /// [`Error::Limit`], [`Error::OutOfMemory`] or [`Error::DeviceLost`].
    pub fn analyze(&self, words: &[impl AsRef<str>]) -> Result<Vec<Morphology>> {
        let words: Vec<String> = words.iter().map(small).collect();
        let mut analyzed = Vec::with_capacity(words.len());
        for block in words.chunks(BLOCK) {
            let pass = self.run(block)?;
            analyzed.extend(block.iter().zip(pass.tags).map(|(word, tags)| self.read(word, &tags)));
        }
        Ok(analyzed)
    }

    /// Tags words as [`UzMorph::analyze`] does, and also returns the net's inner results, for comparisons.
    ///
    /// # Errors
    /// The same errors as [`UzMorph::analyze`].
    pub fn trace(&self, words: &[impl AsRef<str>]) -> Result<UzMorphTrace> {
        let words: Vec<String> = words.iter().map(small).collect();
        let passes = words.chunks(BLOCK).map(|block| self.run(block)).collect::<Result<Vec<_>>>()?;
        let mut hidden = Array3::zeros((words.len(), Self::LONGEST, 2 * HIDDEN));
        let mut rest = hidden.view_mut();
        for pass in &passes {
            let block: Array3<f32> = pass.hidden.to_array()?;
            let (mut here, after) = rest.split_at(Axis(0), block.len_of(Axis(1)));
            here.assign(&batch_first(&block));
            rest = after;
        }
        let names = |tags: Vec<usize>| tags.iter().map(|&tag| self.vocabulary.tag(tag).to_owned()).collect();
        Ok(UzMorphTrace { hidden, tags: passes.into_iter().flat_map(|pass| pass.tags).map(names).collect() })
    }

    fn run(&self, words: &[String]) -> Result<UzMorphPass> {
        let letters: Vec<Vec<usize>> = words.iter().map(|word| self.vocabulary.letters(word)).collect();
        let rows = Rows::of_time(&letters, self.vocabulary.pad, Self::LONGEST);
        let (time, batch) = (rows.time, rows.batch());
        let mut recorder = self.device().recorder();
        let x = self.embedding.record(&mut recorder, &rows.symbols)?.reshape(&[time, batch, EMBEDDING])?;
        let mut state = self.gru.zero_state(batch)?;
        let hidden = self.gru.record(&mut recorder, &x, &mut state, &Sequence::new())?;
        let logits = self.head.record(&mut recorder, &hidden.reshape(&[time * batch, 2 * HIDDEN])?)?;
        let tags = ops::argmax_rows(&mut recorder, &logits)?;
        let tags = choices(recorder.submit_and_read(&tags)?)?;
        let word =
            |(row, &length): (usize, &usize)| tags.iter().skip(row).step_by(batch).take(length).copied().collect();
        Ok(UzMorphPass { hidden, tags: rows.lengths.iter().enumerate().map(word).collect() })
    }

    /// Reads tags as the package's `analyze` does. Letters with a root tag are the stem. A suffix starts with the tag
    /// `B-SUFF-<part>-<grammar>`; its part and grammar, if present, replace the part and grammar of the suffix before.
    fn read(&self, word: &str, tags: &[usize]) -> Morphology {
        let tags: Vec<String> = tags.iter().map(|&tag| self.vocabulary.tag(tag).to_owned()).collect();
        let mut morphology = Morphology { word: word.to_owned(), tags, ..Morphology::default() };
        for (letter, tag) in word.chars().zip(&morphology.tags) {
            if tag.contains("ROOT") {
                morphology.stem.push(letter);
            } else if tag.contains("B-SUFF") {
                let mut parts = tag.split('-').skip(2);
                if let Some(part) = parts.next() {
                    morphology.part_of_speech = Some(part.to_owned());
                }
                if let Some(grammar) = parts.next() {
                    morphology.features = grammar.split('|').map(str::to_owned).collect();
                }
            }
        }
        morphology
    }
}

/// The results for a block of B words.
struct UzMorphPass {
    /// The second layer's output, `[LONGEST, B, 2 HIDDEN]`.
    hidden: Tensor,
    tags: Vec<Vec<usize>>,
}

/// The results of the net for B words.
#[derive(Clone, Debug)]
pub struct UzMorphTrace {
    /// The second layer's output, forward direction first, `[B, 30, 128]`.
    pub hidden: Array3<f32>,
    /// A tag for each of the first [`UzMorph::LONGEST`] letters of every word.
    pub tags: Vec<Vec<String>>,
}

fn small(word: &impl AsRef<str>) -> String {
    word.as_ref().trim().to_lowercase()
}

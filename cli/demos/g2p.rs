//! English words to phonemes: the GRU encoder and decoder of g2p_en 2.1 (<https://github.com/Kyubyong/g2p>, `G2p.predict`).
//!
//! ```text
//! enc_emb     a vector per letter, then one for the end           [L + 1, 256]
//! encoder     GRU, 256 units; its last h begins the decoder
//! dec_emb     a vector for the phoneme before, at first <s>       [256]
//! decoder     GRU, 256 units
//! fc          the largest of 74 logits is the next phoneme; </s> ends the word
//! ```

use gatewise::cell::Sequence;
use gatewise::nn::{Embedding, Gru, Linear};
use gatewise::weights::Weights;
use gatewise::{Device, Result, Tensor, ops};
use ndarray::Array2;

use crate::symbols::{Rows, blocks, choices, stacked};

/// Width of the embeddings and of both GRUs.
const WIDTH: usize = 256;
/// Letters and the three symbols before them: `<pad>`, `<unk>`, `</s>`.
const GRAPHEMES: usize = 29;
const UNKNOWN_LETTER: usize = 1;
const END_OF_LETTERS: usize = 2;
const START: usize = 2;
const STOP: usize = 3;

/// Writes the phonemes of English words.
///
/// # Examples
/// ```
/// use gatewise::{Device, weights::Weights};
/// use gatewise_demos::G2p;
/// let weights = Weights::from_file("../models/g2p_en.safetensors")?;
/// let g2p = G2p::new(&Device::auto(), &weights)?;
/// let phonemes = g2p.phonemes(&["vulkan", "transformer"])?;
/// assert_eq!(phonemes[0].join(" "), "V AH1 L K AH0 N");
/// assert_eq!(phonemes[1].join(" "), "T R AE0 N S F AO1 R M ER0");
/// # Ok::<(), gatewise::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct G2p {
    letters: Embedding,
    encoder: Gru,
    phonemes: Embedding,
    decoder: Gru,
    head: Linear,
}

impl G2p {
    /// The most phonemes of a word.
    pub const LONGEST: usize = 20;
    /// The phonemes: ARPAbet with stress (0 none, 1 primary, 2 secondary), after four symbols of the decoder's own.
    #[rustfmt::skip]
    pub const PHONEMES: [&str; 74] = [
        "<pad>", "<unk>", "<s>", "</s>", "AA0", "AA1", "AA2", "AE0", "AE1", "AE2", "AH0", "AH1", "AH2", "AO0", "AO1", "AO2",
        "AW0", "AW1", "AW2", "AY0", "AY1", "AY2", "B", "CH", "D", "DH", "EH0", "EH1", "EH2", "ER0", "ER1", "ER2", "EY0", "EY1",
        "EY2", "F", "G", "HH", "IH0", "IH1", "IH2", "IY0", "IY1", "IY2", "JH", "K", "L", "M", "N", "NG", "OW0", "OW1", "OW2",
        "OY0", "OY1", "OY2", "P", "R", "S", "SH", "T", "TH", "UH0", "UH1", "UH2", "UW", "UW0", "UW1", "UW2", "V", "W", "Y", "Z",
        "ZH",
    ];

    /// Loads the net's weights onto a device: `enc_*`, `dec_*` and `fc_*` as in g2p_en's `checkpoint20.npz`.
    ///
    /// # Errors
    /// [`Error::Format`](gatewise::Error::Format) if a tensor is missing, has a shape other than this net's, or holds NaN or infinity;
    /// [`Error::Limit`](gatewise::Error::Limit) and [`Error::OutOfMemory`](gatewise::Error::OutOfMemory) if the device has no room.
    pub fn new(device: &Device, weights: &Weights) -> Result<Self> {
        weights.check_finite()?;
        let embedding = |name: &str, count: usize| Embedding::new(device, &weights.shaped(name, [count, WIDTH])?);
        let gru = |prefix: &str| {
            let config = Gru::config(WIDTH, WIDTH);
            let parameters = config.collect(|_, _, spec| {
                let name = spec.name.replace("weight_", "w_").replace("bias_", "b_");
                weights.shaped(&format!("{prefix}{name}"), spec.shape.as_slice())
            })?;
            config.build(device, parameters)
        };
        let phonemes = Self::PHONEMES.len();
        Ok(Self {
            letters: embedding("enc_emb", GRAPHEMES)?,
            encoder: gru("enc_")?,
            phonemes: embedding("dec_emb", phonemes)?,
            decoder: gru("dec_")?,
            head: Linear::new(
                device,
                &weights.shaped("fc_w", [phonemes, WIDTH])?,
                Some(&weights.shaped("fc_b", phonemes)?),
            )?,
        })
    }

    /// The device that holds the net.
    pub fn device(&self) -> &Device {
        self.encoder.device()
    }

    /// The phonemes of every word. Capital letters count as small letters; every character but a to z counts as unknown. A few thousand
    /// words are decoded at once, in one submission.
    ///
    /// # Errors
    /// [`Error::Limit`](gatewise::Error::Limit), [`Error::OutOfMemory`](gatewise::Error::OutOfMemory) or
    /// [`Error::DeviceLost`](gatewise::Error::DeviceLost).
    pub fn phonemes(&self, words: &[impl AsRef<str>]) -> Result<Vec<Vec<&'static str>>> {
        let mut phonemes = Vec::with_capacity(words.len());
        for block in blocks(&encoded(words)) {
            phonemes.extend(self.run(block)?.phonemes.into_iter().map(names));
        }
        Ok(phonemes)
    }

    /// Runs the net as [`G2p::phonemes`] does, and also returns the net's inner results, for comparisons.
    ///
    /// # Errors
    /// The same errors as [`G2p::phonemes`].
    pub fn trace(&self, words: &[impl AsRef<str>]) -> Result<G2pTrace> {
        let passes = blocks(&encoded(words)).into_iter().map(|block| self.run(block)).collect::<Result<Vec<_>>>()?;
        let hidden = stacked(self.device(), passes.iter().map(|pass| &pass.hidden), WIDTH)?;
        let first_logits = passes.iter().filter_map(|pass| pass.first_logits.as_ref());
        let first_logits = stacked(self.device(), first_logits, Self::PHONEMES.len())?;
        let phonemes = passes.into_iter().flat_map(|pass| pass.phonemes).map(names).collect();
        Ok(G2pTrace { phonemes, hidden, first_logits })
    }

    /// Encodes and decodes a block of words. A GPU runs all steps in one submission; the other devices stop after the longest word.
    fn run(&self, words: &[Vec<usize>]) -> Result<G2pPass> {
        let rows = Rows::new(words, 0);
        let (time, batch) = (rows.time, rows.batch());
        let device = self.device();
        let runs_at_once = !matches!(device, Device::Gpu(_));
        let mut recorder = device.recorder();

        let x = self.letters.record(&mut recorder, &rows.symbols)?.reshape(&[time, batch, WIDTH])?;
        let mut state = self.encoder.zero_state(batch)?;
        self.encoder.record(&mut recorder, &x, &mut state, &rows.sequence())?;
        let hidden = state.h_tensor(&mut recorder)?.reshape(&[batch, WIDTH])?;

        let mut x = self.phonemes.record(&mut recorder, &vec![START; batch])?;
        let mut first_logits = None;
        let mut steps = Vec::new();
        let mut speaking = vec![true; batch];
        while steps.len() < Self::LONGEST && speaking.contains(&true) {
            let x_t = x.reshape(&[1, batch, WIDTH])?;
            let h = self.decoder.record(&mut recorder, &x_t, &mut state, &Sequence::new())?;
            let logits = self.head.record(&mut recorder, &h.reshape(&[batch, WIDTH])?)?;
            let (choice, next) = self.phonemes.record_best(&mut recorder, &logits)?;
            if runs_at_once {
                let chosen = choices(choice.read_back()?)?;
                speaking.iter_mut().zip(chosen).for_each(|(speaking, phoneme)| *speaking &= phoneme != STOP);
            }
            first_logits.get_or_insert(logits);
            steps.push(choice);
            x = next;
        }
        let spoken = ops::concat(&mut recorder, &steps.iter().collect::<Vec<_>>(), 0)?;
        let spoken = choices(recorder.submit_and_read(&spoken)?)?;
        let word = |at: usize| spoken.iter().skip(at).step_by(batch).copied().take_while(|&phoneme| phoneme != STOP);
        Ok(G2pPass { hidden, first_logits, phonemes: (0..batch).map(|at| word(at).collect()).collect() })
    }
}

/// The results for a block of `B` words.
struct G2pPass {
    /// The encoder's last `h`, `[B, WIDTH]`.
    hidden: Tensor,
    /// The logits of every word's first phoneme, `[B, phonemes]`; `None` if there was no step.
    first_logits: Option<Tensor>,
    phonemes: Vec<Vec<usize>>,
}

/// The results of the net for `B` words.
#[derive(Clone, Debug)]
pub struct G2pTrace {
    /// The phonemes of every word.
    pub phonemes: Vec<Vec<&'static str>>,
    /// The encoder's last `h`, `[B, 256]`.
    pub hidden: Array2<f32>,
    /// The logits of every word's first phoneme, `[B, 74]`, in the order of [`G2p::PHONEMES`].
    pub first_logits: Array2<f32>,
}

/// The encoder's symbols for every word.
fn encoded(words: &[impl AsRef<str>]) -> Vec<Vec<usize>> {
    let letter = |letter: char| match letter.to_ascii_lowercase() {
        small @ 'a'..='z' => END_OF_LETTERS + 1 + (small as usize - 'a' as usize),
        _ => UNKNOWN_LETTER,
    };
    words.iter().map(|word| word.as_ref().chars().map(letter).chain([END_OF_LETTERS]).collect()).collect()
}

fn names(phonemes: Vec<usize>) -> Vec<&'static str> {
    phonemes.into_iter().filter_map(|phoneme| G2p::PHONEMES.get(phoneme).copied()).collect()
}

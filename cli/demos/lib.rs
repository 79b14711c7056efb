//! Models of the golden cases and the examples, built with gatewise's public layers: English letters to phonemes, Thai text to words,
//! Uzbek words to their morphology. Their weights come with the repository, in `models/`.

mod g2p;
mod symbols;
mod thai;
mod uzmorph;

pub use g2p::{G2p, G2pTrace};
pub use thai::{ThaiSegmenter, ThaiTrace};
pub use uzmorph::{Morphology, UzMorph, UzMorphTrace, UzVocabulary};

//! The random masks of training. They are hashes of a counter, not numbers of a generator with a state, so every path draws the
//! same elements in any order.

use crate::error::{Error, Result};

/// Dropout and zoneout of a training pass. [`Noise::default`] drops nothing.
///
/// A mask's element is a function of the seed, the step, the mask's name and the element's index. So a run can be
/// repeated and resumed, and the backward pass needs no stored mask.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Noise {
    /// The seed of the run: runs with different seeds have different masks.
    pub seed: u64,
    /// The number of the training step: every step has masks of its own.
    pub step: u32,
    /// Probability that an element of a layer's output is dropped on its way to the layer above. The other elements are scaled
    /// by `1 / (1 - p)` (`torch.nn.LSTM`'s `dropout`).
    pub dropout: f32,
    /// Probability that an element of `h` is dropped on its way into the recurrent products. One mask serves the whole
    /// sequence, and the other elements are scaled likewise (Gal & Ghahramani 2016; Keras' `recurrent_dropout`).
    pub recurrent_dropout: f32,
    /// Probability that a unit's `h` keeps its previous value in a step (Krueger et al. 2017).
    pub zoneout_h: f32,
    /// Probability that a unit's cell state keeps its previous value in a step. The new `h` is computed from the new cell state
    /// in either case.
    pub zoneout_s: f32,
}

impl Noise {
    /// No dropout and no zoneout.
    pub(crate) const NONE: Self =
        Self { seed: 0, step: 0, dropout: 0.0, recurrent_dropout: 0.0, zoneout_h: 0.0, zoneout_s: 0.0 };
}

/// The name of a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mask {
    /// The mask of a layer's output, `[T, B, width]`.
    Dropout {
        /// The layer.
        layer: usize,
    },
    /// The mask of `h` in the recurrent products, `[B, O]`.
    Recurrent {
        /// `layer * directions + direction`.
        row: usize,
    },
    /// The mask of the new `h`, `[T, B, O]`.
    ZoneoutH {
        /// `layer * directions + direction`.
        row: usize,
    },
    /// The mask of the new `s`, `[T, B, hidden]`.
    ZoneoutS {
        /// `layer * directions + direction`.
        row: usize,
    },
    /// The mask of an operation outside the recurrent stack.
    Other {
        /// The number of the operation.
        at: usize,
    },
}

impl Mask {
    fn stream(self) -> u32 {
        let (kind, at) = match self {
            Self::Dropout { layer } => (0, layer),
            Self::Recurrent { row } => (1, row),
            Self::ZoneoutH { row } => (2, row),
            Self::ZoneoutS { row } => (3, row),
            Self::Other { at } => (4, at),
        };
        // A stack has few layers: a number of more than 29 bits wraps around.
        (at as u32).wrapping_mul(8).wrapping_add(kind)
    }
}

/// One mask, whose elements are drawn by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draw {
    /// Identifies the mask.
    pub key: [u32; 4],
    /// An element is dropped if the upper 24 bits of its hash are below this.
    pub threshold: u32,
}

impl Draw {
    /// The mask of probability `p`, or `None` if nothing is ever dropped.
    pub fn new(seed: u64, step: u32, mask: Mask, p: f32) -> Option<Self> {
        let key = hash([seed as u32, (seed >> 32) as u32, step, mask.stream()]);
        let threshold = (f64::from(p) * f64::from(1_u32 << 24)) as u32;
        (threshold > 0).then_some(Self { key, threshold })
    }

    /// Whether an element stays. Masks count their elements in 32 bits and wrap around.
    #[expect(clippy::cast_possible_truncation, reason = "the index wraps around")]
    pub fn keeps(&self, index: usize) -> bool {
        let [a, b, c, d] = self.key;
        hash([a.wrapping_add(index as u32), b, c, d])[0] >> 8 >= self.threshold
    }

    /// `0` for a dropped element, `1 / (1 - p)` for one that stays: its expectation is 1.
    pub fn factor(&self, index: usize) -> f32 {
        if self.keeps(index) { self.scale() } else { 0.0 }
    }

    /// `1 / (1 - p)`
    pub fn scale(&self) -> f32 {
        let whole = (1_u32 << 24) as f32;
        whole / (whole - self.threshold as f32)
    }
}

impl Noise {
    /// The mask of this name, or `None` if nothing is dropped.
    pub fn draw(&self, mask: Mask) -> Option<Draw> {
        let p = match mask {
            Mask::Dropout { .. } | Mask::Other { .. } => self.dropout,
            Mask::Recurrent { .. } => self.recurrent_dropout,
            Mask::ZoneoutH { .. } => self.zoneout_h,
            Mask::ZoneoutS { .. } => self.zoneout_s,
        };
        Draw::new(self.seed, self.step, mask, p)
    }

    /// Seed, step and a row of a stack: a kernel derives the keys of its masks from these words.
    pub(crate) fn words(&self, row: usize) -> [u32; 4] {
        // A stack has few rows: a number of more than 32 bits wraps around.
        [self.seed as u32, (self.seed >> 32) as u32, self.step, row as u32]
    }

    /// Refuses probabilities outside `[0, 1)`.
    ///
    /// # Errors
    /// [`Error::Value`] that names the probability.
    pub fn check(&self) -> Result<()> {
        let Self { dropout, recurrent_dropout, zoneout_h, zoneout_s, .. } = *self;
        for (what, p) in [
            ("dropout", dropout),
            ("recurrent_dropout", recurrent_dropout),
            ("zoneout_h", zoneout_h),
            ("zoneout_s", zoneout_s),
        ] {
            if !(0.0..1.0).contains(&p) {
                return Err(Error::Value {
                    op: "noise",
                    what,
                    expected: "at least 0 and below 1",
                    found: p.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// Jarzynski and Olano's `pcg4d` ("Hash Functions for GPU Rendering", 2020): 32-bit arithmetic only, so a shader computes
/// the same bits.
fn hash(v: [u32; 4]) -> [u32; 4] {
    let [mut x, mut y, mut z, mut w] = v.map(|v| v.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let mut mix = |shift: u32| {
        x = x.wrapping_add(y.wrapping_mul(w));
        y = y.wrapping_add(z.wrapping_mul(x));
        z = z.wrapping_add(x.wrapping_mul(y));
        w = w.wrapping_add(y.wrapping_mul(z));
        if shift > 0 {
            [x, y, z, w] = [x, y, z, w].map(|v| v ^ (v >> shift));
        }
    };
    mix(16);
    mix(0);
    [x, y, z, w]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_keeps_its_bits() {
        // Computed from the definition in another language.
        assert_eq!(hash([0, 0, 0, 0]), HASH_OF_ZEROS);
        assert_eq!(hash([1, 2, 3, 4]), HASH_OF_1234);
    }

    const HASH_OF_ZEROS: [u32; 4] = [251_852_841, 760_645_481, 850_445_371, 3_542_436_074];
    const HASH_OF_1234: [u32; 4] = [908_250_390, 4_044_648_920, 3_775_961_919, 45_698_095];

    #[test]
    fn masks_have_their_mean_and_differ_from_one_another() {
        const COUNT: usize = 40_000;
        let noise = Noise { seed: 7, step: 3, dropout: 0.3, zoneout_h: 0.3, ..Default::default() };
        let of = |noise: Noise, mask| -> Vec<bool> {
            let draw = noise.draw(mask).expect("a probability above 0");
            (0..COUNT).map(|at| draw.keeps(at)).collect()
        };
        let masks = [
            of(noise, Mask::Dropout { layer: 0 }),
            of(noise, Mask::Dropout { layer: 1 }),
            of(noise, Mask::ZoneoutH { row: 0 }),
            of(Noise { step: 4, ..noise }, Mask::Dropout { layer: 0 }),
            of(Noise { seed: 8, ..noise }, Mask::Dropout { layer: 0 }),
            of(Noise { seed: 7 + (1 << 32), ..noise }, Mask::Dropout { layer: 0 }),
        ];
        // Five standard deviations of a mean of `COUNT` elements.
        let close = |share: f64, p: f64| (share - p).abs() < 5.0 * (p * (1.0 - p) / COUNT as f64).sqrt();
        let share = |count: usize| count as f64 / COUNT as f64;
        for (at, mask) in masks.iter().enumerate() {
            assert!(close(share(mask.iter().filter(|&&kept| kept).count()), 0.7), "mask {at}");
            let neighbours = mask.windows(2).filter(|pair| pair[0] && pair[1]).count();
            assert!(close(share(neighbours), 0.49), "neighbours of mask {at}");
            for (with, other) in masks.iter().enumerate().filter(|(with, _)| *with != at) {
                let both = mask.iter().zip(other).filter(|(a, b)| **a && **b).count();
                assert!(close(share(both), 0.49), "masks {at} and {with}");
            }
        }
        let draw = noise.draw(Mask::Dropout { layer: 0 }).expect("a probability above 0");
        let mean = (0..COUNT).map(|at| f64::from(draw.factor(at))).sum::<f64>() / COUNT as f64;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert_eq!(noise.draw(Mask::Recurrent { row: 0 }), None);
    }

    #[test]
    fn a_probability_of_one_or_nan_is_refused() {
        for p in [1.0, -0.1, f32::NAN] {
            let noise = Noise { zoneout_s: p, ..Default::default() };
            assert!(noise.check().is_err_and(|e| e.to_string().contains("zoneout_s")));
        }
    }
}

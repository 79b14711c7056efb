//! NaN and infinities among weights.

use std::fmt;

use crate::text::shown;

/// An array with a NaN or an infinity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFinite {
    /// The array's name, or what holds it.
    pub tensor: String,
    /// How many NaNs.
    pub nan: usize,
    /// How many infinities.
    pub infinite: usize,
    /// Flat index of the first of them.
    pub first: usize,
}

impl NonFinite {
    /// NaN and infinities among some elements; `None` where there are none.
    pub(crate) fn among<'a>(tensor: &str, elements: impl Iterator<Item = &'a f32>) -> Option<Self> {
        let mut found: Option<Self> = None;
        for (at, x) in elements.enumerate().filter(|(_, x)| !x.is_finite()) {
            let found = found.get_or_insert_with(|| Self { tensor: tensor.to_owned(), nan: 0, infinite: 0, first: at });
            if x.is_nan() {
                found.nan += 1;
            } else {
                found.infinite += 1;
            }
        }
        found
    }
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tensor, nan, infinite, first } = self;
        write!(f, "{}: {nan} NaN, {infinite} infinite, first at {first}", shown(tensor))
    }
}

//! NaN and infinities among weights.

use std::fmt;

use crate::text::shown;

/// An array with a NaN or an infinity (see [`Weights::check`](super::Weights::check)).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NonFinite {
    /// The name of the array, or of the node that holds it.
    pub tensor: String,
    /// The number of NaNs.
    pub nan: usize,
    /// The number of infinities.
    pub infinite: usize,
    /// The flat index of the first such element.
    pub first: usize,
}

impl NonFinite {
    /// Counts NaN and infinities among elements; `None` if all are finite.
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

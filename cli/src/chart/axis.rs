//! The horizontal axis of a picture: it counts epochs or steps, which have no fractions.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;

/// An axis with labels at whole numbers only.
pub(super) struct WholeAxis(RangedCoordf64);

impl From<Range<f64>> for WholeAxis {
    fn from(range: Range<f64>) -> Self {
        Self(range.into())
    }
}

impl Ranged for WholeAxis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.0.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        whole_ticks(&self.range())
    }

    fn range(&self) -> Range<f64> {
        self.0.range()
    }
}

/// The largest number of labels on the horizontal axis.
pub(super) const TICKS: usize = 10;

/// Whole numbers inside a range, spaced evenly by 1, 2 or 5 times a power of ten. Epochs and time steps have no fractions.
fn whole_ticks(range: &Range<f64>) -> Vec<f64> {
    let spacings = (0..18).flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10.0_f64.powi(exponent)));
    let most = TICKS as f64;
    let spacing = spacings.into_iter().find(|spacing| (range.end - range.start) / spacing < most).unwrap_or(1e18);
    let ticks = std::iter::successors(Some((range.start / spacing).ceil() * spacing), |tick| Some(tick + spacing));
    ticks.take_while(|&tick| tick <= range.end).take(TICKS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_whole_numbers() {
        assert_eq!(whole_ticks(&(0.94..3.06)), [1.0, 2.0, 3.0]);
        assert_eq!(whole_ticks(&(0.5..1.5)), [1.0]);
        assert_eq!(whole_ticks(&(-1.77..61.77)), [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0]);
        assert!(whole_ticks(&(0.0..1e12)).len() <= TICKS);
        assert!(whole_ticks(&(0.2..0.3)).is_empty());
    }
}

//! Reduces a long series of values to the columns of a picture.

use super::COLUMNS;

/// At most [`COLUMNS`] groups of neighbouring values, collected while the values arrive.
#[derive(Debug, Clone)]
pub(crate) struct Columns {
    /// The number of values in all groups.
    total: usize,
    /// The number of values in each group but the last.
    size: usize,
    groups: Vec<Group>,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    count: usize,
    low: f32,
    high: f32,
    sum: f64,
}

/// The least value, the greatest value and the mean of a group of neighbouring values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Column {
    /// Seconds, at the middle of the group.
    pub(super) time: f64,
    pub(super) low: f32,
    pub(super) high: f32,
    pub(super) mean: f64,
}

impl Columns {
    /// Columns for `total` values, which [`Columns::push`] adds.
    pub(crate) fn new(total: usize) -> Self {
        Self { total, size: total.div_ceil(COLUMNS as usize).max(1), groups: Vec::new() }
    }

    pub(super) fn of(values: &[f32]) -> Self {
        let mut columns = Self::new(values.len());
        columns.push(values);
        columns
    }

    /// Adds the next values.
    pub(crate) fn push(&mut self, values: &[f32]) {
        for &value in values {
            match self.groups.last_mut().filter(|group| group.count < self.size) {
                Some(group) => group.push(value),
                None => self.groups.push(Group { count: 1, low: value, high: value, sum: value.into() }),
            }
        }
    }

    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// The largest magnitude.
    pub(super) fn peak(&self) -> f64 {
        let largest = |group: &Group| f64::from(group.low.abs()).max(f64::from(group.high.abs()));
        self.groups.iter().map(largest).fold(0.0, f64::max)
    }

    /// The columns of values that are `step` seconds apart, extended to the first and the last instant.
    pub(super) fn drawn(&self, step: f64, seconds: f64) -> Vec<Column> {
        let column = |(index, group): (usize, &Group)| Column {
            // The middle of the last group may lie past the end, because the last frame is padded.
            time: ((index as f64 + 0.5) * self.size as f64 * step).min(seconds),
            low: group.low,
            high: group.high,
            mean: group.sum / group.count as f64,
        };
        let mut columns: Vec<_> = self.groups.iter().enumerate().map(column).collect();
        if let (Some(&first), Some(&last)) = (columns.first(), columns.last()) {
            columns.insert(0, Column { time: 0.0, ..first });
            columns.push(Column { time: seconds, ..last });
        }
        columns
    }
}

impl Group {
    fn push(&mut self, value: f32) {
        self.count += 1;
        self.low = self.low.min(value);
        self.high = self.high.max(value);
        self.sum += f64::from(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_keeps_its_extremes() {
        let mut samples = vec![0.0; 160_000];
        samples[80_000] = 1.0;
        samples[80_001] = -0.5;
        let columns = Columns::of(&samples).drawn(1.0 / 16_000.0, 10.0);
        assert!(columns.len() <= COLUMNS as usize + 2);
        let spike: Vec<_> = columns.iter().filter(|column| column.high > column.low).collect();
        assert!(
            matches!(spike[..], [Column { low: -0.5, high: 1.0, time, .. }] if (time - 5.0).abs() < 0.01),
            "{spike:?}"
        );
    }

    #[test]
    fn values_in_pieces_make_the_columns_of_the_whole() {
        let values: Vec<f32> = (0..10_000).map(|i| (i as f32).sin()).collect();
        let mut pieces = Columns::new(values.len());
        values.chunks(777).for_each(|piece| pieces.push(piece));
        let whole = Columns::of(&values);
        assert_eq!(pieces.drawn(1e-3, 10.0), whole.drawn(1e-3, 10.0));
        assert_eq!((pieces.peak(), pieces.total()), (whole.peak(), 10_000));
    }
}

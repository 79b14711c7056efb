//! Texts as rows of symbols.

use gatewise::cell::Sequence;
use gatewise::{Device, ReadBack, Result, Tensor};
use ndarray::{Array2, Axis, concatenate};

/// The most symbols per submission, padding included, unless one text alone has more. This bounds the memory for a long list.
const BLOCK: usize = 1 << 15;

/// The symbols of several sequences, time-major, with padding after short sequences.
pub(crate) struct Rows {
    /// The number of steps `T`.
    pub(crate) time: usize,
    /// The length of every row without padding, `[B]`.
    pub(crate) lengths: Vec<usize>,
    /// The symbols, `[T, B]`.
    pub(crate) symbols: Vec<usize>,
}

impl Rows {
    /// Pads every sequence with `fill` to the length of the longest sequence.
    pub(crate) fn new(sequences: &[Vec<usize>], fill: usize) -> Self {
        Self::of_time(sequences, fill, sequences.iter().map(Vec::len).max().unwrap_or(0))
    }

    /// Pads every sequence with `fill` to `time` symbols.
    pub(crate) fn of_time(sequences: &[Vec<usize>], fill: usize, time: usize) -> Self {
        let lengths = sequences.iter().map(Vec::len).collect();
        let at = |t: usize| sequences.iter().map(move |symbols| symbols.get(t).copied().unwrap_or(fill));
        Self { time, symbols: (0..time).flat_map(at).collect(), lengths }
    }

    /// The number of rows `B`.
    pub(crate) fn batch(&self) -> usize {
        self.lengths.len()
    }

    /// The lengths of the rows, for layers that must skip the padding.
    pub(crate) fn sequence(&self) -> Sequence {
        Sequence::new().lengths(self.lengths.iter().copied())
    }
}

/// Divides a list of sequences, in order, into one block per submission. A sequence is never divided.
pub(crate) fn blocks(sequences: &[Vec<usize>]) -> Vec<&[Vec<usize>]> {
    let mut blocks = Vec::new();
    let (mut first, mut longest) = (0, 0);
    for (at, symbols) in sequences.iter().enumerate() {
        let padded = longest.max(symbols.len());
        if at > first && padded * (at + 1 - first) > BLOCK {
            blocks.push(&sequences[first..at]);
            (first, longest) = (at, symbols.len());
        } else {
            longest = padded;
        }
    }
    if first < sequences.len() {
        blocks.push(&sequences[first..]);
    }
    blocks
}

/// Waits for the columns that [`ops::argmax_rows`](gatewise::ops::argmax_rows) has chosen.
pub(crate) fn choices(read: ReadBack) -> Result<Vec<usize>> {
    Ok(read.wait()?.into_iter().map(|choice| choice as usize).collect())
}

/// Reads back matrices of one width in one submission, and stacks their rows.
pub(crate) fn stacked<'a>(
    device: &Device,
    matrices: impl Iterator<Item = &'a Tensor>,
    width: usize,
) -> Result<Array2<f32>> {
    let reads = device.recorder().submit_and_read_all(&matrices.collect::<Vec<_>>())?;
    let matrices = reads.into_iter().map(ReadBack::wait_array).collect::<Result<Vec<Array2<f32>>>>()?;
    let views: Vec<_> = matrices.iter().map(|matrix| matrix.view()).collect();
    Ok(concatenate(Axis(0), &views).unwrap_or_else(|_| Array2::zeros((0, width))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_lie_time_major() {
        let rows = Rows::new(&[vec![1, 2, 3], vec![4], vec![]], 9);
        assert_eq!((rows.time, rows.batch()), (3, 3));
        assert_eq!(rows.symbols, [1, 4, 9, 2, 9, 9, 3, 9, 9]);
        assert_eq!(rows.lengths, [3, 1, 0]);
    }

    #[test]
    fn blocks_hold_everything_in_order_and_stay_small() {
        let sequences: Vec<Vec<usize>> = [3, 7000, 5, 9000, 9000, 40_000, 1, 1].map(|length| vec![0; length]).into();
        let cut: Vec<Vec<usize>> =
            blocks(&sequences).iter().map(|block| block.iter().map(Vec::len).collect()).collect();
        assert_eq!(cut, [vec![3, 7000, 5], vec![9000, 9000], vec![40_000], vec![1, 1]]);
        assert!(blocks(&[]).is_empty());
    }
}

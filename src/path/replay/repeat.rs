//! Copies that repeat the elements of a tensor, as broadcasting does.

use std::ops::Range;

/// Element `i` of the result is element `(i / inner) % period` of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeat {
    pub(crate) inner: usize,
    pub(crate) period: usize,
}

impl Repeat {
    /// The repetition that broadcasts `from` to `to`; `None` if repeated axes lie between others.
    pub(crate) fn of(from: &[usize], to: &[usize]) -> Option<Self> {
        let added = to.len().checked_sub(from.len())?;
        if to.contains(&0) {
            return None;
        }
        let (mut inner, mut period, mut repeated_above) = (1_usize, 1_usize, false);
        for (axis, &extent) in to.iter().enumerate().rev() {
            let own = axis.checked_sub(added).map_or(1, |axis| from[axis]);
            match (own, extent) {
                (_, 1) => {}
                (1, extent) if period == 1 => inner *= extent,
                (1, _) => repeated_above = true,
                _ if repeated_above => return None,
                (own, _) => period *= own,
            }
        }
        Some(Self { inner, period })
    }

    /// Writes the elements of `range` to `y`, which has as many.
    pub(super) fn write(self, x: &[f32], range: Range<usize>, y: &mut [f32]) {
        let Self { inner, period } = self;
        if period == 1 {
            y.fill(x.first().copied().unwrap_or_default());
            return;
        }
        let mut at = range.start;
        let mut rest = y;
        while !rest.is_empty() {
            let source = at / inner % period;
            // Elements until the input's next element, or until the input is over.
            let count = if inner == 1 { period - source } else { inner - at % inner };
            let (now, later) = rest.split_at_mut(count.min(rest.len()));
            if inner == 1 {
                now.copy_from_slice(&x[source..source + now.len()]);
            } else {
                now.fill(x[source]);
            }
            at += now.len();
            rest = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{ArrayD, Dimension, IxDyn};

    use super::*;

    #[test]
    fn every_part_equals_the_broadcast_array() {
        let shapes: [(&[usize], &[usize]); 9] = [
            (&[1], &[7]),
            (&[], &[2, 3]),
            (&[3], &[4, 3]),
            (&[4, 1], &[4, 3]),
            (&[5, 1], &[2, 5, 3]),
            (&[1, 5, 1], &[2, 5, 3]),
            (&[2, 1, 1], &[2, 5, 3]),
            (&[5, 3], &[2, 5, 3]),
            (&[2, 3], &[2, 3]),
        ];
        for (from, to) in shapes {
            let x =
                ArrayD::from_shape_fn(IxDyn(from), |at| at.slice().iter().fold(1.0_f32, |n, &i| 7.0 * n + i as f32));
            let expected: Vec<f32> = x.broadcast(to).expect("broadcasts").iter().copied().collect();
            let repeat = Repeat::of(from, to).expect("a repetition");
            let x: Vec<f32> = x.into_iter().collect();
            for start in 0..expected.len() {
                for end in start..=expected.len() {
                    let mut y = vec![f32::NAN; end - start];
                    repeat.write(&x, start..end, &mut y);
                    assert_eq!(y, expected[start..end], "{from:?} to {to:?}");
                }
            }
        }
        assert_eq!(Repeat::of(&[2, 1, 3], &[2, 5, 3]), None);
    }
}

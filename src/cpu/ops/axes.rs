//! Axes of an array, merged where its operands allow it.

/// More axes of two elements than an array in memory can have.
const MOST_AXES: usize = 48;

/// The axes that `N` operands walk in common, outermost last. An axis of extent 1 is dropped, and two axes along which
/// every operand walks as along one are merged.
pub(super) struct CommonAxes<const N: usize> {
    extents: [usize; MOST_AXES],
    strides: [[isize; N]; MOST_AXES],
    count: usize,
    empty: bool,
}

/// One of the axes: its extent, and the stride of every operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommonAxis<const N: usize> {
    pub(super) extent: usize,
    pub(super) strides: [isize; N],
}

impl<const N: usize> CommonAxes<N> {
    pub(super) fn new() -> Self {
        Self { extents: [1; MOST_AXES], strides: [[0; N]; MOST_AXES], count: 0, empty: false }
    }

    /// Adds the axis around those that were added before.
    pub(super) fn add(&mut self, extent: usize, strides: [isize; N]) {
        self.empty |= extent == 0;
        if extent == 1 || self.empty {
            return;
        }
        if let Some(last) = self.count.checked_sub(1) {
            let span = self.extents[last] as isize;
            let inner = self.strides[last];
            if strides.iter().zip(inner).all(|(&outer, inner)| outer == inner.wrapping_mul(span)) {
                // It overflows only if another axis has no elements.
                self.extents[last] = self.extents[last].saturating_mul(extent);
                return;
            }
        }
        debug_assert!(self.count < MOST_AXES, "more elements than memory can hold");
        if self.count < MOST_AXES {
            (self.extents[self.count], self.strides[self.count]) = (extent, strides);
            self.count += 1;
        }
    }

    /// Takes the innermost axis out; an axis of one element if there is none, and of none if there are no elements.
    pub(super) fn take_inner(&mut self) -> CommonAxis<N> {
        self.take(0)
    }

    /// Takes out the innermost axis for which `wanted` holds.
    pub(super) fn take_where(&mut self, wanted: impl Fn(&[isize; N]) -> bool) -> Option<CommonAxis<N>> {
        let at = self.strides[..self.count].iter().position(wanted)?;
        Some(self.take(at))
    }

    fn take(&mut self, at: usize) -> CommonAxis<N> {
        if at >= self.count {
            return CommonAxis { extent: usize::from(!self.empty), strides: [0; N] };
        }
        let taken = CommonAxis { extent: self.extents[at], strides: self.strides[at] };
        self.extents.copy_within(at + 1..self.count, at);
        self.strides.copy_within(at + 1..self.count, at);
        self.count -= 1;
        taken
    }

    /// Calls `visit` with the operands' positions for every index of the axes, the innermost fastest.
    pub(super) fn each(&self, start: [isize; N], mut visit: impl FnMut([isize; N])) {
        if self.empty {
            return;
        }
        let (mut index, mut at) = ([0_usize; MOST_AXES], start);
        loop {
            visit(at);
            let mut axis = 0;
            loop {
                if axis == self.count {
                    return;
                }
                index[axis] += 1;
                let back = if index[axis] < self.extents[axis] { 1 } else { 1 - self.extents[axis] as isize };
                for (at, stride) in at.iter_mut().zip(self.strides[axis]) {
                    *at += back * stride;
                }
                if back == 1 {
                    break;
                }
                index[axis] = 0;
                axis += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(axes: &[(usize, [isize; 2])]) -> Vec<[isize; 2]> {
        let mut common = CommonAxes::new();
        axes.iter().for_each(|&(extent, strides)| common.add(extent, strides));
        let inner = common.take_inner();
        let mut found = Vec::new();
        common.each([0, 0], |at| {
            for step in 0..inner.extent as isize {
                found.push([at[0] + step * inner.strides[0], at[1] + step * inner.strides[1]]);
            }
        });
        found
    }

    #[test]
    fn axes_that_all_operands_walk_as_one_are_merged() {
        let mut common = CommonAxes::new();
        for (extent, strides) in [(4, [1, 0]), (3, [4, 0]), (1, [9, 9]), (2, [12, 1])] {
            common.add(extent, strides);
        }
        assert_eq!(common.take_inner(), CommonAxis { extent: 12, strides: [1, 0] });
        assert_eq!(common.take_inner(), CommonAxis { extent: 2, strides: [12, 1] });
        assert_eq!(common.take_inner(), CommonAxis { extent: 1, strides: [0, 0] });
    }

    #[test]
    fn every_index_is_visited_once_and_in_order() {
        let axes = [(3, [1, 2]), (2, [-3, 6]), (2, [100, -50])];
        let expected: Vec<[isize; 2]> = (0..12)
            .map(|at: isize| {
                let (i, j, k) = (at % 3, at / 3 % 2, at / 6);
                [i - 3 * j + 100 * k, 2 * i + 6 * j - 50 * k]
            })
            .collect();
        assert_eq!(positions(&axes), expected);
        assert_eq!(positions(&[]), [[0, 0]]);
        assert_eq!(positions(&[(3, [1, 1]), (0, [3, 3]), (2, [0, 0])]), [[0_isize; 2]; 0]);
    }
}

//! Two directions' outputs as one, and each direction's share of the gradient by it.

use super::{RunTape, TrainingStack};
use crate::cpu::buffer_cache::CachedBuffer;
use crate::error::Result;
use crate::op::Binary;

impl TrainingStack {
    /// Both directions' outputs as one.
    pub(super) fn merged(&self, forward: &[f32], reverse: &[f32]) -> Result<CachedBuffer> {
        let pairs = forward.iter().zip(reverse);
        if let Some(op) = self.merge {
            let mut y = self.device.buffers().take(forward.len())?;
            y.iter_mut().zip(pairs).for_each(|(y, (&a, &b))| *y = op.apply(a, b));
            return Ok(y);
        }
        let mut y = self.device.buffers().take(2 * forward.len())?;
        let rows = forward.chunks_exact(self.out).zip(reverse.chunks_exact(self.out));
        for (y, (a, b)) in y.chunks_exact_mut(2 * self.out).zip(rows) {
            y[..self.out].copy_from_slice(a);
            y[self.out..].copy_from_slice(b);
        }
        Ok(y)
    }

    /// One direction's share of `count` rows' gradient by the output, where arithmetic merges it with the `other` one's.
    pub(super) fn unmerged(
        &self,
        dy: &OutputGradient<'_>,
        count: usize,
        other: Option<&RunTape>,
    ) -> Result<Option<CachedBuffer>> {
        let factor = match (self.merge, other.and_then(|other| other.y.as_ref())) {
            (Some(Binary::Mul), Some(y)) => Some(y),
            (Some(Binary::Mean), _) => None,
            _ => return Ok(None),
        };
        let time = dy.numbers.len() / (dy.batch * dy.stride).max(1);
        let mut own = self.device.buffers().take(time * count * self.out)?;
        for (row, own) in own.chunks_exact_mut(self.out).enumerate() {
            let pairs = own.iter_mut().zip(dy.row(row / count, row % count, self.out));
            match factor {
                Some(y) => pairs.zip(&y[row * self.out..]).for_each(|((own, dy), y)| *own = dy * y),
                None => pairs.for_each(|(own, dy)| *own = dy / 2.0),
            }
        }
        Ok(Some(own))
    }
}

/// Some rows' gradient by a layer's output, or a direction's columns of it.
pub(super) struct OutputGradient<'a> {
    pub(super) numbers: &'a [f32],
    /// Rows of a step, and the first that is meant.
    pub(super) batch: usize,
    pub(super) first: usize,
    /// Numbers of a row, and the first that is meant.
    pub(super) stride: usize,
    pub(super) offset: usize,
}

impl<'a> OutputGradient<'a> {
    pub(super) fn row(&self, step: usize, row: usize, width: usize) -> &'a [f32] {
        &self.numbers[(step * self.batch + self.first + row) * self.stride + self.offset..][..width]
    }
}

//! The merge of two directions' outputs, forward and backward.

use super::TrainingStack;
use super::shard::ShardTape;
use crate::cpu::buffer_cache::CachedBuffer;
use crate::error::Result;
use crate::op::Binary;

impl TrainingStack {
    /// Merges two directions' outputs into one.
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

    /// One direction's share of the gradient with respect to the merged output of `count` rows per step, from the `other`
    /// direction's tape. `None` if the share is the whole gradient or some columns of it.
    pub(super) fn unmerged(
        &self,
        dy: &OutputGradient<'_>,
        count: usize,
        other: Option<&ShardTape>,
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

/// Gradient with respect to a layer's output, or to one direction's columns of it, of some rows of every step.
pub(super) struct OutputGradient<'a> {
    pub(super) numbers: &'a [f32],
    /// Rows per step in `numbers`.
    pub(super) batch: usize,
    /// The gradient's first row within a step.
    pub(super) first: usize,
    /// Numbers per row.
    pub(super) stride: usize,
    /// The gradient's first number within a row.
    pub(super) offset: usize,
}

impl<'a> OutputGradient<'a> {
    pub(super) fn row(&self, step: usize, row: usize, width: usize) -> &'a [f32] {
        &self.numbers[(step * self.batch + self.first + row) * self.stride + self.offset..][..width]
    }
}
